//! One worker: its share of the callers and of the agents.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, watch};

use super::told::{Assignment, Audio, Beat, CALLS_EACH, CallRecord, Order, Told, micros, since};
use crate::{
    agents::{self, Habits, Shift, Voices},
    callers::{Call, Callers, Options, Outcome, Target},
    load::Schedule,
    rtp::Ears,
    scenario::{self, Media, Scenario},
    sip,
    system::usage,
};

/// What agents say, Hz.
pub const AGENTS_SAY: u32 = 1_000;
/// What callers say, in turns: whoever hears another one is connected to the wrong caller.
pub const CALLERS_SAY: [u32; 4] = [400, 600, 800, 1_300];
/// Calls that are placed before anything else is looked at.
const BATCH: usize = 64;
/// What was over when everybody had hung up is waited for.
const LAST: Duration = Duration::from_secs(10);

/// What a caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    GiveUp,
    HangUp,
    Press(usize),
}

/// A call under way.
struct Live {
    answered: bool,
    connected: bool,
    gave_up: bool,
}

pub(super) struct Worker {
    scenario: Scenario,
    told: mpsc::Sender<Told>,
    callers: Callers,
    ears: Option<Arc<Ears>>,
    /// Keeps the port of calls without media from answering with ICMP.
    _ear: std::net::UdpSocket,
    live: HashMap<usize, Live>,
    steps: BinaryHeap<Reverse<(Instant, usize, Step)>>,
    schedule: Schedule,
    next: Option<Duration>,
    placed: usize,
    base: usize,
    at_once: usize,
    start: Instant,
    rng: StdRng,
    beat: Beat,
    cpu: Duration,
    lost: u64,
}

/// Does an assignment: signs the agents in, waits for the start, offers the load, reports. Returns when all is over.
pub(super) async fn work(
    assignment: Assignment,
    mut orders: mpsc::Receiver<Order>,
    told: mpsc::Sender<Told>,
) -> Result<()> {
    let scenario = assignment.changes.apply("the scenario", &assignment.scenario)?;
    let (gate, open) = watch::channel(0);
    let mut news = agents::start(shift(&scenario, &assignment), open).await?;
    let (outcome, outcomes) = mpsc::channel(200_000);
    let mut worker = Worker::new(scenario, &assignment, told.clone(), outcome).await?;
    told.send(Told::Ready).await.ok().context("the coordinator is gone")?;
    let start = loop {
        match orders.recv().await.context("the coordinator is gone")? {
            Order::Start(start) => break start,
            Order::Stop => return Ok(()),
            Order::Connected(_) => {}
        }
    };
    gate.send_replace(usize::MAX);
    worker.start = start;
    worker.offer(orders, outcomes, &mut news).await?;
    for late in agents::leave(gate, news).await {
        worker.agent(late);
    }
    let _ = told.send(Told::Done).await;
    Ok(())
}

fn shift(scenario: &Scenario, assignment: &Assignment) -> Shift {
    let all = scenario.agents.count;
    let (worker, workers) = (assignment.worker, assignment.workers.max(1));
    let first = all * worker / workers;
    let callers = if scenario.callers.media == Media::Tone { CALLERS_SAY.to_vec() } else { Vec::new() };
    let webrtc = scenario.agents.audio == scenario::Audio::Webrtc;
    Shift {
        consoles: assignment.http.clone(),
        first,
        count: all * (worker + 1) / workers - first,
        prefix: scenario.agents.prefix.clone(),
        password: scenario.agents.password.clone(),
        bind: assignment.bind,
        voices: webrtc.then_some(Voices { agents: AGENTS_SAY, callers }),
        habits: Habits {
            answer: scenario.agents.answer.clone(),
            talk: scenario.agents.talk.clone(),
            wrap_up: scenario.agents.wrap_up.clone(),
            again: true,
            transfer: scenario.agents.transfer.clone(),
        },
        seed: scenario.seed,
    }
}

