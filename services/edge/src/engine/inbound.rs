//! From the network to the calls.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::Rng;
use trunkline_actors::now;
use trunkline_proto::{
    call::v1::{CallMessage, call_message},
    common::v1::{Envelope, Role},
    edge::v1::{
        Cancelled, EdgeEvent, IncomingRequest, IncomingResponse, TransactionFailed, edge_event,
        transaction_failed,
    },
};
use trunkline_rpc::{Refused, entity};
use trunkline_sip::{
    DropReason, Frame, HeaderName, Message, Method, Request, Response, TransactionId, Unacceptable, Uri, Via,
    parse_datagram, token, uas,
};
use trunkline_telemetry::{TraceParent, trace_id_of};
use trunkline_types::{EntityAddress, TenantId, Timestamp};

use super::{
    Engine, Failure,
    admission::{Passed, describe},
    calls::{Arrival, Owner, Setup},
    mint, trace,
    waiting::Again,
};
use crate::{
    metrics::class,
    transport::{Path, tcp::ConnectionEvent},
};

impl Engine {
    pub(super) fn datagram(&mut self, bytes: Bytes, source: SocketAddr) {
        let path = Path::Udp(source);
        let parsed = parse_datagram(&bytes);
        // Noise that nobody answers is no message.
        if !matches!(parsed, Err(Unacceptable::Drop(_))) {
            self.parts.tap.received(source, &bytes);
        }
        match parsed {
            Ok(message) => self.message(message, path),
            Err(Unacceptable::Drop(reason)) => {
                tracing::debug!(%source, ?reason, "datagram dropped");
                let keep_alive = reason == DropReason::KeepAlive;
                self.parts.metrics.drop(if keep_alive { "keep_alive" } else { "unparsable" });
            }
            Err(Unacceptable::Reject(rejection)) => self.reject(*rejection, path),
        }
    }

