//! What the journal's benches have in common: a call as the journal sees it, and this process's CPU time.

use std::time::{Duration, Instant};

use trunkline_journal::{Append, Journal, NewEvent};
use trunkline_types::{CallId, EntityAddress, Epoch, ShardId, TenantId, Timestamp};

/// Events of 120 bytes in each append.
pub const EVENTS: u64 = 2;

/// CPU time of all threads of this process.
pub fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Call number `n`: so many appends, each after the one before was answered and a pause, the last of which ends it. Gives how
/// long each took.
pub async fn call(
    journal: &dyn Journal,
    epoch: Epoch,
    n: u64,
    appends: u64,
    pause: Duration,
) -> Vec<Duration> {
    let tenant: TenantId = "default".parse().unwrap();
    let shard = ShardId::new((n * 2_654_435_761 % 4_096) as u16).unwrap();
    let at = Timestamp::from_millis(n as i64);
    let entity = EntityAddress::call(&tenant, CallId::mint(shard, at, u128::from(n)));
    let mut took = Vec::with_capacity(appends as usize);
    for step in 0..appends {
        let event = |_| NewEvent::new("call.stepped", 1, at, vec![7; 120]);
        let mut events: Vec<_> = (0..EVENTS).map(event).collect();
        events.last_mut().unwrap().last = step == appends - 1;
        let started = Instant::now();
        journal.append(Append { entity: entity.clone(), epoch, after: step * EVENTS, events }).await.unwrap();
        took.push(started.elapsed());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    took
}
