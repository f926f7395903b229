//! From the agent's actor to the client's words.

use trunkline_proto::{
    acd::v1::{Consultation, consultation::State},
    console::v1 as proto,
};

use super::protocol::{
    AgentState, CallView, ConsultationState, ConsultationView, NextView, RecordingState, Snapshot, Transcript,
};
use crate::clock::{ms, ms_or_none};

fn text_or_none(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn state(name: &str) -> AgentState {
    match name {
        "not_ready" => AgentState::NotReady,
        "ready" => AgentState::Ready,
        "ringing" => AgentState::Ringing,
        "connecting" => AgentState::Connecting,
        "talking" => AgentState::Talking,
        "wrap_up" => AgentState::WrapUp,
        "signed_out" => AgentState::SignedOut,
        other => {
            tracing::warn!(state = other, "an agent's actor is in a state that this console does not know");
            AgentState::SignedOut
        }
    }
}

impl From<proto::AgentSnapshot> for Snapshot {
    fn from(from: proto::AgentSnapshot) -> Self {
        Self {
            server_ms: ms(from.server_us),
            state: state(&from.state),
            reason: from.reason,
            since_ms: ms(from.since_us),
            until_ms: ms_or_none(from.until_us),
            call: from.call.map(Into::into),
            next: from.next.map(|next| NextView { ready: next.ready, reason: next.reason }),
            microphone: text_or_none(from.microphone),
            sessions: from.sessions,
            queues: from.queues,
        }
    }
}

impl From<proto::AgentCallView> for CallView {
    fn from(from: proto::AgentCallView) -> Self {
        let card = from.card.unwrap_or_default();
        Self {
            call_id: from.call_id,
            offer_id: from.offer_id,
            queue_id: from.queue_id,
            queue_name: from.queue_name,
            caller_number: card.caller_number,
            caller_name: card.caller_name,
            dialled: card.dialled,
            attributes: card.attributes.into_iter().collect(),
            entered_ms: ms(from.entered_us),
            connected_ms: ms_or_none(from.connected_us),
            on_hold: from.on_hold,
            muted: from.muted,
            recording: match (from.recording, from.recording_paused) {
                (true, _) => RecordingState::On,
                (false, true) => RecordingState::Paused,
                (false, false) => RecordingState::Off,
            },
            caller_held: from.caller_held,
            notes: from.notes,
            disposition_required: from.disposition_required,
            dispositions: from.dispositions,
            consulted_by: text_or_none(card.consulted_by),
            consultation: from.consultation.and_then(consultation),
            media_generation: from.media_generation,
        }
    }
}

fn consultation(from: Consultation) -> Option<ConsultationView> {
    let (state, party) = match from.state? {
        State::WaitingQueueId(queue) => (ConsultationState::Waiting, queue),
        State::With(name) => (ConsultationState::With, name),
        State::By(name) => (ConsultationState::By, name),
        State::Failed(reason) => (ConsultationState::Failed, reason),
    };
    Some(ConsultationView { state, party })
}

impl From<proto::TranscriptLine> for Transcript {
    fn from(from: proto::TranscriptLine) -> Self {
        Self {
            call_id: from.call_id,
            channel: from.channel,
            start_ms: from.start_ms,
            end_ms: from.end_ms,
            text: from.text,
            is_final: from.is_final,
        }
    }
}
