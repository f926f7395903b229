//! A whole cluster on this machine: hosts, etcd, PostgreSQL, nodes.

mod certs;
mod etcd;
mod node;
mod postgres;
mod tmpfs;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use trunkline_system_tests::{api::Api, s, until};

pub use certs::Authority;
pub use etcd::Etcd;
pub use node::{HTTP_PORT, Node, READY_WITHIN, SIP_PORT, Shared, Spec, metric};
pub use postgres::Postgres;
pub use tmpfs::Tmpfs;

use crate::net::Network;

/// Where callers and agents are.
pub const CLIENTS: &str = "clients";
/// Shards of a cluster.
const SHARDS: f64 = 4_096.0;
/// The SIP address that callers know.
pub const VIRTUAL_SIP: Ipv4Addr = Ipv4Addr::new(10, 77, 200, 1);

/// What is built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes.
    pub nodes: Vec<Spec>,
    /// Sample agents.
    pub agents: usize,
    /// The binary.
    pub binary: PathBuf,
    /// Lifetime of a lease, seconds.
    pub lease_s: u64,
    /// Further settings of every node, as its environment: `TRUNKLINE_NODE__OTLP` and so on.
    pub environment: Vec<(String, String)>,
}

impl Plan {
    /// Three control nodes, two media nodes, two in front, in two zones.
    pub fn standard(binary: PathBuf, agents: usize) -> Self {
        let nodes = [
            ("c1", "call,acd", "a"),
            ("c2", "call,acd", "b"),
            ("c3", "call,acd", "a"),
            ("m1", "media", "a"),
            ("m2", "media", "b"),
            ("e1", "edge,console,records", "a"),
            ("e2", "edge,console,records", "b"),
        ];
        let nodes = nodes.map(|(name, roles, zone)| Spec {
            name: name.into(),
            roles: roles.into(),
            zone: zone.into(),
        });
        Self { nodes: nodes.to_vec(), agents, binary, lease_s: 3, environment: Vec::new() }
    }
}

/// A running cluster. Fields are dropped in this order: processes before the network, the network before the folders.
#[derive(Debug)]
pub struct World {
    nodes: BTreeMap<String, Node>,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// etcd.
    pub etcd: Etcd,
    /// The network.
    pub network: Network,
    small: Vec<Tmpfs>,
    data: TempDir,
    logs: PathBuf,
}

impl World {
    /// Builds everything and waits until every node is ready. `logs` gets what the processes write.
    pub async fn start(mut network: Network, plan: &Plan, logs: &Path) -> Result<Self> {
        ensure!(
            plan.binary.is_file(),
            "{}: no such binary; `cargo build -p trunkline` makes it",
            plan.binary.display()
        );
        fs::create_dir_all(logs).with_context(|| format!("{}", logs.display()))?;
        let data = data_folder()?;
        let etcd = Etcd::start(&mut network, data.path(), logs).await.context("etcd")?;
        let postgres = Postgres::start(&mut network, data.path(), logs).await.context("PostgreSQL")?;
        let recordings = data.path().join("recordings");
        fs::create_dir_all(&recordings)?;
        let shared = Shared {
            etcd: etcd.endpoints(),
            journal: postgres.url(),
            sip: VIRTUAL_SIP,
            store: Shared::folder(&recordings),
            agents: plan.agents,
            lease_s: plan.lease_s,
            environment: plan.environment.clone(),
        };
        let authority = Authority::new("trunkline fault suite")?;
        let mut nodes = BTreeMap::new();
        for spec in &plan.nodes {
            let address = network.host(&spec.name)?;
            let folder = data.path().join(&spec.name);
            let node = Node::new(spec.clone(), address, folder, plan.binary.clone(), &shared)?;
            authority.write(&spec.name, address, &node.folder)?;
            nodes.insert(spec.name.clone(), node);
        }
        let mut world =
            Self { nodes, postgres, etcd, network, small: Vec::new(), data, logs: logs.to_owned() };
        let first = world.names("edge").into_iter().next().context("a plan without an edge")?;
        world.network.take_address(&first, VIRTUAL_SIP)?;
        // The first writes the sample data; the others find it.
        let names: Vec<String> = world.nodes.keys().cloned().collect();
        world.start_nodes(&names).await?;
        Ok(world)
    }

