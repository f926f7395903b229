//! A pod's template as a process: what a kubelet does with it, as far as a process can be treated so.
//!
//! It reads the rendered template and nothing else: arguments, environment (fields of the pod and keys of Secrets),
//! configuration and Secrets as files, start-up, liveness and readiness probes with their numbers, the pre-stop pause and
//! the grace period. Paths of the container lie under the pod's folder instead.
//!
//! Differs from a kubelet: a pod is a host in a network namespace, there is no image, and nothing limits memory.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trunkline_faults::net::Network;
use trunkline_system_tests::{http, process::Program, s};

use crate::objects::Objects;

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(50);

/// Keys of Secrets, by Secret and key.
pub type Secrets = BTreeMap<String, BTreeMap<String, String>>;

/// Where everything of a cluster is.
#[derive(Debug)]
pub struct Site<'a> {
    /// The program that the image holds.
    pub binary: &'a Path,
    /// What the processes write.
    pub logs: &'a Path,
    /// The Secrets that the templates name.
    pub secrets: &'a Secrets,
    /// A folder that all pods have in common, for the claim with recordings.
    pub recordings: &'a Path,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its host in the network.
    pub host: String,
    /// Its address.
    pub address: Ipv4Addr,
    folder: PathBuf,
    template: Value,
    config: String,
    program: Option<Program>,
    starts: u32,
}

/// A probe, as Kubernetes has it.
#[derive(Debug, Clone, Copy)]
struct Probe {
    path: &'static str,
    every: Duration,
    limit: Duration,
    failures: u64,
}

