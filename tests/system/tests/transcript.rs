//! Proves that the words of a sample call, spoken by `trunkline dev call` and by the agent's browser, are found in the
//! transcript of the record, each on its channel, and on the agent's page while they are spoken; and that without a
//! recogniser the record says so.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    browser::Browser,
    process::Program,
    recogniser::Recogniser,
    root, s,
    system::{Setup, System, binary},
};

const CALLER: &str = "caller-billing";
const AGENT: &str = "agent-greeting";

/// The share of the words that must be found: the recogniser's errors are not this system's.
const FOUND: f32 = 0.7;

fn expected(call: &str) -> Result<Vec<String>> {
    let path = root().join("deploy/samples/expected.json");
    let all: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let words = all["calls"][call]["words"].as_array().with_context(|| format!("no words of {call}"))?;
    Ok(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn call(system: &System, wav: &str, name: &str) -> Result<Program> {
    let mut command = Command::new(binary()?);
    command
        .args(["dev", "call", "--to", "support", "--sip", &system.sip().to_string(), "--once"])
        .args(["--hang-up-after", "--from", "+493060001"])
        .arg("--wav")
        .arg(root().join("deploy/samples").join(format!("{wav}.wav")));
    Program::start(name, system.folder(), &mut command)
}

fn words(contact: &Value, channel: &str) -> Vec<String> {
    let segments = contact["transcript"].as_array().cloned().unwrap_or_default();
    segments
        .iter()
        .filter(|segment| segment["channel"] == channel)
        .filter_map(|segment| segment["text"].as_str())
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase())
        .collect()
}

fn found(expected: &[String], heard: &[String]) -> f32 {
    expected.iter().filter(|word| heard.contains(word)).count() as f32 / expected.len() as f32
}

#[tokio::test]
async fn the_spoken_words_are_in_the_transcript() -> Result<()> {
    let setup = Setup::new("transcript")?;
    let recogniser = Recogniser::start(setup.folder()).await?;
    let system = setup.flag("--recogniser", recogniser.url()).start().await?;
    let api = system.supervisor().await?;
    let microphone = root().join(format!("deploy/samples/{AGENT}.wav"));
    let page = Browser::start(system.folder(), &microphone).await?;
    page.sign_in(&format!("http://{}/", system.http()), "alice").await?;
    page.click("go-ready").await?;
    page.state("ready").await?;
    let mut caller = call(&system, CALLER, "caller")?;
    page.wait("ring-card").await?;
    page.click("ring-accept").await?;
    page.state("talking").await?;
    page.wait_for("[data-testid=\"transcript\"] [data-channel=\"caller\"]", s(30))
        .await
        .context("on the agent's page")?;
    page.picture(&system.folder().join("talking.png")).await?;
    caller.succeed(s(60)).await?;

    let done = |contact: &Value| contact["ended_ms"].is_i64() && contact["transcript_status"] == "finished";
    let contact = api.until_contact("493060001", "the transcript is finished", s(90), done).await?;
    let (heard, said) = (expected(CALLER)?, expected(AGENT)?);
    let (caller, agent) = (words(&contact, "caller"), words(&contact, "agent"));
    ensure!(found(&heard, &caller) >= FOUND, "of {heard:?} only {:.2} in {caller:?}", found(&heard, &caller));
    // The microphone begins anew at the end of its file, anywhere in the call: some of its words are enough.
    ensure!(found(&said, &agent) >= 0.3, "of {said:?} only {:.2} in {agent:?}", found(&said, &agent));
    ensure!(
        !caller.contains(&"alice".to_owned()) && !agent.contains(&"bill".to_owned()),
        "crosstalk: {caller:?} {agent:?}"
    );
    page.goto(&format!(
        "http://{}/contacts/{}",
        system.http(),
        contact["call_id"].as_str().unwrap_or_default()
    ))
    .await?;
    page.wait_for("[data-testid=\"record\"] [data-testid=\"transcript\"] [data-channel=\"caller\"]", s(10))
        .await?;
    page.picture(&system.folder().join("record.png")).await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_recogniser_the_record_says_so() -> Result<()> {
    let system = System::start("transcript-none").await?;
    let api = system.supervisor().await?;
    let alice = trunkline_system_tests::agent::Agent::sign_in(system.http(), "alice").await?;
    alice.ready().await?;
    let mut caller = call(&system, "caller-support", "caller")?;
    let ring = alice.next_ring(0, s(15)).await?;
    let offer = std::fs::read_to_string(trunkline_system_tests::here().join("fixtures/offer.sdp"))?;
    alice.accept(&ring.offer_id, &offer).await?;
    caller.succeed(s(60)).await?;
    let contact =
        api.until_contact("493060001", "the call has ended", s(10), |c| c["ended_ms"].is_i64()).await?;
    ensure!(contact["transcript_status"] == "none", "{contact}");
    ensure!(contact["transcript"].as_array().is_some_and(Vec::is_empty), "invented: {contact}");
    system.stop().await?;
    Ok(())
}
