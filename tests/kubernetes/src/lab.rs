//! A cluster of the chart's pods on this machine: network namespaces, a real etcd and PostgreSQL, certificates, and the
//! pods of a rendered chart as processes. In front of SIP stands what a Service of type LoadBalancer is: an address that
//! is translated to a ready pod's.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use trunkline_faults::{
    net::{Network, SUBNET},
    world::{Authority, CLIENTS, Etcd, Postgres, metric},
};
use trunkline_system_tests::{s, until};

use crate::{
    helm::Helm,
    kubelet::{Pod, Secrets, Site},
    objects::Objects,
};

/// The address in front of SIP.
pub const SIP: Ipv4Addr = Ipv4Addr::new(10, 77, 200, 1);
/// Shards of a cluster.
const SHARDS: f64 = 4_096.0;
/// Names and number of the pods by role, with the hosts' short names.
const PODS: [(&str, usize); 6] =
    [("edge", 2), ("call", 2), ("acd", 2), ("media", 2), ("records", 1), ("console", 2)];

/// The cluster. Dropped, everything ends: pods before the network, the network before the folders.
#[derive(Debug)]
pub struct Lab {
    /// The pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// The journal's database.
    pub postgres: Postgres,
    /// etcd.
    pub etcd: Etcd,
    /// The network.
    pub network: Network,
    secrets: Secrets,
    settings: Vec<String>,
    binary: PathBuf,
    logs: PathBuf,
    recordings: PathBuf,
    data: TempDir,
}

impl Lab {
    /// Lays the ground and starts every pod of the chart as it is rendered with the lab's own settings. The sample centre is
    /// there with so many agents more; without a number nothing is, as after an installation.
    pub async fn start(
        mut network: Network,
        agents: Option<usize>,
        binary: &Path,
        logs: &Path,
    ) -> Result<Self> {
        ensure!(binary.is_file(), "{}: `cargo build -p trunkline` makes it", binary.display());
        let data = tempfile::tempdir()?;
        // PostgreSQL is another user.
        fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let etcd = Etcd::start(&mut network, data.path(), logs).await.context("etcd")?;
        let postgres = Postgres::start(&mut network, data.path(), logs).await.context("PostgreSQL")?;
        let secrets = secrets(&postgres, data.path())?;
        let settings = settings(&etcd, agents);
        let recordings = data.path().join("recordings");
        fs::create_dir_all(&recordings)?;
        let mut pods = BTreeMap::new();
        for (role, count) in PODS {
            for number in 0..count {
                let (name, host) = (format!("tl-trunkline-{role}-{number}"), format!("{role}{number}"));
                let address = network.host(&host)?;
                let folder = data.path().join(&name);
                pods.insert(name.clone(), Pod::new(&name, role, (&host, address), folder));
            }
        }
        let mut lab = Self {
            pods,
            postgres,
            etcd,
            network,
            secrets,
            settings,
            binary: binary.to_owned(),
            logs: logs.to_owned(),
            recordings,
            data,
        };
        lab.install(&[])?;
        lab.start_all().await?;
        lab.settled().await?;
        lab.balance("tl-trunkline-edge-0")?;
        Ok(lab)
    }

    /// Renders the chart (with more settings) for all pods; each takes it at its next start.
    pub fn install(&mut self, more: &[&str]) -> Result<Objects> {
        let settings: Vec<&str> =
            self.settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let chart = Helm::new("helm4")?.template(&crate::chart(), &[], &settings)?;
        for pod in self.pods.values_mut() {
            pod.take(&chart)?;
        }
        Ok(chart)
    }

    async fn start_all(&mut self) -> Result<()> {
        let site = Site {
            binary: &self.binary,
            logs: &self.logs,
            secrets: &self.secrets,
            recordings: &self.recordings,
        };
        for pod in self.pods.values_mut() {
            pod.launch(&self.network, &site)?;
        }
        for pod in self.pods.values_mut() {
            pod.started().await.with_context(|| pod.name.clone())?;
        }
        Ok(())
    }

    /// Waits until every shard has an owner who acts: pods are ready one by one, and the first of a new cluster has nobody
    /// yet to give a call to.
    async fn settled(&self) -> Result<()> {
        until("every shard has an owner", s(60), || async {
            let mut held = 0.0;
            for pod in self.pods.values().filter(|pod| ["call", "acd"].contains(&pod.role.as_str())) {
                held += metric(pod.address, "trunkline_cluster_shards_held", "").await?.unwrap_or(0.0);
            }
            Ok((held == SHARDS).then_some(()))
        })
        .await
    }

