//! What one more waiting caller costs each decision: an agent comes free, is reserved, the first call is committed and
//! answered, a new call arrives, with 100 to 100,000 others waiting and 1,000 agents known. It should not depend on them
//! but for the logarithm (goal: at most 0.05 µs for each further waiting caller).

#![allow(missing_docs)] // criterion_group! writes a public function without any

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use trunkline_acd_core::{
    AgentToQueue, CallToQueue, Enqueue, Outcome, Queue, QueueConfig, QueueEffect, QueueEvent, QueueInput,
    QueueToAgent, Skills, Stamp,
};
use trunkline_types::{AgentId, CallId, Epoch, Machine, OfferId, Outbox, Output, ShardId, Timestamp};

struct Bench {
    queue: Queue,
    now: Timestamp,
    out: Outbox<QueueEvent, QueueEffect>,
    calls: u128,
    stamps: u64,
    agents: Vec<AgentId>,
}

impl Bench {
    fn new(waiting: usize) -> Self {
        let config = QueueConfig { max_waiting: 1_000_000, ..QueueConfig::default() };
        let name = |text: &str| text.parse().ok();
        let (Some(tenant), Ok(id)) = (name("default"), "support".parse()) else {
            unreachable!("valid names")
        };
        let agents = (0..1_000).filter_map(|n| format!("agent-{n}").parse().ok()).collect();
        let mut bench = Self {
            queue: Queue::new(tenant, id, Epoch(1), config),
            now: Timestamp::from_millis(1_800_000_000_000),
            out: Outbox::new(),
            calls: 0,
            stamps: 0,
            agents,
        };
        for n in 0..1_000 {
            bench.stamps += 1;
            let stamp = Stamp { epoch: Epoch(1), seq: bench.stamps };
            bench.agent(n, AgentToQueue::Unavailable { stamp });
        }
        (0..waiting).for_each(|_| bench.enqueue());
        bench
    }

    fn input(&mut self, input: QueueInput) -> Option<OfferId> {
        self.queue.handle(self.now, input, &mut self.out);
        let mut offer = None;
        for item in self.out.drain() {
            if let Output::Effect(QueueEffect::ToAgent { message, .. }) = black_box(item)
                && let QueueToAgent::Reserve { offer: o, .. } | QueueToAgent::Commit { offer: o, .. } =
                    message
            {
                offer = Some(o);
            }
        }
        offer
    }

    fn agent(&mut self, n: usize, message: AgentToQueue) -> Option<OfferId> {
        self.input(QueueInput::FromAgent { agent: self.agents[n].clone(), message })
    }

    fn enqueue(&mut self) {
        self.calls += 1;
        // Not so fast that the clock stands still, not so slow that somebody has to be asked.
        self.now = self.now.plus(Duration::from_micros(1));
        let shard = ShardId::new(1).unwrap_or_else(|| unreachable!("below the count"));
        let enqueue = Enqueue {
            entry: 0,
            priority: None,
            caller: "+15550100".into(),
            caller_name: String::new(),
            dialled: "support".into(),
            attributes: BTreeMap::new(),
            consulted_by: String::new(),
            entered_at: None,
        };
        let message = CallToQueue::Enqueue(Box::new(enqueue));
        self.input(QueueInput::FromCall { call: CallId::mint(shard, self.now, self.calls), message });
    }

    /// One served call and one that arrives.
    fn serve(&mut self) {
        self.stamps += 1;
        let n = (self.stamps % 1_000) as usize;
        let announcement = AgentToQueue::Available {
            stamp: Stamp { epoch: Epoch(1), seq: self.stamps },
            idle_since: self.now,
            skills: Skills::new(),
            validity: Duration::from_secs(60),
        };
        let Some(offer) = self.agent(n, announcement) else { unreachable!("somebody waits") };
        self.agent(n, AgentToQueue::Granted { offer: offer.clone() });
        self.agent(n, AgentToQueue::Accepted { offer: offer.clone() });
        let ended = AgentToQueue::Ended { offer, outcome: Outcome::Answered, at: self.now };
        self.agent(n, ended);
        self.enqueue();
    }
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("serve_one_call");
    for waiting in [100, 1_000, 10_000, 100_000] {
        let mut bench = Bench::new(waiting);
        group.bench_function(BenchmarkId::from_parameter(waiting), |b| b.iter(|| bench.serve()));
    }
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
