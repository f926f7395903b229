//! Commands are done once: what is remembered of them, and what of it outlives the agent's node.
//!
//! A console that sends a command again (it, or the agent's node, died before the answer) names it by session and id.
//! Commands whose repetition would do harm are remembered in the journal by the event that carries them out; the others
//! (ready, notes, hold …) give the same state again. Requests to the call are journalled before they leave, so that a
//! moved agent sends the same request again instead of a second one.

use serde::{Deserialize, Serialize};
use trunkline_types::{ReleaseCause, Timestamp};

use super::{Agent, AgentEffect, AgentEvent, Answer, CommandError, CommandReply, Outbox, PendingControl};
use crate::{Action, AgentToCall, SessionId};

/// Answers kept for clients that ask again after a reconnect; as many are kept in the journal's fold.
const ANSWERS_KEPT: usize = 64;
/// So many of them keep their SDP; an older one is answered without.
const SDP_KEPT: usize = 4;

/// Of these answers, the newest first, only some keep their SDP.
fn forget_sdp<'a>(newest_first: impl Iterator<Item = &'a mut Answer>) {
    let media = newest_first.filter_map(|answer| match answer {
        Ok(CommandReply::Media { sdp_answer, .. }) => Some(sdp_answer),
        _ => None,
    });
    media.skip(SDP_KEPT).for_each(|sdp| *sdp = String::new());
}

/// A command by the client's name for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommandRef {
    /// The session that gave it.
    pub session: SessionId,
    /// The client's id, unique within the session.
    pub id: String,
}

/// A command whose answer outlives the node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) by: CommandRef,
    pub(crate) answer: Answer,
}

/// A request to the call that has not ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) by: CommandRef,
    pub(crate) request: AgentToCall,
}

impl Begun {
    /// What its command is told when the call ends first.
    pub(crate) fn at_call_end(request: &AgentToCall, cause: ReleaseCause) -> Answer {
        match request {
            AgentToCall::Control { action, .. } if action.is_done_by(cause) => Ok(CommandReply::Done),
            _ => Err(CommandError::CallEnded),
        }
    }
}

impl super::AgentSnapshot {
    /// Keeps an answer.
    pub(super) fn remember(&mut self, by: &CommandRef, answer: Answer) {
        while self.done.len() >= ANSWERS_KEPT {
            self.done.pop_front();
        }
        self.done.push_back(Remembered { by: by.clone(), answer });
        forget_sdp(self.done.iter_mut().rev().map(|kept| &mut kept.answer));
    }

    /// The call is over: so are the requests to it.
    pub(super) fn requests_over(&mut self, cause: ReleaseCause) {
        for (_, begun) in std::mem::take(&mut self.begun) {
            let answer = Begun::at_call_end(&begun.request, cause);
            self.remember(&begun.by, answer);
        }
    }
}

impl Agent {
    /// The answer to a command that was done before.
    pub(super) fn known_answer(&self, session: &SessionId, id: &str) -> Option<Answer> {
        let fresh = self.answered.iter().find(|(s, i, _)| s == session && i == id);
        let fresh = fresh.map(|(_, _, answer)| answer);
        let is_it = |kept: &&Remembered| kept.by.session == *session && kept.by.id == id;
        let kept = || self.state.done.iter().rev().find(is_it).map(|kept| &kept.answer);
        Some(match fresh.or_else(kept)? {
            // Forgotten: the page makes a new offer.
            Ok(CommandReply::Media { sdp_answer, .. }) if sdp_answer.is_empty() => Err(CommandError::Call {
                reason: "the audio was connected, its answer is gone: resume the audio".to_owned(),
            }),
            answer => answer.clone(),
        })
    }

    /// Its answer comes.
    pub(super) fn is_under_way(&self, session: &SessionId, id: &str) -> bool {
        let asked = |asker: &CommandRef| asker.session == *session && asker.id == id;
        self.accepting.as_ref().is_some_and(asked)
            || self.controls.values().any(|pending| pending.asker.as_ref().is_some_and(asked))
    }

    /// Answers a command and keeps the answer for a client that asks again.
    pub(super) fn answer(&mut self, session: SessionId, id: String, answer: Answer, out: &mut Outbox) {
        if self.answered.len() == ANSWERS_KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back((session.clone(), id.clone(), answer.clone()));
        forget_sdp(self.answered.iter_mut().rev().map(|(_, _, answer)| answer));
        Self::tell_answer(session, id, answer, out);
    }

    pub(super) fn tell_answer(session: SessionId, id: String, answer: Answer, out: &mut Outbox) {
        out.effect(match answer {
            Ok(reply) => AgentEffect::CommandDone { session, id, reply },
            Err(error) => AgentEffect::CommandFailed { session, id, error },
        });
    }

    /// Journals a request to the call before it leaves.
    pub(super) fn begin(
        &mut self,
        by: &CommandRef,
        control: u64,
        request: &AgentToCall,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let (by, request) = (by.clone(), Box::new(request.clone()));
        self.record(AgentEvent::CommandBegun { at: now, by, control, request }, out);
    }

    /// The call has answered a request: the answer is journalled with it, then told.
    pub(super) fn end_control(
        &mut self,
        control: u64,
        pending: PendingControl,
        answer: Answer,
        now: Timestamp,
        out: &mut Outbox,
    ) {
        let Some(by) = pending.asker else { return };
        let kept = Box::new(answer.clone());
        self.record(AgentEvent::CommandEnded { at: now, by: by.clone(), control, answer: kept }, out);
        self.answer(by.session, by.id, answer, out);
    }

    /// After a recovery: requests that had not ended are sent again, under the same numbers.
    pub(super) fn go_on_asking(&mut self, now: Timestamp, out: &mut Outbox) {
        for (control, begun) in self.state.begun.clone() {
            if let AgentToCall::Control { action: Action::Hangup, .. } = &begun.request {
                self.hanging_up = true;
            }
            let pending = PendingControl { asker: Some(begun.by), message: begun.request, attempts: 0 };
            self.controls.insert(control, pending);
            self.control_due(control, now, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{Epoch, OfferId};

    use super::*;

    #[test]
    fn the_newest_answers_keep_their_sdp() {
        let media = |n: usize| -> Answer {
            let offer = OfferId { queue: "support".parse().unwrap(), epoch: Epoch(1), n: 1 };
            Ok(CommandReply::Media { offer, sdp_answer: format!("v=0 {n}") })
        };
        let mut answers: Vec<Answer> =
            (0..12).map(|n| if n % 2 == 0 { media(n) } else { Ok(CommandReply::Done) }).collect();
        forget_sdp(answers.iter_mut().rev());
        let kept = |answer: &Answer| match answer {
            Ok(CommandReply::Media { sdp_answer, .. }) => Some((sdp_answer.len(), sdp_answer.capacity())),
            _ => None,
        };
        let kept: Vec<_> = answers.iter().filter_map(kept).collect();
        assert_eq!(kept[..2], [(0, 0); 2], "and not what they took");
        assert!(kept[2..].iter().all(|(bytes, _)| *bytes > 0));
        assert_eq!(kept.len(), 2 + SDP_KEPT);
    }
}
