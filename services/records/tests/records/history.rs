//! Random histories of calls, queues and agents that hang together, with what was meant to be counted in them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use trunkline_journal::StoredEvent;
use trunkline_proto::{
    acd::v1::{self as acd, AgentEvent, LeaveCause, OfferOutcome, QueueEvent, agent_event, queue_event},
    call::v1::{self as call, CallEvent, call_event},
};
use trunkline_types::{AgentId, CallId, EntityAddress, Epoch, QueueId, ShardId, TenantId, Timestamp};

pub const S: i64 = 1_000_000;
pub const DAY: i64 = 86_400 * S;
/// Midnight in the middle of each history.
pub const MIDNIGHT: i64 = 20_514 * DAY;
pub const QUEUES: [&str; 3] = ["support", "sales", "billing"];
pub const AGENTS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

/// What a queue should count.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counted {
    pub offered: u64,
    pub answered: u64,
    pub in_target: u64,
    pub abandoned: u64,
    pub short: u64,
    pub timed_out: u64,
    pub refused: u64,
    pub missed: u64,
    pub handled: u64,
    pub handle_us: i64,
    pub wait_us: i64,
    pub waiting: u64,
}

#[derive(Default)]
pub struct History {
    pub events: Vec<StoredEvent>,
    /// By queue: before midnight and after it. `waiting` counts at the end, in the second.
    pub counted: BTreeMap<&'static str, [Counted; 2]>,
    /// Calls by the outcome that their contact should have at the end.
    pub outcomes: BTreeMap<&'static str, u64>,
    pub calls: Vec<String>,
    pub active: u64,
}

struct Script {
    random: StdRng,
    lines: Vec<(i64, EntityAddress, &'static str, Bytes)>,
    history: History,
    free: BTreeMap<&'static str, i64>,
    offers: u64,
    tenant: TenantId,
}

/// `calls` calls in the two hours around midnight.
pub fn history(seed: u64, calls: usize) -> History {
    println!("seed {seed}");
    let begin = MIDNIGHT - 3_600 * S;
    let mut script = Script {
        random: StdRng::seed_from_u64(seed),
        lines: Vec::new(),
        history: History::default(),
        free: AGENTS.iter().map(|agent| (*agent, begin + 10 * S)).collect(),
        offers: 0,
        tenant: "default".parse().unwrap(),
    };
    for agent in AGENTS {
        script.agent(begin, agent, "", "", agent_event::Event::SignedIn(acd::AgentSignedIn::default()));
        let ready = acd::AgentReady { idle_since_us: begin + S };
        script.agent(begin + S, agent, "", "", agent_event::Event::Ready(ready));
    }
    let mut arrivals: Vec<i64> =
        (0..calls).map(|_| begin + script.random.random_range(20 * S..7_200 * S)).collect();
    arrivals.sort_unstable();
    for at in arrivals {
        script.one_call(at);
    }
    script.finish()
}

impl Script {
    fn call(&mut self, at: i64, call: &str, event: call_event::Event) {
        let kind = match &event {
            call_event::Event::Started(_) => "call.started",
            call_event::Event::Ended(_) => "call.ended",
            call_event::Event::Dialog(_) => "call.dialog",
            call_event::Event::TranscriptSegment(_) => "call.transcript_segment",
            _ => "call.other",
        };
        let body = CallEvent { at_us: at, event: Some(event) }.encode_to_vec();
        let entity = EntityAddress::call(&self.tenant, call.parse().unwrap());
        self.lines.push((at, entity, kind, body.into()));
    }

    fn queue(&mut self, at: i64, queue: &str, call: &str, event: queue_event::Event) {
        let body = QueueEvent { at_us: at, call_id: call.into(), event: Some(event) }.encode_to_vec();
        let id: QueueId = queue.parse().unwrap();
        self.lines.push((at, EntityAddress::queue(&self.tenant, &id), "queue.event", body.into()));
    }

