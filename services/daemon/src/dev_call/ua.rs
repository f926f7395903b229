//! One SIP socket for all calls: transactions, and who gets which message.
//!
//! A task owns the socket and the transaction layer. Calls register under their Call-ID and get [`Event`]s in a queue of
//! their own; what they want sent goes through [`Handle`]. A call that does not read its queue loses events, never the
//! others theirs.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::{mpsc, oneshot},
};
use trunkline_sip::{
    Headers, Message, Method, Output, Request, Response, TransactionConfig, TransactionId, TransactionLayer,
    Unacceptable, Uri, Via, parse_datagram, response_destination, stamp_source, token, uas,
};
use trunkline_types::Timestamp;

/// Events that wait for one call.
const EVENTS: usize = 32;
/// Orders of all calls that wait for the task.
const ORDERS: usize = 1_024;

/// What a call is told.
#[derive(Debug)]
pub enum Event {
    /// A response to a request of this call.
    Response(TransactionId, Response),
    /// A request within its dialog, to be answered.
    Request(TransactionId, Request),
    /// The ACK of our 2xx.
    Ack(Request),
    /// No final response, or the socket refused to send.
    Failed(TransactionId),
}

enum Order {
    Register(String, mpsc::Sender<Event>),
    Forget(String),
    Send(Box<Request>, SocketAddr, oneshot::Sender<Result<TransactionId, String>>),
    Ack(TransactionId, Box<Request>, SocketAddr),
    Cancel(TransactionId, Headers),
    Respond(TransactionId, Box<Response>),
}

/// The user agent, as calls see it.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    /// Address of the SIP socket, as written into Via and Contact.
    pub local: SocketAddr,
}

/// The error when the socket's task has ended.
pub fn closed() -> anyhow::Error {
    anyhow::anyhow!("the SIP socket is closed")
}

impl Handle {
    async fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).await.map_err(|_| closed())
    }

    /// From now on messages with this Call-ID come out of the receiver.
    ///
    /// # Errors
    /// The socket is closed.
    pub async fn register(&self, call_id: &str) -> anyhow::Result<mpsc::Receiver<Event>> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.order(Order::Register(call_id.to_owned(), sender)).await?;
        Ok(receiver)
    }

    /// No more messages for this Call-ID.
    pub async fn forget(&self, call_id: &str) {
        // A closed socket has forgotten already.
        let _ = self.order(Order::Forget(call_id.to_owned())).await;
    }

    /// Begins a client transaction.
    ///
    /// # Errors
    /// The socket is closed, or the transaction layer's reason.
    pub async fn send(&self, request: Request, to: SocketAddr) -> anyhow::Result<TransactionId> {
        let (reply, id) = oneshot::channel();
        self.order(Order::Send(Box::new(request), to, reply)).await?;
        id.await.map_err(|_| closed())?.map_err(anyhow::Error::msg)
    }

    /// Acknowledges a 2xx.
    ///
    /// # Errors
    /// The socket is closed.
    pub async fn ack(&self, invite: TransactionId, ack: Request, to: SocketAddr) -> anyhow::Result<()> {
        self.order(Order::Ack(invite, Box::new(ack), to)).await
    }

    /// Cancels our INVITE, now or as soon as a provisional response allows it.
    ///
    /// # Errors
    /// The socket is closed.
    pub async fn cancel(&self, invite: TransactionId, extra: Headers) -> anyhow::Result<()> {
        self.order(Order::Cancel(invite, extra)).await
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The socket is closed.
    pub async fn respond(&self, id: TransactionId, response: Response) -> anyhow::Result<()> {
        self.order(Order::Respond(id, Box::new(response))).await
    }

    /// A Via of ours with a fresh branch.
    ///
    /// # Errors
    /// Never for an IP address.
    pub fn via(&self) -> anyhow::Result<Via> {
        let host = host_of(self.local.ip());
        let via = Via::new("UDP", &host, Some(self.local.port()), &token::branch(rand::random()));
        Ok(via.context("the local address fits no Via header")?.with_rport())
    }
}

