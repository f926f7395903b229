use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use trunkline_proto::{acd::v1 as acd, call::v1 as call, records::v1 as proto};

use super::{all, none_if_empty};
use crate::{
    clock::{ms, ms_or_none},
    links::{self, LinkTemplates, Linked},
    rest::PREFIX,
};

/// The head of a contact: what a list shows. Times are milliseconds since the Unix epoch.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct ContactSummary {
    /// Id of the call and of its record.
    call_id: String,
    /// `inbound`.
    direction: String,
    /// As presented; any text.
    caller_number: String,
    /// As presented; any text.
    caller_name: String,
    /// What was dialled.
    dialled: String,
    /// When the call came.
    started_ms: i64,
    /// When the system answered.
    answered_ms: Option<i64>,
    /// When it ended; null while it lasts.
    ended_ms: Option<i64>,
    /// Release cause.
    cause: String,
    /// `caller`, `agent`, `flow`, `network` or `system`.
    ended_by: String,
    /// `in_progress`, `answered`, `abandoned`, `short_abandoned`, `timed_out`, `refused`, `flow` or `lost`.
    outcome: String,
    /// Last queue; empty when none.
    queue_id: String,
    /// Last agent; empty when none.
    agent_id: String,
    /// As people read it.
    agent_name: String,
    /// Time in queues.
    wait_ms: i64,
    /// Time in conversation.
    talk_ms: i64,
    /// Time on hold.
    hold_ms: i64,
    /// Time in wrap-up.
    wrap_up_ms: i64,
    /// Chosen at wrap-up; empty when none.
    disposition: String,
    /// Given at wrap-up.
    tags: Vec<String>,
    /// How many recordings there are.
    recording_count: usize,
}

/// One page of contacts, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct ContactPage {
    contacts: Vec<ContactSummary>,
    /// For the next page; null = no more.
    next_cursor: Option<String>,
}

/// A contact, whole.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct Contact {
    #[serde(flatten)]
    summary: ContactSummary,
    /// The agent's notes; any text.
    notes: String,
    /// How often an agent has passed the caller on.
    transfers: u32,
    recordings: Vec<Recording>,
    /// What happened, in order.
    timeline: Vec<TimelineEntry>,
    transcript: Vec<TranscriptSegment>,
    /// `started`, `none` (no recogniser configured), `failed`, `finished`; empty before a conversation.
    transcript_status: String,
    /// Why there is none, or not all of it.
    transcript_detail: String,
    /// Why which agent was chosen.
    decisions: Vec<Decision>,
    quality: Vec<Quality>,
    /// Trace of the call (W3C Trace Context).
    trace_id: String,
    /// `Call-ID` of the caller's leg.
    sip_call_id: String,
    links: Links,
}

/// Where else the call can be seen; null = not configured, or not known of this call.
#[derive(Debug, Serialize, JsonSchema)]
struct Links {
    /// Its trace.
    trace: Option<String>,
    /// Its log lines.
    logs: Option<String>,
    /// A dashboard of it.
    dashboard: Option<String>,
}

/// A recording: WAV, caller left, agent right.
#[derive(Debug, Serialize, JsonSchema)]
struct Recording {
    recording_id: String,
    /// `recording`, `available` or `failed`.
    state: String,
    started_ms: i64,
    duration_ms: i64,
    size_bytes: i64,
    /// Of the whole file, in hexadecimal.
    sha256: String,
    /// Caller on hold, or recording paused.
    holds: Vec<Span>,
    /// Audio that is missing.
    gaps: Vec<Span>,
    /// Why it failed.
    detail: String,
    /// Where the audio is.
    url: String,
}

/// A part of a recording, milliseconds since its beginning.
#[derive(Debug, Serialize, JsonSchema)]
struct Span {
    start_ms: i64,
    end_ms: i64,
    reason: String,
}

/// One event.
#[derive(Debug, Serialize, JsonSchema)]
struct TimelineEntry {
    at_ms: i64,
    /// As named in the journal, for instance `queue.committed`.
    kind: String,
    /// A sentence in English.
    text: String,
    attributes: BTreeMap<String, String>,
}

/// A part of the transcript, milliseconds since the beginning of the recording.
#[derive(Debug, Serialize, JsonSchema)]
struct TranscriptSegment {
    recording_id: String,
    /// `caller` or `agent`.
    channel: String,
    start_ms: i64,
    end_ms: i64,
    text: String,
    confidence: f32,
    /// True: audio that was not recognised.
    gap: bool,
}

/// A routing decision.
#[derive(Debug, Serialize, JsonSchema)]
struct Decision {
    at_ms: i64,
    queue_id: String,
    offer_id: String,
    agent_id: String,
    /// What became of the offer.
    outcome: String,
    explanation: Explanation,
}

/// Why this agent got the call.
#[derive(Debug, Serialize, JsonSchema)]
struct Explanation {
    strategy: String,
    /// Version of the queue's configuration in force.
    configuration_version: u64,
    /// Place in the queue when it was bound, 1 = first.
    position: u32,
    /// Callers waiting.
    waiting: u32,
    /// Agents who could take it; `candidates` has the first of them.
    candidates_total: u32,
    candidates: Vec<Candidate>,
    exclusions: Vec<Exclusion>,
}

/// An agent who could take the call.
#[derive(Debug, Serialize, JsonSchema)]
struct Candidate {
    agent_id: String,
    idle_since_ms: i64,
    skill_level: u32,
    /// Greater first.
    score: i64,
}

/// An agent who could not.
#[derive(Debug, Serialize, JsonSchema)]
struct Exclusion {
    agent_id: String,
    reason: String,
}

