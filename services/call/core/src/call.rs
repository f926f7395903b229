//! The machine: what it holds, how inputs reach the part that they concern, and which timer is next.

use std::{collections::BTreeMap, sync::Arc};

use trunkline_types::{
    AgentId, CallId, LegId, Machine, NodeId, OfferId, Outbox, QueueId, RecordingId, ReleaseCause, TenantId,
    Timestamp,
};

use crate::{
    agent::{AgentPart, Decided},
    debt::Debt,
    effect::{AgentNotice, Card, EdgeCommand, Effect, QueueRequest},
    event::{EndedBy, Event, EventBody},
    flow::FlowRun,
    input::{Destination, Input, Route},
    leg::CallerLeg,
    media::{MediaLink, Play},
    moving::Moving,
    queueing::{Past, Stay},
    recording::Recording,
    settings::{Library, Settings},
    transfer::Pending,
};

/// One call, end to end. See the crate's documentation.
pub struct Call {
    pub(crate) id: CallId,
    pub(crate) tenant: TenantId,
    pub(crate) settings: Arc<Settings>,
    pub(crate) library: Arc<dyn Library>,
    // Durable: changed in `apply` only.
    pub(crate) origin: Option<Box<Origin>>,
    pub(crate) caller: Option<Box<CallerLeg>>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) flow: Option<Box<FlowRun>>,
    pub(crate) stay: Option<Stay>,
    /// Stays that are over; as many as there may be entries at most.
    pub(crate) past: Vec<Past>,
    /// When the caller began to wait for the first time.
    pub(crate) waiting_since: Option<Timestamp>,
    /// The agent who has the caller, or is being connected to the caller.
    pub(crate) agent: Option<Box<AgentPart>>,
    /// The agent whom that one consults.
    pub(crate) consulted: Option<Box<AgentPart>>,
    pub(crate) decided: Vec<Decided>,
    pub(crate) recordings: Vec<Recording>,
    pub(crate) debts: Vec<Debt>,
    pub(crate) ended: Option<End>,
    /// Everything is settled: the caller's leg has been released.
    pub(crate) closed: bool,
    pub(crate) next_leg: u16,
    pub(crate) next_recording: u16,
    pub(crate) next_entry: u32,
    /// How often it went to another media node.
    pub(crate) moves: u32,
    /// The node it left last.
    pub(crate) left_node: Option<NodeId>,
    /// The nodes it has left.
    pub(crate) visited: Vec<NodeId>,
    // Volatile.
    pub(crate) media: MediaLink,
    pub(crate) moving: Moving,
    /// What the caller hears, or will when the leg has followed in a move, and somebody waits for its end.
    pub(crate) playing: Option<Play>,
    /// A last message is played.
    pub(crate) farewell: Option<Farewell>,
    /// A blind transfer waits for its place.
    pub(crate) transferring: Option<Pending>,
    /// Why the last consultation came to nothing; empty = it did not.
    pub(crate) consult_error: &'static str,
    /// The media node has been asked what is left, after a recovery.
    pub(crate) recovering: bool,
    /// The INVITE could not even begin a call.
    pub(crate) rejected: bool,
    /// Legs whose final measurement is expected, and until when.
    pub(crate) unmeasured: Vec<LegId>,
    pub(crate) measured_by: Option<Timestamp>,
}

/// Where a call comes from and goes to.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub caller_number: String,
    pub caller_name: String,
    pub dialled: String,
    pub destination: Destination,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub at: Timestamp,
    pub cause: ReleaseCause,
    pub by: EndedBy,
}

/// The last message before a release.
#[derive(Clone, Debug)]
pub(crate) struct Farewell {
    pub token: String,
    pub until: Timestamp,
    pub cause: ReleaseCause,
    pub by: EndedBy,
}

/// Roughly where a call is, for live views and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing has come yet.
    New,
    /// The offer is with the media node.
    SettingUp,
    /// In a flow, or hearing a last message.
    Flow,
    /// Waiting in a queue.
    Queued,
    /// An agent picked up, audio is being set up.
    Connecting,
    /// Caller and agent talk.
    Talking,
    /// Over; what is owed is being settled.
    Ended,
}

/// `now` and the outbox of one step.
pub(crate) struct Cx<'a> {
    pub now: Timestamp,
    pub out: &'a mut Outbox<Event, Effect>,
}

/// Everything that waits for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Media,
    Side(usize),
    MediaSearch,
    Former,
    Reoffer,
    Landing,
    AgentMoved(LegId),
    AgentComfort(LegId),
    AnswerRepeat(usize),
    Bye,
    Info,
    Session,
    Silence,
    Enqueue,
    Announce,
    Debt(usize),
    Flow,
    Farewell,
    AgentAudio(LegId),
    RecordingPause,
    Unrecorded,
    Recording(usize),
    Measurements,
}

