//! The host's own cost: a message that changes nothing durable, and one that appends an event and performs an effect, on a
//! journal that answers at once; and the memory of an idle entity.
//!
//! `cargo bench -p trunkline-actors`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Fixture, TallyInput, entity};
use criterion::{Criterion, criterion_group, criterion_main};
use trunkline_actors::Activation;

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

async fn burst(f: &Fixture, message: impl Fn() -> TallyInput, total: u64) -> Duration {
    let targets: Vec<_> = (0..64).map(|n| entity(&format!("b{n}"))).collect();
    let started = Instant::now();
    for n in 0..total {
        let target = &targets[(n % 64) as usize];
        while f.host.deliver(target, message(), Activation::CreateIfMissing).is_err() {
            tokio::task::yield_now().await;
        }
    }
    for target in &targets {
        while f.host.inspect(target, |_| ()).await.is_none() && total >= 64 {
            tokio::task::yield_now().await;
        }
    }
    started.elapsed()
}

fn deliver(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let f = Arc::new(runtime.block_on(Fixture::with(|options| options.snapshot_every = u64::MAX)));
    let before = resident_bytes();
    runtime.block_on(async {
        for n in 0..10_000 {
            f.host
                .deliver(&entity(&format!("idle-{n}")), TallyInput::Stall(0), Activation::CreateNew)
                .unwrap();
        }
        while f.host.inspect(&entity("idle-9999"), |_| ()).await.is_none() {
            tokio::task::yield_now().await;
        }
    });
    println!("{} bytes an idle entity, registry included", (resident_bytes() - before) / 10_000);
    let mut group = c.benchmark_group("host");
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    group.bench_function("deliver, nothing durable", |b| {
        b.iter_custom(|total| runtime.block_on(burst(&f, || TallyInput::Stall(0), total)));
    });
    group.bench_function("deliver, one event and one effect, temporary journal", |b| {
        b.iter_custom(|total| runtime.block_on(burst(&f, || TallyInput::Add(1), total)));
    });
    group.finish();
}

criterion_group!(benches, deliver);
criterion_main!(benches);
