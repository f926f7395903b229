use super::*;
use crate::history::Call;

const BEGUN: i64 = 1_795_000_000_000;

/// Writes a history line by line.
#[derive(Default)]
struct Story {
    now: u64,
    entries: Vec<Entry>,
}

impl Story {
    fn add(&mut self, what: What) -> &mut Self {
        self.entries.push(Entry { at_ms: self.now, what });
        self
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self
    }

    fn calls(&mut self, caller: usize) -> &mut Self {
        self.add(What::Calls { caller }).wait(10).add(What::Connected { caller })
    }

    /// The caller's place: each enters when it was connected.
    fn call(&self, caller: usize, offer: u32) -> Call {
        let connected = self.entries.iter().find(|e| e.what == What::Connected { caller }).unwrap().at_ms;
        Call {
            call_id: format!("call-{caller}"),
            offer_id: format!("call-{caller}/{offer}"),
            caller: Some(caller),
            entered_ms: BEGUN + connected as i64,
            asked: false,
        }
    }

    fn state(&mut self, agent: &str, state: &str, call: Option<Call>) -> &mut Self {
        self.add(What::State { agent: agent.into(), state: state.into(), call })
    }

    fn rings(&mut self, agent: &str, caller: usize, offer: u32) -> &mut Self {
        let call = self.call(caller, offer);
        self.state(agent, "ringing", Some(call.clone())).add(What::Rings { agent: agent.into(), call })
    }

    fn answers(&mut self, agent: &str, caller: usize, offer: u32) -> &mut Self {
        let call = self.call(caller, offer);
        self.add(What::Answers { agent: agent.into(), call: call.clone() }).state(
            agent,
            "talking",
            Some(call),
        )
    }

    fn hangs_up(&mut self, agent: &str, caller: usize) -> &mut Self {
        self.add(What::AgentHangsUp { agent: agent.into(), call_id: format!("call-{caller}") })
            .wait(20)
            .state(agent, "wrap_up", None)
            .add(What::Ended { caller })
            .state(agent, "ready", None)
    }

    fn record(&mut self, caller: usize, agent: &str, talk_ms: i64) -> &mut Self {
        let ended = self.entries.iter().find(|e| e.what == What::Ended { caller }).unwrap().at_ms;
        self.add(What::Record {
            call_id: format!("call-{caller}"),
            caller: Some(caller),
            outcome: "answered".into(),
            agent: agent.into(),
            ended_ms: Some(BEGUN + ended as i64),
            talk_ms,
            cause: "agent_hangup".into(),
        })
    }

    fn served(&mut self, agent: &str, caller: usize) -> &mut Self {
        self.rings(agent, caller, 1).wait(50).answers(agent, caller, 1).wait(2_000).hangs_up(agent, caller)
    }

    fn violations(&self) -> Vec<Promise> {
        self.judged(&Rules { begun_unix_ms: BEGUN, ..Rules::default() })
    }

    fn judged(&self, rules: &Rules) -> Vec<Promise> {
        let mut found: Vec<Promise> = check(&self.entries, rules).iter().map(|v| v.promise).collect();
        found.dedup();
        found
    }
}

fn good() -> Story {
    let mut story = Story::default();
    story.calls(1).calls(2).calls(3).wait(1_000);
    story.served("ann", 1).wait(100).served("ann", 2).wait(100).served("bob", 3);
    story.record(1, "ann", 2_000).record(2, "ann", 2_000).record(3, "bob", 2_000);
    story.add(What::Rest { calls: 0, waiting: 0 });
    story.add(What::Settled { agent: "ann".into(), state: "ready".into() });
    story
}

#[test]
fn a_good_history_violates_nothing() {
    assert_eq!(good().violations(), []);
}

#[test]
fn a_call_that_two_agents_have_is_found() {
    let mut story = Story::default();
    story.calls(1).rings("ann", 1, 1).wait(50).answers("ann", 1, 1).wait(100);
    story.rings("bob", 1, 2).answers("bob", 1, 2).wait(2_000).state("ann", "wrap_up", None);
    assert_eq!(story.violations(), [Promise::OneAgentACall]);
}

#[test]
fn two_agents_may_be_told_of_a_change_in_either_order() {
    let mut story = Story::default();
    story.calls(1).rings("ann", 1, 1).wait(5_000);
    // Withdrawn from ann, but her page is told 200 ms after bob's.
    story.rings("bob", 1, 2).wait(200).state("ann", "ready", None).wait(3_000);
    assert_eq!(story.violations(), []);
}

