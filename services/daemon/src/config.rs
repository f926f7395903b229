//! A node's configuration: one section a role, each owned and checked by its room.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use trunkline_cluster::{ClusterConfig, Role, TlsFiles};
use trunkline_config::Loader;
use trunkline_edge::DigestAlgorithm;
use trunkline_journal::JournalConfig;
use trunkline_rpc::{Tls, TlsConfig, TlsMetrics};
use trunkline_telemetry::hep::HepConfig;

use crate::{
    cli::{DevRun, RunArgs},
    documents::NumberBody,
    node::advertise::Advertise,
};

const SECTIONS: [&str; 10] =
    ["node", "cluster", "journal", "sip", "console", "metrics", "media", "call", "hep", "dev"];

/// Everything.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Nothing is to outlive the process: the journal does not wait for the disk.
    pub temporary: bool,
    pub node: NodeSection,
    /// None = this node is alone.
    pub cluster: Option<ClusterConfig>,
    /// None = SQLite in the data folder.
    pub journal: Option<JournalConfig>,
    pub sip: trunkline_edge::Config,
    pub console: trunkline_console::ConsoleConfig,
    pub metrics: MetricsSection,
    pub media: trunkline_media::Config,
    pub call: CallSection,
    /// None = nothing is captured.
    pub hep: Option<HepConfig>,
    /// Sample data: always in `dev`; with `run` only when the section is there.
    pub dev: Option<DevSection>,
}

/// What `dev` adds to its sample data.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevSection {
    /// Further dialled numbers or names of the sample tenant: `ua2: { queue: support }`.
    pub numbers: BTreeMap<String, NumberBody>,
    /// Further agents `agent-001` and on; the flag `--agents`.
    pub agents: u32,
    /// Further telephones `phone-001` and on, with the password `phone-001-dev` and so on.
    pub telephones: u32,
    /// Whether the sample queues' conversations are not recorded; the flag `--no-recording`.
    pub no_recording: bool,
}

/// The node itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// Its name, unique in its cluster. Default `dev`.
    pub name: trunkline_types::NodeId,
    /// What it does. Default: everything.
    pub roles: BTreeSet<Role>,
    /// Its failure domain; media is taken from the edge's zone first. Default: none.
    pub zone: Option<String>,
    /// Where it keeps its files. Default: a temporary folder in `dev`, required in `run`.
    pub data_dir: Option<PathBuf>,
    /// Threads for actors. Default: one for two cores, at most 8.
    pub arbiters: usize,
    /// Threads for what is neither an actor nor audio: SIP, links, agents, records. Default: one a core, one for two cores
    /// beside actors. A message between two threads that sleep costs more than what it says: fewer are cheaper.
    pub workers: Option<usize>,
    /// Where traces go, `http://host:4317`; none = nowhere.
    pub otlp: Option<String>,
    /// Share of the calls whose traces are exported, 0 to 1. Default 1.
    pub otlp_ratio: f64,
    /// What is logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
    /// `text` for people or `json` for collectors. Default `text`.
    pub log_format: String,
    /// Where the address comes from that telephones and browsers are told, when it is not set. Default: nowhere.
    pub advertise: Option<Advertise>,
    /// Seconds that calls have to end in after SIGTERM before they are released. Default 0 in `dev`.
    pub drain_s: u64,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            name: "dev".parse().unwrap_or_else(|_| unreachable!("a valid name")),
            roles: Role::ALL.into_iter().collect(),
            zone: None,
            data_dir: None,
            advertise: None,
            arbiters: (cores() / 2).clamp(1, 8),
            workers: None,
            otlp: None,
            otlp_ratio: 1.0,
            log: "info,sqlx=warn,str0m=warn,hyper=warn".to_owned(),
            log_format: "text".to_owned(),
            drain_s: 0,
        }
    }
}

impl NodeSection {
    /// Of a node that is yet to be configured: its file, the environment, and the flag `--roles`.
    pub fn before(file: Option<&Path>, roles: Option<&str>) -> Result<Self> {
        with_roles(layers(file)?, roles).section("node").map_err(Into::into)
    }

