//! Conversions lose nothing, and a snapshot is the state it was taken of.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use trunkline_acd_core::{
    Action, Agent, AgentConfig, AgentEvent, AgentToCall, Enqueue, LeaveCause, OfferCard, Outcome, Queue,
    QueueConfig, QueueEvent, SessionId, Strategy,
    agent::{
        Answer, CommandError, CommandRef, CommandReply, Console, DetachReason, NextStatus, Notes, WrapUpEnd,
    },
    queue::{Candidate, Decision, Exclusion, ExclusionReason, OfferOutcome},
};
use trunkline_actors::{Behaviour, now};
use trunkline_cluster::{EmbeddedPlacement, Incarnation};
use trunkline_journal::{SqliteJournal, SqliteOptions, StoredEvent};
use trunkline_proto::acd::v1 as pb;
use trunkline_rpc::{Bus, BusMetrics};
use trunkline_types::{
    AgentId, CallId, EntityAddress, Epoch, Machine, OfferId, QueueId, ReleaseCause, ShardId, TenantId,
    Timestamp,
};

use crate::{
    AcdMetrics,
    agent::AgentShell,
    convert::{agent_event, queue_event},
    outbox::Sender,
    parts::Directory,
    queue::QueueShell,
    sessions::Sessions,
};

struct Draw(StdRng);

