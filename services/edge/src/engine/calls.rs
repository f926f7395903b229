//! Which call a transaction belongs to. Transaction-stateful, dialog-stateless: everything here ends with the
//! transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use trunkline_cluster::LoadGuard;
use trunkline_proto::edge::v1::IncomingRequest;
use trunkline_sip::{Response, TransactionId};
use trunkline_types::{EntityAddress, Timestamp};

use super::waiting::{Patience, Waits};

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
    Client {
        call: EntityAddress,
        name: String,
        /// The final response, for a call that asks again because it did not get it.
        last: Option<Bytes>,
    },
}

/// What is kept of a server transaction beside its owner.
#[derive(Debug, Default)]
struct Kept {
    /// The tag by which retransmissions and a CANCEL of an INVITE are known.
    invite: Option<String>,
    /// A new call counts as load of its shard while this lives.
    load: Option<LoadGuard>,
}

/// A request that is about to go to its call.
pub(super) struct Arrival {
    pub call: EntityAddress,
    pub setup: Option<Setup>,
    /// For an INVITE: the layer's tag for it.
    pub invite: Option<String>,
    pub load: Option<LoadGuard>,
    /// What the call is told; its transaction is named here.
    pub event: IncomingRequest,
    /// 500, to be sent if the call keeps silent.
    pub unanswered: Response,
    pub at: Timestamp,
}

pub(super) struct Calls {
    /// Prefix of transaction names: a restarted edge must not answer to the names of its predecessor.
    prefix: u64,
    next: u64,
    owners: HashMap<TransactionId, Owner>,
    servers: HashMap<String, TransactionId>,
    clients: HashMap<(EntityAddress, String), TransactionId>,
    kept: HashMap<TransactionId, Kept>,
    invites: HashSet<String>,
    /// Client transactions without a final response.
    open_clients: usize,
    /// Server transactions without a final answer of their call.
    pub waits: Waits,
}

impl Calls {
    pub fn new(prefix: u64, patience: Patience) -> Self {
        Self {
            prefix,
            next: 0,
            owners: HashMap::new(),
            servers: HashMap::new(),
            clients: HashMap::new(),
            kept: HashMap::new(),
            invites: HashSet::new(),
            open_clients: 0,
            waits: Waits::new(patience),
        }
    }

    /// Names a server transaction for its call: what the call is to be told.
    pub fn server(&mut self, id: TransactionId, arrival: Arrival) -> IncomingRequest {
        self.next += 1;
        let name = format!("{:x}-{}", self.prefix, self.next);
        let Arrival { call, setup, invite, load, mut event, unanswered, at } = arrival;
        event.transaction.clone_from(&name);
        self.waits.begin(id, event.clone(), unanswered, invite.is_some(), at);
        self.invites.extend(invite.clone());
        self.kept.insert(id, Kept { invite, load });
        self.servers.insert(name.clone(), id);
        self.owners.insert(id, Owner::Server { call, name, setup });
        event
    }

    /// A new call has another id.
    pub fn move_to(&mut self, id: &TransactionId, to: EntityAddress, load: LoadGuard) {
        if let Some(Owner::Server { call, .. }) = self.owners.get_mut(id) {
            *call = to;
        }
        if let Some(kept) = self.kept.get_mut(id) {
            kept.load = Some(load);
        }
    }

    pub fn client(&mut self, id: TransactionId, call: EntityAddress, name: String) {
        self.clients.insert((call.clone(), name.clone()), id);
        self.owners.insert(id, Owner::Client { call, name, last: None });
        self.open_clients += 1;
    }

    /// A response to a request of a call: the call, and its name for the request.
    pub fn responded(
        &mut self,
        id: &TransactionId,
        status: u16,
        bytes: &Bytes,
    ) -> Option<(EntityAddress, String)> {
        let Some(Owner::Client { call, name, last }) = self.owners.get_mut(id) else { return None };
        if status >= 200 && last.replace(bytes.clone()).is_none() {
            self.open_clients -= 1;
        }
        Some((call.clone(), name.clone()))
    }

