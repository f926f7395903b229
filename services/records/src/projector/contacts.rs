//! The contacts in hand: those of calls that are up and those that were touched of late.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use trunkline_proto::records::v1::Contact;

use crate::store::ContactRow;

/// Contacts in memory before those that were not touched for longest are let go.
const HELD: usize = 8_192;
/// How many more it may be until then.
const SLACK: usize = 1_024;
/// Of those, contacts whose call is over: a recording, a transcript and a wrap-up still come in. (A contact takes some
/// 20 kB here; one that is touched after it was let go is read again.)
const ENDED: usize = 2_048;
/// They are let go this long after the last event: most wrap-ups are over by then.
const SETTLES: Duration = Duration::from_secs(60);
/// Of a call that is up, after this long without an event: who waits or talks on has none for minutes.
const RESTS: Duration = Duration::from_secs(20);
/// What may be let go is looked for this much later, so that it is done for many at once.
const TOGETHER: Duration = Duration::from_secs(1);

struct Held {
    contact: Contact,
    /// The last event that is in it.
    position: u64,
    /// When its row has to be written that lacks something.
    due: Option<Instant>,
    touched: u64,
}

/// A cache over the table of contacts. A call has some twenty events, most of them close together: its row is written
/// at once when it is new or ended, when an agent is done with it, or when a list would find it elsewhere, and otherwise
/// at most every so often.
pub(crate) struct Contacts {
    held: HashMap<String, Held>,
    /// Those whose rows lack something, by the first event that they lack.
    dirty: BTreeSet<(u64, String)>,
    /// Those whose call is over, as they were written: how far they were touched by then, and when.
    ended: VecDeque<(u64, Instant, String)>,
    /// Those whose call is up, likewise.
    up: VecDeque<(u64, Instant, String)>,
    defer: Duration,
    touches: u64,
}

impl Contacts {
    pub fn new(defer: Duration) -> Self {
        let (ended, up) = (VecDeque::new(), VecDeque::new());
        Self { held: HashMap::new(), dirty: BTreeSet::new(), ended, up, defer, touches: 0 }
    }

    pub fn get(&self, tenant: &str, call: &str) -> Option<&Contact> {
        self.held.get(call).map(|held| &held.contact).filter(|contact| contact.tenant == tenant)
    }

    pub fn holds(&self, call: &str) -> bool {
        self.held.contains_key(call)
    }

    /// One read from its row.
    pub fn put(&mut self, contact: Contact, position: u64) {
        self.touches += 1;
        let held = Held { position, due: None, touched: self.touches, contact };
        self.held.insert(held.contact.call_id.clone(), held);
    }

    /// Folds the event at `position` into a contact unless it is in it already; makes one when there is none. `fold`
    /// tells whether the row has to be written without delay.
    pub fn fold(&mut self, tenant: &str, call: &str, position: u64, fold: impl FnOnce(&mut Contact) -> bool) {
        self.touches += 1;
        let is_new = !self.holds(call);
        let held = self.held.entry(call.to_owned()).or_insert_with(|| Held {
            contact: empty(tenant, call),
            position: 0,
            due: None,
            touched: 0,
        });
        held.touched = self.touches;
        if position <= held.position {
            return;
        }
        let now = Instant::now();
        let shown = Shown::of(&held.contact);
        let urgent = fold(&mut held.contact) || is_new || shown.differs(&held.contact);
        let urgent = urgent || held.contact.ended_us != 0;
        held.position = position;
        let due = if urgent { now } else { now + self.defer };
        if held.due.is_none() {
            self.dirty.insert((position, call.to_owned()));
        }
        held.due = Some(held.due.map_or(due, |before| before.min(due)));
    }

    /// The rows that are due, and how far all contacts will have come with them. They count as written.
    pub fn take_due(&mut self, folded: u64) -> (Vec<ContactRow>, u64) {
        let now = Instant::now();
        let is_due =
            |call: &String| self.held.get(call).is_none_or(|held| held.due.is_none_or(|at| at <= now));
        let due: Vec<(u64, String)> = self.dirty.iter().filter(|(_, call)| is_due(call)).cloned().collect();
        let mut rows = Vec::with_capacity(due.len());
        for key in due {
            if let Some(held) = self.held.get_mut(&key.1) {
                held.due = None;
                let list = if held.contact.ended_us == 0 { &mut self.up } else { &mut self.ended };
                list.push_back((held.touched, now, key.1.clone()));
                rows.push(ContactRow::new(&mut held.contact, held.position));
            }
            self.dirty.remove(&key);
        }
        (rows, self.dirty.first().map_or(folded, |(from, _)| from - 1))
    }

    /// When [`Contacts::take_due`] has rows.
    pub fn next_due(&self) -> Option<Instant> {
        self.dirty.iter().filter_map(|(_, call)| self.held.get(call)?.due).min()
    }

    /// When there is something to do: rows to write, or contacts to let go of. The latter wait for company.
    pub fn next_chore(&self) -> Option<Instant> {
        let rests = |list: &VecDeque<(u64, Instant, String)>, stays| Some(list.front()?.1 + stays + TOGETHER);
        let times = [self.next_due(), rests(&self.ended, SETTLES), rests(&self.up, RESTS)];
        times.into_iter().flatten().min()
    }

