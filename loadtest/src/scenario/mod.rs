//! Scenarios: files that say what is offered to a system, what happens to it meanwhile, and what must hold.
//!
//! The schema is closed. What is wrong in a file is told with its line, its key and, for an unknown key, the nearest
//! known one.

mod builtin;
mod read;
mod verdict;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use builtin::{BUILTIN, builtin};
pub use read::ReadError;
pub use verdict::{Expect, Limits, Seen, StopWhen};

use crate::load::{Arrivals, Dist, Phase, Span};

/// Calls under way at once, of one worker.
const MOST_AT_ONCE: usize = 50_000;
/// Agents.
const MOST_AGENTS: usize = 50_000;
/// In place of a process: all nodes.
const ALL: &str = "all";
/// Calls per second.
const MOST_RATE: f64 = 100_000.0;

/// A whole scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// What it is for, in a sentence or two.
    #[serde(default)]
    pub about: String,
    /// Seed of arrivals and draws; the same seed offers the same load.
    #[serde(default = "one")]
    pub seed: u64,
    /// What is called; the command line wins over it.
    #[serde(default)]
    pub target: Target,
    /// What is started for the run and ended after it; nothing: a running system is used.
    pub system: Option<System>,
    /// Who calls.
    pub callers: Callers,
    /// Who answers.
    #[serde(default)]
    pub agents: Agents,
    /// What happens meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
    /// When the run ends before its time: how a ramp finds the limit.
    pub stop_when: Option<StopWhen>,
    /// What must hold; otherwise the run fails.
    #[serde(default)]
    pub expect: Expect,
    /// Calls of this first time are made but not counted.
    #[serde(default)]
    pub warm_up: Span,
    /// After the last arrival, calls may go on for this long before they are hung up.
    #[serde(default = "settle")]
    pub settle: Span,
}

/// Where the system is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Edges, taken in turns.
    #[serde(default)]
    pub sip: Vec<SocketAddr>,
    /// Consoles; an agent whose console is gone tries the next.
    #[serde(default)]
    pub http: Vec<SocketAddr>,
    /// Prometheus pages that are read each second.
    #[serde(default)]
    pub metrics: Vec<SocketAddr>,
}

/// What is started for the run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// The binary; the command line wins over it. Without either it is `trunkline` beside this program.
    pub program: Option<PathBuf>,
    /// One process with every role (`trunkline dev`), called `dev`.
    pub dev: Option<Dev>,
    /// Nodes of a cluster (`trunkline run`), started together.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// What `target.metrics` must show together before the load begins, and again after a process was started in an event.
    #[serde(default)]
    pub ready_when: Vec<ReadyWhen>,
    /// Processes that run already and are measured.
    #[serde(default)]
    pub watch: Vec<Watch>,
}

/// One process with every role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dev {
    /// Further options of `trunkline dev`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Its data outlive the process, so that it can be killed and started again; they go at the end of the run.
    #[serde(default)]
    pub keep_data: bool,
}

/// A node of a cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What events and reports call it.
    pub name: String,
    /// Its configuration file, from the folder of the scenario.
    pub config: PathBuf,
    /// Roles, when they are others than those of the file.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Another binary than the system's.
    pub program: Option<PathBuf>,
    /// What stands before its command line and becomes the node by `exec`: `[ip, netns, exec, NAME]`.
    #[serde(default)]
    pub under: Vec<String>,
    /// File that its messages are added to; nothing: they are among those of this program.
    pub log: Option<PathBuf>,
    /// A command that is run before it is stopped by a `restart`: that takes it out of a load balancer, say.
    #[serde(default)]
    pub before_stop: Vec<String>,
}

/// What metrics pages must show; exactly one of `is` and `least`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyWhen {
    /// Its name; all its lines on a page are added.
    pub metric: String,
    /// What all pages come to together.
    pub is: Option<f64>,
    /// What some pages show at least, each of them: that every node has its share again.
    pub least: Option<f64>,
    /// How many pages show `least`.
    #[serde(default = "one_page")]
    pub pages: usize,
}

