//! A cluster of real processes in network namespaces, taken apart as an operator would: what it stands on (etcd, PostgreSQL,
//! the folder of recordings) is there before the nodes and can be there without them.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use trunkline_faults::{
    net::Network,
    scenario::{Place, Stage},
    world::{Authority, CLIENTS, Etcd, Node, Postgres, SIP_PORT, Shared, Spec, VIRTUAL_SIP, metric},
};
use trunkline_system_tests::{api::Api, s, system, until};

use crate::store::{Keep, Store};

/// Shards of a cluster.
const SHARDS: f64 = 4_096.0;
/// A takeover of everything, on a machine that does other things.
const SETTLED_WITHIN: Duration = s(60);

/// Names and roles of nodes.
pub type Roles = [(&'static str, &'static str)];

/// What nodes stand on, where it is not the usual.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Where recordings are kept.
    pub keep: Keep,
    /// Further settings of every node, as its environment.
    pub environment: Vec<(String, String)>,
}

/// Everything but the people.
#[derive(Debug)]
pub struct Lab {
    nodes: BTreeMap<String, Node>,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// etcd, three members.
    pub etcd: Etcd,
    /// The namespaces.
    pub network: Network,
    store: Store,
    data: TempDir,
    folder: PathBuf,
}

/// Runs a test on a network of its own; the test itself is on the host `clients` of it.
///
/// # Errors
/// What the test returns, or why there is no network.
pub fn on_network<F, R>(test: &str, body: F) -> Result<()>
where
    F: FnOnce(Network, PathBuf) -> R,
    R: Future<Output = Result<()>>,
{
    let folder = trunkline_system_tests::folder(&format!("operations-{test}"))?;
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    // Threads inherit it.
    network.enter(CLIENTS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(body(network, folder)));
    runtime.shutdown_timeout(s(2));
    outcome
}

