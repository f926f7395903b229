//! The loss of a media node, and of the disk of one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_loadtest::{callers::index_of, rtp::Heard};
use trunkline_system_tests::{api::Api, audio, s, until};

use super::{Run, Stage, Verdict};
use crate::{
    history::What,
    report::{at_least, count, percentile, seconds},
    world::{Tmpfs, metric},
};

const SESSIONS: &str = "trunkline_media_sessions";
const AUDIO_BACK: Duration = s(4);
/// What a recording may lack.
const MISSING: Duration = s(2);

/// kill -9 of a media node with conversations.
pub async fn killed(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.conversations;
    let mut stage = Stage::open(run, all, true).await?;
    let who = stage.talk(all, s(60)).await?;
    let agents = agents_of(&stage);
    until("all hear each other", s(30), || {
        let all = who.clone().all(|caller| two_way_since(&stage, &agents, caller, None).is_some());
        std::future::ready(Ok(all.then_some(())))
    })
    .await?;
    // Something has to be in the recordings.
    tokio::time::sleep(s(4)).await;
    let victim = run.world.most("media", SESSIONS).await?;
    let address = run.world.node(&victim)?.address;
    let calls = stage.crowd.calls().await?;
    let on_it = |caller: &usize| {
        calls.get(*caller).and_then(|call| call.media).is_some_and(|media| media.ip() == address)
    };
    let affected: Vec<usize> = who.clone().filter(on_it).collect();
    ensure!(!affected.is_empty(), "no conversation is on {victim}");
    let killed = Instant::now();
    stage.history.fault(format!("kill -9 {victim} with {} of {all} conversations", affected.len()));
    run.world.node(&victim)?.kill()?;
    stage.rules.lost = affected.len() / 100;
    tokio::time::sleep(AUDIO_BACK * 2).await;
    let mut back: Vec<f64> = Vec::new();
    for caller in &affected {
        let again = two_way_since(&stage, &agents, *caller, Some(killed));
        back.push(again.map_or(f64::INFINITY, |at| (at - killed).as_secs_f64()));
    }
    let back_of = back.clone();
    let in_time = back.iter().filter(|after| **after <= AUDIO_BACK.as_secs_f64()).count();
    let share = in_time as f64 / affected.len() as f64;
    stage.measure(at_least("share with two-way audio within 4 s", share, "", 0.99));
    let finite = |value: f64| Duration::from_secs_f64(value.min(3_600.0));
    stage.measure(seconds("two-way audio back, p50", finite(percentile(&mut back, 0.5)), None));
    stage.measure(seconds("two-way audio back, p99", finite(percentile(&mut back, 0.99)), None));
    let gap = stage.crowd.longest_silence(who.clone().filter(|caller| !affected.contains(caller)), killed);
    if affected.len() < all {
        let unbroken = Some(Duration::from_millis(500));
        stage.measure(seconds("longest gap in the others' audio", gap, unbroken));
    }
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    hang_up(&stage, who.clone()).await?;
    // While there was no audio there was nothing to record: only what was said and is not there counts.
    let silent: BTreeMap<usize, f64> = affected.iter().copied().zip(back_of).collect();
    let (missing, unplayable) = recordings(run, &stage, who, &silent).await?;
    stage.measure(seconds("most audio missing in a recording", missing, Some(MISSING)));
    stage.measure(count("recordings not playable", unplayable, Some(0)));
    stage.close().await
}

/// Which agent talks to which caller.
fn agents_of(stage: &Stage) -> BTreeMap<usize, String> {
    let entries = stage.history.entries();
    let pairs = entries.into_iter().filter_map(|entry| match entry.what {
        What::Answers { agent, call } => Some((call.caller?, agent)),
        _ => None,
    });
    pairs.collect()
}

/// Since when caller and agent hear each other, after the first pause that ends after `since` (or at all). None = not.
fn two_way_since(
    stage: &Stage,
    agents: &BTreeMap<usize, String>,
    caller: usize,
    since: Option<Instant>,
) -> Option<Instant> {
    let one = again(&stage.crowd.heard(caller), since)?;
    let other = again(&stage.desk.heard(agents.get(&caller)?)?, since)?;
    Some(one.max(other))
}