    fn agent(&mut self, at: i64, agent: &str, offer: &str, call: &str, event: agent_event::Event) {
        let event = AgentEvent {
            at_us: at,
            offer_id: offer.into(),
            call_id: call.into(),
            event: Some(event),
            by: None,
        };
        let id: AgentId = agent.parse().unwrap();
        let entity = EntityAddress::agent(&self.tenant, &id);
        self.lines.push((at, entity, "agent.event", event.encode_to_vec().into()));
    }

    fn count(&mut self, queue: &'static str, at: i64, apply: impl FnOnce(&mut Counted)) {
        let half = usize::from(at >= MIDNIGHT);
        apply(&mut self.history.counted.entry(queue).or_default()[half]);
    }

    fn outcome(&mut self, outcome: &'static str) {
        *self.history.outcomes.entry(outcome).or_default() += 1;
    }

    fn one_call(&mut self, at: i64) {
        let shard = ShardId::new(self.random.random_range(0..4_096)).unwrap();
        let id = CallId::mint(shard, Timestamp::from_micros(at), self.random.random()).to_string();
        self.history.calls.push(id.clone());
        let started = call::CallStarted {
            direction: "inbound".into(),
            caller_number: format!("+4930{}", self.random.random_range(100_000..999_999)),
            caller_name: "Zoë Ångström".into(),
            dialled: "support".into(),
            invite: vec![b'x'; 900].into(),
            ..Default::default()
        };
        self.call(at, &id, call_event::Event::Started(started));
        let dialog = call::DialogChanged { leg_id: "caller".into(), state: vec![7; 400].into() };
        self.call(at, &id, call_event::Event::Dialog(dialog));
        let answered = call::LegAnswered { leg_id: "caller".into(), codec: "PCMA".into() };
        self.call(at + S / 10, &id, call_event::Event::LegAnswered(answered));
        let step = call::FlowStep { node: "menu".into(), outcome: "entered".into(), ..Default::default() };
        self.call(at + S / 5, &id, call_event::Event::FlowStep(step));
        let queue = QUEUES[self.random.random_range(0..QUEUES.len())];
        match self.random.random_range(0..20) {
            0 => self.hangs_up_in_the_flow(at + 5 * S, &id),
            1 => self.is_refused(at + S, queue, &id),
            2..=4 => self.gives_up(at + S, queue, &id),
            5 => self.times_out(at + S, queue, &id),
            6 => self.stays(at + S, queue, &id),
            _ => self.talks(at + S, queue, &id),
        }
    }

    fn ended(&mut self, at: i64, id: &str, by: &str) {
        let ended = call::CallEnded { cause: "hangup".into(), by: by.into() };
        self.call(at, id, call_event::Event::Ended(ended));
    }

    fn hangs_up_in_the_flow(&mut self, at: i64, id: &str) {
        self.ended(at, id, "caller");
        self.outcome("flow");
    }

    fn is_refused(&mut self, at: i64, queue: &'static str, id: &str) {
        let refused = acd::QueueRefused { entry: 0, cause: "queue_full".into() };
        self.queue(at, queue, id, queue_event::Event::Refused(refused));
        self.count(queue, at, |c| c.refused += 1);
        self.ended(at + S, id, "system");
        self.outcome("refused");
    }

    fn enters(&mut self, at: i64, queue: &'static str, id: &str) {
        let entered = call::QueueEntered { queue: queue.into(), ..Default::default() };
        self.call(at - 1, id, call_event::Event::QueueEntered(entered));
        self.queue(at, queue, id, queue_event::Event::Enqueued(acd::QueueEnqueued::default()));
        self.count(queue, at, |c| c.offered += 1);
    }

    fn leaves(&mut self, at: i64, queue: &str, id: &str, entered: i64, cause: LeaveCause, short: bool) {
        let left = acd::QueueLeft {
            cause: cause.into(),
            entered_us: entered,
            short_abandon: short,
            ..Default::default()
        };
        self.queue(at, queue, id, queue_event::Event::Left(left));
    }

