use std::{collections::BTreeMap, time::Duration};

use trunkline_acd_core::{
    Action, AgentToCall, CallToAgent, CallToQueue, ConversationStatus, Enqueue, LeaveCause, QueueToCall,
};
use trunkline_types::{CallId, OfferId, ReleaseCause, Timestamp};

use crate::Rng;

/// A model of a call and its caller, which keeps the call's side of the contract.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) id: CallId,
    /// The queue it is in or wants to be in.
    pub(super) queue: usize,
    pub(super) entry: u32,
    pub(super) priority: Option<i16>,
    pub(super) phase: Phase,
    /// Where it goes when the present queue has let it out.
    move_to: Option<usize>,
    /// Each stay in a queue: (queue, how it ended).
    pub(super) stays: Vec<(usize, Stay)>,
    decisions: BTreeMap<OfferId, Decided>,
    leave_unseen: bool,
    answer_unseen: bool,
    end_unseen: Option<(usize, OfferId)>,
    status: ConversationStatus,
    controls: BTreeMap<u64, CallToAgent>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    NotYet,
    Asking,
    Waiting,
    /// Out of one queue, on the way to another.
    Leaving,
    Connected {
        agent: usize,
        offer: OfferId,
    },
    Over,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stay {
    Lasting,
    Refused,
    Left(LeaveCause),
    Answered(OfferId, Timestamp),
}

#[derive(Debug, Clone, PartialEq)]
enum Decided {
    Connected(Timestamp),
    Failed,
    Gone,
    Ended { connected_at: Timestamp, at: Timestamp, cause: ReleaseCause },
}

/// What a call says.
#[derive(Debug, Clone)]
pub(super) enum Says {
    Queue(usize, CallToQueue),
    Agent(usize, CallToAgent),
}

impl Caller {
    pub(super) fn new(id: CallId, queue: usize, priority: Option<i16>) -> Self {
        Self {
            id,
            queue,
            entry: 0,
            priority,
            phase: Phase::NotYet,
            move_to: None,
            stays: Vec::new(),
            decisions: BTreeMap::new(),
            leave_unseen: false,
            answer_unseen: false,
            end_unseen: None,
            status: ConversationStatus::default(),
            controls: BTreeMap::new(),
        }
    }

