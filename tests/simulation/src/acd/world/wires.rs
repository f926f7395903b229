//! What is said, on its way over the network.

use std::time::Duration;

use trunkline_acd_core::{
    AgentEffect, AgentInput, CallToAgent, CallToQueue, QueueEffect, QueueInput, QueueToAgent,
};
use trunkline_types::CallId;

use super::{Happening, Says, World};

impl World {
    /// Puts a message on the network.
    pub(super) fn send(&mut self, what: Happening) {
        self.report.messages += 1;
        let network = self.network;
        let copies =
            if self.rng.chance(network.loss) { 0 } else { 1 } + u64::from(self.rng.chance(network.double));
        for _ in 0..copies {
            let delay = if self.rng.chance(network.late) {
                self.rng.between(Duration::from_micros(200), network.late_most)
            } else {
                self.rng.between(Duration::from_micros(200), Duration::from_millis(3))
            };
            self.after(delay, what.clone());
        }
    }

    pub(super) fn say(&mut self, call: usize, says: Vec<Says>) {
        let id = self.callers[call].id;
        for said in says {
            match said {
                Says::Queue(queue, message) => self.call_to_queue(id, queue, message),
                Says::Agent(agent, message) => self.call_to_agent(id, agent, message),
            }
        }
    }

    pub(super) fn call_to_queue(&mut self, call: CallId, queue: usize, message: CallToQueue) {
        self.send(Happening::ToQueue(queue, Box::new(QueueInput::FromCall { call, message })));
    }

    pub(super) fn call_to_agent(&mut self, call: CallId, agent: usize, message: CallToAgent) {
        self.send(Happening::ToAgent(agent, Box::new(AgentInput::FromCall { call, message })));
    }

    pub(super) fn queue_says(&mut self, n: usize, effects: Vec<QueueEffect>) {
        for effect in effects {
            match effect {
                QueueEffect::ToCall { call, message } => {
                    if let Some(index) = self.call_index.get(&call).copied() {
                        self.send(Happening::QueueToCall(n, index, Box::new(message)));
                    }
                }
                QueueEffect::ToAgent { agent, message } => {
                    if let Some(index) = self.agent_ids.iter().position(|id| *id == agent) {
                        self.queue_to_agent(n, index, message);
                    }
                }
                QueueEffect::AskAgents { known } => {
                    for index in 0..self.agents.len() {
                        if known.binary_search(&self.agent_ids[index]).is_err() {
                            self.queue_to_agent(n, index, QueueToAgent::AskAnnounce);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn queue_to_agent(&mut self, n: usize, agent: usize, message: QueueToAgent) {
        let input = AgentInput::FromQueue { queue: self.queue_ids[n].clone(), message };
        self.send(Happening::ToAgent(agent, Box::new(input)));
    }

    pub(super) fn agent_says(&mut self, n: usize, effects: Vec<AgentEffect>) {
        for effect in effects {
            match effect {
                AgentEffect::ToQueue { queue, message } => {
                    if let Some(index) = self.queue_ids.iter().position(|id| *id == queue) {
                        let input = QueueInput::FromAgent { agent: self.agent_ids[n].clone(), message };
                        self.send(Happening::ToQueue(index, Box::new(input)));
                    }
                }
                AgentEffect::ToCall { call, message } => {
                    if let Some(index) = self.call_index.get(&call).copied() {
                        self.send(Happening::AgentToCall(n, index, Box::new(message)));
                    }
                }
                AgentEffect::Show(view) => self.humans[n].view = Some(*view),
                AgentEffect::CommandDone { .. }
                | AgentEffect::CommandFailed { .. }
                | AgentEffect::Superseded { .. } => {}
            }
        }
    }
}