    fn gives_up(&mut self, at: i64, queue: &'static str, id: &str) {
        self.enters(at, queue, id);
        let waited = self.random.random_range(S..120 * S);
        let (left, short) = (at + waited, waited < 5 * S);
        // The call's end may be committed before the queue's word or after it.
        let first = self.random.random_range(0..2);
        self.ended(left - first, id, "caller");
        self.leaves(left, queue, id, at, LeaveCause::Abandoned, short);
        self.count(queue, left, |c| {
            c.abandoned += 1;
            c.short += u64::from(short);
        });
        self.outcome(if short { "short_abandoned" } else { "abandoned" });
    }

    fn times_out(&mut self, at: i64, queue: &'static str, id: &str) {
        self.enters(at, queue, id);
        let left = at + 300 * S;
        self.leaves(left, queue, id, at, LeaveCause::TimedOut, false);
        self.count(queue, left, |c| c.timed_out += 1);
        self.ended(left + S, id, "system");
        self.outcome("timed_out");
    }

    /// Waits to the end of the history.
    fn stays(&mut self, at: i64, queue: &'static str, id: &str) {
        self.enters(at, queue, id);
        self.count(queue, MIDNIGHT, |c| c.waiting += 1);
        self.history.active += 1;
        self.outcome("in_progress");
    }

    fn offer(&mut self, at: i64, queue: &str, agent: &str, id: &str) -> String {
        self.offers += 1;
        let offer = format!("{queue}:1:{}", self.offers);
        let committed = acd::OfferCommitted {
            offer_id: offer.clone(),
            agent_id: agent.into(),
            agent_epoch: 1,
            explanation: Some(acd::Explanation { candidates_total: 3, ..Default::default() }),
        };
        self.queue(at, queue, id, queue_event::Event::Committed(committed));
        let commit = acd::Commit { call_id: id.into(), queue_id: queue.into(), ..Default::default() };
        let offered = acd::AgentOffered { commit: Some(commit), until_us: at + 20 * S };
        self.agent(at + 1_000, agent, &offer, id, agent_event::Event::Offered(offered));
        offer
    }

    fn free_agent(&self, at: i64) -> (&'static str, i64) {
        let (agent, free) = self.free.iter().min_by_key(|(_, free)| **free).unwrap();
        (agent, at.max(*free))
    }

    fn talks(&mut self, at: i64, queue: &'static str, id: &str) {
        self.enters(at, queue, id);
        let mut now = at + 1_000;
        for _ in 0..[0, 0, 0, 1, 2][self.random.random_range(0..5)] {
            now = self.is_missed(now, queue, id);
        }
        let (agent, mut now) = self.free_agent(now);
        let offer = self.offer(now, queue, agent, id);
        now += self.random.random_range(S..10 * S);
        self.agent(now, agent, &offer, id, agent_event::Event::Accepted(acd::AgentAccepted::default()));
        let connecting =
            call::AgentConnecting { offer_id: offer.clone(), agent_id: agent.into(), ..Default::default() };
        self.call(now + 500, id, call_event::Event::AgentConnecting(connecting));
        now += 60_000;
        let connected = now;
        self.agent(now, agent, &offer, id, agent_event::Event::Connected(acd::AgentTalking {}));
        let within_target = now - at <= 20 * S;
        let answered = acd::QueueAnswered {
            offer_id: offer.clone(),
            agent_id: agent.into(),
            entered_us: at,
            within_target,
        };
        self.queue(now, queue, id, queue_event::Event::Answered(answered));
        self.count(queue, now, |c| {
            c.answered += 1;
            c.in_target += u64::from(within_target);
            c.wait_us += now - at;
        });
        let recording = call::RecordingStarted {
            recording_id: format!("{id}-r0"),
            agent_id: agent.into(),
            required: false,
        };
        self.call(now + 1_000, id, call_event::Event::RecordingStarted(recording));
        for n in 0..self.random.random_range(0..4) {
            now += 3 * S;
            self.segment(now, id, n);
        }
        if self.random.random_bool(0.2) {
            now += 2 * S;
            self.agent(now, agent, &offer, id, hold(true));
            now += self.random.random_range(S..30 * S);
            self.agent(now, agent, &offer, id, hold(false));
        }
        now += self.random.random_range(5 * S..180 * S);
        let over = now;
        self.agent(over, agent, &offer, id, agent_event::Event::CallEnded(acd::AgentCallOver::default()));
        self.ended(over + 1_000, id, "caller");
        self.outcome("answered");
        // Late: the last words and the recording come after the end, the wrap-up long after it.
        self.segment(over + S, id, 9);
        let finished = call::RecordingFinished {
            recording_id: format!("{id}-r0"),
            location: format!("{id}.wav"),
            size_bytes: 10,
            ..Default::default()
        };
        self.call(over + 2 * S, id, call_event::Event::RecordingFinished(finished));
        self.wraps_up(over, queue, agent, &offer, id, over - connected);
    }

