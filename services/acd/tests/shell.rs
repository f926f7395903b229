//! Queues and agents over the bus, with calls and consoles that the tests play.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use trunkline_acd::{Acd, AcdMetrics, AcdParts, Directory, SessionTimes};
use trunkline_acd_core::{AgentConfig, QueueConfig};
use trunkline_actors::{ActorMetrics, Arbiters, now};
use trunkline_cluster::{EmbeddedPlacement, Incarnation, Placement};
use trunkline_journal::{Journal, SqliteJournal, SqliteOptions};
use trunkline_proto::{
    acd::v1::{self as acd, agent_command::Command, call_to_agent, queue_message},
    call::v1::{AgentToCall, QueueToCall, agent_to_call, call_message, queue_to_call},
    common::v1::{Envelope, Role, envelope::Payload},
    console::v1::{AgentSnapshot, console_message::Message as ToConsole},
};
use trunkline_rpc::{Bus, BusMetrics, Deliver, Refused, entity};
use trunkline_telemetry::Metrics;
use trunkline_types::{AgentId, CallId, EntityAddress, EntityKind, NodeId, QueueId, ShardId, TenantId};

const SOON: Duration = Duration::from_secs(20);

fn tenant() -> TenantId {
    "default".parse().unwrap()
}

fn alice() -> EntityAddress {
    EntityAddress::agent(&tenant(), &"alice".parse().unwrap())
}

fn queue(name: &str) -> EntityAddress {
    EntityAddress::queue(&tenant(), &name.parse().unwrap())
}

struct Office;

impl Directory for Office {
    fn has_queue(&self, _: &TenantId, queue: &QueueId) -> bool {
        queue.as_str() == "support"
    }

    fn has_agent(&self, _: &TenantId, agent: &AgentId) -> bool {
        agent.as_str() == "alice"
    }

    fn queue(&self, _: &TenantId, queue: &QueueId) -> Option<QueueConfig> {
        (queue.as_str() == "support")
            .then(|| QueueConfig { display_name: "Support".into(), ..QueueConfig::default() })
    }

    fn agent(&self, _: &TenantId, agent: &AgentId) -> Option<AgentConfig> {
        (agent.as_str() == "alice").then(|| AgentConfig {
            display_name: "Alice".into(),
            queues: ["support".parse().unwrap()].into(),
            ..AgentConfig::default()
        })
    }

    fn agents_of(&self, _: &TenantId, _: &QueueId) -> Vec<AgentId> {
        vec!["alice".parse().unwrap()]
    }

    fn queue_names(&self, _: &TenantId, _: &AgentId) -> Vec<String> {
        vec!["Support".into()]
    }
}

#[derive(Default)]
struct Ears(Mutex<Vec<Envelope>>);

impl Deliver for Ears {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        self.0.lock().unwrap().push(envelope);
        Ok(())
    }
}

struct Node {
    bus: Bus,
    acd: Acd,
    calls: Arc<Ears>,
    console: Arc<Ears>,
    arbiters: Arbiters,
    placement: Arc<EmbeddedPlacement>,
    metrics: Metrics,
    journal: Arc<SqliteJournal>,
    commands: Mutex<BTreeMap<String, u32>>,
}

async fn journal() -> Arc<SqliteJournal> {
    Arc::new(SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap())
}

impl Node {
    async fn start(journal: Arc<SqliteJournal>, incarnation: u64, times: SessionTimes) -> Self {
        let id: NodeId = "n1".parse().unwrap();
        let placement = Arc::new(
            EmbeddedPlacement::start(&*journal, id.clone(), Incarnation(incarnation)).await.unwrap(),
        );
        let (metrics, bus) = (Metrics::new(), Bus::new(id, BusMetrics::default(), now));
        let (calls, console) = (Arc::new(Ears::default()), Arc::new(Ears::default()));
        bus.attach_entities(EntityKind::Call, calls.clone());
        bus.attach_role(Role::Console, console.clone());
        let arbiters = Arbiters::start(1).unwrap();
        let parts = AcdParts {
            bus: bus.clone(),
            arbiters: arbiters.clone(),
            journal: journal.clone(),
            placement: placement.clone(),
            directory: Arc::new(Office),
            actor_metrics: ActorMetrics::register(&metrics),
            metrics: metrics.room("acd", AcdMetrics::register),
        };
        let acd = Acd::start_with(&parts, times);
        acd.recover(&placement.held_shards()).await.unwrap();
        Self { bus, acd, calls, console, arbiters, placement, metrics, journal, commands: Mutex::default() }
    }