    /// How many threads of the runtime it wants.
    pub fn runtime_threads(&self) -> usize {
        let beside_actors = self.roles.contains(&Role::Call) || self.roles.contains(&Role::Acd);
        let default = if beside_actors { cores() / 2 } else { cores() };
        self.workers.unwrap_or(default).clamp(1, 256)
    }
}

/// What this process may use of the machine.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Where they are served. Default 127.0.0.1:9090.
    pub listen: SocketAddr,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

/// The call role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallSection {
    /// Calls at once on this node; more are refused with 503. Default 20,000.
    pub max_calls: usize,
}

impl Default for CallSection {
    fn default() -> Self {
        Self { max_calls: 20_000 }
    }
}

impl NodeConfig {
    /// For `dev`: defaults for `dir`, then the file, the environment and the flags.
    pub fn dev(flags: &DevRun, dir: &Path) -> Result<Self> {
        let mut loader = layers(flags.config.as_deref())?;
        let addresses = [
            ("sip.listen", flags.sip, "--sip"),
            ("console.listen", flags.http, "--http"),
            ("metrics.listen", flags.metrics, "--metrics"),
        ];
        for (key, value, flag) in addresses {
            if let Some(value) = value {
                loader = loader.set(key, &value.to_string(), flag);
            }
        }
        let texts = [
            ("media.rtp", &flags.rtp, "--rtp"),
            ("media.transcription.endpoint", &flags.recogniser, "--recogniser"),
            ("node.otlp", &flags.otlp, "--otlp"),
            ("node.log", &flags.log, "--log"),
        ];
        if flags.agents > 0 {
            loader = loader.set("dev.agents", &flags.agents.to_string(), "--agents");
        }
        if flags.no_recording {
            loader = loader.set("dev.no_recording", "true", "--no-recording");
        }
        for (key, value, flag) in texts {
            if let Some(value) = value {
                loader = loader.set(key, value, flag);
            }
        }
        let mut config = Self::read(&loader, |_| Ok(dir.to_owned()))?;
        config.temporary = flags.data_dir.is_none();
        // Whatever telephone is at hand is to work with it.
        config.sip.telephones.algorithms.get_or_insert_with(|| vec![DigestAlgorithm::Md5]);
        config.dev = Some(loader.section("dev")?);
        ensure!(
            config.cluster.is_none(),
            "cluster: `dev` runs alone; use `trunkline run` for a node of a cluster"
        );
        for (key, listen) in [("console.listen", config.console.listen), ("sip.listen", config.sip.listen)] {
            ensure!(
                flags.open || listen.ip().to_canonical().is_loopback(),
                "{key}: {listen} is beyond this machine, and everybody knows the passwords of the sample accounts: leave it \
                 at a loopback address (`ssh -L` leads there), run a centre of your own with `trunkline run`, or say --open \
                 on a network where everybody may"
            );
        }
        Ok(config)
    }

    /// For `run`: the file, the environment and the flags, checked as a whole.
    pub fn run(flags: &RunArgs) -> Result<Self> {
        let mut loader = with_roles(layers(Some(&flags.config))?, flags.roles.as_deref());
        if let Some(log) = &flags.log {
            loader = loader.set("node.log", log, "--log");
        }
        let config = Self::read(&loader, |node| match &node.data_dir {
            Some(dir) => Ok(dir.clone()),
            None => bail!(
                "node.data_dir is required: the folder for recordings under way and this node's records"
            ),
        })?;
        config.check()?;
        Ok(config)
    }

