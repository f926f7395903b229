//! Proves that what the load generator brings along works from end to end on the real system, in small: its scenarios for one
//! machine are played and hold what they expect, with audio through WebRTC, keys, a kill and an upgrade; each measurement
//! comes to its figures. Nothing here is a measure of speed: the build is for tests, and other tests run beside it.

mod program;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_loadtest::{
    args::{GrowthArgs, Measure, PlayArgs, ServerArgs},
    measure,
    report::{self, Report},
    run,
    scenario::builtin,
};
use trunkline_system_tests::{folder, process::Program, s, system};

use program::generator;

/// How much smaller a scenario is played.
struct Small {
    rate: f64,
    time: f64,
    agents: usize,
}

/// Plays a scenario that the program brings along, and lets it judge. What a busy machine costs is left out: calls that an edge
/// sheds because its timers were late, and packets that were.
async fn play(name: &str, small: Small) -> Result<Report> {
    let folder = folder(&format!("generator-{name}"))?;
    let text = builtin(name).with_context(|| format!("no scenario {name}"))?;
    let mut scenario: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    for (limit, busy) in [("failed", 0.1), ("packets_lost", 0.3)] {
        if let Some(limit) = scenario["expect"].get_mut(limit) {
            *limit = busy.into();
        }
    }
    let server = ServerArgs { spawn: Some(system::binary()?), ..ServerArgs::default() };
    let args = PlayArgs {
        rate_factor: Some(small.rate),
        time_factor: Some(small.time),
        agents: Some(small.agents),
        bind: "127.0.0.1".into(),
        ..PlayArgs::default()
    };
    let text = serde_yaml_ng::to_string(&scenario)?;
    let played = Box::pin(run::play(&text, name, &folder, &args, &server)).await?;
    let report = Report::of(played);
    report::publish_run(&report, Some(&folder.join("report.json")), Some(&folder.join("report.html")))?;
    ensure!(report.expected && report.holds(), "{name}: {:?} {:?}", report.broken, report.notes);
    let counts = &report.counts;
    ensure!(counts.due >= 10 && counts.served * 2 > counts.due, "{name}: {counts:?}");
    ensure!(report.events.iter().all(|event| event.error.is_none()), "{name}: {:?}", report.events);
    let dev = report.processes.get("dev").context("dev was not followed")?;
    ensure!(dev.cpu_s > 0.0 && dev.rss_most_mb > 10.0, "{name}: {} s, {} MB", dev.cpu_s, dev.rss_most_mb);
    Ok(report)
}

