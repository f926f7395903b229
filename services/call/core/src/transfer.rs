//! Transfer: blind, and attended after a consultation.
//!
//! A consultation is a stay in another queue while an agent has the caller: the caller hears music, the agent the music
//! of that queue, until an agent of it picks up; then both agents talk. Whoever ends it decides what becomes of it: the
//! agent who has the caller completes the transfer or goes back to the caller; the one who is consulted can only leave.
//! To complete is to release the agent who has the caller. What is left then is what a call knows anyhow: a caller who
//! waits, whose agent is being connected, or who talks.
//!
//! A blind transfer is a consultation that completes itself as soon as the queue has committed the place: a queue that
//! is full or unknown costs the caller nothing, the agent is told and still has the call.
//!
//! An agent who hangs up or is lost amid a consultation completes it: nobody is left to go back to, and the caller
//! keeps the place or the agent who was found.

use trunkline_types::{Feature, LegId, QueueId, ReleaseCause};

use crate::{
    call::{Call, Cx},
    effect::Consultation,
    event::{EventBody, HoldBy, QueueOutcome},
    input::RefusedReason,
    media::{MediaBody, Then},
};

/// Steps of priority with which a caller comes who is passed on, or whose agent asks for another one: somebody has
/// waited once already, and an agent waits as well.
pub const TRANSFER_PRIORITY: i32 = 10;

/// A blind transfer that waits for the place: whom to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub session: String,
    pub command: String,
}

impl Call {
    /// Asks another queue for an agent, while this one keeps the caller. Returns an error for the agent, empty = begun.
    pub(crate) fn consult(&mut self, cx: &mut Cx<'_>, queue: QueueId) -> &'static str {
        if let Some(error) = self.no_consultation(&queue) {
            return error;
        }
        self.consult_error = "";
        self.agent_holds(cx, true);
        self.enter_queue(cx, queue, TRANSFER_PRIORITY, cx.now);
        ""
    }

    /// Passes the caller on as soon as the queue has given a place; the agent is answered then.
    pub(crate) fn transfer(&mut self, cx: &mut Cx<'_>, pending: Pending, queue: QueueId) {
        if self.transferring.as_ref() == Some(&pending) {
            return;
        }
        // The agent waits there already, or a former owner had asked for the place and the agent asks on.
        let asked = self.consulted.is_none() && self.stay.as_ref().is_some_and(|stay| stay.queue == queue);
        if !asked {
            if let Some(error) = self.no_consultation(&queue) {
                return self.control_answered(cx, pending, error);
            }
            self.consult_error = "";
            self.transferring = Some(pending.clone());
            self.enter_queue(cx, queue, TRANSFER_PRIORITY, cx.now);
        }
        self.transferring = Some(pending);
        if self.stay.as_ref().is_some_and(|stay| stay.confirmed) {
            self.place_for_transfer(cx);
        }
    }

    fn no_consultation(&self, queue: &QueueId) -> Option<&'static str> {
        if !self.library.may_write(Feature::Transfer) {
            return Some("upgrade_in_progress");
        }
        if self.consulting() {
            return Some("already_consulting");
        }
        (!self.library.has_queue(&self.tenant, queue)).then_some("unknown_queue")
    }

    /// The queue has committed the place of a caller who is being passed on.
    pub(crate) fn place_for_transfer(&mut self, cx: &mut Cx<'_>) {
        if let Some(pending) = self.transferring.take() {
            self.control_answered(cx, pending, "");
            self.complete_transfer(cx, ReleaseCause::Transferred);
        }
    }

    /// The agent who has the caller leaves; whoever was found, or the place, stays.
    pub(crate) fn complete_transfer(&mut self, cx: &mut Cx<'_>, cause: ReleaseCause) {
        let Some(leg) = self.agent.as_deref().map(|part| part.leg) else { return };
        self.transferring = None;
        let running = self.running();
        self.release_agent_part(cx, leg, cause);
        self.stop_recordings(cx, running);
        self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
        let record = self.agent.as_deref().filter(|part| part.bridged.is_some() && part.recording);
        if let Some((agent, queue, required)) =
            record.map(|part| (part.agent.clone(), part.queue.clone(), part.recording_required))
        {
            let treatment = self.library.treatment(&self.tenant, &queue);
            let recording = self.new_recording();
            self.emit(cx, EventBody::RecordingStarted { recording, agent, required });
            self.programs(cx);
            self.start_recording(cx, &treatment, recording);
        } else {
            self.programs(cx);
        }
        self.pay_due(cx);
        self.moved_through(cx);
        self.notify_state(cx);
    }

