use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use trunkline_config::{Listen, Secret, Span};

/// The section `cluster` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// The cluster's name: the first part of its keys in etcd, so that one etcd can serve several clusters. `trunkline`.
    pub name: String,
    /// Where this node's gRPC server listens. `127.0.0.1:7400`.
    pub listen: Listen,
    /// Where the other nodes reach it, `host:port`. The listening address, unless that is a wildcard.
    pub advertise: Option<String>,
    /// Life of the node's lease: how long a node that vanished without a trace counts as there. The same for all nodes; 2 s
    /// to 60 s. `3s`.
    pub lease_ttl: Span,
    /// This node's share of the shards in relation to the others', 1 to 100. `1`.
    pub weight: u32,
    /// When every node has run a later version for this long, the cluster begins to write what the version before cannot
    /// read; until then an upgrade can be rolled back. `1h`.
    pub raise_after: Span,
    /// The store of members and assignments.
    pub etcd: EtcdConfig,
    /// Certificates between nodes. Needed beyond loopback unless `insecure`.
    pub tls: Option<TlsFiles>,
    /// Nodes may talk without TLS beyond loopback: whoever reaches the port commands the node. `false`.
    pub insecure: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "trunkline".to_owned(),
            listen: Listen { transport: None, addr: ([127, 0, 0, 1], 7_400).into() },
            advertise: None,
            lease_ttl: Span(Duration::from_secs(3)),
            weight: 1,
            raise_after: Span(Duration::from_secs(3_600)),
            etcd: EtcdConfig::default(),
            tls: None,
            insecure: false,
        }
    }
}

/// How etcd is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// The members, `http://host:port` or `https://host:port`. `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Certificates, for `https`.
    pub tls: Option<EtcdTls>,
    /// The user, when etcd has authentication on.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self { endpoints: vec!["http://127.0.0.1:2379".to_owned()], tls: None, user: None, password: None }
    }
}

/// Files (PEM) of the certificates towards etcd.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub ca: PathBuf,
    /// This node's certificate, when etcd asks for one.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// Files (PEM) of the certificates between nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authority that signs the nodes' certificates and nothing else.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What is wrong with the section. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster.{field}: {problem}")]
pub struct ConfigError {
    /// The key below `cluster`.
    pub field: &'static str,
    /// What is wrong, and the remedy.
    pub problem: String,
}

fn wrong(field: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError { field, problem: problem.into() })
}

