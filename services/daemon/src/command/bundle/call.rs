//! One call: its record with its decisions, and its events as the journal has them.
//!
//! What people said, wrote or typed, what they are called and what was negotiated is left out; the rest goes through the
//! scrubber like everything.

use std::{sync::LazyLock, time::Duration};

use anyhow::{Context, Result, bail};
use prost::Message;
use regex::Regex;
use trunkline_cluster::{ClusterConfig, Role};
use trunkline_journal::{PostgresInspector, StoredEvent};
use trunkline_proto::{
    call::v1::CallEvent,
    cluster::v1::Overview,
    records::v1::{GetContactRequest, records_client::RecordsClient},
};
use trunkline_rpc::{Tls, TlsMetrics};
use trunkline_types::{EntityAddress, EntityKind};

use crate::config::{NodeConfig, tls_files};

const PATIENCE: Duration = Duration::from_secs(10);
/// Fields whose content is nobody's business.
const PRIVATE: [&str; 16] = [
    "caller_name",
    "text",
    "notes",
    "digits",
    "digit",
    "sdp",
    "sdp_offer",
    "sdp_answer",
    "local_sdp",
    "former_sdp",
    "invite",
    "contact_uri",
    "phrases",
    "state_body",
    "display_name",
    "message",
];

static FIELD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"^(\s*)([a-z_0-9]+): (.*?)(,?)$"#).ok());

/// The call in the journal, as text. The tenants that have such a call come with it.
pub async fn events(config: &NodeConfig, id: &str) -> Result<(String, Vec<EntityAddress>)> {
    let postgres = config.journal.as_ref().and_then(|journal| journal.postgres.as_ref());
    let Some(postgres) = postgres else {
        bail!("the journal is in a file that the running node holds; stop the node to copy it");
    };
    let inspector = PostgresInspector::connect(postgres).await?;
    let found = inspector.find(EntityKind::Call, id).await?;
    if found.is_empty() {
        bail!("the journal knows no call {id}");
    }
    let mut text = String::new();
    for entity in &found {
        let history = inspector.load_entity(entity).await?;
        text += &format!("{entity}: {} events, ended: {}\n", history.count, history.finished);
        if let Some(snapshot) = &history.snapshot {
            text += &format!("(the first {} are in a snapshot)\n", snapshot.nth);
        }
        for event in &history.events {
            text += &told(event);
        }
    }
    Ok((text, found))
}

fn told(event: &StoredEvent) -> String {
    let head = format!(
        "\n{} {} shard {} seq {} epoch {} position {}\n",
        event.at.as_micros(),
        event.kind,
        event.shard.index(),
        event.seq,
        event.epoch.0,
        event.position
    );
    let body = match CallEvent::decode(&*event.payload) {
        Ok(decoded) => without_private(&format!("{decoded:#?}")),
        Err(error) => format!("cannot be read: {error}"),
    };
    format!("{head}{body}\n")
}

/// The record as a records node has it.
pub async fn record(cluster: &ClusterConfig, overviews: &[Overview], call: &EntityAddress) -> Result<String> {
    let records = crate::node::to_proto(Role::Records);
    let member = overviews
        .iter()
        .flat_map(|overview| &overview.members)
        .find(|member| member.state == "serving" && member.roles().any(|role| role == records))
        .context("no node with the role records can be asked")?;
    let tls =
        cluster.tls.as_ref().map(|files| Tls::load(tls_files(files), TlsMetrics::default())).transpose()?;
    let mut client = RecordsClient::new(trunkline_rpc::dial(&member.address, tls)?);
    let mut request =
        tonic::Request::new(GetContactRequest { tenant: call.tenant.to_string(), call_id: call.id.clone() });
    request.set_timeout(PATIENCE);
    let answer =
        client.get_contact(request).await.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    Ok(without_private(&format!("{:#?}", answer.into_inner())))
}

/// A message's debug text, line by line, without the content of private fields and of bytes.
fn without_private(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut inside = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        // The elements of a private list.
        if inside.is_some_and(|level| indent > level) {
            continue;
        }
        inside = None;
        let field = FIELD.as_ref().and_then(|field| field.captures(line));
        match field {
            Some(found) if PRIVATE.contains(&&found[2]) && found[3].len() > 2 => {
                if matches!(&found[3], "[" | "Some(") {
                    inside = Some(indent);
                }
                kept += &format!("{}{}: [left out]{}\n", &found[1], &found[2], &found[4]);
            }
            Some(found) if matches!(&found[3], "[") && PRIVATE.contains(&&found[2]) => {
                inside = Some(indent);
                kept += &format!("{}{}: [left out]\n", &found[1], &found[2]);
            }
            Some(found) if found[3].starts_with("b\"") => {
                kept += &format!("{}{}: [bytes]{}\n", &found[1], &found[2], &found[4]);
            }
            _ => {
                kept += line;
                kept.push('\n');
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use trunkline_proto::{
        call::v1::{CallEvent, CallStarted, TranscriptSegment, call_event},
        records::v1::Contact,
    };

    use super::*;

    #[test]
    fn what_people_said_and_are_called_is_left_out() {
        let contact = Contact {
            call_id: "c1".into(),
            caller_name: "Ada Lovelace".into(),
            notes: "her card ends in\n4242".into(),
            queue_id: "support".into(),
            transcript: vec![TranscriptSegment {
                text: "my code is 1234".into(),
                ..TranscriptSegment::default()
            }],
            ..Contact::default()
        };
        let text = without_private(&format!("{contact:#?}"));
        for private in ["Ada", "4242", "1234"] {
            assert!(!text.contains(private), "{text}");
        }
        assert!(text.contains("call_id: \"c1\"") && text.contains("queue_id: \"support\""), "{text}");
        let started =
            CallStarted { invite: "INVITE sip:x".into(), trunk: "carrier".into(), ..Default::default() };
        let event = CallEvent { event: Some(call_event::Event::Started(started)), ..CallEvent::default() };
        let text = without_private(&format!("{event:#?}"));
        assert!(!text.contains("INVITE") && text.contains("carrier"), "{text}");
    }
}
