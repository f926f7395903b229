//! Which address telephones and browsers are told, where no configuration can know it: a pod in the host's network, one
//! behind mapped ports, a machine behind NAT.
//!
//! In this order: what was given, the external address that Kubernetes knows of the machine, what a STUN server sees,
//! the machine's own address. The choice and where it comes from are logged. While there is none the node is not ready:
//! a pod's own address, which nobody outside can reach, is never told.

mod kubernetes;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;
use trunkline_cluster::Role;

use crate::{config::NodeConfig, stun};

/// Between two searches while there is no address.
const AGAIN: Duration = Duration::from_secs(5);

/// `node.advertise`: where the address comes from that `sip.advertised` and `media.advertised` take when they are not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// The address itself.
    pub address: Option<IpAddr>,
    /// Addresses by machine or pod, for one configuration of many: what `host` names is taken, else what `node.name` does.
    pub addresses: BTreeMap<String, IpAddr>,
    /// The machine that this runs on, as Kubernetes names it.
    pub host: Option<String>,
    /// Ask the Kubernetes API for the external address of `host`, with the service account's token. Default false.
    pub kubernetes: bool,
    /// STUN servers (RFC 8489), `host:port`; the first that answers counts.
    pub stun: Vec<String>,
    /// The machine's own address: taken when nothing else tells one.
    pub host_ip: Option<IpAddr>,
}

/// Where an address comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Given,
    GivenFor(String),
    Kubernetes(String),
    Stun(String),
    Host,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given as node.advertise.address"),
            Self::GivenFor(name) => write!(f, "given for {name} in node.advertise.addresses"),
            Self::Kubernetes(host) => write!(f, "the external address of the Kubernetes node {host}"),
            Self::Stun(server) => write!(f, "as the STUN server {server} sees this machine"),
            Self::Host => f.write_str("the machine's own address, node.advertise.host_ip"),
        }
    }
}

