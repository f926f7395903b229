//! Which call a transaction belongs to. Transaction-stateful, dialog-stateless: everything here ends with the
//! transaction.

use std::{collections::HashMap, sync::Arc};

use trunkline_sip::TransactionId;
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
    pub fn server(&mut self, id: TransactionId, call: EntityAddress, setup: Option<Setup>) -> String {
        self.next += 1;
        let name = format!("{:x}-{}", self.prefix, self.next);
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

    /// The INVITE is being answered: the set-up, when this is the first answer of its kind.
    pub fn answered(&mut self, id: &TransactionId, status: u16) -> Option<Setup> {
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