fn again(heard: &Heard, since: Option<Instant>) -> Option<Instant> {
    let last = heard.tone?;
    let Some(since) = since else { return Some(last) };
    // The pause that the loss made; none means that it never was away for long.
    let pause = heard.tone_pauses.iter().find(|pause| pause.to > since);
    pause.map_or((last > since).then_some(since), |pause| Some(pause.to))
}

async fn hang_up(stage: &Stage, who: std::ops::Range<usize>) -> Result<()> {
    stage.desk.order(|orders| {
        orders.hang_up += 1;
        orders.talk = Some(Duration::ZERO);
    });
    stage.crowd.over(who, s(30)).await
}

/// The most that a recording of these callers lacks, and how many cannot be played. `silent`: for how many seconds a
/// conversation had no audio.
async fn recordings(
    run: &Run<'_>,
    stage: &Stage,
    who: std::ops::Range<usize>,
    silent: &BTreeMap<usize, f64>,
) -> Result<(Duration, usize)> {
    let api = run.world.api().await?;
    let (mut missing, mut unplayable) = (Duration::ZERO, 0);
    let count = who.len();
    let contacts = until("recordings are there", s(60), || async {
        let contacts = ours(&api, &who).await?;
        let done = contacts.iter().filter(|contact| finished(contact)).count();
        Ok((contacts.len() == count && done == count).then_some(contacts))
    })
    .await;
    let contacts = match contacts {
        Ok(contacts) => contacts,
        Err(error) => {
            crate::report::note(&format!("{error:#}"));
            ours(&api, &who).await?
        }
    };
    for contact in contacts {
        let mut recorded = 0.0;
        for recording in contact["recordings"].as_array().into_iter().flatten() {
            let id = recording["recording_id"].as_str().unwrap_or_default();
            let seconds = match api.recording(id).await.and_then(|bytes| audio::read_wav(&bytes)) {
                Ok(channels) => channels.iter().map(audio::Sound::seconds).fold(0.0_f32, f32::max),
                Err(error) => {
                    unplayable += 1;
                    crate::report::note(&format!("recording {id}: {error:#}; {recording}"));
                    0.0
                }
            };
            recorded += f64::from(seconds);
        }
        let talked = contact["talk_ms"].as_i64().unwrap_or(0) as f64 / 1_000.0;
        let caller = index_of(contact["caller_number"].as_str().unwrap_or_default());
        let silent = caller.and_then(|caller| silent.get(&caller)).copied().unwrap_or(0.0);
        missing = missing.max(Duration::from_secs_f64((talked - silent - recorded).clamp(0.0, 3_600.0)));
    }
    stage.history.flush()?;
    Ok((missing, unplayable))
}

async fn ours(api: &Api, who: &std::ops::Range<usize>) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for contact in api.contacts("").await? {
        let caller = index_of(contact["caller_number"].as_str().unwrap_or_default());
        if caller.is_some_and(|caller| who.contains(&caller)) {
            let id = contact["call_id"].as_str().context("no id")?;
            found.push(api.contact(id).await?);
        }
    }
    Ok(found)
}

fn finished(contact: &Value) -> bool {
    let recordings = contact["recordings"].as_array().map_or(&[][..], Vec::as_slice);
    !recordings.is_empty() && recordings.iter().all(|recording| recording["state"] != "recording")
}

