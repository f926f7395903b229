use std::{collections::BTreeMap, time::Duration};

use trunkline_types::{Output, ReleaseCause, ShardId};

use super::*;
use crate::{Enqueue, LeaveCause, OfferCard, Outcome, RefuseReason, SkillRequirement, Skills, Stamp};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn call(n: u64) -> CallId {
    CallId::mint(ShardId::new(3).unwrap(), Timestamp::from_millis(1_000), u128::from(n))
}

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

/// A queue, its clock, and what it said last.
struct Desk {
    queue: Queue,
    now: Timestamp,
    journal: Vec<QueueEvent>,
    effects: Vec<QueueEffect>,
    stamps: u64,
}

impl Desk {
    fn new(config: QueueConfig) -> Self {
        let (tenant, id) = ("default".parse().unwrap(), "support".parse().unwrap());
        let queue = Queue::new(tenant, id, Epoch(1), config);
        let now = Timestamp::from_millis(1_800_000_000_000);
        Self { queue, now, journal: Vec::new(), effects: Vec::new(), stamps: 0 }
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

    fn input(&mut self, input: QueueInput) {
        let mut out = Outbox::new();
        self.queue.advance(self.now, &mut out);
        self.queue.handle(self.now, input, &mut out);
        self.take(out);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        let mut out = Outbox::new();
        self.queue.advance(self.now, &mut out);
        self.take(out);
    }

    fn call(&mut self, n: u64, message: CallToQueue) {
        self.input(QueueInput::FromCall { call: call(n), message });
    }

    fn agent(&mut self, name: &str, message: AgentToQueue) {
        self.input(QueueInput::FromAgent { agent: agent(name), message });
    }

    fn enqueue(&mut self, n: u64) {
        self.enqueue_with(n, None);
    }

    fn enqueue_with(&mut self, n: u64, priority: Option<i16>) {
        let enqueue = Enqueue {
            entry: 0,
            priority,
            caller: "+15550100".into(),
            caller_name: "Ann".into(),
            dialled: "support".into(),
            attributes: BTreeMap::new(),
            consulted_by: String::new(),
            entered_at: None,
        };
        self.call(n, CallToQueue::Enqueue(Box::new(enqueue)));
    }

    /// A call that comes back for another stay, waiting since `entered_at`.
    fn enqueue_again(&mut self, n: u64, entry: u32, entered_at: Timestamp) {
        let enqueue = Enqueue {
            entry,
            priority: None,
            caller: "+15550100".into(),
            caller_name: "Ann".into(),
            dialled: "support".into(),
            attributes: BTreeMap::new(),
            consulted_by: String::new(),
            entered_at: Some(entered_at),
        };
        self.call(n, CallToQueue::Enqueue(Box::new(enqueue)));
    }

    fn available(&mut self, name: &str, idle_since: Timestamp, level: u8) {
        self.stamps += 1;
        let message = AgentToQueue::Available {
            stamp: Stamp { epoch: Epoch(5), seq: self.stamps },
            idle_since,
            skills: Skills::from([("german".to_owned(), level)]),
            validity: secs(60),
        };
        self.agent(name, message);
    }

    fn reserved(&self) -> Vec<(String, OfferId)> {
        let reserve = |effect: &QueueEffect| match effect {
            QueueEffect::ToAgent { agent, message: QueueToAgent::Reserve { offer, .. } } => {
                Some((agent.to_string(), offer.clone()))
            }
            _ => None,
        };
        self.effects.iter().filter_map(reserve).collect()
    }

    fn commits(&self) -> Vec<(String, CallId, OfferCard)> {
        let commit = |effect: &QueueEffect| match effect {
            QueueEffect::ToAgent { agent, message: QueueToAgent::Commit { card, .. } } => {
                Some((agent.to_string(), card.call, (**card).clone()))
            }
            _ => None,
        };
        self.effects.iter().filter_map(commit).collect()
    }

    /// Grants the only reservation that was just asked for; returns the offer and the call that is bound.
    fn grant(&mut self, name: &str) -> (OfferId, CallId) {
        let (chosen, offer) = self.reserved().pop().expect("a reservation");
        assert_eq!(chosen, name);
        self.agent(name, AgentToQueue::Granted { offer: offer.clone() });
        let (at, bound, _) = self.commits().pop().expect("a commit");
        assert_eq!(at, name);
        (offer, bound)
    }

    fn ended(&mut self, name: &str, offer: &OfferId, outcome: Outcome) {
        let at = self.now;
        self.agent(name, AgentToQueue::Ended { offer: offer.clone(), outcome, at });
    }

    fn says_to_call(&self, n: u64, message: &QueueToCall) -> bool {
        let wanted = QueueEffect::ToCall { call: call(n), message: message.clone() };
        self.effects.contains(&wanted)
    }
}

fn config() -> QueueConfig {
    QueueConfig { display_name: "Support".into(), version: 7, ..QueueConfig::default() }
}

#[test]
fn an_enqueue_is_committed_once_and_answered_each_time() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.enqueue(1);
    assert_eq!(desk.journal.len(), 1);
    let [QueueEffect::ToCall { message: QueueToCall::Queued { position, .. }, .. }] = &desk.effects[..]
    else {
        panic!("{:?}", desk.effects)
    };
    assert_eq!(*position, Position::Exactly(1));
}