/// Quality of a leg's audio as received.
#[derive(Debug, Serialize, JsonSchema)]
struct Quality {
    leg_id: String,
    packets_received: u64,
    packets_lost: u64,
    jitter_ms: f32,
    round_trip_ms: f32,
    /// E-model (ITU-T G.107), 1 to 4.5.
    mos: f32,
    packets_sent: u64,
    /// Audio that went one way only: `received`: nothing came from the party, `sent`: nothing reached it; else empty.
    missing: String,
}

impl ContactSummary {
    fn take(c: &mut proto::Contact) -> Self {
        use std::mem::take;
        Self {
            call_id: take(&mut c.call_id),
            direction: take(&mut c.direction),
            caller_number: take(&mut c.caller_number),
            caller_name: take(&mut c.caller_name),
            dialled: take(&mut c.dialled),
            started_ms: ms(c.started_us),
            answered_ms: ms_or_none(c.answered_us),
            ended_ms: ms_or_none(c.ended_us),
            cause: take(&mut c.cause),
            ended_by: take(&mut c.ended_by),
            outcome: take(&mut c.outcome),
            queue_id: take(&mut c.queue_id),
            agent_id: take(&mut c.agent_id),
            agent_name: take(&mut c.agent_name),
            wait_ms: c.wait_ms,
            talk_ms: c.talk_ms,
            hold_ms: c.hold_ms,
            wrap_up_ms: c.wrap_up_ms,
            disposition: take(&mut c.disposition),
            tags: take(&mut c.tags),
            recording_count: c.recordings.len(),
        }
    }
}

impl From<proto::ListContactsResponse> for ContactPage {
    fn from(page: proto::ListContactsResponse) -> Self {
        Self {
            contacts: page
                .contacts
                .into_iter()
                .map(|mut contact| ContactSummary::take(&mut contact))
                .collect(),
            next_cursor: none_if_empty(page.next_cursor),
        }
    }
}

impl Contact {
    /// With links by these templates.
    pub(in crate::rest) fn new(mut c: proto::Contact, templates: &LinkTemplates) -> Self {
        let summary = ContactSummary::take(&mut c);
        let linked = Linked {
            call_id: &summary.call_id,
            trace_id: &c.trace_id,
            sip_call_id: &c.sip_call_id,
            started_ms: summary.started_ms,
            ended_ms: summary.ended_ms,
        };
        Self {
            links: Links {
                trace: links::fill(&templates.trace, &linked),
                logs: links::fill(&templates.logs, &linked),
                dashboard: links::fill(&templates.dashboard, &linked),
            },
            summary,
            notes: c.notes,
            transfers: c.transfers,
            recordings: all(c.recordings),
            timeline: all(c.timeline),
            transcript: all(c.transcript),
            transcript_status: c.transcript_status,
            transcript_detail: c.transcript_detail,
            decisions: all(c.decisions),
            quality: all(c.quality),
            trace_id: c.trace_id,
            sip_call_id: c.sip_call_id,
        }
    }
}

impl From<proto::Recording> for Recording {
    fn from(r: proto::Recording) -> Self {
        Self {
            url: format!("{}/recordings/{}/audio", PREFIX, r.recording_id),
            recording_id: r.recording_id,
            state: r.state,
            started_ms: ms(r.started_us),
            duration_ms: r.duration_ms,
            size_bytes: r.size_bytes,
            sha256: r.sha256,
            holds: all(r.holds),
            gaps: all(r.gaps),
            detail: r.detail,
        }
    }
}

impl From<call::Span> for Span {
    fn from(s: call::Span) -> Self {
        Self { start_ms: s.start_ms, end_ms: s.end_ms, reason: s.reason }
    }
}

impl From<proto::TimelineEntry> for TimelineEntry {
    fn from(e: proto::TimelineEntry) -> Self {
        Self {
            at_ms: ms(e.at_us),
            kind: e.kind,
            text: e.text,
            attributes: e.attributes.into_iter().collect(),
        }
    }
}

impl From<call::TranscriptSegment> for TranscriptSegment {
    fn from(s: call::TranscriptSegment) -> Self {
        Self {
            recording_id: s.recording_id,
            channel: s.channel,
            start_ms: s.start_ms,
            end_ms: s.end_ms,
            text: s.text,
            confidence: s.confidence,
            gap: s.gap,
        }
    }
}

impl From<proto::Decision> for Decision {
    fn from(d: proto::Decision) -> Self {
        Self {
            at_ms: ms(d.at_us),
            queue_id: d.queue_id,
            offer_id: d.offer_id,
            agent_id: d.agent_id,
            outcome: d.outcome,
            explanation: d.explanation.unwrap_or_default().into(),
        }
    }
}

impl From<acd::Explanation> for Explanation {
    fn from(e: acd::Explanation) -> Self {
        let candidate = |c: acd::Candidate| Candidate {
            agent_id: c.agent_id,
            idle_since_ms: ms(c.idle_since_us),
            skill_level: c.skill_level,
            score: c.score,
        };
        let exclusion = |e: acd::Exclusion| Exclusion { agent_id: e.agent_id, reason: e.reason };
        Self {
            strategy: e.strategy,
            configuration_version: e.configuration_version,
            position: e.position,
            waiting: e.waiting,
            candidates_total: e.candidates_total,
            candidates: e.candidates.into_iter().map(candidate).collect(),
            exclusions: e.exclusions.into_iter().map(exclusion).collect(),
        }
    }
}

impl From<call::LegQuality> for Quality {
    fn from(q: call::LegQuality) -> Self {
        Self {
            leg_id: q.leg_id,
            packets_received: q.packets_received,
            packets_lost: q.packets_lost,
            jitter_ms: q.jitter_ms,
            round_trip_ms: q.round_trip_ms,
            mos: q.mos,
            packets_sent: q.packets_sent,
            missing: q.missing,
        }
    }
}