/// The disk on which a media node writes recordings is full.
pub async fn disk_full(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls.min(6);
    let nodes = run.world.names("media");
    let (small, other) = (nodes.first().context("a media node")?.clone(), nodes.get(1).cloned());
    // Its spool becomes a small file system; the other node is away, so that all calls are here.
    run.world.node(&small)?.stop(s(40)).await?;
    let spool = run.world.small_spool(&small, 4 * 1_024)?;
    run.world.start_nodes(std::slice::from_ref(&small)).await?;
    if let Some(other) = &other {
        run.world.node(other)?.stop(s(40)).await?;
    }
    let mut stage = Stage::open(run, all, true).await?;
    let who = stage.talk(all, s(30)).await?;
    tokio::time::sleep(s(1)).await;
    let full = Instant::now();
    stage.history.fault(format!("the disk of {small} is full"));
    Tmpfs::fill(&spool)?;
    let address = run.world.node(&small)?.address;
    let alarm = until("the alarm metric", s(20), || async {
        let failing = metric(address, "trunkline_media_recording_failing", "").await?;
        Ok(failing.is_some_and(|failing| failing > 0.0).then_some(()))
    });
    if let Err(error) = alarm.await {
        crate::report::note(&format!("{error:#}"));
    }
    stage.measure(seconds("alarm after", full.elapsed(), Some(s(10))));
    let gap = stage.crowd.longest_silence(who.clone(), full);
    stage.measure(seconds("longest gap in the calls' audio", gap, Some(Duration::from_millis(500))));
    let left = stage.crowd.present().len();
    stage.measure(at_least("calls that go on", left as f64, "", all as f64));
    Tmpfs::empty(&spool)?;
    hang_up(&stage, who).await?;
    if let Some(other) = other {
        run.world.start_nodes(std::slice::from_ref(&other)).await?;
    }
    stage.close().await
}

/// The queue's document with its recording policy.
fn support(required: bool) -> String {
    format!(
        "kind: queue\nid: support\nbody: {{ display_name: Support, max_waiting: 10000, recording_required: {required} }}\n"
    )
}

/// The queue's calls must be recorded: a full disk moves them to the other media node; when that one is gone too, they end.
pub async fn disk_full_required(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls.min(6);
    let mut nodes = run.world.names("media").into_iter();
    let (small, other) = (nodes.next().context("a media node")?, nodes.next().context("another media node")?);
    run.world.node(&small)?.stop(s(40)).await?;
    let spool = run.world.small_spool(&small, 4 * 1_024)?;
    run.world.start_nodes(std::slice::from_ref(&small)).await?;
    run.world.node(&other)?.stop(s(40)).await?;
    run.world.apply(&support(true)).await?;
    let mut stage = Stage::open(run, all, true).await?;
    let who = stage.talk(all, s(30)).await?;
    run.world.start_nodes(std::slice::from_ref(&other)).await?;
    tokio::time::sleep(s(1)).await;

    let full = Instant::now();
    stage.history.fault(format!("the disk of {small} is full"));
    Tmpfs::fill(&spool)?;
    let there = run.world.node(&other)?.address;
    let moved = until("every call is on the other node", s(20), || async {
        let sessions = metric(there, SESSIONS, "").await?;
        Ok(sessions.is_some_and(|sessions| sessions >= all as f64).then_some(()))
    });
    moved.await?;
    stage.measure(seconds("all recorded elsewhere after", full.elapsed(), Some(s(10))));
    tokio::time::sleep(s(2)).await;
    let gap = stage.crowd.longest_silence(who.clone(), full);
    stage.measure(seconds("longest gap in the calls' audio", gap, Some(Duration::from_millis(500))));
    stage.measure(at_least("calls that go on", stage.crowd.present().len() as f64, "", all as f64));

    let gone = Instant::now();
    stage.history.fault(format!("kill -9 {other}: nobody can record"));
    stage.rules.lost = all;
    run.world.node(&other)?.kill()?;
    stage.crowd.over(who.clone(), s(40)).await?;
    stage.measure(seconds("unrecorded calls are over after", gone.elapsed(), Some(s(30))));
    Tmpfs::empty(&spool)?;
    run.world.start_nodes(std::slice::from_ref(&other)).await?;
    run.world.apply(&support(false)).await?;
    let api = run.world.api().await?;
    let told = until("every record says why", s(30), || async {
        let contacts = ours(&api, &who).await?;
        let told = contacts.iter().filter(|contact| contact["cause"] == "recording_failed").count();
        Ok((told == all).then_some(told))
    });
    stage.measure(at_least(
        "records that say why",
        told.await.map_or(0.0, |told| told as f64),
        "",
        all as f64,
    ));
    stage.close().await
}
