//! From the network to the calls.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::Rng;
use trunkline_actors::now;
use trunkline_proto::{
    call::v1::{CallMessage, call_message},
    common::v1::{Envelope, Role},
    edge::v1::{
        Cancelled, EdgeEvent, IncomingRequest, IncomingResponse, NewCall, TransactionFailed, edge_event,
        new_call, transaction_failed,
    },
};
use trunkline_rpc::{Refused, entity};
use trunkline_sip::{
    Frame, HeaderName, Message, Method, Request, Response, TransactionId, Unacceptable, Uri, parse_datagram,
    token, uas,
};
use trunkline_telemetry::{
    TraceParent, call_span, trace_id_of,
    tracing::{Span, field::Empty},
};
use trunkline_types::{CallId, DialString, EntityAddress, TenantId, Timestamp, mask_number};

use super::{
    Engine, Failure,
    calls::{Owner, Setup},
};
use crate::{
    Destination,
    config::{Registrations, Trunk},
    metrics::class,
    transport::{Path, tcp::ConnectionEvent},
};

impl Engine {
    pub(super) fn datagram(&mut self, bytes: Bytes, source: SocketAddr) {
        let path = Path::Udp(source);
        match parse_datagram(&bytes) {
            Ok(message) => self.message(message, path),
            Err(Unacceptable::Drop(reason)) => {
                tracing::debug!(%source, ?reason, "datagram dropped");
                self.parts.metrics.drop("unparsable");
            }
            Err(Unacceptable::Reject(rejection)) => self.reject(*rejection, path),
        }
    }

    pub(super) fn connection_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Opened { connection, peer, writer } => {
                self.writers.insert(connection, peer, writer)
            }
            ConnectionEvent::Closed { connection } => self.writers.remove(connection),
            ConnectionEvent::Frame { connection, peer, frame } => {
                let path = Path::Tcp { connection, peer };
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
                let reply = self.reply_path(path, request.headers.top_via().ok().as_ref());
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
        let response = Response::to(request, status).with_to_tag(&self.new_tag());
        self.send_stateless(&response, path);
    }

    pub(super) fn new_tag(&self) -> String {
        token::tag(rand::rng().random())
    }

    /// A request that is new to the transaction layer.
    pub(super) fn request(&mut self, id: TransactionId, request: Request, path: Path) {
        let in_dialog = request.is_in_dialog();
        match (&request.method, in_dialog) {
            (_, true) => self.in_dialog(id, request, path),
            (Method::Invite, false) => self.invite(id, request, path),
            (Method::Options, false) => {
                let answer = uas::options_answer(&request, &self.capabilities, &self.new_tag());
                self.answer(id, answer);
            }
            (Method::Register, false) => {
                let trunk = self.parts.settings.trunk_of(path.peer().ip());
                let policy = trunk.map_or(Registrations::Challenge, |trunk| trunk.registrations);
                let answer = self.registrar.answer(now(), &request, policy, &self.new_tag());
                self.answer(id, answer);
            }
            // RFC 3261 section 12.2.2: outside a dialog these mean nothing.
            (Method::Bye | Method::Update | Method::Info | Method::Prack | Method::Notify, false) => {
                self.refuse(id, &request, 481, "no_dialog");
            }
            _ => self.refuse(id, &request, 405, "method"),
        }
    }

    fn in_dialog(&mut self, id: TransactionId, request: Request, path: Path) {
        let Some(call) = self.token_call(&request) else {
            return self.refuse(id, &request, 481, "no_dialog");
        };
        let name = self.calls.server(id, call.clone(), None);
        let event = self.incoming(name, &request, path, None);
        // In-dialog requests are never shed for load; a call that cannot be reached is answered so that the peer
        // tries again (RFC 3261 section 21.5.1: 500 with Retry-After leaves the dialog alone).
        if let Err(refused) = self.to_call(&call, event) {
            let status = if refused == Refused::Unroutable { 481 } else { 500 };
            self.refuse(id, &request, status, "undeliverable");
        }
    }

