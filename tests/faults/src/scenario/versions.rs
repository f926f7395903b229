//! Two versions in one cluster, as during every upgrade.

use anyhow::{Context, Result};
use trunkline_system_tests::s;

use super::{Run, Verdict, rolling, traffic};
use crate::{history::What, report::count};

/// A cluster of the previous version: every second node is upgraded, works beside the others, and goes back, under traffic.
/// At the end all are upgraded.
pub async fn side_by_side(run: &mut Run<'_>) -> Result<Verdict> {
    let Some(previous) = run.previous.clone() else {
        let not_run = Some("there is no binary of the version before this one (--previous)");
        return Ok(Verdict { not_run, ..Verdict::default() });
    };
    let all = run.world.all();
    let nodes: Vec<&String> = all.iter().step_by(2).collect();
    let first = nodes.first().context("a node")?;
    let present = run.world.node(first)?.binary.clone();
    run.world.install(&previous).await.context("the cluster of the previous version")?;
    let mut stage = traffic::open(run).await?;
    let from = stage.history.len();
    for (binary, which) in [(&present, "this version"), (&previous, "the previous version")] {
        for name in &nodes {
            stage.history.fault(format!("{name} is restarted with {which}"));
            run.world.node(name)?.binary.clone_from(binary);
            let restart = rolling::one(run.world, name);
            traffic::during(&stage, run.size.rate, s(1), restart).await.with_context(|| name.to_string())?;
        }
        traffic::during(&stage, run.size.rate, s(5), async { Ok(()) }).await?;
    }
    let refused = stage.history.count(from, |what| matches!(what, What::Refused { .. }));
    stage.measure(count("failed calls", refused, Some(0)));
    stage.healed_within = s(60);
    let verdict = stage.close().await?;
    for name in &all {
        run.world.node(name)?.binary.clone_from(&present);
        rolling::one(run.world, name).await.with_context(|| format!("{name} is upgraded"))?;
    }
    Ok(verdict)
}
