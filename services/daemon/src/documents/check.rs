//! What a document must be before it is written. (One that was written is read with patience: its last good form stays.)

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

use serde::de::DeserializeOwned;
use serde_json::Value;
use trunkline_acd_core::{AgentConfig, QueueConfig};
use trunkline_call::Flow;
use trunkline_types::{AgentId, FlowId, QueueId, TelephoneId, TenantId};

use super::{AccountBody, FlowBody, NumberBody, TelephoneBody, TenantBody, kind};

/// Kinds that people write, and what each is about.
pub const KINDS: &[(&str, &str)] = &[
    (kind::TENANT, "an organisation; lives in the tenant `system`"),
    (kind::QUEUE, "where calls wait: who serves it, limits, service level, recording"),
    (kind::AGENT, "a person who takes calls: queues and skills"),
    (kind::ACCOUNT, "a name and password to sign in with: rights, and the agent that it acts as"),
    (kind::TELEPHONE, "a telephone that registers: its password, what its calls show, whose it is"),
    (kind::NUMBER, "a dialled number or name: leads to a queue or a flow"),
    (kind::FLOW, "a menu or announcement before the queue"),
];

/// Other documents of the same tenant that a document names, as (kind, id).
pub type Needs = BTreeSet<(&'static str, String)>;

/// Checks the body of a document and gives what else has to be there.
///
/// # Errors
/// A sentence that names the field and the remedy.
pub fn check(kind: &str, id: &str, body: &Value) -> Result<Needs, String> {
    let mut needs = Needs::new();
    match kind {
        kind::TENANT => {
            id_of::<TenantId>(id)?;
            let _: TenantBody = read(body)?;
        }
        kind::QUEUE => {
            id_of::<QueueId>(id)?;
            read::<QueueConfig>(body)?.validate().map_err(|error| error.to_string())?;
        }
        kind::AGENT => {
            id_of::<AgentId>(id)?;
            let agent: AgentConfig = read(body)?;
            agent.validate().map_err(|error| error.to_string())?;
            needs.extend(agent.queues.iter().map(|queue| (kind::QUEUE, queue.to_string())));
        }
        kind::ACCOUNT => {
            let account: AccountBody = read(body)?;
            needs.extend(account.agent.iter().map(|agent| (kind::AGENT, agent.to_string())));
        }
        kind::TELEPHONE => {
            let id = id_of::<TelephoneId>(id)?;
            let telephone: TelephoneBody = read(body)?;
            telephone.validate(&id)?;
            needs.extend(telephone.agent.iter().map(|agent| (kind::AGENT, agent.to_string())));
        }
        kind::NUMBER => match read(body)? {
            NumberBody::Queue(queue) => _ = needs.insert((kind::QUEUE, queue.to_string())),
            NumberBody::Flow(flow) => _ = needs.insert((kind::FLOW, flow.to_string())),
        },
        kind::FLOW => {
            let id = id_of::<FlowId>(id)?;
            let flow = Flow::parse(&read::<FlowBody>(body)?.yaml, 1).map_err(|error| error.to_string())?;
            if *flow.id() != id {
                return Err(format!("yaml: the flow calls itself {}: give both the same name", flow.id()));
            }
        }
        other => {
            let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            return Err(format!("kind: {other:?} is none of {}", known.join(", ")));
        }
    }
    Ok(needs)
}

fn id_of<I: FromStr<Err: Display>>(id: &str) -> Result<I, String> {
    id.parse().map_err(|error| format!("id: {error}"))
}

fn read<T: DeserializeOwned>(body: &Value) -> Result<T, String> {
    serde_json::from_value(body.clone()).map_err(|error| format!("body: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let wrong = |kind: &str, id: &str, body: Value, said: &str| {
            let error = check(kind, id, &body).unwrap_err();
            assert!(error.contains(said), "{kind} {id}: {error}");
        };
        wrong("queue", "support", json!({ "ring_time": 5 }), "ring_time");
        wrong("queue", "support", json!({ "ring_timeout": 1 }), "ring_timeout");
        wrong(
            "queue",
            "support",
            json!({ "recording": false, "recording_required": true }),
            "recording_required",
        );
        wrong("queue", "No Such!", json!({}), "id:");
        wrong("number", "1", json!({ "queues": "support" }), "queues");
        wrong("flow", "menu", json!({ "yaml": "nonsense" }), "");
        wrong("account", "eve", json!({ "display_name": "Eve" }), "password_hash");
        wrong("telephone", "1001", json!({ "display_name": "Desk" }), "ha1_sha256");
        wrong("telephone", "1001", json!({ "ha1_sha256": "xyz" }), "password");
        let hash = "0".repeat(64);
        wrong("telephone", "1001", json!({ "ha1_sha256": hash, "max_contacts": 0 }), "max_contacts");
        wrong("telephone", "1001", json!({ "ha1_sha256": hash, "realm": "a:b" }), "realm");
        wrong("telephone", "+49", json!({ "ha1_sha256": hash }), "id:");
        wrong("que", "support", json!({}), "queue, agent");
    }

    #[test]
    fn what_is_named_is_needed() {
        let agent = check("agent", "alice", &json!({ "queues": ["support", "sales"] })).unwrap();
        assert_eq!(agent.len(), 2);
        let number = check("number", "+49301234567", &json!({ "flow": "menu" })).unwrap();
        assert_eq!(number.into_iter().next(), Some((kind::FLOW, "menu".to_owned())));
        let telephone = json!({ "ha1_sha256": "0".repeat(64), "agent": "alice" });
        let telephone = check("telephone", "1001", &telephone).unwrap();
        assert_eq!(telephone.into_iter().next(), Some((kind::AGENT, "alice".to_owned())));
    }
}