#[test]
fn a_full_queue_refuses_and_keeps_refusing_the_same_request() {
    let mut desk = Desk::new(QueueConfig { max_waiting: 1, ..config() });
    desk.enqueue(1);
    desk.enqueue(2);
    let refused = QueueToCall::Refused { entry: 0, cause: ReleaseCause::QueueFull };
    assert!(desk.says_to_call(2, &refused));
    desk.call(1, CallToQueue::Leave { entry: 0, cause: LeaveCause::Abandoned });
    desk.enqueue(2);
    assert!(desk.says_to_call(2, &refused), "a duplicate must not get another answer");
    assert_eq!(desk.queue.totals().refused, 1);
}

#[test]
fn the_longest_idle_agent_with_the_skill_is_chosen_and_the_choice_is_explained() {
    let skill = SkillRequirement { name: "german".into(), min_level: 3 };
    let mut desk = Desk::new(QueueConfig { required_skill: Some(skill), ..config() });
    let now = desk.now;
    desk.available("low", now.minus(secs(900)), 2);
    desk.available("young", now.minus(secs(10)), 5);
    desk.available("old", now.minus(secs(300)), 3);
    desk.enqueue(1);
    desk.grant("old");
    let Some(QueueEvent::Committed { decision, .. }) = desk.journal.last() else { panic!() };
    let order: Vec<_> =
        decision.candidates.iter().map(|c| (c.agent.as_str(), c.skill_level, c.score)).collect();
    assert_eq!(order, [("old", 3, 300_000), ("young", 5, 10_000)]);
    assert_eq!((decision.config_version, decision.candidate_count, decision.excluded_count), (7, 2, 1));
    let reason = ExclusionReason::Skill { has: 2, needs: 3 };
    assert_eq!(decision.excluded, [Exclusion { agent: agent("low"), reason }]);
}

#[test]
fn calls_are_committed_in_the_order_of_arrival_whichever_grant_comes_first() {
    let mut desk = Desk::new(config());
    (1..=3).for_each(|n| desk.enqueue(n));
    let mut offers = Vec::new();
    for name in ["a", "b", "c"] {
        let now = desk.now;
        desk.available(name, now, 1);
        offers.extend(desk.reserved());
    }
    let mut order = Vec::new();
    for (name, offer) in offers.into_iter().rev() {
        desk.agent(&name, AgentToQueue::Granted { offer });
        order.extend(desk.commits().into_iter().map(|(_, call, _)| call));
    }
    assert_eq!(order, [call(1), call(2), call(3)]);
}

#[test]
fn priority_is_worth_waiting_time() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.pass(secs(30));
    desk.enqueue_with(2, Some(1));
    desk.pass(secs(45));
    desk.enqueue_with(3, Some(1));
    let line: Vec<_> = desk.queue.view(10).calls.into_iter().map(|c| c.call).collect();
    // One step is 60 s: the second overtakes the first (30 s earlier), the third does not (75 s earlier).
    assert_eq!(line, [call(2), call(1), call(3)]);
}

#[test]
fn a_missed_call_is_back_at_its_place_and_spares_the_agent() {
    let mut desk = Desk::new(config());
    let idle = desk.now;
    desk.enqueue(1);
    desk.enqueue(2);
    desk.available("a", idle, 1);
    let (offer, bound) = desk.grant("a");
    assert_eq!(bound, call(1));
    desk.ended("a", &offer, Outcome::Declined);
    assert_eq!(desk.queue.view(10).calls[0].call, call(1));
    // The same agent, without going ready anew: the next call is taken meanwhile.
    desk.available("a", idle, 1);
    let (offer, bound) = desk.grant("a");
    assert_eq!(bound, call(2));
    let Some(QueueEvent::Committed { decision, .. }) = desk.journal.last() else { panic!() };
    assert_eq!(decision.position, 2);
    desk.ended("a", &offer, Outcome::CallerGone);
    // Another agent takes the first.
    desk.available("b", desk.now, 1);
    assert_eq!(desk.grant("b").1, call(1));
}

