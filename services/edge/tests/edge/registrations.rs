//! Telephones that register and call with digest, over real sockets; the account's end is played by the tests.

use std::sync::Arc;

use tokio::sync::mpsc;
use trunkline_edge::{Config, TelephoneAccount, TelephonesConfig};
use trunkline_proto::{
    common::v1::{Envelope, Role, envelope::Payload},
    registrar::v1::{
        BindingList, BoundContact, Refusal, Register, RegistrarAnswer, TelephoneMessage, refusal::Reason,
        registrar_answer, telephone_message,
    },
};
use trunkline_rpc::{Deliver, Refused};
use trunkline_sip::{
    HeaderName, Method, Response,
    digest::{Algorithm, Challenge, Secret, ha1},
};
use trunkline_types::{EntityAddress, EntityKind};

use crate::support::*;

struct AccountEnd(mpsc::Sender<(EntityAddress, Register)>);

impl Deliver for AccountEnd {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let Some(Payload::Telephone(TelephoneMessage {
            message: Some(telephone_message::Message::Register(register)),
        })) = envelope.payload
        else {
            return Err(Refused::Unroutable);
        };
        self.0.try_send((address.unwrap(), register)).map_err(|_| Refused::Full)
    }
}

/// An edge whose accounts are answered for by the test.
struct Office {
    node: Node,
    asked: mpsc::Receiver<(EntityAddress, Register)>,
}

fn account() -> TelephoneAccount {
    let hash = |algorithm| ha1(algorithm, "1001", "default", "right");
    TelephoneAccount {
        tenant: "default".parse().unwrap(),
        name: "1001".parse().unwrap(),
        ha1_sha256: hash(Algorithm::Sha256),
        ha1_md5: Some(hash(Algorithm::Md5)),
        caller_number: "+49301001".to_owned(),
        caller_name: "Desk".to_owned(),
        may_dial: vec!["support".to_owned(), "nobody".to_owned()],
        max_contacts: 5,
    }
}

impl Office {
    async fn open(config: Config) -> Self {
        let node = Node::start_telephones(config, vec![account()]).await;
        let (sender, asked) = mpsc::channel(1_000);
        node.bus.attach_entities(EntityKind::Telephone, Arc::new(AccountEnd(sender)));
        Self { node, asked }
    }

    /// What the account is asked next.
    async fn asked(&mut self) -> (EntityAddress, Register) {
        tokio::time::timeout(SOON, self.asked.recv()).await.expect("the account is asked").unwrap()
    }

    fn answer(&self, account: &EntityAddress, transaction: &str, result: registrar_answer::Result) {
        let answer = RegistrarAnswer {
            tenant: account.tenant.to_string(),
            telephone: account.id.clone(),
            transaction: transaction.to_owned(),
            result: Some(result),
        };
        let envelope = Envelope {
            to: Some(self.node.bus.own(Role::Edge)),
            from_shard: Some(u32::from(account.shard().index())),
            from_epoch: 1,
            payload: Some(Payload::Registrar(answer)),
            ..Envelope::default()
        };
        self.node.bus.send(envelope).unwrap();
    }

    async fn refused(&mut self, phone: &Phone, branch: &str, reason: Reason, value: u32) -> Response {
        let challenge = challenged(phone, branch).await;
        phone.send(&signed(&draft(&format!("{branch}b")), &challenge, "right", 1)).await;
        let (account, register) = self.asked().await;
        let refusal = Refusal { reason: reason.into(), value, text: "Bad Contact".to_owned() };
        self.answer(&account, &register.transaction, registrar_answer::Result::Refusal(refusal));
        phone.answer().await
    }
}

fn bindings(uri: &str) -> registrar_answer::Result {
    let contact = BoundContact {
        uri: uri.to_owned(),
        expires_s: 412,
        q: Some(500),
        instance: "<urn:uuid:1>".to_owned(),
        reg_id: 1,
    };
    registrar_answer::Result::Bindings(BindingList { contacts: vec![contact] })
}

fn draft(branch: &str) -> Draft {
    Draft::new("REGISTER", "1001", branch).uri("sip:127.0.0.1")
}

fn signed(draft: &Draft, challenge: &Challenge, password: &str, count: u32) -> Draft {
    signed_as("1001", draft, challenge, password, count)
}

fn signed_as(user: &str, draft: &Draft, challenge: &Challenge, password: &str, count: u32) -> Draft {
    let method = Method::parse(draft.method).unwrap();
    let answer = challenge.answer(user, Secret::Password(password), &method, &draft.uri, "abc", count);
    let header = if draft.method == "REGISTER" { "Authorization" } else { "Proxy-Authorization" };
    let value = String::from_utf8(answer.to_value().to_vec()).unwrap();
    draft.clone().with(format!("{header}: {value}"))
}

fn challenge_of(answer: &Response) -> Challenge {
    let header =
        if answer.status == 401 { HeaderName::WwwAuthenticate } else { HeaderName::ProxyAuthenticate };
    answer.headers.challenges(&header).into_iter().next().expect("a challenge")
}

