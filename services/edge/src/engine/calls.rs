//! Which call a transaction belongs to. Transaction-stateful, dialog-stateless: everything here ends with the
//! transaction.

use std::collections::HashMap;

use trunkline_sip::TransactionId;
use trunkline_types::{EntityAddress, Timestamp};

/// A transaction and the call it belongs to.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// A server transaction that the call answers.
    Server {
        call: EntityAddress,
        /// As the call knows it.
        name: String,
        /// Set for an INVITE without a final answer yet.
        invite_since: Option<Timestamp>,
    },
    /// A client transaction of the call.
    Client { call: EntityAddress, name: String },
}

pub(super) struct Calls {
    /// Prefix of transaction names: a restarted edge must not answer to the names of its predecessor.
    prefix: u64,
    next: u64,
    owners: HashMap<TransactionId, Owner>,
    servers: HashMap<String, TransactionId>,
    clients: HashMap<(EntityAddress, String), TransactionId>,
}

impl Calls {
    pub fn new(prefix: u64) -> Self {
        Self { prefix, next: 0, owners: HashMap::new(), servers: HashMap::new(), clients: HashMap::new() }
    }

    /// Names a server transaction for its call.
    pub fn server(
        &mut self,
        id: TransactionId,
        call: EntityAddress,
        invite_since: Option<Timestamp>,
    ) -> String {
        self.next += 1;
        let name = format!("{:x}-{}", self.prefix, self.next);
        self.servers.insert(name.clone(), id);
        self.owners.insert(id, Owner::Server { call, name: name.clone(), invite_since });
        name
    }

    pub fn client(&mut self, id: TransactionId, call: EntityAddress, name: String) {
        self.clients.insert((call.clone(), name.clone()), id);
        self.owners.insert(id, Owner::Client { call, name });
    }

    pub fn owner(&self, id: &TransactionId) -> Option<&Owner> {
        self.owners.get(id)
    }

    /// The INVITE has its final answer: when it began, once.
    pub fn answered(&mut self, id: &TransactionId) -> Option<Timestamp> {
        match self.owners.get_mut(id) {
            Some(Owner::Server { invite_since, .. }) => invite_since.take(),
            _ => None,
        }
    }

    pub fn server_id(&self, name: &str) -> Option<TransactionId> {
        self.servers.get(name).cloned()
    }

    pub fn client_id(&self, call: &EntityAddress, name: &str) -> Option<TransactionId> {
        self.clients.get(&(call.clone(), name.to_owned())).cloned()
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
    }
}
