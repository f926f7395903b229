//! A whole cluster: placement, queues, agents and calls, each the core that is shipped, on nodes that crash, sleep, are cut
//! off for up to half a minute, drained, and have clocks of their own, with media nodes that die, are cut off and drained,
//! over a network that loses up to 15 % and doubles and reorders more, and a journal that answers late, ambiguously or not
//! at all.
//!
//! Real: the coordination of every node (`trunkline-cluster-core`), queues and agents (`trunkline-acd-core`), calls
//! (`trunkline-call-core`). Modelled: the store of the map (leases, watches, an election), the journal (epochs, seals,
//! histories), the hosts of actors (pipelined commits, output commit, recovery), the bus, and the world around: phones,
//! agents' pages, media nodes. Clocks are monotonic and set by the journal's when a process starts, as well as can be
//! measured: [`Mutations::wall_clocks`] shows what machines' clocks would do.
//!
//! What is promised here, and checked by [`check`]:
//! - a call rings or talks at one agent at most, an agent has one call at most;
//! - a commit takes the first caller by committed place; the place outlives every move; places are in order of arrival;
//! - nobody is sent away before the longest wait is over, and a ring lasts as long as it is to, by the true time;
//! - no caller is lost: a call ends because somebody hung up or the queue's rules said so, never for a node's sake;
//! - no caller is lost with a media node: the audio is on another one soon, and where the call thinks that it is; one agent's
//!   leg at most is in a session;
//! - nothing that a former owner says acts where its successor has been heard;
//! - an offer that is over is not made again;
//! - no record is lost or doubled: each stay and each conversation is in the journals once, and they agree;
//! - nobody is stuck: once the faults are over, everything comes to its end within [`SETTLES_WITHIN`].

mod actor;
mod check;
mod clock;
mod core;
mod faults;
mod journal;
mod light;
mod media_node;
mod node;
mod phone;
mod store;
mod translate;
mod world;

use std::time::Duration;

use crate::runner::{Family, Tally};

/// One schedule in so many runs the real coordination (each of its nodes keeps 4,096 shards in mind, which is most of the
/// time that such a schedule takes); the others a light one with the same steps.
pub const REAL_EVERY: u64 = 20;

/// How long after the last fault everything has come to an end at the latest.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(900);

/// How rough a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nodes are drained and come back; nothing is lost.
    Calm,
    /// Besides, messages are lost, doubled and late; nodes crash, sleep and are cut off.
    Rough,
    /// As rough, with slow commits and ambiguous answers of the journal, and faults close together.
    Haunted,
}

/// Rules to leave out, for the proof that it would be noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mutations {
    /// Receivers take what former owners say, and agents take offers of any epoch.
    pub no_epoch_check: bool,
    /// A queue offers a call to somebody else when the answer to its commit is late.
    pub reoffer_after_commit: bool,
    /// Recovery says again what the events had said.
    pub replay_not_muted: bool,
    /// A recovered queue gives out its places anew.
    pub place_recomputed: bool,
    /// A seal leaves the epoch as it was.
    pub seal_keeps_epoch: bool,
    /// The journal takes appends of former owners, if they follow what is there.
    pub journal_unfenced: bool,
    /// Effects leave before the events before them are committed.
    pub acts_before_commit: bool,
    /// An answer of the journal that leaves open what has happened is taken for a yes.
    pub ambiguous_is_yes: bool,
    /// A recovered agent does not know of the offer in its slot, and grants it once more.
    pub slot_forgotten: bool,
    /// A former owner says that it has let go while appends are under way, and what made them stays.
    pub hand_over_unflushed: bool,
    /// Nodes go by their machines' clocks, of which some are an hour off, instead of the journal's.
    pub wall_clocks: bool,
}

/// One schedule.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Everything follows from it.
    pub seed: u64,
    /// How rough it is.
    pub weather: Weather,
    /// With the real coordination of nodes.
    pub coordinated: bool,
    /// Rules to leave out.
    pub mutations: Mutations,
    /// Print each step.
    pub trace: bool,
}

impl Schedule {
    /// The schedule of a seed: one in ten is calm, five are rough, four are haunted.
    pub fn of(seed: u64) -> Self {
        let weather = match seed % 10 {
            0 => Weather::Calm,
            1..=5 => Weather::Rough,
            _ => Weather::Haunted,
        };
        // Neighbours, so that each weather has its share.
        let coordinated = (seed / 10).is_multiple_of(REAL_EVERY);
        Self { seed, weather, coordinated, mutations: Mutations::default(), trace: false }
    }

    /// Runs it.
    pub fn run(self) -> Report {
        world::World::new(self).run()
    }
}

/// What a schedule gave.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Broken promises; empty is good.
    pub violations: Vec<String>,
    /// Messages between entities.
    pub messages: u64,
    /// Entities that were taken over.
    pub moves: u64,
    /// Messages of former owners that were refused.
    pub refused: u64,
    /// Conversations.
    pub conversations: u64,
    /// Agents who talked to another one while that one had the caller.
    pub consultations: u64,
    /// Callers who were passed on.
    pub transfers: u64,
    /// Crashes, pauses, cuts and drains of nodes.
    pub faults: u64,
    /// Losses, cuts and drains of media nodes.
    pub media_faults: u64,
    /// Answers of the journal that left open what had happened.
    pub ambiguous: u64,
}

/// Schedules of a cluster, with rules left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cluster(pub Mutations);

impl Family for Cluster {
    type Report = Report;
    const NAME: &'static str = "cluster";

    fn run(&self, seed: u64, trace: bool) -> Report {
        Schedule { trace, mutations: self.0, ..Schedule::of(seed) }.run()
    }
}

impl Tally for Report {
    fn violations(&self) -> &[String] {
        &self.violations
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.moves += other.moves;
        self.refused += other.refused;
        self.conversations += other.conversations;
        self.consultations += other.consultations;
        self.transfers += other.transfers;
        self.faults += other.faults;
        self.media_faults += other.media_faults;
        self.ambiguous += other.ambiguous;
    }
}
