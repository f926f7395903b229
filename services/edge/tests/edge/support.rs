use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
    time::timeout,
};
use trunkline_actors::now;
use trunkline_cluster::{EmbeddedPlacement, Incarnation, Loads, Placement};
use trunkline_edge::{
    Accounts, Config, Destination, DialPlan, Edge, EdgeMetrics, EdgeParts, Registrations, TelephoneAccount,
    TokenKey, TrunkConfig,
};
use trunkline_journal::{SqliteJournal, SqliteOptions};
use trunkline_proto::{
    call::v1::{CallMessage, call_message},
    common::v1::{Envelope, Role, envelope::Payload},
    edge::v1::{
        EdgeCommand, EdgeEvent, IncomingRequest, SendRequest, SendResponse, edge_command::Command, edge_event,
    },
};
use trunkline_rpc::{Bus, BusMetrics, Deliver, Refused};
use trunkline_sip::{HeaderName, Message, Method, Request, Response, parse_datagram};
use trunkline_telemetry::hep::Hep;
use trunkline_types::{CallId, DialString, EntityAddress, EntityKind, Epoch, NodeId, ShardId, TenantId};

/// Every wait of these tests.
pub const SOON: Duration = Duration::from_secs(10);
pub const KEY: [u8; 32] = [9; 32];

struct Numbers;

impl DialPlan for Numbers {
    fn resolve(&self, _: &TenantId, dialled: &DialString) -> Option<Destination> {
        match dialled.as_str() {
            "support" | "+493012345" => Some(Destination::Queue("support".parse().unwrap())),
            "menu" => Some(Destination::Flow("main".parse().unwrap())),
            _ => None,
        }
    }
}

/// Telephones' accounts, when there are any.
struct Telephones(Vec<TelephoneAccount>);

impl Accounts for Telephones {
    fn any(&self) -> bool {
        !self.0.is_empty()
    }

    fn has_realm(&self, realm: &str) -> bool {
        realm == "phones.example"
    }

    fn telephone(&self, realm: &str, user: &str) -> Option<Arc<TelephoneAccount>> {
        let found = self.0.iter().find(|account| account.name.as_str() == user)?;
        (realm == "default").then(|| Arc::new(found.clone()))
    }
}

/// The call end: notes what comes, refuses when told to.
struct CallEnd {
    events: mpsc::Sender<(EntityAddress, EdgeEvent)>,
    refuse: Mutex<Option<Refused>>,
}

impl Deliver for CallEnd {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        if let Some(refused) = *self.refuse.lock().unwrap() {
            return Err(refused);
        }
        let Some(Payload::Call(CallMessage { message: Some(call_message::Message::Edge(event)) })) =
            envelope.payload
        else {
            return Err(Refused::Unroutable);
        };
        self.events.try_send((address.unwrap(), event)).map_err(|_| Refused::Full)
    }
}

pub struct Node {
    pub edge: Edge,
    pub bus: Bus,
    pub loads: Arc<Loads>,
    registry: Registry,
    calls: Arc<CallEnd>,
    events: mpsc::Receiver<(EntityAddress, EdgeEvent)>,
}

/// 127.0.0.1 is believed, 127.0.0.2 is not, 127.0.0.3 is a stranger.
pub fn config() -> Config {
    let trunk = |name: &str, source: &str, trust_identity| TrunkConfig {
        name: name.to_owned(),
        tenant: "default".parse().unwrap(),
        sources: vec![source.to_owned()],
        trust_identity,
        registrations: Registrations::Challenge,
    };
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        trunks: vec![trunk("trusted", "127.0.0.1", true), trunk("carrier", "127.0.0.2", false)],
        ..Config::default()
    }
}

/// With SIP timers of a fiftieth: a transaction is over after 640 ms.
pub fn fast() -> Config {
    Config { t1_ms: 10, t2_ms: 80, ..config() }
}

