//! Events a second, and CPU per call, of the embedded journal: every call is one entity that appends six times two
//! events of 120 bytes, the last of which ends it, and waits for each commit.
//!
//! `cargo bench -p trunkline-journal`. The CPU figure is that of the whole process, the driver included.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trunkline_journal::{Append, Journal, NewEvent, SqliteJournal, SqliteOptions};
use trunkline_types::{CallId, EntityAddress, Epoch, ShardId, TenantId, Timestamp};

const APPENDS: u64 = 6;
const EVENTS: u64 = 2;

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

async fn one_call(journal: &dyn Journal, tenant: &TenantId, epoch: Epoch, n: u64) {
    let shard = ShardId::new((n * 2_654_435_761 % 4_096) as u16).unwrap();
    let entity =
        EntityAddress::call(tenant, CallId::mint(shard, Timestamp::from_millis(n as i64), u128::from(n)));
    for step in 0..APPENDS {
        let event = |_| NewEvent::new("call.stepped", 1, Timestamp::from_millis(n as i64), vec![7; 120]);
        let mut events: Vec<_> = (0..EVENTS).map(event).collect();
        events.last_mut().unwrap().last = step == APPENDS - 1;
        journal.append(Append { entity: entity.clone(), epoch, after: step * EVENTS, events }).await.unwrap();
    }
}

async fn calls(journal: &Arc<dyn Journal>, epoch: Epoch, concurrency: u64, total: u64) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let left = Arc::new(AtomicU64::new(total));
    let drivers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (journal, left) = (Arc::clone(journal), Arc::clone(&left));
            tokio::spawn(async move {
                let tenant: TenantId = "default".parse().unwrap();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    one_call(journal.as_ref(), &tenant, epoch, NEXT.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    for driver in drivers {
        driver.await.unwrap();
    }
}

/// New calls at a steady rate, each appending every 20 ms: CPU a call, and how long an append took.
async fn paced(journal: &Arc<dyn Journal>, epoch: Epoch, calls_a_second: u64) {
    let (total, before) = (calls_a_second * 4, cpu());
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / calls_a_second));
    let mut running = Vec::new();
    for n in 0..total {
        tick.tick().await;
        let journal = Arc::clone(journal);
        running.push(tokio::spawn(async move {
            let tenant: TenantId = "default".parse().unwrap();
            let shard = ShardId::new((n * 2_654_435_761 % 4_096) as u16).unwrap();
            let at = Timestamp::from_millis((calls_a_second << 32 | n) as i64);
            let entity = EntityAddress::call(&tenant, CallId::mint(shard, at, 1));
            let mut took = Vec::new();
            for step in 0..APPENDS {
                let events =
                    (0..EVENTS).map(|_| NewEvent::new("call.stepped", 1, at, vec![7; 120])).collect();
                let started = Instant::now();
                journal
                    .append(Append { entity: entity.clone(), epoch, after: step * EVENTS, events })
                    .await
                    .unwrap();
                took.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            took
        }));
    }
    let mut took: Vec<Duration> = Vec::new();
    for call in running {
        took.extend(call.await.unwrap());
    }
    took.sort_unstable();
    let micros = cpu().saturating_sub(before).as_secs_f64() * 1e6 / total as f64;
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{calls_a_second} calls/s: {micros:.0} µs CPU a call of 12 events; an append p50 {p50:?}, p99 {p99:?}"
    );
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(".").unwrap();
    let journal: Arc<dyn Journal> =
        Arc::new(runtime.block_on(SqliteJournal::open(SqliteOptions::in_dir(dir.path()))).unwrap());
    let shards: Vec<_> = ShardId::all().collect();
    let epoch = runtime.block_on(journal.seal(&shards, "bench")).unwrap()[0].1;
    for rate in [20, 200, 1_000] {
        runtime.block_on(paced(&journal, epoch, rate));
    }
    let mut group = c.benchmark_group("journal");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for concurrency in [16, 256, 1_024] {
        let (mut used, mut made) = (Duration::ZERO, 0);
        group.throughput(Throughput::Elements(APPENDS * EVENTS));
        group.bench_function(BenchmarkId::new("events, calls at once", concurrency), |b| {
            b.iter_custom(|total| {
                let (before, started) = (cpu(), Instant::now());
                runtime.block_on(calls(&journal, epoch, concurrency, total));
                let took = started.elapsed();
                used += cpu().saturating_sub(before);
                made += total;
                took
            });
        });
        let micros = used.as_secs_f64() * 1e6 / made as f64;
        println!(
            "{concurrency} calls at once: {micros:.0} µs CPU a call of 12 events, {:.1} an event",
            micros / 12.0
        );
    }
    group.finish();
    runtime.block_on(journal.close());
}

criterion_group!(benches, append);
criterion_main!(benches);
