//! Proves that `kill -9` while calls wait and talk loses and doubles nothing: after the restart with the same folder
//! every record is there once, what was finished is unchanged, every caller has the place or the conversation of before
//! (the media node was in the same process: each caller follows a re-INVITE), no agent is stuck, and the numbers still
//! agree with the records.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    agent::{Agent, Ring},
    api::Api,
    here, s,
    sipp::Sipp,
    system::Setup,
    until,
};

const WAITING: u32 = 8;

async fn all_ended(api: &Api, count: usize) -> Result<Vec<Value>> {
    until("every call has its end", s(60), || async {
        let contacts = api.contacts("").await?;
        ensure!(contacts.len() <= count, "{} records of {count} calls", contacts.len());
        Ok((contacts.len() == count && contacts.iter().all(|c| c["ended_ms"].is_i64())).then_some(contacts))
    })
    .await
}

async fn talk(agent: &Agent, turn: usize, offer: &str) -> Result<Ring> {
    let ring = agent.next_ring(turn, s(15)).await?;
    agent.accept(&ring.offer_id, offer).await?;
    Ok(ring)
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_by_a_crash() -> Result<()> {
    let system = Setup::new("crash")?.data_dir().start().await?;
    let (api, folder, target) = (system.supervisor().await?, system.folder().to_owned(), system.sip());
    let offer = std::fs::read_to_string(here().join("fixtures/offer.sdp"))?;
    let names = ["alice", "bob", "carol", "dave"];
    let agents = futures::future::try_join_all(names.map(|name| Agent::sign_in(system.http(), name))).await?;
    let [alice, bob, carol, dave] = &agents[..] else { unreachable!("four agents") };

    // One call from beginning to end, so that there is something finished.
    alice.ready().await?;
    let calling = Sipp::own("wait", target).named("first").key("caller", "493091").start(&folder)?;
    talk(alice, 0, &offer).await?;
    alice.hang_up().await?;
    calling.succeed().await?;
    alice.until_state("wrap_up", s(10)).await?;
    alice.wrap_up("resolved", &["before"]).await?;

    // Alice and bob talk, carol is in wrap-up, dave's phone rings; eight callers wait.
    alice.until_state("ready", s(10)).await?;
    let one = Sipp::own("wait", target).named("alice").key("caller", "493092").start(&folder)?;
    talk(alice, 1, &offer).await?;
    bob.ready().await?;
    let two = Sipp::own("wait", target).named("bob").key("caller", "493093").start(&folder)?;
    talk(bob, 0, &offer).await?;
    carol.ready().await?;
    let three = Sipp::own("wait", target).named("carol").key("caller", "493094").start(&folder)?;
    talk(carol, 0, &offer).await?;
    carol.hang_up().await?;
    three.succeed().await?;
    carol.until_state("wrap_up", s(10)).await?;
    dave.ready().await?;
    let four = Sipp::own("wait", target).named("dave").key("caller", "493095").start(&folder)?;
    dave.next_ring(0, s(10)).await?;
    let rest =
        Sipp::own("wait", target).named("rest").key("caller", "493096").calls(WAITING, 20).start(&folder)?;
    let count = 5 + WAITING as usize;
    // Dave's caller waits until he answers.
    let still = i64::from(WAITING) + 1;
    api.until_queue("support", "callers wait", s(20), |q| q["waiting"].as_i64() == Some(still)).await?;
    let before = until("the records have every call", s(10), || async {
        let contacts = api.contacts("").await?;
        Ok((contacts.len() == count).then_some(contacts))
    })
    .await?;

    let (setup, status) = system.kill()?;
    ensure!(status.code().is_none(), "killed, not ended: {status}");
    drop(agents);
    // And again, in the middle of the recovery.
    let (setup, _) = setup.start().await.context("the restart on the same folder")?.kill()?;
    let system = setup.start().await.context("the second restart")?;
    let api = system.supervisor().await?;
    // Everybody who waited still does, dave's caller among them: nobody answered that offer.
    api.until_queue("support", "the callers wait on", s(30), |q| q["waiting"].as_i64() == Some(still))
        .await?;
    nothing_changed(&before, &api.contacts("").await?)?;

    // Who talked still talks, and can end it; who wrapped up still does.
    for (name, calling) in [("alice", one), ("bob", two)] {
        let agent = Agent::sign_in(system.http(), name).await?;
        agent.until_state("talking", s(20)).await.with_context(|| format!("{name} talks on"))?;
        agent.hang_up().await?;
        calling.succeed().await.with_context(|| format!("the caller of {name} hears BYE"))?;
        agent.until_state("wrap_up", s(10)).await?;
        agent.wrap_up("resolved", &["after"]).await?;
        agent.done("not_ready", serde_json::json!({ "reason": "break" })).await?;
    }
    serve_all(&system, &offer, still).await?;
    for calling in [four, rest] {
        calling.succeed().await.context("a caller who waited through the crash is served")?;
    }
    nothing_changed(&before, &all_ended(&api, count).await?)?;
    no_agent_is_stuck(&system, &api, &folder, &offer, count).await?;
    numbers_agree(&api).await?;
    system.stop().await?;
    Ok(())
}

/// Dave takes the calls that wait, one after the other.
async fn serve_all(system: &trunkline_system_tests::system::System, offer: &str, calls: i64) -> Result<()> {
    let dave = Agent::sign_in(system.http(), "dave").await?;
    for turn in 0..calls {
        // The first one may be the offer of before the crash, which rings on.
        if !["ready", "ringing"].iter().any(|state| dave.seen().snapshot["state"] == *state) {
            dave.ready().await?;
        }
        let seen = dave.until_state("ringing", s(30)).await.with_context(|| format!("call {turn}"))?;
        let ringing = seen.snapshot["call"]["offer_id"].as_str().context("what rings")?.to_owned();
        dave.accept(&ringing, offer).await.with_context(|| format!("call {turn}"))?;
        dave.hang_up().await?;
        dave.until_state("wrap_up", s(10)).await?;
        dave.wrap_up("resolved", &[]).await?;
    }
    Ok(())
}

/// The same records; what they said of the past they still say.
fn nothing_changed(before: &[Value], after: &[Value]) -> Result<()> {
    let id = |contact: &Value| contact["call_id"].as_str().map(str::to_owned).context("no id");
    let ids = after.iter().map(id).collect::<Result<BTreeSet<_>>>()?;
    ensure!(ids.len() == after.len(), "a record twice");
    let by_id: BTreeMap<String, &Value> = after.iter().map(|c| Ok((id(c)?, c))).collect::<Result<_>>()?;
    for old in before {
        let new = by_id.get(&id(old)?).with_context(|| format!("lost: {old}"))?;
        for field in ["caller_number", "dialled", "started_ms", "queue_id", "direction"] {
            ensure!(old[field] == new[field], "{field} changed: {old} to {new}");
        }
        if old["ended_ms"].is_i64() {
            for field in ["ended_ms", "cause", "ended_by", "outcome", "agent_id", "talk_ms", "wait_ms"] {
                ensure!(old[field] == new[field], "{field} of a finished call changed: {old} to {new}");
            }
        } else {
            let cause = new["cause"].as_str().unwrap_or_default();
            ensure!(["", "agent_hangup"].contains(&cause), "the system ended it, by {cause:?}: {new}");
        }
    }
    Ok(())
}

/// Every agent, whatever he did at the crash, can come back, go ready and take a new call.
async fn no_agent_is_stuck(
    system: &trunkline_system_tests::system::System,
    api: &Api,
    folder: &std::path::Path,
    offer: &str,
    count: usize,
) -> Result<()> {
    for (n, name) in ["alice", "bob", "carol", "dave"].into_iter().enumerate() {
        let agent = Agent::sign_in(system.http(), name).await?;
        // Wrap-up goes on where it was; it can be finished. Any other state must lead to ready by itself.
        let seen = agent
            .until("a state from which one can go on", s(60), |seen| {
                ["not_ready", "wrap_up", "ready"].iter().any(|state| seen.snapshot["state"] == *state)
            })
            .await?;
        if seen.snapshot["state"] == "wrap_up" {
            agent.wrap_up("resolved", &["after"]).await?;
        }
        agent.until("out of wrap-up", s(10), |seen| seen.snapshot["state"] != "wrap_up").await?;
        if agent.seen().snapshot["state"] != "ready" {
            agent.ready().await?;
        }
        let caller = format!("49309{}", 90 + n);
        let calling = Sipp::own("wait", system.sip())
            .named(&format!("again-{name}"))
            .key("caller", &caller)
            .start(folder)?;
        talk(&agent, 0, offer).await.with_context(|| format!("{name} takes a new call"))?;
        agent.hang_up().await?;
        calling.succeed().await?;
        agent.until_state("wrap_up", s(10)).await?;
        agent.wrap_up("resolved", &[]).await?;
        agent.done("not_ready", serde_json::json!({ "reason": "break" })).await?;
    }
    all_ended(api, count + 4).await.map(drop)
}

/// The folds start from the journal again and come to the same.
async fn numbers_agree(api: &Api) -> Result<()> {
    let contacts = api.contacts("queue=support").await?;
    let answered = contacts.iter().filter(|c| c["outcome"] == "answered").count() as i64;
    let queue = api.until_queue("support", "nobody waits", s(10), |q| q["waiting"] == 0).await?;
    ensure!(queue["answered"] == answered, "{answered} answered by the records: {queue}");
    ensure!(queue["offered"] == contacts.len(), "{} records: {queue}", contacts.len());
    Ok(())
}