/// An address as SIP writes it: IPv6 in brackets.
pub fn host_of(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// Where a URI is reached over UDP. Addresses and names with A or AAAA records; no SRV.
///
/// # Errors
/// Not a SIP URI, or the name does not resolve.
pub async fn resolve(uri: &Uri) -> anyhow::Result<SocketAddr> {
    let sip = uri.as_sip().with_context(|| format!("{uri} is not a SIP URI"))?;
    let host = sip.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = sip.port.unwrap_or(5060);
    let found = tokio::time::timeout(Duration::from_secs(5), lookup_host((host.as_str(), port))).await;
    let mut found = found
        .with_context(|| format!("{host}: no answer from the name service"))?
        .with_context(|| format!("{host}: unknown host"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

/// Opens the socket for calls to `target` and starts its task, which ends when the last [`Handle`] is dropped.
///
/// # Errors
/// No local address towards the target, or nothing listens there.
pub async fn start(target: SocketAddr) -> anyhow::Result<Handle> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let probe = UdpSocket::bind(any).await.context("no UDP socket")?;
    probe.connect(target).await.with_context(|| format!("{target} cannot be reached from here"))?;
    knock(&probe).await.with_context(|| {
        format!(
            "nothing takes SIP calls at {target}: start the system with `cargo xtask dev` (or `trunkline dev`), or name \
             another address with --sip"
        )
    })?;
    let ip = probe.local_addr()?.ip();
    let socket = UdpSocket::bind((ip, 0)).await.context("no UDP socket for SIP")?;
    let local = socket.local_addr()?;
    let (orders, queue) = mpsc::channel(ORDERS);
    let config = TransactionConfig { tag_secret: rand::random(), ..TransactionConfig::default() };
    let agent = Agent {
        socket,
        layer: TransactionLayer::new(config),
        calls: HashMap::new(),
        owners: HashMap::new(),
        can: uas::Capabilities::default(),
        begun: Instant::now(),
    };
    tokio::spawn(agent.run(queue));
    Ok(Handle { orders, local })
}

/// Sends a keep-alive (RFC 5626 section 4.4.1, dropped by whoever listens) and waits a moment for the ICMP message
/// that a port without a listener answers with.
async fn knock(probe: &UdpSocket) -> std::io::Result<()> {
    probe.send(b"\r\n\r\n").await?;
    match tokio::time::timeout(Duration::from_millis(100), probe.recv(&mut [0; 16])).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

struct Agent {
    socket: UdpSocket,
    layer: TransactionLayer<SocketAddr>,
    calls: HashMap<String, mpsc::Sender<Event>>,
    owners: HashMap<TransactionId, String>,
    can: uas::Capabilities,
    begun: Instant,
}

impl Agent {
    /// Microseconds since the start. Only differences matter to the transaction layer.
    fn now(&self) -> Timestamp {
        Timestamp::ZERO.plus(self.begun.elapsed())
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut buffer = vec![0; 65_535];
        loop {
            let wait = self.layer.next_deadline().map_or(Duration::from_secs(60), |at| at.since(self.now()));
            let outputs = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, source)) => self.receive(buffer.get(..length).unwrap_or_default(), source),
                    // An ICMP message of an earlier packet; its transaction will time out.
                    Err(_) => Vec::new(),
                },
                () = tokio::time::sleep(wait) => self.layer.advance(self.now()),
            };
            self.carry_out(outputs).await;
        }
    }

    fn obey(&mut self, order: Order) -> Vec<Output<SocketAddr>> {
        let now = self.now();
        match order {
            Order::Register(call_id, events) => {
                self.calls.insert(call_id, events);
                Vec::new()
            }
            Order::Forget(call_id) => {
                self.calls.remove(&call_id);
                Vec::new()
            }
            Order::Send(request, to, reply) => match self.layer.send_request(now, &request, to, false) {
                Ok((id, outputs)) => {
                    self.owners.insert(id, request.headers.call_id().unwrap_or_default().to_owned());
                    // A call that has ended in the meantime does not need the id.
                    let _ = reply.send(Ok(id));
                    outputs
                }
                Err(error) => {
                    let _ = reply.send(Err(error.to_string()));
                    Vec::new()
                }
            },
            Order::Ack(id, ack, to) => self.layer.send_ack(Some(id), &ack, to),
            // The other side may just have answered, or the transaction has timed out: nothing to cancel then.
            Order::Cancel(id, extra) => self.layer.cancel(now, id, extra).unwrap_or_default(),
            Order::Respond(id, response) => self.layer.respond(now, id, *response).unwrap_or_default(),
        }
    }

    fn receive(&mut self, bytes: &[u8], source: SocketAddr) -> Vec<Output<SocketAddr>> {
        let now = self.now();
        match parse_datagram(&bytes.to_vec().into()) {
            Ok(Message::Request(mut request)) => {
                stamp_source(&mut request, source);
                let path = request.headers.top_via().ok().and_then(|via| {
                    let (host, port) = response_destination(&via, false);
                    Some(SocketAddr::new(host.trim_matches(['[', ']']).parse().ok()?, port))
                });
                self.layer.on_request(now, request, path.unwrap_or(source), false)
            }
            Ok(Message::Response(response)) if uas::check_response(&response).is_ok() => {
                self.layer.on_response(now, response)
            }
            Ok(Message::Response(_)) | Err(Unacceptable::Drop(_)) => Vec::new(),
            Err(Unacceptable::Reject(rejection)) => {
                let bytes = rejection.to_response(&token::tag(rand::random())).to_bytes();
                vec![Output::Send { id: None, path: source, bytes }]
            }
        }
    }

    async fn carry_out(&mut self, outputs: Vec<Output<SocketAddr>>) {
        let mut outputs = std::collections::VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            let more = match output {
                Output::Send { id, path, bytes } => match (self.socket.send_to(&bytes, path).await, id) {
                    (Err(_), Some(id)) => self.layer.transport_failed(self.now(), id),
                    _ => Vec::new(),
                },
                Output::Request { id, request, .. } => self.request(id, request),
                Output::Response { id, response } => {
                    let call_id = response.headers.call_id().unwrap_or_default().to_owned();
                    self.tell(&call_id, Event::Response(id, response))
                }
                Output::Ack { request, .. } => {
                    let call_id = request.headers.call_id().unwrap_or_default().to_owned();
                    self.tell(&call_id, Event::Ack(request))
                }
                Output::Timeout { id } | Output::TransportError { id } | Output::AckTimeout { id } => {
                    let call_id = self.owners.get(&id).cloned().unwrap_or_default();
                    self.tell(&call_id, Event::Failed(id))
                }
                Output::Terminated { id } => {
                    self.owners.remove(&id);
                    Vec::new()
                }
                // This telephone takes no calls, so nothing can cancel one; too many requests get no answer.
                Output::Cancel { .. } | Output::StrayResponse { .. } | Output::Overloaded { .. } => {
                    Vec::new()
                }
            };
            outputs.extend(more);
        }
    }

    fn request(&mut self, id: TransactionId, request: Request) -> Vec<Output<SocketAddr>> {
        let tag = self.layer.to_tag(&request);
        let refusal = match uas::check_request(&request, &self.can) {
            Err(rejection) => rejection.to_response(&tag),
            Ok(()) if request.method == Method::Options => uas::options_answer(&request, &self.can, &tag),
            Ok(()) => {
                let call_id = request.headers.call_id().unwrap_or_default().to_owned();
                if self.calls.contains_key(&call_id) && request.is_in_dialog() {
                    self.owners.insert(id, call_id.clone());
                    return self.tell(&call_id, Event::Request(id, request));
                }
                // A telephone that only calls: 480 for new calls, 481 for dialogs that are gone.
                let status = if request.is_in_dialog() { 481 } else { 480 };
                Response::to(&request, status).with_to_tag(&tag)
            }
        };
        self.layer.respond(self.now(), id, refusal).unwrap_or_default()
    }

    /// Nothing is to be sent for it: the empty list lets it stand beside what else an output causes.
    fn tell(&mut self, call_id: &str, event: Event) -> Vec<Output<SocketAddr>> {
        if let Some(events) = self.calls.get(call_id)
            && let Err(mpsc::error::TrySendError::Closed(_)) = events.try_send(event)
        {
            self.calls.remove(call_id);
        }
        Vec::new()
    }
}
