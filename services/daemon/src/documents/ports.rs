//! The documents as each room asks for them.

use std::sync::Arc;

use trunkline_acd_core::{AgentConfig, QueueConfig};
use trunkline_console as console;
use trunkline_edge::{Accounts, Destination, DialPlan, TelephoneAccount};
use trunkline_types::{AgentId, DialString, QueueId, TelephoneId, TenantId};

use super::{Documents, NumberBody};

impl DialPlan for Documents {
    fn resolve(&self, tenant: &TenantId, dialled: &DialString) -> Option<Destination> {
        let state = self.state();
        let documents = state.tenants.get(tenant)?;
        let number = documents.numbers.get(&dialled.as_str().to_lowercase())?;
        Some(match number {
            NumberBody::Queue(queue) => Destination::Queue(queue.clone()),
            NumberBody::Flow(flow) => Destination::Flow(flow.clone()),
        })
    }
}

impl Accounts for Documents {
    fn any(&self) -> bool {
        !self.state().telephones.is_empty()
    }

    fn has_realm(&self, realm: &str) -> bool {
        self.state().telephones.contains_key(realm)
    }

    fn telephone(&self, realm: &str, user: &str) -> Option<Arc<TelephoneAccount>> {
        self.state().telephones.get(realm)?.get(user).cloned()
    }
}

impl trunkline_registrar::Directory for Documents {
    fn has_telephone(&self, tenant: &TenantId, telephone: &TelephoneId) -> bool {
        self.state().tenants.get(tenant).is_some_and(|documents| documents.telephones.contains_key(telephone))
    }
}

impl trunkline_acd::Directory for Documents {
    fn has_queue(&self, tenant: &TenantId, queue: &QueueId) -> bool {
        self.state().tenants.get(tenant).is_some_and(|documents| documents.queues.contains_key(queue))
    }

    fn has_agent(&self, tenant: &TenantId, agent: &AgentId) -> bool {
        self.state().tenants.get(tenant).is_some_and(|documents| documents.agents.contains_key(agent))
    }

    fn queue(&self, tenant: &TenantId, queue: &QueueId) -> Option<QueueConfig> {
        self.state().tenants.get(tenant)?.queues.get(queue).cloned()
    }

    fn agent(&self, tenant: &TenantId, agent: &AgentId) -> Option<AgentConfig> {
        self.state().tenants.get(tenant)?.agents.get(agent).cloned()
    }

    fn agents_of(&self, tenant: &TenantId, queue: &QueueId) -> Vec<AgentId> {
        let state = self.state();
        let Some(documents) = state.tenants.get(tenant) else { return Vec::new() };
        documents.agents.iter().filter(|(_, a)| a.queues.contains(queue)).map(|(id, _)| id.clone()).collect()
    }

    fn queue_names(&self, tenant: &TenantId, agent: &AgentId) -> Vec<String> {
        let state = self.state();
        let Some(documents) = state.tenants.get(tenant) else { return Vec::new() };
        let Some(agent) = documents.agents.get(agent) else { return Vec::new() };
        agent.queues.iter().map(|id| name(documents.queues.get(id), id)).collect()
    }
}

fn name(queue: Option<&QueueConfig>, id: &QueueId) -> String {
    match queue {
        Some(queue) if !queue.display_name.is_empty() => queue.display_name.clone(),
        _ => id.to_string(),
    }
}

impl console::Directory for Documents {
    fn account(&self, name: &str) -> Option<console::Account> {
        let state = self.state();
        let (tenant, body) = state.accounts.get(name)?;
        Some(console::Account {
            name: name.to_owned(),
            display_name: body.display_name.clone(),
            password_hash: body.password_hash.clone(),
            roles: body.roles.clone(),
            tenant: tenant.clone(),
            agent: body.agent.clone(),
        })
    }

    fn queues(&self, tenant: &TenantId) -> Vec<console::QueueEntry> {
        let state = self.state();
        let Some(documents) = state.tenants.get(tenant) else { return Vec::new() };
        let entry = |(id, queue): (&QueueId, &QueueConfig)| console::QueueEntry {
            id: id.clone(),
            name: name(Some(queue), id),
            service_level_target_s: u32::try_from(queue.service_level.as_secs()).unwrap_or(u32::MAX),
            dispositions: queue.dispositions.clone(),
        };
        documents.queues.iter().map(entry).collect()
    }

    fn agents(&self, tenant: &TenantId) -> Vec<console::AgentEntry> {
        let state = self.state();
        let Some(documents) = state.tenants.get(tenant) else { return Vec::new() };
        let entry = |(id, agent): (&AgentId, &AgentConfig)| console::AgentEntry {
            id: id.clone(),
            name: if agent.display_name.is_empty() { id.to_string() } else { agent.display_name.clone() },
            queues: agent.queues.clone(),
        };
        documents.agents.iter().map(entry).collect()
    }

    fn not_ready_reasons(&self, tenant: &TenantId) -> Vec<String> {
        let state = self.state();
        state.tenants.get(tenant).map(|t| t.body.not_ready_reasons.clone()).unwrap_or_default()
    }
}

impl trunkline_records::Directory for Documents {
    fn queues(&self, tenant: &TenantId) -> Vec<trunkline_records::QueueName> {
        let entry = |queue: console::QueueEntry| trunkline_records::QueueName {
            id: queue.id,
            name: queue.name,
            service_level_target_s: queue.service_level_target_s,
        };
        console::Directory::queues(self, tenant).into_iter().map(entry).collect()
    }

    fn agents(&self, tenant: &TenantId) -> Vec<trunkline_records::AgentName> {
        let entry = |agent: console::AgentEntry| trunkline_records::AgentName {
            id: agent.id,
            name: agent.name,
            queues: agent.queues,
        };
        console::Directory::agents(self, tenant).into_iter().map(entry).collect()
    }
}
