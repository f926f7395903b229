//! What one round of the writer commits. No I/O.
//!
//! The server checks each entity of a batch once, so the appends of one entity in a batch must follow one another: they
//! are a chain, which is committed or refused as one. An append that does not continue its entity's chain is left for the
//! next round, which finds out whether it conflicts.

use std::collections::{HashMap, HashSet, VecDeque};

use trunkline_types::EntityAddress;

use crate::{Append, AppendError, Appended, gate::Queued};

/// Appends, events and bytes of one batch, which bound the time of a commit.
const APPENDS: usize = 1_024;
const EVENTS: usize = 8_192;
const BYTES: usize = 4 << 20;

/// The consecutive appends of one entity in a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The first of them, by index in the batch; entity, epoch and `after` are its own.
    pub(super) first: usize,
    /// Events of the entity after all of them.
    pub(super) end: u64,
    /// Whether the entity is finished after all of them.
    pub(super) finished: bool,
}

/// Appends in the order in which they were made, and the chains that they form.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) appends: Vec<Queued>,
    pub(super) chains: Vec<Chain>,
    /// The chain of each append.
    pub(super) chain_of: Vec<usize>,
}

impl Batch {
    /// Takes what may be committed together from what waits.
    pub(super) fn take(waiting: &mut VecDeque<Queued>) -> Self {
        let mut batch = Self::default();
        let mut chains: HashMap<EntityAddress, usize> = HashMap::new();
        let (mut left, mut behind) = (VecDeque::new(), HashSet::new());
        let (mut events, mut bytes) = (0, 0);
        while let Some(queued) = waiting.pop_front() {
            let append = &queued.append;
            events += append.events.len();
            bytes += append.weight();
            let full = !batch.appends.is_empty()
                && (batch.appends.len() >= APPENDS || events > EVENTS || bytes > BYTES);
            if full {
                left.push_back(queued);
                break;
            }
            if behind.contains(&append.entity) || !batch.join(&mut chains, append) {
                behind.insert(append.entity.clone());
                left.push_back(queued);
                continue;
            }
            batch.appends.push(queued);
        }
        while let Some(queued) = left.pop_back() {
            waiting.push_front(queued);
        }
        batch
    }

    /// Adds the next append to its entity's chain; false = it does not continue it.
    fn join(&mut self, chains: &mut HashMap<EntityAddress, usize>, append: &Append) -> bool {
        let end = append.after + append.events.len() as u64;
        let finished = append.events.last().is_some_and(|event| event.last);
        let at = match chains.get(&append.entity) {
            Some(at) => {
                let chain = &mut self.chains[*at];
                let epoch = self.appends[chain.first].append.epoch;
                if chain.end != append.after || epoch != append.epoch {
                    return false;
                }
                (chain.end, chain.finished) = (end, finished);
                *at
            }
            None => {
                self.chains.push(Chain { first: self.appends.len(), end, finished });
                chains.insert(append.entity.clone(), self.chains.len() - 1);
                self.chains.len() - 1
            }
        };
        self.chain_of.push(at);
        true
    }

    /// Pairs the appends with their outcomes. One that stands behind a conflicting one in its chain and fits what is there
    /// all the same (another activation made it) goes back with those behind it: it is decided in the next round.
    pub(super) fn answer(
        self,
        outcomes: Vec<Result<Appended, AppendError>>,
        waiting: &mut VecDeque<Queued>,
    ) -> Vec<(Queued, Result<Appended, AppendError>)> {
        let mut again = vec![false; self.chains.len()];
        let (mut answers, mut back) = (Vec::with_capacity(self.appends.len()), Vec::new());
        for (i, (queued, outcome)) in self.appends.into_iter().zip(outcomes).enumerate() {
            let chain = self.chain_of[i];
            if let Err(AppendError::Conflict { actual }) = outcome {
                again[chain] |= i != self.chains[chain].first && actual == queued.append.after;
                if again[chain] {
                    back.push(queued);
                    continue;
                }
            }
            answers.push((queued, outcome));
        }
        back.into_iter().rev().for_each(|queued| waiting.push_front(queued));
        answers
    }