/// Scenarios wait for seconds and minutes of their own: they are played side by side.
#[tokio::test(flavor = "multi_thread")]
async fn scenarios_are_played_and_hold() -> Result<()> {
    let audio = tokio::spawn(audio_goes_both_ways_and_callers_are_led_on());
    let faults = tokio::spawn(a_system_that_is_killed_or_replaced_serves_again());
    let load = tokio::spawn(steady_load_and_what_is_too_much());
    for played in [audio, faults, load] {
        played.await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_come_to_their_figures() -> Result<()> {
    let waiting = tokio::spawn(waiting_callers_are_measured());
    let growth = tokio::spawn(growth_is_measured());
    let calls = tokio::spawn(calls_decisions_and_music_are_measured());
    let peers = tokio::spawn(peers_are_measured());
    let relays = tokio::spawn(relays_are_measured());
    for measured in [waiting, growth, calls, peers, relays] {
        measured.await??;
    }
    Ok(())
}

async fn steady_load_and_what_is_too_much() -> Result<()> {
    let report = play("steady", Small { rate: 0.2, time: 0.25, agents: 20 }).await?;
    for name in ["INVITE to 180", "INVITE to 200", "caller in the queue to ringing"] {
        ensure!(report.times.contains_key(name), "steady: no {name}");
    }
    let report = play("spike", Small { rate: 0.2, time: 0.2, agents: 12 }).await?;
    ensure!(report.counts.overtaken == 0, "spike: {:?}", report.counts);
    // More callers than agents can serve: it goes on to its end, or finds the limit.
    play("ramp-until-failure", Small { rate: 0.01, time: 0.05, agents: 20 }).await.map(drop)
}

async fn audio_goes_both_ways_and_callers_are_led_on() -> Result<()> {
    let report = play("conversations", Small { rate: 0.5, time: 0.3, agents: 10 }).await?;
    let counts = &report.counts;
    ensure!(counts.two_sided >= 5 && counts.one_way == 0 && counts.packets > 1_000, "{counts:?}");
    // Nobody gets to an agent without the key.
    play("menu", Small { rate: 0.4, time: 0.4, agents: 10 }).await?;
    let counts = play("transfers", Small { rate: 0.4, time: 0.4, agents: 20 }).await?.counts;
    ensure!(counts.passed_on == counts.served, "{counts:?}");
    Ok(())
}

async fn a_system_that_is_killed_or_replaced_serves_again() -> Result<()> {
    for name in ["fault-in-the-middle", "upgrade-in-the-middle"] {
        let report = play(name, Small { rate: 0.5, time: 0.3, agents: 8 }).await?;
        let last = report.events.last().with_context(|| format!("{name}: no event"))?.to_s as usize;
        let after: u64 = report.seconds.iter().skip(last + 1).map(|second| second.served).sum();
        ensure!(after > 0, "{name}: nobody is served after {last} s");
    }
    Ok(())
}

/// The figures of a measurement on a system of its own, by name.
async fn measured(name: &str, measure: Measure) -> Result<impl Fn(&str) -> Result<f64>> {
    let json = file(name)?;
    let server = ServerArgs { json: Some(json.clone()), ..server()? };
    Box::pin(measure::run(&server, measure)).await?;
    figures(name, &json)
}

/// The figures in a file, by name.
fn figures(name: &str, json: &Path) -> Result<impl Fn(&str) -> Result<f64> + use<>> {
    let told: Value = serde_json::from_str(&fs::read_to_string(json)?)?;
    let name = name.to_owned();
    Ok(move |figure: &str| {
        let figures = told["figures"].as_array().with_context(|| told.to_string())?;
        let found = figures.iter().find(|found| found["name"] == figure);
        found
            .and_then(|found| found["value"].as_f64())
            .with_context(|| format!("{name}: no {figure}: {told}"))
    })
}

fn file(name: &str) -> Result<PathBuf> {
    Ok(folder(&format!("generator-{name}"))?.join("figures.json"))
}

fn server() -> Result<ServerArgs> {
    let rtp = "32000-33999".to_owned();
    Ok(ServerArgs { spawn: Some(system::binary()?), rtp, ..ServerArgs::default() })
}

async fn calls_decisions_and_music_are_measured() -> Result<()> {
    let plan = Measure::Queued {
        rate: 4.0,
        agents: 10,
        talk: Duration::from_millis(500),
        seconds: s(4),
        no_recording: false,
    };
    let figure = measured("queued", plan).await?;
    ensure!(figure("calls")? == 16.0 && figure("connected more than once")? == 0.0);
    ensure!(figure("connected to an agent")? >= 14.0, "{}", figure("connected to an agent")?);
    ensure!(figure("CPU per queued and answered call")? > 0.0);

    let plan = Measure::Dispatch { callers: 12, agents: 5, gap: Duration::from_millis(200) };
    let figure = measured("dispatch", plan).await?;
    ensure!(figure("agent ready to ring, p50")? > 0.0 && figure("rang out of the order of arrival")? == 0.0);

    let plan = Measure::Music { callers: 6, speak: true, seconds: s(3) };
    let figure = measured("music", plan).await?;
    ensure!(figure("callers on hold")? == 6.0, "{}", figure("callers on hold")?);
    let heard = figure("packets heard of those due")?;
    ensure!((60.0..115.0).contains(&heard), "{heard} % of the packets");
    Ok(())
}

async fn waiting_callers_are_measured() -> Result<()> {
    let plan = Measure::Waiting { callers: 30, rate: 20.0, agents: 2, media: true, seconds: s(3) };
    let figure = measured("waiting", plan).await?;
    ensure!(figure("callers who waited")? == 30.0 && figure("threads per waiting caller")? < 0.5);
    // Of so few callers they tell nothing; they are there.
    ensure!(
        figure("memory per waiting caller")?.is_finite()
            && figure("CPU per waiting caller and second")?.is_finite()
    );
    Ok(())
}

/// By the program, which starts itself again for the bare relay. Every figure is of calls or packets that went all the way.
async fn peers_are_measured() -> Result<()> {
    let json = file("peers")?;
    let folder = json.parent().context("a folder")?;
    let mut command = generator()?;
    command.args(["peers", "--rate", "5", "--conversations", "10", "--seconds", "3", "--json"]).arg(&json);
    Program::start("peers", folder, &mut command)?.succeed(s(240)).await?;
    let figure = figures("peers", &json)?;
    let kamailio = |name: &str| figure(&format!("Kamailio, stateful proxy: {name}"));
    ensure!(kamailio("calls")? == 15.0 && kamailio("of them failed")? == 0.0);
    ensure!(kamailio("INVITE to 200, p50")? > 0.0 && kamailio("CPU a call")?.is_finite());
    let rtpengine = |name: &str| figure(&format!("rtpengine, user space: {name}"));
    let heard = rtpengine("packets heard of those due")?;
    ensure!((60.0..115.0).contains(&heard), "{heard} % of the packets");
    ensure!(rtpengine("CPU a packet")? > 0.0, "{}", rtpengine("CPU a packet")?);
    Ok(())
}

/// By the program, which starts a media node from beside itself (`cargo build -p trunkline-media --example media-node`).
async fn relays_are_measured() -> Result<()> {
    let json = file("relay")?;
    let folder = json.parent().context("a folder")?;
    let mut command = generator()?;
    command.args(["relay", "--conversations", "10", "--seconds", "3", "--json"]).arg(&json);
    Program::start("relay", folder, &mut command)?.succeed(s(240)).await?;
    let figure = figures("relay", &json)?;
    let node = |way: &str| format!("Trunkline's media node, {way}");
    let (bare, relay, music) = ("bare relay, receive and send only".to_owned(), node("relay"), node("music"));
    let recorded = ["stored at the end", "copied every second"]
        .map(|when| node(&format!("relay recorded in stereo, {when}")));
    for who in [&bare, &relay, &music].into_iter().chain(&recorded) {
        let heard = figure(&format!("{who}: packets heard of those due"))?;
        // Senders beside other tests are not on time to the packet.
        ensure!((80.0..120.0).contains(&heard), "{who}: {heard} % of the packets");
        let cpu = figure(&format!("{who}: CPU a packet"))?;
        ensure!(cpu > 0.0, "{who}: {cpu} µs a packet");
    }
    for who in [&relay].into_iter().chain(&recorded) {
        ensure!(figure(&format!("{who}: CPU a packet to that of the bare relay"))? > 0.0);
    }
    for who in &recorded {
        // Two sides of 16 bits at 8 kHz are 32 kB, of which the last second may not be in the file yet.
        let kb = figure(&format!("{who}: recorded of a conversation in a second"))?;
        ensure!((16.0..44.0).contains(&kb), "{who}: {kb} kB");
    }
    Ok(())
}

async fn growth_is_measured() -> Result<()> {
    let json = file("growth")?;
    let server = ServerArgs { json: Some(json.clone()), ..server()? };
    let args = GrowthArgs { callers: vec![10], agents: vec![10], served: 12, rate: 3.0 };
    Box::pin(measure::growth(&args, &server)).await?;
    let told: Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    for what in ["callers waiting", "agents ready"] {
        let point = &told[what]["points"][0];
        ensure!(
            point["served"].as_u64() >= Some(8) && point["cpu_ms"].as_f64() > Some(0.0),
            "{what}: {told}"
        );
    }
    Ok(())
}
