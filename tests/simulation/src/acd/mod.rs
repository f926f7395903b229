//! Queues and agents with their callers and humans.
//!
//! What is promised here, and checked:
//! - a call is rung or connected at one agent at most, an agent has one call at most (by the agents' journals, and by
//!   what the calls do);
//! - a commit takes the first call by committed place, except calls that spare that agent; hence with equal priorities
//!   and no offer that came to nothing, order of service is order of arrival;
//! - no call is lost: each stay in a queue ends exactly once, as the call itself saw it;
//! - nobody is stuck: once faults stop and humans are diligent, everything has come to an end within [`SETTLES_WITHIN`];
//! - counters are folds of the journals and equal what has happened;
//! - replaying a journal gives the state of the machine that wrote it.

mod caller;
pub(crate) mod check;
mod host;
pub(crate) mod human;
mod world;

use std::time::Duration;

pub use trunkline_acd_core::Mutations;

use crate::runner::{Family, Tally};

/// How long after the last fault everything has come to an end at the latest: the longest chain of bounds (an agent that
/// was believed available for 60 s, a ring time-out, a connection given up, wrap-up, an avoidance) for every call that
/// is left.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(900);

/// How rough a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is lost, nobody crashes; humans accept, hang up and go for a break.
    Calm,
    /// Loss, duplication, reordering and long delays.
    Lossy,
    /// Besides, nodes pause and crash and shards move.
    Stormy,
    /// As stormy, but messages live long and come twice, commits are slow, and agents crash and are back in no time: the
    /// schedules in which what a crash forgot meets what the network kept.
    Haunted,
}

/// One schedule.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Everything follows from it.
    pub seed: u64,
    /// How rough it is.
    pub weather: Weather,
    /// Rules of the protocol to leave out.
    pub mutations: Mutations,
    /// Print each step.
    pub trace: bool,
}

impl Schedule {
    /// The schedule of a seed: one in ten is calm, two are lossy, four are stormy, three are haunted.
    pub fn of(seed: u64) -> Self {
        let weather = match seed % 10 {
            0 => Weather::Calm,
            1..=2 => Weather::Lossy,
            3..=5 => Weather::Haunted,
            _ => Weather::Stormy,
        };
        Self { seed, weather, mutations: Mutations::default(), trace: false }
    }

    /// Runs it.
    pub fn run(self) -> Report {
        world::World::new(self).run()
    }
}

/// What a schedule gave.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Broken promises; empty is good.
    pub violations: Vec<String>,
    /// Messages sent.
    pub messages: u64,
    /// Offers committed.
    pub offers: u64,
    /// Conversations.
    pub conversations: u64,
    /// Crashes and takeovers.
    pub crashes: u64,
}

/// Schedules of reservations, with rules left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acd(pub Mutations);

impl Family for Acd {
    type Report = Report;
    const NAME: &'static str = "acd";

    fn run(&self, seed: u64, trace: bool) -> Report {
        Schedule { trace, mutations: self.0, ..Schedule::of(seed) }.run()
    }
}

impl Tally for Report {
    fn violations(&self) -> &[String] {
        &self.violations
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.offers += other.offers;
        self.conversations += other.conversations;
        self.crashes += other.crashes;
    }
}