impl Worker {
    async fn new(
        scenario: Scenario,
        assignment: &Assignment,
        told: mpsc::Sender<Told>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Result<Self> {
        let says: &[u32] = if scenario.callers.media == Media::Tone { &CALLERS_SAY } else { &[] };
        let media = scenario.callers.media != Media::None;
        let ears = if media { Some(Ears::crowd(assignment.bind, says, AGENTS_SAY)?) } else { None };
        let ear = std::net::UdpSocket::bind(SocketAddr::new(assignment.bind, 0))?;
        let sdp = match &ears {
            Some(ears) => sip::offer(ears.local(), "sendrecv"),
            None => sip::offer(ear.local_addr()?, "inactive"),
        };
        let (edge, more) = assignment.sip.split_first().context("no SIP address")?;
        let workers = assignment.workers.max(1);
        let at_once = scenario.callers.at_once.div_ceil(workers);
        let to = scenario.callers.to.clone();
        let target = Target {
            sip: *edge,
            to,
            sdp,
            limit: at_once.min(50_000),
            bind: assignment.bind,
            ears: ears.clone(),
        };
        let options = Options { outcomes: Some(outcomes), more: more.to_vec(), cancel: true };
        let (callers, mut unread) = Callers::start_with(target, options).await?;
        // The outcomes tell more.
        tokio::spawn(async move { while unread.recv().await.is_some() {} });
        let (seed, arrivals, phases) = (scenario.seed, scenario.callers.arrivals, scenario.phases());
        let mut schedule = Schedule::new(&phases, arrivals, seed, assignment.worker, workers);
        Ok(Self {
            next: schedule.next(),
            schedule,
            scenario,
            told,
            callers,
            ears,
            _ear: ear,
            live: HashMap::new(),
            steps: BinaryHeap::new(),
            placed: 0,
            base: assignment.worker * CALLS_EACH,
            at_once,
            start: Instant::now(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(assignment.worker as u64)),
            beat: Beat::default(),
            cpu: own_cpu(),
            lost: 0,
        })
    }

    async fn offer(
        &mut self,
        mut orders: mpsc::Receiver<Order>,
        mut outcomes: mpsc::Receiver<Outcome>,
        news: &mut mpsc::Receiver<agents::News>,
    ) -> Result<()> {
        let mut beat =
            tokio::time::interval_at((self.start + Duration::from_secs(1)).into(), Duration::from_secs(1));
        let mut give_up: Option<Instant> = None;
        loop {
            self.place_due().await?;
            self.step_due().await?;
            if self.next.is_none() {
                let settled = self.start + self.scenario.length() + self.scenario.settle.0;
                let deadline = *give_up.get_or_insert_with(|| settled.max(Instant::now()));
                if self.live.is_empty() || Instant::now() > deadline + LAST {
                    break;
                }
                if Instant::now() > deadline {
                    self.hang_up_all().await?;
                }
            }
            let due = self.next.map(|next| self.start + next);
            let step = self.steps.peek().map(|Reverse((at, ..))| *at);
            let wake =
                due.into_iter().chain(step).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(wake.into()) => {}
                Some(order) = orders.recv() => match order {
                    Order::Connected(call) => self.connected(call),
                    Order::Stop => {
                        self.next = None;
                        give_up = Some(Instant::now() + self.scenario.settle.0);
                    }
                    Order::Start(_) => {}
                },
                Some(outcome) = outcomes.recv() => self.outcome(outcome),
                Some(news) = news.recv() => self.agent(news),
                _ = beat.tick() => self.beat(),
            }
        }
        self.beat();
        if self.lost > 0 {
            let _ = self
                .told
                .send(Told::Note(format!(
                    "{} records were lost: the coordinator does not keep up",
                    self.lost
                )))
                .await;
        }
        Ok(())
    }

    fn tell(&mut self, told: Told) {
        self.lost += u64::from(self.told.try_send(told).is_err());
    }

    /// Places every call that is due, whatever became of the ones before.
    async fn place_due(&mut self) -> Result<()> {
        for _ in 0..BATCH {
            let Some(intended) = self.next.map(|next| self.start + next).filter(|at| *at <= Instant::now())
            else {
                return Ok(());
            };
            self.next = self.schedule.next();
            self.beat.due += 1;
            if self.live.len() >= self.at_once || self.placed >= CALLS_EACH {
                self.beat.not_started += 1;
                continue;
            }
            let call = self.base + self.placed;
            self.placed += 1;
            self.live.insert(call, Live { answered: false, connected: false, gave_up: false });
            if let Some(patience) = &self.scenario.callers.patience {
                let until = intended + patience.draw(&mut self.rng);
                self.steps.push(Reverse((until, call, Step::GiveUp)));
            }
            self.callers.place_at(call, intended).await?;
        }
        Ok(())
    }