#[test]
fn a_page_without_connection_holds_no_call_unless_it_comes_back_with_it() {
    let mut story = Story::default();
    story.calls(1).rings("ann", 1, 1).answers("ann", 1, 1).wait(100);
    story.add(What::Offline { agent: "ann".into(), why: "cut".into() }).wait(60_000);
    story.rings("bob", 1, 2).answers("bob", 1, 2).wait(3_000);
    assert_eq!(story.violations(), [], "the system may give the call to somebody else");
    let call = story.call(1, 1);
    story.state("ann", "talking", Some(call));
    assert_eq!(story.violations(), [Promise::OneAgentACall], "but then it is not hers any more");
}

#[test]
fn one_offer_at_two_agents_is_found_even_if_they_never_overlap() {
    let mut story = Story::default();
    story.calls(1).rings("ann", 1, 1).wait(5_000).state("ann", "ready", None).wait(5_000).rings("bob", 1, 1);
    assert_eq!(story.violations(), [Promise::OneAgentACall]);
}

#[test]
fn an_agent_with_two_calls_is_found() {
    let mut story = Story::default();
    story.calls(1).calls(2).rings("ann", 1, 1).answers("ann", 1, 1).wait(100);
    let second = story.call(2, 1);
    story.add(What::Rings { agent: "ann".into(), call: second });
    assert_eq!(story.violations(), [Promise::OneCallAnAgent]);
}

#[test]
fn records_of_one_agent_that_overlap_are_found() {
    let mut story = Story::default();
    story.calls(1).calls(2).served("ann", 1).served("ann", 2);
    story.record(1, "ann", 2_000).record(2, "ann", 4_500);
    assert_eq!(story.violations(), [Promise::OneCallAnAgent]);
}

#[test]
fn callers_who_are_cut_off_refused_or_never_answered_are_found() {
    let mut story = Story::default();
    story.calls(1).wait(5_000).add(What::Ended { caller: 1 });
    assert_eq!(story.violations(), [Promise::NoCallerLost], "cut off while waiting");

    let mut story = Story::default();
    story.calls(1).rings("ann", 1, 1).answers("ann", 1, 1).wait(100).add(What::Ended { caller: 1 });
    assert_eq!(story.violations(), [Promise::NoCallerLost], "cut off while talking");
    let rules = Rules { lost: 1, begun_unix_ms: BEGUN, ..Rules::default() };
    assert_eq!(story.judged(&rules), [], "one may be lost with a media node");

    let mut story = Story::default();
    story.add(What::Calls { caller: 1 }).wait(40_000).add(What::Refused { caller: 1, status: 503 });
    assert_eq!(story.violations(), [Promise::NoCallerLost]);
    let rules = Rules { refused: true, ..Rules::default() };
    assert_eq!(story.judged(&rules), [], "refused clearly");

    let mut story = Story::default();
    story.add(What::Calls { caller: 1 }).wait(40_000).calls(2);
    assert_eq!(story.violations(), [Promise::NoCallerLost], "not even refused");
}

#[test]
fn a_caller_who_hangs_up_is_not_lost() {
    let mut story = Story::default();
    story.calls(1).wait(5_000).add(What::HangsUp { caller: 1 }).wait(50).add(What::Ended { caller: 1 });
    assert_eq!(story.violations(), []);
}

#[test]
fn overtaking_is_found() {
    let mut story = Story::default();
    story.calls(1).wait(100).calls(2).wait(100).calls(3).wait(1_000);
    story.rings("ann", 2, 1).wait(1_500).rings("bob", 3, 1).wait(1_500).rings("cy", 1, 1);
    assert_eq!(story.violations(), [Promise::Order]);
}

#[test]
fn rings_that_are_told_at_the_same_moment_are_no_overtaking() {
    let mut story = Story::default();
    story.calls(1).wait(100).calls(2).wait(1_000).rings("ann", 2, 1).wait(300).rings("bob", 1, 1);
    assert_eq!(story.violations(), []);
}

#[test]
fn a_caller_offered_before_may_ring_again_late() {
    let mut story = Story::default();
    story.calls(1).wait(100).calls(2).wait(1_000);
    story.rings("ann", 1, 1).wait(1_500).state("ann", "not_ready", None);
    story.rings("bob", 2, 1).wait(1_500).rings("cy", 1, 2);
    assert_eq!(story.violations(), []);
}