#[test]
fn sparing_ends_with_its_time_or_when_the_agent_goes_ready_anew() {
    for anew in [false, true] {
        let mut desk = Desk::new(config());
        let idle = desk.now;
        desk.enqueue(1);
        desk.available("a", idle, 1);
        let (offer, _) = desk.grant("a");
        desk.ended("a", &offer, Outcome::Missed);
        desk.available("a", idle, 1);
        assert!(desk.reserved().is_empty(), "spared");
        if anew {
            desk.pass(secs(1));
            desk.available("a", desk.now, 1);
        } else {
            desk.pass(secs(10));
        }
        assert_eq!(desk.grant("a").1, call(1), "anew: {anew}");
    }
}

#[test]
fn after_the_commit_no_silence_makes_the_call_ring_elsewhere() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.available("a", desk.now, 1);
    let (offer, _) = desk.grant("a");
    let mut resent = 0;
    for n in 0..600 {
        if n % 10 == 0 {
            desk.available("b", desk.now, 1);
            assert!(desk.reserved().is_empty());
        }
        desk.pass(secs(1));
        resent += desk.commits().iter().filter(|(name, ..)| name == "a").count();
        assert!(desk.commits().iter().all(|(name, ..)| name == "a"));
    }
    assert!(resent >= 200, "sent again {resent} times");
    desk.agent("a", AgentToQueue::Rejected { offer });
    assert_eq!(desk.grant("b").1, call(1), "known never to have rung: offered to the other");
}

#[test]
fn a_reservation_without_an_answer_is_abandoned() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.available("a", desk.now, 1);
    let (_, offer) = desk.reserved().pop().unwrap();
    desk.available("b", desk.now, 1);
    assert!(desk.reserved().is_empty(), "one call, one hold");
    desk.pass(secs(1));
    assert_eq!(desk.grant("b").1, call(1));
    // The late grant is let go.
    desk.agent("a", AgentToQueue::Granted { offer: offer.clone() });
    let cancel = QueueToAgent::Cancel { offer };
    assert!(desk.effects.contains(&QueueEffect::ToAgent { agent: agent("a"), message: cancel }));
}

#[test]
fn a_refused_reservation_goes_to_the_next_agent() {
    let mut desk = Desk::new(config());
    let now = desk.now;
    desk.available("a", now.minus(secs(9)), 1);
    desk.available("b", now.minus(secs(5)), 1);
    desk.enqueue(1);
    let (name, offer) = desk.reserved().pop().unwrap();
    assert_eq!(name, "a");
    let (reason, stamp) = (RefuseReason::Busy, Stamp { epoch: Epoch(5), seq: 1 });
    desk.agent("a", AgentToQueue::Refused { offer, reason, stamp });
    assert_eq!(desk.grant("b").1, call(1));
    assert_eq!(desk.queue.available_agents(), 0);
}

#[test]
fn a_caller_who_leaves_while_it_rings_is_out_and_the_ringing_is_stopped() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.available("a", desk.now, 1);
    let (offer, _) = desk.grant("a");
    desk.pass(secs(3));
    desk.call(1, CallToQueue::Leave { entry: 0, cause: LeaveCause::FlowOut });
    let cancel =
        QueueEffect::ToAgent { agent: agent("a"), message: QueueToAgent::Cancel { offer: offer.clone() } };
    assert!(desk.effects.contains(&cancel));
    let seen = QueueToCall::LeaveSeen { entry: 0 };
    assert!(!desk.says_to_call(1, &seen), "still rings: must not be enqueued elsewhere yet");
    desk.enqueue(1);
    assert!(desk.effects.is_empty(), "nor may the answer to a late duplicate say so: {:?}", desk.effects);
    desk.pass(secs(2));
    assert!(desk.effects.contains(&cancel), "sent again");
    desk.ended("a", &offer, Outcome::CallerGone);
    assert!(desk.says_to_call(1, &seen));
    assert_eq!((desk.queue.totals().flowed_out, desk.queue.totals().waiting), (1, 0));
}

