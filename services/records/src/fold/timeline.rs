//! The timeline's sentences.

use std::collections::HashMap;

use trunkline_proto::{
    acd::v1::{agent_event, queue_event},
    call::v1::call_event::Event as Call,
    records::v1::TimelineEntry,
};

use super::contact::outcome_name;

fn entry(kind: &str, text: impl Into<String>, attributes: &[(&str, &str)]) -> Option<TimelineEntry> {
    let attributes: HashMap<String, String> = attributes
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Some(TimelineEntry { at_us: 0, kind: kind.to_owned(), text: text.into(), attributes })
}

fn named(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { name.to_owned() }
}

/// `consulting`: an agent has the caller already.
pub(super) fn call(event: &Call, consulting: bool) -> Option<TimelineEntry> {
    match event {
        Call::Started(e) => {
            let caller = if e.caller_number.is_empty() { "An anonymous caller" } else { &e.caller_number };
            entry("call.started", format!("{caller} dialled {}", e.dialled), &[("trunk", &e.trunk)])
        }
        Call::LegAnswered(e) => {
            entry("call.leg_answered", format!("Audio is up ({})", e.codec), &[("leg", &e.leg_id)])
        }
        Call::FlowEntered(e) => entry(
            "call.flow_entered",
            format!("Flow {}, version {}", e.flow, e.version),
            &[("flow", &e.flow)],
        ),
        Call::FlowStep(e) => {
            let text = match e.outcome.as_str() {
                "entered" => format!("Flow step {}", e.node),
                "no_input" => format!("No input at {}", e.node),
                "invalid" => format!("A key without meaning at {}", e.node),
                outcome => format!("{}: {outcome} {}", e.node, e.detail),
            };
            entry("call.flow_step", text, &[("node", &e.node), ("outcome", &e.outcome)])
        }
        Call::QueueEntered(e) if consulting => entry(
            "call.queue_entered",
            format!("The agent asks queue {} for another one", e.queue),
            &[("queue", &e.queue)],
        ),
        Call::QueueEntered(e) => {
            entry("call.queue_entered", format!("Waits in queue {}", e.queue), &[("queue", &e.queue)])
        }
        Call::AgentConnecting(e) => {
            let agent = named(&e.agent_name, &e.agent_id);
            entry("call.agent_connecting", format!("{agent} picked up"), &[("agent", &e.agent_id)])
        }
        Call::AgentBridged(e) if consulting => entry(
            "call.agent_bridged",
            format!("{} is being consulted", e.agent_id),
            &[("agent", &e.agent_id)],
        ),
        Call::AgentBridged(e) => {
            entry("call.agent_bridged", format!("Caller and {} talk", e.agent_id), &[("agent", &e.agent_id)])
        }
        Call::AgentReleased(e) if e.cause == "transferred" => entry(
            "call.agent_released",
            format!("{} passed the caller on", e.agent_id),
            &[("agent", &e.agent_id), ("cause", &e.cause)],
        ),
        Call::AgentReleased(e) => entry(
            "call.agent_released",
            format!("{} left the call ({})", e.agent_id, e.cause),
            &[("agent", &e.agent_id), ("cause", &e.cause)],
        ),
        Call::Hold(e) => {
            let text = if e.on_hold {
                format!("On hold by the {}", e.by)
            } else {
                format!("Taken back by the {}", e.by)
            };
            entry("call.hold", text, &[("by", &e.by)])
        }
        Call::Mute(e) => {
            entry("call.mute", if e.muted { "The agent is muted" } else { "The agent is heard again" }, &[])
        }
        Call::RecordingStarted(_)
        | Call::RecordingPaused(_)
        | Call::RecordingFinished(_)
        | Call::RecordingTrouble(_)
        | Call::RecordingFailed(_) => recording(event),
        Call::TranscriptStatus(e) => {
            entry("call.transcript_status", format!("Transcript: {} {}", e.status, e.detail).trim_end(), &[])
        }
        Call::Digits(e) => entry("call.digits", format!("{} key(s) pressed", e.count), &[("how", &e.how)]),
        Call::Ended(e) => {
            entry("call.ended", format!("Ended by the {}: {}", e.by, e.cause), &[("cause", &e.cause)])
        }
        Call::MediaMoved(e) => entry(
            "call.media_moved",
            media_moved(&e.reason, &e.from, &e.node),
            &[("from", &e.from), ("node", &e.node), ("reason", &e.reason)],
        ),
        Call::LegMoved(e) => {
            entry("call.leg_moved", format!("Audio is up again ({})", e.codec), &[("leg", &e.leg_id)])
        }
        Call::LegAdded(_)
        | Call::LegReleased(_)
        | Call::Dialog(_)
        | Call::QueueExited(_)
        | Call::MediaSession(_)
        | Call::TranscriptSegment(_)
        | Call::Quality(_) => None,
    }
}