impl ReadyWhen {
    /// Whether these are what it asks for, a page each.
    pub fn holds(&self, shown: &[f64]) -> bool {
        let least = |least: f64| shown.iter().filter(|value| **value >= least).count() >= self.pages;
        self.is.is_none_or(|is| shown.iter().sum::<f64>() == is) && self.least.is_none_or(least)
    }
}

/// A process that runs already.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// What reports call it.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// Who calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// Queue, flow or number that is dialled.
    #[serde(default = "support")]
    pub to: String,
    /// How calls follow each other.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// The rate over time.
    pub phases: Vec<Stretch>,
    /// How long a caller waits for an agent before hanging up; nothing: for ever.
    pub patience: Option<Dist>,
    /// How long a caller talks before hanging up; nothing: until the agent hangs up.
    pub talk: Option<Dist>,
    /// What callers hear and say.
    #[serde(default)]
    pub media: Media,
    /// Keys that every caller presses. With keys a flow is dialled: when its callers enter the queue is what the system
    /// says, whose clock has to be the generator's.
    #[serde(default)]
    pub keys: Vec<Keys>,
    /// Calls under way at once, of all workers together. Calls that are due above this are not started, and counted.
    #[serde(default = "at_once")]
    pub at_once: usize,
}

/// What callers hear and say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// They say a tone and listen for the agent's.
    Tone,
    /// They only listen.
    Listen,
    /// Inactive media: nothing is sent.
    #[default]
    None,
}

/// A part of the rate over time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// How long.
    #[serde(rename = "for")]
    pub length: Span,
    /// Calls per second, at its beginning.
    pub rate: f64,
    /// Calls per second at its end; nothing: the same.
    pub to_rate: Option<f64>,
}

/// Keys that are pressed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// After the answer.
    pub after: Span,
    /// 0–9, *, # and A–D.
    pub press: String,
}

/// Who answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// How many.
    #[serde(default)]
    pub count: usize,
    /// Their accounts are this and a number from 001 on.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// Their password; `{name}` is the account.
    #[serde(default = "password")]
    pub password: String,
    /// WebRTC with tones both ways, or an offer that nobody stands behind.
    #[serde(default)]
    pub audio: Audio,
    /// From ringing to picking up.
    #[serde(default = "at_once_dist")]
    pub answer: Dist,
    /// From picking up to hanging up, or to passing the caller on.
    #[serde(default = "talk")]
    pub talk: Dist,
    /// Callers of another queue are passed on to this one, blind; nothing: agents hang up. They have to serve both.
    pub transfer: Option<String>,
    /// From hanging up to being ready again.
    #[serde(default = "at_once_dist")]
    pub wrap_up: Dist,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            count: 0,
            prefix: prefix(),
            password: password(),
            audio: Audio::None,
            answer: at_once_dist(),
            talk: talk(),
            transfer: None,
            wrap_up: at_once_dist(),
        }
    }
}

/// What agents hear and say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audio {
    /// A real peer connection: ICE, DTLS, SRTP, a tone each way.
    Webrtc,
    /// Signalling only.
    #[default]
    None,
}

/// Something that happens during the run; it does exactly one thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, from the beginning of the load.
    pub at: Span,
    /// What reports call it.
    pub name: Option<String>,
    /// A command, with its arguments; it may take a minute.
    pub run: Option<Vec<String>>,
    /// A signal to a started process.
    pub signal: Option<Signal>,
    /// SIGKILL to a started process; the event lasts until it is gone.
    pub kill: Option<String>,
    /// SIGTERM, wait for the end, start again, wait until it is ready: an upgrade when it names another binary.
    pub restart: Option<Restart>,
    /// Starts a process that was killed.
    pub start: Option<String>,
}

