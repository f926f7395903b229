//! Thousands of callers on one UDP socket.
//!
//! One task owns the socket and all calls; scenarios give it orders and see [`News`]. INVITE and BYE are repeated by
//! timers A and E of RFC 3261; repeats are counted, because a server that needs them is slower than it looks.

mod task;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
};

use crate::rtp::Ears;

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

/// One call as it went. Times count from the moment at which the INVITE was meant to go out, so that a generator or a
/// server that falls behind is not flattered.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// When the INVITE was meant to go out.
    pub intended: Option<Instant>,
    /// How much later it went out.
    pub late: Duration,
    /// To the 180.
    pub ringing: Option<Duration>,
    /// To the 200.
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

/// A call that was answered (`ended` is false) or is over.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub index: usize,
    /// How it went.
    pub call: Call,
}

/// What a long run needs besides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Calls that are answered, and again when they are over, are told here and then forgotten, so that a run may last; [`Callers::results`] knows only the
    /// others then. A full channel loses outcomes, which are counted.
    pub outcomes: Option<mpsc::Sender<Outcome>>,
    /// Further edges; calls take turns.
    pub more: Vec<SocketAddr>,
    /// Whoever hangs up before the answer sends CANCEL instead of waiting for the answer.
    pub cancel: bool,
}

enum Order {
    Place(usize, Instant),
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
        Self::start_with(target, Options::default()).await
    }

    /// The same for long runs.
    pub async fn start_with(target: Target, options: Options) -> Result<(Self, mpsc::Receiver<News>)> {
        let socket = socket(target.bind)?;
        let (orders, queue) = mpsc::channel(4_096);
        let (sender, news) = mpsc::channel(target.limit * 4 + 16);
        let task = task::Task::new(socket, target, options, sender)?;
        tokio::spawn(task.run(queue));
        Ok((Self { orders }, news))
    }

    async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.ok().context("the callers' task has ended")
    }

    /// Sends the INVITE of call `index`, which was meant to go out at `intended`: its times count from there.
    pub async fn place_at(&self, index: usize, intended: Instant) -> Result<()> {
        self.order(Order::Place(index, intended)).await
    }

    /// Sends BYE, as soon as the call is answered.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{self, Message};

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
        callers.place_at(0, Instant::now()).await.unwrap();
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

    /// What a hand-played server does to the INVITE of call 0, and the outcome.
    async fn outcome(intended: Instant, script: &[&str]) -> Outcome {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let target = Target::local(at, "support".into(), sip::offer(at, "inactive"), 1);
        let (sender, mut outcomes) = mpsc::channel(4);
        let options = Options { outcomes: Some(sender), cancel: true, ..Options::default() };
        let (callers, _news) = Callers::start_with(target, options).await.unwrap();
        callers.place_at(0, intended).await.unwrap();
        let mut buffer = [0; 2_000];
        let mut invite = None;
        for step in script {
            let (length, source) = server.recv_from(&mut buffer).await.unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let request = Message::parse(text.as_bytes()).unwrap();
            let (method, answers) = step.split_once(' ').unwrap_or((step, ""));
            assert!(request.start.starts_with(method), "{step}: {}", request.start);
            if method == "INVITE" {
                invite = Some(text.clone());
                callers.hang_up(0).await.unwrap();
            }
            for status in answers.split_whitespace() {
                let of = if status == "487" { invite.clone().unwrap() } else { text.clone() };
                let ok = Message::parse(of.as_bytes()).unwrap().ok("sip:x@127.0.0.1", None);
                let answer = ok.replacen("200 OK", &format!("{status} X"), 1);
                server.send_to(answer.as_bytes(), source).await.unwrap();
            }
        }
        outcomes.recv().await.unwrap()
    }

    /// A caller who gives up while it rings cancels; the 487 is acknowledged within the INVITE's transaction.
    #[tokio::test]
    async fn a_caller_who_gives_up_cancels() {
        let outcome = outcome(Instant::now(), &["INVITE 180", "CANCEL 200 487", "ACK"]).await;
        assert_eq!((outcome.index, outcome.call.failed), (0, Some(487)));
        assert!(outcome.call.ringing.is_some() && outcome.call.answered.is_none());
    }

    /// Free of coordinated omission: an INVITE that goes out late is not a fast one.
    #[tokio::test]
    async fn times_count_from_the_intended_moment() {
        let intended = Instant::now() - Duration::from_secs(3);
        let call = outcome(intended, &["INVITE 486", "ACK"]).await.call;
        assert!(call.late >= Duration::from_secs(3) && call.intended == Some(intended));
        let call = outcome(intended, &["INVITE 180", "CANCEL 200 487"]).await.call;
        assert!(call.ringing >= Some(Duration::from_secs(3)), "{:?}", call.ringing);
    }
}