    fn read(loader: &Loader, dir: impl Fn(&NodeSection) -> Result<PathBuf>) -> Result<Self> {
        loader.only(&SECTIONS)?;
        let node: NodeSection = loader.section("node")?;
        ensure!(
            node.workers.is_none_or(|workers| (1..=256).contains(&workers)),
            "node.workers: {} asked for, 1 to 256 are possible",
            node.workers.unwrap_or_default()
        );
        let media = media(loader, &dir(&node)?)?;
        Ok(Self {
            temporary: false,
            node,
            cluster: optional(loader, "cluster")?,
            journal: optional(loader, "journal")?,
            sip: loader.section("sip")?,
            console: loader.section("console")?,
            metrics: loader.section("metrics")?,
            media,
            call: loader.section("call")?,
            hep: optional(loader, "hep")?,
            dev: optional(loader, "dev")?,
        })
    }

    /// What no section can know by itself.
    fn check(&self) -> Result<()> {
        if let Some(journal) = &self.journal {
            journal.validate().context("journal")?;
        }
        let missing: Vec<&str> = Role::ALL
            .iter()
            .filter(|role| !self.node.roles.contains(role))
            .map(|role| role.as_str())
            .collect();
        match &self.cluster {
            None => ensure!(
                missing.is_empty(),
                "node.roles: {} missing; a node without a `cluster` section is alone and needs every role",
                missing.join(", ")
            ),
            Some(cluster) => {
                cluster.validate().context("cluster")?;
                ensure!(!self.node.roles.is_empty(), "node.roles: name at least one role");
                ensure!(
                    self.journal.as_ref().is_some_and(|journal| journal.postgres.is_some()),
                    "journal.postgres is required in a cluster: a journal in SQLite cannot be shared by nodes"
                );
            }
        }
        Ok(())
    }

    /// "sqlite" or "postgres".
    pub fn journal_kind(&self) -> &'static str {
        let postgres = self.journal.as_ref().is_some_and(|journal| journal.postgres.is_some());
        if postgres { "postgres" } else { "sqlite" }
    }

    /// Where people and telephones reach the node, for pages and for clients that look for another node.
    pub fn public_addresses(&self) -> BTreeMap<String, String> {
        let mut addresses = BTreeMap::new();
        if self.has(Role::Edge) {
            let sip = self.sip.advertised.unwrap_or(self.sip.listen);
            addresses.insert("sip".to_owned(), sip.to_string());
        }
        if self.has(Role::Console) {
            addresses.insert("http".to_owned(), self.console.listen.to_string());
        }
        addresses.insert("metrics".to_owned(), self.metrics.listen.to_string());
        addresses
    }

    /// Looks whether the files that the configuration names can be read.
    pub fn check_files(&self) -> Result<()> {
        if let Some(tls) = self.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref()) {
            Tls::load(tls_files(tls), TlsMetrics::default()).context("cluster.tls")?;
        }
        if let Some(hep) = &self.hep {
            hep.auth_key()?;
        }
        Ok(())
    }

    /// Whether this node has a role.
    pub fn has(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }
}

/// The certificates between nodes, as the links take them.
pub fn tls_files(files: &TlsFiles) -> TlsConfig {
    TlsConfig { ca: files.ca.clone(), cert: files.cert.clone(), key: files.key.clone() }
}

fn layers(file: Option<&Path>) -> Result<Loader> {
    let mut loader = Loader::new();
    if let Some(file) = file {
        loader = loader.file(file)?;
    }
    Ok(loader.env("TRUNKLINE_", std::env::vars()))
}

fn with_roles(loader: Loader, roles: Option<&str>) -> Loader {
    match roles {
        Some(roles) => loader.set("node.roles", &format!("[{roles}]"), "--roles"),
        None => loader,
    }
}

/// A section that need not be there.
fn optional<T: serde::de::DeserializeOwned>(loader: &Loader, name: &str) -> Result<Option<T>> {
    if loader.has(name) { Ok(Some(loader.section(name)?)) } else { Ok(None) }
}