impl Call {
    /// A call to which nothing has happened.
    pub fn new(id: CallId, tenant: TenantId, settings: Arc<Settings>, library: Arc<dyn Library>) -> Self {
        Self {
            media: MediaLink::new(id),
            id,
            tenant,
            settings,
            library,
            origin: None,
            caller: None,
            attributes: BTreeMap::new(),
            flow: None,
            stay: None,
            past: Vec::new(),
            waiting_since: None,
            agent: None,
            consulted: None,
            decided: Vec::new(),
            recordings: Vec::new(),
            debts: Vec::new(),
            ended: None,
            closed: false,
            next_leg: 0,
            next_recording: 0,
            next_entry: 0,
            moves: 0,
            left_node: None,
            visited: Vec::new(),
            moving: Moving::default(),
            playing: None,
            farewell: None,
            transferring: None,
            consult_error: "",
            recovering: false,
            rejected: false,
            unmeasured: Vec::new(),
            measured_by: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> CallId {
        self.id
    }

    /// The media node that anchors it.
    pub fn media_node(&self) -> Option<&NodeId> {
        self.media.node.as_ref()
    }

    /// The agent who talks or is being connected.
    pub fn agent(&self) -> Option<&AgentId> {
        self.agent.as_deref().map(|part| &part.agent)
    }

    /// The queue in which it waits.
    pub fn queue(&self) -> Option<&QueueId> {
        self.stay.as_ref().map(|stay| &stay.queue)
    }

    /// Why it ended.
    pub fn cause(&self) -> Option<ReleaseCause> {
        self.ended.map(|end| end.cause)
    }

    /// Roughly where it is.
    pub fn phase(&self) -> Phase {
        match (&self.ended, &self.caller, &self.agent) {
            (Some(_), ..) => Phase::Ended,
            (None, None, _) => Phase::New,
            (None, Some(leg), _) if !leg.answered => Phase::SettingUp,
            (None, Some(_), Some(part)) if part.bridged.is_some() => Phase::Talking,
            (None, Some(_), Some(_)) => Phase::Connecting,
            (None, Some(_), None) if self.stay.is_some() => Phase::Queued,
            (None, Some(_), None) => Phase::Flow,
        }
    }

    /// Nothing is left to do and nothing more is expected: the actor may go.
    pub fn finished(&self) -> bool {
        self.rejected || self.closed
    }

    /// Nothing is owed and nothing is expected any more.
    fn settled(&self) -> bool {
        self.ended.is_some()
            && self.caller.as_deref().is_none_or(CallerLeg::quiet)
            && self.debts.is_empty()
            && self.media.closed()
            && self.recordings.is_empty()
            && (self.unmeasured.is_empty() || self.measured_by.is_none())
    }

    /// The release of the caller's leg is the last event of every call: it says that the call will not act again.
    fn close_when_settled(&mut self, cx: &mut Cx<'_>) {
        if let Some(end) = self.ended.filter(|_| !self.closed && self.settled()) {
            let leg = self.caller_leg();
            self.emit(cx, EventBody::LegReleased { leg, cause: end.cause });
        }
    }

    pub(crate) fn emit(&mut self, cx: &mut Cx<'_>, body: EventBody) {
        let event = Event { at: cx.now, body };
        self.apply_event(&event);
        cx.out.event(event);
    }

    pub(crate) fn edge(&self, cx: &mut Cx<'_>, route: &Route, command: EdgeCommand) {
        cx.out.effect(Effect::Edge { route: route.clone(), command });
    }

    pub(crate) fn tell_queue(&self, cx: &mut Cx<'_>, queue: &QueueId, request: QueueRequest) {
        cx.out.effect(Effect::Queue { queue: queue.clone(), request });
    }

    pub(crate) fn tell_agent(&self, cx: &mut Cx<'_>, agent: &AgentId, offer: &OfferId, notice: AgentNotice) {
        cx.out.effect(Effect::Agent { agent: agent.clone(), offer: offer.clone(), notice });
    }

    pub(crate) fn card(&self) -> Card {
        let origin = self.origin.as_deref();
        Card {
            caller_number: origin.map(|o| o.caller_number.clone()).unwrap_or_default(),
            caller_name: origin.map(|o| o.caller_name.clone()).unwrap_or_default(),
            dialled: origin.map(|o| o.dialled.clone()).unwrap_or_default(),
            attributes: self.attributes.clone(),
            consulted_by: String::new(),
        }
    }

    pub(crate) fn caller_leg(&self) -> LegId {
        LegId { call: self.id, index: 0 }
    }

    pub(crate) fn new_leg(&self) -> LegId {
        LegId { call: self.id, index: self.next_leg }
    }

    pub(crate) fn new_recording(&self) -> RecordingId {
        RecordingId { call: self.id, index: self.next_recording }
    }

    /// Shows each armed timer to `visit`.
    fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        if self.finished() {
            return;
        }
        self.media.timers(visit);
        self.side_timers(visit);
        self.sip_timers(visit);
        for (n, debt) in self.debts.iter().enumerate() {
            visit(debt.next, Timer::Debt(n));
        }
        for (n, recording) in self.recordings.iter().enumerate() {
            if let Some(deadline) = recording.deadline {
                visit(deadline, Timer::Recording(n));
            }
            if let Some(until) = recording.paused_until {
                visit(until, Timer::RecordingPause);
            }
        }
        if let Some(unrecorded) = self.agent.as_deref().and_then(|part| part.unrecorded) {
            visit(unrecorded.look.min(unrecorded.until), Timer::Unrecorded);
        }
        if let Some(by) = self.measured_by {
            visit(by, Timer::Measurements);
        }
        if self.recovering || self.ended.is_some() {
            return;
        }
        self.moving.timers(visit);
        if let Some(farewell) = &self.farewell {
            visit(farewell.until, Timer::Farewell);
        }
        if let Some(until) = self.flow.as_deref().and_then(FlowRun::deadline) {
            visit(until, Timer::Flow);
        }
        self.parts().for_each(|part| part.timers(visit));
        if let Some(stay) = self.stay.as_ref().filter(|_| self.connecting().is_none()) {
            visit(stay.send_at, Timer::Enqueue);
            if let Some(at) = stay.announce_at.filter(|_| self.agent.is_none()) {
                visit(at, Timer::Announce);
            }
        }
    }

    fn next_timer(&self) -> Option<(Timestamp, Timer)> {
        let mut first: Option<(Timestamp, Timer)> = None;
        self.timers(&mut |at, timer| {
            if first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, timer));
            }
        });
        first
    }

    fn fire(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match timer {
            Timer::Media => self.media_timer(cx),
            Timer::Side(n) => self.side_timer(cx, n),
            Timer::MediaSearch => self.find_node(cx),
            Timer::Former => self.close_planned(cx),
            Timer::Reoffer => self.reoffer_timer(cx),
            Timer::Landing => self.not_landed(cx),
            Timer::AgentMoved(leg) => self.tell_moved(cx, leg),
            Timer::AgentComfort(leg) => self.comfort_due(cx, leg),
            Timer::AnswerRepeat(n) => self.repeat_answer(cx, n),
            Timer::Bye => self.bye_timer(cx),
            Timer::Info => self.info_timer(cx),
            Timer::Session => self.end(cx, ReleaseCause::PeerTimeout, EndedBy::Network),
            Timer::Silence => self.end(cx, ReleaseCause::MediaTimeout, EndedBy::Network),
            Timer::Enqueue => self.enqueue_timer(cx),
            Timer::Announce => self.announce(cx),
            Timer::Debt(n) => self.debt_timer(cx, n),
            Timer::Flow => self.flow_timer(cx),
            Timer::Farewell => self.farewell_over(cx),
            Timer::AgentAudio(leg) => self.agent_lost(cx, leg),
            Timer::Unrecorded => self.seek_recorder(cx),
            Timer::RecordingPause => self.recording_pause_over(cx),
            Timer::Recording(n) => self.recording_overdue(cx, n),
            Timer::Measurements => self.measured_by = None,
        }
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, input: Input) {
        match input {
            Input::Request(incoming) => self.on_request(cx, *incoming),
            Input::Cancelled { transaction, .. } => self.on_cancel(cx, &transaction),
            Input::Response { client_transaction, response } => {
                self.on_response(cx, &client_transaction, &response)
            }
            Input::TransactionFailed { transaction, failure } => {
                self.on_transaction_failed(cx, &transaction, failure)
            }
            Input::MediaReply(reply) => self.on_media_reply(cx, *reply),
            Input::MediaEvent { node, id, acknowledge, event } => {
                self.on_media_event(cx, node, id, acknowledge, *event);
            }
            Input::MediaNodeLost(node) => self.node_lost(cx, &node),
            Input::LeaveMediaNode(node) => self.leave_node(cx, &node),
            Input::Queue { queue, entry, signal } => self.on_queue(cx, &queue, entry, signal),
            Input::Agent { agent, offer, request } => self.on_agent(cx, &agent, &offer, request),
            Input::Release(cause) => {
                if self.origin.is_some() {
                    self.end(cx, cause, EndedBy::System);
                }
            }
        }
    }
}