    /// Back to the caller. Returns an error for the agent, empty = done.
    pub(crate) fn cancel_consultation(&mut self, cx: &mut Cx<'_>) -> &'static str {
        if !self.consulting() {
            return "not_consulting";
        }
        if let Some(leg) = self.consulted.as_deref().map(|part| part.leg) {
            self.leave_consultation(cx, leg, ReleaseCause::ConsultEnded);
        }
        self.end_consulting_stay(cx, QueueOutcome::Flow);
        self.transfer_refused(cx, "cancelled");
        self.agent_holds(cx, false);
        self.programs(cx);
        ""
    }

    /// The consulted agent goes, connected or not; the one who has the caller stays with it.
    pub(crate) fn leave_consultation(&mut self, cx: &mut Cx<'_>, leg: LegId, cause: ReleaseCause) {
        let connecting = self.part(leg).is_some_and(|part| part.bridged.is_none());
        if connecting {
            return self.agent_failed(cx, leg, cause);
        }
        self.release_agent_part(cx, leg, cause);
        self.media(cx, MediaBody::CloseEndpoint { leg }, Then::Optional);
        self.programs(cx);
        self.pay_due(cx);
        self.moved_through(cx);
        self.notify_state(cx);
    }

    /// The queue gives no agent: the one who has the caller hears why. False: nobody consults.
    pub(crate) fn consultation_failed(
        &mut self,
        cx: &mut Cx<'_>,
        outcome: QueueOutcome,
        reason: RefusedReason,
    ) -> bool {
        if !self.consulting() {
            return false;
        }
        self.end_consulting_stay(cx, outcome);
        let reason = match (outcome, reason) {
            (QueueOutcome::TimedOut, _) => "queue_timeout",
            (QueueOutcome::Lost, _) => "queue_unavailable",
            (_, RefusedReason::UnknownQueue) => "unknown_queue",
            (_, RefusedReason::Closed) => "queue_closed",
            (_, RefusedReason::QueueFull) => "queue_full",
        };
        self.consult_error = reason;
        self.transfer_refused(cx, reason);
        self.programs(cx);
        self.notify_state(cx);
        true
    }

    fn end_consulting_stay(&mut self, cx: &mut Cx<'_>, outcome: QueueOutcome) {
        if let Some(stay) = &self.stay {
            let (queue, entry) = (stay.queue.clone(), stay.entry);
            self.emit(cx, EventBody::QueueExited { queue, entry, outcome });
            self.pay_due(cx);
        }
    }

    fn transfer_refused(&mut self, cx: &mut Cx<'_>, error: &'static str) {
        if let Some(pending) = self.transferring.take() {
            self.control_answered(cx, pending, error);
        }
    }

    fn agent_holds(&mut self, cx: &mut Cx<'_>, on_hold: bool) {
        if self.agent.as_deref().is_some_and(|part| part.on_hold != on_hold) {
            let before = self.held();
            self.emit(cx, EventBody::HoldChanged { by: HoldBy::Agent, on_hold });
            self.hold_changed(cx, before);
        }
    }

    /// How far a consultation is, for the agent of this leg.
    pub(crate) fn consultation(&self, leg: LegId) -> Consultation {
        let name = |part: &crate::agent::AgentPart| part.name.clone();
        match (self.agent.as_deref(), self.consulted.as_deref(), &self.stay) {
            (Some(agent), Some(consulted), _) if consulted.leg == leg => Consultation::By(name(agent)),
            (Some(_), Some(consulted), _) if consulted.bridged.is_some() => {
                Consultation::With(name(consulted))
            }
            (Some(_), _, Some(stay)) if self.consulting() => Consultation::Waiting(stay.queue.clone()),
            _ => Consultation::None,
        }
    }
}