/// The media section, with its folders under `dir` unless it names others.
fn media(loader: &Loader, dir: &Path) -> Result<trunkline_media::Config> {
    let given: serde_json::Value = loader.section("media")?;
    let mut media: trunkline_media::Config = loader.section("media")?;
    let recording = &given["recording"];
    if recording["spool"].is_null() {
        media.recording.spool = dir.join("spool");
    }
    if recording["store"].is_null() {
        media.recording.store = trunkline_media::StoreConfig::Folder { path: dir.join("recordings") };
    }
    if recording["segment_ms"].is_null() && !loader.has("cluster") && on_one_disk(&media.recording) {
        media.recording.segment_ms = 0;
    }
    Ok(media)
}

/// Whether a copy of the spool in the store would be lost with the spool.
fn on_one_disk(recording: &trunkline_media::RecordingConfig) -> bool {
    let trunkline_media::StoreConfig::Folder { path } = &recording.store else { return false };
    // Of the folder that is there already, when it has to be made first.
    let disk = |path: &Path| path.ancestors().find_map(|path| path.metadata().ok()).map(|found| found.dev());
    disk(path).is_some() && disk(path) == disk(&recording.spool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(store: &Path, spool: &Path) -> trunkline_media::RecordingConfig {
        let store = trunkline_media::StoreConfig::Folder { path: store.to_owned() };
        trunkline_media::RecordingConfig { spool: spool.to_owned(), store, ..Default::default() }
    }

    #[test]
    fn what_is_recorded_is_copied_to_another_disk_only() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, store) = (folder.path().join("spool"), folder.path().join("not/made/yet"));
        assert!(on_one_disk(&recording(&store, &spool)));
        // Another file system, whatever the machine has.
        assert!(!on_one_disk(&recording(Path::new("/proc/recordings"), &spool)));

        let media = |text: &str| {
            let file = folder.path().join("node.yaml");
            std::fs::write(&file, text).unwrap();
            media(&Loader::new().file(&file).unwrap(), folder.path()).unwrap().recording.segment_ms
        };
        assert_eq!(media("node: {}"), 0);
        assert_eq!(media("media: { recording: { segment_ms: 2000 } }"), 2_000);
        assert_eq!(media("media: { recording: { store: { kind: folder, path: /proc/recordings } } }"), 1_000);
        assert_eq!(media("cluster: {}"), 1_000, "another node may have to end the recording");
    }

    /// Sample accounts have known passwords: they are this machine's only, unless somebody says otherwise.
    #[test]
    fn dev_stays_on_this_machine_unless_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let dev = |http: &str, sip: &str, open| {
            let (http, sip) = (http.parse().ok(), sip.parse().ok());
            let flags = DevRun { http, sip, open, ..DevRun::default() };
            NodeConfig::dev(&flags, folder.path()).map(drop).map_err(|error| format!("{error:#}"))
        };
        for local in ["127.0.0.1:8080", "127.0.0.9:0", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
            assert_eq!(dev(local, "127.0.0.1:5060", false), Ok(()), "{local}");
        }
        for beyond in ["0.0.0.0:8080", "10.0.0.7:8080", "[::]:8080"] {
            let refused = dev(beyond, "127.0.0.1:5060", false).unwrap_err();
            assert!(refused.starts_with(&format!("console.listen: {beyond} is beyond")), "{refused}");
            assert!(refused.contains("--open"), "{refused}");
            let refused = dev("127.0.0.1:8080", beyond, false).unwrap_err();
            assert!(refused.starts_with(&format!("sip.listen: {beyond} is beyond")), "{refused}");
            assert_eq!(dev(beyond, beyond, true), Ok(()));
        }
    }

    #[test]
    fn beside_actors_half_of_the_cores_do_the_rest() {
        let of = |roles: &[Role], workers| {
            NodeSection { roles: roles.iter().copied().collect(), workers, ..NodeSection::default() }
                .runtime_threads()
        };
        assert_eq!(of(&[Role::Edge, Role::Console], None), cores());
        assert_eq!(of(&[Role::Edge, Role::Call], None), (cores() / 2).max(1));
        assert_eq!(of(&Role::ALL, Some(3)), 3);
    }
}