#[test]
fn a_leave_that_overtakes_its_enqueue_leaves_no_ghost_not_even_after_a_crash() {
    let mut desk = Desk::new(config());
    desk.call(1, CallToQueue::Leave { entry: 0, cause: LeaveCause::Abandoned });
    let mut queue =
        Queue::new(desk.queue.tenant.clone(), desk.queue.id.clone(), Epoch(2), (*desk.queue.config).clone());
    desk.journal.iter().for_each(|event| queue.apply(event));
    desk.queue = queue;
    desk.enqueue(1);
    assert!(desk.says_to_call(1, &QueueToCall::LeaveSeen { entry: 0 }));
    assert_eq!((desk.queue.totals().offered, desk.queue.totals().waiting), (0, 0));
}

#[test]
fn the_longest_wait_ends_in_a_release_but_not_while_it_rings() {
    let mut desk = Desk::new(QueueConfig { max_wait: Some(secs(30)), ..config() });
    desk.enqueue(1);
    desk.enqueue(2);
    desk.pass(secs(25));
    desk.available("a", desk.now, 1);
    let (offer, bound) = desk.grant("a");
    assert_eq!(bound, call(1));
    desk.agent("a", AgentToQueue::Accepted { offer: offer.clone() });
    desk.pass(secs(6));
    let release = QueueToCall::Release { entry: 0, cause: ReleaseCause::QueueTimeout };
    assert!(desk.says_to_call(2, &release) && !desk.says_to_call(1, &release));
    desk.ended("a", &offer, Outcome::Missed);
    assert!(desk.says_to_call(1, &release), "its time was over when it came back");
    desk.call(1, CallToQueue::Leave { entry: 0, cause: LeaveCause::Timeout });
    desk.pass(secs(1));
    assert!(!desk.says_to_call(1, &release), "answered: not told again");
    assert_eq!(desk.queue.totals().timed_out, 2);
}

#[test]
fn the_service_level_is_a_fold_by_its_definition() {
    let mut desk = Desk::new(config());
    (1..=4).for_each(|n| desk.enqueue(n));
    desk.pass(secs(3));
    desk.call(4, CallToQueue::Leave { entry: 0, cause: LeaveCause::Abandoned });
    for (name, wait) in [("a", 7), ("b", 20)] {
        desk.pass(secs(wait));
        desk.available(name, desk.now, 1);
        let (offer, _) = desk.grant(name);
        desk.ended(name, &offer, Outcome::Answered);
    }
    desk.call(3, CallToQueue::Leave { entry: 0, cause: LeaveCause::Abandoned });
    let totals = desk.queue.totals();
    assert_eq!((totals.offered, totals.answered, totals.answered_in_target), (4, 2, 1));
    assert_eq!((totals.abandoned, totals.short_abandoned), (2, 1));
    // 1 ÷ (2 + 2 − 1)
    assert!((totals.service_level().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(totals.average_speed_of_answer(), Some(secs(20)));
    let mut folded = QueueTotals::default();
    desk.journal.iter().for_each(|event| folded.apply(event));
    assert_eq!(folded, *totals);
}

#[test]
fn an_answer_counts_once_whether_the_call_or_the_agent_tells_it_first() {
    for call_first in [false, true] {
        let mut desk = Desk::new(config());
        desk.enqueue(1);
        desk.available("a", desk.now, 1);
        let (offer, _) = desk.grant("a");
        let at = desk.now;
        let by_call = CallToQueue::Answered { entry: 0, offer: offer.clone(), at };
        if call_first {
            desk.call(1, by_call.clone());
        }
        desk.ended("a", &offer, Outcome::Answered);
        desk.call(1, by_call);
        assert!(desk.says_to_call(1, &QueueToCall::AnsweredSeen { entry: 0, offer }));
        assert_eq!((desk.queue.totals().answered, desk.queue.totals().waiting), (1, 0));
    }
}

#[test]
fn an_agent_is_not_believed_for_ever() {
    let mut desk = Desk::new(config());
    desk.available("a", desk.now, 1);
    desk.pass(secs(61));
    assert_eq!(desk.queue.available_agents(), 0);
    desk.enqueue(1);
    assert!(desk.reserved().is_empty());
}

#[test]
fn a_waiting_call_is_asked_whether_it_still_waits() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.pass(secs(60));
    assert!(desk.says_to_call(1, &QueueToCall::Ask { entry: 0 }));
    desk.pass(secs(5));
    assert!(desk.says_to_call(1, &QueueToCall::Ask { entry: 0 }), "asked again");
    desk.call(1, CallToQueue::Gone { entry: 0 });
    assert_eq!((desk.queue.totals().lost, desk.queue.totals().waiting), (1, 0));
}

/// A call that looks after its place tells by that that it waits.
#[test]
fn a_call_that_asks_for_its_place_is_not_asked() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    for _ in 0..4 {
        desk.pass(secs(30));
        assert!(!desk.says_to_call(1, &QueueToCall::Ask { entry: 0 }));
        desk.enqueue(1);
    }
    assert_eq!(desk.queue.totals().waiting, 1);
    desk.pass(secs(60));
    assert!(desk.says_to_call(1, &QueueToCall::Ask { entry: 0 }), "it has become silent");
}