#[test]
fn a_waiting_time_that_begins_anew_is_found() {
    let mut story = Story::default();
    story.calls(1).wait(20_000);
    let mut call = story.call(1, 1);
    call.entered_ms += 15_000;
    story.add(What::Rings { agent: "ann".into(), call });
    assert_eq!(story.violations(), [Promise::WaitingTime], "not the time of the call");

    let mut story = Story::default();
    story.calls(1).wait(1_000).rings("ann", 1, 1).wait(3_000).state("ann", "ready", None);
    let mut call = story.call(1, 2);
    call.entered_ms += 1;
    story.add(What::Rings { agent: "bob".into(), call });
    assert_eq!(story.violations(), [Promise::WaitingTime], "not the time that was told before");
}

#[test]
fn records_that_are_missing_doubled_unfinished_or_wrong_are_found() {
    let without = |caller: usize| {
        let mut story = good();
        story.entries.retain(|e| !matches!(&e.what, What::Record { caller: Some(c), .. } if *c == caller));
        story
    };
    assert_eq!(without(2).violations(), [Promise::Records], "missing");
    assert_eq!(good().record(3, "bob", 100).violations(), [Promise::Records], "doubled");
    assert_eq!(without(3).record(3, "ann", 100).violations(), [Promise::Records], "another agent");
    let mut story = without(1);
    story.record(1, "ann", 2_000);
    if let Some(Entry { what: What::Record { ended_ms, .. }, .. }) = story.entries.last_mut() {
        *ended_ms = None;
    }
    assert_eq!(story.violations(), [Promise::Records], "unfinished");
    let mut story = good();
    story.record(1, "ann", 0);
    if let Some(Entry { what: What::Record { caller, .. }, .. }) = story.entries.last_mut() {
        *caller = None;
    }
    assert_eq!(story.violations(), [Promise::Records], "of nobody");
}

#[test]
fn ghosts_and_stuck_agents_are_found() {
    let mut story = good();
    story.add(What::Rest { calls: 1, waiting: 0 });
    assert_eq!(story.violations(), [Promise::NobodyStuck]);
    let mut story = good();
    story.add(What::Settled { agent: "bob".into(), state: "connecting".into() });
    assert_eq!(story.violations(), [Promise::NobodyStuck]);
}

/// `ann` has caller 9; `bob` is asked and gets the caller while her page still shows the call.
fn passed_on(decisions: &[fn(String, String) -> What], asked: bool) -> Vec<Promise> {
    let mut story = good();
    story.calls(9).wait(100).rings("ann", 9, 0).wait(200).answers("ann", 9, 0).wait(1_000);
    for decision in decisions {
        story.add(decision("ann".into(), "call-9".into()));
    }
    let call = Call { asked, ..story.call(9, 1) };
    story.wait(200).state("bob", "talking", Some(call)).wait(2_000).state("ann", "wrap_up", None);
    story.violations().into_iter().filter(|promise| *promise == Promise::OneAgentACall).collect()
}

#[test]
fn a_second_agent_is_there_only_when_the_first_one_wished_so() {
    let consults: fn(String, String) -> What = |agent, call_id| What::Consults { agent, call_id };
    let passes: fn(String, String) -> What = |agent, call_id| What::PassesOn { agent, call_id };
    let one = [Promise::OneAgentACall];
    assert_eq!(passed_on(&[], false), one, "nobody wished it");
    assert_eq!(passed_on(&[], true), one, "asked by nobody");
    assert_eq!(passed_on(&[consults], true), []);
    assert_eq!(passed_on(&[consults], false), one, "asked, and has the caller all the same");
    assert_eq!(passed_on(&[consults, passes], false), []);
    assert_eq!(passed_on(&[passes], false), []);
}

#[test]
fn who_is_passed_on_waits_anew_and_nobody_else() {
    let again = |passed_on: bool| {
        let mut story = good();
        story.calls(9).wait(100).rings("ann", 9, 0).wait(200).answers("ann", 9, 0).wait(1_000);
        if passed_on {
            story.add(What::PassesOn { agent: "ann".into(), call_id: "call-9".into() });
        }
        story.wait(20).state("ann", "wrap_up", None).wait(2_000);
        let call = Call { entered_ms: story.call(9, 1).entered_ms + 1_300, ..story.call(9, 1) };
        story.add(What::Rings { agent: "bob".into(), call });
        story.violations().contains(&Promise::WaitingTime)
    };
    assert!(again(false) && !again(true));
}
