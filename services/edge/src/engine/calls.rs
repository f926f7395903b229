//! Which call a transaction belongs to. Transaction-stateful, dialog-stateless: everything here ends with the
//! transaction.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use trunkline_cluster::LoadGuard;
use trunkline_sip::{Response, TransactionId};
use trunkline_types::{EntityAddress, Timestamp};

/// An INVITE on its way to its final answer.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// When it came.
    pub since: Timestamp,
    /// From where.
    pub trunk: Arc<String>,
    /// The caller has heard a 18x.
    pub rung: bool,
}

/// A transaction and the call it belongs to.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// A server transaction that the call answers.
    Server {
        call: EntityAddress,
        /// As the call knows it.
        name: String,
        /// Set for an INVITE without a final answer yet.
        setup: Option<Setup>,
    },
    /// A client transaction of the call.
    Client { call: EntityAddress, name: String },
}

/// How long calls may take to answer, as multiples of T1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A non-INVITE request: its client gives up at 64·T1 and must not hear of it late (RFC 4320).
    request: Duration,
    /// An INVITE of which the call has said nothing yet.
    invite: Duration,
    /// An INVITE after a provisional answer of the call.
    ringing: Duration,
}

impl Patience {
    pub fn of(t1: Duration) -> Self {
        Self { request: t1 * 16, invite: t1 * 64, ringing: t1 * 1_700 }
    }
}

/// What a request gets if its call does not answer.
#[derive(Debug)]
struct Waiting {
    due: Timestamp,
    answer: Box<Response>,
    is_invite: bool,
}

/// What is kept of a server transaction beside its owner.
#[derive(Debug, Default)]
struct Kept {
    waiting: Option<Waiting>,
    /// The tag by which retransmissions and a CANCEL of an INVITE are known.
    invite: Option<String>,
    /// A new call counts as load of its shard while this lives.
    _load: Option<LoadGuard>,
}

/// A request that is about to go to its call.
pub(super) struct Arrival {
    pub call: EntityAddress,
    pub setup: Option<Setup>,
    /// For an INVITE: the layer's tag for it.
    pub invite: Option<String>,
    pub load: Option<LoadGuard>,
    /// 500, to be sent if the call keeps silent.
    pub unanswered: Response,
    pub at: Timestamp,
}

pub(super) struct Calls {
    /// Prefix of transaction names: a restarted edge must not answer to the names of its predecessor.
    prefix: u64,
    next: u64,
    patience: Patience,
    owners: HashMap<TransactionId, Owner>,
    servers: HashMap<String, TransactionId>,
    clients: HashMap<(EntityAddress, String), TransactionId>,
    kept: HashMap<TransactionId, Kept>,
    invites: HashSet<String>,
    due: BTreeSet<(Timestamp, TransactionId)>,
}

impl Calls {
    pub fn new(prefix: u64, patience: Patience) -> Self {
        Self {
            prefix,
            next: 0,
            patience,
            owners: HashMap::new(),
            servers: HashMap::new(),
            clients: HashMap::new(),
            kept: HashMap::new(),
            invites: HashSet::new(),
            due: BTreeSet::new(),
        }
    }

    /// Names a server transaction for its call.
    pub fn server(&mut self, id: TransactionId, arrival: Arrival) -> String {
        self.next += 1;
        let name = format!("{:x}-{}", self.prefix, self.next);
        let Arrival { call, setup, invite, load, unanswered, at } = arrival;
        let patience = if invite.is_some() { self.patience.invite } else { self.patience.request };
        let waiting =
            Waiting { due: at.plus(patience), answer: Box::new(unanswered), is_invite: invite.is_some() };
        self.due.insert((waiting.due, id));
        self.invites.extend(invite.clone());
        self.kept.insert(id, Kept { waiting: Some(waiting), invite, _load: load });
        self.servers.insert(name.clone(), id);
        self.owners.insert(id, Owner::Server { call, name: name.clone(), setup });
        name
    }

    pub fn client(&mut self, id: TransactionId, call: EntityAddress, name: String) {
        self.clients.insert((call.clone(), name.clone()), id);
        self.owners.insert(id, Owner::Client { call, name });
    }

    pub fn owner(&self, id: &TransactionId) -> Option<&Owner> {
        self.owners.get(id)
    }

    /// Whether an INVITE with this tag of the layer is with a call: what comes with it again must not be judged anew.
    pub fn knows_invite(&self, tag: &str) -> bool {
        self.invites.contains(tag)
    }

    /// The request is being answered: the set-up of a call, when this is the first answer of its kind.
    pub fn answered(&mut self, id: &TransactionId, status: u16, at: Timestamp) -> Option<Setup> {
        self.postpone(id, status, at);
        let Some(Owner::Server { setup, .. }) = self.owners.get_mut(id) else { return None };
        match status {
            180..=189 => {
                let found = setup.as_mut().filter(|setup| !setup.rung)?;
                found.rung = true;
                Some(found.clone())
            }
            200.. => setup.take(),
            _ => None,
        }
    }

