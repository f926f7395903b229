//! Commits, crashes, pauses and takeovers.

use std::time::Duration;

use trunkline_acd_core::{
    AgentEffect, AgentInput,
    agent::{DetachReason, SessionInput},
};

use super::{Happening, LastCommit, Node, Weather, World};

impl World {
    /// Lets the checker see what was added to a journal.
    pub(super) fn witness(&mut self, node: Node, from: usize) {
        match node {
            Node::Queue(n) => {
                for event in &self.queues[n].journal[from..] {
                    self.checker.queue_event(n, event);
                }
            }
            Node::Agent(n) => {
                for event in &self.agents[n].journal[from..] {
                    self.checker.agent_event(&self.agent_ids[n], event);
                }
            }
        }
    }

    pub(super) fn committed(&mut self, node: Node, epoch: u64) {
        match node {
            Node::Queue(n) if self.queues[n].epoch == epoch && self.queues[n].machine.is_some() => {
                let from = self.queues[n].journal.len();
                let step = self.queues[n].committed();
                self.witness(node, from);
                self.queue_stepped(n, step);
            }
            Node::Agent(n) if self.agents[n].epoch == epoch && self.agents[n].machine.is_some() => {
                let from = self.agents[n].journal.len();
                let step = self.agents[n].committed();
                self.witness(node, from);
                self.agent_stepped(n, step);
            }
            _ => {}
        }
    }

    /// A new owner seals the shard, replays and takes over.
    pub(super) fn restart(&mut self, node: Node) {
        let now = self.now;
        match node {
            Node::Queue(n) => {
                self.queues[n].epoch += 1;
                let queue = self.queue_from_journal(n);
                let step = self.queues[n].start(queue, now);
                self.queue_stepped(n, step);
            }
            Node::Agent(n) => {
                self.agents[n].epoch += 1;
                let agent = self.agent_from_journal(n);
                let step = self.agents[n].start(agent, now);
                self.agent_stepped(n, step);
                if self.rng.chance(500) {
                    // The page's console went as well.
                    let (session, console) = (self.humans[n].session(), self.humans[n].console());
                    self.humans[n].lost_connection();
                    let message = SessionInput::Detach { reason: DetachReason::ConsoleLost };
                    let gone = AgentInput::FromSession { session, console, message };
                    self.after(Duration::from_millis(1), Happening::ToAgent(n, Box::new(gone)));
                    let back = self.rng.millis(5, 300);
                    self.after(back, Happening::Back(n));
                }
            }
        }
    }

    pub(super) fn resume(&mut self, node: Node, epoch: u64) {
        let now = self.now;
        match node {
            Node::Queue(n) if self.queues[n].epoch == epoch && self.queues[n].machine.is_some() => {
                let step = self.queues[n].resume(now);
                self.queue_stepped(n, step);
            }
            Node::Agent(n) if self.agents[n].epoch == epoch && self.agents[n].machine.is_some() => {
                let step = self.agents[n].resume(now);
                self.agent_stepped(n, step);
            }
            _ => {}
        }
    }

    /// Something goes wrong with one of the nodes.
    pub(super) fn fault(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let haunted = self.schedule.weather == Weather::Haunted;
        let nodes = self.queues.len() + self.agents.len();
        let mut picked = self.rng.below(nodes as u64) as usize;
        if haunted && self.rng.chance(600) {
            picked = self.queues.len() + self.rng.below(self.agents.len() as u64) as usize;
        }
        let node = picked.checked_sub(self.queues.len()).map_or(Node::Queue(picked), Node::Agent);
        let last = if self.rng.chance(500) {
            LastCommit::Lost
        } else {
            LastCommit::Torn(1 + self.rng.below(4) as usize)
        };
        match self.rng.below(3) {
            0 => self.crash(node, last),
            1 => self.pause(node),
            _ => self.take_over(node, last),
        }
        let next = if haunted { self.rng.millis(100, 3_000) } else { self.rng.millis(200, 12_000) };
        self.after(next, Happening::Fault);
    }

    pub(super) fn crash(&mut self, node: Node, last: LastCommit) {
        let (up, from) = self.status(node);
        if !up {
            return;
        }
        self.report.crashes += 1;
        match node {
            Node::Queue(n) => self.queues[n].crash(last),
            Node::Agent(n) => self.agents[n].crash(last),
        }
        self.witness(node, from);
        let most = if self.schedule.weather == Weather::Haunted { 100 } else { 3_000 };
        let down = self.rng.millis(1, most);
        self.after(down, Happening::Restart(node));
    }

    pub(super) fn status(&self, node: Node) -> (bool, usize) {
        match node {
            Node::Queue(n) => (self.queues[n].machine.is_some(), self.queues[n].journal.len()),
            Node::Agent(n) => (self.agents[n].machine.is_some(), self.agents[n].journal.len()),
        }
    }

    pub(super) fn pause(&mut self, node: Node) {
        if !self.status(node).0 {
            return;
        }
        let pause = self.rng.millis(50, 5_000);
        let until = self.now.plus(pause);
        let epoch = match node {
            Node::Queue(n) => {
                self.queues[n].paused_until = Some(until);
                self.queues[n].epoch
            }
            Node::Agent(n) => {
                self.agents[n].paused_until = Some(until);
                self.agents[n].epoch
            }
        };
        self.after(pause, Happening::Resume(node, epoch));
    }

    /// The shard moves to a new owner while the old one only sleeps; what that says in its sleep arrives later.
    pub(super) fn take_over(&mut self, node: Node, last: LastCommit) {
        let (up, from) = self.status(node);
        if !up {
            return;
        }
        self.report.crashes += 1;
        let sleeps = self.rng.millis(1, 4_000);
        let (now, wakes) = (self.now, self.now.plus(sleeps));
        match node {
            Node::Queue(n) => {
                let said = self.queues[n].fence(last, wakes);
                self.witness(node, from);
                self.now = wakes;
                self.queue_says(n, said);
                self.now = now;
            }
            Node::Agent(n) => {
                let said = self.agents[n].fence(last, wakes);
                self.witness(node, from);
                self.now = wakes;
                let heard = |effect: &AgentEffect| !matches!(effect, AgentEffect::Show(_));
                self.agent_says(n, said.into_iter().filter(heard).collect());
                self.now = now;
            }
        }
        self.restart(node);
    }
}