impl Node {
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, false, Hep::off(), Vec::new()).await
    }

    /// One with these accounts. It has the same keys as every other edge of these tests.
    pub async fn start_telephones(config: Config, accounts: Vec<TelephoneAccount>) -> Self {
        Self::start_with(config, false, Hep::off(), accounts).await
    }

    /// One whose node has lost all shards.
    pub async fn start_fenced(config: Config) -> Self {
        Self::start_with(config, true, Hep::off(), Vec::new()).await
    }

    /// One whose messages are captured.
    pub async fn start_captured(config: Config, hep: Hep) -> Self {
        Self::start_with(config, false, hep, Vec::new()).await
    }

    async fn start_with(config: Config, fenced: bool, hep: Hep, accounts: Vec<TelephoneAccount>) -> Self {
        let journal = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
        let id: NodeId = "n1".parse().unwrap();
        let placement = EmbeddedPlacement::start(&journal, id.clone(), Incarnation(1)).await.unwrap();
        if fenced {
            ShardId::all().for_each(|shard| placement.fenced(shard, Epoch(99)));
        }
        let bus = Bus::new(id, BusMetrics::default(), now);
        let (sender, events) = mpsc::channel(100_000);
        let calls = Arc::new(CallEnd { events: sender, refuse: Mutex::default() });
        bus.attach_entities(EntityKind::Call, calls.clone());
        let (mut registry, loads) = (Registry::default(), Loads::new(1));
        let parts = EdgeParts {
            bus: bus.clone(),
            placement: Arc::new(placement),
            loads: loads.clone(),
            dial_plan: Arc::new(Numbers),
            accounts: Arc::new(Telephones(accounts)),
            key: TokenKey::new(&KEY),
            metrics: EdgeMetrics::register(&mut registry),
            hep,
        };
        let edge = Edge::start(config, parts).await.unwrap();
        Self { edge, bus, loads, registry, calls, events }
    }

    pub fn address(&self) -> SocketAddr {
        self.edge.local_addr()
    }

    pub fn refuse(&self, refused: Option<Refused>) {
        *self.calls.refuse.lock().unwrap() = refused;
    }

    /// What comes to a call next, without what it was told before.
    pub async fn event(&mut self) -> (EntityAddress, edge_event::Event) {
        loop {
            match self.any_event().await {
                (_, edge_event::Event::Request(request)) if request.attempt > 0 => {}
                event => return event,
            }
        }
    }

    /// What comes to a call next.
    pub async fn any_event(&mut self) -> (EntityAddress, edge_event::Event) {
        let (call, event) = timeout(SOON, self.events.recv()).await.expect("an event for a call").unwrap();
        assert_eq!(event.edge, "n1");
        (call, event.event.unwrap())
    }

    /// The request that comes to a call again next.
    pub async fn again(&mut self) -> (EntityAddress, IncomingRequest) {
        loop {
            match self.any_event().await {
                (call, edge_event::Event::Request(request)) if request.attempt > 0 => return (call, request),
                (_, edge_event::Event::Request(_)) => {}
                other => panic!("not a request: {other:?}"),
            }
        }
    }

    /// The request that comes to a call next.
    pub async fn request(&mut self) -> (EntityAddress, IncomingRequest) {
        match self.event().await {
            (call, edge_event::Event::Request(request)) => (call, request),
            other => panic!("not a request: {other:?}"),
        }
    }

    /// Nothing but what was told before.
    pub fn nothing_came(&mut self) -> bool {
        while let Ok((_, event)) = self.events.try_recv() {
            match event.event {
                Some(edge_event::Event::Request(request)) if request.attempt > 0 => {}
                _ => return false,
            }
        }
        true
    }

    pub fn command(&self, call: &EntityAddress, command: Command) {
        self.send_as(call, 1, command).unwrap();
    }

    pub fn send_as(&self, call: &EntityAddress, epoch: u64, command: Command) -> Result<(), Refused> {
        let command =
            EdgeCommand { tenant: call.tenant.to_string(), call_id: call.id.clone(), command: Some(command) };
        self.bus.send(Envelope {
            to: Some(self.bus.own(Role::Edge)),
            from_shard: Some(u32::from(call.shard().index())),
            from_epoch: epoch,
            payload: Some(Payload::Edge(command)),
            ..Envelope::default()
        })
    }

    /// The call answers.
    pub fn answer(&self, call: &EntityAddress, request: &IncomingRequest, status: u16) {
        let parsed = parse(&request.message);
        let response = Response::to(&parsed, status).with_to_tag("ours");
        self.respond(call, &request.transaction, &response, request);
    }

    pub fn respond(
        &self,
        call: &EntityAddress,
        transaction: &str,
        response: &Response,
        of: &IncomingRequest,
    ) {
        let answer = SendResponse {
            transaction: transaction.to_owned(),
            message: response.to_bytes(),
            source: of.source.clone(),
            transport: of.transport.clone(),
            retransmission: false,
        };
        self.command(call, Command::Response(answer));
    }

    /// The call sends a request within its dialog.
    pub fn send(&self, call: &EntityAddress, name: &str, request: &Request, source: &str, transport: &str) {
        let command = SendRequest {
            client_transaction: name.to_owned(),
            message: request.to_bytes(),
            source: source.to_owned(),
            transport: transport.to_owned(),
        };
        self.command(call, Command::Request(command));
    }

    /// A metric's value, 0 when it has none yet. `name` with its labels, if any, as Prometheus writes them.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    }

    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn parse(bytes: &Bytes) -> Request {
    match parse_datagram(bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("not a request: {other:?}"),
    }
}