    /// Starts one pod and waits until it lives, ready or not.
    pub async fn launch_pod(&mut self, name: &str) -> Result<()> {
        let site = Site {
            binary: &self.binary,
            logs: &self.logs,
            secrets: &self.secrets,
            recordings: &self.recordings,
        };
        let pod = self.pods.get_mut(name).with_context(|| format!("no pod {name}"))?;
        pod.launch(&self.network, &site)?;
        pod.begun().await
    }

    /// Starts one pod and waits until it is ready.
    pub async fn start_pod(&mut self, name: &str) -> Result<()> {
        self.launch_pod(name).await?;
        self.pod(name)?.started().await
    }

    /// A pod.
    pub fn pod(&mut self, name: &str) -> Result<&mut Pod> {
        self.pods.get_mut(name).with_context(|| format!("no pod {name}"))
    }

    /// The pods of a role.
    pub fn of(&self, role: &str) -> Vec<String> {
        self.pods.values().filter(|pod| pod.role == role).map(|pod| pod.name.clone()).collect()
    }

    /// Consoles, running or not.
    pub fn consoles(&self) -> Vec<SocketAddr> {
        self.pods.values().filter(|pod| pod.role == "console").map(|pod| pod.port("http")).collect()
    }

    /// The Service in front of SIP sends to this pod from now on: its address, translated to the pod's.
    pub fn balance(&self, name: &str) -> Result<()> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        let rules = format!(
            "table ip balancer {{}}\ndelete table ip balancer\ntable ip balancer {{\n chain pre {{\n  type nat hook \
             prerouting priority -100;\n  ip daddr {SIP} dnat to {}\n }}\n}}\n",
            pod.address
        );
        let mut command = self.network.command(&pod.host, "nft")?;
        let mut nft = command.arg("-f").arg("-").stdin(Stdio::piped()).spawn().context("nft")?;
        std::io::Write::write_all(nft.stdin.as_mut().context("nft's input")?, rules.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refuses to translate addresses in a namespace");
        self.network.take_address(&pod.host, SIP)
    }

    /// A command on the callers' host.
    pub fn on_clients(&self) -> Result<Command> {
        self.network.command(CLIENTS, &self.binary)
    }

    /// What `kubectl exec` runs in a pod: the program with these arguments.
    pub fn exec(&self, name: &str, arguments: &[&str]) -> Result<Command> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        pod.exec(&self.network, &self.site(), arguments)
    }

    fn site(&self) -> Site<'_> {
        Site { binary: &self.binary, logs: &self.logs, secrets: &self.secrets, recordings: &self.recordings }
    }

    /// Where everything of the pods lies.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }
}

/// What the chart is told here.
fn settings(etcd: &Etcd, agents: Option<usize>) -> Vec<String> {
    let mut all = vec![
        format!("etcd.endpoints={}", json!(etcd.endpoints())),
        r#"postgresql.existingSecret="trunkline-postgresql""#.to_owned(),
        r#"recordings={"kind":"folder","folder":{"existingClaim":"recordings"}}"#.to_owned(),
        r#"tls={"mode":"existingSecret","existingSecret":"trunkline-node-tls"}"#.to_owned(),
        format!(r#"edge.network={{"mode":"loadBalancer","address":"{SIP}"}}"#),
        r#"media.network={"mode":"hostNetwork","nodeExternalIP":false}"#.to_owned(),
        "console.secureCookies=false".to_owned(),
        r#"logging.format="text""#.to_owned(),
        // As `helm test` comes: a trunk for the networks of the pods.
        format!(r#"test.podCidrs=["{SUBNET}"]"#),
    ];
    if let Some(agents) = agents {
        let sample = json!({"dev": {"agents": agents}});
        all.extend(PODS.iter().map(|(role, _)| format!("{role}.config={sample}")));
    }
    all
}

/// The Secrets that an operator makes before.
fn secrets(postgres: &Postgres, data: &Path) -> Result<Secrets> {
    let folder = data.join("certificates");
    fs::create_dir_all(&folder)?;
    Authority::new("trunkline kubernetes tests")?.write("trunkline-node", Ipv4Addr::LOCALHOST, &folder)?;
    let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| name.to_owned());
    let tls = [("ca.crt", "ca.pem"), ("tls.crt", "node.pem"), ("tls.key", "node.key")];
    let tls = tls.into_iter().map(|(key, file)| Ok((key.to_owned(), read(file)?))).collect::<Result<_>>()?;
    let database = BTreeMap::from([("url".to_owned(), postgres.url())]);
    Ok(BTreeMap::from([
        ("trunkline-node-tls".to_owned(), tls),
        ("trunkline-postgresql".to_owned(), database),
    ]))
}
