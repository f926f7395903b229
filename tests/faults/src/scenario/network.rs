//! Faults of the network between nodes.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use rand::seq::IndexedRandom;
use trunkline_system_tests::s;

use super::{Run, Stage, Verdict, traffic};
use crate::{
    net::{Rule, Share, between},
    report::{at_least, count},
    world::CLIENTS,
};

/// One control node is cut off from everything but callers and agents.
pub async fn minority(run: &mut Run<'_>) -> Result<Verdict> {
    let mut stage = traffic::open(run).await?;
    let names = run.world.names("call");
    let victim = names.choose(&mut run.random).cloned().unwrap_or_default();
    let hosts: Vec<String> = run.world.network.hosts().map(|(name, _)| name.to_owned()).collect();
    let others: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|name| *name != victim && *name != CLIENTS).collect();
    stage.history.fault(format!("{victim} is cut off for {:?}", run.size.trouble));
    let from = stage.history.len();
    run.world.network.partition("minority", &[&victim], &others)?;
    traffic::during(&stage, run.size.rate, run.size.trouble, async { Ok(()) }).await?;
    stage.history.fault("healed");
    run.world.network.clear_rules("minority")?;
    traffic::during(&stage, run.size.rate, s(5), async { Ok(()) }).await?;
    served(&mut stage, from);
    finish(stage, run.size.trouble).await
}

/// What one control node sends to another is lost; the other way works.
pub async fn one_way(run: &mut Run<'_>) -> Result<Verdict> {
    let mut stage = traffic::open(run).await?;
    let names = run.world.names("acd");
    let pair: Vec<&String> = names.choose_multiple(&mut run.random, 2).collect();
    let [from, to] = pair.as_slice() else { anyhow::bail!("one control node is too few") };
    let (from_at, to_at) = (run.world.network.address(from)?, run.world.network.address(to)?);
    let moves = run.world.moves().await?;
    stage.history.fault(format!("nothing that {from} sends reaches {to} for {:?}", run.size.trouble));
    let seen = stage.history.len();
    run.world.network.set_rules("one-way", vec![Rule::cut(from_at, to_at)])?;
    traffic::during(&stage, run.size.rate, run.size.trouble, async { Ok(()) }).await?;
    let moved = run.world.moves().await? - moves;
    stage.history.fault("healed");
    run.world.network.clear_rules("one-way")?;
    traffic::during(&stage, run.size.rate, s(5), async { Ok(()) }).await?;
    // Both reach etcd and the journal: neither is dead, so there is nothing to move.
    stage.measure(count("shards that changed hands", moved.max(0.0) as usize, Some(0)));
    served(&mut stage, seen);
    finish(stage, run.size.trouble).await
}

/// Between all control nodes a tenth of the packets is lost and a tenth comes twice.
pub async fn bad_line(run: &mut Run<'_>) -> Result<Verdict> {
    let mut stage = traffic::open(run).await?;
    let names = run.world.names("acd");
    let addresses: Vec<Ipv4Addr> =
        names.iter().map(|name| run.world.network.address(name)).collect::<Result<_>>()?;
    let tenth = Share::percent(10);
    let mut rules = between(&addresses, &addresses, |from, to| Rule::bad(from, to, tenth, tenth));
    // Each pair is met twice in a group with itself.
    rules.sort_by_key(|rule| (rule.from, rule.to));
    rules.dedup();
    let moves = run.world.moves().await?;
    let seen = stage.history.len();
    stage.history.fault(format!("10 % lost and 10 % doubled between {names:?} for {:?}", run.size.trouble));
    run.world.network.set_rules("bad-line", rules)?;
    traffic::during(&stage, run.size.rate, run.size.trouble, async { Ok(()) }).await?;
    let moved = run.world.moves().await? - moves;
    stage.history.fault("healed");
    run.world.network.clear_rules("bad-line")?;
    stage.measure(count("shards that changed hands", moved.max(0.0) as usize, Some(0)));
    served(&mut stage, seen);
    finish(stage, run.size.trouble).await
}

/// At least half of what came was answered while it lasted: the system goes on, and does not only recover.
fn served(stage: &mut Stage, from: usize) {
    let (answered, came) = traffic::answered(stage, from);
    stage.measure(at_least("share answered meanwhile", answered as f64 / came.max(1) as f64, "", 0.5));
}

async fn finish(mut stage: Stage, trouble: Duration) -> Result<Verdict> {
    stage.healed_within = Duration::from_secs(60);
    // A call on one side of the fault gets its place on the other side when it is over.
    stage.rules.entered_within += trouble;
    stage.close().await
}
