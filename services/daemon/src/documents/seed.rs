//! What `dev` starts with: the tenant `default`, two queues, a flow, four agents, a supervisor, an administrator and two
//! telephones. Written once; what was changed since stays.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use trunkline_console::PasswordCost;
use trunkline_journal::{DocumentKey, Journal, JournalError};
use trunkline_types::TenantId;

use super::{SYSTEM, TelephoneBody, kind};
use crate::config::DevSection;

const DISPOSITIONS: [&str; 5] = ["resolved", "follow_up", "escalated", "wrong_number", "no_answer_needed"];

/// Sign-in names of the sample accounts with their display names; the password is the name and `-dev`.
pub const DEV_ACCOUNTS: [(&str, &str, &str); 6] = [
    ("alice", "Alice Adams", "agent"),
    ("bob", "Bob Brown", "agent"),
    ("carol", "Carol Clark", "agent"),
    ("dave", "Dave Davis", "agent"),
    ("sue", "Sue Summers", "supervisor"),
    ("adam", "Adam Ames", "admin"),
];

/// Names of the sample telephones with their display names; the password is the name and `-dev`.
pub const DEV_TELEPHONES: [(&str, &str); 2] = [("1001", "Desk 1001"), ("1002", "Desk 1002")];

/// Of the agents for load tests. Everybody can work out their passwords: a hash that is hard to guess from would only keep
/// ten thousand of them from signing in for minutes.
const LOAD_COST: PasswordCost = PasswordCost { memory_kib: 8, passes: 1 };

/// Makes sure of the sample documents and of those that the configuration adds.
pub async fn dev(journal: &dyn Journal, wanted: &DevSection, cost: PasswordCost) -> Result<()> {
    let tenant: TenantId = "default".parse()?;
    put(journal, &SYSTEM.parse()?, kind::TENANT, "default", json!({ "display_name": "Sample company" }))
        .await?;
    for (id, name) in [("support", "Support"), ("sales", "Sales")] {
        let queue = json!({ "display_name": name, "dispositions": DISPOSITIONS, "max_waiting": 10_000,
            "recording": !wanted.no_recording });
        put(journal, &tenant, kind::QUEUE, id, queue).await?;
        put(journal, &tenant, kind::NUMBER, id, json!({ "queue": id })).await?;
    }
    put(journal, &tenant, kind::FLOW, "menu", json!({ "yaml": trunkline_call::SAMPLE_FLOW })).await?;
    put(journal, &tenant, kind::NUMBER, "menu", json!({ "flow": "menu" })).await?;
    for sample in DEV_ACCOUNTS {
        account(journal, &tenant, cost, sample).await?;
    }
    for (name, display) in DEV_TELEPHONES {
        telephone(journal, &tenant, name, display).await?;
    }
    for n in 1..=wanted.telephones {
        telephone(journal, &tenant, &format!("phone-{n:03}"), &format!("Telephone {n}")).await?;
    }
    for (number, leads_to) in &wanted.numbers {
        put(journal, &tenant, kind::NUMBER, &number.to_lowercase(), serde_json::to_value(leads_to)?).await?;
    }
    for n in 1..=wanted.agents {
        let name = format!("agent-{n:03}");
        account(journal, &tenant, LOAD_COST, (&name, &format!("Agent {n}"), "agent")).await?;
    }
    Ok(())
}

async fn telephone(journal: &dyn Journal, tenant: &TenantId, name: &str, display: &str) -> Result<()> {
    let (sha256, md5) = TelephoneBody::hashes(name, tenant.as_str(), &format!("{name}-dev"));
    let body = json!({ "display_name": display, "ha1_sha256": sha256, "ha1_md5": md5, "max_contacts": 5 });
    put(journal, tenant, kind::TELEPHONE, name, body).await
}

async fn account(
    journal: &dyn Journal,
    tenant: &TenantId,
    cost: PasswordCost,
    (name, display, role): (&str, &str, &str),
) -> Result<()> {
    if journal.get_document(&key(tenant, kind::ACCOUNT, name)).await?.is_some() {
        return Ok(());
    }
    let password = format!("{name}-dev");
    let hash = tokio::task::spawn_blocking(move || trunkline_console::hash_password(&password, cost))
        .await?
        .context("the sample password could not be hashed")?;
    let mut body = json!({ "display_name": display, "password_hash": hash, "roles": [role] });
    if role == "agent" {
        body["agent"] = json!(name);
        let agent = json!({ "display_name": display, "queues": ["support", "sales"] });
        put(journal, tenant, kind::AGENT, name, agent).await?;
    }
    put(journal, tenant, kind::ACCOUNT, name, body).await
}

fn key(tenant: &TenantId, kind: &str, id: &str) -> DocumentKey {
    DocumentKey { tenant: tenant.clone(), kind: kind.to_owned().into(), id: id.to_owned() }
}

/// Writes a document that is not there yet.
async fn put(journal: &dyn Journal, tenant: &TenantId, kind: &str, id: &str, body: Value) -> Result<()> {
    match journal.put_document(&key(tenant, kind, id), body, Some(0)).await {
        Ok(_) | Err(JournalError::RevisionConflict { .. }) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("the sample {kind} {id} could not be written")),
    }
}

#[cfg(test)]
mod tests {
    use trunkline_journal::{SqliteJournal, SqliteOptions};

    use super::*;

    /// The body of a sample document that a system with these wishes starts with.
    async fn seeded(wanted: DevSection, kind: &str, id: &str) -> Value {
        let journal = SqliteJournal::open(SqliteOptions::temporary().unwrap()).await.unwrap();
        dev(&journal, &wanted, LOAD_COST).await.unwrap();
        let key = key(&"default".parse().unwrap(), kind, id);
        journal.get_document(&key).await.unwrap().unwrap().body
    }

    #[tokio::test]
    async fn sample_queues_are_recorded_unless_told_otherwise() {
        for no_recording in [false, true] {
            let wanted = DevSection { no_recording, ..DevSection::default() };
            let queue = seeded(wanted, kind::QUEUE, "support").await;
            assert_eq!(queue["recording"], json!(!no_recording));
        }
    }

    #[tokio::test]
    async fn an_agent_for_load_tests_signs_in_with_its_name() {
        let wanted = DevSection { agents: 1, ..DevSection::default() };
        let account = seeded(wanted, kind::ACCOUNT, "agent-001").await;
        let hash = account["password_hash"].as_str().unwrap();
        assert!(trunkline_console::password_fits("agent-001-dev", hash));
        assert!(!trunkline_console::password_fits("agent-002-dev", hash));
    }
}
