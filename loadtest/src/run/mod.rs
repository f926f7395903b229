//! Plays a scenario: starts the system, lets workers offer the load, performs events, watches, reports.

mod clock;
mod counts;
mod hist;
mod order;
mod progress;
mod remote;
mod sample;
mod tally;
mod told;
mod trend;
mod worker;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::sync::{Mutex, mpsc};

pub use clock::{Exchange, Offset, agree};
pub use counts::Counts;
pub use hist::{Hist, SHARES};
pub use order::{Place, overtaken};
pub use remote::{Remote, serve, serve_at};
pub use sample::{Followed, JOURNAL_LAG, Sample, Sampler, meaning};
pub use tally::{Second, Tally, Times};
pub use told::{Assignment, CALLS_EACH, Changes, Order, Told};
pub use trend::{Line, Trend, exponent, line, rate, trend};

use crate::{
    args::{PlayArgs, ServerArgs},
    load::Schedule,
    report::note,
    scenario::{Audio, Media, Scenario, builtin},
    system::Fleet,
};

/// From everybody being ready to the first call, so that workers hear of it in time.
const HEAD_START: Duration = Duration::from_secs(2);
/// Signing in takes a second for each agent at worst, and somewhat more.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// After the last call was due and the time to settle, workers are through by then.
const THROUGH_WITHIN: Duration = Duration::from_secs(90);

/// An event as it went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Happened {
    /// What.
    pub title: String,
    /// When it began, seconds since the beginning of the load.
    pub from_s: f64,
    /// When it was through.
    pub to_s: f64,
    /// What went wrong.
    pub error: Option<String>,
}

/// A run that is over.
pub struct Played {
    /// What was played.
    pub scenario: Scenario,
    /// What came of it.
    pub tally: Tally,
    /// What the system used.
    pub sampler: Sampler,
    /// What happened meanwhile.
    pub events: Vec<Happened>,
    /// Workers on other machines.
    pub workers: Vec<Remote>,
    /// Why it ended before its time, with the rate at that moment.
    pub stopped: Option<(String, f64)>,
    /// How long load was offered.
    pub offered: Duration,
}

/// Text of a scenario, its name, and the folder of paths in it.
pub fn find(scenario: &str) -> Result<(String, String, PathBuf)> {
    let path = Path::new(scenario);
    if path.is_file() {
        let text = std::fs::read_to_string(path).with_context(|| scenario.to_owned())?;
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        return Ok((text, scenario.to_owned(), folder));
    }
    match builtin(scenario) {
        Some(text) => Ok((text.to_owned(), format!("{scenario}.yaml"), PathBuf::from("."))),
        None => bail!(
            "{scenario}: neither a file nor a scenario of this program (`trunkline-load scenarios` lists them)"
        ),
    }
}

/// Plays a scenario to its end.
pub async fn play(
    text: &str,
    file: &str,
    folder: &Path,
    args: &PlayArgs,
    server: &ServerArgs,
) -> Result<Played> {
    let changes = Changes {
        seed: args.seed,
        rate: args.rate_factor,
        time: args.time_factor,
        agents: args.agents,
        to: server.to.clone(),
    };
    let scenario = changes.apply(file, text)?;
    note(&format!(
        "{}: {:.0} calls expected, {} agents for {:.0} Erlang",
        scenario.name,
        Schedule::expected(&scenario.phases()),
        scenario.agents.count,
        scenario.erlangs()
    ));
    let fleet =
        Fleet::start(&scenario, folder, server.spawn.as_deref(), server.pid.clone(), server.target()).await?;
    let bind: IpAddr = args.bind.parse().with_context(|| format!("--bind {}: no IP address", args.bind))?;
    let assignment = |worker: usize, workers: usize| Assignment {
        worker,
        workers,
        scenario: text.to_owned(),
        changes: changes.clone(),
        sip: fleet.target.sip.clone(),
        http: fleet.target.http.clone(),
        bind,
    };
    let (told, tells) = mpsc::channel(200_000);
    let (mut workers, mut orders) = (Vec::new(), Vec::new());
    let mut open: BTreeMap<usize, String> =
        args.worker.iter().map(|at| format!("worker {at}")).enumerate().collect();
    if args.worker.is_empty() {
        orders.push(here(assignment(0, 1), told.clone()));
        open.insert(0, "the generator".into());
    }
    for (n, at) in args.worker.iter().enumerate() {
        let assignment = assignment(n, args.worker.len());
        let connected = remote::connect(*at, &args.secret, assignment, told.clone()).await;
        let (worker, order) = connected.with_context(|| format!("worker {at}"))?;
        note(&format!("worker {at}: {} cores, clock within {} µs", worker.cores, worker.clock.within_us));
        workers.push(worker);
        orders.push(order);
    }
    drop(told);
    let audio = scenario.callers.media == Media::Tone && scenario.agents.audio == Audio::Webrtc;
    let flow = !scenario.callers.keys.is_empty();
    let tally = Tally::new(scenario.warm_up.0, audio, flow);
    let sampler = Sampler::default();
    let mut run = Run { scenario, tally, sampler, tells, orders, open, lost: Vec::new(), stopped: None };
    run.ready().await?;
    run.load(fleet, workers).await
}