    pub(super) fn connection_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Opened { connection, peer, writer } => {
                self.writers.insert(connection, peer, writer)
            }
            ConnectionEvent::Connected { connection } => self.writers.connected(connection),
            ConnectionEvent::Closed { connection } => self.closed(connection),
            // Given up meanwhile, since its peer does not read: no answer would arrive.
            ConnectionEvent::Frame { connection, .. } if !self.writers.has(connection) => {
                self.parts.metrics.drop("peer_does_not_read");
            }
            ConnectionEvent::Frame { connection, peer, frame } => {
                let path = Path::Tcp { connection, peer, back: peer };
                match frame {
                    Frame::Message(message) => self.message(*message, path),
                    Frame::Rejected { rejection, .. } => self.reject(*rejection, path),
                    Frame::Dropped { .. } => self.parts.metrics.drop("unparsable"),
                    Frame::Ping | Frame::Pong => {}
                }
            }
        }
        self.parts.metrics.connections.set(self.writers.len() as i64);
    }

    fn message(&mut self, message: Message, path: Path) {
        match message {
            Message::Request(mut request) => {
                self.count(request.method.as_str(), "in", "request", path);
                trunkline_sip::stamp_source(&mut request, path.peer());
                let is_checked = request.method != Method::Ack && request.method != Method::Cancel;
                if is_checked && let Err(rejection) = uas::check_request(&request, &self.capabilities) {
                    return self.reject(*rejection, path);
                }
                let reply = reply_path(path, request.headers.top_via().ok().as_ref());
                if let Some(answer) = self.answer_at_once(&request, path) {
                    return self.send_stateless(&answer, reply);
                }
                let outputs = self.layer.on_request(now(), request, reply, path.reliable());
                self.perform(outputs);
            }
            Message::Response(response) => {
                let method =
                    response.headers.cseq().map(|c| c.method.as_str().to_owned()).unwrap_or_default();
                self.count(&method, "in", class(response.status), path);
                if uas::check_response(&response).is_err() {
                    return self.parts.metrics.drop("bad_response");
                }
                let outputs = self.layer.on_response(now(), response);
                self.perform(outputs);
            }
        }
    }

    /// Answers to what could not be accepted go out without a transaction: there is nothing to be kept for it.
    fn reject(&mut self, mut rejection: trunkline_sip::Rejection, path: Path) {
        if rejection.method == Some(Method::Ack) {
            return self.parts.metrics.drop("bad_ack");
        }
        self.parts.metrics.reject("malformed");
        rejection.stamp_source(path.peer());
        let response = rejection.to_response(&self.new_tag());
        let path = reply_path(path, response.headers.top_via().ok().as_ref());
        self.send_stateless(&response, path);
    }

    pub(super) fn refuse_stateless(
        &mut self,
        request: &Request,
        path: Path,
        status: u16,
        reason: &'static str,
    ) {
        self.parts.metrics.reject(reason);
        let response = Response::to(request, status).with_to_tag(&self.layer.to_tag(request));
        self.send_stateless(&response, path);
    }

    pub(super) fn new_tag(&self) -> String {
        token::tag(rand::rng().random())
    }

    /// A request that is new to the transaction layer and is for a call.
    pub(super) fn request(&mut self, id: TransactionId, request: Request, path: Path) {
        match (&request.method, request.is_in_dialog()) {
            (_, true) => self.in_dialog(id, request, path),
            (Method::Invite, false) => self.invite(id, request, path),
            (Method::Register, false) => self.register(id, request, path),
            _ => self.refuse(id, &request, 500, "internal"),
        }
    }

    /// In-dialog requests are never shed: one that the call cannot take now is given to it again.
    fn in_dialog(&mut self, id: TransactionId, request: Request, path: Path) {
        let Some(call) = self.token_call(&request) else {
            return self.refuse(id, &request, 481, "no_dialog");
        };
        let arrival = self.arrival(&request, call.clone(), path, now());
        let event = self.calls.server(id, arrival);
        let _ = self.to_call(&call, edge_event::Event::Request(event));
    }

    /// The call that the Request-URI names (our Contact), or our tag, for peers that ignore Contact.
    pub(super) fn token_call(&self, request: &Request) -> Option<EntityAddress> {
        let by_uri = match &request.uri {
            Uri::Sip(uri) => uri.user().and_then(|user| self.parts.key.call(&user)),
            _ => None,
        };
        by_uri.or_else(|| self.parts.key.call(&request.headers.to_tag()?))
    }

    fn arrival(&self, request: &Request, call: EntityAddress, path: Path, at: Timestamp) -> Arrival {
        let tag = || self.layer.to_tag(request);
        let event = IncomingRequest {
            message: without_credentials(request),
            source: path.peer().to_string(),
            transport: path.name().to_owned(),
            ..IncomingRequest::default()
        };
        Arrival {
            call,
            setup: None,
            invite: (request.method == Method::Invite).then(tag),
            load: None,
            event,
            unanswered: Response::to(request, 500),
            at,
        }
    }

    fn invite(&mut self, id: TransactionId, request: Request, path: Path) {
        // Judged before it got its transaction.
        let Some(Passed::Call(admitted)) = self.take_passed(&request) else {
            return self.refuse(id, &request, 500, "internal");
        };
        let trunk = admitted.trunk.clone();
        let at = now();
        let parts = &self.parts;
        let minted = mint::call_id(&parts.key, &*parts.placement, &trunk.name, &request, at, 0);
        let Some(call) = minted else {
            return self.refuse(id, &request, 503, "no_shard");
        };
        let address = EntityAddress::call(&trunk.tenant, call);
        let contact = self.contact_uri(&trunk.tenant, call, path.name());
        let new_call = describe(&request, &admitted, contact);
        let span = trace::new_call_span(call, &request, &trunk, path);
        trace::tell(call, &request, &new_call);
        let setup = Setup { since: at, trunk: trunk.name.clone(), rung: false };
        let mut arrival = Arrival {
            setup: Some(setup),
            load: Some(self.parts.loads.begin_at(&*self.parts.placement, call.shard())),
            ..self.arrival(&request, address.clone(), path, at)
        };
        arrival.event.new_call = Some(new_call);
        let event = edge_event::Event::Request(self.calls.server(id, arrival));
        let traceparent = TraceParent::header(TraceParent::of_span(&span));
        if let Err(error) = self.to_call_under(traceparent, &address, event, at) {
            if self.may_log_refusal() {
                tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), %error, "a new call was refused");
            }
            span.record("otel.status_code", "ERROR");
            // There is no call that could be told of what follows.
            self.calls.forget(&id);
            self.refuse(id, &request, 503, "capacity");
        }
    }

    /// The call has not answered yet: its owner may have died with the request in its hands.
    pub(super) fn give_again(&mut self, id: TransactionId, again: Again) {
        let Some(Owner::Server { call, name, .. }) = self.calls.owner(&id).cloned() else { return };
        self.parts.metrics.given_again.inc();
        // One that cannot be had now is told the next time.
        let _ = match again {
            Again::Request(request, since) => {
                self.to_call_under(String::new(), &call, edge_event::Event::Request(*request), since)
            }
            Again::Cancelled(reason) => {
                self.to_call(&call, edge_event::Event::Cancelled(Cancelled { transaction: name, reason }))
            }
        };
    }

    /// The id of a new call names one that is over: a peer uses its identifiers again. True: the INVITE goes on under
    /// another id.
    pub(super) fn mint_again(&mut self, id: TransactionId) -> bool {
        let Some((event, tries)) = self.calls.waits.new_call(&id).filter(|(_, n)| *n < mint::MAX_TRIES)
        else {
            return false;
        };
        let (Ok(Message::Request(request)), Some(new_call)) =
            (parse_datagram(&event.message), event.new_call.as_ref())
        else {
            return false;
        };
        let Ok(tenant) = new_call.tenant.parse::<TenantId>() else { return false };
        let (at, parts) = (now(), &self.parts);
        let minted = mint::call_id(&parts.key, &*parts.placement, &new_call.trunk, &request, at, tries);
        let Some(call) = minted else { return false };
        let contact = self.contact_uri(&tenant, call, &event.transport);
        let address = EntityAddress::call(&tenant, call);
        let load = self.parts.loads.begin_at(&*self.parts.placement, call.shard());
        self.calls.move_to(&id, address.clone(), load);
        let Some(event) = self.calls.waits.renewed(&id, &contact, at) else { return false };
        tracing::info!(
            call_id = %call,
            trace_id = %trace_id_of(call),
            "an INVITE with the identifiers of a call that is over: a call of its own"
        );
        let _ = self.to_call_under(String::new(), &address, edge_event::Event::Request(event), at);
        true
    }

    /// The ACK of a 2xx belongs to the dialog, not to a transaction.
    pub(super) fn ack(&mut self, id: Option<TransactionId>, request: Request) {
        let by_transaction = id.and_then(|id| match self.calls.owner(&id) {
            Some(Owner::Server { call, .. }) => Some(call.clone()),
            _ => None,
        });
        let Some(call) = self.token_call(&request).or(by_transaction) else {
            return self.parts.metrics.drop("stray_ack");
        };
        let event = edge_event::Event::Request(IncomingRequest {
            message: without_credentials(&request),
            ..IncomingRequest::default()
        });
        if self.to_call(&call, event).is_err() {
            self.parts.metrics.drop("stray_ack");
        }
    }

    pub(super) fn cancelled(&mut self, id: TransactionId, cancel: &Request) {
        let Some(Owner::Server { call, name, .. }) = self.calls.owner(&id).cloned() else {
            return;
        };
        let reason = cancel.headers.get_str(&HeaderName::Reason).unwrap_or_default();
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        self.calls.waits.cancelled(&id, &reason, now());
        let event = edge_event::Event::Cancelled(Cancelled { transaction: name, reason });
        // One that is swamped, or on its way to another node, is told again.
        let _ = self.to_call(&call, event);
    }

    /// The call has not answered in time: the peer is, and the call learns that it is over.
    pub(super) fn give_up(&mut self, id: TransactionId) {
        let Some(response) = self.calls.waits.give_up(&id) else { return };
        self.parts.metrics.reject("unanswered");
        self.failed(id, Failure::Timeout);
        self.answer(id, response);
    }

    /// A connection is gone. What was to go out over one that never stood has failed.
    fn closed(&mut self, connection: u64) {
        for id in self.writers.remove(connection) {
            let outputs = self.layer.transport_failed(now(), id);
            self.perform(outputs);
        }
    }

    pub(super) fn response(&mut self, id: TransactionId, response: &Response) {
        let bytes = response.to_bytes();
        let Some((call, name)) = self.calls.responded(&id, response.status, &bytes) else {
            return self.parts.metrics.drop("stray_response");
        };
        self.report_response(&call, name, bytes);
    }

    /// One that gets lost on the way is asked for again: the call repeats its request.
    pub(super) fn report_response(&self, call: &EntityAddress, client_transaction: String, message: Bytes) {
        let event = IncomingResponse { client_transaction, message };
        let _ = self.to_call(call, edge_event::Event::Response(event));
    }

    pub(super) fn failed(&mut self, id: TransactionId, failure: Failure) {
        let (call, transaction) = match self.calls.owner(&id).cloned() {
            Some(Owner::Server { call, name, .. } | Owner::Client { call, name, .. }) => (call, name),
            None => return,
        };
        let kind = match failure {
            Failure::Timeout => transaction_failed::Kind::Timeout,
            Failure::Transport => transaction_failed::Kind::Transport,
            Failure::NoAck => transaction_failed::Kind::NoAck,
        };
        self.report_failed(&call, TransactionFailed { transaction, kind: kind.into() });
    }

    pub(super) fn report_failed(&self, call: &EntityAddress, failed: TransactionFailed) {
        let _ = self.to_call(call, edge_event::Event::Failed(failed));
    }

    fn to_call(&self, call: &EntityAddress, event: edge_event::Event) -> Result<(), Refused> {
        self.to_call_under(String::new(), call, event, now())
    }

    /// With the span that the event belongs to, and when it came from the network.
    fn to_call_under(
        &self,
        traceparent: String,
        call: &EntityAddress,
        event: edge_event::Event,
        received: Timestamp,
    ) -> Result<(), Refused> {
        let event = EdgeEvent {
            edge: self.parts.bus.node().as_str().to_owned(),
            received_us: received.as_micros(),
            event: Some(event),
        };
        let message = CallMessage { message: Some(call_message::Message::Edge(event)) };
        self.parts.bus.send(Envelope {
            to: Some(entity(call)),
            from: Some(self.parts.bus.own(Role::Edge)),
            traceparent,
            payload: Some(trunkline_proto::common::v1::envelope::Payload::Call(message)),
            ..Envelope::default()
        })
    }

    pub(super) fn refuse(&mut self, id: TransactionId, request: &Request, status: u16, reason: &'static str) {
        self.parts.metrics.reject(reason);
        let response = Response::to(request, status).with_to_tag(&self.new_tag());
        self.answer(id, response);
    }

    pub(super) fn observe_answer(&mut self, id: &TransactionId, status: u16, at: Timestamp) {
        if let Some((call, setup)) = self.calls.answered(id, status, at)
            && let Ok(call) = call.id.parse()
        {
            self.parts.metrics.answered(status, setup.trunk, at.since(setup.since), call);
        }
    }
}

