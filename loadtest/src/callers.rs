//! Thousands of callers on one UDP socket.
//!
//! One task owns the socket and all calls; scenarios give it orders and see [`News`]. INVITE and BYE are repeated by
//! timers A and E of RFC 3261; repeats are counted, because a server that needs them is slower than it looks.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
};

use crate::{
    rtp::Ears,
    sip::{self, Message},
};

const T1: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(32);
const TICK: Duration = Duration::from_millis(20);

/// What scenarios hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// 200 to the INVITE of this call.
    Answered(usize),
    /// The call has ended after it was answered.
    Ended(usize),
    /// The call was refused with this status, or 0 when nobody answered.
    Failed(usize, u16),
}

/// One call as it went.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// INVITE to 180.
    pub ringing: Option<Duration>,
    /// INVITE to 200.
    pub answered: Option<Duration>,
    /// When the 200 came.
    pub answered_at: Option<Instant>,
    /// Refused with this status; 0 = no answer.
    pub failed: Option<u16>,
    /// BYE from either side is done.
    pub ended: bool,
    /// Repeats of INVITE and BYE.
    pub repeats: u32,
    /// Where its media is to be sent.
    pub media: Option<SocketAddr>,
    /// Offers that came within the dialog.
    pub renegotiated: u32,
}

enum Order {
    Place(usize),
    HangUp(usize),
    Results(oneshot::Sender<Vec<Call>>),
}

/// Gives orders.
#[derive(Clone)]
pub struct Callers {
    orders: mpsc::Sender<Order>,
}

/// What to call and how.
#[derive(Clone)]
pub struct Target {
    /// Where INVITE goes.
    pub sip: SocketAddr,
    /// Name or number.
    pub to: String,
    /// The offer of every call.
    pub sdp: String,
    /// Most calls.
    pub limit: usize,
    /// This side's address.
    pub bind: IpAddr,
    /// Told where each call's media is; `sdp` names them. None: nobody listens.
    pub ears: Option<Arc<Ears>>,
}

impl Target {
    /// Over loopback, with nobody listening.
    pub fn local(sip: SocketAddr, to: String, sdp: String, limit: usize) -> Self {
        Self { sip, to, sdp, limit, bind: Ipv4Addr::LOCALHOST.into(), ears: None }
    }
}

/// A UDP socket with room for bursts of thousands of packets; the kernel caps what it grants.
pub(crate) fn socket(bind: IpAddr) -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(bind, 0).into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// The number of call `index`; agents see it and so show the order of service.
pub fn number_of(index: usize) -> String {
    format!("+1212{index:07}")
}

/// The call with this number.
pub fn index_of(number: &str) -> Option<usize> {
    number.strip_prefix("+1212")?.parse().ok()
}

impl Callers {
    /// Opens the socket.
    pub async fn start(target: Target) -> Result<(Self, mpsc::Receiver<News>)> {
        let socket = socket(target.bind)?;
        let local = socket.local_addr()?;
        let (orders, queue) = mpsc::channel(4_096);
        let (sender, news) = mpsc::channel(target.limit * 4 + 16);
        let run = rand::random::<u32>();
        let task = Task { socket, local, run, target, calls: HashMap::new(), news: sender };
        tokio::spawn(task.run(queue));
        Ok((Self { orders }, news))
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.ok().context("the callers' task has ended")
    }

    /// Sends the INVITE of call `index`.
    pub async fn place(&self, index: usize) -> Result<()> {
        self.order(Order::Place(index)).await
    }

    /// Sends BYE (or CANCEL when unanswered).
    pub async fn hang_up(&self, index: usize) -> Result<()> {
        self.order(Order::HangUp(index)).await
    }

    /// All calls placed so far, by index.
    pub async fn results(&self) -> Result<Vec<Call>> {
        let (reply, results) = oneshot::channel();
        self.order(Order::Results(reply)).await?;
        results.await.context("the callers' task has ended")
    }
}

