//! Proves that callers and agents of the fault suite work as real ones do, against one process without any fault: they
//! hear each other, are served in order, come back after a lost connection, and the checker finds nothing to complain of.

use std::{path::Path, process::Command, thread};

use anyhow::{Context, Result, ensure};
use trunkline_faults::{
    net::{Network, Rule},
    scenario::{Place, Stage},
};
use trunkline_system_tests::{process::Program, s, system::binary, until};

const CLIENTS: &str = "clients";
const SERVER: &str = "server";

fn dev(network: &Network, folder: &Path, agents: usize) -> Result<(Program, Place)> {
    let (address, bind) = (network.address(SERVER)?, network.address(CLIENTS)?.into());
    let config = folder.join("dev.yaml");
    let text = format!(
        "sip: {{ listen: \"{address}:5060\", trunks: [ {{ name: all, tenant: default, sources: [\"10.77.0.0/16\"] }} ] }}\n\
         console: {{ listen: \"{address}:8080\", secure_cookies: false }}\n\
         media: {{ bind: {address} }}\n"
    );
    std::fs::write(&config, text)?;
    let mut command: Command = network.command(SERVER, binary()?)?;
    command.args(["dev", "--open", "--config"]).arg(&config).args(["--agents", &agents.to_string()]);
    let program = Program::start("trunkline", folder, &mut command)?;
    let place = Place { bind, sip: (address, 5060).into(), consoles: vec![(address, 8080).into()] };
    Ok((program, place))
}

fn inside(work: impl AsyncFnOnce(Network) -> Result<()> + Send) -> Result<()> {
    let mut network = Network::new()?;
    network.host(CLIENTS)?;
    network.host(SERVER)?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            network.enter(CLIENTS)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work(network))
        });
        inside.join().map_err(|_| anyhow::anyhow!("the test's thread panicked"))?
    })
}

#[test]
fn callers_and_agents_talk_lose_connections_and_are_served_in_order() -> Result<()> {
    inside(async |mut network| {
        let folder = trunkline_system_tests::folder("faults-people")?;
        let (mut program, place) = dev(&network, &folder, 4)?;
        program.line("ready", s(60), |line| (line == "ready").then_some(())).await?;
        let stage = Stage::build(place, &folder, 4, true).await?;

        // Both sides of every conversation hear the other's tone.
        let who = stage.talk(2, s(20)).await?;
        until("all hear each other", s(20), || {
            let callers = who.clone().all(|caller| stage.crowd.heard(caller).tone.is_some());
            let talking: Vec<String> = (0..2).map(trunkline_faults::agent::name_of).collect();
            let agents =
                talking.iter().all(|agent| stage.desk.heard(agent).is_some_and(|h| h.tone.is_some()));
            std::future::ready(Ok((callers && agents).then_some(())))
        })
        .await?;

        // All pages lose their connection, and come back to the same sessions and calls.
        let (server, clients) = (network.address(SERVER)?, network.address(CLIENTS)?);
        network.set_rules("cut", vec![Rule::cut(server, clients)])?;
        until("pages notice", s(20), || {
            let online = stage.desk.states().values().flatten().count();
            std::future::ready(Ok((online == 0).then_some(())))
        })
        .await?;
        network.heal()?;
        stage.desk.until("pages are back with their calls", s(20), &["talking"], 2).await?;

        // Some wait, one gives up, the rest is served in order when everybody works.
        let waiting = stage.crowd.wait(8, 20.0, s(20)).await?;
        stage.crowd.hang_up([waiting.start + 3]).await?;
        let verdict = stage.close().await?;
        ensure!(verdict.violations.is_empty(), "{:?}", verdict.violations);
        program.terminate()?;
        program.succeed(s(30)).await.context("the end")
    })
}
