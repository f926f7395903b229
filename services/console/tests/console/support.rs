//! The world around the console: accounts, agents' actors, the records role, and clients.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc},
};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, TcpListenerStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, protocol::CloseFrame},
};
use tonic::{Request, Response, Status};
use trunkline_console::{
    Account, AgentEntry, AgentPort, ClusterPort, ClusterRefused, Console, ConsoleConfig, ConsoleMetrics,
    Directory, PasswordCost, Ports, QueueEntry, Refused, Role, SigningKeys, hash_password,
};
use trunkline_proto::{
    acd::v1::{AgentCommand, agent_command::Command},
    call::v1::Span,
    cluster::v1 as cluster,
    console::v1::{self as console, ConsoleMessage, console_message::Message as ToSession},
    records::v1::{
        self as proto,
        records_client::RecordsClient,
        records_server::{Records, RecordsServer},
    },
};
use trunkline_types::{AgentId, CallId, NodeId, RecordingId, ShardId, TenantId, Timestamp};

pub const COST: PasswordCost = PasswordCost { memory_kib: 8, passes: 1 };
/// Text that would be markup if anybody let it.
pub const EVIL: &str = "<script>alert('x')</script>";

/// Awaits with a deadline.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// A call id of this test, the same in each run.
pub fn call_id(n: u128) -> CallId {
    CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_795_000_000_000), n)
}

pub fn recording_id(n: u128) -> String {
    RecordingId { call: call_id(n), index: 0 }.to_string()
}

