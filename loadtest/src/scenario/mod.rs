//! The measurements and what they share.

mod dispatch;
mod music;
mod queued;
mod waiting;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::{
    args::{Cli, Scenario, ServerArgs},
    callers::{Callers, News, Target},
    report,
    server::{Addresses, Server, Usage},
};

/// Longest wait for the last of something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the one that was asked for.
pub async fn run(cli: Cli) -> Result<()> {
    let args = &cli.server;
    let server = match &args.spawn {
        Some(program) => Server::spawn(program, cli.scenario.agents(), &args.rtp)?,
        None => Server::running(args.pid, Addresses { sip: args.sip, http: args.http }),
    };
    report::note(&format!("server at {} and http://{}, pid {:?}", server.at.sip, server.at.http, server.pid));
    let (name, figures) = match cli.scenario {
        Scenario::Waiting { callers, rate, agents, media, seconds } => {
            let plan = waiting::Plan { callers, rate, agents, media, seconds };
            (plan.name(), plan.run(&server, args).await?)
        }
        Scenario::Queued { rate, agents, talk, seconds } => {
            let plan = queued::Plan { rate, agents, talk, seconds };
            (plan.name(), plan.run(&server, args).await?)
        }
        Scenario::Dispatch { callers, agents, gap } => {
            let plan = dispatch::Plan { callers, agents, gap };
            (plan.name(), plan.run(&server, args).await?)
        }
        Scenario::Music { callers, speak, seconds } => {
            let plan = music::Plan { callers, speak, seconds };
            (plan.name(), plan.run(&server, args).await?)
        }
    };
    report::publish(&name, &figures, args.json.as_deref())
}

async fn callers(
    server: &Server,
    args: &ServerArgs,
    sdp: String,
    limit: usize,
) -> Result<(Callers, mpsc::Receiver<News>)> {
    Callers::start(Target::local(server.at.sip, args.to.clone(), sdp, limit)).await
}

/// Places calls `first..last` at an even rate.
async fn place(callers: &Callers, calls: std::ops::Range<usize>, rate: f64) -> Result<()> {
    let begun = Instant::now();
    for (n, index) in calls.enumerate() {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(n as f64 / rate)).into()).await;
        callers.place(index).await?;
    }
    Ok(())
}

/// Waits until so many calls are answered or failed; returns both counts.
async fn answered(news: &mut mpsc::Receiver<News>, count: usize) -> Result<(usize, usize)> {
    let (mut good, mut bad) = (0, 0);
    while good + bad < count {
        let next = tokio::time::timeout(PATIENCE + Duration::from_secs(10), news.recv()).await;
        match next
            .context("calls are neither answered nor refused")?
            .context("the callers' task has ended")?
        {
            News::Answered(_) => good += 1,
            News::Failed(index, status) => {
                bad += 1;
                if bad <= 5 {
                    report::note(&format!("call {index} failed with {status}"));
                }
            }
            News::Ended(_) => {}
        }
    }
    Ok((good, bad))
}

/// Hangs up calls and waits until they have ended.
async fn end(
    callers: &Callers,
    news: &mut mpsc::Receiver<News>,
    calls: std::ops::Range<usize>,
) -> Result<()> {
    let mut open = calls.len();
    for index in calls {
        callers.hang_up(index).await?;
        if index.is_multiple_of(20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while open > 0 {
        match tokio::time::timeout_at(deadline, news.recv()).await {
            Ok(Some(News::Ended(_) | News::Failed(..))) => open -= 1,
            Ok(Some(News::Answered(_))) => {}
            _ => {
                report::note(&format!("{open} calls did not end"));
                break;
            }
        }
    }
    Ok(())
}

/// Processor time over a while.
async fn cpu_over(server: &Server, while_: Duration) -> Result<Option<(Duration, Duration)>> {
    let (begun, before) = (Instant::now(), server.usage()?);
    tokio::time::sleep(while_).await;
    let after = server.usage()?;
    Ok(before.zip(after).map(|(before, after)| (after.cpu.saturating_sub(before.cpu), begun.elapsed())))
}

/// Growth of memory between two moments, for each of `count`, in kB (1,000 bytes).
fn each_kb(before: Usage, after: Usage, count: usize) -> f64 {
    (after.rss_bytes as f64 - before.rss_bytes as f64) / count.max(1) as f64 / 1_000.0
}
