//! The stay in a queue, as the call sees it: a place that is asked for until it is given, checked now and then, and
//! left with a word.

use std::time::Duration;

use trunkline_types::{OfferId, QueueId, ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx, Farewell},
    effect::{Enqueue, LeaveCause, QueueRequest},
    event::{EndedBy, EventBody, QueueOutcome},
    input::{QueueSignal, RefusedReason},
    media::{MediaBody, Play, Program, Then},
};

/// The priority with which a caller waits again whose agent was lost: with the time of the first entry it is in front
/// of everybody else.
pub const RETURN_PRIORITY: i32 = 100;

/// The shortest time between two announcements.
const ANNOUNCEMENT_GAP: Duration = Duration::from_secs(5);
/// Stays of one call in queues; a call that is sent back more often has met a defect.
const MAX_ENTRIES: u32 = 50;

/// A stay in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub queue: QueueId,
    pub entry: u32,
    pub entered: Timestamp,
    pub priority: i32,
    /// It waited before, and comes back to that place.
    pub returns: bool,
    // Volatile.
    pub confirmed: bool,
    pub send_at: Timestamp,
    interval: Duration,
    /// Since when an answer is missing.
    asked: Option<Timestamp>,
    pub announce_at: Option<Timestamp>,
    /// The announcement cannot be played.
    pub silent: bool,
}

/// A stay that is over.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub queue: QueueId,
    pub entry: u32,
    pub end: PastEnd,
}

/// How.
#[derive(Clone, Debug)]
pub(crate) enum PastEnd {
    Answered { offer: OfferId, at: Timestamp },
    Left(LeaveCause),
}

/// Calls that wait ask for their places at these moments of the clock, many in one message to the queue's node: each by
/// itself would cost both nodes a wake, a record of TLS and a system call or two.
const TOGETHER_US: i64 = 250_000;

/// The last of these moments that is not after `at`.
fn together(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros().rem_euclid(TOGETHER_US))
}

impl Stay {
    pub fn new(queue: QueueId, entry: u32, entered: Timestamp, priority: i32, at: Timestamp) -> Self {
        Self {
            queue,
            entry,
            entered,
            priority,
            returns: entered < at,
            confirmed: false,
            send_at: at,
            interval: Duration::ZERO,
            asked: None,
            announce_at: None,
            silent: false,
        }
    }
}

impl Call {
    /// Waits in `queue` from now on; counts as waiting since `entered`.
    pub(crate) fn enter_queue(&mut self, cx: &mut Cx<'_>, queue: QueueId, priority: i32, entered: Timestamp) {
        let entry = self.next_entry;
        if entry >= MAX_ENTRIES {
            return self.end(cx, ReleaseCause::Internal, EndedBy::System);
        }
        let priority = priority.clamp(-RETURN_PRIORITY, RETURN_PRIORITY);
        self.emit(cx, EventBody::QueueEntered { queue, entry, entered, priority });
        self.enqueue_timer(cx);
        self.programs(cx);
    }

    /// Asks for the place (again), or whether it is still there.
    pub(crate) fn enqueue_timer(&mut self, cx: &mut Cx<'_>) {
        let settings = self.settings.clone();
        let mut card = self.card();
        if let Some(agent) =
            self.agent.as_deref().filter(|_| self.consulting() && self.transferring.is_none())
        {
            card.consulted_by.clone_from(&agent.name);
        }
        let Some(stay) = &mut self.stay else { return };
        let asked = *stay.asked.get_or_insert(cx.now);
        let patience = if stay.confirmed { settings.debt_deadline } else { settings.enqueue_deadline };
        if cx.now.since(asked) >= patience {
            return self.place_lost(cx);
        }
        stay.interval = if stay.interval.is_zero() {
            settings.resend_first
        } else {
            (stay.interval * 2).min(settings.resend_max)
        };
        stay.send_at = cx.now.plus(stay.interval);
        let (queue, entry, priority, entered) = (stay.queue.clone(), stay.entry, stay.priority, stay.entered);
        let entered = stay.returns.then_some(entered);
        let request = Enqueue { entry, priority, entered, card };
        self.tell_queue(cx, &queue, QueueRequest::Enqueue(Box::new(request)));
    }