pub fn parse_response(bytes: &[u8]) -> Response {
    match parse_datagram(&Bytes::copy_from_slice(bytes)) {
        Ok(Message::Response(response)) => response,
        other => panic!("not a response: {other:?} {}", String::from_utf8_lossy(bytes)),
    }
}

/// A request as telephones write it.
#[derive(Clone)]
pub struct Draft {
    pub method: &'static str,
    pub uri: String,
    pub branch: String,
    /// What stands after `SIP/2.0/`.
    pub via: String,
    pub from: Vec<u8>,
    pub to: String,
    pub call_id: String,
    pub more: Vec<u8>,
    pub body: String,
}

impl Draft {
    pub fn new(method: &'static str, to: &str, branch: &str) -> Self {
        Self {
            method,
            uri: format!("sip:{to}@127.0.0.1"),
            branch: branch.to_owned(),
            via: "UDP 127.0.0.1:9;rport".to_owned(),
            from: b"<sip:+4917012345@phone.example>;tag=f".to_vec(),
            to: format!("<sip:{to}@127.0.0.1>"),
            call_id: format!("{branch}@test"),
            more: Vec::new(),
            body: String::new(),
        }
    }

    pub fn invite(branch: &str) -> Self {
        Self::new("INVITE", "support", branch)
    }

    /// In the dialog of the call with this Contact.
    pub fn within(method: &'static str, contact: &str, branch: &str) -> Self {
        let uri = contact.to_owned();
        let to = "<sip:support@127.0.0.1>;tag=ours".to_owned();
        Self { uri, to, ..Self::new(method, "support", branch) }
    }

    pub fn over_tcp(mut self) -> Self {
        self.via = "TCP 127.0.0.1:9".to_owned();
        self
    }

    pub fn via(mut self, via: &str) -> Self {
        self.via = via.to_owned();
        self
    }

    pub fn from(mut self, from: impl Into<Vec<u8>>) -> Self {
        self.from = from.into();
        self
    }

    pub fn uri(mut self, uri: &str) -> Self {
        self.uri = uri.to_owned();
        self
    }

    pub fn with(mut self, line: impl AsRef<[u8]>) -> Self {
        self.more.extend_from_slice(line.as_ref());
        self.more.extend_from_slice(b"\r\n");
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let Self { method, uri, branch, via, to, call_id, body, .. } = self;
        let mut out =
            format!("{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{via};branch=z9hG4bK{branch}\r\nFrom: ")
                .into_bytes();
        out.extend_from_slice(&self.from);
        let cseq =
            if *method == "ACK" || *method == "CANCEL" { 1 } else { 1 + u32::from(to.contains("tag")) };
        let rest = format!(
            "\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n\
             Contact: <sip:+4917012345@127.0.0.1:9>\r\n"
        );
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(&self.more);
        if !body.is_empty() {
            out.extend_from_slice(b"Content-Type: application/sdp\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        out
    }
}

/// A peer over UDP.
pub struct Phone {
    pub socket: UdpSocket,
    edge: SocketAddr,
    fences: std::cell::Cell<u32>,
}

impl Phone {
    pub async fn at(ip: &str, node: &Node) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        Self { socket, edge: node.address(), fences: std::cell::Cell::new(0) }
    }

    pub async fn new(node: &Node) -> Self {
        Self::at("127.0.0.1", node).await
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub async fn send(&self, draft: &Draft) {
        self.send_bytes(&draft.bytes()).await;
    }

    pub async fn send_bytes(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.edge).await.unwrap();
    }

    pub async fn receive(&self) -> Bytes {
        let mut buffer = vec![0; 65_536];
        let (length, _) =
            timeout(SOON, self.socket.recv_from(&mut buffer)).await.expect("an answer").unwrap();
        Bytes::copy_from_slice(&buffer[..length])
    }

    pub async fn response(&self) -> Response {
        parse_response(&self.receive().await)
    }

    /// The next answer that is not a 100.
    pub async fn answer(&self) -> Response {
        loop {
            let response = self.response().await;
            if response.status != 100 {
                return response;
            }
        }
    }

    pub async fn ask(&self, draft: &Draft) -> Response {
        self.send(draft).await;
        self.answer().await
    }

    /// Everything sent before is dealt with: what came meanwhile.
    pub async fn fence(&self) -> Vec<Response> {
        let n = self.fences.replace(self.fences.get() + 1);
        let branch = format!("fence{n}x{}", self.address().port());
        let deadline = tokio::time::Instant::now() + SOON;
        let mut before = Vec::new();
        self.send(&Draft::new("OPTIONS", "edge", &branch)).await;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "the edge answers no OPTIONS");
            // A full socket buffer may have cost us the answer.
            let Ok(response) = timeout(Duration::from_millis(500), self.response()).await else {
                self.send(&Draft::new("OPTIONS", "edge", &branch)).await;
                continue;
            };
            let via = response.headers.top_via().unwrap().branch().unwrap();
            if via == format!("z9hG4bK{branch}") {
                return before;
            }
            before.push(response);
        }
    }
}

