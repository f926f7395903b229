//! What an edge sees of the room: answers over the bus, the journal behind it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use trunkline_actors::{ActorMetrics, Arbiters, now};
use trunkline_cluster::{EmbeddedPlacement, Incarnation};
use trunkline_journal::{Journal, SqliteJournal, SqliteOptions};
use trunkline_proto::{
    common::v1::{Envelope, Role, envelope::Payload},
    registrar::v1::{
        Register, RegistrarAnswer, TelephoneMessage, refusal::Reason, registrar_answer::Result as Answered,
        telephone_message::Message,
    },
};
use trunkline_rpc::{Bus, BusMetrics, Deliver, Refused, entity};
use trunkline_types::{EntityAddress, NodeId, ShardId, TelephoneId, TenantId};

use crate::{Directory, Registrar, RegistrarMetrics, RegistrarParts};

const SOON: Duration = Duration::from_secs(10);

/// Accounts that are configured.
struct Accounts(Mutex<Vec<&'static str>>);

impl Directory for Accounts {
    fn has_telephone(&self, _: &TenantId, telephone: &TelephoneId) -> bool {
        self.0.lock().contains(&telephone.as_str())
    }
}

struct EdgeEnd(mpsc::Sender<Envelope>);

impl Deliver for EdgeEnd {
    fn deliver(&self, _: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        self.0.try_send(envelope).map_err(|_| Refused::Full)
    }
}

struct Node {
    registrar: Registrar,
    bus: Bus,
    answers: mpsc::Receiver<Envelope>,
    accounts: Arc<Accounts>,
    registry: Registry,
}

fn address(name: &str) -> EntityAddress {
    EntityAddress::telephone(&"default".parse().unwrap(), &name.parse().unwrap())
}

impl Node {
    /// A node on `journal`: it takes over what a former one left.
    async fn start(journal: Arc<dyn Journal>, incarnation: u64) -> Self {
        let id: NodeId = "n1".parse().unwrap();
        let placement =
            EmbeddedPlacement::start(&*journal, id.clone(), Incarnation(incarnation)).await.unwrap();
        let bus = Bus::new(id, BusMetrics::default(), now);
        let (sender, answers) = mpsc::channel(100);
        bus.attach_role(Role::Edge, Arc::new(EdgeEnd(sender)));
        let accounts = Arc::new(Accounts(Mutex::new(vec!["1001", "1002"])));
        let mut registry = Registry::default();
        let registrar = Registrar::start(&RegistrarParts {
            bus: bus.clone(),
            arbiters: Arbiters::start(1).unwrap(),
            journal,
            placement: Arc::new(placement),
            directory: accounts.clone(),
            actor_metrics: ActorMetrics::default(),
            metrics: RegistrarMetrics::register(&mut registry),
        });
        registrar.recover(&ShardId::all().collect::<Vec<_>>()).await.unwrap();
        Self { registrar, bus, answers, accounts, registry }
    }

    /// Sends a request and gives its answer.
    async fn ask(&mut self, name: &str, cseq: u32, more: &str) -> RegistrarAnswer {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{cseq}\r\n\
             From: <sip:{name}@example.com>;tag=1\r\nTo: <sip:{name}@example.com>\r\nCall-ID: c\r\n\
             CSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n"
        );
        let register = Register {
            edge: "n1".to_owned(),
            transaction: format!("t{cseq}"),
            message: text.into(),
            source: "192.0.2.1:5060".to_owned(),
            transport: "udp".to_owned(),
            draw: u32::MAX,
            min_expires_s: 1,
            default_expires_s: 600,
            max_expires_s: 3_600,
            max_contacts: 2,
            nonce: 5,
            nonce_count: cseq,
        };
        let message = TelephoneMessage { message: Some(Message::Register(register)) };
        let envelope = Envelope {
            to: Some(entity(&address(name))),
            from: Some(self.bus.own(Role::Edge)),
            payload: Some(Payload::Telephone(message)),
            ..Envelope::default()
        };
        self.bus.send(envelope).unwrap();
        let answer = tokio::time::timeout(SOON, self.answers.recv()).await.expect("an answer").unwrap();
        assert!(answer.from_epoch > 0 && answer.from_shard == Some(u32::from(address(name).shard().index())));
        let Some(Payload::Registrar(answer)) = answer.payload else { panic!() };
        assert_eq!((answer.transaction.as_str(), answer.telephone.as_str()), (&*format!("t{cseq}"), name));
        answer
    }

    async fn contacts(&mut self, name: &str, cseq: u32, more: &str) -> Vec<String> {
        match self.ask(name, cseq, more).await.result {
            Some(Answered::Bindings(list)) => list.contacts.into_iter().map(|contact| contact.uri).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&mut self, name: &str, cseq: u32, more: &str) -> (Reason, u32) {
        match self.ask(name, cseq, more).await.result {
            Some(Answered::Refusal(refusal)) => (refusal.reason(), refusal.value),
            other => panic!("{other:?}"),
        }
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().any(|found| found == line)
    }

    /// Waits until so many bindings are shown.
    async fn shows(&self, count: usize) {
        let shown = async {
            while self.registrar.seen(None, |_| true, 100).len() != count
                || !self.metric(&format!("bindings {count}"))
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, shown).await.unwrap_or_else(|_| panic!("{count} bindings are shown"));
    }
}

fn contact(n: u32) -> String {
    format!("Contact: <sip:a@192.0.2.{n}>\r\n")
}

async fn journal() -> Arc<dyn Journal> {
    Arc::new(SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap())
}

#[tokio::test]
async fn what_was_answered_is_in_the_journal_and_the_next_owner_has_it() {
    let journal = journal().await;
    let mut node = Node::start(journal.clone(), 1).await;
    assert_eq!(node.contacts("1001", 1, &contact(1)).await.len(), 1);
    let written = journal.load_entity(&address("1001")).await.unwrap();
    assert_eq!(written.events.len(), 1, "committed before it was answered");
    // More refreshes than events between two snapshots.
    for cseq in 2..150 {
        node.contacts("1001", cseq, &contact(1)).await;
    }
    node.contacts("1002", 1, &contact(2)).await;
    node.shows(2).await;
    assert!(node.metric("registrations_total{result=\"changed\"} 150"));
    // Nothing is said good-bye to: the next one has only the journal.
    let mut heir = Node::start(journal.clone(), 2).await;
    heir.shows(2).await;
    assert_eq!(heir.contacts("1001", 150, "").await, ["sip:a@192.0.2.1"]);
    assert_eq!(heir.refused("1001", 148, &contact(1)).await.0, Reason::OutOfOrder);
    assert_eq!(heir.refused("1001", 149, &contact(9)).await.0, Reason::Replayed);
    let history = journal.load_entity(&address("1001")).await.unwrap();
    assert!(history.snapshot.is_some() && history.events.len() < 128, "read from a snapshot on");
}

#[tokio::test]
async fn refusals_say_why() {
    let mut node = Node::start(journal().await, 1).await;
    assert_eq!(
        node.refused("1001", 1, "Contact: <sip:a@h>;expires=0\r\nContact: *\r\n").await.0,
        Reason::Malformed
    );
    node.contacts("1001", 2, &contact(1)).await;
    node.contacts("1001", 3, &contact(2)).await;
    assert_eq!(node.refused("1001", 4, &contact(3)).await, (Reason::TooManyContacts, 2));
    assert_eq!(node.refused("mallory", 1, &contact(1)).await.0, Reason::Unknown);
    assert!(node.metric("registrations_total{result=\"too_many_contacts\"} 1"));
}

#[tokio::test]
async fn an_account_that_is_taken_away_loses_its_bindings() {
    let journal = journal().await;
    let mut node = Node::start(journal.clone(), 1).await;
    node.contacts("1001", 1, &contact(1)).await;
    node.contacts("1002", 1, &contact(2)).await;
    node.shows(2).await;
    node.accounts.0.lock().retain(|name| *name != "1001");
    node.registrar.accounts_changed();
    node.shows(1).await;
    assert_eq!(node.refused("1001", 2, "").await.0, Reason::Unknown);
    assert_eq!(node.registrar.seen(None, |_| true, 100)[0].address, address("1002"));
    assert!(node.registrar.seen(Some(&address("1002")), |_| true, 100).is_empty());
}

#[tokio::test]
async fn a_binding_runs_out_by_itself() {
    let mut node = Node::start(journal().await, 1).await;
    node.contacts("1001", 1, "Contact: <sip:a@192.0.2.1>;expires=1\r\n").await;
    node.shows(1).await;
    node.shows(0).await;
    assert!(node.metric("expired_total 1"));
}