    async fn stop(self) {
        self.acd.shutdown(Duration::from_secs(5)).await;
        drop(self.arbiters);
    }

    fn tell(&self, to: &EntityAddress, payload: Payload) -> Result<(), Refused> {
        self.bus.send(Envelope { to: Some(entity(to)), payload: Some(payload), ..Envelope::default() })
    }

    /// A command of a session; its id.
    fn command(&self, session: &str, command: Command) -> String {
        let id = {
            let mut commands = self.commands.lock().unwrap();
            let n = commands.entry(session.to_owned()).or_default();
            *n += 1;
            format!("{session}-{n}")
        };
        let command = acd::AgentCommand {
            session: session.into(),
            console: "n1".into(),
            id: id.clone(),
            command: Some(command),
            console_incarnation: 0,
        };
        let message = acd::AgentMessage { message: Some(acd::agent_message::Message::Command(command)) };
        self.tell(&alice(), Payload::Agent(message)).unwrap();
        id
    }

    fn to_queue(&self, name: &str, message: queue_message::Message) -> Result<(), Refused> {
        self.tell(&queue(name), Payload::Queue(acd::QueueMessage { message: Some(message) }))
    }

    fn call_says(&self, call: CallId, offer: &str, event: call_to_agent::Event) {
        let message =
            acd::CallToAgent { call_id: call.to_string(), offer_id: offer.into(), event: Some(event) };
        let message = acd::AgentMessage { message: Some(acd::agent_message::Message::Call(message)) };
        self.tell(&alice(), Payload::Agent(message)).unwrap();
    }

