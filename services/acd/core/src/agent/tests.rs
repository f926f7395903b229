use std::{collections::BTreeMap, time::Duration};

use trunkline_types::{Output, ReleaseCause, ShardId};

use super::*;
use crate::{Action, ConversationStatus, OfferCard, Outcome, RefuseReason};

mod moved;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn tab(n: u32) -> SessionId {
    SessionId(format!("tab-{n}"))
}

fn console() -> Console {
    Console { node: "n1".parse().unwrap(), incarnation: 1 }
}

fn queue() -> QueueId {
    "support".parse().unwrap()
}

fn offer(n: u64) -> OfferId {
    OfferId { queue: queue(), epoch: Epoch(3), n }
}

/// An agent, the clock, and what it said last.
struct Seat {
    agent: Agent,
    now: Timestamp,
    journal: Vec<AgentEvent>,
    effects: Vec<AgentEffect>,
    card: OfferCard,
    commands: u32,
}

impl Seat {
    fn new(config: AgentConfig) -> Self {
        let config = AgentConfig { queues: vec![queue()], ..config };
        let agent = Agent::new("default".parse().unwrap(), "alice".parse().unwrap(), Epoch(1), config);
        let now = Timestamp::from_millis(1_800_000_000_000);
        let card = OfferCard {
            call: CallId::mint(ShardId::new(3).unwrap(), now, 1),
            entry: 0,
            queue: queue(),
            queue_name: "Support".into(),
            caller: "+15550100".into(),
            caller_name: "Ann".into(),
            dialled: "support".into(),
            attributes: BTreeMap::new(),
            consulted_by: String::new(),
            enqueued_at: now,
            ring_timeout: secs(20),
            wrap_up: secs(30),
            recording: true,
            recording_required: false,
            disposition_required: false,
            dispositions: Vec::new(),
        };
        Self { agent, now, journal: Vec::new(), effects: Vec::new(), card, commands: 0 }
    }

    fn ready() -> Self {
        let mut seat = Self::new(AgentConfig::default());
        seat.session(1, SessionInput::Attach { connection: 0 });
        seat.done(1, Command::Ready);
        seat
    }

    fn ringing(n: u64) -> Self {
        let mut seat = Self::ready();
        seat.ring(n);
        seat
    }

    fn talking() -> Self {
        let mut seat = Self::ringing(1);
        seat.accept(1);
        seat.connect(1);
        seat
    }

    fn take(&mut self, mut out: Outbox) {
        self.effects.clear();
        for item in out.drain() {
            match item {
                Output::Event(event) => self.journal.push(event),
                Output::Effect(effect) => self.effects.push(effect),
            }
        }
    }

    fn input(&mut self, input: AgentInput) {
        let mut out = Outbox::new();
        self.agent.advance(self.now, &mut out);
        self.agent.handle(self.now, input, &mut out);
        self.take(out);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        let mut out = Outbox::new();
        self.agent.advance(self.now, &mut out);
        self.take(out);
    }

    fn queue(&mut self, message: QueueToAgent) {
        self.input(AgentInput::FromQueue { queue: queue(), message });
    }

    fn call(&mut self, message: CallToAgent) {
        self.input(AgentInput::FromCall { call: self.card.call, message });
    }

    fn session(&mut self, n: u32, message: SessionInput) {
        self.session_at(n, console(), message);
    }

    fn session_at(&mut self, n: u32, console: Console, message: SessionInput) {
        self.input(AgentInput::FromSession { session: tab(n), console, message });
    }

    fn command(&mut self, n: u32, command: Command) -> Option<Answer> {
        self.commands += 1;
        let id = self.commands.to_string();
        self.session(n, SessionInput::Command { id: id.clone(), command });
        self.answer(n, &id)
    }

    fn answer(&self, n: u32, id: &str) -> Option<Answer> {
        self.effects.iter().find_map(|effect| match effect {
            AgentEffect::CommandDone { session, id: i, reply } if *session == tab(n) && i == id => {
                Some(Ok(reply.clone()))
            }
            AgentEffect::CommandFailed { session, id: i, error } if *session == tab(n) && i == id => {
                Some(Err(error.clone()))
            }
            _ => None,
        })
    }

