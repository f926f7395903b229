//! A restart of every node, one after the other, under traffic.

use std::time::Instant;

use anyhow::{Context, Result};
use trunkline_system_tests::s;

use super::{Run, Verdict, traffic};
use crate::{
    history::What,
    report::{count, seconds},
    world::World,
};

/// SIGTERM, exit, start, for each node; the load balancer in front follows the edges' readiness.
pub async fn restart(run: &mut Run<'_>) -> Result<Verdict> {
    let mut stage = traffic::open(run).await?;
    let mut slowest = std::time::Duration::ZERO;
    let from = stage.history.len();
    let begun = Instant::now();
    for name in run.world.all() {
        stage.history.fault(format!("{name} is restarted"));
        let node = Instant::now();
        let restart = one(run.world, &name);
        traffic::during(&stage, run.size.rate, s(1), restart).await.context(name)?;
        slowest = slowest.max(node.elapsed());
    }
    stage.measure(seconds("all nodes", begun.elapsed(), None));
    stage.measure(seconds("slowest node", slowest, None));
    let refused = stage.history.count(from, |what| matches!(what, What::Refused { .. }));
    let came = stage.history.count(from, |what| matches!(what, What::Calls { .. }));
    stage.measure(count("calls", came, None));
    stage.measure(count("failed calls", refused, Some(0)));
    stage.healed_within = s(60);
    stage.close().await
}

/// One node, without a call noticing.
pub(super) async fn one(world: &mut World, name: &str) -> Result<()> {
    let edges = world.names("edge");
    if edges.iter().any(|edge| edge == name) {
        // As a load balancer: before the old one stops answering, another has the address.
        let other = edges.iter().find(|edge| *edge != name).context("a second edge")?;
        world.move_sip(other)?;
    }
    world.node(name)?.stop(s(90)).await?;
    world.start_nodes(&[name.to_owned()]).await
}
