//! What one more waiting caller, or one more agent, costs each decision. `waiting`: an agent comes free, is reserved, the
//! first call is committed and answered, a new call arrives, with 10 to 100,000 others waiting and 1,000 agents known.
//! `agents`: the same with 10 to 10,000 agents ready and nobody waiting, so that the call that arrives chooses among them.
//! Neither should depend on the size but for the logarithm (goal: at most 0.05 µs for each further waiting caller).

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
    fn new(known: usize, waiting: usize) -> Self {
        let config = QueueConfig { max_waiting: 1_000_000, ..QueueConfig::default() };
        let name = |text: &str| text.parse().ok();
        let (Some(tenant), Ok(id)) = (name("default"), "support".parse()) else {
            unreachable!("valid names")
        };
        let agents = (0..known).filter_map(|n| format!("agent-{n}").parse().ok()).collect();
        let mut bench = Self {
            queue: Queue::new(tenant, id, Epoch(1), config),
            now: Timestamp::from_millis(1_800_000_000_000),
            out: Outbox::new(),
            calls: 0,
            stamps: 0,
            agents,
        };
        for n in 0..known {
            bench.stamps += 1;
            let stamp = Stamp { epoch: Epoch(1), seq: bench.stamps };
            bench.agent(bench.agents[n].clone(), AgentToQueue::Unavailable { stamp });
        }
        for _ in 0..waiting {
            bench.enqueue();
        }
        bench
    }

    /// Whom the queue turned to last, and for which offer.
    fn input(&mut self, input: QueueInput) -> Option<(AgentId, OfferId)> {
        self.queue.handle(self.now, input, &mut self.out);
        let mut offer = None;
        for item in self.out.drain() {
            if let Output::Effect(QueueEffect::ToAgent { agent, message }) = black_box(item)
                && let QueueToAgent::Reserve { offer: o, .. } | QueueToAgent::Commit { offer: o, .. } =
                    message
            {
                offer = Some((agent, o));
            }
        }
        offer
    }

    fn agent(&mut self, agent: AgentId, message: AgentToQueue) -> Option<(AgentId, OfferId)> {
        self.input(QueueInput::FromAgent { agent, message })
    }

    fn enqueue(&mut self) -> Option<(AgentId, OfferId)> {
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
        self.input(QueueInput::FromCall { call: CallId::mint(shard, self.now, self.calls), message })
    }

    fn free(&mut self, agent: AgentId) -> Option<(AgentId, OfferId)> {
        self.stamps += 1;
        let announcement = AgentToQueue::Available {
            stamp: Stamp { epoch: Epoch(1), seq: self.stamps },
            idle_since: self.now,
            skills: Skills::new(),
            // Nobody's word ends while this is measured.
            validity: Duration::from_secs(86_400),
        };
        self.agent(agent, announcement)
    }

    fn answer(&mut self, agent: &AgentId, offer: OfferId) {
        self.agent(agent.clone(), AgentToQueue::Granted { offer: offer.clone() });
        self.agent(agent.clone(), AgentToQueue::Accepted { offer: offer.clone() });
        let ended = AgentToQueue::Ended { offer, outcome: Outcome::Answered, at: self.now };
        self.agent(agent.clone(), ended);
    }

    /// One served call and one that arrives.
    fn serve(&mut self) {
        let n = (self.stamps % self.agents.len() as u64) as usize;
        let Some((agent, offer)) = self.free(self.agents[n].clone()) else { unreachable!("somebody waits") };
        self.answer(&agent, offer);
        self.enqueue();
    }

    /// A call arrives while all are ready: it is offered to the longest idle, who is ready again after it.
    fn choose(&mut self) {
        let Some((agent, offer)) = self.enqueue() else { unreachable!("somebody is ready") };
        self.answer(&agent, offer);
        if self.free(agent).is_some() {
            unreachable!("nobody waits");
        }
    }
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("waiting");
    for waiting in [10, 100, 1_000, 5_000, 100_000] {
        let mut bench = Bench::new(1_000, waiting);
        group.bench_function(BenchmarkId::from_parameter(waiting), |b| b.iter(|| bench.serve()));
    }
    group.finish();
    let mut group = c.benchmark_group("agents");
    for agents in [10, 100, 1_000, 10_000] {
        let mut bench = Bench::new(agents, 0);
        for agent in bench.agents.clone() {
            bench.free(agent);
        }
        group.bench_function(BenchmarkId::from_parameter(agents), |b| b.iter(|| bench.choose()));
    }
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
