use schemars::JsonSchema;
use serde::Serialize;
use trunkline_proto::records::v1 as proto;

use super::{all, known, none_if_empty, seconds};
use crate::clock::{ms, ms_or_none};

/// Numbers of a tenant now. Those of a day count from midnight UTC.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct LiveSnapshot {
    /// When the numbers were made.
    at_ms: i64,
    calls_active: u64,
    queues: Vec<QueueLive>,
    agents: Vec<AgentLive>,
}

/// Numbers of a queue.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct QueueLive {
    queue_id: String,
    name: String,
    waiting: u64,
    /// Since when the first one waits.
    oldest_entered_ms: Option<i64>,
    offered: u64,
    answered: u64,
    answered_in_target: u64,
    abandoned: u64,
    /// Abandoned before the queue's limit; counted apart.
    short_abandoned: u64,
    timed_out: u64,
    refused: u64,
    /// Offers that no agent took.
    missed: u64,
    service_level_target_s: u32,
    /// Answered in target ÷ (answered + abandoned); null = nothing counted yet.
    service_level: Option<f64>,
    /// Average speed of answer.
    asa_s: Option<f64>,
    /// Average handle time: talk, hold and wrap-up.
    aht_s: Option<f64>,
    abandonment_rate: Option<f64>,
    agents_ready: u32,
    agents_busy: u32,
}

/// Numbers of an agent.
#[derive(Debug, Serialize, JsonSchema)]
struct AgentLive {
    agent_id: String,
    name: String,
    /// As in the agent protocol.
    state: String,
    reason: String,
    since_ms: i64,
    queue_id: Option<String>,
    call_id: Option<String>,
    handled: u64,
    missed: u64,
    talk_s: f64,
    hold_s: f64,
    wrap_up_s: f64,
    idle_s: f64,
    /// (talk + hold + wrap-up) ÷ (that + idle); null = no time counted yet.
    occupancy: Option<f64>,
}

/// Numbers of a queue by interval.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::rest) struct Intervals {
    intervals: Vec<Interval>,
}

/// One interval.
#[derive(Debug, Serialize, JsonSchema)]
struct Interval {
    start_ms: i64,
    #[serde(flatten)]
    numbers: QueueLive,
}

impl From<proto::LiveSnapshot> for LiveSnapshot {
    fn from(l: proto::LiveSnapshot) -> Self {
        Self {
            at_ms: ms(l.at_us),
            calls_active: l.calls_active,
            queues: all(l.queues),
            agents: all(l.agents),
        }
    }
}

impl From<proto::QueueLive> for QueueLive {
    fn from(q: proto::QueueLive) -> Self {
        Self {
            queue_id: q.queue_id,
            name: q.name,
            waiting: q.waiting,
            oldest_entered_ms: ms_or_none(q.oldest_entered_us),
            offered: q.offered,
            answered: q.answered,
            answered_in_target: q.answered_in_target,
            abandoned: q.abandoned,
            short_abandoned: q.short_abandoned,
            timed_out: q.timed_out,
            refused: q.refused,
            missed: q.missed,
            service_level_target_s: q.service_level_target_s,
            service_level: known(q.service_level),
            asa_s: known(q.asa_s).filter(|_| q.answered > 0),
            aht_s: known(q.aht_s).filter(|_| q.handled > 0),
            abandonment_rate: known(q.abandonment_rate),
            agents_ready: q.agents_ready,
            agents_busy: q.agents_busy,
        }
    }
}

impl From<proto::AgentLive> for AgentLive {
    fn from(a: proto::AgentLive) -> Self {
        Self {
            agent_id: a.agent_id,
            name: a.name,
            state: a.state,
            reason: a.reason,
            since_ms: ms(a.since_us),
            queue_id: none_if_empty(a.queue_id),
            call_id: none_if_empty(a.call_id),
            handled: a.handled,
            missed: a.missed,
            talk_s: seconds(a.talk_us),
            hold_s: seconds(a.hold_us),
            wrap_up_s: seconds(a.wrap_up_us),
            idle_s: seconds(a.idle_us),
            occupancy: known(a.occupancy),
        }
    }
}

impl From<proto::GetIntervalsResponse> for Intervals {
    fn from(answer: proto::GetIntervalsResponse) -> Self {
        let interval = |i: proto::Interval| Interval {
            start_ms: ms(i.start_us),
            numbers: i.numbers.unwrap_or_default().into(),
        };
        Self { intervals: answer.intervals.into_iter().map(interval).collect() }
    }
}