    fn segment(&mut self, at: i64, id: &str, n: i64) {
        let segment = call::TranscriptSegment {
            recording_id: format!("{id}-r0"),
            start_ms: n * 3_000,
            text: "how may I help you".into(),
            ..Default::default()
        };
        self.call(at, id, call_event::Event::TranscriptSegment(segment));
    }

    fn wraps_up(
        &mut self,
        over: i64,
        queue: &'static str,
        agent: &'static str,
        offer: &str,
        id: &str,
        talk: i64,
    ) {
        let done = over + self.random.random_range(0..60 * S);
        let notes = acd::AgentNotes {
            disposition: Some("solved".into()),
            tags: vec!["vip".into()],
            text: "called about the invoice".into(),
        };
        let ended = acd::AgentWrapUpEnded { end: 1, notes: Some(notes) };
        self.agent(done, agent, offer, id, agent_event::Event::WrapUpEnded(ended));
        self.agent(done, agent, "", "", agent_event::Event::Ready(acd::AgentReady { idle_since_us: done }));
        self.count(queue, done, |c| {
            c.handled += 1;
            c.handle_us += talk + (done - over);
        });
        self.free.insert(agent, done + S);
    }

    fn is_missed(&mut self, at: i64, queue: &'static str, id: &str) -> i64 {
        let (agent, now) = self.free_agent(at);
        let offer = self.offer(now, queue, agent, id);
        let missed = now + 20 * S;
        let outcome = OfferOutcome::Missed.into();
        let ended = agent_event::Event::OfferEnded(acd::AgentOfferEnded { outcome });
        self.agent(missed, agent, &offer, id, ended);
        let why = acd::AgentNotReady { reason: "missed".into() };
        self.agent(missed, agent, "", "", agent_event::Event::NotReady(why));
        let ended = acd::OfferEnded {
            offer_id: offer,
            agent_id: agent.into(),
            outcome,
            ended_us: missed,
            avoid_until_us: 0,
        };
        self.queue(missed + 2_000, queue, id, queue_event::Event::OfferEnded(ended));
        self.count(queue, missed + 2_000, |c| c.missed += 1);
        let back = missed + 15 * S;
        self.agent(back, agent, "", "", agent_event::Event::Ready(acd::AgentReady { idle_since_us: back }));
        self.free.insert(agent, back + S);
        missed + 3_000
    }

    fn finish(mut self) -> History {
        self.lines.sort_by_key(|(at, ..)| *at);
        let (mut nths, mut seqs) = (BTreeMap::new(), BTreeMap::new());
        for (n, (at, entity, kind, payload)) in self.lines.into_iter().enumerate() {
            let nth: &mut u64 = nths.entry(entity.to_string()).or_default();
            let seq: &mut u64 = seqs.entry(entity.shard()).or_default();
            (*nth, *seq) = (*nth + 1, *seq + 1);
            self.history.events.push(StoredEvent {
                position: n as u64 + 1,
                shard: entity.shard(),
                seq: *seq,
                epoch: Epoch(1),
                nth: *nth,
                kind: kind.into(),
                version: 1,
                at: Timestamp::from_micros(at),
                payload,
                last: false,
                entity,
            });
        }
        self.history
    }
}

fn hold(on_hold: bool) -> agent_event::Event {
    agent_event::Event::Hold(acd::AgentHoldChanged { on_hold })
}