/// What is repeated until it is answered.
struct Pending {
    bytes: String,
    to: SocketAddr,
    sent: Instant,
    next: Instant,
    interval: Duration,
}

struct Dialog {
    call: Call,
    begun: Instant,
    pending: Option<Pending>,
    /// Kept to acknowledge repeated 200s.
    ack: Option<(String, SocketAddr)>,
    remote: Option<Remote>,
    wants_end: bool,
}

struct Remote {
    to: String,
    contact: String,
    hop: SocketAddr,
    routes: String,
}

struct Task {
    socket: UdpSocket,
    local: SocketAddr,
    run: u32,
    target: Target,
    calls: HashMap<usize, Dialog>,
    news: mpsc::Sender<News>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut buffer = vec![0; 65_535];
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    if let Ok((length, source)) = received {
                        self.receive(Instant::now(), buffer.get(..length).unwrap_or_default(), source);
                    }
                }
                order = orders.recv() => match order {
                    Some(Order::Place(index)) => self.place(index),
                    Some(Order::HangUp(index)) => self.hang_up(index),
                    Some(Order::Results(reply)) => {
                        let count = self.calls.keys().max().map_or(0, |most| most + 1);
                        let call = |index| self.calls.get(&index).map(|d: &Dialog| d.call.clone()).unwrap_or_default();
                        let _ = reply.send((0..count).map(call).collect());
                    }
                    None => return,
                },
                _ = ticks.tick() => self.repeat(),
            }
        }
    }

    fn send(&self, text: &str, to: SocketAddr) {
        // A full buffer is loss like any other: the repeat follows.
        let _ = self.socket.try_send_to(text.as_bytes(), to);
    }

    fn head(&self, method: &str, index: usize, cseq: u32, uri: &str, to: &str, routes: &str) -> String {
        let (local, run) = (self.local, self.run);
        let number = number_of(index);
        let branch_method = if method == "ACK" { "A" } else { "" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKlt{run}-{index}-{cseq}{branch_method};rport\r\n\
             Max-Forwards: 70\r\n{routes}From: \"Caller {index}\" <sip:{number}@{}>;tag=lt{index}\r\nTo: {to}\r\n\
             Call-ID: lt-{run}-{index}\r\nCSeq: {cseq} {method}\r\nContact: <sip:lt@{local}>\r\n",
            local.ip()
        )
    }

    fn place(&mut self, index: usize) {
        let uri = format!("sip:{}@{}", self.target.to, self.target.sip);
        let head = self.head("INVITE", index, 1, &uri, &format!("<{uri}>"), "");
        let bytes = sip::with_body(head, Some(&self.target.sdp));
        let now = Instant::now();
        self.send(&bytes, self.target.sip);
        let pending = Pending { bytes, to: self.target.sip, sent: now, next: now + T1, interval: T1 };
        self.calls.insert(
            index,
            Dialog {
                call: Call::default(),
                begun: now,
                pending: Some(pending),
                ack: None,
                remote: None,
                wants_end: false,
            },
        );
    }

    fn hang_up(&mut self, index: usize) {
        let Some(dialog) = self.calls.get_mut(&index).filter(|dialog| !dialog.call.ended) else { return };
        // Not answered yet: the BYE follows the 200.
        dialog.wants_end = true;
        let Some(remote) = &dialog.remote else { return };
        let (uri, to, routes, hop) =
            (remote.contact.clone(), remote.to.clone(), remote.routes.clone(), remote.hop);
        let bye = sip::with_body(self.head("BYE", index, 2, &uri, &to, &routes), None);
        self.send(&bye, hop);
        let now = Instant::now();
        if let Some(dialog) = self.calls.get_mut(&index) {
            dialog.pending = Some(Pending { bytes: bye, to: hop, sent: now, next: now + T1, interval: T1 });
        }
    }

    fn repeat(&mut self) {
        let now = Instant::now();
        let (mut sends, mut lost) = (Vec::new(), Vec::new());
        for (index, dialog) in &mut self.calls {
            let Some(pending) = dialog.pending.as_mut().filter(|pending| pending.next <= now) else {
                continue;
            };
            if now - pending.sent > GIVE_UP {
                lost.push(*index);
                continue;
            }
            dialog.call.repeats += 1;
            pending.interval *= 2;
            pending.next = now + pending.interval;
            sends.push((pending.bytes.clone(), pending.to));
        }
        for (bytes, to) in sends {
            self.send(&bytes, to);
        }
        for index in lost {
            self.end(index, Some(0));
        }
    }

    /// The call is over: refused with a status, or ended.
    fn end(&mut self, index: usize, failed: Option<u16>) {
        let Some(dialog) = self.calls.get_mut(&index).filter(|dialog| !dialog.call.ended) else { return };
        dialog.call.ended = true;
        dialog.call.failed = failed;
        dialog.pending = None;
        if let Some(ears) = &self.target.ears {
            ears.leave(index);
        }
        let news = failed.map_or(News::Ended(index), |status| News::Failed(index, status));
        let _ = self.news.try_send(news);
    }

    fn receive(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) {
        let Some(message) = Message::parse(datagram) else { return };
        let prefix = format!("lt-{}-", self.run);
        let index = message.header("Call-ID").and_then(|id| id.strip_prefix(&prefix)?.parse().ok());
        let Some(index) = index.filter(|index| self.calls.contains_key(index)) else { return };
        match (message.status(), message.method()) {
            (Some(status), "INVITE") => self.invite_response(now, index, status, &message, source),
            (Some(200..), "BYE") => self.end(index, None),
            (None, "BYE") => {
                self.send(&message.ok(&format!("sip:lt@{}", self.local), None), source);
                self.end(index, None);
            }
            (None, method @ ("INVITE" | "UPDATE" | "OPTIONS" | "INFO")) => {
                let sdp = (method == "INVITE" || !message.body.is_empty())
                    .then(|| sip::answer(&self.target.sdp, message.body));
                self.send(&message.ok(&format!("sip:lt@{}", self.local), sdp.as_deref()), source);
                self.refreshed(index, method, &message);
            }
            _ => {}
        }
    }

    /// A target refresh request (RFC 3261 section 12.2.2): a new Contact, and where media comes from now.
    fn refreshed(&mut self, index: usize, method: &str, message: &Message<'_>) {
        let Some(dialog) = self.calls.get_mut(&index).filter(|_| matches!(method, "INVITE" | "UPDATE"))
        else {
            return;
        };
        dialog.call.renegotiated += u32::from(!message.body.is_empty());
        if let (Some(remote), Some(contact)) = (&mut dialog.remote, message.contact()) {
            if remote.routes.is_empty() {
                remote.hop = hop(contact).unwrap_or(remote.hop);
            }
            remote.contact = contact.to_owned();
        }
        if let Some(media) = sip::media_address(message.body) {
            dialog.call.media = Some(media);
            if let Some(ears) = &self.target.ears {
                ears.listen(index, media);
            }
        }
    }

    fn invite_response(
        &mut self,
        now: Instant,
        index: usize,
        status: u16,
        message: &Message<'_>,
        source: SocketAddr,
    ) {
        let to = message.header("To").unwrap_or_default().to_owned();
        let Some(dialog) = self.calls.get_mut(&index) else { return };
        let after = now - dialog.begun;
        match status {
            100..200 => {
                // No more repeats once a provisional response came (Proceeding).
                if let Some(pending) = &mut dialog.pending {
                    pending.next = pending.sent + GIVE_UP * 20;
                }
                if status == 180 {
                    dialog.call.ringing.get_or_insert(after);
                }
            }
            200..300 => {
                if let Some((ack, hop)) = dialog.ack.clone() {
                    return self.send(&ack, hop);
                }
                dialog.pending = None;
                dialog.call.answered = Some(after);
                dialog.call.answered_at = Some(now);
                dialog.call.media = sip::media_address(message.body);
                if let (Some(ears), Some(media)) = (&self.target.ears, dialog.call.media) {
                    ears.listen(index, media);
                }
                let wants_end = dialog.wants_end;
                let mut routes: Vec<&str> = message.all("Record-Route").collect();
                routes.reverse();
                let contact = message.contact().unwrap_or_default().to_owned();
                let hop = hop(routes.first().copied().unwrap_or(&contact)).unwrap_or(source);
                let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
                let ack = sip::with_body(self.head("ACK", index, 1, &contact, &to, &routes), None);
                self.send(&ack, hop);
                if let Some(dialog) = self.calls.get_mut(&index) {
                    dialog.ack = Some((ack, hop));
                    dialog.remote = Some(Remote { to, contact, hop, routes });
                }
                let _ = self.news.try_send(News::Answered(index));
                if wants_end {
                    self.hang_up(index);
                }
            }
            _ => {
                let uri = format!("sip:{}@{}", self.target.to, self.target.sip);
                // The ACK of a failure belongs to the INVITE's transaction: same branch.
                let head = self.head("ACK", index, 1, &uri, &to, "").replacen("-1A;rport", "-1;rport", 1);
                self.send(&sip::with_body(head, None), self.target.sip);
                self.end(index, Some(status));
            }
        }
    }
}

