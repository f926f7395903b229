//! A call in a flow.

use std::time::Duration;

use trunkline_types::ReleaseCause;

use super::bed::*;
use crate::{
    Destination, EventBody, FlowOutcome, MediaFailureKind, Phase, QueueRequest, QueueSignal, RefusedReason,
};

fn begun(text: &str) -> Bed {
    let mut bed = Bed::new(shelf(&[text]));
    let id = bed.library.flows.keys().next().unwrap().clone();
    bed.invite_to(Destination::Flow(id), "v=0\r\n");
    bed.media_ok();
    bed.ack();
    bed
}

fn at_menu() -> Bed {
    let mut bed = begun(MENU);
    assert_eq!(bed.playing().unwrap().prompts, ["greeting"]);
    bed.played();
    assert_eq!(bed.playing().unwrap().prompts, ["menu"]);
    bed
}

fn steps(bed: &Bed) -> Vec<String> {
    let step = |event: &crate::Event| match &event.body {
        EventBody::FlowStep { node, outcome } => Some(format!("{node}:{outcome:?}")),
        _ => None,
    };
    bed.events.iter().filter_map(step).collect()
}

#[test]
fn a_choice_leads_to_its_queue_with_the_attributes() {
    let mut bed = at_menu();
    bed.played();
    bed.drain();
    bed.key('2');
    assert_eq!(bed.call.queue().unwrap().as_str(), "sales");
    let requests = bed.queue_requests();
    assert!(
        matches!(&requests[..], [QueueRequest::Enqueue(e)] if e.card.attributes["topic"] == "sales"),
        "{requests:?}"
    );
    let expected = ["greeting:Entered", "menu:Entered", "menu:Digits(\"2\")", "sales:Entered"];
    assert_eq!(steps(&bed)[..4], expected);
}

#[test]
fn a_key_during_the_prompt_counts_and_so_does_one_typed_ahead() {
    let mut bed = at_menu();
    bed.key('1');
    assert_eq!(bed.call.queue().unwrap().as_str(), "support");
    let mut bed = begun(MENU);
    bed.key('2');
    assert_eq!(bed.call.phase(), Phase::Flow);
    bed.played();
    assert_eq!(bed.call.queue().unwrap().as_str(), "sales");
}

#[test]
fn wrong_keys_are_answered_and_lead_to_support_in_the_end() {
    let mut bed = at_menu();
    for _ in 0..2 {
        bed.key('9');
        assert_eq!(bed.playing().unwrap().prompts, ["invalid", "menu"]);
        bed.settle_media();
    }
    bed.key('*');
    assert_eq!(bed.call.queue().unwrap().as_str(), "support");
    assert_eq!(steps(&bed).iter().filter(|step| step.contains("Invalid")).count(), 3);
}

#[test]
fn silence_is_asked_again_and_ends_with_goodbye() {
    let mut bed = at_menu();
    for _ in 0..2 {
        bed.played();
        bed.pass(Duration::from_millis(4_900));
        assert_ne!(bed.playing().unwrap().prompts, ["goodbye"]);
        bed.pass(Duration::from_millis(200));
        assert_eq!(bed.playing().unwrap().prompts, ["no-input", "menu"]);
    }
    bed.played();
    bed.pass(Duration::from_secs(5));
    assert_eq!(bed.playing().unwrap().prompts, ["goodbye"]);
    bed.played();
    assert_eq!(bed.call.cause(), Some(ReleaseCause::FlowEnd));
    assert_eq!(bed.requests().len(), 1);
}

#[test]
fn prompts_whose_end_is_lost_or_that_do_not_exist_stop_nobody() {
    let mut bed = at_menu();
    bed.settle_media();
    bed.pass(Duration::from_secs(126));
    assert_eq!(bed.playing().unwrap().prompts, ["no-input", "menu"]);
    let mut bed = begun(MENU);
    bed.reply(Err(MediaFailureKind::UnknownPrompt));
    assert_eq!(bed.playing().unwrap().prompts, ["menu"]);
    bed.reply(Err(MediaFailureKind::UnknownPrompt));
    bed.key('1');
    assert_eq!(bed.call.queue().unwrap().as_str(), "support");
    assert!(bed.has(|e| matches!(e, EventBody::FlowStep { outcome: FlowOutcome::Error(_), .. })));
}

#[test]
fn the_flow_knows_what_to_do_when_the_queue_is_full() {
    let mut bed = at_menu();
    bed.key('1');
    bed.queue(0, QueueSignal::Refused(RefusedReason::QueueFull));
    assert_eq!(bed.playing().unwrap().prompts, ["queue-full", "goodbye"]);
    bed.played();
    assert_eq!(bed.call.cause(), Some(ReleaseCause::FlowEnd));
}

const ACCOUNT: &str = r##"
flow: account
start: vip
nodes:
  vip: { branch: { variable: caller_number, prefixes: { "+49": ask, "+4930": berlin }, otherwise: ask } }
  berlin: { set: { attributes: { city: "Berlin ${caller_name}" }, next: ask } }
  ask:
    collect:
      prompts: [menu]
      into: account
      min: 4
      max: 6
      terminator: "#"
      check: luhn
      tries: 2
      invalid: [invalid]
      next: keep
      on_invalid: out
      on_timeout: out
  keep: { set: { attributes: { account: "${account}" }, next: wait } }
  wait: { enqueue: { queue: support, priority: 5 } }
  out: { hangup: {} }
"##;

#[test]
fn digits_are_collected_checked_and_kept_only_as_an_attribute() {
    let mut bed = begun(ACCOUNT);
    for key in "9998#".chars() {
        bed.key(key);
    }
    assert_eq!(bed.playing().unwrap().prompts, ["invalid", "menu"], "fails the Luhn check");
    bed.settle_media();
    // Six digits are complete, and right by Luhn.
    for key in "424242".chars() {
        bed.key(key);
    }
    assert_eq!(bed.call.phase(), Phase::Queued);
    let journal = format!("{:?}", bed.events);
    assert!(journal.contains("Berlin Ada"), "the longest prefix wins");
    assert!(journal.contains("424242"), "kept as an attribute");
    assert!(!journal.contains("9998"), "what was not kept is not journalled");
}

#[test]
fn a_right_number_goes_on_with_the_terminator_or_after_a_pause() {
    for pause in [false, true] {
        let mut bed = begun(ACCOUNT);
        // 4242 is valid by Luhn: 4*2 + 2 + 4*2 + 2 = 20.
        for key in "4242".chars() {
            bed.key(key);
        }
        bed.drain();
        if pause {
            bed.settle_media();
            bed.pass(Duration::from_secs(3));
        } else {
            bed.key('#');
        }
        let requests = bed.queue_requests();
        assert!(
            matches!(&requests[..], [QueueRequest::Enqueue(e)]
                if e.card.attributes["account"] == "4242" && e.priority == 5),
            "{requests:?}"
        );
    }
}

#[test]
fn a_caller_who_goes_round_for_ever_is_let_go() {
    let text = "flow: round\nstart: a\nnodes:\n  a: { play: { prompts: [x], next: b } }\n  b: { play: { prompts: \
                [x], next: a } }\n";
    let mut bed = begun(text);
    for _ in 0..1_100 {
        if bed.call.phase() == Phase::Ended {
            break;
        }
        bed.played();
    }
    assert_eq!(bed.call.cause(), Some(ReleaseCause::Internal));
}
