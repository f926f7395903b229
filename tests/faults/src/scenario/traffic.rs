//! Calls that keep coming while something is done to the system.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use trunkline_system_tests::s;

use super::{Run, Stage};
use crate::history::What;

/// How long agents talk.
const TALK: Duration = s(2);

/// Opens all agents for short conversations.
pub async fn open(run: &Run<'_>) -> Result<Stage> {
    let agents = (run.size.rate * 6.0) as usize;
    let stage = Stage::open(run, agents, false).await?;
    stage.desk.order(|orders| {
        orders.open = agents;
        orders.talk = Some(TALK);
    });
    stage.desk.until("agents are ready", s(20), &["ready"], agents).await?;
    Ok(stage)
}

/// Calls come at a rate for as long as `meanwhile` lasts, and at least as long as `at_least`.
pub async fn during<T>(
    stage: &Stage,
    rate: f64,
    at_least: Duration,
    meanwhile: impl Future<Output = Result<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let work = async {
        let outcome = meanwhile.await;
        tokio::time::sleep(at_least.saturating_sub(begun.elapsed())).await;
        outcome
    };
    let calls = async {
        loop {
            stage.crowd.come(1, 1.0).await?;
            tokio::time::sleep(Duration::from_secs_f64(1.0 / rate)).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        failed = calls => failed,
    }
}

/// Of the calls that came in the history from `from` on: how many were answered by an agent so far, and how many came.
pub fn answered(stage: &Stage, from: usize) -> (usize, usize) {
    let history = Arc::clone(&stage.history);
    let came = history.count(from, |what| matches!(what, What::Calls { .. }));
    (history.count(from, |what| matches!(what, What::Answers { .. })), came)
}
