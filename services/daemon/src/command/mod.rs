//! What the command line asks of a running cluster, and of what it stands on.

pub mod bundle;
pub mod call;
pub mod cluster;
pub mod config;
pub mod doctor;
pub mod documents;
pub mod drain;
mod http;
mod reach;
pub mod restore;
pub mod runbook;
mod table;
pub mod telephones;
