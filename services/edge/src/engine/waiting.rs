//! Requests that their calls have not answered. A call may move to another node, or its node may die with the request in its
//! hands: so the request is given to the call again, wherever that is by then, until the final answer. One that stays without
//! is answered here.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use trunkline_proto::edge::v1::IncomingRequest;
use trunkline_sip::{Response, TransactionId, default_reason};
use trunkline_types::Timestamp;

/// How long calls may take to answer, as multiples of T1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A non-INVITE request: its client gives up at 64·T1 and must not hear of it late (RFC 4320).
    request: Duration,
    /// An INVITE of which the call has said nothing yet.
    invite: Duration,
    /// An INVITE after a provisional answer of the call.
    ringing: Duration,
    /// The request is given to the call again after this; the pause doubles up to `longest`.
    again: Duration,
    longest: Duration,
    /// After a provisional answer: the call is there, and most likely says the final one by itself.
    heard: Duration,
}

impl Patience {
    pub fn of(t1: Duration) -> Self {
        Self {
            request: t1 * 16,
            invite: t1 * 64,
            ringing: t1 * 1_700,
            again: t1,
            longest: t1 * 8,
            heard: t1 * 32,
        }
    }
}

/// What a waiting request was, to be given again.
#[derive(Debug)]
struct Waiting {
    due: Timestamp,
    again: Timestamp,
    pause: Duration,
    heard: bool,
    answer: Box<Response>,
    is_invite: bool,
    event: IncomingRequest,
    since: Timestamp,
    /// The caller has given up: the Reason of the CANCEL.
    cancelled: Option<String>,
    /// Ids that a new call has had.
    tries: u32,
}

impl Waiting {
    fn next(&self) -> Timestamp {
        self.due.min(self.again)
    }
}

/// What a call is told once more.
#[derive(Debug, Clone)]
pub(super) enum Again {
    /// The request, and when it came.
    Request(Box<IncomingRequest>, Timestamp),
    /// That the caller has given up, with the Reason.
    Cancelled(String),
}

/// What time asks for.
#[derive(Debug)]
pub(super) enum Due {
    /// Tell the call once more.
    Again(TransactionId, Again),
    /// Answer it here.
    Over(TransactionId),
}

/// Bounds what is said again, so that calls that are slow because there is too much to do do not get more to do: a tenth of
/// what is said the first time, and what a node that was lost may have had in its hands.
#[derive(Debug)]
struct Budget(f64);

impl Budget {
    const MOST: f64 = 5_000.0;
    const SHARE: f64 = 0.1;

    fn earn(&mut self) {
        self.0 = (self.0 + Self::SHARE).min(Self::MOST);
    }

    fn spend(&mut self) -> bool {
        let may = self.0 >= 1.0;
        if may {
            self.0 -= 1.0;
        }
        may
    }
}

/// All of them, by transaction and by what is due next.
#[derive(Debug)]
pub(super) struct Waits {
    patience: Patience,
    budget: Budget,
    entries: HashMap<TransactionId, Waiting>,
    order: BTreeSet<(Timestamp, TransactionId)>,
}

