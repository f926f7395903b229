//! An actor as the host has it: appends are pipelined, effects wait for the commits before them.

use std::collections::VecDeque;

use trunkline_types::{Output, Timestamp};

use super::core::{Core, Deed, Fact, Work};

pub(super) struct Actor {
    pub(super) core: Core,
    /// At which it acts, for its whole life.
    pub(super) epoch: u64,
    /// Tells it from others of the same entity.
    pub(super) generation: u64,
    /// Events so far, those under way included.
    count: usize,
    waiting: VecDeque<(u64, Deed)>,
    sent: u64,
    committed: u64,
    barrier: u64,
    /// When the last append under way reaches the journal: they do not overtake each other.
    pub(super) last_arrival: Timestamp,
    pub(super) wake_at: Option<Timestamp>,
}

/// What it wants written.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) after: usize,
    pub(super) facts: Vec<Fact>,
    pub(super) last: bool,
}

pub(super) struct Step {
    pub(super) deeds: Vec<Deed>,
    pub(super) append: Option<Append>,
}

impl Actor {
    pub(super) fn new(core: Core, epoch: u64, generation: u64, count: usize, now: Timestamp) -> Self {
        Self {
            core,
            epoch,
            generation,
            count,
            waiting: VecDeque::new(),
            sent: 0,
            committed: 0,
            barrier: 0,
            last_arrival: now,
            wake_at: None,
        }
    }

    /// `hasty`: effects do not wait for the events before them.
    pub(super) fn step(&mut self, now: Timestamp, work: Work, hasty: bool) -> Step {
        let mut facts = Vec::new();
        for output in self.core.work(now, work) {
            match output {
                Output::Event(fact) => {
                    if fact.commits_first() && !hasty {
                        self.barrier = self.sent + 1;
                    }
                    facts.push(fact);
                }
                Output::Effect(deed) => self.waiting.push_back((self.barrier, deed)),
            }
        }
        let append = (!facts.is_empty()).then(|| {
            let after = self.count;
            self.count += facts.len();
            self.sent += 1;
            Append { after, facts, last: self.core.finished() }
        });
        Step { deeds: self.release(), append }
    }

    fn release(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        while self.waiting.front().is_some_and(|(barrier, _)| *barrier <= self.committed) {
            deeds.extend(self.waiting.pop_front().map(|(_, deed)| deed));
        }
        deeds
    }

    /// The oldest append is committed.
    pub(super) fn committed(&mut self) -> Vec<Deed> {
        self.committed += 1;
        self.release()
    }

    /// Nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.committed == self.sent && self.waiting.is_empty()
    }
}
