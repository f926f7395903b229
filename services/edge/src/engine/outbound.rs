//! From the calls to the network.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use rand::Rng;
use trunkline_actors::now;
use trunkline_proto::edge::v1::{
    EdgeCommand, SendAck, SendRequest, SendResponse, TransactionFailed, edge_command, transaction_failed,
};
use trunkline_sip::{
    HeaderName, Message, Output, Request, Response, SipUri, TransactionId, Uri, Via, parse_datagram, token,
};
use trunkline_types::EntityAddress;

use super::{Command, Engine, calls::Owner, inbound::reply_path, stray::EDGE_PARAM};
use crate::{
    metrics::class,
    transport::{Path, tcp::Writer},
};

struct Connection {
    peer: SocketAddr,
    writer: Writer,
    /// While it is being opened: the transactions that wait for it. They fail with it.
    opening: Option<Vec<TransactionId>>,
}

/// The writing ends of the open connections.
#[derive(Default)]
pub(super) struct Writers {
    by_number: HashMap<u64, Connection>,
    by_peer: HashMap<SocketAddr, u64>,
}

impl Writers {
    pub fn insert(&mut self, connection: u64, peer: SocketAddr, writer: Writer) {
        self.by_number.insert(connection, Connection { peer, writer, opening: None });
        self.by_peer.insert(peer, connection);
    }

    fn opening(&mut self, connection: u64, peer: SocketAddr, writer: Writer) {
        self.insert(connection, peer, writer);
        self.by_number.entry(connection).and_modify(|entry| entry.opening = Some(Vec::new()));
    }

    pub fn connected(&mut self, connection: u64) {
        self.by_number.entry(connection).and_modify(|entry| entry.opening = None);
    }

    /// Gives the transactions that waited for it to stand.
    pub fn remove(&mut self, connection: u64) -> Vec<TransactionId> {
        let Some(Connection { peer, opening, .. }) = self.by_number.remove(&connection) else {
            return Vec::new();
        };
        if self.by_peer.get(&peer) == Some(&connection) {
            self.by_peer.remove(&peer);
        }
        opening.unwrap_or_default()
    }

    /// `None`: there is no such connection. `false`: its peer takes no more.
    fn send(&mut self, connection: u64, bytes: Bytes, id: Option<TransactionId>) -> Option<bool> {
        let entry = self.by_number.get_mut(&connection)?;
        let sent = entry.writer.send(bytes);
        if sent && let (Some(waiting), Some(id)) = (&mut entry.opening, id) {
            waiting.push(id);
        }
        Some(sent)
    }

    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn has(&self, connection: u64) -> bool {
        self.by_number.contains_key(&connection)
    }

    fn to(&self, peer: SocketAddr) -> Option<u64> {
        self.by_peer.get(&peer).copied()
    }
}

impl Engine {
    pub(super) fn command(&mut self, command: Command) {
        let (call, EdgeCommand { command, .. }) = match command {
            Command::Call { call, command } => (call, command),
            Command::Registrar(answer) => return self.registrar_answered(answer),
        };
        match command {
            Some(edge_command::Command::Response(response)) => self.send_response(&call, response),
            Some(edge_command::Command::Request(request)) => self.send_request(call, request),
            Some(edge_command::Command::Ack(ack)) => self.send_ack(&call, ack),
            Some(edge_command::Command::Relay(relay)) => self.relayed(&relay),
            None => self.parts.metrics.drop("empty_command"),
        }
    }

    fn send_response(&mut self, call: &EntityAddress, command: SendResponse) {
        let Some(response) = parse_response(&command.message) else {
            return self.parts.metrics.drop("bad_command");
        };
        match self.calls.server_id(&command.transaction) {
            // The INVITE has gone on under another id meanwhile.
            Some(id) if !matches!(self.calls.owner(&id), Some(Owner::Server { call: own, .. }) if own == call) =>
            {
                self.parts.metrics.drop("foreign_answer");
            }
            // Outside a dialog a call says so only when it is over.
            Some(id) if response.status == 481 && self.mint_again(id) => {}
            Some(id) => self.answer(id, response),
            // Another edge's, or over already: what matters still (a 2xx) goes past the transaction.
            None => {
                let via = response.headers.top_via().ok();
                if let Some(path) = self.path_of_source(&command.source, &command.transport, via.as_ref()) {
                    self.send_stateless(&response, path);
                }
            }
        }
    }

    pub(super) fn answer(&mut self, id: TransactionId, response: Response) {
        let at = now();
        let status = response.status;
        self.observe_answer(&id, status, at);
        let method = response.headers.cseq().map(|c| c.method.as_str().to_owned()).unwrap_or_default();
        let repeats = method == "INVITE" && (200..300).contains(&status);
        match self.layer.respond(at, id, response) {
            Ok(outputs) => {
                for output in &outputs {
                    if let Output::Send { path, .. } = output {
                        self.count(&method, "out", class(status), *path);
                    }
                }
                if repeats {
                    // The call repeats its 2xx itself until the ACK, so that it outlives this edge.
                    self.layer.acknowledged(id);
                }
                self.perform(outputs);
            }
            // Answered before: the second answer of a retried command.
            Err(error) => tracing::debug!(%error, "an answer came too late"),
        }
    }