    fn done(&mut self, n: u32, command: Command) {
        assert_eq!(self.command(n, command), Some(Ok(CommandReply::Done)));
    }

    fn reserve(&mut self, n: u64) {
        self.queue(QueueToAgent::Reserve { offer: offer(n), agent_epoch: self.agent.epoch });
    }

    fn commit(&mut self, n: u64) {
        let card = Box::new(self.card.clone());
        self.queue(QueueToAgent::Commit { offer: offer(n), agent_epoch: self.agent.epoch, card });
    }

    fn ring(&mut self, n: u64) {
        self.reserve(n);
        assert!(self.tells(&AgentToQueue::Granted { offer: offer(n) }));
        self.commit(n);
        assert!(self.tells(&AgentToQueue::Accepted { offer: offer(n) }), "{:?}", self.effects);
    }

    fn accept(&mut self, n: u64) {
        assert_eq!(self.command(1, Command::Accept { offer: offer(n), sdp_offer: "v=0".into() }), None);
    }

    fn connect(&mut self, n: u64) {
        let at = self.now;
        self.call(CallToAgent::Connected { offer: offer(n), sdp_answer: "v=0 answer".into(), at });
        assert_eq!(self.state(), "talking");
    }

    fn end(&mut self, cause: ReleaseCause) {
        let at = self.now;
        self.call(CallToAgent::Ended { offer: offer(1), connected_at: Some(at), cause, at });
    }

    fn state(&self) -> &'static str {
        self.agent.view().status.name()
    }

    fn tells(&self, message: &AgentToQueue) -> bool {
        self.effects.contains(&AgentEffect::ToQueue { queue: queue(), message: message.clone() })
    }

    fn asks_call(&self) -> Vec<AgentToCall> {
        let to_call = |effect: &AgentEffect| match effect {
            AgentEffect::ToCall { message, .. } => Some(message.clone()),
            _ => None,
        };
        self.effects.iter().filter_map(to_call).collect()
    }

    fn crash(&mut self) {
        let (tenant, id) = (self.agent.tenant.clone(), self.agent.id.clone());
        let epoch = Epoch(self.agent.epoch.0 + 1);
        let mut agent = Agent::new(tenant, id, epoch, (*self.agent.config).clone());
        for event in &self.journal {
            let text = serde_json::to_string(event).unwrap();
            agent.apply(&serde_json::from_str(&text).unwrap());
        }
        assert_eq!(agent.snapshot(), self.agent.snapshot());
        let text = serde_json::to_string(&agent.snapshot()).unwrap();
        assert_eq!(serde_json::from_str::<AgentSnapshot>(&text).unwrap(), agent.snapshot());
        self.agent = agent;
        let mut out = Outbox::new();
        self.agent.recovered(self.now, &mut out);
        self.take(out);
    }

    fn ended(&self, outcome: Outcome) -> bool {
        self.effects.iter().any(|effect| {
            matches!(effect, AgentEffect::ToQueue { message: AgentToQueue::Ended { outcome: o, .. }, .. } if *o == outcome)
        })
    }
}