    /// The queue does not answer.
    fn place_lost(&mut self, cx: &mut Cx<'_>) {
        if self.consultation_failed(cx, QueueOutcome::Lost, RefusedReason::Closed) {
            return;
        }
        let Some(stay) = &self.stay else { return };
        let (queue, entry) = (stay.queue.clone(), stay.entry);
        self.emit(cx, EventBody::QueueExited { queue: queue.clone(), entry, outcome: QueueOutcome::Lost });
        self.pay_due(cx);
        if !self.flow_after_refusal(cx) {
            let prompts = self.library.treatment(&self.tenant, &queue).refused_prompts.clone();
            self.say_goodbye(cx, prompts, ReleaseCause::Overload, EndedBy::System);
        }
    }

    pub(crate) fn on_queue(&mut self, cx: &mut Cx<'_>, queue: &QueueId, entry: u32, signal: QueueSignal) {
        let here = self.stay.as_ref().is_some_and(|stay| stay.queue == *queue && stay.entry == entry);
        match signal {
            QueueSignal::Queued { .. } if here => {
                self.queued(cx.now);
                self.place_for_transfer(cx);
            }
            QueueSignal::Refused(reason) if here && self.connecting().is_none() => {
                self.queue_refused(cx, reason)
            }
            QueueSignal::TimedOut if here && self.connecting().is_none() => self.queue_timed_out(cx),
            // Our word got lost; the queue asks until it has one.
            QueueSignal::TimedOut if !here && entry < self.next_entry => {
                let cause = LeaveCause::TimedOut;
                let word = self.last_word(queue, entry).unwrap_or(QueueRequest::Leave { entry, cause });
                self.tell_queue(cx, queue, word);
            }
            QueueSignal::Left if here && self.connecting().is_none() => self.enter_again(cx),
            QueueSignal::Left => {
                self.settle(|debt| {
                    matches!(debt, crate::debt::DebtKind::Leave { queue: q, entry: e, .. } if q == queue && *e == entry)
                });
            }
            QueueSignal::Acknowledged(acknowledged) => self.settle(|debt| {
                use crate::debt::DebtKind::{Answered, ConnectFailed};
                matches!(debt, Answered { offer, .. } | ConnectFailed { offer, .. } if *offer == acknowledged)
            }),
            QueueSignal::Ask => {
                let word = match here {
                    true => QueueRequest::Alive { entry },
                    false => self.last_word(queue, entry).unwrap_or(QueueRequest::Gone { entry }),
                };
                self.tell_queue(cx, queue, word);
            }
            QueueSignal::Queued { .. } | QueueSignal::Refused(_) | QueueSignal::TimedOut => {}
        }
    }

    /// How a stay ended, as the queue was told.
    fn last_word(&self, queue: &QueueId, entry: u32) -> Option<QueueRequest> {
        let past = self.past.iter().find(|past| past.queue == *queue && past.entry == entry)?;
        match &past.end {
            PastEnd::Answered { offer, at } => {
                Some(QueueRequest::Answered { entry, offer: offer.clone(), at: *at })
            }
            PastEnd::Left(cause) => Some(QueueRequest::Leave { entry, cause: *cause }),
        }
    }

    fn queued(&mut self, now: Timestamp) {
        let Some(stay) = &mut self.stay else { return };
        stay.asked = None;
        stay.interval = Duration::ZERO;
        stay.send_at = together(now.plus(self.settings.place_check));
        if !stay.confirmed && !stay.silent {
            let treatment = self.library.treatment(&self.tenant, &stay.queue);
            stay.announce_at =
                treatment.announcement.as_ref().map(|announcement| now.plus(announcement.first));
        }
        stay.confirmed = true;
    }