    pub(super) fn count(&self, method: &str, direction: &'static str, class: &'static str, path: Path) {
        let trunk = self.parts.settings.trunk_name(path.peer().ip());
        self.parts.metrics.message(method, direction, class, trunk);
    }

    fn send_request(&mut self, call: EntityAddress, command: SendRequest) {
        if let Some(id) = self.calls.client_id(&call, &command.client_transaction) {
            // A command that was sent again: the call has not got the response, if there is one.
            if let Some(Owner::Client { last: Some(last), name, .. }) = self.calls.owner(&id) {
                self.report_response(&call, name.clone(), last.clone());
            }
            return;
        }
        let Some(request) = parse_request(&command.message) else {
            return self.parts.metrics.drop("bad_command");
        };
        let Some(path) = self.path_of_request(&request, &command.source, &command.transport) else {
            let failed = TransactionFailed {
                transaction: command.client_transaction,
                kind: transaction_failed::Kind::Transport.into(),
            };
            return self.report_failed(&call, failed);
        };
        let branch = self.parts.key.branch(&call, &command.client_transaction);
        let Some(request) = self.with_via(request, path, branch) else {
            return self.parts.metrics.drop("bad_command");
        };
        self.count(request.method.as_str(), "out", "request", path);
        match self.layer.send_request(now(), &request, path, path.reliable()) {
            Ok((id, outputs)) => {
                self.calls.client(id, call, command.client_transaction);
                self.perform(outputs);
            }
            Err(error) => {
                tracing::warn!(%error, "a request of a call could not be sent");
                let kind = transaction_failed::Kind::Transport.into();
                self.report_failed(
                    &call,
                    TransactionFailed { transaction: command.client_transaction, kind },
                );
            }
        }
    }

    fn send_ack(&mut self, call: &EntityAddress, command: SendAck) {
        let Some(request) = parse_request(&command.message) else {
            return self.parts.metrics.drop("bad_command");
        };
        let Some(path) = self.path_of_request(&request, &command.source, &command.transport) else {
            return self.parts.metrics.drop("unreachable");
        };
        let invite = self.calls.client_id(call, &command.client_transaction);
        let Some(request) = self.with_via(request, path, None) else {
            return self.parts.metrics.drop("bad_command");
        };
        self.count("ACK", "out", "request", path);
        let outputs = self.layer.send_ack(invite, &request, path);
        self.perform(outputs);
    }

    /// With our Via: `branch`, or one of its own, and the name of this edge beside it, for responses that another edge of
    /// the same address gets.
    fn with_via(&self, mut request: Request, path: Path, branch: Option<String>) -> Option<Request> {
        let advertised = self.parts.advertised;
        let branch = branch.unwrap_or_else(|| token::branch(rand::rng().random()));
        let host = advertised.ip().to_string();
        let mut via = Via::new(path.via_transport(), &host, Some(advertised.port()), &branch)?.with_rport();
        via.params.set(EDGE_PARAM, Some(self.parts.bus.node().as_str()));
        request.headers.push_front(HeaderName::Via, via.to_value());
        Some(request)
    }

    /// The next hop (RFC 3261 section 8.1.2): the top Route, else the Request-URI; a peer behind a NAT or on a
    /// connection of its own is reached where it came from.
    fn path_of_request(&mut self, request: &Request, source: &str, transport: &str) -> Option<Path> {
        let target = match request.headers.route() {
            Ok(route) if !route.is_empty() => match &route[0].uri {
                Uri::Sip(uri) => Some(uri.clone()),
                _ => None,
            },
            _ => match &request.uri {
                Uri::Sip(uri) => Some(uri.clone()),
                _ => None,
            },
        };
        let wants_tcp = target
            .as_ref()
            .and_then(SipUri::transport)
            .map_or(transport == "tcp", |transport| transport.eq_ignore_ascii_case("tcp"));
        if wants_tcp
            && let Ok(source) = source.parse()
            && let Some(connection) = self.writers.to(source)
        {
            return Some(Path::Tcp { connection, peer: source, back: source });
        }
        // A host name, or a private address seen from outside, is answered at the source.
        let literal = target.as_ref().and_then(|uri| {
            let ip: IpAddr = uri.host().trim_matches(['[', ']']).parse().ok()?;
            Some(SocketAddr::new(ip, uri.port.unwrap_or(5060)))
        });
        let source: Option<SocketAddr> = source.parse().ok();
        let peer = match (literal, source) {
            (Some(literal), Some(source)) if is_behind_nat(literal.ip(), source.ip()) => source,
            (Some(literal), _) => literal,
            (None, source) => source?,
        };
        if wants_tcp { self.tcp_path(peer) } else { Some(Path::Udp(peer)) }
    }