#[test]
fn a_new_owner_keeps_the_places_and_sends_the_commit_again() {
    let mut desk = Desk::new(config());
    (1..=3).for_each(|n| desk.enqueue(n));
    desk.available("a", desk.now, 1);
    let (offer, _) = desk.grant("a");
    let line = desk.queue.view(10).calls;
    let texts: Vec<String> = desk.journal.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    let mut queue =
        Queue::new(desk.queue.tenant.clone(), desk.queue.id.clone(), Epoch(2), (*desk.queue.config).clone());
    for text in texts {
        queue.apply(&serde_json::from_str(&text).unwrap());
    }
    assert_eq!(queue.snapshot(), desk.queue.snapshot());
    let text = serde_json::to_string(&queue.snapshot()).unwrap();
    let snapshot: QueueSnapshot = serde_json::from_str(&text).unwrap();
    let (tenant, id) = (desk.queue.tenant.clone(), desk.queue.id.clone());
    desk.queue = Queue::restore(tenant, id, Epoch(2), config(), snapshot);
    let mut out = Outbox::new();
    desk.queue.recovered(desk.now, &mut out);
    desk.take(out);
    assert!(desk.effects.contains(&QueueEffect::AskAgents { known: [].into() }));
    assert_eq!(desk.commits().len(), 1);
    assert_eq!(desk.queue.view(10).calls, line);
    desk.ended("a", &offer, Outcome::Answered);
    assert_eq!(desk.queue.totals().answered, 1);
    desk.available("b", desk.now, 1);
    let (_, offer) = desk.reserved().pop().unwrap();
    assert_eq!(offer.epoch, Epoch(2), "offers of two owners never meet");
}

#[test]
fn at_most_sixteen_calls_spare_somebody() {
    let mut desk = Desk::new(config());
    (1..=20).for_each(|n| desk.enqueue(n));
    let idle = desk.now;
    for _ in 1..=20 {
        desk.available("a", idle, 1);
        let (offer, _) = desk.grant("a");
        desk.ended("a", &offer, Outcome::Declined);
    }
    assert_eq!(desk.queue.reluctant.len(), matching::RELUCTANT_MOST);
    desk.available("b", desk.now, 1);
    assert_eq!(desk.grant("b").1, call(1), "whoever spares whom, the first place is served first");
}

/// Whoever comes back (the agent was lost, the queue did not know the place) stands where the old time says, in front of
/// those who came meanwhile; a time in the future or of another age is a wrong clock and counts no more than it can.
#[test]
fn a_caller_who_comes_back_keeps_the_time() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    let entered = desk.now;
    desk.pass(secs(1));
    desk.enqueue(2);
    desk.pass(secs(1));
    desk.call(1, CallToQueue::Leave { entry: 0, cause: LeaveCause::FlowOut });
    desk.enqueue_again(1, 1, entered);
    desk.enqueue_again(3, 1, desk.now.plus(secs(3_600)));
    let line: Vec<_> = desk.queue.view(10).calls.iter().map(|c| (c.call, c.enqueued_at)).collect();
    assert_eq!(line, [(call(1), entered), (call(2), entered.plus(secs(1))), (call(3), desk.now)]);
    desk.available("a", desk.now, 1);
    assert_eq!(desk.grant("a").1, call(1));
    desk.enqueue_again(4, 1, Timestamp::ZERO);
    let oldest = desk.queue.view(10).calls.iter().map(|c| c.enqueued_at).min();
    assert_eq!(oldest, Some(desk.now.minus(secs(24 * 3_600))));
    assert!(desk.journal.iter().all(|event| event.at() > Timestamp::ZERO), "events keep their own instants");
}