#[test]
fn a_call_from_offer_to_wrap_up_and_its_times() {
    let mut seat = Seat::ready();
    seat.pass(secs(60));
    seat.ring(1);
    seat.pass(secs(4));
    seat.accept(1);
    assert!(matches!(&seat.asks_call()[..], [AgentToCall::Connect { .. }]));
    seat.pass(Duration::from_millis(100));
    seat.connect(1);
    let media = CommandReply::Media { offer: offer(1), sdp_answer: "v=0 answer".into() };
    assert_eq!(seat.answer(1, "2"), Some(Ok(media)));
    assert!(seat.ended(Outcome::Answered));
    seat.queue(QueueToAgent::EndedSeen { offer: offer(1) });
    seat.pass(secs(20));
    let held = ConversationStatus { version: 1, held: true, muted: false };
    seat.call(CallToAgent::Status { offer: offer(1), status: held });
    seat.pass(secs(10));
    seat.call(CallToAgent::Status {
        offer: offer(1),
        status: ConversationStatus { version: 2, ..Default::default() },
    });
    seat.call(CallToAgent::Status { offer: offer(1), status: held });
    assert!(
        matches!(seat.agent.view().status, AgentStatus::Talking { held: false, .. }),
        "an old status is ignored"
    );
    seat.pass(secs(20));
    seat.end(ReleaseCause::CallerHangup);
    assert!(seat.asks_call().contains(&AgentToCall::EndedSeen { offer: offer(1) }));
    seat.pass(secs(10));
    let notes = Notes { disposition: Some("solved".into()), tags: vec!["bill".into()], text: "ok".into() };
    seat.done(1, Command::FinishWrapUp { notes });
    assert_eq!(seat.state(), "ready");
    let totals = seat.agent.totals();
    let s = |n: u64| n * 1_000_000;
    assert_eq!((totals.idle_us, totals.ringing_us, totals.connecting_us), (s(60), s(4), 100_000));
    assert_eq!((totals.talk_us, totals.hold_us, totals.wrap_up_us), (s(40), s(10), s(10)));
    assert_eq!(totals.average_handling_time(), Some(secs(60)));
    assert!((totals.occupancy().unwrap() - 0.5).abs() < 1e-9);
}

#[test]
fn a_hold_is_volatile_and_ends_after_two_seconds() {
    let mut seat = Seat::ready();
    seat.reserve(1);
    assert_eq!(seat.journal.len(), 3, "nothing is journalled for a hold: {:?}", seat.journal);
    seat.reserve(2);
    assert!(matches!(
        &seat.effects[0],
        AgentEffect::ToQueue { message: AgentToQueue::Refused { reason: RefuseReason::Busy, .. }, .. }
    ));
    seat.pass(secs(2));
    assert!(
        seat.effects
            .iter()
            .any(|e| matches!(e, AgentEffect::ToQueue { message: AgentToQueue::Available { .. }, .. })),
        "who was refused hears that the slot is free: {:?}",
        seat.effects
    );
    seat.commit(1);
    assert!(seat.tells(&AgentToQueue::Rejected { offer: offer(1) }));
    seat.reserve(1);
    assert!(!seat.tells(&AgentToQueue::Granted { offer: offer(1) }), "an offer is used once");
    seat.ring(3);
}

#[test]
fn another_epoch_gets_no_hold_and_no_call() {
    let mut seat = Seat::ready();
    seat.queue(QueueToAgent::Reserve { offer: offer(1), agent_epoch: Epoch(9) });
    assert!(matches!(
        &seat.effects[0],
        AgentEffect::ToQueue { message: AgentToQueue::Refused { reason: RefuseReason::StaleEpoch, .. }, .. }
    ));
    seat.reserve(2);
    let card = Box::new(seat.card.clone());
    seat.queue(QueueToAgent::Commit { offer: offer(2), agent_epoch: Epoch(9), card });
    assert!(seat.tells(&AgentToQueue::Rejected { offer: offer(2) }));
    assert_eq!(seat.state(), "ready");
}

#[test]
fn a_commit_is_answered_the_same_each_time_also_after_a_crash() {
    let mut seat = Seat::ringing(1);
    seat.commit(1);
    assert!(seat.tells(&AgentToQueue::Accepted { offer: offer(1) }));
    seat.crash();
    assert_eq!(seat.state(), "ringing");
    let card = Box::new(seat.card.clone());
    seat.queue(QueueToAgent::Commit { offer: offer(1), agent_epoch: Epoch(1), card });
    assert!(seat.tells(&AgentToQueue::Accepted { offer: offer(1) }));
    assert_eq!(seat.journal.iter().filter(|e| matches!(e, AgentEvent::Offered { .. })).count(), 1);
}