impl Pod {
    /// A pod of a role's rendered workload, on a host of the network.
    pub fn new(name: &str, role: &str, (host, address): (&str, Ipv4Addr), folder: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            role: role.to_owned(),
            host: host.to_owned(),
            address,
            folder,
            template: Value::Null,
            config: String::new(),
            program: None,
            starts: 0,
        }
    }

    /// Takes the template and the configuration of the chart that is installed now; they count from the next start on.
    pub fn take(&mut self, chart: &Objects) -> Result<()> {
        self.template = chart.pod(&self.role)?.clone();
        let config = chart.one("ConfigMap", &self.role)?["data"]["node.yaml"].as_str();
        config.context("node.yaml")?.clone_into(&mut self.config);
        Ok(())
    }

    fn container(&self) -> &Value {
        &self.template["spec"]["containers"][0]
    }

    /// Starts the process and waits for its start-up probe, then for its readiness.
    pub async fn start(&mut self, network: &Network, site: &Site<'_>) -> Result<()> {
        self.launch(network, site)?;
        self.started().await
    }

    /// Only starts the process.
    pub fn launch(&mut self, network: &Network, site: &Site<'_>) -> Result<()> {
        self.write_files(site)?;
        self.starts += 1;
        let arguments = self.container()["args"].as_array().context("args")?;
        let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
        let mut command = self.exec(network, site, &arguments)?;
        let name = format!("{}-{}", self.name, self.starts);
        self.program = Some(Program::start(&name, site.logs, &mut command)?);
        Ok(())
    }

    /// The program with these arguments as it runs in the container: with its configuration, Secrets and environment.
    pub fn exec(&self, network: &Network, site: &Site<'_>, arguments: &[&str]) -> Result<Command> {
        let mut command = network.command(&self.host, site.binary)?;
        command.args(arguments.iter().map(|argument| self.moved(argument, site)));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TMPDIR", &self.folder);
        command.envs(self.environment(site)?);
        Ok(command)
    }

    /// Waits for the start-up probe, which kills at once what takes too long.
    pub async fn begun(&mut self) -> Result<()> {
        let probe = self.probe("startupProbe")?;
        self.until_probe(probe, probe.every * u32::try_from(probe.failures)?).await
    }

    /// Waits as the probes say: for the start-up probe, then for readiness.
    pub async fn started(&mut self) -> Result<()> {
        self.begun().await?;
        let probe = self.probe("readinessProbe")?;
        // Kubernetes waits for ever; a test does not.
        self.until_probe(probe, s(90)).await
    }

    async fn until_probe(&mut self, probe: Probe, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if self.answers(probe).await {
                return Ok(());
            }
            let program = self.program.as_mut().context("it does not run")?;
            if program.poll()?.is_some() {
                bail!("{} ended:\n{}", self.name, program.stderr());
            }
            ensure!(
                Instant::now() < deadline,
                "{}: {} did not answer with 200 within {limit:?}",
                self.name,
                probe.path
            );
            tokio::time::sleep(LOOK.min(probe.every)).await;
        }
    }

    async fn answers(&self, probe: Probe) -> bool {
        let asked = tokio::time::timeout(probe.limit, http::get(self.metrics(), probe.path)).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
    }

    /// Whether the readiness probe passes now.
    pub async fn ready(&self) -> Result<bool> {
        Ok(self.answers(self.probe("readinessProbe")?).await)
    }

    /// Whether the liveness probe passes now.
    pub async fn alive(&self) -> Result<bool> {
        Ok(self.answers(self.probe("livenessProbe")?).await)
    }

    fn probe(&self, which: &str) -> Result<Probe> {
        let probe = &self.container()[which];
        let number = |key: &str| probe[key].as_u64().with_context(|| format!("{which}.{key}"));
        let path = match probe["httpGet"]["path"].as_str() {
            Some("/healthz") => "/healthz",
            Some("/readyz") => "/readyz",
            other => bail!("{which}: this stand-in asks for no {other:?}"),
        };
        Ok(Probe {
            path,
            every: s(number("periodSeconds")?),
            limit: s(number("timeoutSeconds")?),
            failures: number("failureThreshold")?,
        })
    }

    /// What the endpoints of Services do at the beginning of a termination is the caller's; then the pre-stop pause,
    /// SIGTERM, and the end within the grace period. Tells how long it took.
    pub async fn terminate(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let pause = self.container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
        let grace = self.template["spec"]["terminationGracePeriodSeconds"].as_u64();
        let grace = s(grace.context("terminationGracePeriodSeconds")?);
        tokio::time::sleep(s(pause.unwrap_or(0))).await;
        let Some(mut program) = self.program.take() else { return Ok(begun.elapsed()) };
        program.terminate()?;
        let left = grace.saturating_sub(begun.elapsed());
        program.succeed(left).await.with_context(|| format!("{} must end by itself", self.name))?;
        Ok(begun.elapsed())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut program) = self.program.take() {
            program.kill()?;
        }
        Ok(())
    }

    /// What it has logged since it was started; nothing when it does not run.
    pub fn log(&self) -> String {
        self.program.as_ref().map(|program| program.stdout() + &program.stderr()).unwrap_or_default()
    }

    /// Where metrics and probes are.
    pub fn metrics(&self) -> SocketAddr {
        self.port("metrics")
    }

    /// A named port of the container.
    pub fn port(&self, name: &str) -> SocketAddr {
        let ports = self.container()["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let port = ports.iter().find(|port| port["name"] == name);
        let port = port.and_then(|port| port["containerPort"].as_u64()).unwrap_or(0);
        (self.address, u16::try_from(port).unwrap_or(0)).into()
    }

    /// The environment as a kubelet makes it: fields, keys of Secrets, then `$(NAME)` of what came before.
    fn environment(&self, site: &Site<'_>) -> Result<Vec<(String, String)>> {
        let mut made: Vec<(String, String)> = Vec::new();
        for variable in self.container()["env"].as_array().context("env")? {
            let name = variable["name"].as_str().context("a variable without a name")?.to_owned();
            let from = &variable["valueFrom"];
            let value = if let Some(value) = variable["value"].as_str() {
                made.iter().fold(value.to_owned(), |text, (known, value)| {
                    text.replace(&format!("$({known})"), value)
                })
            } else if let Some(field) = from["fieldRef"]["fieldPath"].as_str() {
                self.field(field)?
            } else if let Some(secret) = from["secretKeyRef"]["name"].as_str() {
                let key = from["secretKeyRef"]["key"].as_str().unwrap_or_default();
                secret_key(site.secrets, secret, key)?.to_owned()
            } else {
                bail!("{name}: this stand-in does not know {from}");
            };
            made.push((name, value));
        }
        Ok(made)
    }

    fn field(&self, path: &str) -> Result<String> {
        Ok(match path {
            "status.podIP" | "status.hostIP" => self.address.to_string(),
            "metadata.name" => self.name.clone(),
            "spec.nodeName" => self.host.clone(),
            "metadata.labels['topology.kubernetes.io/zone']" => "a".to_owned(),
            other => bail!("this stand-in does not know the field {other}"),
        })
    }

    /// A path of the container as one of this machine.
    fn moved(&self, text: &str, site: &Site<'_>) -> String {
        let under = |folder: &str| self.folder.join(folder).display().to_string();
        text.replace("/var/lib/trunkline-recordings", &site.recordings.display().to_string())
            .replace("/etc/trunkline", &under("etc"))
            .replace("/var/lib/trunkline", &under("data"))
    }

    /// The configuration and every Secret that the template mounts.
    fn write_files(&self, site: &Site<'_>) -> Result<()> {
        let etc = self.folder.join("etc");
        for folder in [&etc, &self.folder.join("data")] {
            fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        fs::write(etc.join("node.yaml"), self.moved(&self.config, site))?;
        let volumes = self.template["spec"]["volumes"].as_array().context("volumes")?;
        for volume in volumes {
            let Some(secret) = volume["secret"]["secretName"].as_str() else { continue };
            let mounts = self.container()["volumeMounts"].as_array().context("volumeMounts")?;
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]);
            let path = mount.and_then(|mount| mount["mountPath"].as_str());
            let path = PathBuf::from(self.moved(path.context("a volume that nothing mounts")?, site));
            fs::create_dir_all(&path)?;
            let keys = site.secrets.get(secret).with_context(|| format!("no Secret {secret}"))?;
            for (key, value) in keys {
                let file = path.join(key);
                fs::write(&file, value)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o440))?;
            }
        }
        Ok(())
    }
}

fn secret_key<'a>(secrets: &'a Secrets, secret: &str, key: &str) -> Result<&'a str> {
    let found = secrets.get(secret).and_then(|keys| keys.get(key));
    found.map(String::as_str).with_context(|| format!("no key {key} in a Secret {secret}"))
}
