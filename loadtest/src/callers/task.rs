//! The task that owns the callers' socket and all their dialogs.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{net::UdpSocket, sync::mpsc};

use super::{Call, News, Options, Order, Outcome, Target, number_of};
use crate::sip::{self, Message};

const T1: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(32);
const TICK: Duration = Duration::from_millis(20);

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
    invite_to: SocketAddr,
    pending: Option<Pending>,
    /// Kept to acknowledge repeated 200s.
    ack: Option<(String, SocketAddr)>,
    remote: Option<Remote>,
    proceeding: bool,
    wants_end: bool,
}

struct Remote {
    to: String,
    contact: String,
    hop: SocketAddr,
    routes: String,
}

pub(super) struct Task {
    socket: UdpSocket,
    local: SocketAddr,
    run: u32,
    target: Target,
    options: Options,
    calls: HashMap<usize, Dialog>,
    /// When something is to be repeated; entries that are no longer true are passed over.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Dialogs that are over and still answer repeated requests.
    over: VecDeque<(Instant, usize)>,
    news: mpsc::Sender<News>,
    lost: u64,
}

impl Task {
    pub fn new(
        socket: UdpSocket,
        target: Target,
        options: Options,
        news: mpsc::Sender<News>,
    ) -> Result<Self> {
        Ok(Self {
            local: socket.local_addr()?,
            socket,
            run: rand::random(),
            target,
            options,
            calls: HashMap::new(),
            timers: BinaryHeap::new(),
            over: VecDeque::new(),
            news,
            lost: 0,
        })
    }

    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
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
                    Some(Order::Place(index, intended)) => self.place(index, intended),
                    Some(Order::HangUp(index)) => self.hang_up(index),
                    Some(Order::Results(reply)) => {
                        let count = self.calls.keys().max().map_or(0, |most| most + 1);
                        let call = |index| self.calls.get(&index).map(|d: &Dialog| d.call.clone()).unwrap_or_default();
                        let _ = reply.send((0..count).map(call).collect());
                    }
                    None => break,
                },
                _ = ticks.tick() => self.tick(Instant::now()),
            }
        }
        if self.lost > 0 {
            crate::report::note(&format!("{} outcomes of calls were lost: nobody read them", self.lost));
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

    /// Sends what is repeated until it is answered.
    fn request(&mut self, index: usize, bytes: String, to: SocketAddr) {
        self.send(&bytes, to);
        let now = Instant::now();
        if let Some(dialog) = self.calls.get_mut(&index) {
            self.timers.push(Reverse((now + T1, index)));
            dialog.pending = Some(Pending { bytes, to, sent: now, next: now + T1, interval: T1 });
        }
    }

    fn place(&mut self, index: usize, intended: Instant) {
        let others = &self.options.more;
        let turn = index % (others.len() + 1);
        let edge = turn.checked_sub(1).and_then(|n| others.get(n)).copied().unwrap_or(self.target.sip);
        let uri = format!("sip:{}@{edge}", self.target.to);
        let head = self.head("INVITE", index, 1, &uri, &format!("<{uri}>"), "");
        let bytes = sip::with_body(head, Some(&self.target.sdp));
        let late = intended.elapsed();
        let call = Call { intended: Some(intended), late, ..Call::default() };
        let dialog = Dialog {
            call,
            begun: intended,
            invite_to: edge,
            pending: None,
            ack: None,
            remote: None,
            proceeding: false,
            wants_end: false,
        };
        self.calls.insert(index, dialog);
        self.request(index, bytes, edge);
    }

    fn hang_up(&mut self, index: usize) {
        let Some(dialog) = self.calls.get_mut(&index).filter(|dialog| !dialog.call.ended) else { return };
        // Not answered yet: the BYE follows the 200, or the CANCEL the provisional response (RFC 3261 section 9.1).
        let again = std::mem::replace(&mut dialog.wants_end, true);
        match &dialog.remote {
            Some(remote) => {
                let (uri, to) = (remote.contact.clone(), remote.to.clone());
                let (routes, hop) = (remote.routes.clone(), remote.hop);
                let bye = sip::with_body(self.head("BYE", index, 2, &uri, &to, &routes), None);
                self.request(index, bye, hop);
            }
            None if dialog.proceeding && self.options.cancel && !again => self.cancel(index),
            None => {}
        }
    }

    fn cancel(&mut self, index: usize) {
        let Some(edge) = self.calls.get(&index).map(|dialog| dialog.invite_to) else { return };
        let uri = format!("sip:{}@{edge}", self.target.to);
        let cancel = sip::with_body(self.head("CANCEL", index, 1, &uri, &format!("<{uri}>"), ""), None);
        self.request(index, cancel, edge);
    }

    fn tick(&mut self, now: Instant) {
        while let Some(Reverse((due, index))) =
            self.timers.peek().copied().filter(|Reverse((due, _))| *due <= now)
        {
            self.timers.pop();
            self.repeat(now, index, due);
        }
        while let Some((_, index)) = self.over.front().copied().filter(|(until, _)| *until <= now) {
            self.over.pop_front();
            self.calls.remove(&index);
        }
    }

    fn repeat(&mut self, now: Instant, index: usize, due: Instant) {
        let Some(dialog) = self.calls.get_mut(&index) else { return };
        let Some(pending) = dialog.pending.as_mut().filter(|pending| pending.next == due) else { return };
        if now - pending.sent > GIVE_UP {
            return self.end(index, Some(0));
        }
        dialog.call.repeats += 1;
        pending.interval *= 2;
        pending.next = now + pending.interval;
        let (bytes, to) = (pending.bytes.clone(), pending.to);
        self.timers.push(Reverse((pending.next, index)));
        self.send(&bytes, to);
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
        if let Some(outcomes) = &self.options.outcomes {
            let outcome = Outcome { index, call: dialog.call.clone() };
            self.lost += u64::from(outcomes.try_send(outcome).is_err());
            self.over.push_back((Instant::now() + GIVE_UP, index));
        }
    }

    fn receive(&mut self, now: Instant, datagram: &[u8], source: SocketAddr) {
        let Some(message) = Message::parse(datagram) else { return };
        let prefix = format!("lt-{}-", self.run);
        let index = message.header("Call-ID").and_then(|id| id.strip_prefix(&prefix)?.parse().ok());
        let Some(index) = index.filter(|index| self.calls.contains_key(index)) else { return };
        match (message.status(), message.method()) {
            (Some(status), "INVITE") => self.invite_response(now, index, status, &message, source),
            (Some(200..), "BYE") => self.end(index, None),
            // The INVITE gets a response of its own; when none comes it is given up like any other.
            (Some(200..), "CANCEL") => {
                if let Some(pending) = self.calls.get_mut(&index).and_then(|dialog| dialog.pending.as_mut()) {
                    pending.next = pending.sent + GIVE_UP + TICK;
                    self.timers.push(Reverse((pending.next, index)));
                }
            }
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
            if let Some(ears) = self.target.ears.as_ref().filter(|_| !dialog.call.ended) {
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
        let Some(dialog) = self.calls.get_mut(&index) else { return };
        let after = now.saturating_duration_since(dialog.begun);
        match status {
            100..200 => {
                // No more repeats once a provisional response came (Proceeding).
                if let Some(pending) = &mut dialog.pending {
                    pending.next = pending.sent + GIVE_UP * 20;
                    self.timers.push(Reverse((pending.next, index)));
                }
                if status == 180 {
                    dialog.call.ringing.get_or_insert(after);
                }
                let first = !std::mem::replace(&mut dialog.proceeding, true);
                if first && dialog.wants_end && self.options.cancel {
                    self.cancel(index);
                }
            }
            200..300 => self.answered(now, index, message, source),
            _ => {
                let to = message.header("To").unwrap_or_default().to_owned();
                let edge = dialog.invite_to;
                let uri = format!("sip:{}@{edge}", self.target.to);
                // The ACK of a failure belongs to the INVITE's transaction: same branch.
                let head = self.head("ACK", index, 1, &uri, &to, "").replacen("-1A;rport", "-1;rport", 1);
                self.send(&sip::with_body(head, None), edge);
                self.end(index, Some(status));
            }
        }
    }

    fn answered(&mut self, now: Instant, index: usize, message: &Message<'_>, source: SocketAddr) {
        let to = message.header("To").unwrap_or_default().to_owned();
        let Some(dialog) = self.calls.get_mut(&index) else { return };
        if let Some((ack, hop)) = dialog.ack.clone() {
            return self.send(&ack, hop);
        }
        dialog.pending = None;
        dialog.call.answered = Some(now.saturating_duration_since(dialog.begun));
        dialog.call.answered_at = Some(now);
        dialog.call.media = sip::media_address(message.body);
        if let (Some(ears), Some(media)) = (&self.target.ears, dialog.call.media) {
            ears.listen(index, media);
        }
        if let Some(outcomes) = &self.options.outcomes {
            self.lost += u64::from(outcomes.try_send(Outcome { index, call: dialog.call.clone() }).is_err());
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
}
