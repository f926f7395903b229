//! The table of transactions: what its user orders, and time.

use bytes::Bytes;
use trunkline_types::Timestamp;

use super::{
    Class, Effects, Output, Times, TransactionConfig, TransactionError, TransactionId,
    answers::Answers,
    client::{Client, ClientInput, InviteClient},
    key,
    server::ServerInput,
    table::{Caller, Entry, Machine, Table},
};
use crate::{
    header::{HeaderName, Headers},
    message::{Message, Request, Response, add_to_tag},
    method::Method,
    parse::parse_datagram,
    token,
    values::CSeq,
};

/// Forks of one INVITE whose ACK is kept.
const MAX_FORKS: usize = 16;

/// All transactions of one edge. `P` is the edge's own name for where bytes go.
///
/// Every call takes `now` and gives outputs to be carried out in order. Call [`TransactionLayer::advance`] when
/// [`TransactionLayer::next_deadline`] has come. Each step is O(log n) in the number of transactions.
#[derive(Debug)]
pub struct TransactionLayer<P> {
    pub(super) config: TransactionConfig,
    pub(super) times: Times,
    pub(super) table: Table<P>,
    pub(super) answers: Answers<P>,
}

impl<P: Clone> TransactionLayer<P> {
    /// Without transactions.
    pub fn new(config: TransactionConfig) -> Self {
        let times = Times::of(&config);
        Self { config, times, table: Table::new(), answers: Answers::new() }
    }

