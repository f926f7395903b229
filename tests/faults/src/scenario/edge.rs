//! The loss of an edge, and of the console beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use trunkline_system_tests::s;

use super::{Run, Stage, Verdict};
use crate::{
    history::What,
    phones::{self, Back, Phones},
    report::{at_least, count, seconds},
};

/// A load balancer notices a dead edge and gives its address to another one within this.
const FAILOVER: Duration = Duration::from_millis(500);

/// Telephones that were granted 60 to 80 s and refresh at a quarter come within 5 s; 20 of them hardly ever within 2.
const SPREAD_S: f64 = 2.0;

/// kill -9 of the edge that has the callers' address, while calls wait and talk and telephones are registered.
pub async fn killed(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls;
    let mut stage = Stage::open(run, all, true).await?;
    let established = stage.talk(all, s(30)).await?;
    let waiting = stage.crowd.wait(all, 10.0, s(30)).await?;
    let mut phones = Phones::register(run.world, all.max(phones::LEAST)).await?;
    let edges = run.world.names("edge");
    let (victim, heir) = (edges.first().context("an edge")?, edges.get(1).context("a second edge")?);
    // Wherever the address was left by the run before.
    run.world.move_sip(victim)?;
    // All at once, just before: what they come back in is what they were granted.
    phones.register_all().await?;
    let coming = tokio::spawn(async move {
        let back = phones.come_back().await;
        (phones, back)
    });
    let (died, from) = (Instant::now(), stage.history.len());
    let consoles = run.world.node(victim)?.http().to_string();
    let there = online_at(&stage, &consoles);
    stage.history.fault(format!("kill -9 {victim}; {heir} takes the address over"));
    run.world.node(victim)?.kill()?;
    tokio::time::sleep(FAILOVER).await;
    run.world.move_sip(heir)?;
    let online = |what: &What| matches!(what, What::Online { .. });
    stage.history.until("agents are back at another console", s(20), from, there, online).await?;
    let back: Vec<u64> = stage
        .history
        .entries()
        .into_iter()
        .skip(from)
        .filter(|entry| online(&entry.what))
        .map(|entry| entry.at_ms)
        .collect();
    let (first, last) = (back.first().copied().unwrap_or(0), back.last().copied().unwrap_or(0));
    let after = stage.history.instant(last).saturating_duration_since(died);
    stage.measure(seconds("last WebSocket back", after, Some(s(10))));
    if there > 3 {
        let spread = last.saturating_sub(first) as f64 / 1_000.0;
        stage.measure(at_least("spread of the WebSockets' return", spread, "s", 0.1));
    }
    let gap = stage.crowd.longest_silence(established.clone(), died);
    stage.measure(seconds("longest gap in established audio", gap, Some(Duration::from_millis(500))));
    // Dialogs that began at the dead edge end through the other one, from either side.
    let callers: Vec<usize> = established.clone().step_by(2).collect();
    let begun = Instant::now();
    stage.crowd.hang_up(callers.iter().copied()).await?;
    stage.crowd.hang_up(waiting.clone().step_by(2)).await?;
    stage.desk.order(|orders| {
        orders.talk = Some(Duration::ZERO);
        orders.hang_up += 1;
    });
    let over = stage.crowd.over(established.clone(), s(15)).await;
    stage.measure(seconds("dialogs ended through the other edge", begun.elapsed(), Some(s(10))));
    let left = stage.crowd.present().iter().filter(|caller| established.contains(caller)).count();
    stage.measure(count("dialogs that did not end", left, Some(0)));
    if let Err(error) = over {
        crate::report::note(&format!("{error:#}"));
    }
    let (phones, back) = coming.await?;
    telephones(&mut stage, run, &back, &heir.clone(), phones.count())?;
    phones.leave().await?;
    let victim = victim.clone();
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    stage.healed_within = s(60);
    stage.close().await
}

/// No binding is lost, everybody is let in with at most one challenge, and they do not come in one instant.
fn telephones(stage: &mut Stage, run: &mut Run<'_>, back: &Back, heir: &str, all: usize) -> Result<()> {
    stage.measure(count("bindings lost", back.lost, Some(0)));
    stage.measure(count("registrations refused", back.refused, Some(0)));
    stage.measure(count("further challenges, at most", back.challenges as usize, Some(1)));
    stage.measure(at_least(
        "spread of the telephones' refreshes",
        back.spread().as_secs_f64(),
        "s",
        SPREAD_S,
    ));
    let told = phones::told(run.world)?;
    let moved = told.iter().filter(|one| one["edge"] == heir).count();
    stage.measure(at_least("bindings told through the other edge", moved as f64, "", all as f64));
    Ok(())
}

/// Pages that were connected to a console last.
fn online_at(stage: &Stage, console: &str) -> usize {
    let mut at = std::collections::BTreeMap::new();
    for entry in stage.history.entries() {
        match entry.what {
            What::Online { agent, console, .. } => {
                at.insert(agent, console);
            }
            What::Offline { agent, .. } => {
                at.remove(&agent);
            }
            _ => {}
        }
    }
    at.values().filter(|there| *there == console).count()
}