/// A worker in this process.
fn here(assignment: Assignment, told: mpsc::Sender<(usize, Told)>) -> mpsc::Sender<Order> {
    let (orders, queue) = mpsc::channel(10_000);
    let (tell, mut tells) = mpsc::channel(200_000);
    tokio::spawn(async move {
        let work = tokio::spawn(worker::work(assignment, queue, tell));
        while let Some(one) = tells.recv().await {
            if told.send((0, one)).await.is_err() {
                work.abort();
                return;
            }
        }
        let failed = match work.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        let _ = told.send((0, Told::Lost { why: failed })).await;
    });
    orders
}

struct Run {
    scenario: Scenario,
    tally: Tally,
    sampler: Sampler,
    tells: mpsc::Receiver<(usize, Told)>,
    orders: Vec<mpsc::Sender<Order>>,
    /// Workers that are not through, by their numbers, as they are called.
    open: BTreeMap<usize, String>,
    /// Workers that ended before their time: what they were to do was not done, so that the run does not hold.
    lost: Vec<Happened>,
    stopped: Option<(String, f64)>,
}

impl Run {
    /// Waits until every worker's agents are signed in.
    async fn ready(&mut self) -> Result<()> {
        let limit = READY_WITHIN + Duration::from_secs(self.scenario.agents.count as u64);
        let deadline = tokio::time::Instant::now() + limit;
        let mut waited_for = self.open.clone();
        while !waited_for.is_empty() {
            let names = || waited_for.values().cloned().collect::<Vec<_>>().join(", ");
            let told = tokio::time::timeout_at(deadline, self.tells.recv()).await;
            let told = told.with_context(|| format!("not ready in time: {}", names()))?;
            match told.with_context(|| format!("ended before the load: {}", names()))? {
                (worker, Told::Ready) => drop(waited_for.remove(&worker)),
                (worker, Told::Lost { why }) => {
                    bail!("{} cannot begin: {why}", self.open[&worker])
                }
                (worker, told) => {
                    self.tally.take(worker, told);
                }
            }
        }
        Ok(())
    }

    async fn tell_all(&self, order: Order) {
        for orders in &self.orders {
            let _ = orders.send(order).await;
        }
    }

