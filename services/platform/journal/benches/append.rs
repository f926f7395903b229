//! Both stores under the same work: every call is one entity that appends six times two events of 120 bytes, the last of
//! which ends it, and waits for each commit.
//!
//! `cargo bench -p trunkline-journal` (`-- sqlite` or `-- postgres` for one of them). Events a second, the time of an append
//! with 1, 20 and 200 entities at once, and CPU per call at steady rates; CPU is that of this process, the driver included
//! and the PostgreSQL server not. PostgreSQL is a server of the bench's own with `fsync` on.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use trunkline_journal::{
    Journal, PostgresJournal, PostgresOptions, SqliteJournal, SqliteOptions, testing::Postgres,
};
use trunkline_types::{Epoch, ShardId};

use work::{EVENTS, call, cpu};

const APPENDS: u64 = 6;
/// No two calls of a run have one id.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One call; `pause` between its appends. Gives how long each append took.
async fn one_call(journal: &dyn Journal, epoch: Epoch, pause: Duration) -> Vec<Duration> {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    call(journal, epoch, n, APPENDS, pause).await
}

fn quantiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |q: usize| took[took.len() * q / 100];
    format!("an append p50 {:?}, p99 {:?}", at(50), at(99))
}

/// So many calls, `concurrency` at a time.
async fn calls(journal: &Arc<dyn Journal>, epoch: Epoch, concurrency: u64, total: u64) -> Vec<Duration> {
    let left = Arc::new(AtomicU64::new(total));
    let drivers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (journal, left) = (Arc::clone(journal), Arc::clone(&left));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    took.extend(one_call(journal.as_ref(), epoch, Duration::ZERO).await);
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for driver in drivers {
        took.extend(driver.await.unwrap());
    }
    took
}

/// New calls at a steady rate, each appending every 20 ms: CPU a call, and how long an append took.
async fn paced(store: &str, journal: &Arc<dyn Journal>, epoch: Epoch, calls_a_second: u64) {
    let (total, before) = (calls_a_second * 5, cpu());
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / calls_a_second));
    let mut running = Vec::new();
    for _ in 0..total {
        tick.tick().await;
        let journal = Arc::clone(journal);
        running.push(tokio::spawn(async move {
            one_call(journal.as_ref(), epoch, Duration::from_millis(20)).await
        }));
    }
    let mut took = Vec::new();
    for call in running {
        took.extend(call.await.unwrap());
    }
    let micros = cpu().saturating_sub(before).as_secs_f64() * 1e6 / total as f64;
    println!(
        "{store}, {calls_a_second} calls/s: {micros:.0} µs CPU a call of 12 events; {}",
        quantiles(took)
    );
}

fn store(c: &mut Criterion, runtime: &Runtime, name: &str, journal: &Arc<dyn Journal>) {
    let shards: Vec<_> = ShardId::all().collect();
    let epoch = runtime.block_on(journal.seal(&shards, "bench")).unwrap()[0].1;
    for rate in [20, 200, 1_000] {
        runtime.block_on(paced(name, journal, epoch, rate));
    }
    let mut group = c.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for concurrency in [1, 20, 200] {
        let (mut used, mut made, mut took) = (Duration::ZERO, 0, Vec::new());
        group.throughput(Throughput::Elements(APPENDS * EVENTS));
        group.bench_function(BenchmarkId::new("events, entities at once", concurrency), |b| {
            b.iter_custom(|total| {
                let (before, started) = (cpu(), Instant::now());
                took.extend(runtime.block_on(calls(journal, epoch, concurrency, total)));
                let elapsed = started.elapsed();
                used += cpu().saturating_sub(before);
                made += total;
                elapsed
            });
        });
        if made > 0 {
            let micros = used.as_secs_f64() * 1e6 / made as f64;
            println!("{name}, {concurrency} at once: {micros:.0} µs CPU a call; {}", quantiles(took));
        }
    }
    group.finish();
    runtime.block_on(journal.close());
}

fn append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("sqlite") {
        let dir = tempfile::tempdir_in(".").unwrap();
        let journal = runtime.block_on(SqliteJournal::open(SqliteOptions::in_dir(dir.path()))).unwrap();
        store(c, &runtime, "sqlite", &(Arc::new(journal) as Arc<dyn Journal>));
    }
    if wanted("postgres") {
        let server = Postgres::start().unwrap();
        let options = PostgresOptions::new(&server.url(), "bench").unwrap();
        let journal = runtime.block_on(PostgresJournal::open(options)).unwrap();
        store(c, &runtime, "postgres", &(Arc::new(journal) as Arc<dyn Journal>));
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