    fn postpone(&mut self, id: &TransactionId, status: u16, at: Timestamp) {
        let Some(kept) = self.kept.get_mut(id) else { return };
        let Some(mut waiting) = kept.waiting.take() else { return };
        if status >= 200 {
            self.due.remove(&(waiting.due, *id));
            return;
        }
        if waiting.is_invite {
            self.due.remove(&(waiting.due, *id));
            waiting.due = at.plus(self.patience.ringing);
            self.due.insert((waiting.due, *id));
        }
        kept.waiting = Some(waiting);
    }

    /// When [`Calls::overdue`] has something.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A request that its call has not answered in time.
    pub fn overdue(&self, now: Timestamp) -> Option<TransactionId> {
        self.due.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// The answer to a request that its call will not give; `None` when it was answered.
    pub fn unanswered(&mut self, id: &TransactionId) -> Option<Response> {
        let waiting = self.kept.get_mut(id)?.waiting.take()?;
        self.due.remove(&(waiting.due, *id));
        Some(*waiting.answer)
    }

    pub fn server_id(&self, name: &str) -> Option<TransactionId> {
        self.servers.get(name).copied()
    }

    pub fn client_id(&self, call: &EntityAddress, name: &str) -> Option<TransactionId> {
        self.clients.get(&(call.clone(), name.to_owned())).copied()
    }

    pub fn forget(&mut self, id: &TransactionId) {
        match self.owners.remove(id) {
            Some(Owner::Server { name, .. }) => {
                self.servers.remove(&name);
            }
            Some(Owner::Client { call, name }) => {
                self.clients.remove(&(call, name));
            }
            None => {}
        }
        let Some(kept) = self.kept.remove(id) else { return };
        if let Some(waiting) = kept.waiting {
            self.due.remove(&(waiting.due, *id));
        }
        if let Some(tag) = kept.invite {
            self.invites.remove(&tag);
        }
    }

    /// Entries of all kinds: 0 when nothing is under way.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.owners.len()
            + self.servers.len()
            + self.clients.len()
            + self.kept.len()
            + self.invites.len()
            + self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use trunkline_cluster::Loads;
    use trunkline_sip::{Message, parse_datagram};
    use trunkline_types::{CallId, ShardId};

    use super::*;

    fn arrival(at: i64, invite: Option<&str>, load: Option<LoadGuard>) -> Arrival {
        let text = "SIP/2.0 500 x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        let unanswered = match parse_datagram(&bytes::Bytes::from_static(text.as_bytes())) {
            Ok(Message::Response(response)) => response,
            other => panic!("{other:?}"),
        };
        let call = CallId::mint(ShardId::new(5).unwrap(), Timestamp::from_millis(1), 1);
        Arrival {
            call: EntityAddress::call(&"default".parse().unwrap(), call),
            setup: None,
            invite: invite.map(str::to_owned),
            load,
            unanswered,
            at: Timestamp::from_millis(at),
        }
    }

    fn calls() -> Calls {
        Calls::new(7, Patience::of(Duration::from_millis(500)))
    }

    #[test]
    fn a_request_is_due_until_its_final_answer() {
        let (mut calls, id, ms) = (calls(), TransactionId(1), Timestamp::from_millis);
        calls.server(id, arrival(0, None, None));
        assert_eq!((calls.next_due(), calls.overdue(ms(7_999))), (Some(ms(8_000)), None));
        calls.answered(&id, 100, ms(10));
        assert_eq!(calls.overdue(ms(8_000)), Some(id), "a provisional answer does not buy a request time");
        calls.answered(&id, 200, ms(20));
        assert_eq!((calls.next_due(), calls.unanswered(&id)), (None, None));

        let invite = TransactionId(2);
        calls.server(invite, arrival(0, Some("t"), None));
        assert_eq!(calls.next_due(), Some(ms(32_000)));
        calls.answered(&invite, 180, ms(1_000));
        assert_eq!(calls.next_due(), Some(ms(851_000)), "but an INVITE rings on");
        assert_eq!(calls.unanswered(&invite).map(|r| r.status), Some(500));
        assert!(calls.unanswered(&invite).is_none() && calls.next_due().is_none(), "only once");
    }

    #[test]
    fn nothing_is_left_of_a_transaction_that_is_over() {
        let (loads, mut calls) = (Loads::new(1), calls());
        let shard = ShardId::new(5).unwrap();
        for n in 0..100 {
            let tag = n.to_string();
            let name = calls.server(TransactionId(n), arrival(0, Some(&tag), Some(loads.begin(shard))));
            assert_eq!(calls.server_id(&name), Some(TransactionId(n)));
            assert!(calls.knows_invite(&tag));
            let call = arrival(0, None, None).call;
            calls.client(TransactionId(1_000 + n), call, tag);
        }
        assert_eq!(loads.of(shard), (100, 100));
        for n in 0..100 {
            calls.answered(&TransactionId(n), if n % 2 == 0 { 200 } else { 180 }, Timestamp::ZERO);
            calls.forget(&TransactionId(n));
            calls.forget(&TransactionId(1_000 + n));
        }
        assert_eq!((calls.len(), loads.of(shard)), (0, (0, 0)));
    }
}
