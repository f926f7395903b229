//! "A pod address is never advertised to the public: not ready instead": a media pod behind mapped ports that nobody tells an
//! address lives, is not ready and says what to set; told one, it is ready, and its log says which address and from where.
//!
//! Needs root (network namespaces), etcd and PostgreSQL.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use trunkline_faults::{
    net::Network,
    world::{CLIENTS, Etcd, Postgres},
};
use trunkline_kubernetes_tests::{
    chart,
    helm::Helm,
    kubelet::{Pod, Secrets, Site},
};
use trunkline_system_tests::{folder, http, s, target, until};

const POD: &str = "tl-trunkline-media-0";
const HOST: &str = "worker1";
/// A pod that waits for an address has no calls to wait for when it is to go.
const GONE_WITHIN: Duration = s(20);
/// What the log says of the choice.
const CHOSEN: &str = "telephones and browsers are told this address";

/// Media behind ports of the host, where nothing of the surroundings tells an address.
const UNTOLD: [&str; 5] = [
    r#"tls.mode="insecure""#,
    r#"postgresql.existingSecret="trunkline-postgresql""#,
    r#"recordings={"kind":"folder","folder":{"existingClaim":"recordings"}}"#,
    r#"edge.network.mode="cluster""#,
    r#"media={"network":{"mode":"hostPort","nodeExternalIP":false,"hostIP":false},"ports":{"rtpFirst":40000,"rtpLast":40099}}"#,
];

/// The pod, and what it stands on.
struct Ground {
    pod: Pod,
    etcd: Etcd,
    postgres: Postgres,
    network: Network,
}

impl Ground {
    async fn lay(mut network: Network, data: &Path, logs: &Path) -> Result<Self> {
        let etcd = Etcd::start(&mut network, data, logs).await.context("etcd")?;
        let postgres = Postgres::start(&mut network, data, logs).await.context("PostgreSQL")?;
        let address = network.host(HOST)?;
        let pod = Pod::new(POD, "media", (HOST, address), data.join(POD));
        Ok(Self { pod, etcd, postgres, network })
    }

    /// The pod of the chart with these settings runs, ready or not.
    async fn begin(&mut self, settings: &[&str], data: &Path, logs: &Path) -> Result<()> {
        let etcd = format!("etcd.endpoints={}", json!(self.etcd.endpoints()));
        let all: Vec<&str> = UNTOLD.iter().chain(settings).copied().chain([etcd.as_str()]).collect();
        self.pod.take(&Helm::new("helm4")?.template(&chart(), &[], &all)?)?;
        let url = BTreeMap::from([("url".to_owned(), self.postgres.url())]);
        let secrets = Secrets::from([("trunkline-postgresql".to_owned(), url)]);
        let (binary, recordings) = (target()?.join("debug/trunkline"), data.join("recordings"));
        ensure!(binary.is_file(), "{}: `cargo build -p trunkline` makes it", binary.display());
        fs::create_dir_all(&recordings)?;
        let site = Site { binary: &binary, logs, secrets: &secrets, recordings: &recordings };
        self.pod.launch(&self.network, &site)?;
        self.pod.begun().await
    }

    /// It is ready, and its log names this address and where it comes from.
    async fn told(&mut self, address: &str, source: &str) -> Result<()> {
        self.pod.started().await?;
        let log = self.pod.log();
        let chosen: Vec<&str> = log.lines().filter(|line| line.contains(CHOSEN)).collect();
        let [line] = chosen[..] else { anyhow::bail!("not one choice in {log}") };
        ensure!(line.contains(address) && line.contains(source), "{address}, {source}: {line}");
        self.end().await
    }

    async fn end(&mut self) -> Result<()> {
        let gone = tokio::time::timeout(GONE_WITHIN, self.pod.terminate()).await;
        gone.with_context(|| format!("it takes more than {GONE_WITHIN:?} to go"))??;
        Ok(())
    }
}

#[test]
fn without_an_address_a_media_pod_is_not_ready_and_says_why() -> Result<()> {
    let logs = folder("kubernetes-advertised")?;
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    network.enter(CLIENTS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let data = tempfile::tempdir()?;
        // PostgreSQL is another user.
        fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let data = data.path();
        let mut ground = Ground::lay(network, data, &logs).await?;
        ground.begin(&[], data, &logs).await?;
        until("it says what to set", s(30), || async {
            let answer = http::get(ground.pod.metrics(), "/readyz").await?;
            ensure!(answer.status == 503, "ready without an address: {}", answer.text());
            Ok(answer.text().contains("set node.advertise.address").then_some(()))
        })
        .await?;
        ensure!(ground.pod.alive().await?, "it would be killed for want of an address");
        let log = ground.pod.log();
        ensure!(log.contains("no address for telephones and browsers"), "its log says nothing: {log}");
        ensure!(!log.contains(CHOSEN), "an address was found: {log}");
        ground.end().await?;
        // What is given for the machine comes before the machine's own address.
        let given = format!(r#"media.network.addresses={{"{HOST}":"203.0.113.20"}}"#);
        ground.begin(&["media.network.hostIP=true", &given], data, &logs).await?;
        ground.told("203.0.113.20", &format!("given for {HOST} in node.advertise.addresses")).await?;
        ground.begin(&["media.network.hostIP=true"], data, &logs).await?;
        let own = ground.pod.address.to_string();
        ground.told(&own, "the machine's own address, node.advertise.host_ip").await
    })
}