    async fn heard<T>(&self, ears: &Ears, what: &str, look: impl Fn(&Envelope) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) = ears.0.lock().unwrap().iter().rev().find_map(&look) {
                return found;
            }
            assert!(Instant::now() < deadline, "not heard: {what}: {:#?}", ears.0.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The newest snapshot, once it is as wanted.
    async fn snapshot(&self, what: &str, holds: impl Fn(&AgentSnapshot) -> bool) -> AgentSnapshot {
        let deadline = Instant::now() + SOON;
        loop {
            let newest =
                self.console.0.lock().unwrap().iter().rev().find_map(|envelope| match to_console(envelope) {
                    Some((_, ToConsole::Snapshot(snapshot))) => Some(snapshot),
                    _ => None,
                });
            match newest {
                Some(snapshot) if holds(&snapshot) => return snapshot,
                newest => assert!(Instant::now() < deadline, "{what}: {newest:#?}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn result(&self, id: &str) -> String {
        self.heard(&self.console, "a result", |envelope| match to_console(envelope) {
            Some((_, ToConsole::Result(result))) if result.id == id => Some(result.error),
            _ => None,
        })
        .await
    }

    async fn call_heard<T>(&self, what: &str, look: impl Fn(&AgentToCall) -> Option<T>) -> T {
        self.heard(&self.calls, what, |envelope| match &envelope.payload {
            Some(Payload::Call(message)) => match message.message.as_ref()? {
                call_message::Message::Agent(message) => look(message),
                _ => None,
            },
            _ => None,
        })
        .await
    }

    async fn queue_said<T>(&self, what: &str, look: impl Fn(&QueueToCall) -> Option<T>) -> T {
        self.heard(&self.calls, what, |envelope| match &envelope.payload {
            Some(Payload::Call(message)) => match message.message.as_ref()? {
                call_message::Message::Queue(message) => look(message),
                _ => None,
            },
            _ => None,
        })
        .await
    }

    /// A call that waits.
    fn enqueue(&self, name: &str) -> (CallId, Result<(), Refused>) {
        let call = CallId::mint(ShardId::new(7).unwrap(), now(), 5);
        let card = acd::CallCard { caller_number: "+4930".into(), ..Default::default() };
        let enqueue = acd::Enqueue {
            call_id: call.to_string(),
            entered_us: now().as_micros(),
            card: Some(card),
            entry: 1,
            ..Default::default()
        };
        (call, self.to_queue(name, queue_message::Message::Enqueue(enqueue)))
    }

    /// Up to the conversation, with session `one` at the microphone: call and offer.
    async fn talk(&self) -> (CallId, String) {
        self.command("one", Command::Attach(acd::Attach::default()));
        self.snapshot("attached", |s| s.sessions == ["one"]).await;
        self.command("one", Command::SetReady(acd::SetReady {}));
        let (call, sent) = self.enqueue("support");
        sent.unwrap();
        let ringing = self.snapshot("it rings", |s| s.state == "ringing").await;
        let offer = ringing.call.as_ref().unwrap().offer_id.clone();
        let card = ringing.call.unwrap().card.unwrap();
        assert_eq!((ringing.queues, card.caller_number.as_str()), (vec!["Support".into()], "+4930"));
        let accept = acd::Accept { offer_id: offer.clone(), sdp_offer: "v=0 offer".into() };
        let accepted = self.command("one", Command::Accept(accept));
        let connect = self
            .call_heard("Connect", |message| match &message.event {
                Some(agent_to_call::Event::Connect(connect)) => Some(connect.clone()),
                _ => None,
            })
            .await;
        assert_eq!((connect.sdp_offer.as_str(), connect.agent_name.as_str()), ("v=0 offer", "Alice"));
        let connected = acd::AgentConnected {
            session: "one".into(),
            sdp_answer: "v=0 answer".into(),
            at_us: now().as_micros(),
            ..Default::default()
        };
        self.call_says(call, &offer, call_to_agent::Event::Connected(connected));
        let sdp = self
            .heard(&self.console, "the SDP answer", |envelope| match to_console(envelope) {
                Some((session, ToConsole::SdpAnswer(answer))) if answer.id == accepted => {
                    Some((session, answer.sdp))
                }
                _ => None,
            })
            .await;
        assert_eq!(sdp, ("one".into(), "v=0 answer".into()));
        self.snapshot("talking", |s| s.state == "talking" && s.microphone == "one").await;
        (call, offer)
    }
}

fn to_console(envelope: &Envelope) -> Option<(String, ToConsole)> {
    match &envelope.payload {
        Some(Payload::Console(message)) => Some((message.session.clone(), message.message.clone()?)),
        _ => None,
    }
}

fn keepalive() -> Command {
    Command::Keepalive(acd::Keepalive {})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_configured_is_refused() {
    let node = Node::start(journal().await, 1, SessionTimes::default()).await;
    let (call, sent) = node.enqueue("nowhere");
    assert_eq!(sent, Ok(()), "the call is told; it is no fault of the bus");
    let refused = node
        .queue_said("a refusal", |message| match &message.event {
            Some(queue_to_call::Event::Refused(why)) => {
                Some((message.queue_id.clone(), message.entry, why.clone()))
            }
            _ => None,
        })
        .await;
    assert_eq!(refused, ("nowhere".into(), 1, "unknown_queue".into()));
    let answered = acd::CallAnswered { call_id: call.to_string(), ..Default::default() };
    assert_eq!(node.to_queue("nowhere", queue_message::Message::Answered(answered)), Ok(()));

    let mallory = EntityAddress::agent(&tenant(), &"mallory".parse().unwrap());
    let attach = acd::AgentCommand {
        session: "s".into(),
        command: Some(Command::Attach(acd::Attach::default())),
        ..Default::default()
    };
    let message = acd::AgentMessage { message: Some(acd::agent_message::Message::Command(attach)) };
    assert_eq!(node.tell(&mallory, Payload::Agent(message)), Err(Refused::Unroutable));
    // Neither is what is for somebody else.
    assert_eq!(node.tell(&alice(), Payload::Queue(acd::QueueMessage::default())), Err(Refused::Unroutable));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_dropped_or_answered_with_the_field() {
    let node = Node::start(journal().await, 1, SessionTimes::default()).await;
    node.command("one", Command::Attach(acd::Attach::default()));
    let bad = node
        .command("one", Command::Accept(acd::Accept { offer_id: "nonsense".into(), ..Default::default() }));
    assert_eq!(node.result(&bad).await, "invalid");
    let empty = node.command("one", Command::Control(acd::CallControl::default()));
    assert_eq!(node.result(&empty).await, "invalid");
    let unknown = node.command("two", Command::SetReady(acd::SetReady {}));
    assert_eq!(node.result(&unknown).await, "not_attached");
    node.command(&"x".repeat(129), Command::Attach(acd::Attach::default()));
    node.command("", Command::Attach(acd::Attach::default()));
    node.to_queue("support", queue_message::Message::Leave(acd::Leave::default())).unwrap();
    node.tell(&queue("support"), Payload::Queue(acd::QueueMessage::default())).unwrap();
    node.tell(&alice(), Payload::Agent(acd::AgentMessage::default())).unwrap();
    // And the next good one is served.
    let ready = node.command("one", Command::SetReady(acd::SetReady {}));
    assert_eq!(node.result(&ready).await, "");
    let snapshot = node.snapshot("ready", |s| s.state == "ready").await;
    assert_eq!(snapshot.sessions, ["one"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_sign_of_life_is_detached_and_a_late_keepalive_attaches_it_again() {
    let times = SessionTimes { life: Duration::from_millis(400), sweep: Duration::from_millis(20) };
    let node = Node::start(journal().await, 1, times).await;
    for session in ["one", "two"] {
        node.command(session, Command::Attach(acd::Attach::default()));
    }
    node.snapshot("both", |s| s.sessions == ["one", "two"]).await;
    let deadline = Instant::now() + SOON;
    loop {
        node.command("two", keepalive());
        let newest = node.snapshot("any", |_| true).await;
        if newest.sessions == ["two"] {
            break;
        }
        assert!(Instant::now() < deadline, "one is detached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.command("one", keepalive());
    node.snapshot("it came back", |s| s.sessions.contains(&"one".to_owned())).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_conversation_with_its_notes_and_its_page_outlives_its_node() {
    let journal = journal().await;
    let node = Node::start(journal.clone(), 1, SessionTimes::default()).await;
    let (call, offer) = node.talk().await;
    let notes = acd::SaveNotes { call_id: call.to_string(), notes: "wants a refund".into() };
    let saved = node.command("one", Command::SaveNotes(notes));
    assert_eq!(node.result(&saved).await, "");
    node.stop().await;

    let node = Node::start(journal, 2, SessionTimes::default()).await;
    assert!(node.placement.held(alice().shard()).is_some());
    // It asks the call whether it is still there.
    node.call_heard("a question", |m| {
        matches!(m.event, Some(agent_to_call::Event::AskAlive(_))).then_some(())
    })
    .await;
    // The page is known here: its next command is done, and nobody had to attach first.
    let next = node.command("one", Command::SetNext(acd::SetNext { ready: true, reason: String::new() }));
    assert_eq!(node.result(&next).await, "");
    let back = node.snapshot("the desk is back", |s| s.sessions == ["one"]).await;
    let shown = back.call.unwrap();
    assert_eq!((back.state.as_str(), shown.offer_id.as_str()), ("talking", offer.as_str()));
    assert_eq!((shown.notes.as_str(), shown.call_id), ("wants a refund", call.to_string()));

    // The notes are kept when the wrap-up is finished without any, with disposition and tags beside them.
    let ended = acd::AgentCallEnded {
        cause: "caller_hangup".into(),
        at_us: now().as_micros(),
        connected_us: now().as_micros(),
    };
    node.call_says(call, &offer, call_to_agent::Event::Ended(ended));
    node.snapshot("wrap-up", |s| s.state == "wrap_up" && s.reason == "caller_hangup").await;
    let finish =
        acd::FinishWrapUp { disposition: "solved".into(), tags: vec!["vip".into()], notes: String::new() };
    let finished = node.command("one", Command::FinishWrapUp(finish));
    assert_eq!(node.result(&finished).await, "");
    let kept = node.acd_notes().await;
    assert_eq!(kept, (Some("solved".into()), vec!["vip".to_owned()], "wants a refund".to_owned()));
    node.stop().await;
}

impl Node {
    /// The notes with which the last wrap-up ended, from the journal.
    async fn acd_notes(&self) -> (Option<String>, Vec<String>, String) {
        self.snapshot("done", |s| s.state == "ready").await;
        let history = self.journal_of_alice().await;
        history
            .iter()
            .rev()
            .find_map(|event| match prost::Message::decode(&*event.payload) {
                Ok(acd::AgentEvent { event: Some(acd::agent_event::Event::WrapUpEnded(ended)), .. }) => {
                    let notes = ended.notes.unwrap_or_default();
                    Some((notes.disposition, notes.tags, notes.text))
                }
                _ => None,
            })
            .unwrap()
    }

    async fn journal_of_alice(&self) -> Vec<trunkline_journal::StoredEvent> {
        self.journal.load_entity(&alice()).await.unwrap().events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_page_takes_the_microphone_over_and_the_first_is_told() {
    let node = Node::start(journal().await, 1, SessionTimes::default()).await;
    let (call, offer) = node.talk().await;
    node.command("two", Command::Attach(acd::Attach::default()));
    node.snapshot("both", |s| s.sessions == ["one", "two"]).await;
    let polite = acd::ResumeMedia { sdp_offer: "v=0 two".into(), take_over: false };
    let refused = node.command("two", Command::ResumeMedia(polite));
    assert_eq!(node.result(&refused).await, "microphone_taken");
    let firm = acd::ResumeMedia { sdp_offer: "v=0 two".into(), take_over: true };
    node.command("two", Command::ResumeMedia(firm));
    let remake = node
        .call_heard("RemakeMedia", |message| match &message.event {
            Some(agent_to_call::Event::RemakeMedia(remake)) => Some(remake.clone()),
            _ => None,
        })
        .await;
    assert_eq!((remake.session.as_str(), remake.sdp_offer.as_str()), ("two", "v=0 two"));
    let remade = acd::MediaRemade {
        session: "two".into(),
        request: remake.request,
        sdp_answer: "v=0 answer".into(),
        error: String::new(),
    };
    node.call_says(call, &offer, call_to_agent::Event::MediaRemade(remade));
    let lost = node
        .heard(&node.console, "the loss", |envelope| match to_console(envelope) {
            Some((session, ToConsole::MicrophoneLostTo(to))) => Some((session, to)),
            _ => None,
        })
        .await;
    assert_eq!(lost, ("one".into(), "two".into()));
    node.snapshot("two has it", |s| s.microphone == "two").await;
    // What only the call knows is shown too, and an older word of it does not count.
    let state = |at_us: i64, recording: bool| {
        let state = acd::AgentCallState { recording, at_us, ..Default::default() };
        call_to_agent::Event::State(state)
    };
    let at = now().as_micros();
    node.call_says(call, &offer, state(at + 1_000, true));
    node.snapshot("recording", |s| s.call.as_ref().is_some_and(|c| c.recording)).await;
    node.call_says(call, &offer, state(at, false));
    let asked = node.command("two", Command::SetNext(acd::SetNext { ready: false, reason: "lunch".into() }));
    assert_eq!(node.result(&asked).await, "");
    let shown = node.snapshot("the next status", |s| s.next.is_some()).await;
    assert!(shown.call.unwrap().recording);
    node.stop().await;
}

/// A session at a console node, with the page's count of its connections.
fn at(console: &str, session: &str, id: &str, command: Command) -> Payload {
    let command = acd::AgentCommand {
        session: session.into(),
        console: console.into(),
        id: id.into(),
        command: Some(command),
        console_incarnation: 0,
    };
    Payload::Agent(acd::AgentMessage { message: Some(acd::agent_message::Message::Command(command)) })
}

fn attach(connection: u64) -> Command {
    Command::Attach(acd::Attach { connection })
}

/// What a paused owner says after its successor has spoken does nothing, and is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_former_owner_says_late_is_refused_and_counted() {
    let node = Node::start(journal().await, 1, SessionTimes::default()).await;
    let enqueue = |call: CallId, epoch: u64| {
        let enqueue = acd::Enqueue { call_id: call.to_string(), ..Default::default() };
        let message = acd::QueueMessage { message: Some(queue_message::Message::Enqueue(enqueue)) };
        Envelope {
            to: Some(entity(&queue("support"))),
            from: Some(entity(&EntityAddress::call(&tenant(), call))),
            from_shard: Some(7),
            from_epoch: epoch,
            payload: Some(Payload::Queue(message)),
            ..Envelope::default()
        }
    };
    let call = |n| CallId::mint(ShardId::new(7).unwrap(), now(), n);
    let (new, old, newer) = (call(1), call(2), call(3));
    for (call, epoch) in [(new, 5), (old, 4), (old, 0), (newer, 5)] {
        node.bus.send(enqueue(call, epoch)).unwrap();
    }
    let queued = |envelope: &Envelope| match &envelope.to.as_ref()?.target {
        Some(trunkline_proto::common::v1::address::Target::Entity(to)) => Some(to.id.clone()),
        _ => None,
    };
    let last = newer.to_string();
    node.heard(&node.calls, "the answer to the last one", |e| queued(e).filter(|id| *id == last)).await;
    let heard: Vec<_> = node.calls.0.lock().unwrap().iter().filter_map(queued).collect();
    assert!(heard.contains(&new.to_string()) && !heard.contains(&old.to_string()), "{heard:?}");
    let text = node.metrics.encode();
    assert!(text.contains("trunkline_acd_epochs_refused_total{receiver=\"queue\"} 2"), "{text}");
    node.stop().await;
}

/// When a console node vanishes its sessions are detached, be it told or noticed by the members; a page that has come to
/// another console stays, and the old console is told who has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sessions_of_a_vanished_console_are_detached() {
    let times = SessionTimes { life: Duration::from_secs(60), sweep: Duration::from_millis(50) };
    let node = Node::start(journal().await, 1, times).await;
    node.tell(&alice(), at("n1", "here", "", attach(1))).unwrap();
    node.snapshot("here", |s| s.sessions == ["here"]).await;
    // `n2` is no member.
    node.tell(&alice(), at("n2", "there", "", attach(1))).unwrap();
    node.snapshot("there", |s| s.sessions.len() == 2).await;
    node.snapshot("there no more", |s| s.sessions == ["here"]).await;

    node.tell(&alice(), at("n1", "here", "", attach(3))).unwrap();
    node.tell(&alice(), at("n2", "here", "late", Command::SetReady(acd::SetReady {}))).unwrap();
    node.tell(&alice(), at("n1", "here", "early", Command::SetReady(acd::SetReady {}))).unwrap();
    let ready = node.snapshot("ready", |s| s.state == "ready").await;
    assert!(ready.epoch > 0 && ready.version > 0);
    node.acd.console_lost(&"n1".parse().unwrap());
    // It is a member, in a life that it did not tell: signs of life decide.
    assert_eq!(node.result("early").await, "");
    node.stop().await;
}

/// A call that moved to another media node reaches the page that has the microphone, each time it says so, and the state
/// tells it to those who come later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_media_reach_the_page() {
    let node = Node::start(journal().await, 1, SessionTimes::default()).await;
    let (call, offer) = node.talk().await;
    let moved = || call_to_agent::Event::MediaMoved(acd::AgentMediaMoved { generation: 2 });
    node.call_says(call, "support:1:999", moved());
    node.call_says(call, &offer, moved());
    let told = node
        .heard(&node.console, "the move", |envelope| match to_console(envelope) {
            Some((session, ToConsole::MediaMoved(moved))) => Some((session, moved)),
            _ => None,
        })
        .await;
    assert_eq!((told.0.as_str(), told.1.offer_id.as_str(), told.1.generation), ("one", &*offer, 2));
    let state = acd::AgentCallState { at_us: now().as_micros(), media_generation: 3, ..Default::default() };
    node.call_says(call, &offer, call_to_agent::Event::State(state));
    node.snapshot("the third place", |s| s.call.as_ref().is_some_and(|c| c.media_generation == 3)).await;
    node.stop().await;
}
