//! A call on the bench: inputs in, effects out, the journal kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use trunkline_sip::{Message, Method, Request, Response, parse_datagram};
use trunkline_types::{
    AgentId, CallId, Feature, FlowId, LegId, Machine, NodeId, OfferId, Outbox, Output, QueueId, ShardId,
    TenantId, Timestamp,
};

use crate::{
    AgentNotice, AgentRequest, Call, Codec, Control, Destination, Direction, EdgeCommand, Effect, Event,
    EventBody, Incoming, Input, Library, MediaBody, MediaCommand, MediaEvent, MediaFailure, MediaFailureKind,
    MediaOk, MediaReply, NewCall, Play, Program, QueueRequest, QueueSignal, Route, Settings, Treatment,
    flow::Flow,
};

pub(super) const MENU: &str = include_str!("../../../flows/menu.yaml");
pub(super) const ANSWER: &str = "v=0\r\nanswer\r\n";

/// Flows by id, one treatment for all queues, media nodes that can be taken away.
pub(super) struct Shelf {
    pub flows: HashMap<FlowId, Arc<Flow>>,
    pub treatment: Arc<Treatment>,
    pub nodes: Mutex<Vec<NodeId>>,
    /// No members any more.
    pub gone: Mutex<Vec<NodeId>>,
    /// Every node can read what this version writes.
    pub upgraded: bool,
}

impl Library for Shelf {
    fn flow(&self, _: &TenantId, id: &FlowId) -> Option<Arc<Flow>> {
        self.flows.get(id).cloned()
    }
    fn flow_version(&self, _: &TenantId, id: &FlowId, version: u64) -> Option<Arc<Flow>> {
        self.flows.get(id).filter(|flow| flow.version() == version).cloned()
    }
    fn treatment(&self, _: &TenantId, _: &QueueId) -> Arc<Treatment> {
        self.treatment.clone()
    }
    fn media_node(&self, _: CallId, _: &NodeId, avoid: &[NodeId]) -> Option<NodeId> {
        self.nodes.lock().unwrap().iter().find(|node| !avoid.contains(node)).cloned()
    }
    fn has_media_node(&self, node: &NodeId) -> bool {
        !self.gone.lock().unwrap().contains(node)
    }
    fn may_write(&self, _: Feature) -> bool {
        self.upgraded
    }
}

pub(super) fn shelf(flows: &[&str]) -> Arc<Shelf> {
    let flows = flows.iter().map(|text| Arc::new(Flow::parse(text, 1).unwrap()));
    Arc::new(Shelf {
        flows: flows.map(|flow| (flow.id().clone(), flow)).collect(),
        treatment: Arc::default(),
        nodes: Mutex::new(["m1", "m2", "m3"].map(media_node).to_vec()),
        gone: Mutex::default(),
        upgraded: true,
    })
}

pub(super) fn call_id() -> CallId {
    CallId::mint(ShardId::new(7).unwrap(), Timestamp::from_millis(1_795_000_000_000), 99)
}

pub(super) struct Bed {
    pub call: Call,
    pub library: Arc<Shelf>,
    pub now: Timestamp,
    pub events: Vec<Event>,
    /// Every effect ever, and how many of them were looked at.
    pub effects: Vec<Effect>,
    seen: usize,
    cseq: u32,
    event_id: u64,
    /// The To tag of our answers.
    pub tag: String,
}

impl Bed {
    pub fn new(library: Arc<Shelf>) -> Self {
        let tenant: TenantId = "default".parse().unwrap();
        Self {
            call: Call::new(call_id(), tenant, Arc::new(Settings::default()), library.clone()),
            library,
            now: Timestamp::from_millis(1_795_000_000_500),
            events: Vec::new(),
            effects: Vec::new(),
            seen: 0,
            cseq: 1,
            event_id: 0,
            tag: String::new(),
        }
    }

    /// A call to the queue `support` that has been answered, acknowledged and has its place.
    pub fn waiting() -> Self {
        Self::waiting_with(shelf(&[]))
    }

    pub fn waiting_with(library: Arc<Shelf>) -> Self {
        let mut bed = Self::new(library);
        bed.invite_to(Destination::Queue(queue()), "v=0\r\n");
        bed.media_ok();
        bed.ack();
        bed.queue(0, QueueSignal::Queued { position: 0 });
        bed.settle_media();
        bed.drain();
        bed
    }

    /// A call that talks with alice, recorded.
    pub fn talking() -> Self {
        let mut bed = Self::waiting();
        bed.connect(1);
        bed.talks()
    }

