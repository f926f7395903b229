//! The configuration documents of all tenants (queues, agents, accounts, telephones, numbers, flows), read from the journal's
//! database into memory and read again when they change. Every room asks here through its own trait; a document that
//! cannot be read keeps its last good form and is named in the log.

mod check;
mod model;
mod ports;
mod seed;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use parking_lot::RwLock;
use trunkline_acd_core::{AgentConfig, QueueConfig};
use trunkline_call::{Flow, FlowStore};
use trunkline_edge::TelephoneAccount;
use trunkline_journal::{Document, Journal};
use trunkline_types::{AgentId, FlowId, QueueId, TelephoneId, TenantId};

pub use self::check::{KINDS, check};
pub use self::model::{AccountBody, FlowBody, NumberBody, TelephoneBody, TenantBody};
pub use self::seed::{DEV_ACCOUNTS, DEV_TELEPHONES, dev};

/// What documents are about.
pub mod kind {
    /// A tenant: its own id in the tenant `system`.
    pub const TENANT: &str = "tenant";
    /// [`trunkline_acd_core::QueueConfig`].
    pub const QUEUE: &str = "queue";
    /// [`trunkline_acd_core::AgentConfig`].
    pub const AGENT: &str = "agent";
    /// [`super::AccountBody`].
    pub const ACCOUNT: &str = "account";
    /// [`super::TelephoneBody`].
    pub const TELEPHONE: &str = "telephone";
    /// [`super::NumberBody`].
    pub const NUMBER: &str = "number";
    /// [`super::FlowBody`].
    pub const FLOW: &str = "flow";
    /// Keys of the cluster, in the tenant `system`.
    pub const SECRET: &str = "secret";
}

/// The tenant that holds what belongs to no tenant.
pub const SYSTEM: &str = "system";

/// One tenant's documents.
#[derive(Default, Clone)]
pub(crate) struct TenantDocuments {
    pub body: TenantBody,
    pub queues: BTreeMap<QueueId, QueueConfig>,
    pub agents: BTreeMap<AgentId, AgentConfig>,
    pub numbers: BTreeMap<String, NumberBody>,
    pub flows: BTreeMap<FlowId, Arc<Flow>>,
    pub telephones: BTreeMap<TelephoneId, TelephoneBody>,
}

#[derive(Default, Clone)]
pub(crate) struct State {
    pub tenants: BTreeMap<TenantId, TenantDocuments>,
    /// By sign-in name, which is unique over all tenants.
    pub accounts: BTreeMap<String, (TenantId, AccountBody)>,
    /// By realm and name. A realm may be shared by tenants; a name in it is one account's.
    pub telephones: BTreeMap<String, BTreeMap<String, Arc<TelephoneAccount>>>,
}

impl State {
    /// Puts the telephones of a tenant where edges look for them.
    fn enter_telephones(&mut self, tenant: &TenantId, telephones: &BTreeMap<TelephoneId, TelephoneBody>) {
        for (name, body) in telephones {
            let realm = body.realm(tenant);
            let there = self.telephones.entry(realm.clone()).or_default();
            if there.contains_key(name.as_str()) {
                tracing::error!(%tenant, telephone = %name, realm, "another tenant has this name in this realm; it is not used");
                continue;
            }
            let account = TelephoneAccount {
                tenant: tenant.clone(),
                name: name.clone(),
                ha1_sha256: body.ha1_sha256.clone(),
                ha1_md5: body.ha1_md5.clone(),
                caller_number: body.caller_number.clone().unwrap_or_else(|| name.to_string()),
                caller_name: body.display_name.clone(),
                may_dial: body.may_dial.clone(),
                max_contacts: body.max_contacts,
            };
            there.insert(name.to_string(), Arc::new(account));
        }
    }
}

/// All documents, in memory.
#[derive(Clone)]
pub struct Documents {
    state: Arc<RwLock<Arc<State>>>,
    journal: Arc<dyn Journal>,
    flows: Arc<FlowStore>,
}

