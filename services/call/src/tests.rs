//! The role over a real bus and a real journal, with hand-made neighbours; and every event through its wire form.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use trunkline_actors::{ActorMetrics, Arbiters, now};
use trunkline_call_core::{
    Answer, Codec, Destination, DialogState, DigitsHow, EndedBy, Event, EventBody, FlowOutcome, HoldBy,
    LegKind, LegParty, Missing, MoveReason, Phase, Quality, QueueOutcome, RecordingFinished, Route, Settings,
    Span, Speaker, Started, TranscriptSegment, TranscriptState,
};
use trunkline_cluster::{EmbeddedPlacement, Incarnation};
use trunkline_journal::{Journal, SqliteJournal, SqliteOptions};
use trunkline_proto::{
    acd::v1 as acd,
    call::v1::{self as pb, call_message},
    common::v1::{self as common, Envelope, envelope::Payload},
    edge::v1 as edge,
    media::v1 as media,
};
use trunkline_rpc::{Bus, BusMetrics, Deliver, Refused, entity};
use trunkline_sip::{Dialog, Message, Request, Response, parse_datagram};
use trunkline_telemetry::Metrics;
use trunkline_types::{
    CallId, EntityAddress, EntityKind, LegId, NodeId, OfferId, RecordingId, ReleaseCause, ShardId, TenantId,
    Timestamp,
};

use crate::{CallMetrics, CallParts, Calls, FlowStore, convert};