fn recording(event: &Call) -> Option<TimelineEntry> {
    match event {
        Call::RecordingStarted(e) => {
            entry("call.recording_started", "Recording begins", &[("recording", &e.recording_id)])
        }
        Call::RecordingPaused(e) => entry(
            "call.recording_paused",
            if e.paused { "Recording paused" } else { "Recording goes on" },
            &[("recording", &e.recording_id)],
        ),
        Call::RecordingFinished(e) => {
            let seconds = e.duration_ms as f64 / 1e3;
            let how = if e.salvaged { "salvaged from the lost media node" } else { "stored" };
            entry(
                "call.recording_finished",
                format!("Recording of {seconds:.1} s {how}"),
                &[("recording", &e.recording_id)],
            )
        }
        Call::RecordingTrouble(e) => entry(
            "call.recording_trouble",
            if e.over {
                "The recording is written again".to_owned()
            } else {
                format!("The recording cannot be written: {}", e.reason)
            },
            &[("recording", &e.recording_id)],
        ),
        Call::RecordingFailed(e) => entry(
            "call.recording_failed",
            format!("Recording failed: {}", e.reason),
            &[("recording", &e.recording_id)],
        ),
        _ => None,
    }
}

pub(super) fn queue(queue: &str, event: &queue_event::Event) -> Option<TimelineEntry> {
    use queue_event::Event;
    match event {
        Event::Enqueued(e) => entry(
            "queue.enqueued",
            format!("Has a place in {queue} (number {} of this queue)", e.seq),
            &[("queue", queue)],
        ),
        Event::Refused(e) => entry(
            "queue.refused",
            format!("{queue} gave no place: {}", e.cause),
            &[("queue", queue), ("cause", &e.cause)],
        ),
        Event::NeverQueued(_) => None,
        Event::Committed(e) => {
            let candidates = e.explanation.as_ref().map_or(0, |x| x.candidates_total);
            let text = format!("Offered to {}, chosen of {candidates} available", e.agent_id);
            entry("queue.committed", text, &[("agent", &e.agent_id), ("offer", &e.offer_id)])
        }
        Event::OfferEnded(e) => {
            let outcome = outcome_name(e.outcome());
            let text = format!("Offer to {} ended: {outcome}; back at its place", e.agent_id);
            entry("queue.offer_ended", text, &[("agent", &e.agent_id), ("outcome", outcome)])
        }
        Event::Answered(e) => {
            let target = if e.within_target { "within" } else { "after" };
            let text = format!("Answered by {}, {target} the service-level target", e.agent_id);
            entry("queue.answered", text, &[("agent", &e.agent_id), ("queue", queue)])
        }
        Event::Left(e) => {
            entry("queue.left", format!("Left {queue}: {}", e.cause().as_str_name()), &[("queue", queue)])
        }
    }
}

pub(super) fn agent(agent: &str, event: &agent_event::Event) -> Option<TimelineEntry> {
    use agent_event::Event;
    match event {
        Event::Offered(_) => entry("agent.offered", format!("Rings at {agent}"), &[("agent", agent)]),
        Event::OfferEnded(e) => {
            let outcome = outcome_name(e.outcome());
            entry(
                "agent.offer_ended",
                format!("{agent}: {outcome}"),
                &[("agent", agent), ("outcome", outcome)],
            )
        }
        Event::CallEnded(_) => entry("agent.call_ended", format!("{agent} wraps up"), &[("agent", agent)]),
        Event::WrapUpEnded(_) => {
            entry("agent.wrap_up_ended", format!("{agent} is done"), &[("agent", agent)])
        }
        _ => None,
    }
}

fn media_moved(reason: &str, from: &str, node: &str) -> String {
    match reason {
        "unrecorded" => {
            format!("{from} cannot record, and the queue's calls must be; audio moves to {node}")
        }
        "drained" => format!("Audio moves from {from} to {node}: the node is being emptied"),
        _ => format!("Media node {from} was lost; audio moves to {node}"),
    }
}
