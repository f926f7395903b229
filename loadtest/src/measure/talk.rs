//! Conversations through a relay, whoever relays: the same ears and mouths, and the processor time of one process.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::music::{self, Ear, Mouth};
use crate::{
    report::{Figure, figure, note},
    sip,
    system::{exact, family},
};

/// Until every source is believed.
const WARM_UP: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3);
/// What a process prepares in the background when it starts is over by then.
const START: Duration = Duration::from_secs(20);
/// One that takes less of a processor than this in a slice has prepared it.
const REST: f64 = 0.02;
const SLICE: Duration = Duration::from_millis(500);

/// Processor time of a process and its descendants.
pub fn cpu(pid: u32) -> Duration {
    exact(&family(pid))
}

/// The share of a processor that a process takes without calls, after the work of its start. With calls it would not be
/// idle: our media node sends silence to whoever hears nobody.
pub async fn idle(pid: u32) -> f64 {
    let deadline = Instant::now() + START;
    while share(pid, SLICE).await > REST {
        if Instant::now() > deadline {
            note(&format!("process {pid} does not come to rest: what it does idle is measured as it is"));
            break;
        }
    }
    share(pid, IDLE).await
}

async fn share(pid: u32, of: Duration) -> f64 {
    let (begun, before) = (Instant::now(), cpu(pid));
    tokio::time::sleep(of).await;
    cpu(pid).saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// The parties of all conversations: a socket stands for every A, another for every B.
pub struct Parties {
    sockets: [UdpSocket; 2],
    /// Where each side sends to.
    to: [Vec<SocketAddr>; 2],
}

impl Parties {
    pub fn new() -> Result<Self> {
        Ok(Self { sockets: [music::socket()?, music::socket()?], to: Default::default() })
    }

    /// What A and B say about themselves.
    pub fn offers(&self) -> Result<[String; 2]> {
        let offer = |of: &UdpSocket| Ok::<_, anyhow::Error>(sip::offer(of.local_addr()?, "sendrecv"));
        let [a, b] = &self.sockets;
        Ok([offer(a)?, offer(b)?])
    }

    /// One more conversation: what A and B were shown.
    pub fn join(&mut self, shown: [&str; 2]) -> Result<()> {
        for (to, sdp) in self.to.iter_mut().zip(shown) {
            to.push(sip::media_address(sdp).with_context(|| format!("no media in {sdp:?}"))?);
        }
        Ok(())
    }

    /// They listen, and if they are to, speak. Returns when every source has been learnt.
    pub async fn talk(self, speak: bool) -> Result<Talk> {
        let [a, b] = &self.sockets;
        let conversations = self.to.iter().map(Vec::len).max().unwrap_or_default();
        let ears = [Ear::start(a)?, Ear::start(b)?];
        let mut mouths = Vec::new();
        for (socket, to) in self.sockets.iter().zip(self.to).filter(|_| speak) {
            mouths.push(Mouth::start(socket, to)?);
        }
        tokio::time::sleep(WARM_UP).await;
        Ok(Talk { ears, _mouths: mouths, conversations })
    }
}

/// Conversations; dropped, they are silent.
pub struct Talk {
    ears: [Ear; 2],
    _mouths: Vec<Mouth>,
    conversations: usize,
}

impl Talk {
    fn heard(&self) -> u64 {
        self.ears.iter().map(Ear::heard).sum()
    }

    /// What a process spends on them, without what it spends idle.
    pub async fn measured(&self, pid: u32, idle: f64, while_: Duration) -> Measured {
        let (begun, before, first) = (Instant::now(), cpu(pid), self.heard());
        tokio::time::sleep(while_).await;
        let (span, packets) = (begun.elapsed().as_secs_f64(), self.heard() - first);
        let spent = cpu(pid).saturating_sub(before).as_secs_f64() - idle * span;
        Measured { span, packets, spent, due: self.conversations as f64 * 100.0 * span }
    }
}

/// What came of it.
pub struct Measured {
    /// Seconds.
    pub span: f64,
    /// Heard by both sides.
    packets: u64,
    /// Seconds of a processor.
    spent: f64,
    /// Packets: 50 a second to each party.
    due: f64,
}

impl Measured {
    /// CPU a packet in microseconds.
    pub fn each_us(&self) -> f64 {
        self.spent * 1e6 / self.packets.max(1) as f64
    }

    /// How much, how well, and CPU a packet beside a goal, Asterisk's and FreeSWITCH's.
    pub fn figures(&self, [goal, asterisk, freeswitch]: [&'static str; 3]) -> Vec<Figure> {
        vec![
            figure("packets a second", self.packets as f64 / self.span, "packets"),
            figure("packets heard of those due", self.packets as f64 / self.due.max(1.0) * 100.0, "%"),
            figure("CPU a packet", self.each_us(), "µs").beside(goal, asterisk, freeswitch),
        ]
    }
}