fn sip(method: &str, cseq: u32, to_tag: &str, body: &str) -> Bytes {
    let tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    Bytes::from(format!(
        "{method} sip:support@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{method}{cseq}\r\n\
         From: <sip:ada@127.0.0.1>;tag=peer\r\nTo: <sip:support@127.0.0.1>{tag}\r\nCall-ID: abc@127.0.0.1\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:ada@127.0.0.1:5070>\r\nMax-Forwards: 70\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn request(bytes: &Bytes) -> Request {
    match parse_datagram(bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn call_id() -> CallId {
    CallId::mint(ShardId::new(7).unwrap(), now(), 5)
}

#[test]
fn every_event_reads_back_what_was_written() {
    let call = call_id();
    let (leg, recording) = (LegId { call, index: 1 }, RecordingId { call, index: 0 });
    let agent: trunkline_types::AgentId = "alice".parse().unwrap();
    let queue: trunkline_types::QueueId = "support".parse().unwrap();
    let offer = OfferId { queue: queue.clone(), epoch: trunkline_types::Epoch(3), n: 4 };
    let invite = request(&sip("INVITE", 1, "", "v=0\r\n"));
    let route =
        Route { edge: "e1".parse().unwrap(), source: "127.0.0.1:5070".into(), transport: "udp".into() };
    let response = Response::to(&invite, 200).with_to_tag("t").with_body("application/sdp", "v=0\r\n");
    let response = match parse_datagram(&response.to_bytes()) {
        Ok(Message::Response(response)) => response,
        other => panic!("{other:?}"),
    };
    let mut dialog = Dialog::from_request(&invite, "t").unwrap();
    dialog.route_set = vec!["sip:p;lr".into()];
    let span = Span { start_ms: 1, end_ms: 2, reason: "hold".into() };
    let cause = ReleaseCause::AgentHangup;
    let started = |destination| {
        EventBody::Started(Box::new(Started {
            caller_number: "+49".into(),
            caller_name: "Ada".into(),
            dialled: "support".into(),
            trunk: "t".into(),
            sip_call_id: "abc".into(),
            route: route.clone(),
            destination,
            transaction: "t1".into(),
            invite: invite.clone(),
            contact_uri: "sip:c".into(),
        }))
    };
    let step = |outcome| EventBody::FlowStep { node: "menu".into(), outcome };
    let answer = Answer { transaction: "t1".into(), cseq: 1, response, offered: true };
    let dialog_state =
        |answer| DialogState { dialog: dialog.clone(), route: route.clone(), session_s: Some(90), answer };
    let segment = TranscriptSegment {
        recording,
        speaker: Some(Speaker::Agent),
        start_ms: 1,
        end_ms: 2,
        text: "hello".into(),
        confidence: 0.5,
        gap: false,
    };
    let finished = RecordingFinished {
        recording,
        location: "default/x.wav".into(),
        duration_ms: 1,
        size_bytes: 2,
        sha256: "ab".into(),
        holds: vec![span.clone()],
        gaps: vec![span],
        salvaged: true,
    };
    let quality = Quality {
        packets_received: 1,
        packets_lost: 2,
        jitter_ms: 0.5,
        round_trip_ms: -1.0,
        mos: 4.25,
        packets_sent: 3,
        missing: None,
    };
    let bodies = [
        started(Destination::Queue(queue.clone())),
        started(Destination::Flow("menu".parse().unwrap())),
        EventBody::MediaSession { node: "m1".parse().unwrap() },
        EventBody::LegAdded { leg, kind: LegKind::Sip, party: LegParty::Caller },
        EventBody::LegAdded { leg, kind: LegKind::WebRtc, party: LegParty::Agent(agent.clone()) },
        EventBody::LegAnswered { leg, codec: Some(Codec::Pcma) },
        EventBody::LegAnswered { leg, codec: None },
        EventBody::LegReleased { leg, cause },
        EventBody::DialogChanged { leg, state: Box::new(dialog_state(Some(answer))) },
        EventBody::DialogChanged { leg, state: Box::new(dialog_state(None)) },
        EventBody::FlowEntered { flow: "menu".parse().unwrap(), version: 3 },
        step(FlowOutcome::Entered),
        step(FlowOutcome::Digits("1".into())),
        step(FlowOutcome::NoInput),
        step(FlowOutcome::Invalid),
        step(FlowOutcome::Set { name: "a".into(), value: "b=c".into() }),
        step(FlowOutcome::Error("x".into())),
        EventBody::DigitsReceived { leg, count: 3, how: DigitsHow::SipInfo },
        EventBody::QueueEntered {
            queue: queue.clone(),
            entry: 1,
            entered: Timestamp::from_millis(9),
            priority: -3,
        },
        EventBody::QueueExited { queue: queue.clone(), entry: 1, outcome: QueueOutcome::TimedOut },
        EventBody::AgentConnecting {
            offer: offer.clone(),
            agent: agent.clone(),
            leg,
            name: "Alice".into(),
            queue,
            recording: true,
            recording_required: true,
        },
        EventBody::AgentBridged { offer: offer.clone(), agent: agent.clone(), leg },
        EventBody::AgentReleased { offer: offer.clone(), agent: agent.clone(), leg: Some(leg), cause },
        EventBody::AgentReleased { offer, agent: agent.clone(), leg: None, cause },
        EventBody::HoldChanged { by: HoldBy::Agent, on_hold: true },
        EventBody::HoldChanged { by: HoldBy::Caller, on_hold: false },
        EventBody::MuteChanged { leg: None, muted: true },
        EventBody::MuteChanged { leg: Some(leg), muted: false },
        EventBody::RecordingStarted { recording, agent, required: true },
        EventBody::RecordingTrouble { recording, reason: "No space left on device".into(), over: true },
        EventBody::RecordingPaused { recording, paused: true },
        EventBody::RecordingFinished(Box::new(finished)),
        EventBody::RecordingFailed { recording, reason: "disk".into() },
        EventBody::TranscriptStatus { recording: None, status: TranscriptState::None, detail: "d".into() },
        EventBody::TranscriptStatus {
            recording: Some(recording),
            status: TranscriptState::Failed,
            detail: "d".into(),
        },
        EventBody::MediaMoved {
            from: "m1".parse().unwrap(),
            node: "m2".parse().unwrap(),
            reason: MoveReason::Lost,
        },
        EventBody::MediaMoved {
            from: "m1".parse().unwrap(),
            node: "m2".parse().unwrap(),
            reason: MoveReason::Drained,
        },
        EventBody::LegMoved { leg, codec: Some(Codec::Pcmu) },
        EventBody::TranscriptSegment(Box::new(segment.clone())),
        EventBody::TranscriptSegment(Box::new(TranscriptSegment { speaker: None, gap: true, ..segment })),
        EventBody::LegQuality { leg, quality },
        EventBody::LegQuality { leg, quality: Quality { missing: Some(Missing::Received), ..quality } },
        EventBody::LegQuality { leg, quality: Quality { missing: Some(Missing::Sent), ..quality } },
        EventBody::Ended { cause, by: EndedBy::Agent },
    ];
    for body in bodies {
        let event = Event { at: Timestamp::from_micros(1_795_000_000_000_001), body };
        let read = convert::decode(&Bytes::from(convert::encode(&event))).unwrap();
        assert_eq!(read, event);
        assert!(convert::kind(&event).starts_with("call."));
    }
}

#[test]
fn what_cannot_be_read_names_its_field() {
    let error = convert::decode(&Bytes::from_static(b"\x08\x01")).unwrap_err();
    assert_eq!(error.field, "call_event.event");
    let event = pb::QueueToCall { queue_id: "No!".into(), ..Default::default() };
    assert_eq!(convert::from_queue(event).unwrap_err().field, "queue_to_call.queue_id");
    let event = edge::EdgeEvent {
        edge: "e1".into(),
        event: Some(edge::edge_event::Event::Request(edge::IncomingRequest {
            message: Bytes::from_static(b"nonsense"),
            ..Default::default()
        })),
        ..Default::default()
    };
    assert_eq!(convert::from_edge(event).unwrap_err().field, "incoming_request.message");
}

/// Everything that calls say, by whom it was said to.
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
    calls: Calls,
    ears: BTreeMap<&'static str, Arc<Ears>>,
    arbiters: Arbiters,
}

impl Node {
    async fn start(journal: Arc<dyn Journal>, incarnation: u64) -> Self {
        let id: NodeId = "n1".parse().unwrap();
        let placement =
            EmbeddedPlacement::start(&*journal, id.clone(), Incarnation(incarnation)).await.unwrap();
        let metrics = Metrics::new();
        let bus = Bus::new(id.clone(), BusMetrics::default(), now);
        let ears: BTreeMap<&'static str, Arc<Ears>> =
            ["edge", "media", "queue", "agent"].into_iter().map(|name| (name, Arc::default())).collect();
        bus.attach_role(common::Role::Edge, ears["edge"].clone());
        bus.attach_role(common::Role::Media, ears["media"].clone());
        bus.attach_entities(EntityKind::Queue, ears["queue"].clone());
        bus.attach_entities(EntityKind::Agent, ears["agent"].clone());
        let arbiters = Arbiters::start(1).unwrap();
        let calls = Calls::start(&CallParts {
            bus: bus.clone(),
            arbiters: arbiters.clone(),
            journal,
            placement: Arc::new(placement),
            library: Arc::new(FlowStore::new()),
            media: Arc::new(id),
            settings: Settings::default(),
            max_calls: 10,
            actor_metrics: ActorMetrics::register(&metrics),
            metrics: metrics.room("call", CallMetrics::register),
        });
        Self { bus, calls, ears, arbiters }
    }

    fn tell(&self, call: CallId, message: call_message::Message) -> Result<(), Refused> {
        self.bus.send(Envelope {
            to: Some(entity(&EntityAddress::call(&tenant(), call))),
            payload: Some(Payload::Call(pb::CallMessage { message: Some(message) })),
            ..Envelope::default()
        })
    }

    fn tell_from_media(&self, call: CallId, message: call_message::Message) {
        let envelope = Envelope {
            to: Some(entity(&EntityAddress::call(&tenant(), call))),
            from: Some(self.bus.own(common::Role::Media)),
            payload: Some(Payload::Call(pb::CallMessage { message: Some(message) })),
            ..Envelope::default()
        };
        self.bus.send(envelope).unwrap();
    }

    fn request(&self, call: CallId, method: &str, cseq: u32, tag: &str, new: bool) {
        self.attempt(call, method, cseq, tag, new, 0);
    }

    fn request_again(&self, call: CallId, attempt: u32) {
        self.attempt(call, "INVITE", 1, "", true, attempt);
    }

    fn attempt(&self, call: CallId, method: &str, cseq: u32, tag: &str, new: bool, attempt: u32) {
        let new_call = new.then(|| edge::NewCall {
            tenant: "default".into(),
            dialled: "support".into(),
            destination: Some(edge::new_call::Destination::Queue("support".into())),
            caller_number: "+49".into(),
            contact_uri: "sip:c@127.0.0.1".into(),
            ..Default::default()
        });
        let request = edge::IncomingRequest {
            transaction: if method == "ACK" { String::new() } else { format!("t{cseq}") },
            message: sip(method, cseq, tag, if new { "v=0\r\n" } else { "" }),
            source: "127.0.0.1:5070".into(),
            transport: "udp".into(),
            new_call,
            attempt,
        };
        let event = edge::EdgeEvent {
            edge: "n1".into(),
            received_us: now().as_micros(),
            event: Some(edge::edge_event::Event::Request(request)),
        };
        self.tell(call, call_message::Message::Edge(event)).unwrap();
    }

    /// Waits until somebody was told what is looked for.
    async fn heard<T>(&self, who: &str, look: impl Fn(&Envelope) -> Option<T>) -> T {
        for _ in 0..5_000 {
            if let Some(found) = self.ears[who].0.lock().unwrap().iter().find_map(&look) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("not heard by {who}: {:#?}", self.ears[who].0.lock().unwrap());
    }

    fn edge_says(&self, call: CallId, event: edge::edge_event::Event) {
        let event = edge::EdgeEvent { edge: "n1".into(), received_us: 0, event: Some(event) };
        self.tell(call, call_message::Message::Edge(event)).unwrap();
    }

    async fn our_request(&self, method: &str) -> edge::SendRequest {
        self.heard("edge", |envelope| match &envelope.payload {
            Some(Payload::Edge(edge::EdgeCommand {
                command: Some(edge::edge_command::Command::Request(request)),
                ..
            })) if request.message.starts_with(method.as_bytes()) => Some(request.clone()),
            _ => None,
        })
        .await
    }

    /// Answers every media command until the call is gone.
    async fn settle_media(&self, call: CallId, journal: &SqliteJournal) {
        for _ in 0..5_000 {
            let commands: Vec<_> = self.ears["media"].0.lock().unwrap().drain(..).collect();
            for envelope in commands {
                if let Some(Payload::Media(command)) = envelope.payload {
                    let reply = media::MediaReply {
                        call_id: call.to_string(),
                        command_id: command.command_id,
                        result: Some(media::media_reply::Result::Ok(answer())),
                    };
                    let _ = self.tell(call, call_message::Message::MediaReply(reply));
                }
            }
            if journal.load_entity(&EntityAddress::call(&tenant(), call)).await.unwrap().finished {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn response(&self, status: u16) -> Response {
        self.heard("edge", |envelope| match &envelope.payload {
            Some(Payload::Edge(edge::EdgeCommand {
                command: Some(edge::edge_command::Command::Response(response)),
                ..
            })) => match parse_datagram(&response.message) {
                Ok(Message::Response(response)) => {
                    Some(response).filter(|response| response.status == status)
                }
                _ => None,
            },
            _ => None,
        })
        .await
    }

    /// Answers the media command that `pick` recognises.
    async fn media(
        &self,
        call: CallId,
        pick: impl Fn(&media::media_command::Command) -> bool,
        ok: media::MediaOk,
    ) {
        let command = self
            .heard("media", |envelope| match &envelope.payload {
                Some(Payload::Media(command)) if command.command.as_ref().is_some_and(&pick) => {
                    Some(command.clone())
                }
                _ => None,
            })
            .await;
        assert_eq!(command.shard, u32::from(call.shard().index()));
        assert!(command.epoch > 0);
        let reply = media::MediaReply {
            call_id: call.to_string(),
            command_id: command.command_id,
            result: Some(media::media_reply::Result::Ok(ok)),
        };
        self.tell(call, call_message::Message::MediaReply(reply)).unwrap();
    }
}

fn tenant() -> TenantId {
    "default".parse().unwrap()
}

fn answer() -> media::MediaOk {
    media::MediaOk {
        sdp: Bytes::from_static(b"v=0\r\n"),
        codec: media::Codec::Pcmu.into(),
        ..Default::default()
    }
}

fn entry_of(envelope: &Envelope) -> Option<acd::queue_message::Message> {
    match &envelope.payload {
        Some(Payload::Queue(message)) => message.message.clone(),
        _ => None,
    }
}

/// A 200 to our INVITE, up to its body.
fn answered(invite: &str) -> String {
    let kept = ["From:", "To:", "Call-ID:", "CSeq:"];
    let headers: Vec<&str> =
        invite.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).collect();
    format!(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKx\r\n{}\r\n\
         Contact: <sip:ada@127.0.0.1:5070>\r\nContent-Type: application/sdp\r\nContent-Length: 5",
        headers.join("\r\n")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_owner_of_a_queue_or_agent_is_not_heard() {
    let journal = Arc::new(SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap());
    let call = call_id();
    let node = Node::start(journal.clone(), 1).await;
    node.request(call, "INVITE", 1, "", true);
    node.response(180).await;
    let queue = EntityAddress::queue(&tenant(), &"support".parse().unwrap());
    let say = |epoch: u64| {
        let ask = pb::QueueToCall {
            queue_id: "support".into(),
            entry: 0,
            event: Some(pb::queue_to_call::Event::Ask(true)),
        };
        node.bus.send(Envelope {
            to: Some(entity(&EntityAddress::call(&tenant(), call))),
            from: Some(entity(&queue)),
            from_shard: Some(queue.shard().index().into()),
            from_epoch: epoch,
            payload: Some(Payload::Call(pb::CallMessage {
                message: Some(call_message::Message::Queue(ask)),
            })),
            ..Envelope::default()
        })
    };
    assert_eq!(say(7), Ok(()));
    assert_eq!(say(7), Ok(()));
    assert_eq!(say(6), Err(Refused::Unroutable));
    assert_eq!(say(0), Err(Refused::Unroutable), "one that holds nothing any more");
    assert_eq!(say(8), Ok(()));
    node.calls.shutdown(Duration::from_secs(5)).await;
    node.arbiters.shutdown().await.unwrap();
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_the_bus_survives_a_restart_of_its_owner_and_the_loss_of_its_media() {
    use media::media_command::Command;
    let journal = Arc::new(SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap());
    let call = call_id();
    let node = Node::start(journal.clone(), 1).await;
    node.request(call, "INVITE", 1, "", true);
    let tag = node.response(180).await.headers.to_tag().unwrap();
    node.media(call, |command| matches!(command, Command::CreateRtp(_)), answer()).await;
    assert_eq!(&node.response(200).await.body[..], b"v=0\r\n");
    node.request(call, "ACK", 1, &tag, false);
    let enqueue = node.heard("queue", entry_of).await;
    assert!(matches!(enqueue, acd::queue_message::Message::Enqueue(e)
        if e.call_id == call.to_string() && e.entered_us == 0));
    node.media(call, |command| matches!(command, Command::SetProgram(_)), answer()).await;
    assert_eq!(node.calls.phase(&tenant(), call).await, Some(Phase::Queued));
    assert_eq!(node.calls.on_media(&"n1".parse().unwrap()), 1);
    assert!(node.calls.shutdown(Duration::from_secs(5)).await);
    // Ended actors are dropped by their threads.
    node.arbiters.shutdown().await.unwrap();
    assert_eq!(node.calls.on_media(&"n1".parse().unwrap()), 0);

    let node = Node::start(journal.clone(), 2).await;
    assert_eq!(node.calls.recover(&[call.shard()]).await.unwrap(), 1);
    node.media(call, |command| matches!(command, Command::ListSessions(_)), media::MediaOk::default()).await;
    // The media are gone: a new offer, which continues the old session, goes to the caller.
    let offers = |command: &Command| matches!(command, Command::CreateRtp(e) if e.sdp.is_empty() && &e.former_sdp[..] == b"v=0\r\n");
    node.media(call, offers, media::MediaOk { sdp: Bytes::from_static(b"v=1\r\n"), ..answer() }).await;
    node.media(call, |command| matches!(command, Command::SetProgram(_)), answer()).await;
    let invite = node.our_request("INVITE").await;
    let text = String::from_utf8(invite.message.to_vec()).unwrap();
    assert!(text.starts_with("INVITE sip:ada@127.0.0.1:5070 SIP/2.0\r\n"), "{text}");
    assert!(text.contains("CSeq: 101 INVITE") && text.ends_with("\r\n\r\nv=1\r\n"), "{text}");
    let ok = format!("{}\r\n\r\nv=2\r\n", answered(&text));
    node.edge_says(
        call,
        edge::edge_event::Event::Response(edge::IncomingResponse {
            client_transaction: invite.client_transaction.clone(),
            message: ok.into(),
        }),
    );
    let ack = node
        .heard("edge", |envelope| match &envelope.payload {
            Some(Payload::Edge(edge::EdgeCommand {
                command: Some(edge::edge_command::Command::Ack(ack)),
                ..
            })) => Some(ack.clone()),
            _ => None,
        })
        .await;
    assert_eq!(ack.client_transaction, invite.client_transaction);
    let theirs = |command: &Command| matches!(command, Command::SetRemote(e) if &e.sdp[..] == b"v=2\r\n");
    node.media(call, theirs, answer()).await;
    for _ in 0..5_000 {
        let history = journal.load_entity(&EntityAddress::call(&tenant(), call)).await.unwrap();
        if history.events.iter().any(|event| event.kind == "call.leg_moved") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(node.calls.phase(&tenant(), call).await, Some(Phase::Queued), "with the place it had");

    // The caller hangs up; what is owed is settled.
    node.request(call, "BYE", 2, &tag, false);
    let leave = node
        .heard("queue", |envelope| match entry_of(envelope)? {
            acd::queue_message::Message::Leave(leave) => Some(leave),
            _ => None,
        })
        .await;
    assert_eq!(leave.cause(), acd::LeaveCause::Abandoned);
    let left = pb::QueueToCall {
        queue_id: "support".into(),
        entry: 0,
        event: Some(pb::queue_to_call::Event::Left(true)),
    };
    node.tell(call, call_message::Message::Queue(left)).unwrap();
    node.settle_media(call, &journal).await;
    let history = journal.load_entity(&EntityAddress::call(&tenant(), call)).await.unwrap();
    assert!(history.finished, "{:?}", history.events.iter().map(|event| &event.kind).collect::<Vec<_>>());

    // Whoever still speaks to the call gets an answer, a media node the word that it need not tell again.
    let event = media::MediaEvent {
        call_id: call.to_string(),
        event_id: 77,
        acknowledge: true,
        event: Some(media::media_event::Event::RecordingStarted(media::RecordingStarted::default())),
        ..Default::default()
    };
    node.tell_from_media(call, call_message::Message::MediaEvent(event));
    node.heard("media", |envelope| match &envelope.payload {
        Some(Payload::Media(media::MediaCommand {
            command: Some(Command::AcknowledgeEvents(e)), ..
        })) => (e.event_ids == [77]).then_some(()),
        _ => None,
    })
    .await;
    // The INVITE once more: the edge makes another call of it.
    node.request_again(call, 3);
    node.response(481).await;
    node.ears["edge"].0.lock().unwrap().clear();
    node.request(call, "OPTIONS", 9, &tag, false);
    node.response(481).await;
    let connect = pb::AgentToCall {
        agent_id: "alice".into(),
        offer_id: "support:1:1".into(),
        event: Some(pb::agent_to_call::Event::AskAlive(true)),
    };
    node.tell(call, call_message::Message::Agent(connect)).unwrap();
    let ended = node
        .heard("agent", |envelope| match &envelope.payload {
            Some(Payload::Agent(acd::AgentMessage {
                message: Some(acd::agent_message::Message::Call(message)),
            })) => message.event.clone(),
            _ => None,
        })
        .await;
    assert!(matches!(ended, acd::call_to_agent::Event::Ended(e) if e.connected_us == 0));
    node.calls.shutdown(Duration::from_secs(5)).await;
    node.arbiters.shutdown().await.unwrap();
    journal.close().await;
}
