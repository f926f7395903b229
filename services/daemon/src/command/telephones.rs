//! `trunkline telephones`

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use trunkline_actors::now;
use trunkline_proto::{
    cluster::v1::ListTelephonesRequest,
    registrar::v1::{Binding, TelephoneBinding},
};
use trunkline_types::Timestamp;

use super::{reach, table};
use crate::cli::TelephonesArgs;

/// Pages that are asked for at most: more than any cluster has.
const MAX_PAGES: usize = 10_000;

/// Shows what is bound in the whole cluster.
pub async fn run(args: TelephonesArgs) -> Result<ExitCode> {
    let mut client = reach::reach(&args.at).await?;
    let mut asked = ListTelephonesRequest {
        tenant: args.tenant.clone().unwrap_or_default(),
        telephone: args.name.clone().unwrap_or_default(),
        ..ListTelephonesRequest::default()
    };
    let (mut bindings, mut silent) = (Vec::new(), Vec::new());
    for _ in 0..MAX_PAGES {
        let answer = client.list_telephones(reach::request(asked.clone())).await;
        let page = answer.map_err(|status| reach::refusal(&status))?.into_inner();
        bindings.extend(page.bindings);
        silent.extend(page.silent);
        let Some(last) = bindings.last().filter(|_| page.more) else { break };
        (asked.after_tenant, asked.after_telephone) = (last.tenant.clone(), last.telephone.clone());
    }
    silent.sort();
    silent.dedup();
    if args.json {
        println!(
            "{:#}",
            json!({ "bindings": bindings.iter().map(to_json).collect::<Vec<_>>(), "silent": silent })
        );
    } else {
        let rows: Vec<Vec<String>> = bindings.iter().map(|one| row(one, now())).collect();
        table::print(
            &["TENANT", "TELEPHONE", "CONTACT", "SOURCE", "EXPIRES", "EDGE", "NODE", "WHAT IT IS"],
            &rows,
        );
    }
    if !silent.is_empty() {
        bail!("{} did not tell theirs: the list is not complete", silent.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn left_s(binding: &Binding, now: Timestamp) -> u64 {
    Timestamp::from_micros(binding.expires_us).since(now).as_secs()
}

fn row(one: &TelephoneBinding, now: Timestamp) -> Vec<String> {
    let binding = one.binding.clone().unwrap_or_default();
    vec![
        one.tenant.clone(),
        one.telephone.clone(),
        binding.contact.clone(),
        format!("{} {}", binding.transport, binding.source),
        format!("in {} s", left_s(&binding, now)),
        binding.edge.clone(),
        one.node.clone(),
        binding.user_agent,
    ]
}

fn to_json(one: &TelephoneBinding) -> Value {
    let binding = one.binding.clone().unwrap_or_default();
    json!({
        "tenant": one.tenant, "telephone": one.telephone, "node": one.node, "contact": binding.contact,
        "source": binding.source, "transport": binding.transport, "edge": binding.edge, "path": binding.path,
        "expires_us": binding.expires_us, "since_us": binding.since_us,
        "q": binding.q.map(|q| f64::from(q) / 1_000.0), "instance": binding.instance,
        "reg_id": binding.reg_id, "user_agent": binding.user_agent,
    })
}
