//! One scenario for each row of the table of promises, and what they share.

mod clocks;
mod control;
mod edge;
mod journal;
mod media;
mod network;
mod rolling;
mod stage;
pub mod traffic;
mod transfers;
mod versions;

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use anyhow::Result;
use rand::rngs::StdRng;

pub use stage::{Place, Stage, Verdict};

use crate::world::World;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Callers who wait.
    pub queued: usize,
    /// Calls that ring and talk.
    pub calls: usize,
    /// Conversations with audio both ways.
    pub conversations: usize,
    /// New calls a second.
    pub rate: f64,
    /// How long a dependency is away.
    pub outage: Duration,
    /// How long a network fault lasts.
    pub trouble: Duration,
}

impl Size {
    /// What a machine with two cores carries in a debug build, with the callers and agents on the same two cores.
    pub const SHORT: Self = Self {
        queued: 60,
        calls: 12,
        conversations: 10,
        rate: 3.0,
        outage: Duration::from_secs(20),
        trouble: Duration::from_secs(8),
    };
    /// As the promises are written.
    pub const FULL: Self = Self {
        queued: 500,
        calls: 100,
        conversations: 200,
        rate: 20.0,
        outage: Duration::from_secs(60),
        trouble: Duration::from_secs(30),
    };

    /// Agents that all scenarios together need.
    pub fn agents(&self) -> usize {
        self.conversations.max(self.calls + 4).max((self.rate * 6.0) as usize)
    }
}

/// What a scenario gets.
pub struct Run<'a> {
    /// The cluster; every node runs and nothing is disturbed.
    pub world: &'a mut World,
    /// Decides whom and when.
    pub random: StdRng,
    /// How much.
    pub size: Size,
    /// Where the history goes.
    pub folder: PathBuf,
    /// The binary of the version before.
    pub previous: Option<PathBuf>,
}

type Future_<'a> = Pin<Box<dyn Future<Output = Result<Verdict>> + 'a>>;

/// A fault and what must hold.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// The fault, in words.
    pub fault: &'static str,
    /// What must hold, in words.
    pub holds: &'static str,
    /// Its fault is that another version was there before: it needs a cluster in which this one has written nothing.
    pub alone: bool,
    /// Carries it out.
    pub run: for<'a> fn(&'a mut Run<'_>) -> Future_<'a>,
}

macro_rules! scenarios {
    ($($name:literal, $fault:literal, $holds:literal, $run:path;)+) => {
        /// All of them, in the order of the table.
        pub const ALL: &[Scenario] = &[
            $(Scenario {
                name: $name,
                fault: $fault,
                holds: $holds,
                alone: matches!($name.as_bytes(), b"two-versions"),
                run: |run| Box::pin($run(run)),
            },)+
        ];
    };
}

scenarios! {
    "kill-control-queued", "kill -9 of the control node with callers queued",
        "0 dropped, order identical, waiting times go on, music gap ≤ 2 s, control back ≤ 5 s", control::queued;
    "kill-control-calls", "kill -9 of a control node while calls ring and talk",
        "audio of established calls unbroken; one agent per call; no orphan leg after 10 s", control::calls;
    "kill-control-transfers", "kill -9 of a control node while calls are transferred, blind and after a consultation",
        "audio of established calls unbroken; one agent per call; no orphan leg after 10 s", transfers::killed;
    "kill-media", "kill -9 of a media node with conversations",
        "≥ 99 % have two-way audio again within 4 s; recordings playable, ≤ 2 s missing", media::killed;
    "kill-edge", "kill -9 of an edge",
        "UDP dialogs go on through another edge; registrations and WebSockets come back, spread in time", edge::killed;
    "pause-owner", "SIGSTOP of an owner for 3 × TTL, then SIGCONT",
        "every late effect refused by epoch; the refusals are counted", control::paused;
    "partition", "partition of a minority",
        "no double assignment; calls go on", network::minority;
    "one-way", "one-way loss between two control nodes",
        "no double assignment, no flapping", network::one_way;
    "bad-line", "10 % loss with duplicates between control nodes",
        "no double assignment, no flapping", network::bad_line;
    "etcd-quorum", "etcd without a quorum",
        "calls, offers and hang-ups work; no mass move; ghosts gone afterwards", journal::no_quorum;
    "etcd-stopped", "all members of etcd stopped for 10 s",
        "calls, offers and hang-ups work; no mass move; ghosts gone afterwards", journal::etcd_stopped;
    "postgres-killed", "PostgreSQL killed",
        "talk goes on; what needs a commit waits or is refused clearly; afterwards no loss", journal::postgres_killed;
    "disk-full", "disk full on a media node",
        "the call goes on, alarm metric within 10 s", media::disk_full;
    "disk-full-required", "the same where calls must be recorded, then no other media node either",
        "moved to a node that records, no audio lost; ended when none can, and the record says why",
        media::disk_full_required;
    "clock", "clock of one node one hour wrong",
        "leases, timers, durations sane", clocks::wrong;
    "rolling-restart", "rolling restart of all nodes under traffic",
        "0 failed calls", rolling::restart;
    "two-versions", "the previous version and this one side by side, forth and back under traffic",
        "0 failed calls", versions::side_by_side;
}

/// Those whose name contains a text.
pub fn named(text: &str) -> Vec<Scenario> {
    ALL.iter().filter(|scenario| scenario.name.contains(text)).copied().collect()
}
