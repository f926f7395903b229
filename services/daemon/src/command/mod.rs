//! What the command line asks of a running cluster.

pub mod cluster;
pub mod config;
pub mod drain;
mod reach;
mod table;
