//! What an envelope costs: delivered on its own node, and on the way to another one.
//!
//! `cargo bench -p trunkline-rpc` prints messages per second between two nodes over loopback (plain and TLS), the processor
//! time of both ends per message, and the round trip of a single message when nothing else is under way.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use common::{Node, Options, assign, introduce, message, queue, tls::Authority};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trunkline_proto::{
    acd::v1::{AgentMessage, Reserve, agent_message},
    common::v1::{Envelope, envelope::Payload},
};
use trunkline_rpc::{LinkOptions, Refused, Tls, TlsMetrics};
use trunkline_types::EntityAddress;

/// Like what queues and agents say to each other: about 150 bytes.
fn envelope(to: &EntityAddress, n: u64) -> Envelope {
    let reserve = Reserve {
        offer_id: "support-7-00000000000000000000000000".to_owned(),
        queue_id: "support".to_owned(),
        ..Reserve::default()
    };
    let message_of = AgentMessage { message: Some(agent_message::Message::Reserve(reserve)) };
    Envelope {
        from: Some(trunkline_rpc::entity(&queue("sender"))),
        from_shard: Some(17),
        from_epoch: 42,
        map_revision: 1_000,
        payload: Some(Payload::Agent(message_of)),
        ..message(to, n)
    }
}

fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn pair(tls: bool) -> (Node, Node, EntityAddress) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("bench");
    let tls_of = |name: &str| {
        tls.then(|| Tls::load(authority.issue(dir.path(), name), TlsMetrics::default()).unwrap())
    };
    let with = |name: &'static str| Node::with(name, Options { tls: tls_of(name), ..Options::default() });
    let (a, b) = (with("a").await, with("b").await);
    introduce(&[&a, &b]);
    let to = queue("support");
    assign(&[&a, &b], to.shard(), &b, 1);
    a.bus.send(envelope(&to, 0)).unwrap();
    common::eventually("connected", || b.queues.count() == 1).await;
    (a, b, to)
}

/// Sends `n` messages as fast as the link takes them, and waits until all have arrived.
async fn flood(a: &Node, b: &Node, to: &EntityAddress, n: u64) {
    let before = b.queues.count();
    for i in 0..n {
        while a.bus.send(envelope(to, i)) == Err(Refused::Full) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        if i % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while b.queues.count() < before + n as usize {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn links(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for tls in [false, true] {
        let (a, b, to) = runtime.block_on(pair(tls));
        let name = if tls { "tls" } else { "plain" };
        const N: u64 = 200_000;
        let (began, cpu) = (Instant::now(), processor_time());
        runtime.block_on(flood(&a, &b, &to, N));
        let (took, cpu) = (began.elapsed(), processor_time() - cpu);
        println!(
            "{name}: {:.0} messages/s, {:.2} us of processor time per message, both ends",
            N as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / N as f64
        );
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(10_000));
        group.bench_function("10,000 messages", |bencher| {
            bencher.iter(|| runtime.block_on(flood(&a, &b, &to, 10_000)));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("one message, idle", |bencher| {
            bencher.iter(|| {
                let before = b.queues.count();
                a.bus.send(envelope(&to, 1)).unwrap();
                while b.queues.count() == before {
                    std::hint::spin_loop();
                }
            });
        });
        group.finish();
        runtime.block_on(async {
            a.kill().await;
            b.kill().await;
        });
    }
}

fn local(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node =
        runtime.block_on(Node::with("a", Options { links: LinkOptions::default(), ..Options::default() }));
    let to = queue("support");
    assign(&[&node], to.shard(), &node, 1);
    criterion.bench_function("delivered on this node", |bencher| {
        bencher.iter_batched(
            || envelope(&to, 1),
            |envelope| black_box(node.bus.send(envelope)),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = local, links
}
criterion_main!(benches);