/// A signal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Which process: `dev` or the name of a node.
    pub process: String,
    /// KILL, TERM, STOP, CONT, INT, HUP, USR1 or USR2.
    pub signal: SignalName,
}

/// Signals that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "as in signal(7)")]
pub enum SignalName {
    Kill,
    Term,
    Stop,
    Cont,
    Int,
    Hup,
    Usr1,
    Usr2,
}

/// An end and a new beginning.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Which process; `all`: every node, one after the other.
    pub process: String,
    /// The binary to go on with; nothing: the same.
    pub program: Option<PathBuf>,
    /// How long it may drain; then it is killed and the event has failed.
    #[serde(default = "drain")]
    pub within: Span,
}

fn one() -> u64 {
    1
}

fn one_page() -> usize {
    1
}

fn settle() -> Span {
    Span::seconds(30)
}

fn drain() -> Span {
    Span::seconds(120)
}

fn support() -> String {
    "support".into()
}

fn at_once() -> usize {
    20_000
}

fn prefix() -> String {
    "agent-".into()
}

fn password() -> String {
    "{name}-dev".into()
}

fn at_once_dist() -> Dist {
    Dist::constant(Duration::ZERO)
}

fn talk() -> Dist {
    Dist::constant(Duration::from_secs(2))
}

impl Scenario {
    /// The rate over time.
    pub fn phases(&self) -> Vec<Phase> {
        self.callers
            .phases
            .iter()
            .map(|s| Phase { length: s.length.0, from: s.rate, to: s.to_rate.unwrap_or(s.rate) })
            .collect()
    }

    /// How long calls come.
    pub fn length(&self) -> Duration {
        self.callers.phases.iter().map(|s| s.length.0).sum()
    }

    /// Conversations that the offered load needs on average (Erlang), at the highest rate.
    pub fn erlangs(&self) -> f64 {
        let most = self.phases().iter().map(|p| p.from.max(p.to)).fold(0.0, f64::max);
        let talk = self
            .callers
            .talk
            .as_ref()
            .map_or(self.agents.talk.mean(), |caller| caller.mean().min(self.agents.talk.mean()));
        most * (talk + self.agents.answer.mean() + self.agents.wrap_up.mean()).as_secs_f64()
    }

    /// The same scenario in less or more time: lengths and moments of events are multiplied, rates stay.
    pub fn stretch(&mut self, factor: f64) {
        let scale = |span: &mut Span| span.0 = span.0.mul_f64(factor);
        self.callers.phases.iter_mut().for_each(|phase| scale(&mut phase.length));
        self.events.iter_mut().for_each(|event| scale(&mut event.at));
    }

    /// A restart of all nodes is one event a node; events are performed one after the other.
    fn expand(&mut self) {
        let nodes: Vec<String> = self.system.iter().flat_map(|s| &s.nodes).map(|n| n.name.clone()).collect();
        let each = |event: Event| {
            let all = event.restart.clone().filter(|restart| restart.process == ALL);
            let Some(restart) = all else { return vec![event] };
            let one = |name: &String| Event {
                name: event.name.as_ref().map(|title| format!("{title}: {name}")),
                restart: Some(Restart { process: name.clone(), ..restart.clone() }),
                ..event.clone()
            };
            nodes.iter().map(one).collect()
        };
        self.events = std::mem::take(&mut self.events).into_iter().flat_map(each).collect();
    }
}

impl Event {
    /// What reports call it.
    pub fn title(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        if let Some(command) = &self.run {
            return command.join(" ");
        }
        if let Some(name) = &self.kill {
            return format!("kill -9 of {name}");
        }
        match (&self.signal, &self.restart, &self.start) {
            (Some(signal), ..) => format!("{:?} to {}", signal.signal, signal.process).to_uppercase(),
            (_, Some(restart), _) => format!("restart of {}", restart.process),
            (_, _, Some(start)) => format!("start of {start}"),
            _ => String::new(),
        }
    }
}
