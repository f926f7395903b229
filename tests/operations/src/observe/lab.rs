//! A loaded cluster: five nodes, etcd, PostgreSQL, callers and agents with audio, and what watches them.

use std::{net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use trunkline_faults::{
    net::Network,
    scenario::{Place, Stage},
    world::{CLIENTS, Plan, SIP_PORT, Spec, VIRTUAL_SIP, World},
};
use trunkline_system_tests::{otlp::Collector, process::Program, s, system::binary, until};

use super::{
    prometheus::{Prometheus, Setup},
    rules,
};

/// Agents of a loaded cluster.
pub const AGENTS: usize = 6;
const METRICS_PORT: u16 = 9_090;

/// A cluster that is watched.
pub struct Lab {
    /// Its nodes and what they depend on.
    pub world: World,
    /// Where its traces go.
    pub collector: Collector,
    /// What scrapes it.
    pub prometheus: Prometheus,
    /// Callers and agents.
    pub stage: Stage,
    /// Its nodes' metrics.
    pub pages: Vec<(String, SocketAddr)>,
}

/// Runs `work` on the host of the clients, in a network of its own.
pub fn inside(work: impl AsyncFnOnce(Network) -> Result<()> + Send) -> Result<()> {
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            network.enter(CLIENTS)?;
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(work(network))
        });
        inside.join().map_err(|_| anyhow::anyhow!("the test's thread panicked"))?
    })
}

impl Lab {
    /// Starts everything: two control nodes, two media nodes, one in front. Traces of all calls are exported, log lines are
    /// JSON, and records lead to both.
    pub async fn start(network: Network, folder: &Path) -> Result<Self> {
        let clients = network.address(CLIENTS)?;
        let collector = Collector::start_at(clients.into()).await?;
        let mut plan = Plan::standard(binary()?, AGENTS);
        let node =
            |name: &str, roles: &str| Spec { name: name.into(), roles: roles.into(), zone: "a".into() };
        plan.nodes = vec![
            node("c1", "call,acd"),
            node("c2", "call,acd"),
            node("m1", "media"),
            node("m2", "media"),
            node("e1", "edge,console,records"),
        ];
        plan.environment = [
            ("NODE__OTLP", format!("http://{}", collector.address)),
            ("NODE__LOG_FORMAT", "json".to_owned()),
            ("CONSOLE__LINKS__TRACE", "http://traces.example/trace/{trace_id}".to_owned()),
            (
                "CONSOLE__LINKS__LOGS",
                "http://logs.example/?call={call_id}&from={from_ms}&to={to_ms}".to_owned(),
            ),
            (
                "CONSOLE__LINKS__DASHBOARD",
                "http://grafana.example/d/trunkline-call?var-call_id={call_id}".to_owned(),
            ),
        ]
        .map(|(name, value)| (format!("TRUNKLINE_{name}"), value))
        .to_vec();
        let mut world = World::start(network, &plan, &folder.join("cluster")).await?;
        let mut pages = Vec::new();
        for name in world.all() {
            pages.push((name.clone(), SocketAddr::from((world.node(&name)?.address, METRICS_PORT))));
        }
        let watched = folder.join("prometheus");
        std::fs::create_dir_all(&watched)?;
        let setup = Setup {
            address: clients,
            targets: pages.clone(),
            rules: rules::yaml_files(&rules::folder())?,
            folder: &watched,
        };
        let command = world.network.command(CLIENTS, "prometheus")?;
        let prometheus = Prometheus::start(&setup, command).await?;
        let place =
            Place { bind: clients.into(), sip: (VIRTUAL_SIP, SIP_PORT).into(), consoles: world.consoles() };
        let people = folder.join("people");
        std::fs::create_dir_all(&people)?;
        let stage = Stage::build(place, &people, AGENTS, true).await?;
        Ok(Self { world, collector, prometheus, stage, pages })
    }

    /// Calls come for a while, are answered and end; some callers wait, and some of those give up.
    pub async fn load(&self, calls: usize) -> Result<()> {
        let stage = &self.stage;
        stage.desk.order(|orders| {
            orders.open = AGENTS;
            orders.talk = Some(Duration::from_millis(2_500));
        });
        stage.desk.until("agents are ready", s(30), &["ready"], AGENTS).await?;
        let came = stage.crowd.come(calls, 2.0).await?;
        stage.crowd.over(came, s(60)).await?;
        stage.desk.order(|orders| orders.open = 0);
        let waiting = stage.crowd.wait(4, 4.0, s(20)).await?;
        stage.crowd.hang_up([waiting.start, waiting.start + 1]).await?;
        // Somebody looks at the wallboard meanwhile.
        self.world.api().await?.live().await?;
        // The others wait until they have been measured, which media nodes do every ten seconds.
        until("their quality was measured", s(40), async || {
            let measured = self.prometheus.now("sum(increase(trunkline_media_mos_count[15s]))").await?;
            Ok(measured.iter().flat_map(|series| &series.values).any(|count| *count > 0.0).then_some(()))
        })
        .await
    }

    /// Drains a node and waits until it is empty, as an operator does.
    pub async fn drain(&mut self, name: &str, folder: &Path) -> Result<()> {
        self.operator(&["drain", name, "--wait", "60"], folder).await?;
        self.seen(&format!("sum(trunkline_node_draining{{instance=\"{name}\"}})")).await?;
        self.operator(&["undrain", name, "--wait", "60"], folder).await
    }

    async fn operator(&mut self, arguments: &[&str], folder: &Path) -> Result<()> {
        let config = self.world.node("c1")?.folder.join("node.yaml");
        let mut command = self.world.network.command("c1", binary()?)?;
        command.args(arguments).arg("--config").arg(config);
        let mut program = Program::start(&format!("operator-{}", arguments[0]), folder, &mut command)?;
        program.succeed(s(90)).await.with_context(|| arguments.join(" "))
    }
}
