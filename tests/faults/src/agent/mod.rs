//! Agents over the real protocol: they reconnect to whichever console answers, resume, and work as they are told.

mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{sync::watch, task::JoinHandle};
use trunkline_loadtest::rtp::Heard;

pub use trunkline_loadtest::phone::{Ear, Tones};

use crate::history::History;

/// What all agents do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Agents with a lower number take calls, the others do not.
    pub open: usize,
    /// From the ring to picking up; None: nobody picks up.
    pub answer_after: Option<Duration>,
    /// How long they talk; None: until they are told to hang up.
    pub talk: Option<Duration>,
    /// Whoever talks hangs up when this rises.
    pub hang_up: u64,
    /// Whoever talks passes the caller on when this rises, each in the way of their number ([`Passing`]).
    pub pass_on: u64,
    /// When it rose: they begin one after the other.
    pub pass_on_at: Option<std::time::Instant>,
    /// Agents with a lower number pass on.
    pub passing: usize,
    /// Go home.
    pub leave: bool,
}

impl Orders {
    /// Signed in, not ready.
    pub fn idle() -> Self {
        Self {
            open: 0,
            answer_after: Some(Duration::from_millis(200)),
            talk: None,
            hang_up: 0,
            pass_on: 0,
            pass_on_at: None,
            passing: 0,
            leave: false,
        }
    }
}

/// How an agent passes a caller on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Without asking.
    Blind,
    /// After talking to another agent.
    Attended,
    /// Not at all: talks to another agent and goes back to the caller.
    TakenBack,
}

impl Passing {
    /// The way of an agent, by number from 0.
    pub fn of(number: usize) -> Self {
        [Self::Blind, Self::Attended, Self::TakenBack][number % 3]
    }
}

/// All agents of a run.
#[derive(Debug)]
pub struct Desk {
    orders: watch::Sender<Orders>,
    states: States,
    consulting: Consulting,
    ears: Vec<Ear>,
    tasks: Vec<JoinHandle<()>>,
}

/// What each agent's page shows; None = not connected.
type States = Arc<Mutex<BTreeMap<String, Option<String>>>>;

/// Agents whose pages show a consultation.
type Consulting = Arc<Mutex<BTreeSet<String>>>;

/// How agents come to work.
#[derive(Debug, Clone)]
pub struct Shift {
    /// Consoles.
    pub consoles: Vec<SocketAddr>,
    /// How many agents, from `agent-001` on.
    pub agents: usize,
    /// Their own address.
    pub bind: IpAddr,
    /// Their tones; None: nobody has a microphone, the offers lead nowhere.
    pub tones: Option<Tones>,
}

impl Desk {
    /// Starts the agents; they sign in by themselves.
    pub fn start(shift: &Shift, history: &Arc<History>) -> Self {
        let (orders, _) = watch::channel(Orders::idle());
        let (states, consulting) = (States::default(), Consulting::default());
        let ears: Vec<Ear> = (0..shift.agents).map(|_| Ear::default()).collect();
        let tasks = ears.iter().enumerate().map(|(number, ear)| {
            let page = page::Page::new(number, shift, ear, history, (&states, &consulting));
            tokio::spawn(page.run(orders.subscribe()))
        });
        let tasks = tasks.collect();
        Self { orders, states, consulting, ears, tasks }
    }

    /// Changes what they do.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// What each agent's page shows.
    pub fn states(&self) -> BTreeMap<String, Option<String>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many pages show a call with a consultation under way.
    pub fn consulting(&self) -> usize {
        self.consulting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many pages show one of these states.
    pub fn in_state(&self, states: &[&str]) -> usize {
        self.states().values().flatten().filter(|state| states.contains(&state.as_str())).count()
    }

    /// What an agent has heard.
    pub fn heard(&self, agent: &str) -> Option<Heard> {
        let number = agent.strip_prefix("agent-")?.parse::<usize>().ok()?;
        let ear = self.ears.get(number.checked_sub(1)?)?;
        Some(ear.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits until so many pages show one of these states.
    pub async fn until(&self, what: &str, limit: Duration, states: &[&str], count: usize) -> Result<()> {
        trunkline_system_tests::until(what, limit, || {
            std::future::ready(Ok((self.in_state(states) >= count).then_some(())))
        })
        .await
        .with_context(|| format!("{:?}", self.summary()))
    }

    fn summary(&self) -> BTreeMap<String, usize> {
        let mut summary = BTreeMap::new();
        for state in self.states().into_values() {
            *summary.entry(state.unwrap_or_else(|| "offline".into())).or_default() += 1;
        }
        summary
    }

    /// Sends everybody home.
    pub async fn leave(mut self) {
        self.order(|orders| orders.leave = true);
        let all = futures::future::join_all(self.tasks.drain(..));
        // Whoever cannot say goodbye goes all the same.
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The name of an agent by number, from 0.
pub fn name_of(number: usize) -> String {
    format!("agent-{:03}", number + 1)
}