#[test]
fn a_missed_call_is_told_until_seen_and_the_agent_is_not_ready() {
    let mut seat = Seat::ringing(1);
    seat.pass(secs(20));
    assert!(seat.ended(Outcome::Missed));
    assert!(matches!(seat.agent.view().status, AgentStatus::NotReady { reason } if reason == "missed"));
    seat.pass(secs(2));
    assert!(seat.ended(Outcome::Missed), "sent again");
    seat.crash();
    assert!(seat.ended(Outcome::Missed), "and by the next owner");
    seat.queue(QueueToAgent::EndedSeen { offer: offer(1) });
    seat.pass(secs(5));
    assert!(!seat.ended(Outcome::Missed));
    assert_eq!(seat.agent.unseen_outcomes(), 0);
}

#[test]
fn a_decline_goes_to_the_end_of_the_line_and_a_lost_caller_does_not() {
    let mut seat = Seat::ready();
    let since = seat.now;
    seat.pass(secs(50));
    seat.ring(1);
    seat.queue(QueueToAgent::Cancel { offer: offer(1) });
    assert!(seat.ended(Outcome::CallerGone));
    assert_eq!(seat.agent.view().status, AgentStatus::Ready { idle_since: since });
    seat.ring(2);
    seat.done(1, Command::Decline { offer: offer(2) });
    assert_eq!(seat.agent.view().status, AgentStatus::Ready { idle_since: seat.now });
    assert_eq!(seat.command(1, Command::Decline { offer: offer(2) }), Some(Err(CommandError::OfferOver)));
}

#[test]
fn a_connection_is_given_up_and_the_calls_answer_is_final() {
    let mut seat = Seat::ringing(1);
    seat.accept(1);
    seat.pass(secs(3));
    assert!(matches!(&seat.asks_call()[..], [AgentToCall::Connect { .. }, ..]), "sent again");
    seat.pass(secs(7));
    seat.pass(secs(2));
    assert!(matches!(&seat.asks_call()[..], [AgentToCall::GiveUp { .. }, ..]), "{:?}", seat.effects);
    assert_eq!(seat.state(), "connecting", "the slot is taken until the call has decided");
    seat.call(CallToAgent::ConnectFailed { offer: offer(1), cause: ReleaseCause::NoCommonCodec });
    let error = CommandError::ConnectFailed { cause: "no_common_codec".into() };
    assert_eq!(seat.answer(1, "2"), Some(Err(error)));
    assert!(seat.ended(Outcome::Failed));
    assert_eq!(seat.state(), "not_ready");
}

#[test]
fn a_connected_call_survives_a_crash_and_gets_new_media() {
    let mut seat = Seat::talking();
    seat.crash();
    assert_eq!(seat.asks_call(), [AgentToCall::Ask { offer: offer(1) }]);
    seat.session(1, SessionInput::Detach { reason: DetachReason::Silent });
    seat.session(2, SessionInput::Attach { connection: 0 });
    assert_eq!(seat.command(2, Command::ResumeMedia { sdp_offer: "v=0".into() }), None);
    let [AgentToCall::RemakeMedia { control, .. }] = seat.asks_call()[..] else {
        panic!("{:?}", seat.effects)
    };
    assert_eq!(control >> 40, 2, "control numbers of two owners never meet");
    let answer = CallToAgent::MediaRemade { offer: offer(1), control, sdp_answer: "new".into() };
    seat.call(answer);
    let media = CommandReply::Media { offer: offer(1), sdp_answer: "new".into() };
    assert_eq!(seat.answer(2, "3"), Some(Ok(media)));
    assert_eq!(seat.agent.view().microphone, Some(tab(2)));
}