impl Waits {
    pub fn new(patience: Patience) -> Self {
        Self { patience, budget: Budget(Budget::MOST), entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// A request goes to its call; `answer` is what its peer gets if the call keeps silent.
    pub fn begin(
        &mut self,
        id: TransactionId,
        event: IncomingRequest,
        answer: Response,
        is_invite: bool,
        at: Timestamp,
    ) {
        self.budget.earn();
        let patience = if is_invite { self.patience.invite } else { self.patience.request };
        let waiting = Waiting {
            due: at.plus(patience),
            again: at.plus(self.patience.again),
            pause: self.patience.again,
            heard: false,
            answer: Box::new(answer),
            is_invite,
            event,
            since: at,
            cancelled: None,
            tries: 1,
        };
        self.order.insert((waiting.next(), id));
        self.entries.insert(id, waiting);
    }

    /// Changes an entry and its place in the order of time.
    fn change(&mut self, id: &TransactionId, change: impl FnOnce(&mut Waiting, &Patience)) -> bool {
        let Some(waiting) = self.entries.get_mut(id) else { return false };
        self.order.remove(&(waiting.next(), *id));
        change(waiting, &self.patience);
        self.order.insert((waiting.next(), *id));
        true
    }

    /// The call has answered.
    pub fn answered(&mut self, id: &TransactionId, status: u16, at: Timestamp) {
        if status >= 200 {
            return self.forget(id);
        }
        self.change(id, |waiting, patience| {
            if waiting.is_invite && waiting.cancelled.is_none() {
                waiting.due = at.plus(patience.ringing);
                waiting.heard = true;
                waiting.again = at.plus(patience.heard);
            }
        });
    }

    /// The caller has given an INVITE up: the call is told until it answers, and for not longer than a request may take.
    pub fn cancelled(&mut self, id: &TransactionId, reason: &str, at: Timestamp) {
        self.change(id, |waiting, patience| {
            waiting.cancelled.get_or_insert_with(|| reason.to_owned());
            waiting.due = waiting.due.min(at.plus(patience.request));
            waiting.pause = patience.again;
            waiting.again = at.plus(patience.again);
            waiting.heard = false;
            waiting.answer.status = 487;
            waiting.answer.reason = default_reason(487).as_bytes().into();
        });
    }

    /// When [`Waits::due`] has something.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// What is due now, one at a time; `None` when nothing is.
    pub fn due(&mut self, now: Timestamp) -> Option<Due> {
        loop {
            let (_, id) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
            if self.entries.get(&id).is_none_or(|waiting| waiting.due <= now) {
                return Some(Due::Over(id));
            }
            let may = self.budget.spend();
            let mut again = None;
            self.change(&id, |waiting, patience| {
                waiting.pause =
                    if waiting.heard { patience.heard } else { (waiting.pause * 2).min(patience.longest) };
                waiting.again = now.plus(waiting.pause);
                if may {
                    again = Some(match &waiting.cancelled {
                        Some(reason) => Again::Cancelled(reason.clone()),
                        None => {
                            waiting.event.attempt = waiting.event.attempt.saturating_add(1);
                            Again::Request(Box::new(waiting.event.clone()), waiting.since)
                        }
                    });
                }
            });
            if let Some(again) = again {
                return Some(Due::Again(id, again));
            }
        }
    }

    /// Gives the request up: the answer that its call will not give. `None` when it was answered.
    pub fn give_up(&mut self, id: &TransactionId) -> Option<Response> {
        let waiting = self.remove(id)?;
        Some(*waiting.answer)
    }

    /// The INVITE of a new call whose id cannot be used, and how many it has had. `None`: it makes no call, or it is over.
    pub fn new_call(&self, id: &TransactionId) -> Option<(&IncomingRequest, u32)> {
        let waiting = self.entries.get(id)?;
        let fresh = waiting.event.new_call.is_some() && waiting.cancelled.is_none();
        fresh.then_some((&waiting.event, waiting.tries))
    }

    /// The new call has another id.
    pub fn renewed(
        &mut self,
        id: &TransactionId,
        contact_uri: &str,
        at: Timestamp,
    ) -> Option<IncomingRequest> {
        self.change(id, |waiting, patience| {
            waiting.tries += 1;
            waiting.event.attempt = 0;
            waiting.pause = patience.again;
            waiting.again = at.plus(patience.again);
            if let Some(new_call) = &mut waiting.event.new_call {
                contact_uri.clone_into(&mut new_call.contact_uri);
            }
        });
        self.entries.get(id).map(|waiting| waiting.event.clone())
    }

    /// Nothing is waited for any more.
    pub fn forget(&mut self, id: &TransactionId) {
        self.remove(id);
    }

    fn remove(&mut self, id: &TransactionId) -> Option<Waiting> {
        let waiting = self.entries.remove(id)?;
        self.order.remove(&(waiting.next(), *id));
        Some(waiting)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        debug_assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use trunkline_sip::{Message, parse_datagram};

    use super::*;

    const T1: Duration = Duration::from_millis(500);

    fn unanswered() -> Response {
        let text = "SIP/2.0 500 x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        match parse_datagram(&bytes::Bytes::from_static(text.as_bytes())) {
            Ok(Message::Response(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn event() -> IncomingRequest {
        IncomingRequest { transaction: "t".into(), ..IncomingRequest::default() }
    }

    fn waits() -> Waits {
        Waits::new(Patience::of(T1))
    }

    /// Runs time until the request is answered here: when it was given again, and the status in the end.
    fn run(waits: &mut Waits, id: TransactionId) -> (Vec<i64>, u16) {
        let mut again = Vec::new();
        loop {
            let at = waits.next_due().unwrap();
            match waits.due(at).unwrap() {
                Due::Again(told, _) => {
                    assert_eq!(told, id);
                    again.push(at.as_millis());
                }
                Due::Over(over) => {
                    assert_eq!(over, id);
                    again.push(at.as_millis());
                    let status = waits.give_up(&id).unwrap().status;
                    assert!(waits.give_up(&id).is_none() && waits.len() == 0, "only once");
                    return (again, status);
                }
            }
        }
    }

    #[test]
    fn a_request_is_given_again_until_its_time_is_over() {
        let (mut waits, id) = (waits(), TransactionId(1));
        waits.begin(id, event(), unanswered(), false, Timestamp::ZERO);
        assert_eq!(run(&mut waits, id), (vec![500, 1_500, 3_500, 7_500, 8_000], 500));
        waits.begin(id, event(), unanswered(), true, Timestamp::ZERO);
        let (again, status) = run(&mut waits, id);
        assert_eq!((again.last(), status), (Some(&32_000), 500), "an INVITE has 64 T1");
        assert!(again.windows(2).all(|pair| pair[1] - pair[0] <= 4_000));
    }

    #[test]
    fn a_provisional_answer_buys_an_invite_time_and_nothing_else() {
        let (mut waits, invite, info) = (waits(), TransactionId(1), TransactionId(2));
        let at = Timestamp::from_millis;
        waits.begin(invite, event(), unanswered(), true, at(0));
        waits.answered(&invite, 180, at(100));
        assert_eq!(waits.next_due(), Some(at(16_100)), "it is there: seldom");
        let (again, _) = run(&mut waits, invite);
        assert_eq!(again.last(), Some(&850_100));
        waits.begin(info, event(), unanswered(), false, at(0));
        waits.answered(&info, 100, at(100));
        assert_eq!(run(&mut waits, info).0.last(), Some(&8_000));
        waits.begin(info, event(), unanswered(), false, at(0));
        waits.answered(&info, 200, at(100));
        assert_eq!((waits.next_due(), waits.len()), (None, 0));
    }

    #[test]
    fn a_cancelled_invite_is_told_again_and_ends_with_487() {
        let (mut waits, id) = (waits(), TransactionId(1));
        waits.begin(id, event(), unanswered(), true, Timestamp::ZERO);
        waits.answered(&id, 180, Timestamp::ZERO);
        waits.cancelled(&id, "SIP;cause=200", Timestamp::from_millis(1_000));
        match waits.due(Timestamp::from_millis(1_500)).unwrap() {
            Due::Again(_, again) => {
                assert!(matches!(again, Again::Cancelled(reason) if reason == "SIP;cause=200"))
            }
            Due::Over(_) => panic!("too early"),
        }
        waits.answered(&id, 180, Timestamp::from_millis(2_000));
        assert_eq!(run(&mut waits, id), (vec![2_500, 4_500, 8_500, 9_000], 487));
    }

    #[test]
    fn what_is_said_again_is_bounded_by_what_is_said() {
        let mut waits = waits();
        waits.budget = Budget(10.0);
        let count = 1_000;
        for n in 0..count {
            waits.begin(TransactionId(n), event(), unanswered(), true, Timestamp::ZERO);
        }
        let mut again = 0;
        for second in 1..=31 {
            while let Some(due) = waits.due(Timestamp::from_millis(second * 1_000)) {
                assert!(matches!(due, Due::Again(..)), "nothing is given up before its time");
                again += 1;
            }
        }
        assert!((100..=110).contains(&again), "{again}");
        assert_eq!(waits.len() as u64, count);
    }
}
