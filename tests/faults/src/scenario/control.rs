//! The loss of nodes that decide.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng;
use trunkline_system_tests::s;

use super::{Run, Stage, Verdict};
use crate::{
    checker::{Promise, Violation},
    history::What,
    phones::{self, Phones},
    report::{at_least, count, seconds},
};

const DEPTH: &str = "trunkline_acd_queue_depth";
/// Callers of another make beside ours.
const SIPP: u32 = 5;
const CALLS: &str = "trunkline_call_active";
/// Debug builds on a busy machine lose some packets' punctuality: a pause below this is no break.
const UNBROKEN: Duration = Duration::from_millis(500);

/// kill -9 of the queue's owner while callers wait.
pub async fn queued(run: &mut Run<'_>) -> Result<Verdict> {
    let mut stage = Stage::open(run, run.size.calls, false).await?;
    let who = stage.crowd.wait(run.size.queued, 20.0, s(60)).await?;
    let strangers = stage.sipp(SIPP)?;
    // Everybody hears music before it is judged whether it stops.
    trunkline_system_tests::until("every caller hears music", s(20), || {
        let all = who.clone().all(|caller| stage.crowd.heard(caller).packets > 25);
        std::future::ready(Ok(all.then_some(())))
    })
    .await?;
    let victim = run.world.most("acd", DEPTH).await?;
    let (killed, from) = (Instant::now(), stage.history.len());
    stage.history.fault(format!("kill -9 {victim}, which owns the queue of {} callers", who.len()));
    run.world.node(&victim)?.kill()?;
    stage.desk.order(|orders| {
        orders.open = usize::MAX;
        orders.talk = Some(Duration::from_millis(300));
    });
    let back = stage.first_ring(killed, from, s(30)).await?;
    stage.measure(seconds("control back", back, Some(s(5))));
    let gap = stage.crowd.longest_silence(stage.crowd.present(), killed);
    stage.measure(seconds("longest gap in the music", gap, Some(s(2))));
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    stage.healed_within = s(90);
    // They came last, and the desk serves until ours are gone: without this, it would close with some of them waiting.
    let strangers = strangers.succeed().await;
    let mut verdict = stage.close().await?;
    verdict.violations.extend(strangers.err().map(|error| Violation {
        promise: Promise::NoCallerLost,
        text: format!("sipp's callers hear 200 and, once served, BYE: {error:#}"),
    }));
    Ok(verdict)
}

/// kill -9 of a control node while calls ring and talk.
pub async fn calls(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls;
    let talking = all * 2 / 3;
    let mut stage = Stage::open(run, all, true).await?;
    let established = stage.talk(talking, s(30)).await?;
    // The rest of the agents let it ring.
    stage.desk.order(|orders| {
        orders.open = all;
        orders.answer_after = None;
    });
    stage.desk.until("the others are ready", s(20), &["ready"], all - talking).await?;
    let mut phones = Phones::register(run.world, phones::LEAST).await?;
    let ringing = stage.crowd.wait(all - talking, 10.0, s(30)).await?;
    stage.desk.until("the others ring", s(20), &["ringing"], all - talking).await?;
    let victim = run.world.most("call", CALLS).await?;
    let pause = Duration::from_millis(run.random.random_range(0..400));
    tokio::time::sleep(pause).await;
    let (killed, from) = (Instant::now(), stage.history.len());
    stage.history.fault(format!("kill -9 {victim}: {talking} talk, {} ring", ringing.len()));
    run.world.node(&victim)?.kill()?;
    stage.desk.order(|orders| orders.answer_after = Some(Duration::from_millis(200)));
    let asking = tokio::spawn(async move {
        let told = phones.ask().await;
        (phones, told)
    });
    // Whoever rang is picked up, whether the offer survives or comes again.
    let picked_up = stage
        .history
        .until("those who rang are picked up", s(40), from, ringing.len(), |what| match what {
            What::Answers { call, .. } => call.caller.is_some_and(|caller| ringing.contains(&caller)),
            _ => false,
        })
        .await;
    stage.measure(seconds("all picked up after", killed.elapsed(), None));
    let gap = stage.crowd.longest_silence(established.clone(), killed);
    stage.measure(seconds("longest gap in established audio", gap, Some(UNBROKEN)));
    let lost: u64 = established.clone().map(|caller| stage.crowd.heard(caller).lost).sum();
    stage.measure(count("packets lost in established calls", lost as usize, None));
    if let Err(error) = picked_up {
        crate::report::note(&format!("{error:#}"));
    }
    let (phones, (lost, after)) = asking.await?;
    stage.measure(count("telephones' bindings lost", lost, Some(0)));
    stage.measure(seconds("last telephone told what is bound after", after, Some(s(10))));
    phones.leave().await?;
    // Nobody is left behind: a call that ends is over on every leg within 10 s.
    let ended = Instant::now();
    stage.desk.order(|orders| {
        orders.hang_up += 1;
        orders.talk = Some(Duration::ZERO);
    });
    let whole = established.start..ringing.end;
    let over = stage.crowd.over(whole.clone(), s(10)).await;
    let orphans = stage.crowd.present().iter().filter(|caller| whole.contains(caller)).count();
    stage.measure(count("legs left after 10 s", orphans, Some(0)));
    if over.is_ok() {
        stage.measure(seconds("all legs ended after", ended.elapsed(), Some(s(10))));
    }
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    stage.close().await
}

/// SIGSTOP of an owner until others have taken over, then SIGCONT.
pub async fn paused(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls;
    let mut stage = Stage::open(run, all, true).await?;
    let talking = all / 2;
    stage.talk(talking, s(30)).await?;
    // Some wait, so that the owner has timers and offers under way when it stops.
    stage.desk.order(|orders| {
        orders.open = all;
        orders.answer_after = None;
    });
    stage.crowd.wait(all, 10.0, s(30)).await?;
    let victim = run.world.most("acd", DEPTH).await?;
    let refused_before = refused(run).await;
    let ttl = Duration::from_secs(3);
    stage.history.fault(format!("SIGSTOP {victim} for {} s", 3 * ttl.as_secs()));
    run.world.node(&victim)?.program()?.signal("-STOP")?;
    let (stopped, from) = (Instant::now(), stage.history.len());
    stage.desk.order(|orders| {
        orders.answer_after = Some(Duration::from_millis(200));
        orders.talk = Some(s(2));
    });
    let back = stage.first_ring(stopped, from, s(30)).await;
    tokio::time::sleep((ttl * 3).saturating_sub(stopped.elapsed())).await;
    stage.history.fault(format!("SIGCONT {victim}"));
    run.world.node(&victim)?.program()?.signal("-CONT")?;
    match back {
        Ok(back) => stage.measure(seconds("control back", back, Some(s(8)))),
        Err(error) => crate::report::note(&format!("while it was stopped: {error:#}")),
    }
    let limit = Instant::now() + s(15);
    let mut counted = 0.0;
    while counted <= 0.0 && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(250)).await;
        counted = refused(run).await - refused_before;
    }
    stage.measure(at_least("late effects refused and counted", counted, "", 1.0));
    stage.healed_within = s(60);
    stage.close().await
}

/// Refusals by epoch, of all receivers and of the journal.
async fn refused(run: &mut Run<'_>) -> f64 {
    let receivers = run.world.metric("*_epochs_refused_total", "").await;
    receivers + run.world.metric("trunkline_journal_refused_total", "fenced").await
}