    fn queue_refused(&mut self, cx: &mut Cx<'_>, reason: RefusedReason) {
        if self.consultation_failed(cx, QueueOutcome::Refused, reason) {
            return;
        }
        let Some(stay) = &self.stay else { return };
        let (queue, entry) = (stay.queue.clone(), stay.entry);
        self.emit(cx, EventBody::QueueExited { queue: queue.clone(), entry, outcome: QueueOutcome::Refused });
        if !self.flow_after_refusal(cx) {
            let prompts = self.library.treatment(&self.tenant, &queue).refused_prompts.clone();
            self.say_goodbye(cx, prompts, reason.release_cause(), EndedBy::Flow);
        }
    }

    fn queue_timed_out(&mut self, cx: &mut Cx<'_>) {
        if self.consultation_failed(cx, QueueOutcome::TimedOut, RefusedReason::QueueFull) {
            return;
        }
        let Some(stay) = &self.stay else { return };
        let (queue, entry) = (stay.queue.clone(), stay.entry);
        self.emit(
            cx,
            EventBody::QueueExited { queue: queue.clone(), entry, outcome: QueueOutcome::TimedOut },
        );
        self.pay_due(cx);
        if !self.flow_after_timeout(cx) {
            let prompts = self.library.treatment(&self.tenant, &queue).timed_out_prompts.clone();
            self.say_goodbye(cx, prompts, ReleaseCause::QueueTimeout, EndedBy::Flow);
        }
    }

    /// The queue does not know our place: a new one with the old time.
    fn enter_again(&mut self, cx: &mut Cx<'_>) {
        let Some(stay) = &self.stay else { return };
        let (queue, entry, priority, entered) = (stay.queue.clone(), stay.entry, stay.priority, stay.entered);
        self.emit(cx, EventBody::QueueExited { queue: queue.clone(), entry, outcome: QueueOutcome::Lost });
        self.pay_due(cx);
        self.enter_queue(cx, queue, priority, entered);
    }

    /// Comfort: a prompt over the music.
    pub(crate) fn announce(&mut self, cx: &mut Cx<'_>) {
        let Some(stay) = &mut self.stay else { return };
        stay.announce_at = None;
        let treatment = self.library.treatment(&self.tenant, &stay.queue);
        let Some(announcement) = treatment.announcement.as_ref().filter(|a| !a.prompts.is_empty()) else {
            return;
        };
        stay.announce_at = Some(cx.now.plus(announcement.every.max(ANNOUNCEMENT_GAP)));
        if self.caller.as_deref().is_some_and(|caller| caller.holding) {
            // They have put us on hold: nothing of it would be heard.
            return;
        }
        let play = Play {
            prompts: announcement.prompts.clone(),
            then: Program::Music(treatment.music.clone()),
            token: "announcement".to_owned(),
            interruptible: false,
            over_music: true,
        };
        let leg = self.caller_leg();
        let body = MediaBody::SetProgram { leg, program: Program::Play(Box::new(play)) };
        self.media(cx, body, Then::Announce);
    }

    /// A last message, then the end.
    pub(crate) fn say_goodbye(
        &mut self,
        cx: &mut Cx<'_>,
        prompts: Vec<String>,
        cause: ReleaseCause,
        by: EndedBy,
    ) {
        if prompts.is_empty() {
            return self.end(cx, cause, by);
        }
        let token = self.media.mint(cx.now).to_string();
        let until = cx.now.plus(self.settings.play_limit);
        self.farewell = Some(Farewell { token: token.clone(), until, cause, by });
        self.play(cx, prompts, token, false);
    }

    pub(crate) fn farewell_over(&mut self, cx: &mut Cx<'_>) {
        if let Some(farewell) = self.farewell.take() {
            self.end(cx, farewell.cause, farewell.by);
        }
    }

    /// Plays prompts to the caller, then silence.
    pub(crate) fn play(&mut self, cx: &mut Cx<'_>, prompts: Vec<String>, token: String, interruptible: bool) {
        let play = Play { prompts, then: Program::Silence, token, interruptible, over_music: false };
        self.playing = Some(play.clone());
        if !self.adrift() {
            self.issue_play(cx, play);
        }
    }
}
