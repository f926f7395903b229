//! The table of transactions: what comes from the network.

use trunkline_types::Timestamp;

use super::{
    Class, Effects, Output, TransactionId, TransactionLayer,
    client::ClientInput,
    key,
    layer::{derived, stored_request},
    server::{InviteServer, Server, ServerInput},
    table::{Entry, Machine},
};
use crate::{
    header::HeaderName,
    message::{Request, Response},
    method::Method,
};

impl<P: Clone> TransactionLayer<P> {
    /// A request from the network. `path`: where its responses go; `reliable`: its transport is.
    pub fn on_request(
        &mut self,
        now: Timestamp,
        request: Request,
        path: P,
        reliable: bool,
    ) -> Vec<Output<P>> {
        // The parser lets no request without a readable Via pass.
        let Ok(key) = key::server_key(&request, &request.method) else { return Vec::new() };
        match request.method {
            Method::Ack => return self.on_ack(now, &key, request),
            Method::Cancel => return self.on_cancel(now, key, request, path, reliable),
            _ => {}
        }
        let mut outputs = Vec::with_capacity(2);
        if let Some(id) = self.table.find(&key) {
            self.repeat(now, id, &mut outputs);
            return outputs;
        }
        let new_call = request.method == Method::Invite && !request.is_in_dialog();
        let reserved = if new_call { self.config.reserved } else { 0 };
        if self.table.len() >= self.config.max_transactions.saturating_sub(reserved) {
            return vec![Output::Overloaded { request, path }];
        }
        let id = self.start_server(now, key, &request, path.clone(), reliable);
        if request.method == Method::Invite {
            self.answer_itself(now, id, Response::to(&request, 100), &mut outputs);
        }
        outputs.push(Output::Request { id, request, path });
        outputs
    }

    fn start_server(
        &mut self,
        now: Timestamp,
        key: String,
        request: &Request,
        path: P,
        reliable: bool,
    ) -> TransactionId {
        let machine = match request.method {
            Method::Invite => Machine::InviteServer(InviteServer::new(now, &self.times)),
            _ => Machine::Server(Server::new(now, &self.times)),
        };
        let mut entry = Entry::new(key, path, reliable, machine, bytes::Bytes::new());
        entry.to_tag = request.headers.to_tag().map(Into::into);
        self.table.insert(entry)
    }

    fn answer_itself(
        &mut self,
        now: Timestamp,
        id: TransactionId,
        response: Response,
        outputs: &mut Vec<Output<P>>,
    ) {
        if let Ok(sent) = self.respond(now, id, response) {
            outputs.extend(sent);
        }
    }

    /// A request that has a transaction came again.
    fn repeat(&mut self, now: Timestamp, id: TransactionId, outputs: &mut Vec<Output<P>>) {
        let times = self.times;
        if let Some(entry) = self.table.get_mut(id) {
            let effects = entry.server(now, &times, ServerInput::Retransmission);
            self.apply(id, effects, None, outputs);
        }
    }

    /// An ACK ends the INVITE transaction of a failure (same branch); that of a 2xx is matched by dialog and goes to
    /// the user.
    fn on_ack(&mut self, now: Timestamp, key: &str, request: Request) -> Vec<Output<P>> {
        let (times, mut outputs) = (self.times, Vec::new());
        let acknowledged = key::answer_key_of_ack(&request).ok().and_then(|key| self.answers.remove(&key));
        let by_branch = self.table.find(key);
        if let Some(id) = by_branch
            && let Some(entry) = self.table.get_mut(id)
        {
            let mut effects = entry.server(now, &times, ServerInput::Ack);
            // A fork's failure is acknowledged with the branch that our 2xx has too, but with the fork's tag.
            effects.deliver &= entry.to_tag.as_deref() == request.headers.to_tag().as_deref();
            self.apply(id, effects, Some(Output::Ack { id: Some(id), request }), &mut outputs);
            return outputs;
        }
        outputs.push(Output::Ack { id: acknowledged, request });
        outputs
    }