    /// Lets go of what was not touched for longest. Only after what was taken is on the disk.
    pub fn trim(&mut self) {
        let now = Instant::now();
        for (list, most, stays) in [(&mut self.ended, ENDED, SETTLES), (&mut self.up, usize::MAX, RESTS)] {
            while let Some((touched, at, call)) = list.front() {
                if list.len() <= most && now.duration_since(*at) < stays {
                    break;
                }
                // One that was touched since comes again when it is written.
                if self.held.get(call).is_some_and(|held| held.touched == *touched && held.due.is_none()) {
                    self.held.remove(call);
                }
                list.pop_front();
            }
        }
        if self.held.capacity() > SLACK && self.held.len() < self.held.capacity() / 4 {
            self.held.shrink_to(self.held.len() * 2);
        }
        if self.held.len() <= HELD + SLACK {
            return;
        }
        let mut clean: Vec<(u64, String)> = self
            .held
            .iter()
            .filter(|(_, held)| held.due.is_none())
            .map(|(call, held)| (held.touched, call.clone()))
            .collect();
        clean.sort_unstable();
        for (_, call) in clean.into_iter().take(self.held.len() - HELD) {
            self.held.remove(&call);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

/// What lists are filtered by: there a contact is found as it is.
struct Shown {
    outcome: String,
    queue: String,
    agent: String,
}

impl Shown {
    fn of(contact: &Contact) -> Self {
        Self {
            outcome: contact.outcome.clone(),
            queue: contact.queue_id.clone(),
            agent: contact.agent_id.clone(),
        }
    }

    fn differs(&self, contact: &Contact) -> bool {
        (&self.outcome, &self.queue, &self.agent) != (&contact.outcome, &contact.queue_id, &contact.agent_id)
    }
}

fn empty(tenant: &str, call: &str) -> Contact {
    Contact {
        call_id: call.to_owned(),
        tenant: tenant.to_owned(),
        trace_id: call.parse().map(|id| trunkline_telemetry::trace_id_of(id).to_string()).unwrap_or_default(),
        ..Contact::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_are_written_at_once_when_new_or_ended_and_else_after_a_while() {
        let mut contacts = Contacts::new(Duration::from_secs(3));
        contacts.fold("t", "a", 1, |_| false);
        assert_eq!((contacts.take_due(1).0.len(), contacts.next_due()), (1, None), "new");
        contacts.fold("t", "a", 2, |_| false);
        contacts.fold("t", "a", 5, |_| false);
        let (rows, position) = contacts.take_due(9);
        assert_eq!((rows.len(), position), (0, 1), "the row lacks 2 and what follows");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(contacts.take_due(9).1, 9);
        contacts.fold("t", "a", 10, |contact| {
            contact.ended_us = 1;
            false
        });
        assert_eq!(contacts.take_due(10).0.len(), 1, "ended");
        contacts.fold("t", "a", 10, |_| panic!("it has this event"));
        contacts.fold("t", "a", 7, |_| panic!("it has this event"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_up_and_has_no_events_is_let_go_once_its_row_is_written() {
        let mut contacts = Contacts::new(Duration::from_secs(3));
        for call in ["rests", "goes on", "unwritten"] {
            contacts.fold("t", call, 1, |_| true);
        }
        contacts.take_due(1);
        tokio::time::advance(RESTS).await;
        contacts.fold("t", "goes on", 2, |_| false);
        contacts.fold("t", "unwritten", 3, |_| false);
        contacts.trim();
        assert!(!contacts.holds("rests") && contacts.holds("goes on") && contacts.holds("unwritten"));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(contacts.take_due(3).0.len(), 2);
        let chore = contacts.next_chore().unwrap();
        assert_eq!(chore, Instant::now() + RESTS + TOGETHER);
        tokio::time::sleep_until(chore).await;
        contacts.trim();
        assert_eq!((contacts.len(), contacts.next_chore()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_contact_is_let_go_a_while_after_its_last_event() {
        let mut contacts = Contacts::new(Duration::from_secs(3));
        let end = |contact: &mut Contact| {
            contact.ended_us = 1;
            true
        };
        contacts.fold("t", "a", 1, end);
        contacts.fold("t", "b", 2, end);
        contacts.fold("t", "up", 3, |_| true);
        contacts.take_due(3);
        tokio::time::advance(SETTLES / 2).await;
        contacts.fold("t", "b", 4, |_| true);
        contacts.trim();
        assert_eq!(contacts.len(), 2, "but for the one that is up");
        tokio::time::advance(SETTLES / 2).await;
        contacts.trim();
        assert!(!contacts.holds("a"));
        assert!(contacts.holds("b"), "its last event is younger, and not on the disk");
        contacts.take_due(4);
        tokio::time::advance(SETTLES).await;
        contacts.trim();
        assert!(!contacts.holds("b"));
        for n in 0..ENDED as u64 + 10 {
            contacts.fold("t", &n.to_string(), n + 5, end);
        }
        contacts.take_due(u64::MAX);
        contacts.trim();
        assert!(contacts.len() <= ENDED + 1);
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_what_is_dirty_stays() {
        let mut contacts = Contacts::new(Duration::from_secs(3));
        contacts.put(empty("t", "keep"), 0);
        contacts.fold("t", "keep", 1, |_| false);
        for n in 0..HELD + 5_000 {
            contacts.put(empty("t", &n.to_string()), 1);
            contacts.trim();
            assert!(contacts.len() <= HELD + SLACK);
        }
        assert!(contacts.holds("keep") && !contacts.holds("0"));
        assert!(contacts.get("other", "keep").is_none(), "another tenant's");
    }
}