    pub fn owner(&self, id: &TransactionId) -> Option<&Owner> {
        self.owners.get(id)
    }

    /// Whether an INVITE with this tag of the layer is with a call: what comes with it again must not be judged anew.
    pub fn knows_invite(&self, tag: &str) -> bool {
        self.invites.contains(tag)
    }

    /// The request is being answered: the set-up of which call, when this is the first answer of its kind.
    pub fn answered(
        &mut self,
        id: &TransactionId,
        status: u16,
        at: Timestamp,
    ) -> Option<(EntityAddress, Setup)> {
        self.waits.answered(id, status, at);
        let Some(Owner::Server { call, setup, .. }) = self.owners.get_mut(id) else { return None };
        let setup = match status {
            180..=189 => {
                let found = setup.as_mut().filter(|setup| !setup.rung)?;
                found.rung = true;
                found.clone()
            }
            200.. => setup.take()?,
            _ => return None,
        };
        Some((call.clone(), setup))
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
            Some(Owner::Client { call, name, last }) => {
                self.open_clients -= usize::from(last.is_none());
                self.clients.remove(&(call, name));
            }
            None => {}
        }
        self.waits.forget(id);
        if let Some(tag) = self.kept.remove(id).and_then(|kept| kept.invite) {
            self.invites.remove(&tag);
        }
    }

    /// Transactions that wait for an answer, of a call or of a peer.
    pub fn waiting(&self) -> usize {
        self.waits.len() + self.open_clients
    }

    /// Entries of all kinds: 0 when nothing is under way.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.owners.len()
            + self.servers.len()
            + self.clients.len()
            + self.kept.len()
            + self.invites.len()
            + self.open_clients
            + self.waits.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trunkline_cluster::Loads;
    use trunkline_sip::{Message, parse_datagram};
    use trunkline_types::{CallId, ShardId};

    use super::*;

    fn arrival(invite: Option<&str>, load: Option<LoadGuard>) -> Arrival {
        let text = "SIP/2.0 500 x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        let unanswered = match parse_datagram(&Bytes::from_static(text.as_bytes())) {
            Ok(Message::Response(response)) => response,
            other => panic!("{other:?}"),
        };
        let call = CallId::mint(ShardId::new(5).unwrap(), Timestamp::from_millis(1), 1);
        Arrival {
            call: EntityAddress::call(&"default".parse().unwrap(), call),
            setup: None,
            invite: invite.map(str::to_owned),
            load,
            event: IncomingRequest::default(),
            unanswered,
            at: Timestamp::ZERO,
        }
    }

    #[test]
    fn nothing_is_left_of_a_transaction_that_is_over() {
        let (loads, mut calls) = (Loads::new(1), Calls::new(7, Patience::of(Duration::from_millis(500))));
        let shard = ShardId::new(5).unwrap();
        for n in 0..100 {
            let tag = n.to_string();
            let event = calls.server(TransactionId(n), arrival(Some(&tag), Some(loads.begin(shard))));
            assert_eq!(calls.server_id(&event.transaction), Some(TransactionId(n)));
            assert!(calls.knows_invite(&tag));
            calls.client(TransactionId(1_000 + n), arrival(None, None).call, tag);
        }
        assert_eq!((loads.of(shard), calls.waiting()), ((100, 100), 200));
        for n in 0..100 {
            calls.answered(&TransactionId(n), if n % 2 == 0 { 200 } else { 180 }, Timestamp::ZERO);
            let client = TransactionId(1_000 + n);
            for status in if n % 2 == 0 { [100, 200, 200] } else { [100, 100, 100] } {
                assert!(calls.responded(&client, status, &Bytes::new()).is_some());
            }
        }
        assert_eq!(calls.waiting(), 100, "half of each has its final answer");
        for n in 0..100 {
            calls.forget(&TransactionId(n));
            calls.forget(&TransactionId(1_000 + n));
        }
        assert_eq!((calls.len(), loads.of(shard)), (0, (0, 0)));
    }
}
