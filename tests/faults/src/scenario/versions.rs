//! Two versions in one cluster, as during every upgrade.

use anyhow::{Context, Result};
use trunkline_system_tests::s;

use super::{Run, Verdict, rolling, traffic};
use crate::{history::What, report::count};

/// Every second node goes back to the previous version, works beside the others, and is upgraded again, under traffic.
pub async fn side_by_side(run: &mut Run<'_>) -> Result<Verdict> {
    let Some(previous) = run.previous.clone() else {
        crate::report::note("   no previous version");
        return Ok(Verdict::default());
    };
    let mut stage = traffic::open(run).await?;
    let from = stage.history.len();
    let nodes: Vec<String> = run.world.all().into_iter().step_by(2).collect();
    let first = nodes.first().context("a node")?;
    let present = run.world.node(first)?.binary.clone();
    for (binary, which) in [(previous, "the previous version"), (present, "this version")] {
        for name in &nodes {
            stage.history.fault(format!("{name} is restarted with {which}"));
            run.world.node(name)?.binary.clone_from(&binary);
            let restart = rolling::one(run.world, name);
            traffic::during(&stage, run.size.rate, s(1), restart).await.context(name.clone())?;
        }
        traffic::during(&stage, run.size.rate, s(5), async { Ok(()) }).await?;
    }
    let refused = stage.history.count(from, |what| matches!(what, What::Refused { .. }));
    stage.measure(count("failed calls", refused, Some(0)));
    stage.healed_within = s(60);
    stage.close().await
}