impl Machine for Call {
    type Input = Input;
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Timestamp, input: Input, out: &mut Outbox<Event, Effect>) {
        let mut cx = Cx { now, out };
        if !self.finished() {
            self.dispatch(&mut cx, input);
            self.close_when_settled(&mut cx);
        }
    }

    fn advance(&mut self, now: Timestamp, out: &mut Outbox<Event, Effect>) {
        let mut cx = Cx { now, out };
        // Each firing moves its timer beyond `now` or removes it; the limit is for the case that this is wrong.
        for _ in 0..1_000 {
            match self.next_timer() {
                Some((at, timer)) if at <= now => self.fire(&mut cx, timer),
                _ => return self.close_when_settled(&mut cx),
            }
        }
        debug_assert!(false, "{:?} fires again and again", self.next_timer());
        self.end(&mut cx, ReleaseCause::Internal, EndedBy::System);
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.next_timer().map(|(at, _)| at)
    }

    fn apply(&mut self, event: &Event) {
        self.apply_event(event);
    }

    fn recovered(&mut self, now: Timestamp, out: &mut Outbox<Event, Effect>) {
        let mut cx = Cx { now, out };
        if !self.finished() {
            self.recover(&mut cx);
            self.close_when_settled(&mut cx);
        }
    }
}
