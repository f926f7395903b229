//! One call's events, folded into its contact record.

use trunkline_proto::{
    acd::v1::{AgentEvent, LeaveCause, OfferOutcome, QueueEvent, agent_event, queue_event},
    call::v1::{CallEvent, call_event::Event},
    records::v1::{Contact, Decision, PresentAgent, Recording, TimelineEntry},
};

use super::{counters::positive, timeline};

/// Entries that a timeline holds at most; a call that goes on for days must not grow without bound.
const TIMELINE_MOST: usize = 2_000;
const SEGMENTS_MOST: usize = 20_000;
const DECISIONS_MOST: usize = 500;

/// Folds an event of the call itself.
pub fn call(contact: &mut Contact, event: &CallEvent) {
    let at = event.at_us;
    let Some(body) = &event.event else { return };
    // The agent who has the caller is there when another one is asked for, and two are when they talk.
    let alone = usize::from(matches!(body, Event::AgentBridged(_)));
    let consulting = contact.present.len() > alone;
    match body {
        Event::Started(e) => {
            contact.started_us = at;
            contact.direction.clone_from(&e.direction);
            contact.caller_number.clone_from(&e.caller_number);
            contact.caller_name.clone_from(&e.caller_name);
            contact.dialled.clone_from(&e.dialled);
            contact.sip_call_id.clone_from(&e.sip_call_id);
            contact.outcome = "in_progress".to_owned();
        }
        Event::LegAnswered(_) if contact.answered_us == 0 => contact.answered_us = at,
        Event::QueueEntered(e) if contact.present.is_empty() => contact.queue_id.clone_from(&e.queue),
        Event::QueueEntered(e) => contact.consult_queue_id.clone_from(&e.queue),
        Event::QueueExited(_) => contact.consult_queue_id.clear(),
        Event::AgentConnecting(e) => {
            let (agent_id, agent_name) = (e.agent_id.clone(), e.agent_name.clone());
            contact.present.push(PresentAgent { agent_id, agent_name, queue_id: e.queue.clone() });
            has_caller(contact);
        }
        Event::AgentReleased(e) => released(contact, &e.agent_id, &e.cause),
        Event::RecordingStarted(e) => contact.recordings.push(Recording {
            recording_id: e.recording_id.clone(),
            state: "recording".to_owned(),
            started_us: at,
            ..Recording::default()
        }),
        Event::RecordingFinished(_) | Event::RecordingFailed(_) => recording(contact, body),
        Event::TranscriptStatus(e) => {
            contact.transcript_status.clone_from(&e.status);
            contact.transcript_detail.clone_from(&e.detail);
        }
        Event::TranscriptSegment(e) if contact.transcript.len() < SEGMENTS_MOST => {
            let place = contact.transcript.partition_point(|s| s.start_ms <= e.start_ms);
            contact.transcript.insert(place, e.clone());
        }
        Event::Quality(e) => {
            contact.quality.retain(|q| q.leg_id != e.leg_id);
            contact.quality.push(e.clone());
        }
        Event::Ended(e) => {
            contact.ended_us = at;
            contact.cause.clone_from(&e.cause);
            contact.ended_by.clone_from(&e.by);
            if contact.outcome == "in_progress" {
                // Never in a queue, or its queue has not told yet (it will, and then its word counts).
                contact.outcome = if contact.queue_id.is_empty() { "flow" } else { "lost" }.to_owned();
            }
        }
        _ => {}
    }
    note(contact, at, timeline::call(body, consulting));
}

/// The first of the agents who are there is the one of the record.
fn has_caller(contact: &mut Contact) {
    if let Some(first) = contact.present.first() {
        contact.agent_id.clone_from(&first.agent_id);
        contact.agent_name.clone_from(&first.agent_name);
        contact.queue_id.clone_from(&first.queue_id);
    }
}

/// Who is left has the caller; with nobody left the caller waits where the agent had asked for somebody.
fn released(contact: &mut Contact, agent: &str, cause: &str) {
    let Some(at) = contact.present.iter().position(|p| p.agent_id == agent) else { return };
    contact.present.remove(at);
    contact.transfers += u32::from(cause == "transferred");
    has_caller(contact);
    if contact.present.is_empty() && !contact.consult_queue_id.is_empty() {
        contact.queue_id = std::mem::take(&mut contact.consult_queue_id);
        contact.outcome = "in_progress".to_owned();
    }
}

fn recording(contact: &mut Contact, event: &Event) {
    let id = match event {
        Event::RecordingFinished(e) => &e.recording_id,
        Event::RecordingFailed(e) => &e.recording_id,
        _ => return,
    };
    let Some(recording) = contact.recordings.iter_mut().find(|r| r.recording_id == *id) else { return };
    match event {
        Event::RecordingFinished(e) => {
            recording.state = "available".to_owned();
            recording.duration_ms = e.duration_ms;
            recording.size_bytes = e.size_bytes;
            recording.sha256.clone_from(&e.sha256);
            recording.holds.clone_from(&e.holds);
            recording.gaps.clone_from(&e.gaps);
            // Where it lies is the store's business; kept here so that the reader finds it.
            recording.detail.clone_from(&e.location);
        }
        Event::RecordingFailed(e) => {
            recording.state = "failed".to_owned();
            recording.detail.clone_from(&e.reason);
        }
        _ => {}
    }
}