/// Bytes of every recording.
pub fn audio() -> Bytes {
    (0..300_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

// ------------------------------------------------------------------------------------------------ accounts

pub struct FakeDirectory {
    pub accounts: Mutex<HashMap<String, Account>>,
}

impl FakeDirectory {
    fn new() -> Self {
        let account =
            |name: &str, display: &str, roles: &[Role], tenant: &str, agent: Option<&str>| Account {
                name: name.into(),
                display_name: display.into(),
                password_hash: hash_password(&format!("{name}-dev"), COST).unwrap(),
                roles: roles.to_vec(),
                tenant: tenant.parse().unwrap(),
                agent: agent.map(|id| id.parse().unwrap()),
            };
        let list = [
            account("alice", EVIL, &[Role::Agent], "default", Some("alice")),
            account("bob", "Bob", &[Role::Agent], "default", Some("bob")),
            account("sue", "Sue", &[Role::Supervisor], "default", None),
            account("ada", "Ada", &[Role::Admin], "default", None),
            account("ned", "Ned", &[], "default", None),
            account("olga", "Olga", &[Role::Supervisor], "other", None),
        ];
        Self { accounts: Mutex::new(list.into_iter().map(|a| (a.name.clone(), a)).collect()) }
    }
}

impl Directory for FakeDirectory {
    fn account(&self, name: &str) -> Option<Account> {
        self.accounts.lock().get(name).cloned()
    }

    fn queues(&self, tenant: &TenantId) -> Vec<QueueEntry> {
        let queue = QueueEntry {
            id: "support".parse().unwrap(),
            name: format!("Support {tenant}"),
            service_level_target_s: 20,
            dispositions: vec!["solved".into()],
        };
        vec![queue]
    }

    fn agents(&self, _: &TenantId) -> Vec<AgentEntry> {
        let queues = vec!["support".parse().unwrap()];
        vec![AgentEntry { id: "alice".parse().unwrap(), name: EVIL.into(), queues }]
    }

    fn not_ready_reasons(&self, _: &TenantId) -> Vec<String> {
        vec!["break".into(), "meeting".into()]
    }
}

// ------------------------------------------------------------------------------------------------ agents

pub struct FakeAgents {
    sent: mpsc::Sender<(TenantId, AgentId, AgentCommand)>,
    pub refuse: Mutex<Option<Refused>>,
}

impl AgentPort for FakeAgents {
    fn send(&self, tenant: &TenantId, agent: &AgentId, command: AgentCommand) -> Result<(), Refused> {
        if let Some(refused) = *self.refuse.lock() {
            return Err(refused);
        }
        self.sent.try_send((tenant.clone(), agent.clone(), command)).map_err(|_| Refused::Busy)
    }
}

// ------------------------------------------------------------------------------------------------ records

pub struct FakeRecords {
    pub listed: Mutex<Vec<proto::ListContactsRequest>>,
    pub live: broadcast::Sender<proto::LiveSnapshot>,
    pub upstreams: AtomicUsize,
    pub upstreams_total: AtomicUsize,
    /// The recording breaks off after so many bytes.
    pub cut: Mutex<Option<usize>>,
}

impl FakeRecords {
    fn contact(n: u128, agent: &str, tenant: &str) -> proto::Contact {
        let audio = audio();
        proto::Contact {
            call_id: call_id(n).to_string(),
            tenant: tenant.into(),
            direction: "inbound".into(),
            caller_number: "+493012345".into(),
            caller_name: EVIL.into(),
            started_us: 1_795_000_000_000_000,
            outcome: "answered".into(),
            queue_id: "support".into(),
            agent_id: agent.into(),
            recordings: vec![proto::Recording {
                recording_id: recording_id(n),
                state: "available".into(),
                size_bytes: audio.len() as i64,
                sha256: format!("abc{n}"),
                holds: vec![Span { start_ms: 1, end_ms: 2, reason: "hold".into() }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }
}

/// The server side of the fake.
struct Served(Arc<FakeRecords>);

struct Counted<S>(S, Arc<FakeRecords>);

impl<S: Stream + Unpin> Stream for Counted<S> {
    type Item = S::Item;
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.1.upstreams.fetch_sub(1, Ordering::SeqCst);
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Records for Served {
    type WatchLiveStream = Streamed<proto::LiveSnapshot>;
    type ReadRecordingStream = Streamed<proto::RecordingChunk>;

    async fn list_contacts(
        &self,
        request: Request<proto::ListContactsRequest>,
    ) -> Result<Response<proto::ListContactsResponse>, Status> {
        let request = request.into_inner();
        let contacts = [(1, "alice", "default"), (2, "bob", "default"), (3, "zoe", "other")]
            .into_iter()
            .filter(|(_, agent, tenant)| {
                (request.agent_id.is_empty() || request.agent_id == *agent) && request.tenant == *tenant
            })
            .map(|(n, agent, tenant)| FakeRecords::contact(n, agent, tenant))
            .collect();
        self.0.listed.lock().push(request);
        Ok(Response::new(proto::ListContactsResponse { contacts, next_cursor: "more".into() }))
    }

    async fn get_contact(
        &self,
        request: Request<proto::GetContactRequest>,
    ) -> Result<Response<proto::Contact>, Status> {
        let request = request.into_inner();
        for (n, agent, tenant) in [(1, "alice", "default"), (2, "bob", "default"), (3, "zoe", "other")] {
            if request.call_id == call_id(n).to_string() && request.tenant == tenant {
                return Ok(Response::new(FakeRecords::contact(n, agent, tenant)));
            }
        }
        Err(Status::not_found("no such contact"))
    }

    async fn watch_live(
        &self,
        _: Request<proto::WatchLiveRequest>,
    ) -> Result<Response<Self::WatchLiveStream>, Status> {
        self.0.upstreams.fetch_add(1, Ordering::SeqCst);
        self.0.upstreams_total.fetch_add(1, Ordering::SeqCst);
        let news = BroadcastStream::new(self.0.live.subscribe()).filter_map(async |item| item.ok().map(Ok));
        let first = futures::stream::iter([Ok(live(0))]);
        let stream = Counted(Box::pin(first.chain(news)), Arc::clone(&self.0));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_live(
        &self,
        _: Request<proto::WatchLiveRequest>,
    ) -> Result<Response<proto::LiveSnapshot>, Status> {
        Ok(Response::new(live(7)))
    }

    async fn read_recording(
        &self,
        request: Request<proto::ReadRecordingRequest>,
    ) -> Result<Response<Self::ReadRecordingStream>, Status> {
        let request = request.into_inner();
        let audio = audio();
        let offset = request.offset as usize;
        let length = if request.length == 0 { audio.len() - offset } else { request.length as usize };
        let mut part = audio.slice(offset..(offset + length).min(audio.len()));
        if let Some(cut) = *self.0.cut.lock() {
            part.truncate(cut);
        }
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut total_bytes = audio.len() as i64;
            while !part.is_empty() {
                let data = part.split_to(part.len().min(64 * 1024));
                if sender.send(Ok(proto::RecordingChunk { data, total_bytes })).await.is_err() {
                    return;
                }
                total_bytes = 0;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_intervals(
        &self,
        request: Request<proto::GetIntervalsRequest>,
    ) -> Result<Response<proto::GetIntervalsResponse>, Status> {
        let numbers = Some(proto::QueueLive { asa_s: -1.0, service_level: -1.0, ..Default::default() });
        let interval = proto::Interval { start_us: request.into_inner().from_us, numbers };
        Ok(Response::new(proto::GetIntervalsResponse { intervals: vec![interval] }))
    }
}

/// Live numbers with so many active calls.
pub fn live(calls_active: u64) -> proto::LiveSnapshot {
    let queue = proto::QueueLive {
        queue_id: "support".into(),
        name: EVIL.into(),
        service_level: -1.0,
        ..Default::default()
    };
    proto::LiveSnapshot { at_us: 1_000_000, calls_active, queues: vec![queue], ..Default::default() }
}

// ------------------------------------------------------------------------------------------------ the cluster

#[derive(Default)]
pub struct FakeCluster {
    /// Node, whether to drain, who asked.
    pub orders: Mutex<Vec<(String, bool, String)>>,
    pub refuse: Mutex<Option<ClusterRefused>>,
}

#[async_trait::async_trait]
impl ClusterPort for FakeCluster {
    async fn overview(&self) -> Result<cluster::Overview, ClusterRefused> {
        if let Some(refused) = self.refuse.lock().clone() {
            return Err(refused);
        }
        let member = cluster::Member {
            node: "node-1".into(),
            incarnation: u64::MAX,
            roles: vec![2, 3],
            state: "serving".into(),
            since_us: 1_000_000,
            shards_active: 4_096,
            ..Default::default()
        };
        let shards = cluster::ShardRange {
            last: 4_095,
            owner: "node-1".into(),
            phase: "active".into(),
            epoch: 3,
            ..Default::default()
        };
        let moved = cluster::Move { shard: 9, to: "node-1".into(), started_us: 1_000, ..Default::default() };
        Ok(cluster::Overview {
            node: "node-1".into(),
            at_us: 2_000_000,
            coordination: "etcd".into(),
            coordination_problem: "no quorum".into(),
            journal: "postgres".into(),
            members: vec![member],
            shards: vec![shards],
            moves: vec![moved],
            ..Default::default()
        })
    }

    async fn set_drain(&self, node: &NodeId, drain: bool, by: &str) -> Result<(), ClusterRefused> {
        if let Some(refused) = self.refuse.lock().clone() {
            return Err(refused);
        }
        self.orders.lock().push((node.to_string(), drain, by.to_owned()));
        Ok(())
    }
}

// ------------------------------------------------------------------------------------------------ the world

pub struct World {
    pub console: Console,
    pub address: SocketAddr,
    pub node: String,
    pub directory: Arc<FakeDirectory>,
    pub agents: Arc<FakeAgents>,
    pub commands: mpsc::Receiver<(TenantId, AgentId, AgentCommand)>,
    pub records: Arc<FakeRecords>,
    pub cluster: Arc<FakeCluster>,
    pub reasons: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ConsoleConfig)) -> Self {
        Self::at("node-1", change).await
    }

    /// The console of this node; all have the same keys.
    pub async fn at(node: &str, change: impl FnOnce(&mut ConsoleConfig)) -> Self {
        let mut config = ConsoleConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            password_cost: COST,
            ..ConsoleConfig::default()
        };
        config.timings.sweep = Duration::from_millis(20);
        change(&mut config);
        let records = Arc::new(FakeRecords {
            listed: Mutex::default(),
            live: broadcast::channel(64).0,
            upstreams: AtomicUsize::new(0),
            upstreams_total: AtomicUsize::new(0),
            cut: Mutex::new(None),
        });
        let directory = Arc::new(FakeDirectory::new());
        let (sent, commands) = mpsc::channel(4_096);
        let agents = Arc::new(FakeAgents { sent, refuse: Mutex::new(None) });
        let reasons = Arc::new(Mutex::new(Vec::new()));
        let cluster = Arc::<FakeCluster>::default();
        let told = Arc::clone(&reasons);
        let ports = Ports {
            node: node.parse().unwrap(),
            incarnation: 7,
            cluster: Arc::clone(&cluster) as Arc<dyn ClusterPort>,
            agents: Arc::clone(&agents) as Arc<dyn AgentPort>,
            records: serve_records(Arc::clone(&records)).await,
            directory: Arc::clone(&directory) as Arc<dyn Directory>,
            keys: SigningKeys::new([[9; 32]]).unwrap(),
            readiness: Arc::new(move || told.lock().clone()),
            metrics: ConsoleMetrics::register(&mut Registry::default()),
        };
        let console = Console::start(config, ports).await.unwrap();
        let address = console.local_addr();
        let node = node.to_owned();
        Self { console, address, node, directory, agents, commands, records, cluster, reasons }
    }

    /// Sends one request on its own connection.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        request(self.address, method, path, headers, body).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
    }

    pub async fn try_sign_in(&self, name: &str, password: &str) -> Answer {
        let body = json!({"name": name, "password": password}).to_string();
        self.send("POST", "/api/v1/session", &[("content-type", "application/json")], &body).await
    }

    /// The bearer token of an account with its usual password.
    pub async fn token(&self, name: &str) -> String {
        let answer = self.try_sign_in(name, &format!("{name}-dev")).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// The next command to an agent's actor, keep-alives left out.
    pub async fn command(&mut self) -> (String, String, Command) {
        loop {
            let (tenant, _, command) = within(self.commands.recv()).await.unwrap();
            assert_eq!((tenant.as_str(), command.console.as_str()), ("default", self.node.as_str()));
            assert_eq!(command.console_incarnation, 7);
            match command.command.unwrap() {
                Command::Keepalive(_) => {}
                other => return (command.session, command.id, other),
            }
        }
    }

    pub fn deliver(&self, session: &str, agent: &str, message: ToSession) {
        self.console.deliver(ConsoleMessage {
            session: session.into(),
            tenant: "default".into(),
            agent_id: agent.into(),
            message: Some(message),
        });
    }

    /// The agent's actor says "done".
    pub fn done(&self, session: &str, id: &str) {
        let result = console::CommandResult { id: id.into(), ..Default::default() };
        self.deliver(session, "alice", ToSession::Result(result));
    }

    /// A WebSocket of an account, without hello.
    pub async fn socket(&self, token: &str) -> Client {
        let mut request = format!("ws://{}/api/v1/agent/ws", self.address).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", "trunkline.v1".parse().unwrap());
        if !token.is_empty() {
            headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let (socket, response) = within(tokio_tungstenite::connect_async(request)).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "trunkline.v1");
        Client { socket }
    }

    /// A WebSocket of a browser with this cookie, from a page of this origin; the status when it is refused.
    pub async fn socket_from(&self, cookie: &str, origin: &str) -> Result<Client, u16> {
        let mut request = format!("ws://{}/api/v1/agent/ws", self.address).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", "trunkline.v1".parse().unwrap());
        headers.insert("origin", origin.parse().unwrap());
        if !cookie.is_empty() {
            headers.insert("cookie", cookie.parse().unwrap());
        }
        match within(tokio_tungstenite::connect_async(request)).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A WebSocket that said hello: the socket, its session's id, and the Attach that came of it.
    pub async fn session(&mut self, token: &str) -> (Client, String) {
        let mut client = self.socket(token).await;
        client.send(json!({"id": "h", "type": "hello", "data": {"client": "test"}})).await;
        let welcome = client.frame().await;
        assert_eq!((welcome["type"].as_str(), welcome["seq"].as_u64()), (Some("welcome"), Some(1)));
        let session = welcome["data"]["session"].as_str().unwrap().to_owned();
        loop {
            // Earlier sessions may be detached first.
            let (about, _, command) = self.command().await;
            if about == session {
                assert_eq!(command, Command::Attach(Default::default()));
                return (client, session);
            }
        }
    }
}

async fn serve_records(records: Arc<FakeRecords>) -> RecordsClient<trunkline_rpc::Traced> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(RecordsServer::new(Served(records)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    RecordsClient::new(trunkline_rpc::Traced::new(channel.connect_lazy()))
}

// ------------------------------------------------------------------------------------------------ HTTP

/// An answer, read to the end of the connection.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the promised length.
    pub cut: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
    }
}

pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n");
    if !headers.iter().any(|(name, _)| *name == "connection") {
        text += "connection: close\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("content-length: {}\r\n", body.len());
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    // A server that refuses early may close before all is written.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut bytes = Vec::new();
    let ended = within(stream.read_to_end(&mut bytes)).await;
    parse(bytes, ended.is_err())
}

fn parse(bytes: Vec<u8>, broken: bool) -> Answer {
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: bytes[at + 4..].to_vec(), cut: broken };
    if answer.header("transfer-encoding") == "chunked" {
        (answer.body, answer.cut) = dechunk(&answer.body);
    } else if let Ok(length) = answer.header("content-length").parse::<usize>() {
        answer.cut |= answer.body.len() < length;
    }
    answer
}

pub fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(at) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, true) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, false);
        }
        if rest.len() < at + 4 + size {
            return (body, true);
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
}

// ------------------------------------------------------------------------------------------------ WebSocket

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: String) {
        within(self.socket.send(Message::Text(text.into()))).await.unwrap();
    }

    pub async fn send_raw(&mut self, message: Message) {
        let _ = within(self.socket.send(message)).await;
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Ok(frame) => frame,
            Err(close) => panic!("closed: {close:?}"),
        }
    }

    /// The next frame of a type; those before it are dropped.
    pub async fn frame_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The next frame, or how the socket was closed.
    pub async fn next(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match within(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(close))) => return Err(close),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The close code; frames before it are dropped.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(close) = self.next().await {
                let close = close.expect("a close frame");
                return (close.code.into(), close.reason.to_string());
            }
        }
    }
}

pub const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
