//! Proves, with baresip as the caller and Chromium as the agent through the real page: each hears the other and only the
//! other; hold gives the caller music and the agent nothing; mute silences the agent only; a reload keeps the call and
//! brings the audio back within 3 s; the recording has the caller left and the agent right, holds marked; wrap-up ends
//! in a record that the page shows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    api::Api,
    audio::{Sound, read_wav, write_tone},
    baresip::Baresip,
    browser::Browser,
    s,
    system::System,
    until,
};

/// What the caller sends.
const CALLER_HZ: f32 = 440.0;
/// What the agent sends.
const AGENT_HZ: f32 = 1_000.0;
const LISTEN: Duration = Duration::from_millis(1_000);

struct Scene {
    system: System,
    api: Api,
    page: Browser,
    phone: Baresip,
}

impl Scene {
    async fn set(test: &str) -> Result<Self> {
        let system = System::start(test).await?;
        let folder = system.folder().to_owned();
        let (caller, agent) = (folder.join("caller.wav"), folder.join("agent.wav"));
        write_tone(&caller, CALLER_HZ, 60.0, 8_000)?;
        write_tone(&agent, AGENT_HZ, 5.0, 48_000)?;
        let (page, phone, api) = tokio::try_join!(
            Browser::start(&folder, &agent),
            Baresip::start(&folder, "4930500", &caller),
            system.supervisor(),
        )?;
        page.sign_in(&format!("http://{}/", system.http()), "alice").await?;
        page.click("go-ready").await?;
        page.state("ready").await?;
        Ok(Self { system, api, page, phone })
    }

    /// The caller calls, the agent picks up.
    async fn connect(&self) -> Result<()> {
        self.phone.dial(&format!("sip:support@{}", self.system.sip())).await?;
        self.page.wait("ring-card").await.with_context(|| self.phone.log())?;
        ensure!(self.page.text("ring-queue").await? == "Support");
        ensure!(self.page.text("ring-caller").await?.contains("4930500"));
        self.page.click("ring-accept").await?;
        self.page.state("talking").await
    }

    /// Both hear each other and nobody hears himself.
    async fn both_hear_each_other(&self) -> Result<()> {
        self.until_heard().await?;
        let (caller, agent) = tokio::try_join!(self.phone.hear(LISTEN), self.page.hear(LISTEN))?;
        caller.only(AGENT_HZ, CALLER_HZ).context("what the caller hears")?;
        agent.only(CALLER_HZ, AGENT_HZ).context("what the agent hears")
    }

    /// The first sound of the other side has come to both.
    async fn until_heard(&self) -> Result<()> {
        let short = Duration::from_millis(100);
        until("the caller hears the agent", s(10), || async {
            Ok(self.phone.hear(short).await?.has(AGENT_HZ).then_some(()))
        })
        .await?;
        until("the agent hears the caller", s(10), || async {
            Ok(self.page.hear(short).await?.has(CALLER_HZ).then_some(()))
        })
        .await
    }

    /// Waits until the caller no longer hears the agent.
    async fn until_caller_hears_no_agent(&self) -> Result<()> {
        until("the caller no longer hears the agent", s(5), || async {
            Ok((!self.phone.hear(Duration::from_millis(100)).await?.has(AGENT_HZ)).then_some(()))
        })
        .await
    }

    /// Waits until the agent no longer hears the caller.
    async fn until_agent_hears_no_caller(&self) -> Result<()> {
        until("the agent no longer hears the caller", s(5), || async {
            Ok((!self.page.hear(Duration::from_millis(100)).await?.has(CALLER_HZ)).then_some(()))
        })
        .await
    }

    async fn record(&self) -> Result<Value> {
        let whole = |contact: &Value| {
            contact["ended_ms"].is_i64()
                && contact["recordings"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|r| r["state"] == "available"))
        };
        self.api.until_contact("4930500", "the record has its recording", s(15), whole).await
    }

    async fn recording(&self, contact: &Value) -> Result<[Sound; 2]> {
        let id = contact["recordings"][0]["recording_id"].as_str().context("no recording")?;
        let bytes = self.api.recording(id).await?;
        std::fs::write(self.system.folder().join("recording.wav"), &bytes)?;
        let channels = read_wav(&bytes)?;
        <[Sound; 2]>::try_from(channels).map_err(|channels| anyhow::anyhow!("{} channels", channels.len()))
    }
}