    /// The call that the Request-URI names (our Contact), or our tag, for peers that ignore Contact.
    fn token_call(&self, request: &Request) -> Option<EntityAddress> {
        let by_uri = match &request.uri {
            Uri::Sip(uri) => uri.user().and_then(|user| self.parts.key.call(&user)),
            _ => None,
        };
        by_uri.or_else(|| self.parts.key.call(&request.headers.to_tag()?))
    }

    fn invite(&mut self, id: TransactionId, request: Request, path: Path) {
        let Some(trunk) = self.parts.settings.trunk_of(path.peer().ip()).cloned() else {
            return self.refuse(id, &request, 403, "unknown_source");
        };
        if self.overloaded() {
            return self.refuse(id, &request, 503, "overload");
        }
        let Some(dialled) = dialled(&request) else {
            return self.refuse(id, &request, 404, "unknown_number");
        };
        let Some(destination) = self.parts.dial_plan.resolve(&trunk.tenant, &dialled) else {
            tracing::info!(dialled = %mask_number(dialled.as_str()), trunk = %trunk.name, "nobody has this number");
            return self.refuse(id, &request, 404, "unknown_number");
        };
        let at = now();
        let minted =
            trunkline_cluster::mint_call(&*self.parts.placement, &self.parts.loads, at, rand::rng().random());
        let Ok(call) = minted else {
            return self.refuse(id, &request, 503, "no_shard");
        };
        let address = EntityAddress::call(&trunk.tenant, call);
        let contact = self.contact_uri(&trunk.tenant, call, path);
        let new_call = describe(&request, &trunk, dialled, destination, contact);
        let span = new_call_span(call, &request, &trunk, path);
        tracing::info!(
            call_id = %call, trace_id = %trace_id_of(call), sip_call_id = %sip_call_id(&request),
            trunk = %trunk.name, dialled = %mask_number(&new_call.dialled),
            caller = %mask_number(&new_call.caller_number), "new call"
        );
        let setup = Setup { since: at, trunk: trunk.name.clone(), rung: false };
        let name = self.calls.server(id, address.clone(), Some(setup));
        let event = self.incoming(name, &request, path, Some(new_call));
        let traceparent = TraceParent::header(TraceParent::of_span(&span));
        if let Err(error) = self.to_call_under(traceparent, &address, event) {
            tracing::warn!(call_id = %call, trace_id = %trace_id_of(call), %error, "a new call was refused");
            span.record("otel.status_code", "ERROR");
            self.refuse(id, &request, 503, "capacity");
        }
    }

    fn incoming(
        &self,
        transaction: String,
        request: &Request,
        path: Path,
        new_call: Option<NewCall>,
    ) -> edge_event::Event {
        edge_event::Event::Request(IncomingRequest {
            transaction,
            message: request.to_bytes(),
            source: path.peer().to_string(),
            transport: path.name().to_owned(),
            new_call,
        })
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
            message: request.to_bytes(),
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
        let reason = cancel.headers.get_str(&HeaderName::Reason).map(|r| r.into_owned()).unwrap_or_default();
        // Lost only when the call is gone or swamped: then the INVITE's own answer ends the transaction.
        let _ = self.to_call(&call, edge_event::Event::Cancelled(Cancelled { transaction: name, reason }));
    }

    pub(super) fn response(&mut self, id: TransactionId, response: &Response) {
        let Some(Owner::Client { call, name }) = self.calls.owner(&id).cloned() else {
            return self.parts.metrics.drop("stray_response");
        };
        let event = IncomingResponse { client_transaction: name, message: response.to_bytes() };
        let _ = self.to_call(&call, edge_event::Event::Response(event));
    }