impl Documents {
    /// Reads them.
    pub async fn load(journal: Arc<dyn Journal>) -> Result<Self> {
        let documents = Self { state: Arc::default(), journal, flows: Arc::new(FlowStore::new()) };
        documents.reload().await?;
        Ok(documents)
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Flows in force and those that calls are still in.
    pub fn flows(&self) -> Arc<FlowStore> {
        self.flows.clone()
    }

    /// Reads them again at each change until the task is ended; `told` learns of each.
    pub async fn follow(self, told: impl Fn(&Self)) {
        let mut revision = self.journal.documents_revision();
        while revision.changed().await.is_ok() {
            match self.reload().await {
                Ok(()) => told(&self),
                Err(error) => {
                    tracing::error!(%error, "changed documents could not be read; the last ones stay")
                }
            }
        }
    }

    /// All queues and agents, for those who keep copies.
    pub fn each(
        &self,
        mut queue: impl FnMut(&TenantId, &QueueId),
        mut agent: impl FnMut(&TenantId, &AgentId),
    ) {
        for (tenant, documents) in &self.state().tenants {
            documents.queues.keys().for_each(|id| queue(tenant, id));
            documents.agents.keys().for_each(|id| agent(tenant, id));
        }
    }

    /// Reads all of them again.
    pub async fn reload(&self) -> Result<()> {
        let before = self.state();
        let mut state = State::default();
        let system: TenantId = SYSTEM.parse()?;
        for tenant in self.list(&system, kind::TENANT).await? {
            let id: TenantId = tenant.key.id.parse().context("a tenant's id")?;
            let old = before.tenants.get(&id).cloned().unwrap_or_default();
            let documents = self.tenant(&id, tenant, old, &mut state.accounts).await?;
            state.enter_telephones(&id, &documents.telephones);
            state.tenants.insert(id, documents);
        }
        self.publish(&before, &state);
        *self.state.write() = Arc::new(state);
        Ok(())
    }

    fn publish(&self, before: &State, now: &State) {
        for (tenant, documents) in &now.tenants {
            for flow in documents.flows.values() {
                self.flows.publish(tenant, Flow::clone(flow));
            }
            self.flows.queues(tenant, documents.queues.keys().cloned().collect());
        }
        for (tenant, documents) in &before.tenants {
            let kept = now.tenants.get(tenant);
            for id in documents.flows.keys().filter(|id| kept.is_none_or(|k| !k.flows.contains_key(id))) {
                self.flows.withdraw(tenant, id);
            }
        }
    }

    async fn list(&self, tenant: &TenantId, kind: &str) -> Result<Vec<Document>> {
        self.journal.list_documents(tenant, kind).await.with_context(|| format!("documents of kind {kind}"))
    }

    async fn tenant(
        &self,
        id: &TenantId,
        tenant: Document,
        old: TenantDocuments,
        accounts: &mut BTreeMap<String, (TenantId, AccountBody)>,
    ) -> Result<TenantDocuments> {
        let mut new = TenantDocuments::default();
        if let Some((_, body)) = read::<String, TenantBody>(&tenant) {
            new.body = body;
        }
        for document in self.list(id, kind::QUEUE).await? {
            let parsed =
                read::<QueueId, QueueConfig>(&document).filter(|(_, q)| valid(&document, q.validate()));
            match parsed {
                Some((id, queue)) => {
                    new.queues.insert(id, QueueConfig { version: document.revision, ..queue });
                }
                None => keep(&document, &old.queues, &mut new.queues),
            }
        }
        for document in self.list(id, kind::AGENT).await? {
            let parsed =
                read::<AgentId, AgentConfig>(&document).filter(|(_, a)| valid(&document, a.validate()));
            match parsed {
                Some((id, agent)) => {
                    new.agents.insert(id, AgentConfig { version: document.revision, ..agent });
                }
                None => keep(&document, &old.agents, &mut new.agents),
            }
        }
        for document in self.list(id, kind::NUMBER).await? {
            if let Some((number, body)) = read::<String, NumberBody>(&document) {
                new.numbers.insert(number, body);
            }
        }
        for document in self.list(id, kind::FLOW).await? {
            match flow(&document) {
                Some((id, flow)) => {
                    new.flows.insert(id, flow);
                }
                None => keep(&document, &old.flows, &mut new.flows),
            }
        }
        for document in self.list(id, kind::TELEPHONE).await? {
            let parsed = read::<TelephoneId, TelephoneBody>(&document)
                .filter(|(id, telephone)| valid(&document, telephone.validate(id)));
            match parsed {
                Some((id, telephone)) => {
                    new.telephones.insert(id, telephone);
                }
                None => keep(&document, &old.telephones, &mut new.telephones),
            }
        }
        for document in self.list(id, kind::ACCOUNT).await? {
            if let Some((name, body)) = read::<String, AccountBody>(&document) {
                accounts.insert(name, (id.clone(), body));
            }
        }
        Ok(new)
    }
}

fn read<I: std::str::FromStr, T: serde::de::DeserializeOwned>(document: &Document) -> Option<(I, T)> {
    let id = document.key.id.parse().ok();
    match (id, serde_json::from_value(document.body.clone())) {
        (Some(id), Ok(body)) => Some((id, body)),
        (None, _) => {
            tracing::error!(document = %document.key, "the document's id is not valid; it is not used");
            None
        }
        (_, Err(error)) => {
            tracing::error!(document = %document.key, %error, "the document cannot be read; its last form is used");
            None
        }
    }
}

fn valid<E: std::fmt::Display>(document: &Document, checked: Result<(), E>) -> bool {
    if let Err(error) = &checked {
        tracing::error!(document = %document.key, %error, "the document is not valid; its last form is used");
    }
    checked.is_ok()
}

fn keep<I: std::str::FromStr + Ord, T: Clone>(
    document: &Document,
    old: &BTreeMap<I, T>,
    new: &mut BTreeMap<I, T>,
) {
    if let Ok(id) = document.key.id.parse::<I>()
        && let Some(body) = old.get(&id)
    {
        new.insert(id, body.clone());
    }
}

fn flow(document: &Document) -> Option<(FlowId, Arc<Flow>)> {
    let (id, body) = read::<FlowId, FlowBody>(document)?;
    match Flow::parse(&body.yaml, document.revision) {
        Ok(flow) if *flow.id() == id => Some((id, Arc::new(flow))),
        Ok(flow) => {
            tracing::error!(document = %document.key, flow = %flow.id(), "the flow has another name than its document");
            None
        }
        Err(error) => {
            tracing::error!(document = %document.key, %error, "the flow is not valid; its last version is used");
            None
        }
    }
}