#[tokio::test]
async fn each_hears_the_other_and_only_the_other_and_so_does_the_recording() -> Result<()> {
    let scene = Scene::set("conversation").await?;
    let (page, phone) = (&scene.page, &scene.phone);
    scene.connect().await?;
    scene.both_hear_each_other().await?;

    page.click("call-mute").await?;
    page.wait_for("[data-testid=\"call-panel\"][data-muted=\"true\"]", s(5)).await?;
    scene.until_caller_hears_no_agent().await?;
    let (caller, agent) = tokio::try_join!(phone.hear(LISTEN), page.hear(LISTEN))?;
    caller.none_of(&[AGENT_HZ, CALLER_HZ]).context("the caller of a muted agent")?;
    agent.only(CALLER_HZ, AGENT_HZ).context("a muted agent")?;
    page.click("call-mute").await?;
    page.wait_for("[data-testid=\"call-panel\"][data-muted=\"false\"]", s(5)).await?;
    scene.both_hear_each_other().await.context("after the mute")?;

    page.click("call-hold").await?;
    page.wait_for("[data-testid=\"call-panel\"][data-hold=\"true\"]", s(5)).await?;
    scene.until_caller_hears_no_agent().await?;
    scene.until_agent_hears_no_caller().await?;
    let (caller, agent) = tokio::try_join!(phone.hear(LISTEN * 2), page.hear(LISTEN))?;
    // Music may touch any frequency for a moment; a tone that stays is the agent's or the caller's own.
    ensure!(
        caller.share(AGENT_HZ) < 0.5 && caller.share(CALLER_HZ) < 0.9,
        "the caller on hold hears a party"
    );
    ensure!(caller.rms() > 0.005, "the caller on hold hears no music: RMS {:.4}", caller.rms());
    agent.none_of(&[CALLER_HZ, AGENT_HZ]).context("an agent who holds")?;
    page.click("call-hold").await?;
    page.wait_for("[data-testid=\"call-panel\"][data-hold=\"false\"]", s(5)).await?;
    scene.both_hear_each_other().await.context("after the hold")?;

    page.click("call-hangup").await?;
    page.state("wrap_up").await?;
    wrap_up(page).await?;
    let contact = scene.record().await?;
    judge_record(&scene, &contact).await?;
    page_shows(page, &scene.system, &contact).await?;
    ensure!(page.problems().await?.is_empty(), "{:?}", page.problems().await?);
    scene.system.stop().await?;
    Ok(())
}

async fn wrap_up(page: &Browser) -> Result<()> {
    page.wait("wrapup-panel").await?;
    page.select("wrapup-disposition", "resolved").await?;
    page.fill("wrapup-tags", "tone, test").await?;
    page.fill("wrapup-notes", "Heard <b>well</b>.").await?;
    page.click("wrapup-finish").await?;
    page.state("ready").await
}