    /// Puts all of it back in front of what waits.
    pub(super) fn give_back(self, waiting: &mut VecDeque<Queued>) {
        for queued in self.appends.into_iter().rev() {
            waiting.push_front(queued);
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{Epoch, Timestamp};

    use super::*;
    use crate::{JournalMetrics, NewEvent, gate::Gate};

    fn queued(entity: &str, epoch: u64, after: u64, events: u64) -> Queued {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &entity.parse().unwrap());
        let events = (0..events).map(|_| NewEvent::new("q.e", 1, Timestamp::ZERO, vec![1])).collect();
        let mut made = None;
        let append = Append { entity, epoch: Epoch(epoch), after, events };
        let pending = Gate::new(JournalMetrics::new()).append(append, |queued| {
            made = Some(queued);
            Ok(())
        });
        drop(pending);
        made.unwrap()
    }

    fn afters(appends: impl IntoIterator<Item = Queued>) -> Vec<(String, u64)> {
        appends.into_iter().map(|q| (q.append.entity.id.clone(), q.append.after)).collect()
    }

    fn pairs(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(name, after)| ((*name).to_owned(), *after)).collect()
    }

    #[test]
    fn appends_that_follow_one_another_share_a_batch_in_their_order() {
        let mut waiting: VecDeque<_> =
            [queued("a", 1, 0, 2), queued("b", 1, 7, 1), queued("a", 1, 2, 3)].into();
        let batch = Batch::take(&mut waiting);
        assert!(waiting.is_empty());
        assert_eq!(batch.chain_of, [0, 1, 0]);
        assert_eq!(batch.chains[0], Chain { first: 0, end: 5, finished: false });
        assert_eq!(afters(batch.appends), pairs(&[("a", 0), ("b", 7), ("a", 2)]));
    }

    #[test]
    fn what_does_not_follow_waits_and_nothing_of_its_entity_overtakes_it() {
        let mut waiting: VecDeque<_> = [
            queued("a", 1, 0, 1),
            queued("a", 1, 0, 1),
            queued("b", 1, 0, 1),
            queued("a", 1, 1, 1),
            queued("b", 2, 1, 1),
        ]
        .into();
        let batch = Batch::take(&mut waiting);
        assert_eq!(afters(batch.appends), pairs(&[("a", 0), ("b", 0)]));
        assert_eq!(afters(waiting), pairs(&[("a", 0), ("a", 1), ("b", 1)]));
    }

    #[test]
    fn what_fits_behind_a_conflict_is_decided_anew() {
        let of = [queued("a", 1, 6, 1), queued("a", 1, 7, 1), queued("a", 1, 8, 1), queued("b", 1, 0, 1)];
        let conflict = |actual| Err(AppendError::Conflict { actual });
        let won = Ok(Appended { first_seq: 1, last_seq: 1, position: 1 });
        let (mut waiting, mut none) = (VecDeque::from(of), VecDeque::new());
        let batch = Batch::take(&mut waiting);
        let outcomes = vec![conflict(7), conflict(7), conflict(7), won];
        let answers = batch.answer(outcomes, &mut waiting);
        assert_eq!(afters(answers.into_iter().map(|(queued, _)| queued)), pairs(&[("a", 6), ("b", 0)]));
        assert_eq!(
            afters(waiting.iter().map(|q| queued("a", 1, q.append.after, 1))),
            pairs(&[("a", 7), ("a", 8)])
        );
        let answers = Batch::take(&mut waiting).answer(vec![conflict(7), conflict(7)], &mut none);
        assert_eq!((answers.len(), none.len()), (2, 0), "the first of a batch is always decided");
    }

    #[test]
    fn a_batch_is_bounded_and_what_is_given_back_comes_first_again() {
        let mut waiting: VecDeque<_> = (0..3_000).map(|n| queued("a", 1, n, 1)).collect();
        let batch = Batch::take(&mut waiting);
        assert_eq!((batch.appends.len(), waiting.len()), (APPENDS, 3_000 - APPENDS));
        assert_eq!(waiting.front().unwrap().append.after, APPENDS as u64);
        batch.give_back(&mut waiting);
        assert!((0..).zip(waiting.iter()).all(|(n, queued)| queued.append.after == n));
        let mut large: VecDeque<_> = (0..20).map(|n| queued("a", 1, n * 1_000, 1_000)).collect();
        assert_eq!(Batch::take(&mut large).appends.len(), EVENTS / 1_000);
    }
}