    /// Transactions now.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// There are none, and no 2xx waits for its ACK.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0 && self.answers.len() == 0
    }

    /// When [`TransactionLayer::advance`] has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let table = self.table.next_deadline().map(|(at, _)| at);
        [table, self.answers.next_deadline()].into_iter().flatten().min()
    }

    /// The To tag that this layer gives to responses to `request` when its user gives none: always the same for the same
    /// transaction, so it also serves answers without a transaction.
    pub fn to_tag(&self, request: &Request) -> String {
        let key = key::server_key(request, &request.method).unwrap_or_default();
        self.tag_of(&key)
    }

    pub(super) fn tag_of(&self, key: &str) -> String {
        let mac = crate::digest::hmac_sha256(&self.config.tag_secret, key.as_bytes());
        token::tag(mac.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// Sends a request in a new transaction. Not for ACK; CANCEL is [`TransactionLayer::cancel`].
    ///
    /// # Errors
    /// Overloaded, branch in use, or headers missing.
    pub fn send_request(
        &mut self,
        now: Timestamp,
        request: &Request,
        path: P,
        reliable: bool,
    ) -> Result<(TransactionId, Vec<Output<P>>), TransactionError> {
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return Err(TransactionError::WrongKind);
        }
        if self.table.len() >= self.config.max_transactions {
            return Err(TransactionError::Overloaded(self.config.max_transactions));
        }
        self.start_client(now, request, path, reliable, false)
    }

    pub(super) fn start_client(
        &mut self,
        now: Timestamp,
        request: &Request,
        path: P,
        reliable: bool,
        internal: bool,
    ) -> Result<(TransactionId, Vec<Output<P>>), TransactionError> {
        let key = key::client_key(&request.headers)?;
        if self.table.find(&key).is_some() {
            return Err(TransactionError::BranchInUse);
        }
        let bytes = request.to_bytes();
        let machine = match request.method {
            Method::Invite => {
                Machine::InviteClient(InviteClient::new(now, &self.times, reliable), Box::new(Caller::new()))
            }
            _ => Machine::Client(Client::new(now, &self.times, reliable)),
        };
        let mut entry = Entry::new(key, path.clone(), reliable, machine, bytes.clone());
        entry.internal = internal;
        let id = self.table.insert(entry);
        Ok((id, vec![Output::Send { id: Some(id), path, bytes }]))
    }

    /// Sends the ACK of a 2xx. With the INVITE's transaction it is kept while that lives, and goes out again for every
    /// repeated 2xx with the same To tag.
    pub fn send_ack(&mut self, invite: Option<TransactionId>, ack: &Request, path: P) -> Vec<Output<P>> {
        let bytes = ack.to_bytes();
        let tag = ack.headers.to_tag().unwrap_or_default();
        if let Some(Machine::InviteClient(machine, caller)) =
            invite.and_then(|id| self.table.get_mut(id)).map(|entry| &mut entry.machine)
            && machine.is_accepted()
        {
            caller.acks.retain(|(known, ..)| **known != *tag);
            if caller.acks.len() < MAX_FORKS {
                caller.acks.push((tag.into(), bytes.clone(), path.clone()));
            }
        }
        vec![Output::Send { id: None, path, bytes }]
    }

    /// Answers a request. A To tag is added when there is none (not to a 100). A 2xx to an INVITE is repeated by the
    /// layer until its ACK.
    ///
    /// # Errors
    /// Unknown, wrong kind, already final, or headers missing.
    pub fn respond(
        &mut self,
        now: Timestamp,
        id: TransactionId,
        mut response: Response,
    ) -> Result<Vec<Output<P>>, TransactionError> {
        let entry = self.table.get(id).ok_or(TransactionError::Unknown)?;
        let (was_open, class) = (entry.server_is_open(), Class::of(response.status));
        let accepted_invite = match &entry.machine {
            _ if entry.is_client() => return Err(TransactionError::WrongKind),
            Machine::InviteServer(machine) if machine.is_accepted() && class == Class::Success => true,
            _ if !was_open => return Err(TransactionError::AlreadyFinal),
            Machine::InviteServer(_) => class == Class::Success,
            _ => false,
        };
        if response.status > 100 {
            let tag = entry.to_tag.as_deref().map_or_else(|| self.tag_of(&entry.key), str::to_owned);
            add_to_tag(&mut response.headers, &tag);
        }
        let answer_key = accepted_invite.then(|| key::answer_key_of_response(&response)).transpose()?;
        let (bytes, to_tag) = (response.to_bytes(), response.headers.to_tag());
        let mut outputs = Vec::with_capacity(2);
        let (times, mut path) = (self.times, None);
        let Some(entry) = self.table.get_mut(id) else { return Err(TransactionError::Unknown) };
        entry.bytes = bytes.clone();
        if response.status > 100 {
            entry.to_tag = to_tag.map(Into::into);
        }
        let effects = entry.server(now, &times, ServerInput::Respond(class));
        if was_open {
            path = Some(entry.path.clone());
        }
        if let (Some(key), Some(path)) = (answer_key, path) {
            self.answers.insert(now, &times, key, id, path, bytes);
        }
        self.apply(id, effects, None, &mut outputs);
        Ok(outputs)
    }

    /// The 2xx of this INVITE is acknowledged (its ACK reached another edge): stop repeating it.
    pub fn acknowledged(&mut self, id: TransactionId) {
        self.answers.remove_id(id);
    }

    /// Gives up an INVITE of ours: sends CANCEL at once, or as soon as a provisional response allows it (RFC 3261
    /// section 9.1). `extra` goes into the CANCEL (Reason). A 2xx may still come; then ACK and BYE are due.
    ///
    /// # Errors
    /// Unknown, wrong kind, already final.
    pub fn cancel(
        &mut self,
        now: Timestamp,
        id: TransactionId,
        extra: Headers,
    ) -> Result<Vec<Output<P>>, TransactionError> {
        let times = self.times;
        let entry = self.table.get_mut(id).ok_or(TransactionError::Unknown)?;
        let reliable = entry.reliable;
        let Machine::InviteClient(machine, caller) = &mut entry.machine else {
            return Err(TransactionError::WrongKind);
        };
        if !machine.is_open() {
            return Err(TransactionError::AlreadyFinal);
        }
        machine.handle(now, &times, reliable, ClientInput::Cancelled);
        let at_once = machine.is_proceeding();
        if !at_once {
            caller.cancel = Some(extra);
            self.table.settle(id);
            return Ok(Vec::new());
        }
        self.table.settle(id);
        Ok(self.send_cancel(now, id, extra))
    }

    pub(super) fn send_cancel(
        &mut self,
        now: Timestamp,
        invite: TransactionId,
        extra: Headers,
    ) -> Vec<Output<P>> {
        let Some(entry) = self.table.get(invite) else { return Vec::new() };
        let (path, reliable) = (entry.path.clone(), entry.reliable);
        let Some(request) = stored_request(&entry.bytes) else { return Vec::new() };
        let mut cancel = derived(&request, Method::Cancel, request.headers.get(&HeaderName::To).cloned());
        cancel.headers.extend(extra);
        // A CANCEL under way already is enough.
        self.start_client(now, &cancel, path, reliable, true).map(|(_, outputs)| outputs).unwrap_or_default()
    }

    /// The edge could not send for this transaction (RFC 3261 sections 17.1.4 and 17.2.4).
    pub fn transport_failed(&mut self, now: Timestamp, id: TransactionId) -> Vec<Output<P>> {
        let (times, mut outputs) = (self.times, Vec::new());
        if let Some(entry) = self.table.get_mut(id) {
            let effects = if entry.is_client() {
                entry.client(now, &times, ClientInput::TransportError)
            } else {
                entry.server(now, &times, ServerInput::TransportError)
            };
            self.apply(id, effects, None, &mut outputs);
        }
        outputs
    }

    /// Carries out what is due: retransmissions, time-outs, ends.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Output<P>> {
        let (times, mut outputs) = (self.times, Vec::new());
        // First: an AckTimeout falls due together with the end of its transaction, which must be the last word.
        self.answers.advance(now, &times, &mut outputs);
        while let Some((_, id)) = self.table.next_deadline().filter(|(at, _)| *at <= now) {
            let Some(entry) = self.table.get_mut(id) else { break };
            let effects = if entry.is_client() {
                entry.client(now, &times, ClientInput::Timer)
            } else {
                entry.server(now, &times, ServerInput::Timer)
            };
            self.apply(id, effects, None, &mut outputs);
            debug_assert!(self.table.next_deadline() != Some((now, id)), "a timer moves on");
        }
        outputs
    }

    /// Turns what a machine asked for into outputs and brings the table up to date.
    pub(super) fn apply(
        &mut self,
        id: TransactionId,
        effects: Effects,
        deliver: Option<Output<P>>,
        outputs: &mut Vec<Output<P>>,
    ) {
        let Some(entry) = self.table.get(id) else { return };
        let audible = !entry.internal;
        if effects.resend && !entry.bytes.is_empty() {
            outputs.push(Output::Send { id: Some(id), path: entry.path.clone(), bytes: entry.bytes.clone() });
        }
        if audible && effects.deliver {
            outputs.extend(deliver);
        }
        if audible && effects.timeout {
            outputs.push(Output::Timeout { id });
        }
        if audible && effects.transport_error {
            outputs.push(Output::TransportError { id });
        }
        if effects.terminate {
            self.table.remove(id);
            self.answers.remove_id(id);
            if audible {
                outputs.push(Output::Terminated { id });
            }
        } else {
            self.table.settle(id);
        }
    }
}

/// Reads back a request that this layer wrote.
pub(super) fn stored_request(bytes: &Bytes) -> Option<Request> {
    match parse_datagram(bytes) {
        Ok(Message::Request(request)) => Some(request),
        _ => None,
    }
}

/// CANCEL (RFC 3261 section 9.1) or ACK of a failure (section 17.1.1.3) of an INVITE: same Request-URI, top Via, Route,
/// From, Call-ID and CSeq number.
pub(super) fn derived(invite: &Request, method: Method, to: Option<Bytes>) -> Request {
    let mut request = Request::new(method.clone(), invite.uri.clone());
    if let Ok(via) = invite.headers.top_via() {
        request.headers.push(HeaderName::Via, via.to_value());
    }
    request.headers.push(HeaderName::MaxForwards, "70");
    request.headers.copy_from(&invite.headers, &HeaderName::Route);
    request.headers.copy_from(&invite.headers, &HeaderName::From);
    if let Some(to) = to {
        request.headers.push(HeaderName::To, to);
    }
    request.headers.copy_from(&invite.headers, &HeaderName::CallId);
    if let Ok(cseq) = invite.headers.cseq() {
        request.headers.push(HeaderName::CSeq, CSeq { number: cseq.number, method }.to_value());
    }
    request
}
