//! What the records cost: microseconds of CPU an event and a call.
//!
//! `cargo bench -p trunkline-records`. "rebuild" folds a whole journal into a new database. "follow" is what a node pays
//! while calls are going on: events come as they happen, time goes sixty times as fast, and the CPU of the whole process
//! is counted.

#![allow(missing_docs, dead_code, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/records/history.rs"]
mod history;
#[path = "../tests/records/support.rs"]
mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

use crate::support::Place;

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn rebuild(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let history = history::history(1, 2_000);
    let mut group = c.benchmark_group("records");
    group.sample_size(10).throughput(Throughput::Elements(history.events.len() as u64));
    group.bench_function("rebuild", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let place = Place::new(&history);
                place.tape.show_all();
                let began = Instant::now();
                let running = runtime.block_on(place.start());
                spent += began.elapsed();
                runtime.block_on(running.stop());
            }
            spent
        });
    });
    group.finish();
}

fn follow(_: &mut Criterion) {
    const FASTER: i64 = 60;
    let runtime = Runtime::new().unwrap();
    let history = history::history(2, 4_000);
    let place = Place::new(&history);
    let spent = runtime.block_on(async {
        let mut running = place.start().await;
        let (before, began) = (cpu(), Instant::now());
        let first = history.events[0].at.as_micros();
        let (mut shown, mut tick) = (0, tokio::time::interval(Duration::from_millis(20)));
        while shown < history.events.len() {
            tick.tick().await;
            let now = first + began.elapsed().as_micros() as i64 * FASTER;
            shown = history.events.partition_point(|event| event.at.as_micros() <= now);
            place.tape.show(shown);
        }
        running.live_at(shown).await;
        let spent = cpu() - before;
        running.stop().await;
        spent
    });
    let (events, calls) = (history.events.len() as f64, history.calls.len() as f64);
    let micros = spent.as_secs_f64() * 1e6;
    println!(
        "records/follow: {:.1} us CPU an event, {:.0} us a call ({:.1} events a call)",
        micros / events,
        micros / calls,
        events / calls
    );
}

criterion_group!(benches, rebuild, follow);
criterion_main!(benches);
