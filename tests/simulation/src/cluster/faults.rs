//! Crashes, sleeps, cuts and drains.

use std::time::Duration;

use trunkline_cluster_core::Input;

use super::{
    Weather,
    clock::Clock,
    node::Node,
    world::{Happening, World},
};

impl World {
    /// Something goes wrong with one of the nodes; a minority at a time.
    pub(super) fn fault(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let next = if self.schedule.weather == Weather::Haunted {
            self.rng.millis(500, 5_000)
        } else {
            self.rng.millis(2_000, 12_000)
        };
        self.after(next, Happening::Fault);
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        let troubled =
            self.nodes.iter().filter(|node| !node.is_awake() || node.cut_store || node.cut_peers).count();
        if (troubled + 1) * 2 >= self.nodes.len() || !self.nodes[n].is_awake() {
            return;
        }
        self.report.faults += 1;
        let calm = self.schedule.weather == Weather::Calm;
        match if calm { 9 } else { self.rng.below(10) } {
            0..=3 => self.crash(n),
            4..=5 => self.pause(n),
            6 => self.cut(n, true, false),
            7 => self.cut(n, false, true),
            8 => self.cut(n, true, true),
            _ => self.drain(n),
        }
    }

    /// The same for media nodes, each for itself.
    pub(super) fn media_fault_due(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let next = self.rng.millis(3_000, 30_000);
        self.after(next, Happening::MediaFault);
        self.media_fault();
    }

    fn crash(&mut self, n: usize) {
        self.nodes[n].up = false;
        self.nodes[n].actors.clear();
        self.nodes[n].starting.clear();
        let down = self.rng.millis(300, 6_000);
        self.after(down, Happening::Restart(n));
    }

    /// Another life of the node.
    pub(super) fn restart(&mut self, n: usize) {
        if self.nodes[n].up {
            return;
        }
        let (id, life) = (self.nodes[n].id.clone(), self.nodes[n].life + 1);
        let clock = Clock::at_start(&mut self.rng, self.schedule.mutations.wall_clocks);
        self.nodes[n] = Node::new(id, life, self.now, clock, self.schedule.coordinated);
        self.checker.forgets(n);
        self.join(n);
    }

    /// It stops, and everything goes on without it, for up to four lives of a lease.
    fn pause(&mut self, n: usize) {
        let pause =
            if self.rng.chance(500) { self.rng.millis(50, 2_000) } else { self.rng.millis(3_000, 12_000) };
        self.nodes[n].paused_until = Some(self.now.plus(pause));
        let life = self.nodes[n].life;
        self.after(pause, Happening::Resume(n, life));
    }

    pub(super) fn resume(&mut self, n: usize, life: u64) {
        if !self.nodes[n].up || self.nodes[n].life != life || self.nodes[n].paused_until.take().is_none() {
            return;
        }
        // What is in its sockets, and its timers, before everything that comes now: streams keep their order.
        for what in std::mem::take(&mut self.nodes[n].held_back) {
            self.after(Duration::ZERO, what);
        }
        self.arm_all(n);
    }

    fn cut(&mut self, n: usize, store: bool, peers: bool) {
        self.nodes[n].cut_store |= store;
        self.nodes[n].cut_peers |= peers;
        if peers {
            self.nodes[n].cut_since.get_or_insert(self.now);
        }
        if store && self.schedule.coordinated {
            self.machine(n, Input::Connected(false));
        }
        let lasts =
            if self.rng.chance(600) { self.rng.millis(500, 6_000) } else { self.rng.millis(6_000, 30_000) };
        let life = self.nodes[n].life;
        self.after(lasts, Happening::Heal(n, life));
    }

    pub(super) fn heal(&mut self, n: usize, life: u64) {
        if self.nodes[n].life != life || !self.nodes[n].up {
            return;
        }
        self.nodes[n].cut_peers = false;
        self.nodes[n].cut_since = None;
        if std::mem::take(&mut self.nodes[n].cut_store) && self.schedule.coordinated {
            self.machine(n, Input::Connected(true));
            self.list(n);
        }
    }

    fn drain(&mut self, n: usize) {
        self.drained.insert(n);
        let id = self.nodes[n].id.clone();
        let changes = self.store.set_drain(&id, true);
        self.watched(&changes);
        let lasts = self.rng.millis(2_000, 10_000);
        self.after(lasts, Happening::Undrain(n));
    }

    pub(super) fn undrain(&mut self, n: usize) {
        self.drained.remove(&n);
        let id = self.nodes[n].id.clone();
        let changes = self.store.set_drain(&id, false);
        self.watched(&changes);
    }

    /// The faults are over: everything comes to its end from here on.
    pub(super) fn calm_down(&mut self) {
        self.calm_since = Some(self.now);
        self.network = super::world::Network::default();
        self.media_calms_down();
        for n in 0..self.nodes.len() {
            let life = self.nodes[n].life;
            if !self.nodes[n].up {
                self.restart(n);
            }
            self.resume(n, life);
            self.heal(n, life);
            self.after(Duration::from_millis(1), Happening::Undrain(n));
        }
    }
}