    /// Nothing left to say and nothing to hear.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Over && !self.has_unseen()
    }

    pub(super) fn has_unseen(&self) -> bool {
        self.leave_unseen || self.answer_unseen || self.end_unseen.is_some()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Asking | Phase::Waiting)
    }

    pub(super) fn arrive(&mut self, says: &mut Vec<Says>) {
        self.phase = Phase::Asking;
        self.stays.push((self.queue, Stay::Lasting));
        says.push(self.enqueue());
    }

    fn enqueue(&self) -> Says {
        let enqueue = Enqueue {
            entry: self.entry,
            priority: self.priority,
            caller: "+15550100".into(),
            caller_name: String::new(),
            dialled: "support".into(),
            attributes: BTreeMap::new(),
            consulted_by: String::new(),
            entered_at: None,
        };
        Says::Queue(self.queue, CallToQueue::Enqueue(Box::new(enqueue)))
    }

    /// The caller hangs up, or the flow moves the call to another queue.
    pub(super) fn leave(&mut self, move_to: Option<usize>, says: &mut Vec<Says>) {
        if !self.is_waiting() {
            return;
        }
        let cause = if move_to.is_some() { LeaveCause::FlowOut } else { LeaveCause::Abandoned };
        self.end_stay(Stay::Left(cause));
        self.phase = if move_to.is_some() { Phase::Leaving } else { Phase::Over };
        self.move_to = move_to;
        self.leave_unseen = true;
        says.push(Says::Queue(self.queue, CallToQueue::Leave { entry: self.entry, cause }));
    }

    fn end_stay(&mut self, how: Stay) {
        if let Some((_, stay)) = self.stays.last_mut() {
            *stay = how;
        }
    }

    /// The caller or the agent ends the conversation.
    pub(super) fn hang_up(&mut self, cause: ReleaseCause, now: Timestamp, says: &mut Vec<Says>) {
        let Phase::Connected { agent, offer } = self.phase.clone() else { return };
        if let Some(Decided::Connected(connected_at)) = self.decisions.get(&offer).cloned() {
            self.decisions.insert(offer.clone(), Decided::Ended { connected_at, at: now, cause });
        }
        self.phase = Phase::Over;
        self.end_unseen = Some((agent, offer.clone()));
        says.push(Says::Agent(agent, self.decision(&offer)));
    }

    /// Says again what was not answered.
    pub(super) fn resend(&self, says: &mut Vec<Says>) {
        if self.phase == Phase::Asking {
            says.push(self.enqueue());
        }
        if self.leave_unseen || self.answer_unseen {
            says.extend(self.stay_again(self.entry));
        }
        if let Some((agent, offer)) = &self.end_unseen {
            says.push(Says::Agent(*agent, self.decision(offer)));
        }
    }

    /// What became of a stay.
    fn stay_again(&self, entry: u32) -> Option<Says> {
        let (queue, stay) = self.stays.get(entry as usize)?;
        let message = match stay {
            Stay::Lasting => CallToQueue::Alive { entry },
            Stay::Refused => CallToQueue::Leave { entry, cause: LeaveCause::FlowOut },
            Stay::Left(cause) => CallToQueue::Leave { entry, cause: *cause },
            Stay::Answered(offer, at) => CallToQueue::Answered { entry, offer: offer.clone(), at: *at },
        };
        Some(Says::Queue(*queue, message))
    }

    pub(super) fn on_queue(&mut self, from: usize, message: QueueToCall, says: &mut Vec<Says>) {
        let present = |entry: u32| entry == self.entry && from == self.queue;
        match message {
            QueueToCall::Queued { entry, .. } if present(entry) && self.phase == Phase::Asking => {
                self.phase = Phase::Waiting;
            }
            QueueToCall::Refused { entry, .. } if present(entry) && self.phase == Phase::Asking => {
                self.end_stay(Stay::Refused);
                self.phase = Phase::Over;
            }
            QueueToCall::Release { entry, .. } => {
                if present(entry) && self.is_waiting() {
                    self.end_stay(Stay::Left(LeaveCause::Timeout));
                    self.phase = Phase::Over;
                }
                says.push(Says::Queue(from, CallToQueue::Leave { entry, cause: LeaveCause::Timeout }));
            }
            QueueToCall::LeaveSeen { entry } if present(entry) && self.leave_unseen => {
                self.leave_unseen = false;
                if let Some(queue) = self.move_to.take() {
                    self.queue = queue;
                    self.entry += 1;
                    self.arrive(says);
                }
            }
            QueueToCall::AnsweredSeen { entry, .. } if present(entry) => self.answer_unseen = false,
            QueueToCall::Ask { entry } => says.extend(self.stay_again(entry)),
            _ => {}
        }
    }

    /// The decision on an offer, as it is told each time.
    fn decision(&self, offer: &OfferId) -> CallToAgent {
        let offer = offer.clone();
        match self.decisions.get(&offer) {
            Some(Decided::Connected(at)) => {
                CallToAgent::Connected { offer, sdp_answer: "answer".into(), at: *at }
            }
            Some(Decided::Failed) => CallToAgent::ConnectFailed { offer, cause: ReleaseCause::NoCommonCodec },
            Some(Decided::Ended { connected_at, at, cause }) => {
                CallToAgent::Ended { offer, connected_at: Some(*connected_at), cause: *cause, at: *at }
            }
            Some(Decided::Gone) | None => CallToAgent::Ended {
                offer,
                connected_at: None,
                cause: ReleaseCause::CallerCancel,
                at: Timestamp::ZERO,
            },
        }
    }

    /// `queue_of` tells a queue's index by an offer. Returns true when the call was connected just now.
    pub(super) fn on_agent(
        &mut self,
        agent: usize,
        message: AgentToCall,
        offered_by: usize,
        now: Timestamp,
        rng: &mut Rng,
        says: &mut Vec<Says>,
    ) -> bool {
        let mut connected = false;
        match message {
            AgentToCall::Connect { offer, entry, .. } => {
                if !self.decisions.contains_key(&offer) {
                    let decided = if !self.is_waiting() || offered_by != self.queue || entry != self.entry {
                        if matches!(self.phase, Phase::Connected { .. }) {
                            Decided::Failed
                        } else {
                            Decided::Gone
                        }
                    } else if rng.chance(30) {
                        Decided::Failed
                    } else {
                        connected = true;
                        self.connect(agent, &offer, now, says);
                        Decided::Connected(now)
                    };
                    self.decisions.insert(offer.clone(), decided);
                }
                says.push(Says::Agent(agent, self.decision(&offer)));
            }
            AgentToCall::GiveUp { offer } => {
                let decided = if self.is_waiting() { Decided::Failed } else { Decided::Gone };
                self.decisions.entry(offer.clone()).or_insert(decided);
                says.push(Says::Agent(agent, self.decision(&offer)));
            }
            AgentToCall::Ask { offer } => {
                let answer = match self.decisions.get(&offer) {
                    Some(Decided::Connected(_)) => CallToAgent::Status { offer, status: self.status },
                    _ => self.decision(&offer),
                };
                says.push(Says::Agent(agent, answer));
            }
            AgentToCall::RemakeMedia { offer, control, .. } => {
                let answer =
                    CallToAgent::MediaRemade { offer: offer.clone(), control, sdp_answer: "again".into() };
                self.once(agent, &offer, control, answer, says);
            }
            AgentToCall::Control { offer, control, action } => {
                self.control(agent, offer, control, &action, now, says);
            }
            AgentToCall::EndedSeen { offer } => {
                if self.end_unseen.as_ref().is_some_and(|(_, unseen)| *unseen == offer) {
                    self.end_unseen = None;
                }
            }
        }
        connected
    }

    fn connect(&mut self, agent: usize, offer: &OfferId, now: Timestamp, says: &mut Vec<Says>) {
        self.phase = Phase::Connected { agent, offer: offer.clone() };
        self.status = ConversationStatus::default();
        self.end_stay(Stay::Answered(offer.clone(), now));
        self.answer_unseen = true;
        says.extend(self.stay_again(self.entry));
    }

    fn control(
        &mut self,
        agent: usize,
        offer: OfferId,
        control: u64,
        action: &Action,
        now: Timestamp,
        says: &mut Vec<Says>,
    ) {
        if !matches!(self.decisions.get(&offer), Some(Decided::Connected(_))) {
            says.push(Says::Agent(agent, self.decision(&offer)));
            return;
        }
        if !self.controls.contains_key(&control) {
            match action {
                Action::Hangup => {
                    self.hang_up(ReleaseCause::AgentHangup, now, says);
                    return;
                }
                Action::Hold => self.status.held = true,
                Action::Resume => self.status.held = false,
                Action::Mute => self.status.muted = true,
                Action::Unmute => self.status.muted = false,
                Action::Digits(_) | Action::PauseRecording(_) => {}
                // The call's business; the cluster's simulation has the real one.
                Action::Transfer(_) | Action::Consult(_) => {}
                Action::CompleteTransfer | Action::CancelConsult => {}
            }
            self.status.version += 1;
        }
        let answer = CallToAgent::ControlDone { offer: offer.clone(), control, status: self.status };
        self.once(agent, &offer, control, answer, says);
    }

    fn once(
        &mut self,
        agent: usize,
        offer: &OfferId,
        control: u64,
        answer: CallToAgent,
        says: &mut Vec<Says>,
    ) {
        if matches!(self.decisions.get(offer), Some(Decided::Connected(_))) {
            says.push(Says::Agent(agent, self.controls.entry(control).or_insert(answer).clone()));
        } else {
            says.push(Says::Agent(agent, self.decision(offer)));
        }
    }

    /// How often it says unanswered things again.
    pub(super) const AGAIN: Duration = Duration::from_millis(700);
}
