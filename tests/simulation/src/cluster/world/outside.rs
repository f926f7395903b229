//! Edges, phones and pages.

use trunkline_sip::Method;

use super::*;

/// Pause before a phone's 2xx is sent again; doubles up to 4 s.
const REPEATS_FIRST: Duration = Duration::from_millis(500);
/// And how often at most: 64*T1.
const REPEATS_MOST: u32 = 10;
/// So long after the last fault audio is where it belongs: a search for a node, and 64*T1 for the caller to follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(60);

impl World {
    /// Edges refuse former owners, too.
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
                let glare = !self.network.is_calm() && self.rng.chance(50);
                let said = self.phones[call].asked(client_transaction, &request, glare);
                if let (Ok(cseq), Some(said)) = (request.headers.cseq(), &said)
                    && cseq.method == Method::Invite
                {
                    let said = Box::new(said.clone());
                    self.after(REPEATS_FIRST, Happening::Repeats(call, cseq.number, said, 1));
                }
                said
            }
            EdgeCommand::Ack { request, .. } => {
                if let Ok(cseq) = request.headers.cseq() {
                    self.phones[call].acknowledged(cseq.number);
                }
                None
            }
        };
        if let Some(input) = said {
            let id = self.phones[call].call;
            self.tell_call(None, id, input);
        }
    }

    /// A 2xx to an INVITE is sent again until its ACK comes (RFC 3261 section 13.3.1.4).
    pub(in crate::cluster) fn repeats(&mut self, n: usize, cseq: u32, response: &CallInput, times: u32) {
        if self.phones[n].has_ack(cseq) || times > REPEATS_MOST {
            return;
        }
        let id = self.phones[n].call;
        self.tell_call(None, id, response.clone());
        let pause = (REPEATS_FIRST * 2u32.pow(times.min(3))).min(Duration::from_secs(4));
        self.after(pause, Happening::Repeats(n, cseq, Box::new(response.clone()), times + 1));
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
                if self.calm_since.is_some_and(|since| self.now.since(since) > FOLLOWS_WITHIN) {
                    self.check_audio(n);
                }
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
        if self.humans[n].attached
            && std::mem::take(&mut self.humans[n].audio_moved)
            && let Some(message) = self.humans[n].new_audio()
        {
            self.session_says(n, message);
        }
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