async fn challenged(phone: &Phone, branch: &str) -> Challenge {
    let answer = phone.ask(&draft(branch)).await;
    assert_eq!(answer.status, 401);
    challenge_of(&answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_telephone_that_says_who_it_is_is_bound_by_its_account() {
    let mut office = Office::open(config()).await;
    // 127.0.0.3 is no trunk: telephones are anywhere.
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let challenge = challenged(&phone, "a").await;
    assert_eq!(
        (challenge.realm.as_str(), challenge.algorithm, challenge.stale),
        ("default", Algorithm::Sha256, false)
    );
    let register = signed(&draft("b").with("Path: <sip:proxy.example;lr>"), &challenge, "right", 1);
    phone.send(&register).await;
    let (account, asked) = office.asked().await;
    assert_eq!(account.to_string(), "telephone/default/1001");
    assert_eq!((asked.source, asked.transport.as_str()), (phone.address().to_string(), "udp"));
    assert_eq!((asked.edge.as_str(), asked.nonce_count, asked.max_contacts), ("n1", 1, 5));
    let seen = parse(&asked.message);
    assert!(!seen.headers.contains(&HeaderName::Authorization), "credentials stay at the edge");
    // Again before it is answered, and after: the account is asked once.
    phone.send(&register).await;
    office.answer(&account, &asked.transaction, bindings("sip:1001@127.0.0.3:9"));
    let answer = phone.answer().await;
    assert_eq!(answer.status, 200);
    let contact = answer.headers.get_str(&HeaderName::Contact).unwrap().into_owned();
    assert_eq!(contact, "<sip:1001@127.0.0.3:9>;expires=412;q=0.500;+sip.instance=\"<urn:uuid:1>\";reg-id=1");
    assert_eq!(answer.headers.get_str(&HeaderName::Path).unwrap(), "<sip:proxy.example;lr>");
    let tag = answer.headers.to_tag();
    phone.send(&register).await;
    assert_eq!(phone.answer().await.headers.to_tag(), tag, "by the transaction");
    assert!(office.asked.try_recv().is_err());
    office
        .node
        .until("it is counted", |node| node.metric("registrations_total{result=\"done\"}") == 1.0)
        .await;
    assert_eq!(office.node.edge.busy(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_at_another_edge_needs_no_further_challenge_and_is_granted_the_same() {
    let (mut first, mut second) = (Office::open(config()).await, Office::open(config()).await);
    let phone = Phone::at("127.0.0.3", &first.node).await;
    let challenge = challenged(&phone, "a").await;
    phone.send(&signed(&draft("b"), &challenge, "right", 1)).await;
    let (_, at_first) = first.asked().await;
    // The first edge is gone before it answers. The same request comes to the second, and then the refresh.
    drop(first);
    let phone = Phone::at("127.0.0.3", &second.node).await;
    phone.send(&signed(&draft("b"), &challenge, "right", 1)).await;
    let (account, asked) = second.asked().await;
    assert_eq!((asked.draw, asked.nonce, asked.nonce_count), (at_first.draw, at_first.nonce, 1));
    second.answer(&account, &asked.transaction, bindings("sip:1001@127.0.0.3:9"));
    assert_eq!(phone.answer().await.status, 200);
    phone.send(&signed(&draft("c"), &challenge, "right", 2)).await;
    let (account, asked) = second.asked().await;
    assert_ne!(asked.draw, at_first.draw, "each request has its own place in the range");
    second.answer(&account, &asked.transaction, bindings("sip:1001@127.0.0.3:9"));
    assert_eq!(phone.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_password_learns_nothing() {
    let mut office = Office::open(config()).await;
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let mut shapes = Vec::new();
    for (n, user) in ["1001", "1009"].into_iter().enumerate() {
        let challenge = challenged(&phone, &format!("a{n}")).await;
        let plain = Draft::new("REGISTER", user, &format!("b{n}")).uri("sip:127.0.0.1");
        let answer = phone.ask(&signed_as(user, &plain, &challenge, "wrong", 1)).await;
        let again = challenge_of(&answer);
        shapes.push((answer.status, again.stale, answer.to_bytes().len()));
    }
    assert_eq!(
        shapes,
        [(401, false, shapes[0].2), (401, false, shapes[0].2)],
        "known and unknown look alike"
    );
    // The right password for somebody else's address.
    let challenge = challenged(&phone, "c").await;
    let other = Draft::new("REGISTER", "1002", "d").uri("sip:127.0.0.1");
    assert_eq!(phone.ask(&signed(&other, &challenge, "right", 1)).await.status, 403);
    // A count that was used: the password need not be asked for again.
    let replayed = phone.ask(&signed(&draft("e"), &challenge, "right", 1)).await;
    assert_eq!((replayed.status, challenge_of(&replayed).stale), (401, true));
    // The telephone was let in from here, so it has a few tries of its own, and then none.
    let challenge = challenged(&phone, "f").await;
    for n in 0..5 {
        assert_eq!(phone.ask(&signed(&draft(&format!("g{n}")), &challenge, "wrong", 1)).await.status, 401);
    }
    let locked = phone.ask(&signed(&draft("h"), &challenge, "right", 1)).await;
    assert_eq!((locked.status, locked.headers.retry_after().unwrap()), (403, Some(60)));
    assert!(office.asked.try_recv().is_err(), "no account was asked");
    assert_eq!(office.node.metric("registrations_total{result=\"denied\"}"), 7.0);
    let mut elsewhere = Office::open(config()).await;
    let phone = Phone::at("127.0.0.3", &elsewhere.node).await;
    let answer = phone.ask(&draft("i").uri("sip:phones.example")).await;
    assert_eq!(challenge_of(&answer).realm, "phones.example", "a domain that is a realm");
    assert!(elsewhere.asked.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_account_reach_the_telephone_with_their_reason() {
    let mut office = Office::open(config()).await;
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let brief = office.refused(&phone, "a", Reason::IntervalTooBrief, 60).await;
    assert_eq!((brief.status, brief.headers.get_str(&HeaderName::MinExpires).as_deref()), (423, Some("60")));
    let many = office.refused(&phone, "b", Reason::TooManyContacts, 5).await;
    assert_eq!((many.status, many.reason.as_ref()), (403, &b"At Most 5 Contacts"[..]));
    let old = office.refused(&phone, "c", Reason::OutOfOrder, 0).await;
    assert_eq!(old.status, 500);
    let malformed = office.refused(&phone, "d", Reason::Malformed, 0).await;
    assert_eq!((malformed.status, malformed.reason.as_ref()), (400, &b"Bad Contact"[..]));
    let replayed = office.refused(&phone, "e", Reason::Replayed, 0).await;
    assert_eq!((replayed.status, challenge_of(&replayed).stale), (401, true));
    assert_eq!(office.refused(&phone, "f", Reason::Unknown, 0).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_does_not_answer_is_asked_again_with_the_same() {
    let mut office = Office::open(config()).await;
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let challenge = challenged(&phone, "a").await;
    phone.send(&signed(&draft("b"), &challenge, "right", 1)).await;
    let (account, first) = office.asked().await;
    // Its owner died with it; the next one gets it again.
    let (_, second) = office.asked().await;
    assert_eq!(first, second);
    office.answer(&account, &second.transaction, bindings("sip:1001@127.0.0.3:9"));
    assert_eq!(phone.answer().await.status, 200);
    office.answer(&account, &second.transaction, bindings("sip:1001@127.0.0.3:9"));
    office
        .node
        .until("the second answer is dropped", |node| {
            node.metric("dropped_total{reason=\"late_registration\"}") == 1.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_telephone_calls_from_anywhere_with_its_password() {
    let mut office = Office::open(config()).await;
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let asked = phone.ask(&Draft::invite("a")).await;
    assert_eq!(asked.status, 407);
    let challenge = challenge_of(&asked);
    phone.send(&signed(&Draft::invite("b"), &challenge, "right", 1)).await;
    let (call, invite) = office.node.request().await;
    let new = invite.new_call.clone().unwrap();
    assert_eq!((new.caller_number.as_str(), new.caller_name.as_str()), ("+49301001", "Desk"));
    assert_eq!(
        (new.tenant.as_str(), new.trunk.as_str(), new.dialled.as_str()),
        ("default", "telephones", "support")
    );
    assert!(!parse(&invite.message).headers.contains(&HeaderName::ProxyAuthorization));
    // The INVITE again is the same call; the same credentials for another one are not taken.
    phone.send(&signed(&Draft::invite("b"), &challenge, "right", 1)).await;
    let replayed = phone.ask(&signed(&Draft::invite("c"), &challenge, "right", 1)).await;
    assert_eq!((replayed.status, challenge_of(&replayed).stale), (407, true));
    office.node.answer(&call, &invite, 486);
    assert_eq!(phone.answer().await.status, 486);
    let wrong = phone.ask(&signed(&Draft::invite("d"), &challenge, "wrong", 2)).await;
    assert_eq!(wrong.status, 407);
    // It may dial what its account says.
    let menu = Draft::new("INVITE", "menu", "e");
    assert_eq!(phone.ask(&signed(&menu, &challenge, "right", 3)).await.status, 403);
    let nobody = Draft::new("INVITE", "nobody", "f");
    assert_eq!(phone.ask(&signed(&nobody, &challenge, "right", 4)).await.status, 404);
    let hidden = Draft::invite("g").with("Privacy: id");
    phone.send(&signed(&hidden, &challenge, "right", 5)).await;
    let (_, invite) = office.node.request().await;
    assert_eq!(invite.new_call.unwrap().caller_number, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_an_expiry_are_the_edges_configuration() {
    let telephones =
        TelephonesConfig { min_expires_s: 5, max_expires_s: 20, default_expires_s: 10, ..Default::default() };
    let mut office = Office::open(Config { telephones, ..config() }).await;
    let phone = Phone::at("127.0.0.3", &office.node).await;
    let challenge = challenged(&phone, "a").await;
    phone.send(&signed(&draft("b"), &challenge, "right", 1)).await;
    let (_, asked) = office.asked().await;
    assert_eq!((asked.min_expires_s, asked.default_expires_s, asked.max_expires_s), (5, 10, 20));
}