impl ClusterConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(plain) {
            return wrong(
                "name",
                format!("{:?} is not a name: use 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.'", self.name),
            );
        }
        if !(Duration::from_secs(2)..=Duration::from_secs(60)).contains(&self.lease_ttl) {
            return wrong("lease_ttl", "use 2s to 60s; shorter leases end when etcd merely elects a leader");
        }
        if !self.lease_ttl.0.as_millis().is_multiple_of(1_000) {
            return wrong("lease_ttl", "use whole seconds: etcd counts in seconds");
        }
        if !(1..=100).contains(&self.weight) {
            return wrong("weight", "use 1 to 100");
        }
        if self.listen.transport.is_some() {
            return wrong("listen", "write an address and port without a transport, such as 10.0.0.1:7400");
        }
        self.validate_reach()?;
        self.etcd.validate()
    }

    fn validate_reach(&self) -> Result<(), ConfigError> {
        let ip = self.listen.addr.ip();
        if let Some(advertise) = &self.advertise {
            if advertise.parse::<trunkline_config::HostPort>().is_err() {
                return wrong("advertise", format!("{advertise:?} is not host:port"));
            }
        } else if ip.is_unspecified() {
            return wrong(
                "advertise",
                format!("say host:port at which other nodes reach this one: {ip} is every address"),
            );
        } else if self.listen.addr.port() == 0 {
            return wrong(
                "advertise",
                "say host:port at which other nodes reach this one: the port is chosen by the system",
            );
        }
        if self.tls.is_none() && !self.insecure && !is_loopback(ip) {
            return wrong(
                "tls",
                format!(
                    "{ip} can be reached from other machines: set tls.ca, tls.cert and tls.key, or insecure: true in a closed network"
                ),
            );
        }
        Ok(())
    }

    /// `host:port` at which the other nodes reach this one.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.addr.to_string())
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl EtcdConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() || self.endpoints.len() > 16 {
            return wrong(
                "etcd.endpoints",
                "name the members of etcd, 1 to 16, such as [\"http://10.0.0.9:2379\"]",
            );
        }
        for endpoint in &self.endpoints {
            let rest = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
                (Some(rest), _) => rest,
                (_, Some(_)) if self.tls.is_some() => {
                    return wrong(
                        "etcd.endpoints",
                        format!("{endpoint:?}: with etcd.tls it has to begin with https://"),
                    );
                }
                (_, Some(rest)) => rest,
                _ => {
                    return wrong(
                        "etcd.endpoints",
                        format!("{endpoint:?} has to begin with http:// or https://"),
                    );
                }
            };
            if rest.trim_end_matches('/').parse::<trunkline_config::HostPort>().is_err() {
                return wrong("etcd.endpoints", format!("{endpoint:?} is not http://host:port"));
            }
        }
        match (&self.user, &self.password) {
            (Some(_), None) => {
                return wrong("etcd.password", "a user needs its password, as a text or {file: PATH}");
            }
            (None, Some(_)) => return wrong("etcd.user", "a password needs its user"),
            _ => {}
        }
        match self.tls.as_ref().map(|tls| (tls.cert.is_some(), tls.key.is_some())) {
            Some((true, false)) => wrong("etcd.tls.key", "a certificate needs its key"),
            Some((false, true)) => wrong("etcd.tls.cert", "a key needs its certificate"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(change: impl FnOnce(&mut ClusterConfig)) -> Option<&'static str> {
        let mut config = ClusterConfig::default();
        change(&mut config);
        config.validate().err().map(|error| error.field)
    }

    #[test]
    fn the_default_is_valid_and_mistakes_name_their_key() {
        assert_eq!(field(|_| {}), None);
        assert_eq!(field(|c| c.name = "a/b".into()), Some("name"));
        assert_eq!(field(|c| c.lease_ttl = Span(Duration::from_secs(1))), Some("lease_ttl"));
        assert_eq!(field(|c| c.lease_ttl = Span(Duration::from_millis(2_500))), Some("lease_ttl"));
        assert_eq!(field(|c| c.weight = 0), Some("weight"));
        assert_eq!(field(|c| c.listen = "0.0.0.0:7400".parse().unwrap()), Some("advertise"));
        assert_eq!(field(|c| c.listen = "10.0.0.1:7400".parse().unwrap()), Some("tls"));
        let open = |c: &mut ClusterConfig| {
            c.listen = "10.0.0.1:7400".parse().unwrap();
            c.insecure = true;
        };
        assert_eq!(field(open), None);
        assert_eq!(field(|c| c.etcd.endpoints.clear()), Some("etcd.endpoints"));
        assert_eq!(field(|c| c.etcd.endpoints = vec!["10.0.0.9:2379".into()]), Some("etcd.endpoints"));
        assert_eq!(field(|c| c.etcd.user = Some("u".into())), Some("etcd.password"));
        let tls = EtcdTls { ca: "ca".into(), cert: None, key: None };
        assert_eq!(field(|c| c.etcd.tls = Some(tls)), Some("etcd.endpoints"));
        let config: ClusterConfig =
            serde_json::from_str(r#"{"etcd": {"password": "hunter2", "user": "u"}}"#).unwrap();
        assert!(config.validate().is_ok() && !format!("{config:?}").contains("hunter2"));
        assert!(serde_json::from_str::<ClusterConfig>(r#"{"etcd": {"endpoint": []}}"#).is_err());
    }
}
