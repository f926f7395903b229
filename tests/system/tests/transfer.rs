//! Proves, with baresip as the caller and two agents' pages in Chromium: an agent consults another one while the caller
//! hears music and neither of them; the transfer leaves the caller to the other one; that one passes the caller back to a
//! queue without asking, and whoever picks up there has the caller. The record tells all of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    audio::write_tone, baresip::Baresip, browser::Browser, s, system::System, until,
};

/// What the caller sends.
const CALLER_HZ: f32 = 440.0;
/// What the two agents send.
const ALICE_HZ: f32 = 1_000.0;
const BOB_HZ: f32 = 1_500.0;
const LISTEN: Duration = Duration::from_millis(800);
const SHORT: Duration = Duration::from_millis(150);

/// Waits until a page hears the tone of somebody.
async fn until_page_hears(who: &str, page: &Browser, hz: f32) -> Result<()> {
    until(&format!("{who} hears {hz} Hz"), s(10), || async {
        Ok(page.hear(SHORT).await?.has(hz).then_some(()))
    })
    .await
}

/// Waits until the caller hears the tone of somebody.
async fn until_caller_hears(phone: &Baresip, hz: f32) -> Result<()> {
    until(&format!("the caller hears {hz} Hz"), s(10), || async {
        Ok(phone.hear(SHORT).await?.has(hz).then_some(()))
    })
    .await
}

async fn page_of(system: &System, name: &str, hz: f32) -> Result<Browser> {
    let folder = system.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    let tone = folder.join("microphone.wav");
    write_tone(&tone, hz, 5.0, 48_000)?;
    let page = Browser::start(&folder, &tone).await?;
    page.sign_in(&format!("http://{}/", system.http()), name).await?;
    Ok(page)
}

async fn pick_up(page: &Browser) -> Result<()> {
    page.wait("ring-card").await?;
    page.click("ring-accept").await?;
    page.state("talking").await
}

/// Alice has the caller, asks sales, and talks to Bob.
async fn consult(alice: &Browser, bob: &Browser, phone: &Baresip) -> Result<()> {
    alice.click("call-transfer").await?;
    alice.select("transfer-queue", "sales").await?;
    alice.click("transfer-consult").await?;
    alice.wait_for("[data-testid=\"consultation\"][data-state=\"waiting\"]", s(5)).await?;
    bob.click("go-ready").await?;
    bob.wait("ring-consult").await.context("Bob is told who asks")?;
    pick_up(bob).await?;
    alice.wait_for("[data-testid=\"consultation\"][data-state=\"with\"]", s(5)).await?;
    bob.wait_for("[data-testid=\"consultation\"][data-state=\"by\"]", s(5)).await?;
    until_page_hears("Alice", alice, BOB_HZ).await?;
    until_page_hears("Bob", bob, ALICE_HZ).await?;
    let (caller, hears_bob, hears_alice) =
        tokio::try_join!(phone.hear(LISTEN * 2), alice.hear(LISTEN), bob.hear(LISTEN))?;
    // Music may touch any frequency for a moment.
    ensure!(
        caller.share(ALICE_HZ) < 0.5 && caller.share(BOB_HZ) < 0.5 && caller.rms() > 0.005,
        "the caller hears music and no agent: RMS {:.4}",
        caller.rms()
    );
    hears_bob.none_of(&[CALLER_HZ]).context("Alice consults")?;
    hears_alice.none_of(&[CALLER_HZ]).context("Bob is consulted")
}

#[tokio::test]
async fn a_caller_is_passed_on_after_a_consultation_and_blind() -> Result<()> {
    let system = System::start("transfer").await?;
    let voice = system.folder().join("caller.wav");
    write_tone(&voice, CALLER_HZ, 120.0, 8_000)?;
    let (alice, bob, phone, api) = tokio::try_join!(
        page_of(&system, "alice", ALICE_HZ),
        page_of(&system, "bob", BOB_HZ),
        Baresip::start(system.folder(), "4930501", &voice),
        system.supervisor(),
    )?;
    alice.click("go-ready").await?;
    alice.state("ready").await?;
    phone.dial(&format!("sip:support@{}", system.sip())).await?;
    pick_up(&alice).await.with_context(|| phone.log())?;
    until_caller_hears(&phone, ALICE_HZ).await?;

    consult(&alice, &bob, &phone).await?;
    alice.click("transfer-complete").await?;
    alice.state("wrap_up").await?;
    until_caller_hears(&phone, BOB_HZ).await.context("after the transfer")?;
    until_page_hears("Bob", &bob, CALLER_HZ).await?;
    let (caller, hears) = tokio::try_join!(phone.hear(LISTEN), bob.hear(LISTEN))?;
    caller.only(BOB_HZ, CALLER_HZ).context("the caller")?;
    hears.only(CALLER_HZ, BOB_HZ).context("Bob")?;

    alice.select("wrapup-disposition", "resolved").await?;
    alice.click("wrapup-finish").await?;
    alice.state("ready").await?;
    bob.click("call-transfer").await?;
    bob.select("transfer-queue", "support").await?;
    bob.click("transfer-now").await?;
    bob.state("wrap_up").await?;
    pick_up(&alice).await.context("passed back")?;
    until_caller_hears(&phone, ALICE_HZ).await.context("passed back")?;
    alice.click("call-hangup").await?;
    alice.state("wrap_up").await?;

    let whole = |contact: &Value| {
        let stored = |r: &Value| r["state"] == "available";
        contact["ended_ms"].is_i64()
            && contact["recordings"].as_array().is_some_and(|all| all.len() == 3 && all.iter().all(stored))
    };
    let contact =
        api.until_contact("4930501", "three recordings, one of each who had the caller", s(15), whole);
    let contact = contact.await?;
    ensure!(contact["transfers"] == 2 && contact["outcome"] == "answered", "{contact}");
    ensure!(contact["agent_id"] == "alice" && contact["queue_id"] == "support", "{contact}");
    let told: Vec<&str> = contact["timeline"]
        .as_array()
        .context("a timeline")?
        .iter()
        .filter_map(|e| e["text"].as_str())
        .collect();
    for sentence in [
        "The agent asks queue sales for another one",
        "bob is being consulted",
        "alice passed the caller on",
        "bob passed the caller on",
    ] {
        ensure!(told.contains(&sentence), "{sentence:?} is not in {told:?}");
    }
    for (name, page) in [("alice", &alice), ("bob", &bob)] {
        let problems = page.problems().await?;
        ensure!(problems.is_empty(), "{name}: {problems:?}");
    }
    system.stop().await?;
    Ok(())
}