/// Fills in the addresses that are not set; waits for as long as there is none, and tells why through `waits`.
pub(crate) async fn settle(config: &mut NodeConfig, waits: impl Fn(Option<String>)) {
    let Some(advertise) = config.node.advertise.clone() else { return };
    let sip = config.has(Role::Edge) && config.sip.advertised.is_none();
    let media = config.has(Role::Media) && config.media.advertised.is_none();
    if !sip && !media {
        return;
    }
    let local = if media { config.media.bind } else { config.sip.listen.ip() };
    let name = config.node.name.to_string();
    let mut told = String::new();
    let ip = loop {
        match advertise.find(&name, local).await {
            Ok((ip, source)) => {
                tracing::info!(address = %ip, %source, "telephones and browsers are told this address");
                break ip;
            }
            Err(problem) if problem == told => {}
            Err(problem) => {
                tracing::error!(%problem, "no address for telephones and browsers; looking again");
                waits(Some(problem.clone()));
                told = problem;
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    waits(None);
    if sip {
        config.sip.advertised = Some(SocketAddr::new(ip, config.sip.listen.port()));
    }
    if media {
        config.media.advertised = Some(ip);
    }
}

impl Advertise {
    async fn find(&self, node: &str, local: IpAddr) -> Result<(IpAddr, Source), String> {
        self.find_with(node, local, kubernetes::external_ip).await
    }

    async fn find_with(
        &self,
        node: &str,
        local: IpAddr,
        external_ip: impl AsyncFnOnce(&str, bool) -> anyhow::Result<Option<IpAddr>>,
    ) -> Result<(IpAddr, Source), String> {
        if let Some(given) = self.given(node) {
            return Ok(given);
        }
        let mut tried = Vec::new();
        if let (true, Some(host)) = (self.kubernetes, &self.host) {
            match external_ip(host, local.is_ipv6()).await {
                Ok(Some(ip)) => return Ok((ip, Source::Kubernetes(host.clone()))),
                Ok(None) => tried.push(format!("the Kubernetes node {host} has no external address")),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        let any: IpAddr =
            if local.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        for server in &self.stun {
            match stun::mapped(server, (any, 0).into()).await {
                Ok(mapped) => return Ok((mapped.ip(), Source::Stun(server.clone()))),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        if let Some(ip) = self.host_ip {
            for problem in &tried {
                tracing::warn!(%problem, "an address for telephones and browsers was not found there");
            }
            return Ok((ip, Source::Host));
        }
        tried.push(
            "set node.advertise.address to the address at which telephones reach this machine".to_owned(),
        );
        Err(tried.join("; "))
    }

    fn given(&self, node: &str) -> Option<(IpAddr, Source)> {
        if let Some(ip) = self.address {
            return Some((ip, Source::Given));
        }
        let names = self.host.as_deref().into_iter().chain([node]);
        names
            .into_iter()
            .find_map(|name| self.addresses.get(name).map(|ip| (*ip, Source::GivenFor(name.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn advertise(yaml: serde_json::Value) -> Advertise {
        serde_json::from_value(yaml).unwrap()
    }

    #[tokio::test]
    async fn what_is_given_comes_before_everything_else() {
        let mut all = advertise(serde_json::json!({
            "address": "203.0.113.1", "addresses": {"worker-1": "203.0.113.2", "media-0": "203.0.113.3"},
            "host": "worker-1", "host_ip": "10.0.0.7",
        }));
        let first = |all: Advertise| async move { all.find("media-0", LOCAL).await.unwrap() };
        assert_eq!(first(all.clone()).await, ("203.0.113.1".parse().unwrap(), Source::Given));
        all.address = None;
        assert_eq!(first(all.clone()).await.0, "203.0.113.2".parse::<IpAddr>().unwrap());
        all.host = None;
        assert_eq!(first(all.clone()).await.0, "203.0.113.3".parse::<IpAddr>().unwrap());
        all.addresses.clear();
        assert_eq!(first(all).await, ("10.0.0.7".parse().unwrap(), Source::Host));
    }

    /// What Kubernetes knows comes before what a STUN server sees, and that before the machine's own address; each of them
    /// is left out when it knows nothing.
    #[tokio::test]
    async fn each_source_counts_when_those_before_it_know_nothing() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent = silent.local_addr().unwrap().to_string();
        let answers = stun::tests::server(0).await.to_string();
        let mut all = advertise(serde_json::json!({
            "host": "worker-1", "kubernetes": true, "stun": [silent, answers], "host_ip": "10.0.0.7",
        }));
        let external = "203.0.113.7".parse::<IpAddr>().unwrap();
        let known = async |host: &str, _| Ok((host == "worker-1").then_some(external));
        let found = all.find_with("media-0", LOCAL, known).await.unwrap();
        assert_eq!(found, (external, Source::Kubernetes("worker-1".into())));
        for nothing in [Ok(None), Err(anyhow::anyhow!("no answer"))] {
            let found = all.find_with("media-0", LOCAL, async |_, _| nothing).await.unwrap();
            assert_eq!(found, (LOCAL, Source::Stun(answers.clone())));
        }
        all.stun.truncate(1);
        let unknown = || async |_: &str, _| Ok(None);
        let found = all.find_with("media-0", LOCAL, unknown()).await.unwrap();
        assert_eq!(found, ("10.0.0.7".parse().unwrap(), Source::Host));
        all.host_ip = None;
        let problem = all.find_with("media-0", LOCAL, unknown()).await.unwrap_err();
        for tried in ["worker-1 has no external address", silent.as_str(), "set node.advertise.address"] {
            assert!(problem.contains(tried), "{tried}: {problem}");
        }
        all.kubernetes = false;
        let problem = all.find_with("media-0", LOCAL, async |_, _| panic!("not asked")).await.unwrap_err();
        assert!(!problem.contains("worker-1"), "{problem}");
    }

    /// A pod knows only its own address then, which nobody outside can reach.
    #[tokio::test]
    async fn without_any_source_there_is_no_address_but_a_remedy() {
        let none = advertise(serde_json::json!({"host": "worker-1"}));
        let problem = none.find("media-0", LOCAL).await.unwrap_err();
        assert!(problem.contains("node.advertise.address"), "{problem}");
    }
}