#[test]
fn one_session_has_the_microphone_until_another_takes_over() {
    let mut seat = Seat::talking();
    seat.session(2, SessionInput::Attach { connection: 0 });
    let elsewhere = CommandError::MicrophoneElsewhere { session: tab(1) };
    assert_eq!(seat.command(2, Command::ResumeMedia { sdp_offer: "v=0".into() }), Some(Err(elsewhere)));
    assert_eq!(seat.command(2, Command::TakeOver { sdp_offer: "v=0".into() }), None);
    assert_eq!(seat.agent.view().microphone, Some(tab(1)), "until the media are there");
    let [AgentToCall::RemakeMedia { control, .. }] = seat.asks_call()[..] else { panic!() };
    seat.call(CallToAgent::MediaRemade { offer: offer(1), control, sdp_answer: "new".into() });
    assert_eq!(seat.agent.view().microphone, Some(tab(2)));
}

#[test]
fn a_command_is_done_once_however_often_it_is_sent() {
    let mut seat = Seat::talking();
    let command = Command::Control { action: Action::Digits("12#".into()) };
    for _ in 0..3 {
        seat.session(1, SessionInput::Command { id: "x".into(), command: command.clone() });
    }
    assert!(seat.asks_call().is_empty(), "under way already");
    assert_eq!(seat.agent.controls.len(), 1);
    let control = *seat.agent.controls.keys().next().unwrap();
    let status = ConversationStatus::default();
    seat.call(CallToAgent::ControlDone { offer: offer(1), control, status });
    assert_eq!(seat.answer(1, "x"), Some(Ok(CommandReply::Done)));
    seat.session(1, SessionInput::Command { id: "x".into(), command });
    assert_eq!(seat.answer(1, "x"), Some(Ok(CommandReply::Done)), "the same answer");
    assert!(seat.asks_call().is_empty());
}

#[test]
fn illegal_commands_say_why() {
    let mut seat = Seat::ready();
    let state = "ready".to_owned();
    let hold = || Command::Control { action: Action::Hold };
    assert_eq!(seat.command(1, hold()), Some(Err(CommandError::WrongState { state })));
    assert_eq!(seat.command(9, Command::Ready), Some(Err(CommandError::NotAttached)));
    let long = Command::NotReady { reason: "x".repeat(65) };
    assert!(
        matches!(seat.command(1, long), Some(Err(CommandError::Invalid { field, .. })) if field == "reason")
    );
    let mut seat = Seat::talking();
    let digits = Command::Control { action: Action::Digits("12x".into()) };
    assert!(
        matches!(seat.command(1, digits), Some(Err(CommandError::Invalid { field, .. })) if field == "digits")
    );
    for _ in 0..16 {
        assert_eq!(seat.command(1, hold()), None);
    }
    assert_eq!(seat.command(1, hold()), Some(Err(CommandError::Busy)));
}

#[test]
fn wrap_up_ends_by_itself_and_is_extended_so_often() {
    let mut seat = Seat::talking();
    seat.end(ReleaseCause::AgentHangup);
    (0..3).for_each(|_| seat.done(1, Command::ExtendWrapUp));
    assert_eq!(seat.command(1, Command::ExtendWrapUp), Some(Err(CommandError::NoMoreExtensions { max: 3 })));
    seat.pass(secs(119));
    assert_eq!(seat.state(), "wrap_up");
    seat.pass(secs(1));
    assert_eq!(seat.state(), "ready");
    assert_eq!(seat.agent.totals().wrap_ups_timed_out, 1);
}

#[test]
fn the_next_status_holds_after_the_wrap_up_or_at_once_without_one() {
    for wrap_up in [secs(0), secs(30)] {
        let mut seat = Seat::ready();
        seat.card.wrap_up = wrap_up;
        seat.ring(1);
        seat.accept(1);
        seat.connect(1);
        seat.done(1, Command::NotReady { reason: "lunch".into() });
        seat.end(ReleaseCause::CallerHangup);
        seat.pass(wrap_up);
        assert!(matches!(seat.agent.view().status, AgentStatus::NotReady { reason } if reason == "lunch"));
        assert_eq!(seat.agent.view().next, None);
    }
}

