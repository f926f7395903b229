//! The end of a call: both parties, the queue, the agent and the media hear of it, whatever was under way.

use trunkline_sip::{HeaderName, Response};
use trunkline_types::{LegId, ReleaseCause};

use crate::{
    call::{Call, Cx},
    debt::DebtKind,
    event::{EndedBy, EventBody, QueueOutcome},
    invite::{reason_header, refusal_status},
    leg::Bye,
};

impl Call {
    /// Ends the call. Later calls of this change nothing.
    pub(crate) fn end(&mut self, cx: &mut Cx<'_>, cause: ReleaseCause, by: EndedBy) {
        if self.ended.is_some() {
            return;
        }
        // A recovery that was under way has nothing left to find out.
        self.recovering = false;
        if let Some(stay) = &self.stay {
            let (queue, entry) = (stay.queue.clone(), stay.entry);
            let outcome = match cause {
                // Nobody waited there but an agent.
                _ if self.consulting() => QueueOutcome::Flow,
                ReleaseCause::CallerHangup | ReleaseCause::CallerCancel => QueueOutcome::Abandoned,
                _ => QueueOutcome::Lost,
            };
            self.emit(cx, EventBody::QueueExited { queue, entry, outcome });
        }
        // Who is consulted goes first: nobody is left to get the caller.
        let legs = self.agent_legs().into_iter().rev();
        let unconnected: Vec<_> = legs.filter_map(|leg| self.release_agent_part(cx, leg, cause)).collect();
        self.emit(cx, EventBody::Ended { cause, by });
        self.transferring = None;
        for (agent, offer, _) in unconnected {
            // Not after a recovery: then the agent asks again and hears the same.
            self.owe(cx.now, DebtKind::AgentEnded { agent, offer, cause, at: cx.now, connected: None });
        }
        self.stop_moving(cx);
        self.release_caller(cx, cause);
        self.close_session(cx);
        self.pay_due(cx);
    }

    /// An agent's leg and part are over. Returns whom to tell when they had not begun.
    pub(crate) fn release_agent_part(
        &mut self,
        cx: &mut Cx<'_>,
        leg: LegId,
        cause: ReleaseCause,
    ) -> Option<(trunkline_types::AgentId, trunkline_types::OfferId, String)> {
        let part = self.part(leg)?;
        let (offer, agent) = (part.offer.clone(), part.agent.clone());
        let unconnected =
            part.bridged.is_none().then(|| (agent.clone(), offer.clone(), part.session.clone()));
        self.emit(cx, EventBody::LegReleased { leg, cause });
        self.emit(cx, EventBody::AgentReleased { offer, agent, leg: Some(leg), cause });
        unconnected
    }

    fn release_caller(&mut self, cx: &mut Cx<'_>, cause: ReleaseCause) {
        let invite = self.take_invite();
        if let Some(invite) = &invite {
            let status = if invite.initial { refusal_status(cause) } else { 487 };
            let response = self
                .tagged(Response::to(&invite.request, status))
                .with_header(HeaderName::Reason, reason_header(cause));
            self.respond(cx, &invite.route, &invite.transaction, response);
        }
        if let Some(update) = self.caller.as_deref_mut().and_then(|caller| caller.update.take()) {
            self.respond(cx, &update.route, &update.transaction, Response::to(&update.request, 500));
        }
        let Some(caller) = self.caller.as_deref_mut() else { return };
        if caller.answered && caller.bye == Bye::No {
            caller.bye = Bye::Wanted(cause);
        }
        self.try_bye(cx);
    }
}
