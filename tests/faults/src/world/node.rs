//! One node: its configuration as an operator would write it, and its process.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use trunkline_system_tests::{http, process::Program, s};

use crate::net::Network;

/// Debug builds on a machine with two cores, all starting at once.
pub const READY_WITHIN: Duration = s(90);
const CLUSTER_PORT: u16 = 7400;
/// SIP.
pub const SIP_PORT: u16 = 5060;
/// Pages and API.
pub const HTTP_PORT: u16 = 8080;
const METRICS_PORT: u16 = 9090;
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Which node.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name, also of its host.
    pub name: String,
    /// Roles, separated by commas.
    pub roles: String,
    /// Zone.
    pub zone: String,
}

impl Spec {
    /// Whether it has a role.
    pub fn has(&self, role: &str) -> bool {
        self.roles.split(',').any(|r| r == role)
    }

    /// Whether shards may be its own.
    pub fn owns_shards(&self) -> bool {
        self.has("call") || self.has("acd")
    }
}

/// What all nodes of a cluster are configured with.
#[derive(Debug, Clone)]
pub struct Shared {
    /// etcd.
    pub etcd: Vec<String>,
    /// PostgreSQL.
    pub journal: String,
    /// The SIP address that callers know: one edge has it at a time.
    pub sip: Ipv4Addr,
    /// Where recordings go: the value of `media.recording.store`.
    pub store: String,
    /// Sample agents.
    pub agents: usize,
    /// Lifetime of a lease, seconds.
    pub lease_s: u64,
    /// Environment of every node.
    pub environment: Vec<(String, String)>,
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    /// Which.
    pub spec: Spec,
    /// Its address.
    pub address: Ipv4Addr,
    /// The folder of its configuration and data.
    pub folder: PathBuf,
    /// The binary.
    pub binary: PathBuf,
    environment: Vec<(String, String)>,
    program: Option<Program>,
    starts: u32,
    clock: Option<String>,
}

impl Shared {
    /// A [`Shared::store`] in a folder that all nodes see.
    pub fn folder(path: &Path) -> String {
        format!("{{ kind: folder, path: \"{}\" }}", path.display())
    }
}

impl Node {
    /// Writes the configuration.
    pub fn new(
        spec: Spec,
        address: Ipv4Addr,
        folder: PathBuf,
        binary: PathBuf,
        shared: &Shared,
    ) -> Result<Self> {
        let node = Self {
            spec,
            address,
            folder,
            binary,
            environment: shared.environment.clone(),
            program: None,
            starts: 0,
            clock: None,
        };
        fs::create_dir_all(node.spool())?;
        fs::write(node.config(), node.text(shared)).with_context(|| node.spec.name.clone())?;
        Ok(node)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("node.yaml")
    }

    /// Where recordings are while they are written.
    pub fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn text(&self, shared: &Shared) -> String {
        let Self { spec, address, folder, .. } = self;
        let folder = folder.display();
        let quoted =
            |items: &[String]| items.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
        let roles: Vec<String> = spec.roles.split(',').map(str::to_owned).collect();
        let mut text = format!(
            "node: {{ name: {name}, roles: [{roles}], zone: {zone}, data_dir: \"{folder}/data\", arbiters: 2, drain_s: 20, \
             log_format: text }}\n\
             cluster:\n  name: faults\n  listen: \"{address}:{CLUSTER_PORT}\"\n  advertise: \"{address}:{CLUSTER_PORT}\"\n  \
             lease_ttl: {ttl}s\n  etcd: {{ endpoints: [{etcd}] }}\n  \
             tls: {{ ca: \"{folder}/ca.pem\", cert: \"{folder}/node.pem\", key: \"{folder}/node.key\" }}\n\
             journal:\n  postgres: {{ url: \"{journal}\" }}\n\
             metrics: {{ listen: \"{address}:{METRICS_PORT}\" }}\n\
             dev: {{ agents: {agents} }}\n",
            name = spec.name,
            roles = roles.join(", "),
            zone = spec.zone,
            ttl = shared.lease_s,
            etcd = quoted(&shared.etcd),
            journal = shared.journal,
            agents = shared.agents,
        );
        if spec.has("edge") {
            text += &format!(
                "sip:\n  listen: \"0.0.0.0:{SIP_PORT}\"\n  advertised: \"{}:{SIP_PORT}\"\n  \
                 trunks: [ {{ name: carrier, tenant: default, sources: [\"{}\"], trust_identity: true }} ]\n",
                shared.sip,
                crate::net::SUBNET
            );
        }
        if spec.has("console") {
            text += &format!("console: {{ listen: \"{address}:{HTTP_PORT}\", secure_cookies: false }}\n");
        }
        if spec.has("media") || spec.has("records") {
            text += &format!(
                "media:\n  bind: {address}\n  rtp: 40000-43999\n  recording:\n    spool: \"{}\"\n    \
                 store: {}\n",
                self.spool().display(),
                shared.store
            );
        }
        text
    }