impl Draw {
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        *choices.choose(&mut self.0).unwrap()
    }

    fn flag(&mut self) -> bool {
        self.0.random()
    }

    fn number(&mut self) -> u32 {
        self.0.random()
    }

    fn small(&mut self) -> usize {
        self.0.random_range(0..4)
    }

    fn at(&mut self) -> Timestamp {
        Timestamp::from_micros(self.0.random_range(1..4_000_000_000_000_000))
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.small()).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        let letters: Vec<char> = "aZ09 ü€\"\\\n\u{0}\u{1f600}".chars().collect();
        (0..self.0.random_range(0..12)).map(|_| self.of(&letters)).collect()
    }

    fn span(&mut self) -> Duration {
        Duration::from_micros(self.0.random_range(0..10_000_000_000))
    }

    fn call(&mut self) -> CallId {
        let shard = ShardId::new(self.0.random_range(0..4_096)).unwrap();
        CallId::mint(shard, Timestamp::from_millis(self.0.random_range(0..1 << 40)), self.0.random())
    }

    fn queue(&mut self) -> QueueId {
        self.of(&["support", "sales-2", "a"]).parse().unwrap()
    }

    fn agent(&mut self) -> AgentId {
        self.of(&["alice", "bob.b", "c_3"]).parse().unwrap()
    }

    fn offer(&mut self) -> OfferId {
        OfferId { queue: self.queue(), epoch: Epoch(self.0.random()), n: self.0.random() }
    }

    fn outcome(&mut self) -> Outcome {
        self.of(&[
            Outcome::Answered,
            Outcome::Missed,
            Outcome::Declined,
            Outcome::Failed,
            Outcome::CallerGone,
            Outcome::AgentGone,
        ])
    }

    fn offer_outcome(&mut self) -> OfferOutcome {
        if self.flag() { OfferOutcome::Rejected } else { OfferOutcome::Agent(self.outcome()) }
    }

    fn leave(&mut self) -> LeaveCause {
        self.of(&[LeaveCause::Abandoned, LeaveCause::FlowOut, LeaveCause::Lost, LeaveCause::Timeout])
    }

    fn cause(&mut self) -> ReleaseCause {
        self.of(ReleaseCause::ALL)
    }

    fn attributes(&mut self) -> trunkline_acd_core::Attributes {
        self.many(|d| (d.text(), d.text())).into_iter().collect()
    }

    fn enqueue(&mut self) -> Enqueue {
        Enqueue {
            entry: self.number(),
            priority: self.some(|d| d.0.random_range(-100..=100)),
            caller: self.text(),
            caller_name: self.text(),
            dialled: self.text(),
            attributes: self.attributes(),
            consulted_by: self.text(),
            entered_at: None,
        }
    }

    fn by(&mut self) -> CommandRef {
        CommandRef { session: SessionId(self.text()), id: self.text() }
    }

    /// A request to the call that is journalled, and how it can end.
    fn request(&mut self, session: &SessionId, control: u64) -> AgentToCall {
        let offer = self.offer();
        if self.flag() {
            let (session, sdp_offer) = (session.clone(), self.text());
            return AgentToCall::RemakeMedia { offer, control, session, sdp_offer };
        }
        let actions = [
            Action::Hold,
            Action::Resume,
            Action::Mute,
            Action::Unmute,
            Action::Digits("12#".into()),
            Action::PauseRecording(true),
            Action::PauseRecording(false),
            Action::Hangup,
            Action::Transfer("sales".parse().unwrap()),
            Action::Consult("sales".parse().unwrap()),
            Action::CompleteTransfer,
            Action::CancelConsult,
        ];
        AgentToCall::Control { offer, control, action: actions.choose(&mut self.0).unwrap().clone() }
    }

    fn answer(&mut self) -> Answer {
        match self.small() {
            0 => Ok(CommandReply::Done),
            1 => Ok(CommandReply::Media { offer: self.offer(), sdp_answer: self.text() }),
            2 => Err(CommandError::CallEnded),
            _ => Err(CommandError::Call { reason: self.text() }),
        }
    }

    fn card(&mut self) -> OfferCard {
        OfferCard {
            call: self.call(),
            entry: self.number(),
            queue: self.queue(),
            queue_name: self.text(),
            caller: self.text(),
            caller_name: self.text(),
            dialled: self.text(),
            attributes: self.attributes(),
            consulted_by: self.text(),
            enqueued_at: self.at(),
            ring_timeout: self.span(),
            wrap_up: self.span(),
            recording: self.flag(),
            recording_required: self.flag(),
            disposition_required: self.flag(),
            dispositions: self.many(Self::text),
        }
    }

    fn notes(&mut self) -> Notes {
        Notes { disposition: self.some(Self::text), tags: self.many(Self::text), text: self.text() }
    }

    fn exclusion(&mut self) -> Exclusion {
        let reason = match self.0.random_range(0..5) {
            0 => ExclusionReason::Skill { has: self.0.random(), needs: self.0.random() },
            1 => ExclusionReason::Reserving,
            2 => ExclusionReason::Unresponsive,
            3 => ExclusionReason::Avoided { after: self.offer_outcome() },
            _ => ExclusionReason::Unavailable,
        };
        Exclusion { agent: self.agent(), reason }
    }

    fn decision(&mut self) -> Decision {
        Decision {
            strategy: Strategy::LongestIdle,
            config_version: self.0.random(),
            chosen_at: self.at(),
            position: self.number(),
            waiting: self.number(),
            candidate_count: self.number(),
            candidates: self.many(|d| Candidate {
                agent: d.agent(),
                idle_since: d.at(),
                skill_level: d.0.random(),
                score: d.0.random(),
            }),
            excluded_count: self.number(),
            excluded: self.many(Self::exclusion),
        }
    }

    fn queue_event(&mut self, kind: usize) -> QueueEvent {
        let (at, call) = (self.at(), self.call());
        match kind {
            0 => QueueEvent::Enqueued {
                at,
                entered_at: self.at(),
                call,
                seq: self.0.random(),
                priority: self.0.random_range(-100..=100),
                rank_at: self.at(),
                expires_at: self.some(Self::at),
                target_at: self.at(),
                short_until: self.at(),
                enqueue: Box::new(self.enqueue()),
            },
            1 => QueueEvent::Refused { at, call, entry: self.number(), cause: self.cause() },
            2 => QueueEvent::NeverQueued { at, call, entry: self.number(), cause: self.leave() },
            3 => QueueEvent::Committed {
                at,
                call,
                offer: self.offer(),
                agent: self.agent(),
                agent_epoch: Epoch(self.0.random()),
                decision: Box::new(self.decision()),
            },
            4 => QueueEvent::OfferEnded {
                at,
                call,
                offer: self.offer(),
                agent: self.agent(),
                outcome: self.offer_outcome(),
                ended_at: self.at(),
                avoid_until: self.some(Self::at),
            },
            5 => QueueEvent::Answered {
                at,
                call,
                offer: self.offer(),
                agent: self.agent(),
                enqueued_at: self.at(),
                within_target: self.flag(),
            },
            _ => QueueEvent::Left {
                at,
                call,
                entry: self.number(),
                cause: self.leave(),
                enqueued_at: self.at(),
                short: self.flag(),
                ringing_at: self.some(Self::agent),
            },
        }
    }

    fn agent_event(&mut self, kind: usize) -> AgentEvent {
        let (at, offer, call) = (self.at(), self.offer(), self.call());
        match kind {
            0 => AgentEvent::SignedIn { at, session: SessionId(self.text()) },
            1 => AgentEvent::SignedOut { at, reason: self.text() },
            2 => AgentEvent::Ready { at, idle_since: self.at() },
            3 => AgentEvent::NotReady { at, reason: self.text() },
            4 => AgentEvent::Offered { at, offer, card: Box::new(self.card()), ring_until: self.at() },
            5 => AgentEvent::Accepted {
                at,
                offer,
                session: SessionId(self.text()),
                sdp_offer: self.text(),
                connect_until: self.at(),
            },
            6 => AgentEvent::OfferEnded { at, offer, call, outcome: self.outcome(), by: self.some(Self::by) },
            7 => AgentEvent::Connected { at, offer, call },
            8 => AgentEvent::HoldChanged { at, offer, held: self.flag() },
            9 => AgentEvent::CallEnded {
                at,
                offer,
                call,
                cause: self.cause(),
                wrap_up_until: self.some(Self::at),
            },
            10 => AgentEvent::WrapUpExtended { at, offer, until: self.at(), by: self.some(Self::by) },
            11 => AgentEvent::NotesSaved { at, offer, call, notes: Box::new(self.notes()) },
            12 => AgentEvent::WrapUpEnded {
                at,
                offer,
                call,
                end: self.of(&[WrapUpEnd::ByAgent, WrapUpEnd::TimedOut, WrapUpEnd::None]),
                notes: Box::new(self.notes()),
                by: self.some(Self::by),
            },
            13 => AgentEvent::NextStatusSet { at, next: self.next() },
            14 => AgentEvent::OutcomeSeen { at, offer },
            15 => AgentEvent::SessionAttached {
                at,
                session: SessionId(self.text()),
                console: Console { node: "n1".parse().unwrap(), incarnation: self.0.random() },
                connection: self.0.random(),
            },
            16 => AgentEvent::SessionDetached {
                at,
                session: SessionId(self.text()),
                reason: self.of(&DetachReason::ALL),
            },
            17 => {
                let (by, control) = (self.by(), self.0.random());
                let request = Box::new(self.request(&by.session, control));
                AgentEvent::CommandBegun { at, by, control, request }
            }
            _ => {
                let (by, control) = (self.by(), self.0.random());
                AgentEvent::CommandEnded { at, by, control, answer: Box::new(self.answer()) }
            }
        }
    }

    fn next(&mut self) -> Option<NextStatus> {
        match self.0.random_range(0..3) {
            0 => None,
            1 => Some(NextStatus::NotReady { reason: self.text() }),
            _ => Some(NextStatus::SignedOut),
        }
    }
}