    /// Where the answer to a request goes whose transaction is not here.
    fn path_of_source(&mut self, source: &str, transport: &str, via: Option<&Via>) -> Option<Path> {
        let peer = source.parse().ok()?;
        if transport == "tcp" {
            // 0 is no connection's number: the one of the peer, else a new one.
            let connection = self.writers.to(peer).unwrap_or_default();
            return Some(reply_path(Path::Tcp { connection, peer, back: peer }, via));
        }
        Some(reply_path(Path::Udp(peer), via))
    }

    fn tcp_path(&mut self, peer: SocketAddr) -> Option<Path> {
        let connection = self.connection_to(peer)?;
        Some(Path::Tcp { connection, peer, back: peer })
    }

    fn connection_to(&mut self, peer: SocketAddr) -> Option<u64> {
        if let Some(connection) = self.writers.to(peer) {
            return Some(connection);
        }
        let (connection, writer) = self.parts.connections.open(peer)?;
        self.writers.opening(connection, peer, writer);
        Some(connection)
    }

    pub(super) fn send_stateless(&mut self, response: &Response, path: Path) {
        let method = response.headers.cseq().map(|c| c.method.as_str().to_owned()).unwrap_or_default();
        self.count(&method, "out", class(response.status), path);
        self.transmit(path, response.to_bytes(), None);
    }

    /// False when the peer cannot be reached.
    pub(super) fn transmit(&mut self, path: Path, bytes: Bytes, id: Option<TransactionId>) -> bool {
        match path {
            Path::Udp(peer) => match self.parts.udp.try_send_to(&bytes, peer) {
                Ok(_) => {
                    self.parts.tap.sent(peer, &bytes);
                    true
                }
                // A full socket buffer is a lost datagram: the transaction's timers send it again.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.parts.metrics.drop("send_buffer_full");
                    true
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "datagram not sent");
                    false
                }
            },
            Path::Tcp { connection, back, .. } => {
                // The peer's own connection may be gone: RFC 3261 section 18.2.2 wants a new one.
                let connection = if self.writers.has(connection) {
                    connection
                } else {
                    match self.connection_to(back) {
                        Some(connection) => connection,
                        None => return false,
                    }
                };
                let sent = self.writers.send(connection, bytes, id).unwrap_or(false);
                if !sent {
                    self.give_connection_up(connection);
                }
                sent
            }
        }
    }

    /// Its peer does not read: closing it is the only bound.
    fn give_connection_up(&mut self, connection: u64) {
        self.parts.metrics.drop("peer_does_not_read");
        for id in self.writers.remove(connection) {
            let outputs = self.layer.transport_failed(now(), id);
            self.perform(outputs);
        }
    }
}

fn parse_response(message: &Bytes) -> Option<Response> {
    match parse_datagram(message) {
        Ok(Message::Response(response)) => Some(response),
        _ => None,
    }
}

/// Requests come from the calls without a Via, and without one the parser takes no request: it gets one that is taken
/// out again.
fn parse_request(message: &Bytes) -> Option<Request> {
    let line = message.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let mut whole = Vec::with_capacity(message.len() + 64);
    whole.extend_from_slice(&message[..line]);
    whole.extend_from_slice(b"Via: SIP/2.0/UDP none.invalid;branch=z9hG4bKnone\r\n");
    whole.extend_from_slice(&message[line..]);
    match parse_datagram(&whole.into()) {
        Ok(Message::Request(mut request)) => {
            request.headers.remove(&HeaderName::Via);
            Some(request)
        }
        _ => None,
    }
}

fn is_behind_nat(contact: IpAddr, source: IpAddr) -> bool {
    is_private(contact) && !is_private(source) && contact != source
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_calls_are_read_without_a_via() {
        let text = "BYE sip:a@127.0.0.1:5062 SIP/2.0\r\nFrom: <sip:b@x>;tag=1\r\nTo: <sip:a@x>;tag=2\r\n\
                    Call-ID: c\r\nCSeq: 1 BYE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";
        let request = parse_request(&Bytes::from_static(text.as_bytes())).unwrap();
        assert!(!request.headers.contains(&HeaderName::Via));
        assert_eq!(parse_request(&Bytes::from_static(b"nonsense")), None);
    }

    #[test]
    fn a_private_contact_seen_from_outside_is_behind_a_nat() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_behind_nat(ip("192.168.1.5"), ip("203.0.113.9")));
        assert!(!is_behind_nat(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(!is_behind_nat(ip("198.51.100.1"), ip("203.0.113.9")));
    }
}
