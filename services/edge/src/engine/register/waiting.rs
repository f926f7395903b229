//! REGISTERs on their way to their accounts and back.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use trunkline_proto::registrar::v1::Register;
use trunkline_sip::{Request, TransactionId};
use trunkline_types::{EntityAddress, Timestamp};

/// Between two askings: the account's owner may have died with the request in its hands.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(2);
/// A telephone gives up after 32 s (64 × T1); it is told earlier when to come again.
const PATIENCE: Duration = Duration::from_secs(16);
/// Registrations that wait at once; more are told to come later.
const MOST: usize = 4_096;

/// One without its answer.
pub(super) struct Waiting {
    pub request: Request,
    pub realm: String,
    pub account: EntityAddress,
    pub message: Register,
    since: Timestamp,
    pause: Duration,
    due: Timestamp,
}

struct Held {
    name: String,
    /// The layer's tag, by which a retransmission is known.
    tag: String,
    waiting: Option<Box<Waiting>>,
}

/// What has to be done now.
pub(super) enum Due {
    /// Ask the account again.
    Again(EntityAddress, Box<Register>),
    /// Nobody answers.
    Over(TransactionId),
}

/// Transactions of REGISTERs whose credentials were right.
pub(in crate::engine) struct Registrations {
    /// A restarted edge must not answer to the names of its predecessor.
    prefix: u64,
    next: u64,
    held: HashMap<TransactionId, Held>,
    names: HashMap<String, TransactionId>,
    tags: HashSet<String>,
    due: BTreeSet<(Timestamp, TransactionId)>,
}

impl Registrations {
    pub fn new(prefix: u64) -> Self {
        Self {
            prefix,
            next: 0,
            held: HashMap::new(),
            names: HashMap::new(),
            tags: HashSet::new(),
            due: BTreeSet::new(),
        }
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.due.len() >= MOST
    }

    /// Those without an answer.
    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    /// Whether a request with this tag of the layer has its transaction.
    pub fn knows(&self, tag: &str) -> bool {
        self.tags.contains(tag)
    }

    /// Takes one, and gives the message for its account, with the transaction named.
    pub(super) fn begin(
        &mut self,
        id: TransactionId,
        tag: String,
        (request, realm): (Request, String),
        (account, message): (EntityAddress, Register),
        now: Timestamp,
    ) -> Register {
        self.next += 1;
        let name = format!("r{:x}-{}", self.prefix, self.next);
        let message = Register { transaction: name.clone(), ..message };
        let waiting = Waiting {
            request,
            realm,
            account,
            message: message.clone(),
            since: now,
            pause: FIRST,
            due: now.plus(FIRST),
        };
        self.due.insert((waiting.due, id));
        self.names.insert(name.clone(), id);
        self.tags.insert(tag.clone());
        self.held.insert(id, Held { name, tag, waiting: Some(Box::new(waiting)) });
        message
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn due(&mut self, now: Timestamp) -> Option<Due> {
        let (due, id) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, id));
        let waiting = self.held.get_mut(&id)?.waiting.as_mut()?;
        if now.since(waiting.since) >= PATIENCE {
            return Some(Due::Over(id));
        }
        waiting.pause = (waiting.pause * 2).min(LONGEST);
        waiting.due = now.plus(waiting.pause);
        self.due.insert((waiting.due, id));
        Some(Due::Again(waiting.account.clone(), Box::new(waiting.message.clone())))
    }

    /// The request that has been answered under this name; `None` when it was before.
    pub(super) fn answered(&mut self, name: &str) -> Option<(TransactionId, Box<Waiting>)> {
        let id = *self.names.get(name)?;
        Some((id, self.over(id)?))
    }

    /// Takes one out that waits for no answer any more; its transaction goes on.
    pub(super) fn over(&mut self, id: TransactionId) -> Option<Box<Waiting>> {
        let waiting = self.held.get_mut(&id)?.waiting.take()?;
        self.due.remove(&(waiting.due, id));
        Some(waiting)
    }

    pub fn forget(&mut self, id: &TransactionId) {
        self.over(*id);
        if let Some(held) = self.held.remove(id) {
            self.names.remove(&held.name);
            self.tags.remove(&held.tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trunkline_sip::{Message, parse_datagram};

    use super::*;

    fn request() -> Request {
        let text = "REGISTER sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:a@b>\r\nCall-ID: x\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n";
        match parse_datagram(&Bytes::from_static(text.as_bytes())) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    fn begin(registrations: &mut Registrations, n: u64) -> Register {
        let account = EntityAddress::telephone(&"default".parse().unwrap(), &"1001".parse().unwrap());
        let asked = (request(), String::new());
        registrations.begin(TransactionId(n), n.to_string(), asked, (account, Register::default()), at(0))
    }

    #[test]
    fn an_account_is_asked_again_until_it_answers_or_it_is_too_late() {
        let mut registrations = Registrations::new(1);
        begin(&mut registrations, 1);
        let (mut asked, mut over) = (Vec::new(), None);
        while let Some(due) = registrations.next_due() {
            match registrations.due(due) {
                Some(Due::Again(..)) => asked.push(due.since(at(0)).as_millis()),
                Some(Due::Over(id)) => over = Some((due.since(at(0)).as_millis(), id)),
                None => panic!("due and not due"),
            }
        }
        assert_eq!(&asked[..4], [500, 1_500, 3_500, 5_500]);
        let (when, id) = over.unwrap();
        assert!((16_000..18_001).contains(&when), "{when}");
        assert!(registrations.over(id).is_some() && registrations.over(id).is_none());
    }

    #[test]
    fn nothing_is_left_of_a_transaction_that_is_over() {
        let mut registrations = Registrations::new(1);
        let names: Vec<String> = (0..10).map(|n| begin(&mut registrations, n).transaction).collect();
        assert!(registrations.knows("3") && registrations.waiting() == 10);
        let (id, _) = registrations.answered(&names[3]).unwrap();
        assert_eq!((id, registrations.waiting()), (TransactionId(3), 9));
        assert!(registrations.answered(&names[3]).is_none(), "an answer counts once");
        assert!(registrations.knows("3"), "its retransmissions are the transaction's");
        (0..10).for_each(|n| registrations.forget(&TransactionId(n)));
        let Registrations { held, names, tags, due, .. } = &registrations;
        assert_eq!((held.len(), names.len(), tags.len(), due.len()), (0, 0, 0, 0));
        assert!(registrations.next_due().is_none());
    }

    #[test]
    fn there_is_a_limit() {
        let mut registrations = Registrations::new(1);
        (0..MOST as u64).for_each(|n| _ = begin(&mut registrations, n));
        assert!(registrations.is_full());
        registrations.over(TransactionId(7));
        assert!(!registrations.is_full());
    }
}
