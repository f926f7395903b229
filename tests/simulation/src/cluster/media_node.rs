//! Media nodes, as far as calls need them: sessions that die with their node, events that are told until they are taken, a
//! store of recordings that outlives all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use trunkline_call_core::{
    EndpointInfo, Library, MediaBody, MediaCommand, MediaEvent, MediaFailure, MediaFailureKind, MediaOk,
    MediaReply, Program, RecordedObject, SessionInfo, Settings, TranscriptState, Treatment, flow::Flow,
};
use trunkline_types::{CallId, FlowId, LegId, NodeId, QueueId, RecordingId, ShardId, TenantId};

/// What calls look up: no flows, one treatment, and the media nodes that are members.
pub(super) struct Shelf {
    treatment: Arc<Treatment>,
    nodes: Mutex<BTreeMap<NodeId, Member>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    listed: bool,
    draining: bool,
}

impl Shelf {
    pub(super) fn new(nodes: &[NodeId]) -> (Arc<Settings>, Arc<Self>) {
        let member = Member { listed: true, draining: false };
        let nodes = nodes.iter().map(|id| (id.clone(), member)).collect();
        (Arc::default(), Arc::new(Self { treatment: Arc::default(), nodes: Mutex::new(nodes) }))
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Member>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is a member from now on, or none.
    pub(super) fn list(&self, node: &NodeId, listed: bool) {
        self.nodes().entry(node.clone()).or_default().listed = listed;
    }

    pub(super) fn is_listed(&self, node: &NodeId) -> bool {
        self.nodes().get(node).is_some_and(|member| member.listed)
    }

    /// It takes no new calls from now on, or takes them again.
    pub(super) fn drain(&self, node: &NodeId, draining: bool) {
        self.nodes().entry(node.clone()).or_default().draining = draining;
    }

    pub(super) fn drains(&self, node: &NodeId) -> bool {
        self.nodes().get(node).is_some_and(|member| member.draining)
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
    fn media_node(&self, call: CallId, _: &NodeId, avoid: &[NodeId]) -> Option<NodeId> {
        let nodes = self.nodes();
        let open = nodes.iter().filter(|(id, m)| m.listed && !m.draining && !avoid.contains(id));
        let open: Vec<&NodeId> = open.map(|(id, _)| id).collect();
        let spread = call.to_string().bytes().fold(0usize, |sum, b| sum.wrapping_mul(31) + usize::from(b));
        (!open.is_empty()).then(|| open[spread % open.len()].clone())
    }
    fn has_media_node(&self, node: &NodeId) -> bool {
        self.is_listed(node)
    }
}

/// Which node's SDP it is.
fn sdp_of(node: &NodeId) -> Bytes {
    Bytes::from(format!("v=0\r\n{node}\r\n"))
}

/// The node in an SDP.
pub(super) fn node_of(sdp: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(sdp).ok()?.lines().nth(1)?.parse().ok()
}

/// A media node.
pub(super) struct MediaNode {
    pub(super) id: NodeId,
    pub(super) up: bool,
    /// No other node reaches it.
    pub(super) cut: bool,
    pub(super) life: u64,
    pub(super) sessions: BTreeMap<usize, Session>,
    /// Events that were not taken: whose, and what.
    pub(super) kept: BTreeMap<u64, (usize, MediaEvent)>,
    /// What it has heard of shards.
    pub(super) guard: BTreeMap<ShardId, u64>,
}

impl MediaNode {
    pub(super) fn new(id: NodeId, life: u64) -> Self {
        Self {
            id,
            up: true,
            cut: false,
            life,
            sessions: BTreeMap::new(),
            kept: BTreeMap::new(),
            guard: BTreeMap::new(),
        }
    }

    pub(super) fn is_reached(&self) -> bool {
        self.up && !self.cut
    }

    /// Audio of this call's caller passes here.
    pub(super) fn has_caller(&self, call: usize) -> bool {
        let session = self.sessions.get(&call).filter(|_| self.up);
        session.is_some_and(|session| session.endpoints.iter().any(|leg| leg.index == 0))
    }

    /// It dies; what it had recorded is stored already.
    pub(super) fn die(&mut self) -> Vec<RecordingId> {
        self.up = false;
        self.kept.clear();
        self.guard.clear();
        std::mem::take(&mut self.sessions).into_values().filter_map(|session| session.recording).collect()
    }
}

/// A call's session on a media node.
#[derive(Debug, Default)]
pub(super) struct Session {
    endpoints: BTreeSet<LegId>,
    replies: BTreeMap<u64, MediaReply>,
    recording: Option<RecordingId>,
    transcript: Option<RecordingId>,
    /// The command that ended it last.
    closed: u64,
}

/// What came of a command.
#[derive(Default)]
pub(super) struct Executed {
    pub(super) reply: Option<MediaReply>,
    pub(super) events: Vec<MediaEvent>,
    pub(super) broken: Option<String>,
}

fn object(recording: RecordingId, salvaged: bool) -> RecordedObject {
    RecordedObject {
        recording,
        key: String::new(),
        duration_ms: 1,
        size_bytes: 1,
        sha256: String::new(),
        holds: Vec::new(),
        gaps: Vec::new(),
        salvaged,
    }
}

type Done = Result<MediaOk, MediaFailureKind>;

impl Session {
    /// Executes a command once; its reply, and what happens after it.
    pub(super) fn command(
        &mut self,
        node: &NodeId,
        call: CallId,
        stored: &BTreeSet<RecordingId>,
        command: MediaCommand,
    ) -> Executed {
        if let Some(reply) = self.replies.get(&command.id) {
            return Executed { reply: Some(reply.clone()), ..Executed::default() };
        }
        // The bus keeps the order of one sender to one node: nothing from before the end of a session comes after it.
        if command.id < self.closed {
            return Executed::default();
        }
        if command.body == MediaBody::CloseSession {
            self.closed = command.id;
        }
        let mut executed = Executed::default();
        let result = self.execute(node, call, stored, command.body, &mut executed);
        let result = result.map_err(|kind| MediaFailure { kind, message: String::new() });
        let reply = MediaReply { command: command.id, result };
        self.replies.insert(command.id, reply.clone());
        executed.reply = Some(reply);
        executed
    }

    fn execute(
        &mut self,
        node: &NodeId,
        call: CallId,
        stored: &BTreeSet<RecordingId>,
        body: MediaBody,
        executed: &mut Executed,
    ) -> Done {
        let with_sdp = || MediaOk { sdp: sdp_of(node), ..MediaOk::default() };
        match body {
            MediaBody::CreateRtp { leg, .. } => {
                self.endpoints.insert(leg);
                return Ok(with_sdp());
            }
            MediaBody::ListSessions => {
                return Ok(MediaOk { sessions: self.list(node, call), ..MediaOk::default() });
            }
            MediaBody::CloseSession => {
                self.endpoints.clear();
                self.stop(&mut executed.events);
            }
            MediaBody::Salvage { recording, .. } => executed.events.push(if stored.contains(&recording) {
                MediaEvent::RecordingFinished(Box::new(object(recording, true)))
            } else {
                MediaEvent::RecordingFailed { recording, reason: "nothing is stored".to_owned() }
            }),
            _ if self.endpoints.is_empty() => return Err(MediaFailureKind::UnknownSession),
            MediaBody::CreateWebRtc { leg, .. } | MediaBody::ReplaceWebRtc { leg, .. } => {
                // Who has the caller, and who is being consulted.
                let others: Vec<_> = self.endpoints.iter().filter(|o| o.index > 0 && **o != leg).collect();
                if others.len() > 1 {
                    executed.broken = Some(format!("{leg:?} of an agent is made beside {others:?}"));
                }
                self.endpoints.insert(leg);
                executed.events.push(MediaEvent::Connected { leg });
                return Ok(with_sdp());
            }
            MediaBody::CreateOffer { .. } | MediaBody::Renegotiate { .. } => return Ok(with_sdp()),
            MediaBody::CloseEndpoint { leg } => _ = self.endpoints.remove(&leg),
            MediaBody::SetProgram { leg, .. } if !self.endpoints.contains(&leg) => {
                return Err(MediaFailureKind::UnknownEndpoint);
            }
            MediaBody::SetProgram { leg, program: Program::Play(play) } => {
                executed.events.push(MediaEvent::PlaybackFinished { leg, token: play.token });
            }
            MediaBody::Bridge { a, b } if !self.endpoints.contains(&a) || !self.endpoints.contains(&b) => {
                return Err(MediaFailureKind::UnknownEndpoint);
            }
            MediaBody::StartRecording { recording, .. } => self.recording = Some(recording),
            MediaBody::StartTranscription { recording, .. } => self.transcript = Some(recording),
            MediaBody::StopRecording { .. } => self.stop_recording(&mut executed.events),
            MediaBody::StopTranscription { .. } => self.stop_transcript(&mut executed.events),
            _ => {}
        }
        Ok(MediaOk::default())
    }

    fn stop(&mut self, events: &mut Vec<MediaEvent>) {
        self.stop_recording(events);
        self.stop_transcript(events);
    }

    fn stop_recording(&mut self, events: &mut Vec<MediaEvent>) {
        if let Some(recording) = self.recording.take() {
            events.push(MediaEvent::RecordingFinished(Box::new(object(recording, false))));
        }
    }

    fn stop_transcript(&mut self, events: &mut Vec<MediaEvent>) {
        if let Some(recording) = self.transcript.take() {
            let (state, detail) = (TranscriptState::Finished, String::new());
            events.push(MediaEvent::TranscriptStatus { recording, state, detail });
        }
    }

    fn list(&self, node: &NodeId, call: CallId) -> Vec<SessionInfo> {
        if self.endpoints.is_empty() {
            return Vec::new();
        }
        let endpoints = self.endpoints.iter().map(|leg| EndpointInfo {
            leg: *leg,
            connected: true,
            codec: None,
            direction: None,
            local_sdp: sdp_of(node),
        });
        let (recording, transcribing) = (self.recording, self.transcript.is_some());
        vec![SessionInfo { call, endpoints: endpoints.collect(), recording, transcribing }]
    }
}
