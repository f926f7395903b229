//! The world around the cluster: phones, a media node, as far as calls need them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use trunkline_call_core::{
    Destination, EndpointInfo, Incoming, Input, Library, MediaBody, MediaCommand, MediaEvent, MediaOk,
    MediaReply, NewCall, Program, RecordedObject, Route, SessionInfo, Settings, TranscriptState, Treatment,
    flow::Flow,
};
use trunkline_sip::{Message, Method, Request, Response, parse_datagram};
use trunkline_types::{CallId, FlowId, LegId, NodeId, QueueId, RecordingId, TenantId};

/// What calls look up: no flows, one treatment, one media node.
pub(super) struct Shelf {
    treatment: Arc<Treatment>,
    media: NodeId,
}

pub(super) fn media_node() -> NodeId {
    "m1".parse().unwrap_or_else(|_| unreachable!("a valid name"))
}

impl Shelf {
    pub(super) fn new() -> (Arc<Settings>, Arc<Self>) {
        (Arc::default(), Arc::new(Self { treatment: Arc::default(), media: media_node() }))
    }
}

impl Library for Shelf {
    fn flow(&self, _: &TenantId, _: &FlowId) -> Option<Arc<Flow>> {
        None
    }
    fn flow_version(&self, _: &TenantId, _: &FlowId, _: u64) -> Option<Arc<Flow>> {
        None
    }
    fn treatment(&self, _: &TenantId, _: &QueueId) -> Arc<Treatment> {
        self.treatment.clone()
    }
    fn media_node(&self, _: CallId, _: &NodeId, avoid: &[NodeId]) -> Option<NodeId> {
        Some(self.media.clone()).filter(|node| !avoid.contains(node))
    }
}

/// A caller's phone, and the edge in front of it that gives requests again until they are answered.
#[derive(Debug)]
pub(super) struct Phone {
    pub(super) call: CallId,
    pub(super) queue: QueueId,
    tag: String,
    cseq: u32,
    heard: bool,
    pub(super) answered: bool,
    /// Its request that has no answer yet.
    bye: Option<u32>,
    /// It has hung up, or the other side has.
    pub(super) over: bool,
    pub(super) arrived: bool,
}

impl Phone {
    pub(super) fn new(call: CallId, queue: QueueId) -> Self {
        let tag = String::new();
        Self {
            call,
            queue,
            tag,
            cseq: 1,
            heard: false,
            answered: false,
            bye: None,
            over: false,
            arrived: false,
        }
    }

    /// Nothing left to say.
    pub(super) fn is_done(&self) -> bool {
        self.arrived && self.over && self.bye.is_none()
    }

    fn request(&self, method: &str, cseq: u32, body: &str) -> Option<Request> {
        let to = if self.tag.is_empty() { String::new() } else { format!(";tag={}", self.tag) };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} sip:support@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{method}{cseq}\r\n\
             From: <sip:ada@127.0.0.1>;tag=peer\r\nTo: <sip:support@127.0.0.1>{to}\r\nCall-ID: {}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:ada@127.0.0.1:5070>\r\nMax-Forwards: 70\r\n{kind}\
             Content-Length: {}\r\n\r\n{body}",
            self.call,
            body.len()
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => Some(request),
            _ => None,
        }
    }

    fn input(&self, method: &str, cseq: u32, body: &str, new_call: bool) -> Option<Input> {
        let request = self.request(method, cseq, body)?;
        let route = Route {
            edge: "e1".parse().ok()?,
            source: "127.0.0.1:5070".to_owned(),
            transport: "udp".to_owned(),
        };
        let new_call = new_call.then(|| {
            Box::new(NewCall {
                dialled: "support".to_owned(),
                destination: Destination::Queue(self.queue.clone()),
                caller_number: "+15550100".to_owned(),
                caller_name: String::new(),
                contact_uri: "sip:c.token@127.0.0.1:5060".to_owned(),
                trunk: String::new(),
            })
        });
        let transaction = if method == "ACK" { String::new() } else { format!("t{cseq}") };
        Some(Input::Request(Box::new(Incoming { transaction, request, route, new_call })))
    }

    /// The INVITE, while nothing has been heard; the BYE, while it has no answer.
    pub(super) fn again(&self) -> Option<Input> {
        match self.bye {
            Some(cseq) => self.input("BYE", cseq, "", false),
            None if self.arrived && !self.heard && !self.over => self.input("INVITE", 1, "v=0\r\n", true),
            None => None,
        }
    }

    /// The caller hangs up. Before the answer that is a CANCEL.
    pub(super) fn hang_up(&mut self) -> Option<Input> {
        if self.over || !self.arrived {
            return None;
        }
        if !self.answered {
            // Heard or not: the edge cancels what it has given to the call.
            self.over = self.heard;
            let (transaction, reason) = ("t1".to_owned(), String::new());
            return self.heard.then_some(Input::Cancelled { transaction, reason });
        }
        self.over = true;
        self.cseq += 1;
        self.bye = Some(self.cseq);
        self.again()
    }

    /// A response of the call; what the phone says to it.
    pub(super) fn hears(&mut self, response: &Response) -> Option<Input> {
        if let Some(tag) = response.headers.to_tag() {
            self.tag = tag;
        }
        self.heard = true;
        let cseq = response.headers.cseq().ok()?;
        if response.is_provisional() {
            return None;
        }
        if cseq.method == Method::Invite {
            if !response.is_success() {
                self.over = true;
                return None;
            }
            self.answered = true;
            return self.input("ACK", cseq.number, "", false);
        }
        if self.bye == Some(cseq.number) {
            self.bye = None;
        }
        None
    }

    /// A request of the call.
    pub(super) fn asked(&mut self, transaction: String, request: &Request) -> Input {
        if request.method == Method::Bye {
            self.over = true;
            // Ours is moot.
            self.bye = None;
        }
        let response = Box::new(Response::to(request, 200));
        Input::Response { client_transaction: transaction, response }
    }

    /// Nobody is at the other end any more, and it hears nothing: it gives up.
    pub(super) fn give_up(&mut self) {
        self.over = true;
        self.bye = None;
    }
}