#[test]
fn a_queue_may_require_one_of_its_dispositions() {
    let mut seat = Seat::ready();
    seat.card.disposition_required = true;
    seat.card.dispositions = vec!["sold".into(), "lost".into()];
    seat.ring(1);
    seat.accept(1);
    seat.connect(1);
    seat.end(ReleaseCause::CallerHangup);
    let finish = |disposition: Option<&str>| Command::FinishWrapUp {
        notes: Notes { disposition: disposition.map(str::to_owned), ..Notes::default() },
    };
    for wrong in [None, Some("other")] {
        let answer = seat.command(1, finish(wrong));
        assert!(matches!(answer, Some(Err(CommandError::Invalid { field, .. })) if field == "disposition"));
    }
    seat.done(1, finish(Some("sold")));
}

#[test]
fn without_a_console_nothing_rings_and_the_agent_is_signed_out_after_the_grace() {
    let mut seat = Seat::ready();
    seat.session(1, SessionInput::Detach { reason: DetachReason::Closed });
    assert!(
        seat.effects
            .iter()
            .any(|e| matches!(e, AgentEffect::ToQueue { message: AgentToQueue::Unavailable { .. }, .. }))
    );
    seat.reserve(1);
    assert!(matches!(
        &seat.effects[0],
        AgentEffect::ToQueue { message: AgentToQueue::Refused { reason: RefuseReason::NotReady, .. }, .. }
    ));
    seat.pass(secs(29));
    assert_eq!(seat.state(), "ready");
    seat.pass(secs(1));
    assert_eq!(seat.state(), "signed_out");
}

#[test]
fn a_reloaded_page_keeps_the_ringing_and_a_lost_one_gives_it_back() {
    let mut seat = Seat::ringing(1);
    seat.session(1, SessionInput::Detach { reason: DetachReason::Closed });
    seat.pass(secs(3));
    seat.session(2, SessionInput::Attach { connection: 0 });
    seat.pass(secs(5));
    assert_eq!(seat.state(), "ringing");
    seat.session(2, SessionInput::Detach { reason: DetachReason::Closed });
    seat.pass(secs(5));
    assert!(seat.ended(Outcome::AgentGone));
}

#[test]
fn a_conversation_without_a_console_is_hung_up_after_its_grace() {
    let mut seat = Seat::talking();
    seat.session(1, SessionInput::Detach { reason: DetachReason::Closed });
    seat.pass(secs(119));
    assert!(!seat.asks_call().iter().any(|m| matches!(m, AgentToCall::Control { .. })));
    seat.pass(secs(1));
    assert!(
        seat.asks_call().iter().any(|m| matches!(m, AgentToCall::Control { action: Action::Hangup, .. }))
    );
    seat.end(ReleaseCause::AgentHangup);
    seat.pass(secs(30));
    assert_eq!(seat.state(), "signed_out", "wrap-up over, nobody there");
}

#[test]
fn a_talk_whose_end_was_lost_is_noticed_by_asking() {
    let mut seat = Seat::talking();
    seat.pass(secs(30));
    assert_eq!(seat.asks_call(), [AgentToCall::Ask { offer: offer(1) }]);
    seat.pass(secs(5));
    assert_eq!(seat.asks_call(), [AgentToCall::Ask { offer: offer(1) }], "and again");
    let at = seat.now;
    let cause = ReleaseCause::NodeLost;
    seat.call(CallToAgent::Ended { offer: offer(1), connected_at: None, cause, at });
    assert_eq!(seat.state(), "wrap_up");
}

#[test]
fn an_announcement_is_repeated_until_seen_and_then_every_twenty_seconds() {
    let mut seat = Seat::ready();
    let available = |seat: &Seat| {
        seat.effects.iter().find_map(|e| match e {
            AgentEffect::ToQueue { message: AgentToQueue::Available { stamp, .. }, .. } => Some(*stamp),
            _ => None,
        })
    };
    let first = available(&seat).expect("announced at once");
    seat.pass(Duration::from_millis(250));
    assert_eq!(available(&seat), Some(first));
    seat.queue(QueueToAgent::AnnouncementSeen { stamp: first });
    seat.pass(secs(19));
    assert_eq!(available(&seat), None);
    seat.pass(secs(1));
    assert!(available(&seat).expect("anew") > first);
}