/// Folds a queue's event about this call.
pub fn queue(contact: &mut Contact, queue: &str, event: &QueueEvent) {
    use queue_event::Event;
    let at = event.at_us;
    let Some(body) = &event.event else { return };
    // While an agent has the caller, what happens in another queue is that agent's business and not the caller's.
    let consulting = match body {
        Event::Answered(e) => contact.present.first().is_some_and(|first| first.agent_id != e.agent_id),
        Event::Left(e) if e.cause() == LeaveCause::Flow => contact.outcome == "answered",
        _ => !contact.present.is_empty(),
    };
    if !consulting {
        contact.queue_id = queue.to_owned();
    }
    match body {
        Event::Enqueued(_) | Event::Refused(_) | Event::Left(_) if consulting => {}
        Event::Enqueued(_) => contact.outcome = "in_progress".to_owned(),
        Event::Refused(_) => contact.outcome = "refused".to_owned(),
        Event::NeverQueued(_) => {}
        // The first ones stay: what follows them is more of the same.
        Event::Committed(e) if contact.decisions.len() < DECISIONS_MOST => contact.decisions.push(Decision {
            at_us: at,
            queue_id: queue.to_owned(),
            offer_id: e.offer_id.clone(),
            agent_id: e.agent_id.clone(),
            explanation: e.explanation.clone(),
            outcome: String::new(),
        }),
        Event::Committed(_) => {}
        Event::OfferEnded(e) => decided(contact, &e.offer_id, outcome_name(e.outcome())),
        Event::Answered(e) if consulting => decided(contact, &e.offer_id, "answered"),
        Event::Answered(e) => {
            contact.outcome = "answered".to_owned();
            contact.agent_id.clone_from(&e.agent_id);
            contact.wait_ms = to_ms(positive(at - e.entered_us));
            decided(contact, &e.offer_id, "answered");
        }
        Event::Left(e) => {
            contact.outcome = left_name(e.cause(), e.short_abandon).to_owned();
            contact.wait_ms = to_ms(positive(at - e.entered_us));
        }
    }
    note(contact, at, timeline::queue(queue, body));
}

/// Folds an agent's event about this call.
pub fn agent(contact: &mut Contact, agent: &str, event: &AgentEvent) {
    use agent_event::Event;
    let Some(body) = &event.event else { return };
    match body {
        Event::Notes(e) => notes(contact, e),
        Event::WrapUpEnded(e) => {
            if let Some(n) = &e.notes {
                notes(contact, n);
            }
        }
        _ => {}
    }
    note(contact, event.at_us, timeline::agent(agent, body));
}

/// The times of a conversation that is done with.
pub fn handled(contact: &mut Contact, handled: &super::Handled) {
    contact.talk_ms += to_ms(handled.talk_us);
    contact.hold_ms += to_ms(handled.hold_us);
    contact.wrap_up_ms += to_ms(handled.wrap_up_us);
}

fn notes(contact: &mut Contact, notes: &trunkline_proto::acd::v1::AgentNotes) {
    contact.disposition = notes.disposition.clone().unwrap_or_default();
    contact.tags.clone_from(&notes.tags);
    contact.notes.clone_from(&notes.text);
}

fn decided(contact: &mut Contact, offer: &str, outcome: &str) {
    if let Some(decision) = contact.decisions.iter_mut().find(|d| d.offer_id == offer) {
        decision.outcome = outcome.to_owned();
    }
}

fn note(contact: &mut Contact, at_us: i64, entry: Option<TimelineEntry>) {
    let Some(entry) = entry else { return };
    if contact.timeline.len() < TIMELINE_MOST {
        let entry = TimelineEntry { at_us, ..entry };
        // Events of call, queue and agent are committed in an order that may differ by a moment from their times.
        let place = contact.timeline.partition_point(|e| e.at_us <= at_us);
        contact.timeline.insert(place, entry);
    }
}

fn to_ms(us: u64) -> i64 {
    i64::try_from(us / 1_000).unwrap_or(i64::MAX)
}

fn left_name(cause: LeaveCause, short: bool) -> &'static str {
    match cause {
        LeaveCause::Abandoned if short => "short_abandoned",
        LeaveCause::Abandoned => "abandoned",
        LeaveCause::TimedOut => "timed_out",
        LeaveCause::Flow => "flow",
        LeaveCause::Lost | LeaveCause::Unspecified => "lost",
    }
}

pub(crate) fn outcome_name(outcome: OfferOutcome) -> &'static str {
    match outcome {
        OfferOutcome::Answered => "answered",
        OfferOutcome::Missed => "missed",
        OfferOutcome::Declined => "declined",
        OfferOutcome::Failed => "failed",
        OfferOutcome::CallerGone => "caller_gone",
        OfferOutcome::AgentGone => "agent_gone",
        OfferOutcome::Rejected => "rejected",
        OfferOutcome::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::{acd::v1 as acd, call::v1 as pb};

    use super::*;

    #[test]
    fn the_queues_word_counts_whichever_comes_first() {
        let ended = CallEvent {
            at_us: 9_000_000,
            event: Some(Event::Ended(pb::CallEnded { cause: "caller_hangup".into(), by: "caller".into() })),
        };
        let left = QueueEvent {
            at_us: 9_000_001,
            call_id: "c".into(),
            event: Some(queue_event::Event::Left(acd::QueueLeft {
                cause: LeaveCause::Abandoned.into(),
                entered_us: 1,
                ..Default::default()
            })),
        };
        let start =
            Contact { outcome: "in_progress".into(), queue_id: "support".into(), ..Default::default() };
        let (mut one, mut other) = (start.clone(), start);
        call(&mut one, &ended);
        queue(&mut one, "support", &left);
        queue(&mut other, "support", &left);
        call(&mut other, &ended);
        assert_eq!((one.outcome.as_str(), one.wait_ms), ("abandoned", 9_000));
        assert_eq!(one, other);
    }
}