async fn judge_record(scene: &Scene, contact: &Value) -> Result<()> {
    ensure!(contact["cause"] == "agent_hangup" && contact["outcome"] == "answered", "{contact}");
    ensure!(contact["agent_id"] == "alice" && contact["queue_id"] == "support", "{contact}");
    let wrapped = scene
        .api
        .until_contact("4930500", "the record has the wrap-up", s(10), |c| c["disposition"] == "resolved")
        .await?;
    ensure!(
        wrapped["notes"] == "Heard <b>well</b>." && wrapped["tags"].as_array().is_some_and(|t| t.len() == 2),
        "{wrapped}"
    );
    ensure!(wrapped["hold_ms"].as_i64().is_some_and(|ms| ms > 1_500), "the hold is not counted: {wrapped}");

    let [left, right] = scene.recording(contact).await?;
    let recording = &contact["recordings"][0];
    let length = left.seconds();
    ensure!(
        (length * 1_000.0 - recording["duration_ms"].as_f64().unwrap_or(0.0) as f32).abs() < 300.0,
        "{length} s: {recording}"
    );
    let holds = recording["holds"].as_array().context("no holds")?;
    ensure!(holds.len() == 1, "one hold: {holds:?}");
    let at =
        |name: &str| holds[0][name].as_f64().map(|ms| ms as f32 / 1_000.0).context("a hold without its time");
    let (begin, end) = (at("start_ms")?, at("end_ms")?);
    ensure!(begin > 2.0 && end > begin + 1.5 && end < length, "hold from {begin} to {end} of {length} s");
    // A second apart from every edge: what is there is steady.
    for (what, part) in [("before the hold", (0.8, 1.8)), ("after the hold", (end + 0.8, length - 0.3))] {
        let (caller, agent) = (left.part(part.0, part.1), right.part(part.0, part.1));
        caller.only(CALLER_HZ, AGENT_HZ).with_context(|| format!("left, {what}"))?;
        agent.only(AGENT_HZ, CALLER_HZ).with_context(|| format!("right, {what}"))?;
    }
    ensure!(
        left.loudest(AGENT_HZ) < 0.05,
        "the agent is on the caller's channel: {}",
        left.loudest(AGENT_HZ)
    );
    ensure!(
        right.loudest(CALLER_HZ) < 0.05,
        "the caller is on the agent's channel: {}",
        right.loudest(CALLER_HZ)
    );
    // Aligned in time: both tones begin within a breath of each other, because both spoke all the time.
    let hole = right.part(begin + 0.4, end - 0.4);
    hole.none_of(&[CALLER_HZ]).context("right, in the hold")
}

/// The record page has the player, two channels long enough, and the hold in its timeline.
async fn page_shows(page: &Browser, system: &System, contact: &Value) -> Result<()> {
    let id = contact["call_id"].as_str().context("no call id")?;
    page.wait("record-panel").await.context("the last contact beside the desk")?;
    page.goto(&format!("http://{}/contacts/{id}", system.http())).await?;
    page.wait("record").await?;
    page.wait_for("[data-testid=\"recording-audio\"]", s(10)).await?;
    let loaded = until("the recording is loaded in the page", s(10), || async {
        let script = "(() => { const a = document.querySelector('[data-testid=\"recording-audio\"]'); return a.readyState >= 1 ? a.duration : null; })()";
        Ok(page.evaluate(script).await?.as_f64())
    })
    .await?;
    let expected = contact["recordings"][0]["duration_ms"].as_f64().unwrap_or(0.0) / 1_000.0;
    ensure!((loaded - expected).abs() < 0.3, "{loaded} s in the page, {expected} s in the record");
    page.picture(&system.folder().join("record.png")).await?;
    let timeline = page.text("timeline").await?;
    ensure!(!timeline.is_empty(), "an empty timeline");
    Ok(())
}

#[tokio::test]
async fn a_reload_keeps_the_call_and_its_audio() -> Result<()> {
    let scene = Scene::set("reload").await?;
    let (page, phone) = (&scene.page, &scene.phone);
    scene.connect().await?;
    scene.both_hear_each_other().await?;
    let back = page.reload_until_heard(CALLER_HZ as u32, s(10)).await?;
    ensure!(back < s(3), "the agent hears the caller again only after {back:?}");
    page.state("talking").await?;
    scene.both_hear_each_other().await.context("after the reload")?;
    // Gone and back is one call, not two.
    ensure!(scene.api.contacts("").await?.len() == 1);
    phone.hang_up().await?;
    page.state("wrap_up").await?;
    let contact = scene.record().await?;
    ensure!(contact["cause"] == "caller_hangup" && contact["ended_by"] == "caller", "{contact}");
    let [left, right] = scene.recording(&contact).await?;
    // The caller spoke without a pause; the agent is missing for the time of the reload at most.
    let rest = left.part(0.5, left.seconds() - 0.5);
    ensure!(rest.share(CALLER_HZ) > 0.97, "the caller is on {:.2} of the recording", rest.share(CALLER_HZ));
    let missing = (1.0 - right.part(0.5, right.seconds() - 0.5).share(AGENT_HZ)) * (right.seconds() - 1.0);
    ensure!(missing < 3.5, "the agent is missing for {missing:.1} s of {:.1}", right.seconds());
    scene.system.stop().await?;
    Ok(())
}
