//! Proves, with 200 callers who wait, 10 who give up, and 20 agents: service in the order of arrival, nobody served
//! twice, nobody lost; and the live numbers, the interval numbers, the records and what callers and agents saw agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::sync::Mutex;
use trunkline_system_tests::{
    agent::{Agent, Ring},
    api::Api,
    here, s,
    sipp::Sipp,
    system::Setup,
    until,
};

const CALLERS: usize = 200;
const AGENTS: usize = 20;
const GIVE_UP: usize = 10;
/// Callers come 40 ms apart.
const CALLS_PER_SECOND: u32 = 25;
/// On a busy machine a call may overtake those just before it on its way to the queue.
const NEIGHBOURS: usize = 5;
/// Two agents become free at the same moment, and their pages are told in either order.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// The number of a caller in the order of arrival, from 1.
fn number(caller: &str) -> Result<usize> {
    let digits = caller.rsplit("4930700").next().context("no number")?;
    digits.parse().with_context(|| caller.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_are_served_in_order() -> Result<()> {
    let system = Setup::new("queue-order")?.flag("--agents", AGENTS.to_string()).start().await?;
    let (api, folder) = (system.supervisor().await?, system.folder().to_owned());
    let offer = Arc::new(std::fs::read_to_string(here().join("fixtures/offer.sdp"))?);

    let waiting = Sipp::own("wait", system.sip())
        .key("caller", "4930700")
        .calls(CALLERS as u32, CALLS_PER_SECOND)
        .limit(s(120))
        .start(&folder)?;
    let names: Vec<String> = (1..=AGENTS).map(|n| format!("agent-{n:03}")).collect();
    let agents =
        futures::future::try_join_all(names.iter().map(|name| Agent::sign_in(system.http(), name))).await?;
    api.until_queue("support", "all callers wait", s(40), |q| q["waiting"] == CALLERS).await?;
    Sipp::own("abandon", system.sip())
        .key("caller", "4930800")
        .calls(GIVE_UP as u32, 10)
        .argument("-d")
        .argument("500")
        .run(&folder)
        .await?;
    api.until_queue("support", "ten have given up", s(10), |q| given_up(q) == GIVE_UP as i64).await?;

    let served = Arc::new(Mutex::new(Vec::new()));
    let work = agents.into_iter().map(|agent| serve(agent, Arc::clone(&offer), Arc::clone(&served)));
    let mut agents = futures::future::try_join_all(work).await?;
    waiting.succeed().await.context("every caller hears BYE once")?;
    let served = std::mem::take(&mut *served.lock().await);

    everybody_once_in_order(&served)?;
    let contacts = until("every record is whole", s(20), || async {
        let contacts = api.contacts("").await?;
        let wrapped_up = |c: &Value| c["outcome"] != "answered" || c["disposition"] != "";
        let whole = contacts.iter().all(|c| c["ended_ms"].is_i64() && wrapped_up(c));
        Ok((contacts.len() == CALLERS + GIVE_UP && whole).then_some(contacts))
    })
    .await?;
    records_agree(&contacts, &served)?;
    decisions_are_in_order(&api, &contacts, &served).await?;
    live_numbers_agree(&api, &contacts).await?;
    interval_numbers_agree(&api, &contacts).await?;
    for agent in &mut agents {
        agent.until_state("not_ready", s(5)).await?;
    }
    system.stop().await?;
    Ok(())
}

/// An agent works until the queue is empty, then goes on a break.
async fn serve(agent: Agent, offer: Arc<String>, served: Arc<Mutex<Vec<(String, Ring)>>>) -> Result<Agent> {
    agent.ready().await?;
    let mut count = 0;
    loop {
        let all = || async { Ok((served.lock().await.len() >= CALLERS).then_some(None)) };
        let ring = tokio::select! {
            ring = agent.next_ring(count, s(90)) => Some(ring?),
            all = until("all are served", s(90), all) => all?,
        };
        let Some(ring) = ring else { break };
        count += 1;
        served.lock().await.push((agent.name.clone(), ring.clone()));
        agent.accept(&ring.offer_id, &offer).await?;
        agent.hang_up().await?;
        agent.until_state("wrap_up", s(20)).await?;
        agent.wrap_up("resolved", &[]).await?;
        // Ready may last no longer than the next call needs to ring.
        agent.until("out of wrap-up", s(20), |seen| seen.snapshot["state"] != "wrap_up").await?;
    }
    agent.done("not_ready", serde_json::json!({ "reason": "break" })).await?;
    ensure!(agent.seen().rings.len() == count, "{}: a call rang in between", agent.name);
    Ok(agent)
}

/// What the agents saw: every caller once, nobody before somebody who came earlier.
fn everybody_once_in_order(served: &[(String, Ring)]) -> Result<()> {
    let numbers = served.iter().map(|(_, ring)| number(&ring.caller_number)).collect::<Result<Vec<_>>>()?;
    let once: BTreeSet<usize> = numbers.iter().copied().collect();
    ensure!(
        numbers.len() == CALLERS && once.len() == CALLERS,
        "{} offers of {} callers",
        numbers.len(),
        once.len()
    );
    ensure!(once == (1..=CALLERS).collect(), "somebody is missing");
    let offers: BTreeSet<&str> = served.iter().map(|(_, ring)| ring.offer_id.as_str()).collect();
    ensure!(offers.len() == CALLERS, "an offer was made twice");
    for (n, (_, later)) in served.iter().enumerate() {
        for (_, earlier) in &served[..n] {
            ensure!(
                earlier.entered_ms <= later.entered_ms || later.at - earlier.at < TOLD_WITHIN,
                "{} rang {:?} before {}, who came earlier",
                earlier.caller_number,
                later.at - earlier.at,
                later.caller_number,
            );
        }
    }
    let mut arrivals: Vec<(i64, usize)> =
        served.iter().map(|(_, ring)| ring.entered_ms).zip(numbers).collect();
    arrivals.sort_unstable();
    for (place, (_, number)) in arrivals.iter().enumerate() {
        ensure!(number.abs_diff(place + 1) <= NEIGHBOURS, "caller {number} has come as number {}", place + 1);
    }
    Ok(())
}

/// Each record names the agent who took the call.
fn records_agree(contacts: &[Value], served: &[(String, Ring)]) -> Result<()> {
    let took: BTreeMap<&str, &str> =
        served.iter().map(|(agent, ring)| (ring.call_id.as_str(), agent.as_str())).collect();
    let (mut answered, mut abandoned) = (0, 0);
    for contact in contacts {
        let id = contact["call_id"].as_str().context("no id")?;
        match took.get(id) {
            Some(agent) => {
                answered += 1;
                ensure!(contact["agent_id"] == *agent && contact["outcome"] == "answered", "{contact}");
                ensure!(
                    contact["cause"] == "agent_hangup" && contact["disposition"] == "resolved",
                    "{contact}"
                );
            }
            None => {
                abandoned += 1;
                let outcome = contact["outcome"].as_str().unwrap_or_default();
                ensure!(outcome.contains("abandoned") && contact["cause"] == "caller_hangup", "{contact}");
            }
        }
    }
    ensure!((answered, abandoned) == (CALLERS, GIVE_UP), "{answered} answered, {abandoned} abandoned");
    let calls: BTreeSet<&str> = contacts.iter().filter_map(|c| c["call_id"].as_str()).collect();
    ensure!(calls.len() == contacts.len(), "a record twice");
    Ok(())
}

/// By the journal's own times: who came to the queue first was bound first, and every offer was the only one of its call.
async fn decisions_are_in_order(api: &Api, contacts: &[Value], served: &[(String, Ring)]) -> Result<()> {
    let entered: BTreeMap<&str, i64> =
        served.iter().map(|(_, ring)| (ring.call_id.as_str(), ring.entered_ms)).collect();
    let mut decisions = Vec::new();
    for contact in contacts.iter().filter(|c| c["outcome"] == "answered") {
        let id = contact["call_id"].as_str().context("no id")?;
        let whole = api.contact(id).await?;
        let made = whole["decisions"].as_array().context("no decisions")?;
        ensure!(made.len() == 1, "{} offers of one call: {made:?}", made.len());
        let at = made[0]["at_ms"].as_i64().context("a decision without its time")?;
        ensure!(made[0]["agent_id"] == contact["agent_id"], "{whole}");
        ensure!(made[0]["explanation"]["position"] == 1, "somebody was in front: {}", made[0]);
        decisions.push((at, entered[id], number(contact["caller_number"].as_str().unwrap_or_default())?));
    }
    decisions.sort_unstable();
    for pair in decisions.windows(2) {
        let [(at, came, caller), (then, next_came, next)] = [pair[0], pair[1]];
        ensure!(
            came <= next_came || at == then,
            "caller {caller}, who came at {came} ms, was bound at {at} ms; then caller {next}, who came at {next_came} \
             ms, at {then} ms"
        );
    }
    Ok(())
}

fn given_up(queue: &Value) -> i64 {
    queue["abandoned"].as_i64().unwrap_or(0)
}

/// The wallboard's numbers are the sums of the records.
async fn live_numbers_agree(api: &Api, contacts: &[Value]) -> Result<()> {
    let answered = CALLERS as i64;
    let queue = api
        .until_queue("support", "the live numbers have all", s(10), |q| {
            q["answered"] == answered && q["waiting"] == 0 && q["agents_busy"] == 0
        })
        .await?;
    let of = |name: &str| queue[name].as_i64().with_context(|| name.to_owned());
    ensure!(of("offered")? == contacts.len() as i64, "{queue}");
    ensure!(of("offered")? == of("answered")? + of("abandoned")?, "{queue}");
    let short = contacts.iter().filter(|c| c["outcome"] == "short_abandoned").count() as i64;
    ensure!(of("short_abandoned")? == short, "{short} short ones in the records: {queue}");
    ensure!(of("timed_out")? == 0 && of("missed")? == 0 && of("refused")? == 0, "{queue}");
    let target_ms = of("service_level_target_s")? * 1_000;
    let waits: Vec<i64> = contacts
        .iter()
        .filter(|c| c["outcome"] == "answered")
        .map(|c| c["wait_ms"].as_i64().context("wait_ms"))
        .collect::<Result<_>>()?;
    let in_target = waits.iter().filter(|wait| **wait <= target_ms).count() as i64;
    ensure!(
        of("answered_in_target")? == in_target,
        "{in_target} within {target_ms} ms in the records: {queue}"
    );
    let asa = waits.iter().sum::<i64>() as f64 / waits.len() as f64 / 1_000.0;
    let shown = queue["asa_s"].as_f64().context("asa_s")?;
    ensure!((shown - asa).abs() < 0.01, "ASA {shown} s, by the records {asa} s");
    let live = api.live().await?;
    let handled: i64 =
        live["agents"].as_array().context("agents")?.iter().filter_map(|a| a["handled"].as_i64()).sum();
    ensure!(handled == answered, "the agents handled {handled}");
    let by_agent = contacts.iter().fold(BTreeMap::<&str, i64>::new(), |mut all, contact| {
        *all.entry(contact["agent_id"].as_str().unwrap_or_default()).or_default() += 1;
        all
    });
    for agent in live["agents"].as_array().context("agents")? {
        let id = agent["agent_id"].as_str().unwrap_or_default();
        let counted = by_agent.get(id).copied().unwrap_or(0);
        ensure!(agent["handled"] == counted, "{id} handled {counted} by the records: {agent}");
    }
    Ok(())
}

/// The intervals add up to the same.
async fn interval_numbers_agree(api: &Api, contacts: &[Value]) -> Result<()> {
    let started = contacts.iter().filter_map(|c| c["started_ms"].as_i64()).min().context("no contact")?;
    let from = started / 3_600_000 * 3_600_000;
    let path =
        format!("/intervals?queue=support&from_ms={from}&to_ms={}&interval_s=900", from + 2 * 3_600_000);
    let answer = api.json(&path).await?;
    let intervals = answer["intervals"].as_array().context("no intervals")?;
    let sum = |name: &str| -> i64 { intervals.iter().filter_map(|i| i[name].as_i64()).sum() };
    let sums = (sum("offered"), sum("answered"), sum("abandoned"));
    let expected = (contacts.len() as i64, CALLERS as i64, GIVE_UP as i64);
    ensure!(sums == expected, "(offered, answered, abandoned) {sums:?} instead of {expected:?}: {answer}");
    Ok(())
}
