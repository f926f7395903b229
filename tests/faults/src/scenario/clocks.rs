//! A clock that is wrong.

use anyhow::{Context, Result};
use rand::{Rng, seq::IndexedRandom};
use trunkline_loadtest::callers::index_of;
use trunkline_system_tests::s;

use super::{Run, Verdict, traffic};
use crate::report::{at_least, count};

/// Nothing in this scenario lasts as long as a minute, and an hour would show.
const SANE_MS: i64 = 120_000;

/// One control node runs with a clock that is an hour early or late.
pub async fn wrong(run: &mut Run<'_>) -> Result<Verdict> {
    let names = run.world.names("call");
    let victim = names.choose(&mut run.random).context("a control node")?.clone();
    let offset = if run.random.random_bool(0.5) { "+3600" } else { "-3600" };
    let mut stage = traffic::open(run).await?;
    stage.history.fault(format!("{victim} restarts with its clock at {offset} s"));
    let from = stage.history.len();
    run.world.node(&victim)?.kill()?;
    run.world.node(&victim)?.set_clock(Some(offset));
    let restart = run.world.start_nodes(std::slice::from_ref(&victim));
    traffic::during(&stage, run.size.rate, s(1), restart).await?;
    run.world.settled(s(30)).await?;
    traffic::during(&stage, run.size.rate, run.size.trouble, async { Ok(()) }).await?;
    let (answered, came) = traffic::answered(&stage, from);
    stage.measure(at_least("share answered meanwhile", answered as f64 / came.max(1) as f64, "", 0.7));
    let first = stage.crowd.first();
    stage.healed_within = s(60);
    let mut verdict = stage.close().await?;
    let mut insane = 0;
    for contact in run.world.api().await?.contacts("").await? {
        if index_of(contact["caller_number"].as_str().unwrap_or_default()) < Some(first) {
            continue;
        }
        let ms = |name: &str| contact[name].as_i64().unwrap_or(0);
        let sane =
            ["wait_ms", "talk_ms", "hold_ms", "wrap_up_ms"].iter().all(|n| (0..SANE_MS).contains(&ms(n)));
        if !sane {
            insane += 1;
            crate::report::note(&format!("a record with an impossible duration: {contact}"));
        }
    }
    verdict.measured.push(count("records with an impossible duration", insane, Some(0)));
    run.world.node(&victim)?.set_clock(None);
    run.world.node(&victim)?.stop(s(40)).await?;
    run.world.start_nodes(std::slice::from_ref(&victim)).await?;
    Ok(verdict)
}