fn runtime() -> tokio::runtime::Handle {
    tokio::runtime::Handle::current()
}

fn draw(seed: u64) -> Draw {
    println!("seed {seed}");
    Draw(StdRng::seed_from_u64(seed))
}

#[test]
fn every_event_reads_back_as_it_was_written() {
    let mut draw = draw(1);
    for n in 0..7_000 {
        let event = draw.queue_event(n % 7);
        let bytes = queue_event::encode(&event).encode_to_vec();
        let back = queue_event::decode(pb::QueueEvent::decode(&*bytes).unwrap());
        assert_eq!(back, Ok(event.clone()), "{}", queue_event::kind(&event));
    }
    for n in 0..15_000 {
        let event = draw.agent_event(n % 19);
        let bytes = agent_event::encode(&event).encode_to_vec();
        let back = agent_event::decode(pb::AgentEvent::decode(&*bytes).unwrap());
        assert_eq!(back, Ok(event.clone()), "{}", agent_event::kind(&event));
    }
}

#[test]
fn what_a_newer_or_broken_node_wrote_is_an_error_and_no_panic() {
    let mut draw = draw(2);
    for n in 0..20_000 {
        let mut bytes = if n % 2 == 0 {
            queue_event::encode(&draw.queue_event(n % 7)).encode_to_vec()
        } else {
            agent_event::encode(&draw.agent_event(n % 19)).encode_to_vec()
        };
        for _ in 0..1 + draw.small() {
            let at = draw.0.random_range(0..bytes.len());
            match draw.small() {
                0 => bytes[at] = draw.0.random(),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, draw.0.random()),
                _ => _ = bytes.remove(at),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        if let Ok(event) = pb::QueueEvent::decode(&*bytes) {
            let _ = queue_event::decode(event);
        }
        if let Ok(event) = pb::AgentEvent::decode(&*bytes) {
            let _ = agent_event::decode(event);
        }
    }
    assert!(queue_event::decode(pb::QueueEvent::default()).is_err());
    assert!(agent_event::decode(pb::AgentEvent::default()).is_err());
}

struct Nobody;

impl Directory for Nobody {
    fn has_queue(&self, _: &TenantId, _: &QueueId) -> bool {
        false
    }
    fn has_agent(&self, _: &TenantId, _: &AgentId) -> bool {
        false
    }
    fn queue(&self, _: &TenantId, _: &QueueId) -> Option<QueueConfig> {
        None
    }
    fn agent(&self, _: &TenantId, _: &AgentId) -> Option<AgentConfig> {
        None
    }
    fn agents_of(&self, _: &TenantId, _: &QueueId) -> Vec<AgentId> {
        Vec::new()
    }
    fn queue_names(&self, _: &TenantId, _: &AgentId) -> Vec<String> {
        Vec::new()
    }
}

async fn sender(address: EntityAddress) -> Sender {
    let journal = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
    let placement = EmbeddedPlacement::start(&journal, "n1".parse().unwrap(), Incarnation(1)).await.unwrap();
    let bus = Bus::new("n1".parse().unwrap(), BusMetrics::default(), now);
    Sender::new(bus, Arc::new(placement), address)
}

fn metrics() -> AcdMetrics {
    AcdMetrics::register(&mut prometheus_client::registry::Registry::default())
}

/// The shell's bytes of a core, and those of a fresh core that was restored from them.
fn through_a_snapshot<B: Behaviour>(shell: &B, core: &B::Core, mut fresh: B::Core) -> [Vec<u8>; 2] {
    let (version, body) = shell.snapshot(core).unwrap();
    shell.restore(&mut fresh, version, &body).unwrap();
    assert!(shell.restore(&mut fresh, version + 1, &body).is_err(), "of a newer version");
    assert!(shell.restore(&mut fresh, version, &body[..body.len() / 2]).is_err(), "cut off");
    [body.to_vec(), shell.snapshot(&fresh).unwrap().1.to_vec()]
}

#[tokio::test]
async fn a_snapshot_of_an_agent_in_a_conversation_is_that_agent() {
    let (tenant, id): (TenantId, AgentId) = ("default".parse().unwrap(), "alice".parse().unwrap());
    let sender = sender(EntityAddress::agent(&tenant, &id)).await;
    let new = || Agent::new(tenant.clone(), id.clone(), Epoch(1), AgentConfig::default());
    let shell =
        AgentShell::new(tenant.clone(), id.clone(), sender, Arc::new(Nobody), metrics(), Sessions::default());
    let (mut core, mut draw, at) = (new(), draw(3), Timestamp::from_millis(1_000));
    let (offer, card, session) = (draw.offer(), Box::new(draw.card()), SessionId("s1".into()));
    let (missed, call) = (draw.offer(), card.call);
    let other = Box::new(OfferCard { queue: missed.queue.clone(), ..(*card).clone() });
    for event in [
        AgentEvent::SignedIn { at, session: session.clone() },
        AgentEvent::Ready { at, idle_since: at },
        AgentEvent::Offered { at, offer: missed.clone(), card: other, ring_until: at },
        AgentEvent::OfferEnded { at, offer: missed, call, outcome: Outcome::Missed, by: None },
        AgentEvent::Ready { at, idle_since: at },
        AgentEvent::Offered { at, offer: offer.clone(), card, ring_until: at },
        AgentEvent::Accepted {
            at,
            offer: offer.clone(),
            session,
            sdp_offer: "v=0".into(),
            connect_until: at,
        },
        AgentEvent::Connected { at, offer: offer.clone(), call },
        AgentEvent::NotesSaved { at, offer, call, notes: Box::new(draw.notes()) },
    ] {
        core.apply(&event);
    }
    let [before, after] = through_a_snapshot(&shell, &core, new());
    assert_eq!(before, after);
    assert!(String::from_utf8(before).unwrap().contains("missed"), "the outcome that no queue has seen yet");
}

#[tokio::test]
async fn a_snapshot_of_a_queue_with_calls_and_an_offer_is_that_queue() {
    let (tenant, id): (TenantId, QueueId) = ("default".parse().unwrap(), "support".parse().unwrap());
    let sender = sender(EntityAddress::queue(&tenant, &id)).await;
    let new = || Queue::new(tenant.clone(), id.clone(), Epoch(1), QueueConfig::default());
    let shell = QueueShell::new(tenant.clone(), id.clone(), sender, Arc::new(Nobody), metrics(), runtime());
    let (mut core, mut draw) = (new(), draw(4));
    let mut first = None;
    for seq in 1..=5 {
        let event = match draw.queue_event(0) {
            QueueEvent::Enqueued {
                at,
                entered_at,
                call,
                priority,
                rank_at,
                expires_at,
                target_at,
                short_until,
                enqueue,
                ..
            } => QueueEvent::Enqueued {
                at,
                entered_at,
                call,
                seq,
                priority,
                rank_at,
                expires_at,
                target_at,
                short_until,
                enqueue,
            },
            other => other,
        };
        first.get_or_insert(event.call());
        core.apply(&event);
    }
    let offer = OfferId { queue: id.clone(), epoch: Epoch(1), n: 1 };
    core.apply(&QueueEvent::Committed {
        at: draw.at(),
        offer,
        call: first.unwrap(),
        agent: draw.agent(),
        agent_epoch: Epoch(1),
        decision: Box::new(draw.decision()),
    });
    let [before, after] = through_a_snapshot(&shell, &core, new());
    assert_eq!(before, after);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_keeps_its_entity_down() {
    let (tenant, id): (TenantId, QueueId) = ("default".parse().unwrap(), "support".parse().unwrap());
    let address = EntityAddress::queue(&tenant, &id);
    let sender = sender(address.clone()).await;
    let shell = QueueShell::new(tenant.clone(), id, sender, Arc::new(Nobody), metrics(), runtime());
    let mut draw = draw(5);
    let event = draw.queue_event(6);
    let new = shell.encode(&event, now());
    let stored = StoredEvent {
        position: 1,
        shard: address.shard(),
        seq: 1,
        epoch: Epoch(1),
        entity: address,
        nth: 1,
        kind: new.kind,
        version: new.version,
        at: new.at,
        payload: new.payload,
        last: false,
    };
    assert_eq!(shell.decode(&stored).unwrap(), event);
    let damaged = StoredEvent { payload: vec![0xff; 9].into(), ..stored };
    assert!(shell.decode(&damaged).is_err());
}
