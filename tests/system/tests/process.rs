//! Proves how the process behaves towards who runs it: it drains on SIGTERM, refuses a folder that is in use, explains
//! wrong flags, serves health and metrics, and keeps its data over an orderly restart.

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use trunkline_system_tests::{
    agent::Agent,
    http, metrics, net,
    process::Program,
    s,
    sipp::Sipp,
    system::{Setup, System},
};

/// Starts with flags that must be refused, and returns what it said.
async fn refused(setup: Setup) -> Result<String> {
    let mut program = Program::start("refused", setup.folder(), &mut setup.command()?)?;
    let status = program.wait(s(30)).await?;
    ensure!(!status.success(), "it ended with 0");
    ensure!(!program.stdout().lines().any(|line| line == "ready"), "it said `ready`");
    let said = program.stderr();
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said)
}

#[tokio::test]
async fn sigterm_drains_and_data_survives_a_restart() -> Result<()> {
    let system = Setup::new("drain")?.data_dir().start().await?;
    let folder = system.folder().to_owned();
    Sipp::own("call", system.sip()).key("caller", "4930101").run(&folder).await?;
    let api = system.supervisor().await?;
    let ended = |c: &serde_json::Value| c["ended_ms"].is_i64();
    let contact = api.until_contact("4930101", "the record is there", s(10), ended).await?;
    // The board follows: it must not be the first one that is seen below.
    api.until_queue("support", "nobody waits", s(10), |q| q["waiting"] == 0).await?;
    // One caller waits when it comes: he is released with BYE, not forgotten.
    let waiting = Sipp::own("wait", system.sip()).key("caller", "493011").named("waiting").start(&folder)?;
    api.until_queue("support", "one waits", s(10), |q| q["waiting"] == 1).await?;
    let setup = system.stop().await?;
    waiting.succeed().await.context("the caller who waits at SIGTERM")?;

    let system = setup.start().await?;
    // Sessions are signed, not stored: the token of before is good still.
    let again = system.supervisor().await?.contact(contact["call_id"].as_str().unwrap_or_default()).await?;
    ensure!(
        again["started_ms"] == contact["started_ms"] && again["ended_ms"] == contact["ended_ms"],
        "{again}"
    );
    let old_token = trunkline_system_tests::api::Api { address: system.http(), token: api.token };
    ensure!(old_token.contacts("").await?.len() == 2);
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_folder_in_use_is_refused() -> Result<()> {
    let setup = Setup::new("in-use")?.data_dir();
    let folder = setup.data_path().display().to_string();
    let system = setup.start().await?;
    let said = refused(Setup::new("in-use-second")?.flag("--data-dir", &folder)).await?;
    ensure!(said.contains(&folder), "the sentence does not name the folder: {said}");
    // The first one goes on unharmed.
    http::get(system.http(), "/healthz").await?.expect(200)?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn wrong_flags_are_explained() -> Result<()> {
    let taken = TcpListener::bind(net::address()?).await?;
    let taken = taken.local_addr().map(|address| (taken, address.to_string()))?;
    let cases = [
        ("wrong-sip", "--sip", "localhost", "--sip"),
        ("wrong-rtp", "--rtp", "5-3", "rtp"),
        ("wrong-config", "--config", "/nowhere/trunkline.yaml", "/nowhere/trunkline.yaml"),
        ("wrong-agents", "--agents", "99999", "--agents"),
        ("wrong-recogniser", "--recogniser", "not a url", "transcription"),
        ("wrong-data", "--data-dir", "/proc/trunkline", "/proc/trunkline"),
    ];
    for (test, flag, value, named) in cases {
        let setup = Setup::new(test)?.flag(flag, value);
        let said = refused(setup).await.with_context(|| format!("{flag} {value}"))?;
        ensure!(said.contains(named), "{flag} {value}: the sentence does not name it: {said}");
    }
    for flag in ["--sip", "--http", "--metrics"] {
        let setup = Setup::new("taken")?.flag(flag, &taken.1);
        let said = refused(setup).await.with_context(|| format!("{flag}, which is taken"))?;
        ensure!(said.contains(&taken.1), "{flag} {}: {said}", taken.1);
    }
    let setup = Setup::new("unknown-key")?;
    let file = setup.folder().join("wrong.yaml");
    std::fs::write(&file, "sip:\n  listne: 127.0.0.1:5060\n")?;
    let said = refused(setup.flag("--config", file.display().to_string())).await?;
    ensure!(said.contains("listne"), "an unknown key is not named: {said}");
    Ok(())
}

#[tokio::test]
async fn health_and_metrics_are_served() -> Result<()> {
    let system = System::start("metrics").await?;
    http::get(system.http(), "/healthz").await?.expect(200)?;
    http::get(system.http(), "/readyz").await?.expect(200)?;
    ensure!(http::get(system.http(), "/api/v1/contacts").await?.status == 401, "records without signing in");
    let openapi = http::get(system.http(), "/api/v1/openapi.json").await?.expect(200)?.json()?;
    ensure!(openapi["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")), "{}", openapi["openapi"]);
    let schema = http::get(system.http(), "/api/v1/agent/protocol.json").await?.expect(200)?.json()?;
    ensure!(schema.is_object());

    let folder = system.folder().to_owned();
    Sipp::own("call", system.sip()).key("caller", "4930199").run(&folder).await?;
    let alice = Agent::sign_in(system.http(), "alice").await?;
    alice.ready().await?;
    let text = http::get(system.metrics(), "/metrics").await?.expect(200)?.text();
    for needed in ["trunkline_", "# TYPE", "# HELP"] {
        ensure!(text.contains(needed), "no {needed}");
    }
    for forbidden in ["4930199", "alice", "call_id"] {
        ensure!(!text.contains(forbidden), "{forbidden} in the metrics");
    }
    metrics::sound(&text)?;
    system.stop().await?;
    Ok(())
}