/// A call's session on the media node.
#[derive(Debug, Default)]
pub(super) struct Session {
    endpoints: BTreeMap<LegId, ()>,
    replies: BTreeMap<u64, MediaReply>,
    recording: Option<RecordingId>,
    transcript: Option<RecordingId>,
}

fn object(recording: RecordingId) -> RecordedObject {
    RecordedObject {
        recording,
        key: String::new(),
        duration_ms: 1,
        size_bytes: 1,
        sha256: String::new(),
        holds: Vec::new(),
        gaps: Vec::new(),
        salvaged: false,
    }
}

impl Session {
    /// Executes a command once; its reply, and what happens after it.
    pub(super) fn command(&mut self, call: CallId, command: MediaCommand) -> (MediaReply, Vec<MediaEvent>) {
        if let Some(reply) = self.replies.get(&command.id) {
            return (reply.clone(), Vec::new());
        }
        let mut events = Vec::new();
        let mut ok = MediaOk::default();
        match command.body {
            MediaBody::CreateRtp { leg, .. } => {
                self.endpoints.insert(leg, ());
                ok.sdp = Bytes::from_static(b"v=0\r\nm1\r\n");
            }
            MediaBody::CreateWebRtc { leg, .. } | MediaBody::ReplaceWebRtc { leg, .. } => {
                self.endpoints.insert(leg, ());
                ok.sdp = Bytes::from_static(b"v=0\r\nm1\r\n");
                events.push(MediaEvent::Connected { leg });
            }
            MediaBody::CreateOffer { .. } | MediaBody::Renegotiate { .. } => {
                ok.sdp = Bytes::from_static(b"v=0\r\nm1\r\n");
            }
            MediaBody::CloseEndpoint { leg } => _ = self.endpoints.remove(&leg),
            MediaBody::CloseSession => {
                self.endpoints.clear();
                self.stop(&mut events);
            }
            MediaBody::SetProgram { leg, program: Program::Play(play) } => {
                events.push(MediaEvent::PlaybackFinished { leg, token: play.token });
            }
            MediaBody::StartRecording { recording, .. } => self.recording = Some(recording),
            MediaBody::StartTranscription { recording, .. } => self.transcript = Some(recording),
            MediaBody::StopRecording { .. } | MediaBody::StopTranscription { .. } => self.stop(&mut events),
            MediaBody::ListSessions => ok.sessions = self.list(call),
            _ => {}
        }
        let reply = MediaReply { command: command.id, result: Ok(ok) };
        self.replies.insert(command.id, reply.clone());
        (reply, events)
    }

    fn stop(&mut self, events: &mut Vec<MediaEvent>) {
        if let Some(recording) = self.recording.take() {
            events.push(MediaEvent::RecordingFinished(Box::new(object(recording))));
        }
        if let Some(recording) = self.transcript.take() {
            let (state, detail) = (TranscriptState::Finished, String::new());
            events.push(MediaEvent::TranscriptStatus { recording, state, detail });
        }
    }

    fn list(&self, call: CallId) -> Vec<SessionInfo> {
        if self.endpoints.is_empty() {
            return Vec::new();
        }
        let endpoints = self.endpoints.keys().map(|leg| EndpointInfo {
            leg: *leg,
            connected: true,
            codec: None,
            direction: None,
            local_sdp: Bytes::from_static(b"v=0\r\nm1\r\n"),
        });
        let (recording, transcribing) = (self.recording, self.transcript.is_some());
        vec![SessionInfo { call, endpoints: endpoints.collect(), recording, transcribing }]
    }
}
