//! The loss of what the cluster coordinates and writes with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use trunkline_system_tests::s;

use super::{Run, Stage, Verdict, traffic};
use crate::{
    history::What,
    report::{at_least, count, seconds},
};

/// Some shards may move when leases come back one after the other; a mass move is more than this.
const FEW: usize = 4_096 / 20;

/// Two of three members of etcd stop.
pub async fn no_quorum(run: &mut Run<'_>) -> Result<Verdict> {
    let outage = run.size.outage;
    etcd_away(run, 2, outage).await
}

/// All members of etcd stop, longer than a lease lives.
pub async fn etcd_stopped(run: &mut Run<'_>) -> Result<Verdict> {
    etcd_away(run, 3, s(10)).await
}

async fn etcd_away(run: &mut Run<'_>, members: usize, outage: Duration) -> Result<Verdict> {
    let mut stage = traffic::open(run).await?;
    let moves = run.world.moves().await?;
    let from = stage.history.len();
    stage.history.fault(format!("{members} members of etcd stop for {outage:?}"));
    run.world.etcd.pause(members)?;
    traffic::during(&stage, run.size.rate, outage, async { Ok(()) }).await?;
    // Each of these was answered without etcd.
    let (answered, came) = traffic::answered(&stage, from);
    let share = answered as f64 / came.max(1) as f64;
    stage.measure(at_least("share answered meanwhile", share, "", 0.7));
    stage.history.fault("etcd goes on");
    run.world.etcd.go_on()?;
    run.world.etcd.healthy(s(30)).await?;
    // Leases that were found expired would be acted on now.
    traffic::during(&stage, run.size.rate, s(10), async { Ok(()) }).await?;
    let moved = run.world.moves().await? - moves;
    stage.measure(count("shards that changed hands", moved.max(0.0) as usize, Some(FEW)));
    stage.healed_within = s(60);
    stage.close().await
}

/// kill -9 of PostgreSQL while people talk, wait and call.
pub async fn postgres_killed(run: &mut Run<'_>) -> Result<Verdict> {
    let all = run.size.calls;
    let talking = all / 2;
    let mut stage = Stage::open(run, all, true).await?;
    let established = stage.talk(talking, s(30)).await?;
    stage.crowd.wait(all, 10.0, s(30)).await?;
    let outage = run.size.outage;
    let killed = Instant::now();
    stage.history.fault(format!("PostgreSQL is killed for {outage:?}"));
    run.world.postgres.kill()?;
    // Calls that come now can be refused; they are never left without an answer.
    stage.rules.refused = true;
    let late = stage.crowd.come(3, 1.0).await?;
    tokio::time::sleep(outage.saturating_sub(killed.elapsed())).await;
    let gap = stage.crowd.longest_silence(established.clone(), killed);
    stage.measure(seconds("longest gap in established audio", gap, Some(Duration::from_millis(500))));
    stage.history.fault("PostgreSQL is started again");
    let back = Instant::now();
    run.world.postgres.start_again(&run.world.network).await?;
    let from = stage.history.len();
    stage.desk.order(|orders| {
        orders.open = all;
        orders.talk = Some(s(1));
        orders.hang_up += 1;
    });
    let again = stage.first_ring(back, from, s(60)).await.context("after the outage")?;
    stage.measure(seconds("first ring after it is back", again, Some(s(20))));
    // SIP gives a request 32 s: by then each of them has its answer.
    let answered = |what: &What| match what {
        What::Connected { caller } | What::Refused { caller, .. } => late.contains(caller),
        _ => false,
    };
    stage.history.until("late calls are answered", s(40), 0, late.len(), answered).await?;
    stage.healed_within = s(90);
    stage.close().await
}
