//! What is told of a schedule that somebody looks at.

use super::*;

impl World {
    /// Who should have an entity, and who thinks to.
    pub(super) fn whereabouts(&self, entity: Entity) -> String {
        let shard = self.shards[&entity];
        let of = |node: &Node| {
            let starting = node.starting.contains_key(&entity);
            (
                node.place.me().to_string(),
                node.place.owner(shard).map(ToString::to_string),
                node.place.holding(shard),
                starting,
                node.place.stage_of(shard),
            )
        };
        format!("{shard} {:?}: {:?}", self.light.get(&shard), self.nodes.iter().map(of).collect::<Vec<_>>())
    }

    pub(super) fn describe(&self) -> String {
        let phones: Vec<_> = self.phones.iter().enumerate().filter(|(_, phone)| !phone.is_done()).collect();
        let calls: Vec<_> = (0..self.phones.len())
            .filter(|n| !self.journal.is_finished(Entity::Call(*n)))
            .map(|n| {
                let phase = self.actor(Entity::Call(n)).map(|actor| match &actor.core {
                    Core::Call(call) => format!("{:?} until {:?}", call.phase(), actor.core.next_deadline()),
                    _ => String::new(),
                });
                (n, phase, self.whereabouts(Entity::Call(n)), self.journal.history(Entity::Call(n)).last())
            })
            .collect();
        let agents: Vec<_> = (0..self.agent_ids.len())
            .map(|n| {
                self.actor(Entity::Agent(n)).map(|actor| match &actor.core {
                    Core::Agent(agent) => {
                        (agent.view().status.name(), agent.unseen_outcomes(), actor.is_settled())
                    }
                    _ => ("?", 0, false),
                })
            })
            .collect();
        let queues: Vec<_> = (0..self.queue_ids.len())
            .map(|n| {
                self.actor(Entity::Queue(n)).map(|actor| match &actor.core {
                    Core::Queue(queue) => format!("{:?}", queue.view(2)),
                    _ => String::new(),
                })
            })
            .collect();
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.up, node.is_awake(), node.actors.keys().collect::<Vec<_>>()))
            .collect();
        format!("phones {phones:?}; calls {calls:?}; agents {agents:?}; queues {queues:?}; nodes {nodes:?}")
    }
}

#[allow(clippy::print_stdout)] // only for a seed that somebody looks at
pub(super) fn trace(at: Timestamp, what: &Happening) {
    println!("{:>9.3} {}", at.since(START).as_secs_f64(), shortly(&format!("{what:?}")));
}

fn shortly(text: &str) -> String {
    text.chars().take(400).collect()
}