    async fn load(mut self, fleet: Fleet, workers: Vec<Remote>) -> Result<Played> {
        let start = Instant::now() + HEAD_START;
        self.tell_all(Order::Start(start)).await;
        let target = fleet.target.clone();
        let fleet = Arc::new(Mutex::new(fleet));
        let events = Events::start(&self.scenario, start, Arc::clone(&fleet));
        let (length, settle) = (self.scenario.length(), self.scenario.settle.0);
        let deadline = start + length + settle + THROUGH_WITHIN;
        let mut ticks = tokio::time::interval_at(start.into(), Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut screen = progress::Screen::new(length);
        let mut pids = Vec::new();
        let mut ended = None;
        while !self.open.is_empty() {
            tokio::select! {
                told = self.tells.recv() => match told {
                    Some((worker, told)) => self.take(worker, told, start.elapsed()),
                    None => break,
                },
                _ = ticks.tick() => {
                    // An event may have the processes in its hands; then they are the same as a second ago.
                    if let Ok(mut fleet) = fleet.try_lock() {
                        pids = fleet.pids();
                    }
                    let counted = start.elapsed() >= self.scenario.warm_up.0;
                    self.sampler.sample(start, &pids, &target.metrics, counted).await;
                    screen.show(start.elapsed(), &self.tally, self.sampler.now());
                    self.judge(start.elapsed()).await;
                    if self.stopped.is_some() {
                        ended.get_or_insert_with(|| start.elapsed());
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => break,
            }
        }
        screen.end();
        for worker in std::mem::take(&mut self.open).into_values() {
            self.lost(worker, "it did not come to an end in time", start.elapsed());
        }
        let mut events = events.end(self.stopped.is_some()).await;
        events.append(&mut self.lost);
        self.tally.close();
        let offered = ended.unwrap_or(length).min(length);
        let Self { scenario, tally, sampler, stopped, .. } = self;
        Ok(Played { scenario, tally, sampler, events, workers, stopped, offered })
    }

    fn take(&mut self, worker: usize, told: Told, at: Duration) {
        if let Told::Done | Told::Lost { .. } = &told
            && let Some(name) = self.open.remove(&worker)
            && let Told::Lost { why } = &told
        {
            self.lost(name, why, at);
        }
        let Some(call) = self.tally.take(worker, told) else { return };
        // The agent may be another worker's.
        if let Some(orders) = self.orders.get(call / CALLS_EACH) {
            let _ = orders.try_send(Order::Connected(call));
        }
    }

    /// A worker has ended before its time.
    fn lost(&mut self, worker: String, why: &str, at: Duration) {
        let at_s = at.as_secs_f64();
        let error = Some(format!("{why}; its share of the load is missing"));
        self.lost.push(Happened { title: worker, from_s: at_s, to_s: at_s, error });
    }

    /// Whether the limit has been found.
    async fn judge(&mut self, at: Duration) {
        let Some(stop) = self.scenario.stop_when.filter(|_| self.stopped.is_none()) else { return };
        let over = stop.over.0.as_secs().max(1);
        if at < self.scenario.warm_up.0 + stop.over.0 || at > self.scenario.length() {
            return;
        }
        // The latest second is not complete yet.
        let seen = self.tally.window(at.as_secs().saturating_sub(1), over);
        let exceeded = stop.limits().exceeded(&seen);
        if !exceeded.is_empty() {
            let before = at.saturating_sub(stop.over.0);
            let rate = Schedule::rate(&self.scenario.phases(), before);
            self.stopped = Some((exceeded.join("; "), rate));
            self.tell_all(Order::Stop).await;
        }
    }
}

/// Events that are performed one after the other.
struct Events {
    task: tokio::task::JoinHandle<()>,
    titles: Vec<(String, f64)>,
    happened: Arc<Mutex<BTreeMap<usize, Happened>>>,
}

impl Events {
    fn start(scenario: &Scenario, start: Instant, fleet: Arc<Mutex<Fleet>>) -> Self {
        let happened: Arc<Mutex<BTreeMap<usize, Happened>>> = Arc::default();
        let mut events = scenario.events.clone();
        events.sort_by_key(|event| event.at);
        let list = Arc::clone(&happened);
        let titles = events.iter().map(|event| (event.title(), event.at.0.as_secs_f64())).collect();
        let task = tokio::spawn(async move {
            for (n, event) in events.into_iter().enumerate() {
                tokio::time::sleep_until((start + event.at.0).into()).await;
                let (title, from_s) = (event.title(), start.elapsed().as_secs_f64());
                note(&format!("{title} at {from_s:.1} s"));
                let error = fleet.lock().await.perform(&event).await.err().map(|error| format!("{error:#}"));
                let to_s = start.elapsed().as_secs_f64();
                list.lock().await.insert(n, Happened { title, from_s, to_s, error });
            }
        });
        Self { task, titles, happened }
    }

    /// What came of them. An event that the run was too short for has failed, unless the run was stopped on purpose.
    async fn end(self, stopped: bool) -> Vec<Happened> {
        self.task.abort();
        // Waits until the task has let go of what it holds.
        let _ = self.task.await;
        let mut happened = self.happened.lock().await;
        for (n, (title, at_s)) in self.titles.into_iter().enumerate().filter(|_| !stopped) {
            happened.entry(n).or_insert_with(|| Happened {
                title,
                from_s: at_s,
                to_s: at_s,
                error: Some("the run was over before it was through".into()),
            });
        }
        happened.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