/// The address in a SIP URI, when it is an IP address.
fn hop(uri: &str) -> Option<SocketAddr> {
    let rest = uri.trim_start_matches('<').strip_prefix("sip:")?;
    let place = rest.split(['>', ';', '?']).next()?;
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    place.parse().ok().or_else(|| Some(SocketAddr::new(place.parse().ok()?, 5060)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_read_from_contacts_and_routes() {
        for (uri, want) in [
            ("sip:a-b.c@127.0.0.1:5060;x=y", Some("127.0.0.1:5060")),
            ("<sip:10.0.0.1;lr>", Some("10.0.0.1:5060")),
            ("sip:host.example", None),
        ] {
            assert_eq!(hop(uri).map(|at| at.to_string()).as_deref(), want);
        }
    }

    #[test]
    fn numbers_lead_back_to_their_call() {
        assert_eq!(index_of(&number_of(123)), Some(123));
        assert_eq!(index_of("anonymous"), None);
    }

    /// The dialog against a hand-played server: repeats counted, ACK and BYE go to the Contact.
    #[tokio::test]
    async fn a_call_is_set_up_and_ended() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let target = Target::local(at, "support".into(), sip::offer(at, "inactive"), 1);
        let (callers, mut news) = Callers::start(target).await.unwrap();
        callers.place(0).await.unwrap();
        let mut buffer = [0; 2_000];
        let (length, source) = server.recv_from(&mut buffer).await.unwrap();
        let invite = Message::parse(&buffer[..length]).unwrap();
        assert!(invite.start.starts_with("INVITE sip:support@") && invite.body.contains("a=inactive"));
        let ok = invite.ok(&format!("sip:q@{at}"), Some(invite.body));
        server.send_to(ok.as_bytes(), source).await.unwrap();
        assert_eq!(news.recv().await, Some(News::Answered(0)));
        callers.hang_up(0).await.unwrap();
        for method in ["ACK", "BYE"] {
            let (length, source) = server.recv_from(&mut buffer).await.unwrap();
            let request = Message::parse(&buffer[..length]).unwrap();
            assert!(request.start.starts_with(&format!("{method} sip:q@")), "{}", request.start);
            if method == "BYE" {
                server.send_to(request.ok("sip:x", None).as_bytes(), source).await.unwrap();
            }
        }
        assert_eq!(news.recv().await, Some(News::Ended(0)));
        let results = callers.results().await.unwrap();
        assert!(results[0].ended && results[0].answered.is_some() && results[0].failed.is_none());
    }
}
