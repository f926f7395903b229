//! Edges, the media node, phones and pages.

use super::*;

impl World {
    /// Edges and media nodes refuse former owners, too.
    pub(in crate::cluster) fn admitted_outside(&mut self, shard: ShardId, epoch: u64) -> bool {
        let highest = self.outside.entry(shard).or_default();
        let fresh = epoch >= *highest;
        *highest = (*highest).max(epoch);
        if !fresh && !self.schedule.mutations.no_epoch_check {
            self.report.refused += 1;
            return false;
        }
        self.checker.acts(usize::MAX, shard, epoch);
        true
    }

    pub(in crate::cluster) fn edge(&mut self, call: usize, shard: ShardId, epoch: u64, command: EdgeCommand) {
        if !self.admitted_outside(shard, epoch) {
            return;
        }
        let said = match command {
            EdgeCommand::Respond { response, .. } => self.phones[call].hears(&response),
            EdgeCommand::Request { client_transaction, request } => {
                Some(self.phones[call].asked(client_transaction, &request))
            }
            EdgeCommand::Ack { .. } => None,
        };
        if let Some(input) = said {
            let id = self.phones[call].call;
            self.tell_call(None, id, input);
        }
    }

    pub(in crate::cluster) fn media(
        &mut self,
        call: usize,
        shard: ShardId,
        epoch: u64,
        command: MediaCommand,
    ) {
        if !self.admitted_outside(shard, epoch) {
            return;
        }
        let id = self.phones[call].call;
        let (reply, events) = self.sessions[call].command(id, command);
        self.tell_call(None, id, CallInput::MediaReply(Box::new(reply)));
        for event in events {
            self.event_ids += 1;
            let (node, id_of, event) = (Some(media_node()), self.event_ids, Box::new(event));
            // Told until it is acknowledged; here: often enough.
            for again in [10, 900, 2_500, 6_000, 12_000] {
                let event = event.clone();
                let input = CallInput::MediaEvent { node: node.clone(), id: id_of, acknowledge: true, event };
                let until = self.now.plus(Duration::from_millis(again) + HELD_FOR);
                let word = Word::Call(Box::new(input));
                let envelope = Envelope { to: Entity::Call(call), word, from: None, hops: 0, until };
                let n = self.rng.below(self.nodes.len() as u64) as usize;
                self.after(Duration::from_millis(again), Happening::Deliver(n, Box::new(envelope)));
            }
        }
    }

    pub(in crate::cluster) fn arrive(&mut self, n: usize) {
        self.phones[n].arrived = true;
        self.again(n);
    }

    pub(in crate::cluster) fn again(&mut self, n: usize) {
        if let Some(input) = self.phones[n].again() {
            let id = self.phones[n].call;
            self.tell_call(None, id, input);
        }
        if !self.phones[n].is_done() {
            self.after(AGAIN, Happening::Again(n));
        }
        // Conversations that began in the storm end, too, be it by the caller.
        if self.calm_since.is_some() && self.phones[n].answered && self.rng.chance(15) {
            let talks = self.actor(Entity::Call(n)).is_some_and(|actor| {
                matches!(&actor.core, Core::Call(call) if call.phase() == trunkline_call_core::Phase::Talking)
            });
            if talks {
                self.hang_up(n);
            }
        }
    }

    pub(in crate::cluster) fn hang_up(&mut self, n: usize) {
        if let Some(input) = self.phones[n].hang_up() {
            let id = self.phones[n].call;
            self.tell_call(None, id, input);
        }
    }

    pub(in crate::cluster) fn look(&mut self, n: usize) {
        let diligent = self.calm_since.is_some();
        if self.humans[n].attached {
            // Attaches again what was detached by mistake, or never heard of.
            self.session_says(n, SessionInput::Keepalive);
        }
        if let Some(message) = self.humans[n].look(&mut self.rng, diligent) {
            self.session_says(n, message);
        }
        if !diligent && self.rng.chance(10) {
            let soon = self.rng.millis(1, 100);
            self.after(soon, Happening::ConsoleDies(n));
        }
        let next = self.rng.millis(300, 2_500);
        self.after(next, Happening::Look(n));
    }

    pub(in crate::cluster) fn session_says(&mut self, n: usize, message: SessionInput) {
        let (session, console) = (self.humans[n].session(), self.humans[n].console());
        self.console_says(n, session, console, message);
    }

    pub(in crate::cluster) fn console_says(
        &mut self,
        n: usize,
        session: SessionId,
        console: Console,
        message: SessionInput,
    ) {
        let input = AgentInput::FromSession { session, console, message };
        let agent = self.agent_ids[n].clone();
        self.tell_agent(None, &agent, input);
    }

    /// The page's console node dies: its agent's node says so, and the page connects anew.
    pub(in crate::cluster) fn console_dies(&mut self, n: usize) {
        if self.humans[n].attached {
            self.session_says(n, SessionInput::Detach { reason: DetachReason::ConsoleLost });
            self.humans[n].lost_connection();
        }
    }
}
