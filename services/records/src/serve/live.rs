use std::{collections::HashMap, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use trunkline_proto::records::v1::{AgentLive, LiveSnapshot, QueueLive};
use trunkline_rpc::ErrorKind;
use trunkline_types::TenantId;

use super::{Service, Streaming};
use crate::{
    Directory, QueueName,
    fold::{AgentState, Counters},
    projector::{DAY_US, Live, Shared},
};

/// At most four snapshots a second.
const PACE: Duration = Duration::from_millis(250);
/// Snapshots that a slow reader may leave waiting; then the stream is not pushed.
const BUFFER: usize = 2;

pub(super) fn tenant(name: &str) -> Result<TenantId, Status> {
    name.parse().map_err(|error| ErrorKind::Invalid.status(format!("tenant: {error}")))
}

/// Snapshots at each change.
pub(super) fn watch(service: &Service, name: String) -> Result<Streaming<LiveSnapshot>, Status> {
    let tenant = tenant(&name)?;
    let (snapshots, stream) = mpsc::channel(BUFFER);
    let (shared, directory, now) = (service.shared.clone(), service.directory.clone(), service.now);
    let watchers = service.metrics.watchers.clone();
    tokio::spawn(async move {
        watchers.inc();
        let mut folded = shared.folded.subscribe();
        loop {
            let snapshot = snapshot(&shared, &*directory, &tenant, now().as_micros());
            if snapshots.send(Ok(snapshot)).await.is_err() {
                break;
            }
            tokio::time::sleep(PACE).await;
            tokio::select! {
                changed = folded.changed() => if changed.is_err() { break },
                () = snapshots.closed() => break,
            }
        }
        watchers.dec();
    });
    Ok(Box::pin(ReceiverStream::new(stream)))
}

/// The numbers now.
pub(super) fn snapshot(
    shared: &Shared,
    directory: &dyn Directory,
    tenant: &TenantId,
    now_us: i64,
) -> LiveSnapshot {
    let live = shared.live.read();
    let names = directory.agents(tenant);
    let agents: Vec<AgentLive> = names
        .iter()
        .map(|agent| {
            let state = live.agents.get(&(tenant.to_string(), agent.id.to_string()));
            agent_live(agent.id.as_str(), &agent.name, state, now_us)
        })
        .collect();
    let mut ready: HashMap<&str, (u32, u32)> = HashMap::new();
    for (agent, live) in names.iter().zip(&agents) {
        let (is_ready, is_busy) = match live.state.as_str() {
            "ready" => (1, 0),
            "ringing" | "connecting" | "talking" | "wrap_up" => (0, 1),
            _ => continue,
        };
        for queue in &agent.queues {
            let count = ready.entry(queue.as_str()).or_default();
            *count = (count.0 + is_ready, count.1 + is_busy);
        }
    }
    let queues = directory
        .queues(tenant)
        .iter()
        .map(|queue| {
            let (agents_ready, agents_busy) = ready.get(queue.id.as_str()).copied().unwrap_or_default();
            QueueLive { agents_ready, agents_busy, ..queue_live(&live, tenant, queue, now_us) }
        })
        .collect();
    LiveSnapshot {
        at_us: now_us,
        queues,
        agents,
        calls_active: live.active.get(tenant.as_str()).map_or(0, |calls| calls.len() as u64),
        position: live.position,
    }
}

fn queue_live(live: &Live, tenant: &TenantId, queue: &QueueName, now_us: i64) -> QueueLive {
    let key = (tenant.to_string(), queue.id.to_string());
    let today = live.today.get(&key).filter(|(day, _)| *day == now_us.div_euclid(DAY_US));
    let waiting = live.waiting.get(&key);
    QueueLive {
        waiting: waiting.map_or(0, |w| w.len() as u64),
        oldest_entered_us: waiting.and_then(|w| w.first()).map_or(0, |(entered, _)| *entered),
        ..numbers(queue, &today.map(|(_, counters)| counters.clone()).unwrap_or_default())
    }
}

/// Counters with the ratios computed from them.
pub(super) fn numbers(queue: &QueueName, c: &Counters) -> QueueLive {
    QueueLive {
        queue_id: queue.id.to_string(),
        name: queue.name.clone(),
        offered: c.offered,
        answered: c.answered,
        answered_in_target: c.answered_in_target,
        abandoned: c.abandoned,
        short_abandoned: c.short_abandoned,
        timed_out: c.timed_out,
        refused: c.refused,
        wait_answered_us: i64::try_from(c.wait_answered_us).unwrap_or(i64::MAX),
        handle_us: i64::try_from(c.handle_us).unwrap_or(i64::MAX),
        handled: c.handled,
        service_level_target_s: queue.service_level_target_s,
        service_level: c.service_level().unwrap_or(-1.0),
        asa_s: c.asa_s().unwrap_or(-1.0),
        aht_s: c.aht_s().unwrap_or(-1.0),
        abandonment_rate: c.abandonment_rate().unwrap_or(-1.0),
        missed: c.missed,
        ..QueueLive::default()
    }
}

fn agent_live(id: &str, name: &str, state: Option<&AgentState>, now_us: i64) -> AgentLive {
    let Some(state) = state else {
        return AgentLive {
            agent_id: id.to_owned(),
            name: name.to_owned(),
            state: "signed_out".to_owned(),
            occupancy: -1.0,
            ..AgentLive::default()
        };
    };
    let conversation = state.conversation.clone().unwrap_or_default();
    // The sums are of the day of the agent's last event; of today there are none yet.
    let state = if state.day == now_us.div_euclid(DAY_US) { state } else { &state.without_sums() };
    let sum = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    AgentLive {
        agent_id: id.to_owned(),
        name: name.to_owned(),
        state: state.state.clone(),
        reason: state.reason.clone(),
        since_us: state.since_us,
        queue_id: conversation.queue,
        call_id: conversation.call,
        handled: state.handled,
        talk_us: sum(state.talk_us),
        hold_us: sum(state.hold_us),
        wrap_up_us: sum(state.wrap_up_us),
        idle_us: sum(state.idle_us),
        occupancy: state.occupancy(now_us).unwrap_or(-1.0),
        missed: state.missed,
    }
}