impl Lab {
    /// Starts an empty etcd and an empty PostgreSQL, and writes the nodes' configurations; starts no node.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn ground(network: Network, folder: &Path, nodes: &Roles, agents: usize) -> Result<Self> {
        Self::ground_on(Ground::default(), network, folder, nodes, agents).await
    }

    /// The same on another ground; its store is empty.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn ground_on(
        ground: Ground,
        mut network: Network,
        folder: &Path,
        nodes: &Roles,
        agents: usize,
    ) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let data = tempfile::Builder::new().prefix("trunkline-lab-").tempdir_in(place)?;
        // PostgreSQL is another user.
        fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let etcd = Etcd::start(&mut network, data.path(), folder).await.context("etcd")?;
        let postgres = Postgres::start(&mut network, data.path(), folder).await.context("PostgreSQL")?;
        let store = Store::make(ground.keep, data.path(), network.address(CLIENTS)?.into()).await?;
        let shared = Shared {
            etcd: etcd.endpoints(),
            journal: postgres.url(),
            sip: VIRTUAL_SIP,
            store: store.config(),
            agents,
            lease_s: 3,
            environment: ground.environment,
        };
        let authority = Authority::new("trunkline lab")?;
        let mut all = BTreeMap::new();
        for (name, roles) in nodes {
            let address = network.host(name)?;
            let spec = Spec { name: (*name).to_owned(), roles: (*roles).to_owned(), zone: "a".to_owned() };
            let own = data.path().join(name);
            let node = Node::new(spec, address, own, system::binary()?, &shared)?;
            authority.write(name, address, &node.folder)?;
            if node.spec.has("edge") && !all.values().any(|other: &Node| other.spec.has("edge")) {
                network.take_address(name, VIRTUAL_SIP)?;
            }
            all.insert((*name).to_owned(), node);
        }
        Ok(Self { nodes: all, postgres, etcd, network, store, data, folder: folder.to_owned() })
    }

    /// The same with every node running and every shard in use.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(network: Network, folder: &Path, nodes: &Roles, agents: usize) -> Result<Self> {
        let mut lab = Self::ground(network, folder, nodes, agents).await?;
        lab.start_nodes().await?;
        Ok(lab)
    }

    /// Starts every node that does not run, and waits until every shard is in use.
    ///
    /// # Errors
    /// When one is not ready in time.
    pub async fn start_nodes(&mut self) -> Result<()> {
        let mut started = Vec::new();
        for (name, node) in &mut self.nodes {
            if !node.runs() {
                node.start(&self.network, &self.folder)?;
                started.push(name.clone());
            }
        }
        for name in started {
            self.node(&name)?.ready().await?;
        }
        self.settled().await
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.get_mut(name).with_context(|| format!("no node {name}"))
    }

    /// Names and process ids of the nodes that run.
    ///
    /// # Errors
    /// When one ends meanwhile.
    pub fn pids(&mut self) -> Result<Vec<(String, u32)>> {
        let mut running = Vec::new();
        for (name, node) in &mut self.nodes {
            if node.runs() {
                running.push((name.clone(), node.program()?.pid()));
            }
        }
        Ok(running)
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Starts a node that does not run and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start_node(&mut self, name: &str) -> Result<()> {
        let Self { nodes, network, folder, .. } = self;
        let node = nodes.get_mut(name).with_context(|| format!("no node {name}"))?;
        node.start(network, folder)?;
        node.ready().await
    }

    /// A node's configuration file.
    pub fn config(&self, name: &str) -> PathBuf {
        self.data.path().join(name).join("node.yaml")
    }

    /// The folder of a node's certificates and data.
    pub fn folder_of(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// Where recordings are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The folder that recordings are kept in.
    ///
    /// # Errors
    /// When they are kept elsewhere.
    pub fn recordings(&self) -> Result<&Path> {
        self.store.folder().context("recordings are not in a folder")
    }

    /// What the processes wrote, and what the test may keep.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `trunkline …` as an operator runs it on a host, without the environment of the test.
    ///
    /// # Errors
    /// When the binary or the host is not there.
    pub fn trunkline(&self, host: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = self.network.command(host, system::binary()?)?;
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRUNKLINE_"))
        {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(&self.folder);
        Ok(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended in time.
    pub async fn run(&self, host: &str, arguments: &[&str]) -> Result<Done> {
        run(self.trunkline(host, arguments)?).await
    }

    /// Runs a program on the host of the database server, as the documentation of the backup has it.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub async fn on_database_host(&self, program: &str, arguments: &[&str]) -> Result<Done> {
        let program = postgres_program(program)?;
        let mut command = self.network.command("postgres", program)?;
        let host = self.network.address("postgres")?.to_string();
        command.env("PGHOST", host).env("PGUSER", "trunkline").args(arguments);
        run(command).await?.success()
    }

    /// One value of the journal's database.
    ///
    /// # Errors
    /// When psql fails.
    pub async fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let done = self.on_database_host("psql", &["-d", database, "-tAqc", statement]).await?;
        Ok(done.stdout.trim().to_owned())
    }

    /// A metric summed over all running nodes.
    pub async fn metric(&mut self, name: &str, labels: &str) -> f64 {
        let mut sum = 0.0;
        for node in self.nodes.values_mut() {
            if node.runs() {
                let asked = tokio::time::timeout(s(3), node.metric(name, labels)).await;
                sum += asked.ok().and_then(Result::ok).flatten().unwrap_or(0.0);
            }
        }
        sum
    }

    /// Waits until every shard has an owner who acts.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn settled(&mut self) -> Result<()> {
        let running: Vec<Ipv4Addr> =
            self.nodes.values_mut().filter_map(|node| node.runs().then_some(node.address)).collect();
        until("every shard is in use", SETTLED_WITHIN, || async {
            let (mut held, mut opening) = (0.0, 0.0);
            for address in &running {
                held += metric(*address, "trunkline_cluster_shards_held", "").await?.unwrap_or(0.0);
                opening += metric(*address, "trunkline_cluster_shards_opening", "").await?.unwrap_or(0.0);
            }
            Ok((held == SHARDS && opening == 0.0).then_some(()))
        })
        .await
    }

    /// Consoles.
    pub fn consoles(&self) -> Vec<SocketAddr> {
        self.nodes.values().filter(|node| node.spec.has("console")).map(Node::http).collect()
    }

    /// Where the nodes show metrics.
    pub fn metrics(&self) -> Vec<SocketAddr> {
        self.nodes.values().map(Node::metrics).collect()
    }

    /// Signed in as a supervisor.
    ///
    /// # Errors
    /// When no console answers.
    pub async fn api(&self) -> Result<Api> {
        trunkline_faults::world::supervisor(&self.consoles()).await
    }

    /// Where callers and agents are, and where they turn to.
    ///
    /// # Errors
    /// When the network has no clients' host.
    pub fn place(&self) -> Result<Place> {
        Ok(Place {
            bind: self.network.address(CLIENTS)?.into(),
            sip: (VIRTUAL_SIP, SIP_PORT).into(),
            consoles: self.consoles(),
        })
    }

    /// Callers and agents with audio.
    ///
    /// # Errors
    /// When the agents cannot sign in.
    pub async fn stage(&self, agents: usize) -> Result<Stage> {
        Stage::build(self.place()?, &self.folder, agents, true).await
    }

    /// Ends everything, removes every file of it, and gives the network back.
    ///
    /// # Errors
    /// When the network cannot be cleared.
    pub fn destroy(self) -> Result<Network> {
        let Self { nodes, postgres, etcd, mut network, store, data, .. } = self;
        drop((nodes, postgres, etcd, store));
        network.clear(CLIENTS)?;
        data.close().context("the lost cluster's files")?;
        Ok(network)
    }
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its exit code; none = a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Itself, when it succeeded.
    ///
    /// # Errors
    /// When it did not, with what it said.
    pub fn success(self) -> Result<Self> {
        ensure!(self.code == Some(0), "exit {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Its output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not JSON: {}\n{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end, for at most two minutes.
///
/// # Errors
/// When it cannot be started or does not end.
pub async fn run(command: Command) -> Result<Done> {
    let text = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(s(120), command.output()).await;
    let Output { status, stdout, stderr } =
        output.with_context(|| format!("not done within 120 s: {text}"))?.with_context(|| text)?;
    let read = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Done { code: status.code(), stdout: read(stdout), stderr: read(stderr) })
}

/// Debian keeps the newest version's programs out of the path.
fn postgres_program(name: &str) -> Result<PathBuf> {
    let folder =
        fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is missing: install postgresql-15")?;
    let mut found: Vec<PathBuf> = folder
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().with_context(|| format!("{name} is missing: install postgresql-15"))
}