/// A request as others may see and keep it.
pub(super) fn without_credentials(request: &Request) -> Bytes {
    let secret = [HeaderName::Authorization, HeaderName::ProxyAuthorization];
    if !secret.iter().any(|header| request.headers.contains(header)) {
        return request.to_bytes();
    }
    let mut request = request.clone();
    for header in secret {
        request.headers.remove(&header);
    }
    request.to_bytes()
}

/// Longest content of a Reason that goes to the call, in characters.
const REASON_CHARS: usize = 256;

/// Where answers to a request from `path` go (RFC 3261 section 18.2.2, RFC 3581): over UDP to the source address and the
/// Via's port, or its source port when it asked for that. `maddr` is not heeded: it would direct answers at third
/// parties, and is for multicast.
pub(super) fn reply_path(path: Path, via: Option<&Via>) -> Path {
    let port = via.and_then(|via| via.port).unwrap_or(5_060);
    match path {
        Path::Udp(source) => {
            let asked = via.is_none_or(|via| via.rport().is_some());
            Path::Udp(if asked { source } else { SocketAddr::new(source.ip(), port) })
        }
        Path::Tcp { connection, peer, .. } => {
            Path::Tcp { connection, peer, back: SocketAddr::new(peer.ip(), port) }
        }
    }
}