    /// CANCEL is answered here: 200 when its INVITE is known, else 481 (RFC 3261 section 9.2).
    fn on_cancel(
        &mut self,
        now: Timestamp,
        key: String,
        request: Request,
        path: P,
        reliable: bool,
    ) -> Vec<Output<P>> {
        let mut outputs = Vec::new();
        if let Some(id) = self.table.find(&key) {
            self.repeat(now, id, &mut outputs);
            return outputs;
        }
        let invite = key::server_key(&request, &Method::Invite).ok().and_then(|key| self.table.find(&key));
        let mut response = Response::to(&request, if invite.is_some() { 200 } else { 481 });
        let invite_entry = invite.and_then(|id| self.table.get(id));
        let open = invite_entry.is_some_and(Entry::server_is_open);
        // The To tag of both answers should be the same (section 9.2): take or foretell that of the INVITE.
        let tag = match invite_entry {
            Some(entry) => entry.to_tag.as_deref().map_or_else(|| self.tag_of(&entry.key), str::to_owned),
            None => self.tag_of(&key),
        };
        response = response.with_to_tag(&tag);
        if self.table.len() >= self.config.max_transactions {
            outputs.push(Output::Send { id: None, path, bytes: response.to_bytes() });
        } else {
            let id = self.start_server(now, key, &request, path, reliable);
            if let Some(entry) = self.table.get_mut(id) {
                entry.internal = true;
            }
            self.answer_itself(now, id, response, &mut outputs);
        }
        if let Some(id) = invite.filter(|_| open) {
            outputs.push(Output::Cancel { id, request });
        }
        outputs
    }

    /// A response from the network.
    pub fn on_response(&mut self, now: Timestamp, response: Response) -> Vec<Output<P>> {
        let id = key::client_key(&response.headers).ok().and_then(|key| self.table.find(&key));
        let Some(id) = id else { return vec![Output::StrayResponse { response }] };
        let (times, class) = (self.times, Class::of(response.status));
        let mut outputs = Vec::with_capacity(2);
        let Some(entry) = self.table.get_mut(id) else { return outputs };
        let mut effects = entry.client(now, &times, ClientInput::Response(class));
        let mut cancel = None;
        if let Machine::InviteClient(machine, caller) = &mut entry.machine {
            if class == Class::Success && effects.deliver {
                let tag = response.headers.to_tag().unwrap_or_default();
                if let Some((_, bytes, path)) = caller.acks.iter().find(|(known, ..)| **known == *tag) {
                    outputs.push(Output::Send { id: None, path: path.clone(), bytes: bytes.clone() });
                    effects.deliver = false;
                }
            }
            if machine.is_proceeding() {
                cancel = caller.cancel.take();
            }
        }
        if effects.acknowledge {
            self.acknowledge_failure(id, &response, &mut outputs);
        }
        self.finish_response(id, effects, response, &mut outputs);
        if let Some(extra) = cancel {
            outputs.extend(self.send_cancel(now, id, extra));
        }
        outputs
    }

    fn finish_response(
        &mut self,
        id: TransactionId,
        effects: Effects,
        response: Response,
        outputs: &mut Vec<Output<P>>,
    ) {
        self.apply(id, effects, Some(Output::Response { id, response }), outputs);
    }

    /// The ACK of a failure: made once, from the INVITE and the response's To, and kept instead of the INVITE.
    fn acknowledge_failure(&mut self, id: TransactionId, response: &Response, outputs: &mut Vec<Output<P>>) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let (path, request) = (entry.path.clone(), &entry.bytes);
        let Machine::InviteClient(_, caller) = &mut entry.machine else { return };
        if caller.failure_ack.is_none() {
            let to = response.headers.get(&HeaderName::To).cloned();
            caller.failure_ack =
                stored_request(request).map(|invite| derived(&invite, Method::Ack, to).to_bytes());
            // Only the ACK is needed from here on.
            entry.bytes = bytes::Bytes::new();
        }
        if let Some(bytes) = caller.failure_ack.clone() {
            outputs.push(Output::Send { id: Some(id), path, bytes });
        }
    }
}
