//! Our 2xx to INVITEs, repeated until their ACK (RFC 3261 section 13.3.1.4), whatever the transport.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use trunkline_types::Timestamp;

use super::{Output, Times, TransactionId};

#[derive(Debug)]
struct Answer<P> {
    id: TransactionId,
    path: P,
    bytes: Bytes,
    at: Timestamp,
    interval: Duration,
    until: Timestamp,
}

/// The 2xx that wait for their ACK, by dialog and CSeq.
#[derive(Debug)]
pub(super) struct Answers<P> {
    waiting: BTreeMap<String, Answer<P>>,
    by_id: BTreeMap<TransactionId, String>,
    deadlines: BTreeSet<(Timestamp, TransactionId)>,
}

impl<P: Clone> Answers<P> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), by_id: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        times: &Times,
        key: String,
        id: TransactionId,
        path: P,
        bytes: Bytes,
    ) {
        self.remove_id(id);
        self.remove(&key);
        let at = now + times.t1;
        self.deadlines.insert((at, id));
        self.by_id.insert(id, key.clone());
        self.waiting
            .insert(key, Answer { id, path, bytes, at, interval: times.t1, until: now + times.life() });
    }

    /// The ACK came: whose 2xx it was.
    pub(super) fn remove(&mut self, key: &str) -> Option<TransactionId> {
        let answer = self.waiting.remove(key)?;
        self.by_id.remove(&answer.id);
        self.deadlines.remove(&(answer.at, answer.id));
        Some(answer.id)
    }

    pub(super) fn remove_id(&mut self, id: TransactionId) -> bool {
        self.by_id.get(&id).cloned().is_some_and(|key| self.remove(&key).is_some())
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Repeats what is due; gives up at 64·T1.
    pub(super) fn advance(&mut self, now: Timestamp, times: &Times, outputs: &mut Vec<Output<P>>) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            let Some(answer) = self.by_id.get(&id).and_then(|key| self.waiting.get_mut(key)) else {
                continue;
            };
            if now >= answer.until {
                self.remove_id(id);
                outputs.push(Output::AckTimeout { id });
                continue;
            }
            answer.interval = (answer.interval * 2).min(times.t2);
            answer.at = (now + answer.interval).min(answer.until);
            self.deadlines.insert((answer.at, id));
            outputs.push(Output::Send {
                id: Some(id),
                path: answer.path.clone(),
                bytes: answer.bytes.clone(),
            });
        }
    }
}