/// A queue whose new node's clock is an hour behind (or a quarter of a second, which is all that it takes) still serves in
/// order of arrival, also after another recovery; waiting times go by the clock that there is.
#[test]
fn a_clock_that_is_behind_places_nobody_before_those_who_wait() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.enqueue_with(2, Some(5));
    desk.now = desk.now.minus(secs(3_600));
    for n in [3, 4] {
        let mut queue = Desk::new(config()).queue;
        desk.journal.iter().for_each(|event| queue.apply(event));
        desk.queue = queue;
        desk.enqueue(n);
    }
    desk.enqueue_with(5, Some(5));
    let line: Vec<_> = desk.queue.view(10).calls.iter().map(|c| c.call).collect();
    assert_eq!(line, [2, 5, 1, 3, 4].map(call));
    let entered = desk.queue.view(10).calls.last().map(|c| c.enqueued_at);
    assert_eq!(entered, Some(desk.now));
}

/// After a recovery those who stayed silent are asked once more, and nobody else.
#[test]
fn a_recovered_queue_asks_the_silent_again() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    let mut out = Outbox::new();
    desk.queue.recovered(desk.now, &mut out);
    desk.take(out);
    desk.available("a", desk.now, 1);
    desk.pass(secs(2));
    assert!(desk.effects.contains(&QueueEffect::AskAgents { known: [agent("a")].into() }));
    desk.pass(secs(120));
    assert!(!desk.effects.iter().any(|e| matches!(e, QueueEffect::AskAgents { .. })));
}

/// A call that talks already may say that it does not wait any more before it says why: the conversation counts.
#[test]
fn a_call_that_is_gone_while_its_offer_is_open_is_not_lost() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.available("a", desk.now, 1);
    let (offer, _) = desk.grant("a");
    desk.call(1, CallToQueue::Gone { entry: 0 });
    assert_eq!(desk.commits().len(), 1, "the agent is asked");
    desk.ended("a", &offer, Outcome::Answered);
    let totals = desk.queue.totals();
    assert_eq!((totals.answered, totals.lost), (1, 0));
    desk.enqueue(2);
    desk.call(2, CallToQueue::Gone { entry: 0 });
    assert_eq!(desk.queue.totals().lost, 1);
}

#[test]
fn who_comes_back_before_the_answer_is_known_was_answered() {
    let mut desk = Desk::new(config());
    desk.available("ann", desk.now, 3);
    desk.enqueue(1);
    let (offer, _) = desk.grant("ann");
    // Passed on to this very queue by the agent, of whom it has not heard yet.
    desk.enqueue_again(1, 1, desk.now);
    assert_eq!(desk.queue.totals().flowed_out, 0);
    desk.ended("ann", &offer, Outcome::Answered);
    desk.enqueue_again(1, 1, desk.now);
    let totals = desk.queue.totals();
    assert_eq!((totals.answered, totals.offered), (1, 2));
    assert_eq!(totals.waiting, 1, "and waits again");
}

/// The same for a queue that is rebuilt within its epoch: also the offers that it had reserved and not committed.
#[test]
fn a_rebuilt_queue_uses_no_offer_of_its_former_self() {
    let mut desk = Desk::new(config());
    desk.enqueue(1);
    desk.available("a", desk.now, 1);
    let (_, reserved) = desk.reserved().pop().unwrap();
    let (tenant, id) = (desk.queue.tenant.clone(), desk.queue.id.clone());
    let mut queue = Queue::new(tenant, id, desk.queue.epoch, config());
    desk.journal.iter().for_each(|event| queue.apply(event));
    desk.queue = queue;
    let mut out = Outbox::new();
    desk.queue.recovered(desk.now, &mut out);
    desk.take(out);
    desk.available("b", desk.now, 1);
    let (_, other) = desk.reserved().pop().unwrap();
    assert_eq!(other.epoch, reserved.epoch);
    assert!(other.n > reserved.n, "{other} after {reserved}");
}

/// A queue with 5,000 callers is back from its journal with its order, and dispatches at once.
#[test]
fn a_long_queue_is_back_in_order() {
    let mut desk = Desk::new(config());
    (1..=5_000).for_each(|n| desk.enqueue(n));
    let (tenant, id) = (desk.queue.tenant.clone(), desk.queue.id.clone());
    let mut queue = Queue::new(tenant, id, Epoch(9), config());
    desk.journal.iter().for_each(|event| queue.apply(event));
    desk.queue = queue;
    let mut out = Outbox::new();
    desk.queue.recovered(desk.now, &mut out);
    desk.take(out);
    desk.available("a", desk.now, 1);
    assert_eq!(desk.grant("a").1, call(1));
}
