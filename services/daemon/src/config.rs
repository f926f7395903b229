//! A node's configuration: one section a role, each owned and checked by its room.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use anyhow::Result;
use serde::Deserialize;
use trunkline_config::Loader;

use crate::{cli::DevRun, documents::NumberBody};

const SECTIONS: [&str; 7] = ["node", "sip", "console", "metrics", "media", "call", "dev"];

/// Everything.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Nothing is to outlive the process: the journal does not wait for the disk.
    pub temporary: bool,
    pub node: NodeSection,
    pub sip: trunkline_edge::Config,
    pub console: trunkline_console::ConsoleConfig,
    pub metrics: MetricsSection,
    pub media: trunkline_media::Config,
    pub call: CallSection,
    pub dev: DevSection,
}

/// What `dev` adds to its sample data.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevSection {
    /// Further dialled numbers or names of the sample tenant: `ua2: { queue: support }`.
    pub numbers: BTreeMap<String, NumberBody>,
    /// Further agents `agent-001` and on; the flag `--agents`.
    pub agents: u32,
}

/// The node itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// Its name. Default `dev`.
    pub name: trunkline_types::NodeId,
    /// Threads for actors. Default: one a core, at most 8.
    pub arbiters: usize,
    /// Where traces go, `http://host:4317`; none = nowhere.
    pub otlp: Option<String>,
    /// Share of the calls whose traces are exported, 0 to 1. Default 1.
    pub otlp_ratio: f64,
    /// What is logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
    /// `text` for people or `json` for collectors. Default `text`.
    pub log_format: String,
    /// Seconds that calls have to end in after SIGTERM before they are released. Default 0 in `dev`.
    pub drain_s: u64,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            name: "dev".parse().unwrap_or_else(|_| unreachable!("a valid name")),
            arbiters: std::thread::available_parallelism().map_or(2, usize::from).min(8),
            otlp: None,
            otlp_ratio: 1.0,
            log: "info,sqlx=warn,str0m=warn,hyper=warn".to_owned(),
            log_format: "text".to_owned(),
            drain_s: 0,
        }
    }
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
    /// Defaults for `dir`, then the file, the environment and the flags.
    pub fn load(flags: &DevRun, dir: &Path) -> Result<Self> {
        let mut loader = Loader::new();
        if let Some(file) = &flags.config {
            loader = loader.file(file)?;
        }
        loader = loader.env("TRUNKLINE_", std::env::vars());
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
        for (key, value, flag) in texts {
            if let Some(value) = value {
                loader = loader.set(key, value, flag);
            }
        }
        loader.only(&SECTIONS)?;
        let media = media(&loader, dir)?;
        Ok(Self {
            temporary: flags.data_dir.is_none(),
            node: loader.section("node")?,
            sip: loader.section("sip")?,
            console: loader.section("console")?,
            metrics: loader.section("metrics")?,
            media,
            call: loader.section("call")?,
            dev: loader.section("dev")?,
        })
    }
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
    Ok(media)
}
