//! Transactions by id, key and deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use trunkline_types::Timestamp;

use super::{
    Effects, Times, TransactionId,
    client::{Client, ClientInput, InviteClient},
    server::{InviteServer, Server, ServerInput},
};
use crate::header::Headers;

/// What an INVITE client has beside its machine.
#[derive(Debug)]
pub(super) struct Caller<P> {
    /// Our ACKs by the To tag of the 2xx, to be repeated for a repeated 2xx.
    pub(super) acks: Vec<(Box<str>, Bytes, P)>,
    /// The ACK of a failure.
    pub(super) failure_ack: Option<Bytes>,
    /// A CANCEL that waits for a provisional response, with its extra headers.
    pub(super) cancel: Option<Headers>,
}

impl<P> Caller<P> {
    pub(super) fn new() -> Self {
        Self { acks: Vec::new(), failure_ack: None, cancel: None }
    }
}

#[derive(Debug)]
pub(super) enum Machine<P> {
    InviteClient(InviteClient, Box<Caller<P>>),
    Client(Client),
    InviteServer(InviteServer),
    Server(Server),
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) key: Arc<str>,
    pub(super) path: P,
    pub(super) reliable: bool,
    /// Made by the layer itself (CANCEL either way): the user hears nothing of it.
    pub(super) internal: bool,
    /// Client: the request. Server: the last response.
    pub(super) bytes: Bytes,
    /// Server: the To tag of our responses, once there is one.
    pub(super) to_tag: Option<Box<str>>,
    pub(super) machine: Machine<P>,
    deadline: Option<Timestamp>,
}

impl<P> Entry<P> {
    pub(super) fn new(key: String, path: P, reliable: bool, machine: Machine<P>, bytes: Bytes) -> Self {
        Self {
            key: key.into(),
            path,
            reliable,
            internal: false,
            bytes,
            to_tag: None,
            machine,
            deadline: None,
        }
    }

    pub(super) fn client(&mut self, now: Timestamp, times: &Times, input: ClientInput) -> Effects {
        match &mut self.machine {
            Machine::InviteClient(machine, _) => machine.handle(now, times, self.reliable, input),
            Machine::Client(machine) => machine.handle(now, times, self.reliable, input),
            Machine::InviteServer(_) | Machine::Server(_) => Effects::default(),
        }
    }

    pub(super) fn server(&mut self, now: Timestamp, times: &Times, input: ServerInput) -> Effects {
        match &mut self.machine {
            Machine::InviteServer(machine) => machine.handle(now, times, self.reliable, input),
            Machine::Server(machine) => machine.handle(now, times, self.reliable, input),
            Machine::InviteClient(..) | Machine::Client(_) => Effects::default(),
        }
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self.machine, Machine::InviteClient(..) | Machine::Client(_))
    }

    /// Server: no final response yet.
    pub(super) fn server_is_open(&self) -> bool {
        match &self.machine {
            Machine::InviteServer(machine) => machine.is_open(),
            Machine::Server(machine) => machine.is_open(),
            Machine::InviteClient(..) | Machine::Client(_) => false,
        }
    }

    fn machine_deadline(&self) -> Option<Timestamp> {
        match &self.machine {
            Machine::InviteClient(machine, _) => machine.deadline(),
            Machine::Client(machine) => machine.deadline(),
            Machine::InviteServer(machine) => machine.deadline(),
            Machine::Server(machine) => machine.deadline(),
        }
    }
}

/// All transactions of a layer. Ordered maps: no randomness, and no key of an attacker makes them slow.
#[derive(Debug)]
pub(super) struct Table<P> {
    entries: BTreeMap<TransactionId, Entry<P>>,
    keys: BTreeMap<Arc<str>, TransactionId>,
    deadlines: BTreeSet<(Timestamp, TransactionId)>,
    next_id: u64,
}

impl<P> Table<P> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), keys: BTreeMap::new(), deadlines: BTreeSet::new(), next_id: 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, key: &str) -> Option<TransactionId> {
        self.keys.get(key).copied()
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Entry<P>> {
        self.entries.get(&id)
    }

    /// After a change the caller must call [`Table::settle`].
    pub(super) fn get_mut(&mut self, id: TransactionId) -> Option<&mut Entry<P>> {
        self.entries.get_mut(&id)
    }

    /// The key must not be in use.
    pub(super) fn insert(&mut self, entry: Entry<P>) -> TransactionId {
        debug_assert!(!self.keys.contains_key(&entry.key));
        let id = TransactionId(self.next_id);
        self.next_id += 1;
        self.keys.insert(entry.key.clone(), id);
        self.entries.insert(id, entry);
        self.settle(id);
        id
    }

    /// Brings the order of deadlines up to date after an entry changed.
    pub(super) fn settle(&mut self, id: TransactionId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let deadline = entry.machine_deadline();
        if deadline == entry.deadline {
            return;
        }
        if let Some(old) = entry.deadline {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, id));
        }
        entry.deadline = deadline;
    }

    pub(super) fn remove(&mut self, id: TransactionId) -> Option<Entry<P>> {
        let entry = self.entries.remove(&id)?;
        self.keys.remove(&entry.key);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(entry)
    }

    pub(super) fn next_deadline(&self) -> Option<(Timestamp, TransactionId)> {
        self.deadlines.first().copied()
    }
}
