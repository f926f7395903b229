//! The measurements and what they share.

mod bare;
mod dispatch;
mod growth;
mod music;
mod ng;
mod peers;
mod queued;
mod relay;
mod talk;
mod waiting;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

pub use bare::bare_relay;
pub use growth::growth;
pub use peers::peers;
pub use relay::relay;

use crate::{
    agents,
    args::{Measure, ServerArgs},
    callers::{Callers, News, Target},
    report::{self, Figure},
    system::{Server, Usage},
};

/// Longest wait for the last of something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the one that was asked for.
pub async fn run(args: &ServerArgs, measure: Measure) -> Result<()> {
    let server = Server::of(args, measure.agents(), &measure.options()).await?;
    report::note(&format!("server at {} and http://{}, pid {:?}", server.at.sip, server.at.http, server.pid));
    let (name, figures) = match measure {
        Measure::Waiting { callers, rate, agents, media, seconds } => {
            let plan = waiting::Plan { callers, rate, agents, media, seconds };
            (plan.name(), plan.run(&server, args).await?)
        }
        Measure::Queued { rate, agents, talk, seconds, no_recording } => {
            let plan = queued::Plan { rate, agents, talk, seconds, recorded: !no_recording };
            (plan.name(), plan.run(&server, args).await?)
        }
        Measure::Dispatch { callers, agents, gap } => {
            let plan = dispatch::Plan { callers, agents, gap };
            (plan.name(), plan.run(&server, args).await?)
        }
        Measure::Music { callers, speak, seconds } => {
            let plan = music::Plan { callers, speak, seconds };
            (plan.name(), plan.run(&server, args).await?)
        }
    };
    report::publish(&name, &figures, args.json.as_deref())
}

/// Figures with the name of what they are of.
fn named(who: &str, figures: Vec<Figure>) -> Vec<Figure> {
    let rename = |mut figure: Figure| {
        figure.name = format!("{who}: {}", figure.name);
        figure
    };
    figures.into_iter().map(rename).collect()
}

async fn callers(
    server: &Server,
    args: &ServerArgs,
    sdp: String,
    limit: usize,
) -> Result<(Callers, mpsc::Receiver<News>)> {
    Callers::start(Target::local(server.at.sip, args.to(), sdp, limit)).await
}

/// Places calls `first..last` at an even rate. Times of one count from when it was due: if this side is late, it shows.
async fn place(callers: &Callers, calls: std::ops::Range<usize>, rate: f64) -> Result<()> {
    let begun = Instant::now();
    for (n, index) in calls.enumerate() {
        let due = begun + Duration::from_secs_f64(n as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        callers.place_at(index, due).await?;
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

/// What an agent did with one call.
#[derive(Clone, Debug)]
struct Served {
    /// The call, by the caller's number.
    call: Option<usize>,
    /// When it rang.
    rang_at: Instant,
    /// From being free to the ring.
    free_to_ring: Duration,
    /// From `accept` to its answer; `None` = not connected.
    connected: Option<Duration>,
    /// `accept` was refused.
    refused: bool,
}

/// Rings and what became of them, in the order of the rings.
#[derive(Default)]
struct Rings {
    served: Vec<Served>,
    last: std::collections::HashMap<usize, usize>,
    /// Rings that were answered or refused.
    settled: usize,
}

impl Rings {
    fn note(&mut self, news: agents::News) {
        match news {
            agents::News::Rang { agent, call, free, at, .. } => {
                self.last.insert(agent, self.served.len());
                let free_to_ring = at.saturating_duration_since(free);
                self.served.push(Served { call, rang_at: at, free_to_ring, connected: None, refused: false });
            }
            agents::News::Connected { agent, took, .. } => {
                self.settled += 1;
                if let Some(served) = self.of(agent) {
                    served.connected = Some(took);
                }
            }
            agents::News::Refused { agent, command, error, .. } => {
                report::note(&format!("agent {}: {command} refused: {error}", agent + 1));
                if command == "accept" {
                    self.settled += 1;
                    if let Some(served) = self.of(agent) {
                        served.refused = true;
                    }
                }
            }
            agents::News::Offline { agent, why } => report::note(&format!("agent {}: {why}", agent + 1)),
            agents::News::Online { .. } | agents::News::Finished { .. } | agents::News::PassedOn { .. } => {}
        }
    }

    fn of(&mut self, agent: usize) -> Option<&mut Served> {
        self.served.get_mut(*self.last.get(&agent)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callee::Callee;

    /// A generator that is held up for 400 ms calls late, and says so: the calls that were due meanwhile took up to 400 ms.
    #[tokio::test]
    async fn a_stall_of_the_generator_is_not_left_out() {
        let callee = Callee::start(std::net::Ipv4Addr::LOCALHOST.into()).unwrap();
        let target = Target::local(callee.at, "callee".into(), String::new(), 20);
        let (callers, mut news) = Callers::start(target).await.unwrap();
        let stall = tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            std::thread::sleep(Duration::from_millis(400));
        });
        place(&callers, 0..20, 20.0).await.unwrap();
        stall.await.unwrap();
        assert_eq!(answered(&mut news, 20).await.unwrap(), (20, 0));
        let results = callers.results().await.unwrap();
        // Seven or eight were due in those 400 ms, one every 50 ms.
        let late = results.iter().filter(|call| call.answered > Some(Duration::from_millis(100))).count();
        assert!((4..=12).contains(&late), "{late}");
        assert!(results.iter().any(|call| call.answered > Some(Duration::from_millis(300))));
    }
}