impl Phone {
    /// Sends `count` of what `draft` makes, with a fence every 50 so that no socket overflows; counts the final answers.
    pub async fn flood(&self, count: usize, draft: impl Fn(usize) -> Vec<u8>) -> usize {
        let mut answers = 0;
        for n in 0..count {
            self.send_bytes(&draft(n)).await;
            if n % 50 == 49 {
                answers += self.fence().await.iter().filter(|r| r.status >= 200).count();
            }
        }
        answers
    }
}

/// A peer over TCP.
pub struct Line {
    pub stream: TcpStream,
    buffer: BytesMut,
}

impl Line {
    pub async fn new(node: &Node) -> Self {
        Self { stream: TcpStream::connect(node.address()).await.unwrap(), buffer: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message, or `None` at the end of the connection.
    pub async fn message(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = self.cut() {
                return Some(message);
            }
            let read = self.stream.read_buf(&mut self.buffer);
            match timeout(SOON, read).await.expect("a message or the end") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn cut(&mut self) -> Option<Bytes> {
        let head = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let whole = head + length.unwrap_or(0usize);
        (self.buffer.len() >= whole).then(|| self.buffer.split_to(whole).freeze())
    }

    pub async fn answer(&mut self) -> Response {
        loop {
            let response = parse_response(&self.message().await.expect("an answer"));
            if response.status != 100 {
                return response;
            }
        }
    }

    /// Waits for the edge to close it.
    pub async fn closed(&mut self) {
        let mut rest = vec![0; 4_096];
        loop {
            match timeout(SOON, self.stream.read(&mut rest)).await.expect("the end of the connection") {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// A call that is up: its address, its Contact and the INVITE's transaction.
pub struct Up {
    pub call: EntityAddress,
    pub contact: String,
    pub invite: IncomingRequest,
}

/// A call over UDP, answered and acknowledged.
pub async fn call_up(node: &mut Node, phone: &Phone, branch: &str) -> Up {
    phone.send(&Draft::invite(branch)).await;
    let (call, invite) = node.request().await;
    node.answer(&call, &invite, 200);
    assert_eq!(phone.answer().await.status, 200);
    let contact = invite.new_call.as_ref().unwrap().contact_uri.clone();
    let mut ack = Draft::within("ACK", &contact, &format!("{branch}ack"));
    ack.call_id = format!("{branch}@test");
    phone.send(&ack).await;
    assert_eq!(parse(&node.request().await.1.message).method, Method::Ack);
    Up { call, contact, invite }
}

/// A request of a call within its dialog.
pub fn from_call(method: Method, target: &str, cseq: u32) -> Request {
    let uri: trunkline_sip::Uri = trunkline_sip::Uri::parse(target.as_bytes()).unwrap();
    Request::new(method.clone(), uri)
        .with_header(HeaderName::MaxForwards, "70")
        .with_header(HeaderName::From, "<sip:support@127.0.0.1>;tag=ours")
        .with_header(HeaderName::To, "<sip:+4917012345@phone.example>;tag=f")
        .with_header(HeaderName::CallId, "x@test")
        .with_header(HeaderName::CSeq, format!("{cseq} {method}"))
}

pub fn id(call: &EntityAddress) -> CallId {
    call.id.parse().unwrap()
}

/// Counts by status.
pub fn statuses(responses: &[Response]) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for response in responses {
        *counts.entry(response.status).or_default() += 1;
    }
    counts
}