    pub(super) fn failed(&mut self, id: TransactionId, failure: Failure) {
        let (call, transaction) = match self.calls.owner(&id).cloned() {
            Some(Owner::Server { call, name, .. } | Owner::Client { call, name }) => (call, name),
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
        self.to_call_under(String::new(), call, event)
    }

    /// With the span that the event belongs to.
    fn to_call_under(
        &self,
        traceparent: String,
        call: &EntityAddress,
        event: edge_event::Event,
    ) -> Result<(), Refused> {
        let event = EdgeEvent {
            edge: self.parts.bus.node().as_str().to_owned(),
            received_us: now().as_micros(),
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

    fn refuse(&mut self, id: TransactionId, request: &Request, status: u16, reason: &'static str) {
        self.parts.metrics.reject(reason);
        let response = Response::to(request, status).with_to_tag(&self.new_tag());
        self.answer(id, response);
    }

    pub(super) fn observe_answer(&mut self, id: &TransactionId, status: u16, at: Timestamp) {
        if let Some(setup) = self.calls.answered(id, status) {
            self.parts.metrics.answered(status, setup.trunk, at.since(setup.since));
        }
    }
}

/// From the INVITE's being understood until the call has it.
fn new_call_span(call: CallId, request: &Request, trunk: &Trunk, path: Path) -> Span {
    call_span!(
        "sip.invite",
        call,
        sip_call_id = %sip_call_id(request),
        trunk = %trunk.name,
        transport = path.name(),
        otel.status_code = Empty
    )
}

/// The Call-ID, cut to what a log line bears.
fn sip_call_id(request: &Request) -> String {
    let id = request.headers.get_str(&HeaderName::CallId).unwrap_or_default();
    id.chars().take(128).collect()
}

/// The user part of the Request-URI (RFC 3261 section 8.2.2.1), or the number of a tel URI.
fn dialled(request: &Request) -> Option<DialString> {
    match &request.uri {
        Uri::Sip(uri) => uri.user()?.parse().ok(),
        Uri::Tel(uri) => uri.number().parse().ok(),
        Uri::Other(_) => None,
    }
}

fn describe(
    request: &Request,
    trunk: &Trunk,
    dialled: DialString,
    to: Destination,
    contact_uri: String,
) -> NewCall {
    let asserted = if trunk.trust_identity { request.headers.asserted_identities().ok() } else { None };
    let identity = asserted.and_then(|list| list.into_iter().next()).or_else(|| request.headers.from().ok());
    let private = request.headers.privacy().iter().any(|v| v == "id" || v == "user");
    let (mut caller_number, mut caller_name) = (String::new(), String::new());
    if let Some(identity) = identity.filter(|_| !private) {
        caller_number = match &identity.uri {
            Uri::Sip(uri) => uri.user().unwrap_or_default(),
            Uri::Tel(uri) => uri.number().to_owned(),
            Uri::Other(_) => String::new(),
        };
        caller_name = identity.display_text().map(|text| text.to_string()).unwrap_or_default();
        if caller_number.eq_ignore_ascii_case("anonymous") {
            caller_number.clear();
            caller_name.clear();
        }
    }
    NewCall {
        tenant: trunk.tenant.as_str().to_owned(),
        dialled: dialled.as_str().to_owned(),
        destination: Some(match to {
            Destination::Queue(queue) => new_call::Destination::Queue(queue.as_str().to_owned()),
            Destination::Flow(flow) => new_call::Destination::Flow(flow.as_str().to_owned()),
        }),
        caller_number: caller_number.chars().take(128).collect(),
        caller_name: caller_name.chars().take(128).collect(),
        contact_uri,
        trunk: trunk.name.to_string(),
    }
}

impl Engine {
    fn contact_uri(&self, tenant: &TenantId, call: trunkline_types::CallId, path: Path) -> String {
        let user = self.parts.key.user(tenant, call);
        match path {
            Path::Udp(_) => format!("sip:{user}@{}", self.parts.advertised),
            Path::Tcp { .. } => format!("sip:{user}@{};transport=tcp", self.parts.advertised),
        }
    }
}
