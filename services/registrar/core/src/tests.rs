use std::time::Duration;

use bytes::Bytes;
use trunkline_sip::{Message, Uri, parse_datagram};
use trunkline_types::{Machine, Outbox, Output, Timestamp};

use crate::{
    Bound, Effect, Event, Input, Limits, Malformed, NonceUse, Outcome, Refusal, Register, Request, Telephone,
};

const DESK: &str = "Contact: <sip:1001@192.0.2.1:5070>\r\n";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + seconds * 1_000)
}

fn sip(call_id: &str, cseq: u32, more: &str) -> trunkline_sip::Request {
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:1001@example.com>;tag=1\r\n\
         To: <sip:1001@example.com>\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\n{more}\
         Content-Length: 0\r\n\r\n"
    );
    match parse_datagram(&Bytes::from(text)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// An account with what it has said, and the history that a journal would hold.
#[derive(Default)]
struct Account {
    core: Telephone,
    history: Vec<Event>,
    shown: usize,
}

/// A request whose particulars tests change.
fn wish(call_id: &str, cseq: u32, more: &str) -> Register {
    Register {
        edge: "e1".to_owned(),
        transaction: "t".to_owned(),
        request: Request::read(&sip(call_id, cseq, more)).unwrap(),
        source: "192.0.2.1:5070".to_owned(),
        transport: "udp".to_owned(),
        draw: u32::MAX,
        nonce: None,
        limits: Limits {
            min_expires: Duration::from_secs(60),
            default_expires: Duration::from_secs(600),
            max_expires: Duration::from_secs(3_600),
            max_contacts: 3,
        },
    }
}

impl Account {
    /// Advances, handles, and gives the answer.
    fn ask(&mut self, now: Timestamp, register: Register) -> Outcome {
        let mut out = Outbox::new();
        self.core.advance(now, &mut out);
        self.core.handle(now, Input::Register(Box::new(register)), &mut out);
        let mut answer = None;
        for output in out.drain() {
            match output {
                Output::Event(event) => self.history.push(event),
                Output::Effect(Effect::Answer { outcome, .. }) => answer = Some(outcome),
                Output::Effect(Effect::Show(_)) => self.shown += 1,
            }
        }
        // Whatever was done: the journal holds all of it.
        let mut replayed = Telephone::new();
        self.history.iter().for_each(|event| replayed.apply(event));
        assert_eq!(replayed, self.core, "replay is recovery");
        assert_eq!(Telephone::restore(self.core.snapshot()), self.core);
        answer.expect("every request is answered")
    }

    fn bound(&mut self, now: Timestamp, register: Register) -> Vec<Bound> {
        match self.ask(now, register) {
            Outcome::Bound(bound) => bound,
            other => panic!("{other:?}"),
        }
    }

    fn contacts(&mut self, now: Timestamp) -> Vec<String> {
        let bound = self.bound(now, wish("asks", 1, ""));
        bound.iter().map(|bound| bound.contact.to_string()).collect()
    }
}

#[test]
fn a_contact_is_bound_until_it_expires() {
    let mut account = Account::default();
    let bound = account.bound(at(0), wish("a", 1, &format!("{DESK}Expires: 300\r\n")));
    assert_eq!(bound.len(), 1);
    assert_eq!((bound[0].contact.to_string().as_str(), bound[0].expires_s), ("sip:1001@192.0.2.1:5070", 300));
    assert_eq!(account.core.next_deadline(), Some(at(300)));
    assert_eq!(account.contacts(at(299)).len(), 1);
    assert_eq!(account.contacts(at(300)).len(), 0);
    assert!(matches!(&account.history[1], Event::Expired { removed, .. } if removed == &[0]));
    assert_eq!(account.core.next_deadline(), None, "nothing is left to wait for");
}

#[test]
fn the_contacts_own_expiry_wins_over_the_header_and_both_over_the_default() {
    let mut account = Account::default();
    let two = "Contact: <sip:a@192.0.2.1>;expires=120, <sip:b@192.0.2.1>\r\nExpires: 240\r\n";
    let mut bound = account.bound(at(0), wish("a", 1, two));
    bound.sort_by_key(|bound| bound.expires_s);
    assert_eq!(bound.iter().map(|bound| bound.expires_s).collect::<Vec<_>>(), [120, 240]);
    let mut account = Account::default();
    assert_eq!(account.bound(at(0), wish("a", 1, DESK))[0].expires_s, 600);
    // A malformed one counts as none; one that is too long is cut.
    let malformed = "Contact: <sip:a@192.0.2.1>;expires=soon\r\nExpires: 99999999\r\n";
    assert_eq!(Account::default().bound(at(0), wish("a", 1, malformed))[0].expires_s, 600);
    let endless = format!("{DESK}Expires: 4294967295\r\n");
    assert_eq!(Account::default().bound(at(0), wish("a", 1, &endless))[0].expires_s, 3_600);
}

#[test]
fn expiries_are_spread_over_the_last_quarter_and_never_below_the_least() {
    let granted = |wanted: &str, draw: u32| {
        let register = Register { draw, ..wish("a", 1, &format!("{DESK}Expires: {wanted}\r\n")) };
        Account::default().bound(at(0), register)[0].expires_s
    };
    assert_eq!((granted("600", 0), granted("600", u32::MAX)), (450, 600));
    let mut counts = [0_u32; 151];
    for n in 0..15_100_u32 {
        counts[granted("600", n.wrapping_mul(2_654_435_761)) as usize - 450] += 1;
    }
    assert!(counts.iter().all(|count| (85..=115).contains(count)), "even: {counts:?}");
    assert_eq!((granted("64", 0), granted("60", 0)), (60, 60));
    assert!(granted("64", u32::MAX) == 64);
}

#[test]
fn an_interval_that_is_too_brief_is_refused_and_nothing_of_the_request_is_done() {
    let mut account = Account::default();
    let one_of_two = "Contact: <sip:a@192.0.2.1>;expires=300, <sip:b@192.0.2.1>;expires=59\r\n";
    let refused = account.ask(at(0), wish("a", 1, one_of_two));
    assert_eq!(refused, Outcome::Refused(Refusal::IntervalTooBrief(Duration::from_secs(60))));
    assert!(account.history.is_empty() && account.contacts(at(0)).is_empty());
}

#[test]
fn a_refresh_is_one_small_event() {
    let mut account = Account::default();
    account.bound(at(0), wish("a", 1, DESK));
    account.bound(at(400), wish("a", 2, DESK));
    assert_eq!(account.history.len(), 2);
    let Event::Changed { changed, .. } = &account.history[1] else { panic!() };
    assert!(changed.set.is_empty() && changed.removed.is_empty());
    assert_eq!((changed.refreshed[0].expires_at, changed.refreshed[0].cseq), (at(1_000), 2));
    // Through another edge it is a change of where the telephone is reached.
    let moved = Register { edge: "e2".to_owned(), ..wish("a", 3, DESK) };
    account.bound(at(500), moved);
    let Event::Changed { changed, .. } = &account.history[2] else { panic!() };
    assert_eq!((changed.set.len(), &*changed.set[0].edge, changed.set[0].since), (1, "e2", at(0)));
}

#[test]
fn requests_of_one_call_id_count_in_their_order() {
    let mut account = Account::default();
    account.bound(at(0), wish("a", 5, DESK));
    let older = account.ask(at(1), wish("a", 4, &format!("{DESK}Expires: 0\r\n")));
    assert_eq!(older, Outcome::Refused(Refusal::OutOfOrder));
    let older = account.ask(at(1), wish("a", 4, "Contact: *\r\nExpires: 0\r\n"));
    assert_eq!(older, Outcome::Refused(Refusal::OutOfOrder));
    // Another Call-ID: a telephone that was started anew begins its numbers anew.
    assert_eq!(account.bound(at(1), wish("b", 1, DESK)).len(), 1);
    // One of two is too old: nothing is done.
    let two = format!("Contact: <sip:new@192.0.2.1>\r\n{DESK}");
    assert_eq!(account.ask(at(2), wish("b", 0, &two)), Outcome::Refused(Refusal::OutOfOrder));
    assert_eq!(account.contacts(at(2)).len(), 1);
}

#[test]
fn a_request_that_comes_again_is_answered_again_and_changes_nothing() {
    let mut account = Account::default();
    let used = Some(NonceUse { nonce: 7, count: 1 });
    let first = account.bound(at(0), Register { nonce: used, ..wish("a", 1, DESK) });
    // Through another edge: the first died before it had answered.
    let again = Register { nonce: used, edge: "e2".to_owned(), draw: 0, ..wish("a", 1, DESK) };
    assert_eq!(account.bound(at(0), again), first);
    assert_eq!(account.history.len(), 1);
}

#[test]
fn credentials_that_were_used_do_nothing_new_wherever_they_come_from() {
    let mut account = Account::default();
    let with = |count, register: Register| Register { nonce: Some(NonceUse { nonce: 7, count }), ..register };
    account.bound(at(0), with(3, wish("a", 1, DESK)));
    let thief = "Contact: <sip:1001@203.0.113.9>\r\n";
    assert_eq!(account.ask(at(1), with(3, wish("x", 9, thief))), Outcome::Refused(Refusal::Replayed));
    assert_eq!(account.ask(at(1), with(2, wish("x", 9, thief))), Outcome::Refused(Refusal::Replayed));
    assert_eq!(account.bound(at(2), with(4, wish("a", 2, DESK))).len(), 1);
    // Known after the binding is gone, and after a recovery (`ask` compares with the replayed one each time).
    account.bound(at(3), with(5, wish("a", 3, "Contact: *\r\nExpires: 0\r\n")));
    assert_eq!(account.ask(at(4), with(4, wish("a", 2, DESK))), Outcome::Refused(Refusal::Replayed));
    for nonce in 100..200 {
        let nonce = Some(NonceUse { nonce, count: 1 });
        account.bound(at(5), Register { nonce, ..wish("a", 4 + account.history.len() as u32, DESK) });
    }
    assert_eq!(account.core.snapshot().nonces.len(), 16, "what is remembered is bounded");
}

#[test]
fn removal_takes_one_or_all() {
    let mut account = Account::default();
    account.bound(at(0), wish("a", 1, "Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.2>\r\n"));
    account.bound(at(1), wish("a", 2, "Contact: <sip:a@192.0.2.1>;expires=0\r\n"));
    assert_eq!(account.contacts(at(1)), ["sip:b@192.0.2.2"]);
    // Removing what is not bound is no error and no event.
    let before = account.history.len();
    account.bound(at(2), wish("a", 3, "Contact: <sip:c@192.0.2.3>;expires=0\r\n"));
    assert_eq!(account.history.len(), before);
    assert!(account.bound(at(3), wish("a", 4, "Contact: *\r\nExpires: 0\r\n")).is_empty());
    account.bound(at(3), wish("a", 5, "Contact: *\r\nExpires: 0\r\n"));
    assert_eq!(account.history.len(), before + 1);
}

#[test]
fn what_cannot_be_understood_is_named() {
    let read = |more: &str| Request::read(&sip("a", 1, more)).unwrap_err();
    assert_eq!(read("Contact: *\r\n"), Malformed("Contact * Needs Expires 0"));
    assert_eq!(read("Contact: *\r\nExpires: 60\r\n"), Malformed("Contact * Needs Expires 0"));
    assert_eq!(read("Contact: <tel:+4930123>\r\n"), Malformed("Contact Is Not A SIP URI"));
    assert_eq!(read("Contact: <sip:a@192.0.2.1>;q=1.1\r\n"), Malformed("Bad Contact q"));
    let many: Vec<String> = (0..65).map(|n| format!("<sip:a{n}@192.0.2.1>")).collect();
    let many = format!("Contact: {}\r\n", many.join(", "));
    assert_eq!(read(&many), Malformed("Too Many Contacts In One Request"));
    let path = Request::read(&sip("a", 1, "Path: <sip:p1;lr>, <sip:p2;lr>\r\nContact: <sip:a@h?x=y>\r\n"));
    let Ok(Request { path, wanted: crate::Wanted::Contacts(contacts), .. }) = path else { panic!() };
    assert_eq!(path, ["<sip:p1;lr>", "<sip:p2;lr>"]);
    assert_eq!(contacts[0].uri.to_string(), "sip:a@h", "headers of a URI are not taken along");
}

#[test]
fn an_account_has_its_limit_and_refreshes_are_within_it() {
    let mut account = Account::default();
    let contact = |n: u32| format!("Contact: <sip:a@192.0.2.{n}>\r\n");
    for n in 1..=3 {
        account.bound(at(0), wish(&n.to_string(), 1, &contact(n)));
    }
    let refused = account.ask(at(1), wish("4", 1, &contact(4)));
    assert_eq!(refused, Outcome::Refused(Refusal::TooManyContacts(3)));
    assert_eq!(account.bound(at(1), wish("3", 2, &contact(3))).len(), 3);
    // One goes, one comes.
    let swap = "Contact: <sip:a@192.0.2.1>;expires=0, <sip:a@192.0.2.4>\r\n";
    assert_eq!(account.bound(at(2), wish("4", 2, swap)).len(), 3);
    // The limit was lowered: those that are bound may stay.
    let mut fewer = wish("4", 3, &contact(4));
    fewer.limits.max_contacts = 1;
    assert_eq!(account.bound(at(3), fewer).len(), 3);
}

#[test]
fn a_telephone_that_comes_back_elsewhere_replaces_its_older_contact() {
    let mut account = Account::default();
    let named = |host: &str, instance: &str, reg_id: u32| {
        format!("Contact: <sip:a@{host}>;+sip.instance=\"<urn:uuid:{instance}>\";reg-id={reg_id}\r\n")
    };
    account.bound(at(0), wish("a", 1, &named("192.0.2.1", "one", 1)));
    account.bound(at(1), wish("b", 1, &named("192.0.2.2", "one", 1)));
    assert_eq!(account.contacts(at(1)), ["sip:a@192.0.2.2"]);
    account.bound(at(2), wish("c", 1, &named("192.0.2.3", "two", 1)));
    account.bound(at(3), wish("d", 1, &named("192.0.2.4", "one", 2)));
    assert_eq!(account.contacts(at(3)).len(), 3, "another telephone, and another flow of the first");
    // A contact without a name that gets one is the same contact.
    let mut account = Account::default();
    account.bound(at(0), wish("a", 1, "Contact: <sip:a@192.0.2.1>\r\n"));
    account.bound(at(1), wish("a", 2, &named("192.0.2.1", "one", 1)));
    assert_eq!(account.contacts(at(1)).len(), 1);
}

#[test]
fn the_preferred_contact_is_told_first_and_equal_addresses_are_one() {
    let mut account = Account::default();
    let two = "Contact: <sip:a@192.0.2.1>;q=0.3, <sip:b@192.0.2.1>;q=0.75\r\n";
    let bound = account.bound(at(0), wish("a", 1, two));
    assert_eq!(bound.iter().map(|bound| bound.q).collect::<Vec<_>>(), [Some(750), Some(300)]);
    // RFC 3261 section 19.1.4: the host is compared without case, the user with it.
    account.bound(at(1), wish("a", 2, "Contact: <sip:c@Host.Example>\r\n"));
    account.bound(at(2), wish("a", 3, "Contact: <sip:c@host.example>\r\n"));
    assert_eq!(account.contacts(at(2)).len(), 3);
    // The same twice in one request is bound once.
    let twice = "Contact: <sip:x@192.0.2.9>, <sip:x@192.0.2.9>\r\n";
    assert_eq!(Account::default().bound(at(0), wish("a", 1, twice)).len(), 1);
}

#[test]
fn an_account_that_is_taken_away_is_reached_nowhere() {
    let mut account = Account::default();
    account.bound(at(0), wish("a", 1, DESK));
    for events in [1, 0] {
        let mut out = Outbox::new();
        account.core.handle(at(1), Input::Withdraw, &mut out);
        let told = out.drain().filter(|output| matches!(output, Output::Event(_))).count();
        assert_eq!(told, events, "and once is enough");
    }
    assert!(account.core.bindings().is_empty());
}

#[test]
fn after_a_recovery_people_see_what_is_bound_and_time_goes_on() {
    let mut account = Account::default();
    account.bound(at(0), wish("a", 1, DESK));
    assert_eq!(account.shown, 1);
    let mut heir = Telephone::new();
    account.history.iter().for_each(|event| heir.apply(event));
    let mut out = Outbox::new();
    heir.recovered(at(30), &mut out);
    let shown: Vec<_> = out.drain().collect();
    let [Output::Effect(Effect::Show(bindings))] = &shown[..] else { panic!("{shown:?}") };
    assert!(matches!(&bindings[0].contact, Uri::Sip(uri) if uri.host() == "192.0.2.1"));
    assert_eq!(heir.next_deadline(), Some(at(600)));
}
