//! When calls come and how long people take: schedules without drift, and distributions.

mod dist;
mod schedule;
mod span;

pub use dist::Dist;
pub use schedule::{Arrivals, Phase, Schedule};
pub use span::Span;
