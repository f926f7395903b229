//! What a run is counted by.

use std::collections::BTreeMap;

/// Counts of a run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Calls that were due.
    pub due: u64,
    /// Calls that were not started, because too many were under way.
    pub not_started: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that were refused, by status; 0 = no answer.
    pub refused: BTreeMap<u16, u64>,
    /// Callers who gave up waiting.
    pub gave_up: u64,
    /// Calls that are over.
    pub over: u64,
    /// Calls that an agent got.
    pub served: u64,
    /// Times that an agent passed a call on to another queue and another agent got it.
    pub passed_on: u64,
    /// Callers who were with two agents at once.
    pub twice: u64,
    /// Callers who were overtaken in their queue.
    pub overtaken: u64,
    /// Conversations, longer than 2 s, in which one side did not hear the other.
    pub one_way: u64,
    /// Conversations in which both could be asked.
    pub two_sided: u64,
    /// Repeated requests of callers.
    pub repeats: u64,
    /// RTP packets that came.
    pub packets: u64,
    /// RTP packets that never came.
    pub packets_lost: u64,
    /// Longest time without a packet for a caller, ms.
    pub gap_ms: f64,
    /// What agents wanted and did not get, by command and error.
    pub agents_refused: BTreeMap<String, u64>,
    /// Connections that agents lost, by what they were told.
    pub agents_lost: BTreeMap<String, u64>,
    /// Sessions that went on after that.
    pub agents_resumed: u64,
}

impl Counts {
    /// Calls that were refused or lost.
    pub fn refused_all(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Share of the calls that failed or were never started.
    pub fn failed(&self) -> f64 {
        let tried = (self.over + self.not_started).max(1);
        (self.refused_all() + self.not_started) as f64 / tried as f64
    }

    /// Share of the packets that never came.
    pub fn lost_share(&self) -> f64 {
        self.packets_lost as f64 / (self.packets + self.packets_lost).max(1) as f64
    }
}
