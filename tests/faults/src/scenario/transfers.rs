//! The loss of a node that decides, while agents pass callers on.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng;
use trunkline_system_tests::s;

use super::{Run, Stage, Verdict};
use crate::{
    history::What,
    report::{count, note, seconds},
};

const CALLS: &str = "trunkline_call_active";
/// As in the scenario of calls that ring and talk.
const UNBROKEN: Duration = Duration::from_millis(500);

/// kill -9 of a control node while calls are transferred: a third blind, a third after talking to the other agent, and
/// a third of the agents talk to another one and go back to their callers.
pub async fn killed(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls.min(run.size.agents() / 2);
    let mut stage = Stage::open(run, 2 * all, true).await?;
    let established = stage.talk(all, s(30)).await?;
    // As many agents are free: each of them may be asked.
    stage.desk.order(|orders| orders.open = 2 * all);
    stage.desk.until("as many agents are ready", s(20), &["ready"], all).await?;
    let victim = run.world.most("call", CALLS).await?;
    stage.desk.order(|orders| {
        orders.passing = all;
        orders.pass_on += 1;
        orders.pass_on_at = Some(Instant::now());
    });
    let pause = Duration::from_millis(run.random.random_range(100..1_600));
    tokio::time::sleep(pause).await;
    let (killed, consulting) = (Instant::now(), stage.desk.consulting());
    let decided = || {
        let entries = stage.history.entries();
        entries.iter().filter(|e| matches!(e.what, What::PassesOn { .. } | What::TakesBack { .. })).count()
    };
    stage.history.fault(format!("kill -9 {victim}: {all} transfers, {consulting} pages show a consultation"));
    run.world.node(&victim)?.kill()?;
    // Each caller is with one agent again, and nobody asks anybody.
    let done = trunkline_system_tests::until("every transfer comes to its end", s(40), || {
        let (talk, asks) = (stage.desk.in_state(&["talking"]), stage.desk.consulting());
        std::future::ready(Ok((talk == all && asks == 0 && decided() >= all).then_some(())))
    });
    let done = done.await;
    let (undecided, asks) = (all.saturating_sub(decided()), stage.desk.consulting());
    match done {
        Ok(()) => stage.measure(seconds("all transfers done after", killed.elapsed(), Some(s(20)))),
        Err(error) => note(&format!("{error:#}")),
    }
    stage.measure(count("transfers that did not come to their end", undecided + asks, Some(0)));
    let talk = stage.desk.in_state(&["talking"]);
    stage.measure(count("callers without an agent afterwards", all.saturating_sub(talk), Some(0)));
    let gap = stage.crowd.longest_silence(established.clone(), killed);
    stage.measure(seconds("longest gap in what callers hear, music included", gap, Some(UNBROKEN)));
    let lost: u64 = established.clone().map(|caller| stage.crowd.heard(caller).lost).sum();
    stage.measure(count("packets lost in established calls", lost as usize, None));
    let ended = Instant::now();
    stage.desk.order(|orders| {
        orders.hang_up += 1;
        orders.talk = Some(Duration::ZERO);
    });
    let over = stage.crowd.over(established.clone(), s(10)).await;
    let orphans = stage.crowd.present().iter().filter(|caller| established.contains(caller)).count();
    stage.measure(count("legs left after 10 s", orphans, Some(0)));
    if over.is_ok() {
        stage.measure(seconds("all legs ended after", ended.elapsed(), Some(s(10))));
    }
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    stage.close().await
}