    async fn step_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(Reverse((_, call, step))) =
            self.steps.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            self.steps.pop();
            let Some(live) = self.live.get_mut(&call) else { continue };
            match step {
                Step::GiveUp if !live.connected => {
                    live.gave_up = true;
                    self.callers.hang_up(call).await?;
                }
                Step::HangUp => self.callers.hang_up(call).await?,
                Step::Press(n) => {
                    if let (Some(ears), Some(keys)) = (&self.ears, self.scenario.callers.keys.get(n)) {
                        ears.press(call, &keys.press);
                    }
                }
                Step::GiveUp => {}
            }
        }
        Ok(())
    }

    async fn hang_up_all(&mut self) -> Result<()> {
        for call in self.live.keys() {
            self.callers.hang_up(*call).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }

    fn connected(&mut self, call: usize) {
        let Some(live) = self.live.get_mut(&call).filter(|live| !live.connected) else { return };
        live.connected = true;
        if let Some(talk) = &self.scenario.callers.talk {
            let until = Instant::now() + talk.draw(&mut self.rng);
            self.steps.push(Reverse((until, call, Step::HangUp)));
        }
    }

    fn outcome(&mut self, Outcome { index, call }: Outcome) {
        if !call.ended {
            return self.answered(index, &call);
        }
        let Some(live) = self.live.remove(&index) else { return };
        if !live.answered {
            self.begun(&call);
        }
        let now = Instant::now();
        let audio = self
            .ears
            .as_ref()
            .zip(call.answered_at)
            .map(|(ears, answered)| Audio::of(&ears.take(index), answered, now));
        let record = CallRecord {
            call: index,
            intended_us: call.intended.map_or(0, |at| since(self.start, at)),
            sent_us: call.intended.map_or(0, |at| since(self.start, at + call.late)),
            over_us: since(self.start, now),
            answered: call.answered.is_some(),
            failed: call.failed.filter(|status| !(live.gave_up && *status == 487)),
            gave_up: live.gave_up,
            repeats: call.repeats,
            audio,
        };
        self.tell(Told::Over(record));
    }

    /// What is known of a call when it is answered or refused.
    fn begun(&mut self, call: &Call) {
        self.beat.late.record(call.late);
        if let Some(ringing) = call.ringing {
            self.beat.ringing.record(ringing);
        }
    }

    fn answered(&mut self, index: usize, call: &Call) {
        let Some(live) = self.live.get_mut(&index).filter(|live| !live.answered) else { return };
        live.answered = true;
        self.begun(call);
        if let Some(setup) = call.answered {
            self.beat.setup.record(setup);
        }
        let at = call.answered_at.unwrap_or_else(Instant::now);
        for (n, keys) in self.scenario.callers.keys.iter().enumerate() {
            self.steps.push(Reverse((at + keys.after.0, index, Step::Press(n))));
        }
        let at_us = since(self.start, at);
        self.tell(Told::Answered { call: index, at_us });
    }

    fn agent(&mut self, news: agents::News) {
        let told = match news {
            agents::News::Online { resumed, .. } => Told::Agent { online: true, resumed, why: String::new() },
            agents::News::Offline { why, .. } => Told::Agent { online: false, resumed: false, why },
            agents::News::Rang { agent, call, free, at, entered } => Told::Rang {
                call,
                agent,
                free_us: since(self.start, free),
                at_us: since(self.start, at),
                entered_us: entered.map(|entered| since(self.start, entered)),
            },
            agents::News::Connected { agent, call, took } => {
                self.beat.accept.record(took);
                Told::Connected { call, agent }
            }
            agents::News::Refused { command, error, .. } => {
                Told::Refused { what: format!("{command}: {error}") }
            }
            agents::News::Finished { agent, call, talked, heard } => {
                let now = Instant::now();
                let audio = heard.map(|heard| Audio::of(&heard, now.checked_sub(talked).unwrap_or(now), now));
                Told::Finished { call, agent, talked_us: micros(talked), audio }
            }
            agents::News::PassedOn { call } => Told::PassedOn { call },
        };
        self.tell(told);
    }

    fn beat(&mut self) {
        let cpu = own_cpu();
        self.beat.cpu_s = cpu.saturating_sub(self.cpu).as_secs_f64();
        self.cpu = cpu;
        self.beat.live = self.live.len() as u64;
        let second = self.beat.second;
        let beat = std::mem::replace(&mut self.beat, Beat { second: second + 1, ..Beat::default() });
        self.tell(Told::Beat(Box::new(beat)));
    }
}

/// Processor time of this process.
fn own_cpu() -> Duration {
    usage(std::process::id()).map_or(Duration::ZERO, |usage| usage.cpu)
}