    /// The clock that it starts with next time: an offset such as `+3600` in seconds, by libfaketime. Only the wall
    /// clock: intervals are measured by the monotonic one, as on a machine whose clock is set wrong.
    pub fn set_clock(&mut self, offset: Option<&str>) {
        self.clock = offset.map(str::to_owned);
    }

    /// Starts the process.
    pub fn start(&mut self, network: &Network, logs: &Path) -> Result<()> {
        self.starts += 1;
        let mut command = network.command(&self.spec.name, &self.binary)?;
        let names = std::env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("TRUNKLINE_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("run").arg("--config").arg(self.config()).env("TMPDIR", &self.folder);
        if let Some(offset) = &self.clock {
            anyhow::ensure!(Path::new(LIBFAKETIME).exists(), "{LIBFAKETIME} is missing: install faketime");
            command
                .env("LD_PRELOAD", LIBFAKETIME)
                .env("FAKETIME", offset)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let name = format!("{}-{}", self.spec.name, self.starts);
        self.program = Some(Program::start(&name, logs, &mut command)?);
        Ok(())
    }

    /// Waits for its line `ready`.
    pub async fn ready(&mut self) -> Result<()> {
        let program = self.program.as_mut().with_context(|| format!("{} does not run", self.spec.name))?;
        program.line("the line `ready`", READY_WITHIN, |line| (line == "ready").then_some(())).await
    }

    /// Whether its process is there.
    pub fn runs(&mut self) -> bool {
        self.program.as_mut().is_some_and(|program| matches!(program.poll(), Ok(None)))
    }

    /// The process.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().with_context(|| format!("{} does not run", self.spec.name))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut program) = self.program.take() {
            program.kill()?;
            // What libfaketime cannot remove itself when it is killed.
            for name in ["faketime_shm_", "sem.faketime_sem_"] {
                let _ = fs::remove_file(format!("/dev/shm/{name}{}", program.pid()));
            }
        }
        Ok(())
    }

    /// SIGTERM: it must hand everything over and exit with 0.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        let Some(mut program) = self.program.take() else { return Ok(()) };
        program.terminate()?;
        program.succeed(limit).await.with_context(|| format!("{} must drain and exit 0", self.spec.name))
    }

    /// Where it serves pages and the API.
    pub fn http(&self) -> SocketAddr {
        (self.address, HTTP_PORT).into()
    }

    /// Where it shows metrics.
    pub fn metrics(&self) -> SocketAddr {
        (self.address, METRICS_PORT).into()
    }

    /// A metric of this node, see [`metric`].
    pub async fn metric(&self, name: &str, labels: &str) -> Result<Option<f64>> {
        metric(self.address, name, labels).await
    }
}

/// A metric of the node at an address: the sum over all lines with this name (one that begins with `*`: that ends so)
/// whose labels contain `labels`. None = not there.
pub async fn metric(node: Ipv4Addr, name: &str, labels: &str) -> Result<Option<f64>> {
    let text = http::get((node, METRICS_PORT).into(), "/metrics").await?.expect(200)?.text();
    Ok(sum(&text, name, labels))
}

/// Whether the node at an address describes a metric.
pub(super) async fn knows(node: Ipv4Addr, name: &str) -> bool {
    let answer = http::get((node, METRICS_PORT).into(), "/metrics").await;
    answer.is_ok_and(|answer| answer.text().lines().any(|line| line.starts_with(&format!("# HELP {name}"))))
}

fn sum(text: &str, name: &str, labels: &str) -> Option<f64> {
    let mut found = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.rsplit_once(' ') else { continue };
        let (own, rest) = key.split_once('{').unwrap_or((key, ""));
        let matches = name.strip_prefix('*').map_or(own == name, |end| own.ends_with(end));
        if matches && rest.contains(labels) {
            *found.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# HELP x y\nx_total{a=\"1\",b=\"2\"} 3\nx_total{a=\"2\",b=\"2\"} 4\nx_total_more 5\n";
        assert_eq!(sum(text, "x_total", ""), Some(7.0));
        assert_eq!(sum(text, "x_total", "a=\"1\""), Some(3.0));
        assert_eq!(sum(text, "*_total", ""), Some(7.0));
        assert_eq!(sum(text, "y_total", ""), None);
    }
}