    /// The same, and it must not go on without being recorded.
    pub fn talking_on_record(library: Arc<Shelf>) -> Self {
        let mut bed = Self::waiting_with(library);
        bed.connect_with(1, true);
        bed.talks()
    }

    fn talks(self) -> Self {
        let mut bed = self;
        bed.settle_media();
        bed.media_event(MediaEvent::Connected { leg: leg(1) });
        bed.queue(0, QueueSignal::Acknowledged(offer(1)));
        bed.drain();
        bed
    }

    pub fn step(&mut self, input: Input) {
        let mut out = Outbox::new();
        self.call.advance(self.now, &mut out);
        self.call.handle(self.now, input, &mut out);
        self.keep(out);
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while let Some(at) = self.call.next_deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            let mut out = Outbox::new();
            self.call.advance(self.now, &mut out);
            self.keep(out);
        }
        self.now = until;
    }

    fn keep(&mut self, mut out: Outbox<Event, Effect>) {
        for item in out.drain() {
            match item {
                Output::Event(event) => self.events.push(event),
                Output::Effect(effect) => self.effects.push(effect),
            }
        }
    }

    /// Another owner: rebuilt from the journal, then told to take over.
    pub fn crash(&mut self, down: Duration) {
        let tenant: TenantId = "default".parse().unwrap();
        let mut call = Call::new(call_id(), tenant, Arc::new(Settings::default()), self.library.clone());
        for event in &self.events {
            call.apply(event);
        }
        assert_eq!(call.phase(), self.call.phase(), "a replay leads to the same phase");
        assert_eq!(call.finished(), self.call.finished());
        self.call = call;
        self.now = self.now.plus(down);
        self.drain();
        let mut out = Outbox::new();
        self.call.recovered(self.now, &mut out);
        self.keep(out);
    }

    /// The effects since the last look.
    pub fn drain(&mut self) -> Vec<Effect> {
        let new = self.effects[self.seen..].to_vec();
        self.seen = self.effects.len();
        new
    }

    pub fn fresh(&self) -> &[Effect] {
        &self.effects[self.seen..]
    }

    // ------------------------------------------------------------------------------------------------ SIP

    pub fn request(&mut self, method: &str, cseq: u32, extra: &str, body: &str) -> Request {
        let to_tag = if self.tag.is_empty() { String::new() } else { format!(";tag={}", self.tag) };
        let text = format!(
            "{method} sip:support@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{method}{cseq}\r\n\
             From: \"Ada\" <sip:+493012345@127.0.0.1>;tag=peer\r\nTo: <sip:support@127.0.0.1>{to_tag}\r\n\
             Call-ID: abc@127.0.0.1\r\nCSeq: {cseq} {method}\r\nContact: <sip:ada@127.0.0.1:5070>\r\n\
             Max-Forwards: 70\r\n{extra}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    pub fn invite_with(&mut self, destination: Destination, extra: &str, sdp: &str) {
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let request = self.request("INVITE", 1, &format!("{extra}{kind}"), sdp);
        let new_call = NewCall {
            dialled: "support".into(),
            destination,
            caller_number: "+493012345".into(),
            caller_name: "Ada".into(),
            contact_uri: "sip:c.token@127.0.0.1:5060".into(),
            trunk: String::new(),
        };
        let incoming = Incoming {
            transaction: "t1".into(),
            request,
            route: route(),
            new_call: Some(Box::new(new_call)),
        };
        self.step(Input::Request(Box::new(incoming)));
        if let Some(response) = self.responses().first() {
            self.tag = response.headers.to_tag().unwrap_or_default();
        }
    }

    pub fn invite_to(&mut self, destination: Destination, sdp: &str) {
        self.invite_with(destination, "", sdp);
    }

    /// An in-dialog request with the next CSeq; its transaction is `t{cseq}`.
    pub fn send(&mut self, method: &str, extra: &str, body: &str) {
        self.cseq += 1;
        self.send_as(method, self.cseq, extra, body);
    }

    pub fn send_as(&mut self, method: &str, cseq: u32, extra: &str, body: &str) {
        let request = self.request(method, cseq, extra, body);
        let transaction = if method == "ACK" { String::new() } else { format!("t{cseq}") };
        let incoming = Incoming { transaction, request, route: route(), new_call: None };
        self.step(Input::Request(Box::new(incoming)));
    }

    pub fn ack(&mut self) {
        self.send_as("ACK", 1, "", "");
    }

    pub fn cancel(&mut self, transaction: &str) {
        self.step(Input::Cancelled { transaction: transaction.into(), reason: String::new() });
    }

    /// Responses among the fresh effects.
    pub fn responses(&self) -> Vec<Response> {
        responses(self.fresh())
    }

    pub fn statuses(&self) -> Vec<u16> {
        self.responses().iter().map(|response| response.status).collect()
    }

    /// Our requests among the fresh effects, with their transactions.
    pub fn requests(&self) -> Vec<(String, Request)> {
        self.fresh()
            .iter()
            .filter_map(|effect| match effect {
                Effect::Edge { command: EdgeCommand::Request { client_transaction, request }, .. } => {
                    Some((client_transaction.clone(), (**request).clone()))
                }
                _ => None,
            })
            .collect()
    }

    /// Answers our request with 200.
    pub fn ok_to(&mut self, transaction: &str, request: &Request, status: u16) {
        let response = Box::new(Response::to(request, status));
        self.step(Input::Response { client_transaction: transaction.into(), response });
    }

    /// Answers our BYE.
    pub fn answer_bye(&mut self) {
        let (transaction, bye) =
            self.requests().into_iter().find(|(_, request)| request.method == Method::Bye).expect("a BYE");
        self.ok_to(&transaction, &bye, 200);
    }

    // ------------------------------------------------------------------------------------------------ media

    /// The last command that was sent.
    pub fn command(&self) -> MediaCommand {
        self.effects
            .iter()
            .rev()
            .find_map(|effect| match effect {
                Effect::Media { command, .. } => Some(command.clone()),
                _ => None,
            })
            .expect("a media command")
    }

    pub fn reply(&mut self, result: Result<MediaOk, MediaFailureKind>) {
        let result = result.map_err(|kind| MediaFailure { kind, message: format!("{kind:?}") });
        let command = self.command().id;
        self.step(Input::MediaReply(Box::new(MediaReply { command, result })));
    }

    pub fn media_ok(&mut self) {
        self.reply(Ok(ok(Direction::SendRecv)));
    }

    /// Answers every command that comes up, and returns them in order.
    pub fn settle_media(&mut self) -> Vec<MediaBody> {
        let mut done = Vec::new();
        let mut last = 0;
        while let Some(command) =
            self.effects.iter().rev().find_map(media_of).filter(|command| command.id != last)
        {
            last = command.id;
            done.push(command.body);
            self.media_ok();
        }
        done
    }

    pub fn media_event(&mut self, event: MediaEvent) {
        let node = self.call.media_node().cloned();
        self.media_event_of(node, event);
    }

    /// Something happened on this node.
    pub fn media_event_of(&mut self, node: Option<NodeId>, event: MediaEvent) {
        self.event_id += 1;
        let id = self.event_id;
        self.step(Input::MediaEvent { node, id, acknowledge: true, event: Box::new(event) });
    }

    /// Only these media nodes are there.
    pub fn only(&self, names: &[&str]) {
        *self.library.nodes.lock().unwrap() = names.iter().copied().map(media_node).collect();
    }

    /// A node is no member any more, and nobody says so.
    pub fn vanish(&self, node: &str) {
        self.library.nodes.lock().unwrap().retain(|known| known.as_str() != node);
        self.library.gone.lock().unwrap().push(media_node(node));
    }

    /// A node is no member any more.
    pub fn lose(&mut self, node: &str) {
        self.vanish(node);
        self.step(Input::MediaNodeLost(media_node(node)));
    }

    /// Media commands among the fresh effects, with their nodes.
    pub fn commands(&self) -> Vec<(String, MediaBody)> {
        let of = |effect: &Effect| match effect {
            Effect::Media { node, command } => Some((node.to_string(), command.body.clone())),
            _ => None,
        };
        self.fresh().iter().filter_map(of).collect()
    }

    pub fn key(&mut self, digit: char) {
        self.media_event(MediaEvent::Digit { leg: leg(0), digit });
    }

    /// The prompts that the caller hears now, and their token.
    pub fn playing(&mut self) -> Option<Play> {
        while self.call.media.backlog() > 0 {
            self.media_ok();
        }
        self.effects.iter().rev().filter_map(media_of).find_map(|command| match command.body {
            MediaBody::SetProgram { program: Program::Play(play), leg } if leg.index == 0 => {
                Some(Some(*play))
            }
            MediaBody::SetProgram { leg, .. } if leg.index == 0 => Some(None),
            _ => None,
        })?
    }

    /// The prompts end.
    pub fn played(&mut self) {
        self.settle_media();
        let token = self.playing().expect("prompts").token;
        self.media_event(MediaEvent::PlaybackFinished { leg: leg(0), token });
    }

    // ------------------------------------------------------------------------------------------------ queue, agent

    pub fn queue(&mut self, entry: u32, signal: QueueSignal) {
        self.step(Input::Queue { queue: queue(), entry, signal });
    }

    /// The queue to which callers are passed on says something.
    pub fn sales(&mut self, entry: u32, signal: QueueSignal) {
        self.step(Input::Queue { queue: sales(), entry, signal });
    }

    /// Bob, an agent of it, says something under his offer.
    pub fn bob(&mut self, request: AgentRequest) {
        self.step(Input::Agent { agent: bob(), offer: bobs_offer(), request });
    }

    pub fn bob_connects(&mut self) {
        self.bob(AgentRequest::Connect {
            session: "s9".into(),
            sdp_offer: "v=0\r\nbob\r\n".into(),
            agent_name: "Bob".into(),
            queue: sales(),
            recording: true,
            recording_required: false,
        });
    }

    /// What this agent was told since the last look.
    pub fn told(&self, agent: &AgentId) -> Vec<AgentNotice> {
        let of = |effect: &Effect| match effect {
            Effect::Agent { agent: to, notice, .. } if to == agent => Some(notice.clone()),
            _ => None,
        };
        self.fresh().iter().filter_map(of).collect()
    }

    pub fn queue_requests(&self) -> Vec<QueueRequest> {
        self.fresh()
            .iter()
            .filter_map(|effect| match effect {
                Effect::Queue { request, .. } => Some(request.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn agent(&mut self, n: u64, request: AgentRequest) {
        self.step(Input::Agent { agent: alice(), offer: offer(n), request });
    }

    pub fn connect(&mut self, n: u64) {
        self.connect_with(n, false);
    }

    pub fn connect_with(&mut self, n: u64, recording_required: bool) {
        let connect = AgentRequest::Connect {
            session: "s1".into(),
            sdp_offer: "v=0\r\nbrowser\r\n".into(),
            agent_name: "Alice".into(),
            queue: queue(),
            recording: true,
            recording_required,
        };
        self.agent(n, connect);
    }

    pub fn control(&mut self, command: &str, control: Control) {
        self.agent(1, AgentRequest::Control { session: "s1".into(), command: command.into(), control });
    }

    pub fn notices(&self) -> Vec<AgentNotice> {
        self.fresh()
            .iter()
            .filter_map(|effect| match effect {
                Effect::Agent { notice, .. } => Some(notice.clone()),
                _ => None,
            })
            .collect()
    }

    // ------------------------------------------------------------------------------------------------ journal

    pub fn kinds(&self) -> Vec<String> {
        self.events.iter().map(|event| kind(&event.body)).collect()
    }

    pub fn has(&self, wanted: impl Fn(&EventBody) -> bool) -> bool {
        self.events.iter().any(|event| wanted(&event.body))
    }
}

pub(super) fn kind(body: &EventBody) -> String {
    format!("{body:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
}

pub(super) fn media_of(effect: &Effect) -> Option<MediaCommand> {
    match effect {
        Effect::Media { command, .. } => Some(command.clone()),
        _ => None,
    }
}

pub(super) fn responses(effects: &[Effect]) -> Vec<Response> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Edge { command: EdgeCommand::Respond { response, .. }, .. } => Some((**response).clone()),
            _ => None,
        })
        .collect()
}

pub(super) fn ok(direction: Direction) -> MediaOk {
    MediaOk {
        sdp: Bytes::from_static(ANSWER.as_bytes()),
        codec: Some(Codec::Pcmu),
        direction: Some(direction),
        ..MediaOk::default()
    }
}

pub(super) fn route() -> Route {
    Route { edge: "e1".parse().unwrap(), source: "127.0.0.1:5070".into(), transport: "udp".into() }
}

pub(super) fn media_node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(super) fn queue() -> QueueId {
    "support".parse().unwrap()
}

pub(super) fn sales() -> QueueId {
    "sales".parse().unwrap()
}

pub(super) fn bob() -> AgentId {
    "bob".parse().unwrap()
}

pub(super) fn bobs_offer() -> OfferId {
    OfferId { queue: sales(), epoch: trunkline_types::Epoch(1), n: 1 }
}

pub(super) fn alice() -> AgentId {
    "alice".parse().unwrap()
}

pub(super) fn offer(n: u64) -> OfferId {
    OfferId { queue: queue(), epoch: trunkline_types::Epoch(1), n }
}

pub(super) fn leg(index: u16) -> LegId {
    LegId { call: call_id(), index }
}