    /// Starts nodes and waits until all are ready.
    pub async fn start_nodes(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let node = self.nodes.get_mut(name).with_context(|| format!("no node {name}"))?;
            node.start(&self.network, &self.logs)?;
        }
        for name in names {
            self.node(name)?.ready().await?;
        }
        Ok(())
    }

    /// Puts another program in the place of all nodes' while none of them runs, as if it had installed the cluster: what
    /// the program of before has agreed on with others of its kind is forgotten.
    pub async fn install(&mut self, binary: &Path) -> Result<()> {
        for node in self.nodes.values_mut() {
            node.kill()?;
            binary.clone_into(&mut node.binary);
        }
        self.etcd.forget_gate().await?;
        self.start_nodes(&self.all()).await
    }

    /// Starts every node that does not run, takes all faults away, and waits until all serve.
    pub async fn mend(&mut self) -> Result<()> {
        self.network.heal()?;
        self.etcd.go_on()?;
        self.etcd.healthy(s(60)).await?;
        let mut down = Vec::new();
        for (name, node) in &mut self.nodes {
            if node.runs() {
                node.program()?.signal("-CONT")?;
            } else {
                node.set_clock(None);
                down.push(name.clone());
            }
        }
        self.start_nodes(&down).await?;
        self.balanced(s(60)).await
    }

    /// Waits until the shards are settled and a node that came back has its share again: what moves for that must not be
    /// taken for what the next fault moves.
    async fn balanced(&mut self, limit: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + limit;
        let owners: Vec<String> =
            self.all().into_iter().filter(|name| self.nodes[name].spec.owns_shards()).collect();
        // All have the same roles; they are balanced to within a block.
        let least = SHARDS / owners.len() as f64 * 0.9;
        for name in &owners {
            loop {
                let held = self.node(name)?.metric("trunkline_cluster_shards_held", "").await?.unwrap_or(0.0);
                if held >= least {
                    break;
                }
                ensure!(std::time::Instant::now() < deadline, "{name} has only {held} shards again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        self.settled(deadline.saturating_duration_since(std::time::Instant::now())).await
    }

    /// A node.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.get_mut(name).with_context(|| format!("no node {name}"))
    }

    /// Names of the nodes with a role.
    pub fn names(&self, role: &str) -> Vec<String> {
        self.nodes.values().filter(|node| node.spec.has(role)).map(|node| node.spec.name.clone()).collect()
    }

    /// All nodes.
    pub fn all(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Consoles, running or not.
    pub fn consoles(&self) -> Vec<SocketAddr> {
        self.nodes.values().filter(|node| node.spec.has("console")).map(Node::http).collect()
    }

    /// Moves the callers' SIP address to another edge.
    pub fn move_sip(&self, edge: &str) -> Result<()> {
        self.network.take_address(edge, VIRTUAL_SIP)
    }

    /// Signed in as a supervisor at the first console that answers.
    pub async fn api(&self) -> Result<Api> {
        supervisor(&self.consoles()).await
    }

    /// A metric summed over all running nodes.
    pub async fn metric(&mut self, name: &str, labels: &str) -> f64 {
        let mut sum = 0.0;
        for node in self.nodes.values_mut() {
            if !node.runs() {
                continue;
            }
            let asked = tokio::time::timeout(Duration::from_secs(3), node.metric(name, labels)).await;
            sum += asked.ok().and_then(Result::ok).flatten().unwrap_or(0.0);
        }
        sum
    }

    /// Shards that the coordinators have moved, as far as they run. Fails when no node knows such a figure: a name that is
    /// wrong must not pass for calm.
    pub async fn moves(&mut self) -> Result<f64> {
        let (mut known, mut sum) = (false, 0.0);
        for node in self.nodes.values_mut() {
            if !node.runs() {
                continue;
            }
            known |= node::knows(node.address, "trunkline_cluster_moves").await;
            sum += node.metric("trunkline_cluster_moves_total", "").await?.unwrap_or(0.0);
        }
        ensure!(known, "no node has the metric trunkline_cluster_moves");
        Ok(sum)
    }

    /// The node on which a metric is greatest, of those that run; by it a scenario finds whom to hit.
    pub async fn most(&mut self, role: &str, metric: &str) -> Result<String> {
        let mut best: Option<(f64, String)> = None;
        for name in self.names(role) {
            let node = self.node(&name)?;
            if !node.runs() {
                continue;
            }
            let value = node.metric(metric, "").await?.unwrap_or(0.0);
            if best.as_ref().is_none_or(|(most, _)| value > *most) {
                best = Some((value, name));
            }
        }
        best.map(|(_, name)| name).with_context(|| format!("no node with role {role} runs"))
    }

    /// Waits until every shard has an owner who acts, and no move is under way, as far as nodes tell.
    pub async fn settled(&mut self, limit: Duration) -> Result<()> {
        let deadline = std::time::Instant::now() + limit;
        let mut last = -1.0;
        loop {
            let held = self.metric("trunkline_cluster_shards_held", "").await;
            let opening = self.metric("trunkline_cluster_shards_opening", "").await;
            if opening == 0.0 && held == SHARDS && held == last {
                return Ok(());
            }
            last = held;
            ensure!(
                std::time::Instant::now() < deadline,
                "not settled: {held} shards are held and {opening} are being taken over"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Replaces the spool of a stopped node by a small file system of its own.
    pub fn small_spool(&mut self, node: &str, kib: u32) -> Result<PathBuf> {
        let spool = self.node(node)?.spool();
        self.small.push(Tmpfs::mount(&spool, kib)?);
        Ok(spool)
    }

    /// Changes the configuration as an operator does, with `trunkline documents apply`. `text`: YAML.
    pub async fn apply(&mut self, text: &str) -> Result<()> {
        let file = self.data.path().join("documents.yaml");
        fs::write(&file, text)?;
        let name = self.names("acd").into_iter().next().context("a plan without an acd node")?;
        let node = self.nodes.get(&name).with_context(|| format!("no node {name}"))?;
        let mut command = self.network.command(&name, &node.binary)?;
        command.args(["documents", "apply", "--config"]).arg(node.config()).arg(&file);
        let mut command = tokio::process::Command::from(command);
        let output = tokio::time::timeout(Duration::from_secs(30), command.kill_on_drop(true).output());
        let output = output.await.context("trunkline documents apply took more than 30 s")??;
        ensure!(
            output.status.success(),
            "trunkline documents apply: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// What the processes write.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Where recordings end up.
    pub fn recordings(&self) -> PathBuf {
        self.data.path().join("recordings")
    }

    /// Ends everything and gives the network back with its clients, so that another world can be built.
    pub fn end(self) -> Result<Network> {
        let Self { nodes, postgres, etcd, mut network, small, data, .. } = self;
        drop((nodes, postgres, etcd));
        network.clear(CLIENTS)?;
        drop((small, data));
        Ok(network)
    }
}

/// Signed in as a supervisor at the first of these consoles that answers.
pub async fn supervisor(consoles: &[SocketAddr]) -> Result<Api> {
    until("a console signs the supervisor in", s(30), || async {
        for console in consoles {
            let signed = tokio::time::timeout(s(3), Api::sign_in(*console, "sue")).await;
            if let Ok(Ok(api)) = signed {
                return Ok(Some(api));
            }
        }
        Ok(None)
    })
    .await
}

const FOLDER: &str = "trunkline-faults-";

/// In memory when the machine has such a folder: a disk that is shared with builds says nothing about the system.
fn data_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    remove_stale(&place);
    let prefix = format!("{FOLDER}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(place).context("a folder for data")?;
    // PostgreSQL is another user.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(made.path(), open)?;
    Ok(made)
}

/// Removes the folders of runs whose process is gone. What cannot be removed stays for the next one.
fn remove_stale(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()).map(str::to_owned);
        let Some(pid) = pid.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit())) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            tmpfs::unmount_under(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
