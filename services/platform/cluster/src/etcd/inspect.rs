//! What an operator asks of the etcd that a cluster is in, past its nodes: each member on its own, and whether all of them
//! together answer. Only reads.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType, Client, Error, GetOptions};
use tokio::time::timeout;
use trunkline_cluster_core::{NodeIdentity, NodeRecord, Seen};

use super::{
    keys::Keys,
    link::{DEADLINE, options},
};
use crate::{ClusterConfig, ClusterError};

/// A read that all members agree on is measured so often; the median is told.
const TRIES: usize = 5;

/// etcd as it presents itself.
#[derive(Debug, Clone)]
pub struct EtcdReport {
    /// The configured endpoints, each asked on its own.
    pub endpoints: Vec<EtcdEndpoint>,
    /// How long a read takes that a quorum stands behind, or why there is none.
    pub quorum: Result<Duration, String>,
    /// Members of etcd itself, as many as its own list has; 0 = unknown.
    pub size: usize,
    /// Alarms that are raised, such as `NOSPACE`.
    pub alarms: Vec<String>,
    /// The nodes that are registered.
    pub nodes: Vec<RegisteredNode>,
}

/// A configured endpoint.
#[derive(Debug, Clone)]
pub struct EtcdEndpoint {
    /// As configured.
    pub endpoint: String,
    /// What it says of itself, or why it cannot be asked.
    pub status: Result<EtcdStatus, String>,
}

/// A member of etcd.
#[derive(Debug, Clone)]
pub struct EtcdStatus {
    /// Version of its program, as `3.5.16`.
    pub version: String,
    /// It knows a leader.
    pub has_leader: bool,
    /// Size of its database.
    pub size_bytes: i64,
    /// How large it may become; 0 = it does not tell (before 3.6).
    pub quota_bytes: i64,
    /// What it complains of.
    pub errors: Vec<String>,
    /// From the question to the answer.
    pub took: Duration,
}

/// A node that is registered.
#[derive(Debug, Clone)]
pub struct RegisteredNode {
    /// Name and life.
    pub identity: NodeIdentity,
    /// What it says of itself.
    pub record: NodeRecord,
}

/// Asks every endpoint, and all of them together.
///
/// # Errors
/// When the configuration is wrong or its certificates cannot be read.
pub async fn inspect(config: &ClusterConfig) -> Result<EtcdReport, ClusterError> {
    config.validate()?;
    let mut endpoints = Vec::new();
    let mut connected = None;
    for endpoint in &config.etcd.endpoints {
        let (status, client) = match ask(config, endpoint).await? {
            Ok((status, client)) => (Ok(status), Some(client)),
            Err(why) => (Err(why), None),
        };
        connected = connected.or(client.filter(|_| status.as_ref().is_ok_and(|s: &EtcdStatus| s.has_leader)));
        endpoints.push(EtcdEndpoint { endpoint: endpoint.clone(), status });
    }
    let mut report = EtcdReport {
        endpoints,
        quorum: Err("no endpoint answers that knows a leader".to_owned()),
        size: 0,
        alarms: Vec::new(),
        nodes: Vec::new(),
    };
    if let Some(mut client) = connected {
        let keys = Keys::new(&config.name);
        report.quorum = quorum(&mut client, &keys).await;
        // With authentication on, these two are for those who may administer etcd: without them, less is known.
        if let Ok(Ok(members)) = timeout(DEADLINE, client.member_list()).await {
            report.size = members.members().len();
        }
        if let Ok(Ok(answer)) = timeout(DEADLINE, client.alarm(AlarmAction::Get, AlarmType::None, None)).await
        {
            report.alarms = answer.alarms().iter().map(|alarm| name(alarm.alarm()).to_owned()).collect();
            report.alarms.sort();
            report.alarms.dedup();
        }
        if report.quorum.is_ok() {
            report.nodes = nodes(&mut client, &keys).await.unwrap_or_default();
        }
    }
    Ok(report)
}

async fn ask(
    config: &ClusterConfig,
    endpoint: &str,
) -> Result<Result<(EtcdStatus, Client), String>, ClusterError> {
    let options = options(&config.etcd)?.with_require_leader(false);
    let connected = timeout(DEADLINE, Client::connect([endpoint], Some(options))).await;
    let mut client = match connected {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Ok(Err(told(&error))),
        Err(_) => return Ok(Err(format!("no connection within {DEADLINE:?}"))),
    };
    let begun = Instant::now();
    let answer = match timeout(DEADLINE, client.status()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Ok(Err(told(&error))),
        Err(_) => return Ok(Err(format!("no answer within {DEADLINE:?}"))),
    };
    let status = EtcdStatus {
        version: answer.version().to_owned(),
        has_leader: answer.leader() != 0,
        size_bytes: answer.db_size(),
        quota_bytes: answer.db_size_quota(),
        errors: answer.errors().to_vec(),
        took: begun.elapsed(),
    };
    Ok(Ok((status, client)))
}

async fn quorum(client: &mut Client, keys: &Keys) -> Result<Duration, String> {
    let mut took = Vec::with_capacity(TRIES);
    for _ in 0..TRIES {
        let begun = Instant::now();
        match timeout(DEADLINE, client.get(keys.meta(), None)).await {
            Ok(Ok(_)) => took.push(begun.elapsed()),
            Ok(Err(error)) => return Err(told(&error)),
            Err(_) => return Err(format!("a read was not answered within {DEADLINE:?}")),
        }
    }
    took.sort();
    Ok(took[TRIES / 2])
}

async fn nodes(client: &mut Client, keys: &Keys) -> Option<Vec<RegisteredNode>> {
    let prefix = format!("{}node/", keys.prefix());
    let options = GetOptions::new().with_prefix();
    let answer = timeout(DEADLINE * 2, client.get(prefix, Some(options))).await.ok()?.ok()?;
    let node = |seen| match seen {
        Seen::Node(identity, Some(record)) => Some(RegisteredNode { identity, record }),
        _ => None,
    };
    Some(answer.kvs().iter().filter_map(|pair| keys.read(pair).and_then(node)).collect())
}

/// The message of a refusal without the wrapping that means nothing to people.
fn told(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

fn name(alarm: AlarmType) -> &'static str {
    match alarm {
        AlarmType::None => "NONE",
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    }
}
