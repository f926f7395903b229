//! What the writer's rhythm costs whom: chains of four appends at steady rates, each sent when the one before is answered.
//! That is how a call reaches an agent: who is free, held, committed, offered, one after the other.
//!
//! `cargo bench -p trunkline-journal --bench chains` (`-- disk`, `-- temporary` or `-- postgres` for one store, and a number
//! for one rate). Chains begin whether the earlier ones have ended or not (open loop, Poisson). Printed: commits an append,
//! CPU of this process an append (the driver included, the PostgreSQL server not), and the time of an append and a chain.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use trunkline_journal::{
    Journal, JournalMetrics, PostgresJournal, PostgresOptions, SqliteJournal, SqliteOptions,
    testing::Postgres,
};
use trunkline_telemetry::Metrics;
use trunkline_types::{Epoch, ShardId};

use work::{call, cpu};

const CHAIN: u64 = 4;
const LASTS: Duration = Duration::from_secs(4);
/// Appends a second.
const RATES: [u64; 4] = [100, 500, 900, 3_000];

/// Commits and appends until now.
fn counted(metrics: &Metrics) -> (f64, f64) {
    let text = metrics.encode();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    (of("trunkline_journal_batch_appends_count"), of("trunkline_journal_append_seconds_count"))
}

/// One chain: how long each of its appends took.
async fn chain(journal: Arc<dyn Journal>, epoch: Epoch, n: u64) -> Vec<Duration> {
    call(&*journal, epoch, n, CHAIN, Duration::ZERO).await
}

fn quantiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |q: usize| took[took.len() * q / 100].as_secs_f64() * 1e3;
    format!("p50 {:5.2} p99 {:6.2} ms", at(50), at(99))
}

async fn at_rate(store: &str, journal: &Arc<dyn Journal>, metrics: &Metrics, epoch: Epoch, rate: u64) {
    let mut random = StdRng::seed_from_u64(rate);
    let (cpu_before, before) = (cpu(), counted(metrics));
    let (mut due, end) = (Instant::now(), Instant::now() + LASTS);
    let mut running = Vec::new();
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        let n = rate * 1_000_000 + running.len() as u64;
        running.push(tokio::spawn(chain(Arc::clone(journal), epoch, n)));
        let gap = -(1.0 - random.random::<f64>()).ln() * CHAIN as f64 / rate as f64;
        due += Duration::from_secs_f64(gap);
    }
    let (mut each, mut whole) = (Vec::new(), Vec::new());
    for chain in running {
        let took = chain.await.unwrap();
        whole.push(took.iter().sum());
        each.extend(took);
    }
    let after = counted(metrics);
    let appends = after.1 - before.1;
    let micros = cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / appends;
    println!(
        "{store:9} {rate:5} appends/s: {:.2} commits and {micros:4.0} µs CPU an append; an append {}, a chain {}",
        (after.0 - before.0) / appends,
        quantiles(each),
        quantiles(whole)
    );
}

async fn store(name: &str, journal: Arc<dyn Journal>, metrics: &Metrics, only: Option<u64>) {
    let shards: Vec<_> = ShardId::all().collect();
    let epoch = journal.seal(&shards, "bench").await.unwrap()[0].1;
    for rate in RATES.into_iter().filter(|rate| only.is_none_or(|only| only == *rate)) {
        at_rate(name, &journal, metrics, epoch, rate).await;
    }
    journal.close().await;
}

async fn all() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let only = args.iter().find_map(|arg| arg.parse().ok());
    let named: Vec<_> = args.iter().filter(|arg| arg.parse::<u64>().is_err()).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|arg| name.contains(arg.as_str()));
    if wanted("disk") {
        let (dir, metrics) = (tempfile::tempdir_in(".").unwrap(), Metrics::new());
        let options = SqliteOptions::in_dir(dir.path()).metrics(JournalMetrics::register(&metrics));
        store("disk", Arc::new(SqliteJournal::open(options).await.unwrap()), &metrics, only).await;
    }
    if wanted("temporary") {
        let metrics = Metrics::new();
        let options = SqliteOptions::temporary().unwrap().metrics(JournalMetrics::register(&metrics));
        store("temporary", Arc::new(SqliteJournal::open(options).await.unwrap()), &metrics, only).await;
    }
    if wanted("postgres") {
        let (server, metrics) = (Postgres::start().unwrap(), Metrics::new());
        let options = PostgresOptions::new(&server.url(), "bench").unwrap();
        let options = options.metrics(JournalMetrics::register(&metrics));
        store("postgres", Arc::new(PostgresJournal::open(options).await.unwrap()), &metrics, only).await;
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(all());
}
