//! One agent's page.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::watch;
use trunkline_loadtest::{
    agents::{
        audio::{Audio, resume},
        client::{Client, Patience, Socket, Told},
    },
    callers::index_of,
    phone::Ear,
};

use super::{Consulting, Orders, Passing, Shift, States, name_of};
use crate::history::{Call, History, What};

/// A queue of the sample data to which callers are passed on.
const TRANSFER_TO: &str = "sales";
/// Pause between the agents who pass on, and how long they talk to each other before.
const PASS_EACH: Duration = Duration::from_millis(120);
const CONSULTS_FOR: Duration = Duration::from_millis(400);
const BEAT: Duration = Duration::from_millis(200);
/// A console that is there answers soon; one that hangs is given up, long before a browser would.
const PATIENCE: Patience = Patience {
    open: Duration::from_secs(5),
    welcome: Duration::from_secs(6),
    ping: Duration::from_secs(2),
    silence: Duration::from_secs(6),
};
/// After a resumed session, missed frames come within this; only then is what the page shows what the system says.
const MISSED_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Page {
    number: usize,
    client: Client,
    shift: Shift,
    ear: Ear,
    history: Arc<History>,
    states: States,
    consulting: Consulting,
    told: Option<(String, Option<Call>)>,
    confirm_at: Option<Instant>,
    rang: String,
    answered: String,
    audio: Audio,
    state_since: Instant,
    hung_up: u64,
    passed_on: u64,
    /// Has to end the consultation in the way of the agent's number.
    asks: bool,
    /// Talks to the other agent since.
    with_since: Option<Instant>,
}

impl Page {
    pub fn new(
        number: usize,
        shift: &Shift,
        ear: &Ear,
        history: &Arc<History>,
        (states, consulting): (&States, &Consulting),
    ) -> Self {
        Self {
            number,
            client: Client::new(name_of(number), "trunkline-faults", PATIENCE),
            shift: shift.clone(),
            ear: Arc::clone(ear),
            history: Arc::clone(history),
            states: Arc::clone(states),
            consulting: Arc::clone(consulting),
            told: None,
            confirm_at: None,
            rang: String::new(),
            answered: String::new(),
            audio: Audio::default(),
            state_since: Instant::now(),
            hung_up: 0,
            passed_on: 0,
            asks: false,
            with_since: None,
        }
    }

    fn name(&self) -> String {
        self.client.name().to_owned()
    }

    /// Works until told to leave. A lost connection is made again, spread in time, at the next console.
    pub async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut turn = self.number;
        loop {
            let console = self.shift.consoles.get(turn % self.shift.consoles.len().max(1)).copied();
            let Some(console) = console else { return };
            let outcome = self.work(console, &mut orders).await;
            self.show(None);
            match outcome {
                Ok(()) => return,
                Err(error) => {
                    let why = format!("{error:#}");
                    self.client.lost(&why);
                    self.history.add(What::Offline { agent: self.name(), why });
                }
            }
            turn += 1;
            let pause = Duration::from_millis(rand::random_range(100..1_000));
            tokio::time::sleep(pause).await;
            if orders.borrow().leave {
                return;
            }
        }
    }

    async fn work(&mut self, console: SocketAddr, orders: &mut watch::Receiver<Orders>) -> Result<()> {
        if !self.client.is_signed_in() {
            let password = format!("{}-dev", self.client.name());
            self.client.sign_in(console, &password).await?;
        }
        let (mut socket, resumed) = self.client.connect(console).await?;
        self.confirm_at = resumed.then(|| Instant::now() + MISSED_WITHIN);
        self.told = None;
        let console = console.to_string();
        self.history.add(What::Online { agent: self.name(), console, resumed });
        let mut beat = tokio::time::interval(BEAT);
        loop {
            let now = orders.borrow_and_update().clone();
            if now.leave {
                let _ = self.client.command(&mut socket, "sign_out", json!({})).await;
                let _ = socket.close(None).await;
                return Ok(());
            }
            self.act(&mut socket, &now).await?;
            tokio::select! {
                frame = socket.next() => {
                    let told = self.client.take(frame.context("closed")??)?;
                    self.hear(told);
                }
                _ = beat.tick() => self.client.beat(&mut socket).await?,
                _ = orders.changed() => {}
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::State | Told::Nothing => {}
            Told::MediaMoved { offer, generation } => {
                if self.audio.follow(offer.as_deref().unwrap_or(&self.answered), generation) {
                    self.client.anew();
                }
            }
            Told::Done { result: Ok(sdp), .. } => {
                if let Some(sdp) = sdp {
                    self.audio.answered(&sdp);
                }
            }
            Told::Done { command, result: Err(error) } => {
                match command.as_str() {
                    "media_resume" => self.audio.refused(),
                    "transfer" | "consult" => (self.passed_on, self.asks) = (0, false),
                    "transfer_complete" | "consult_cancel" => self.asks = true,
                    _ => {}
                }
                self.history.add(What::CommandRefused { agent: self.name(), command, error });
            }
        }
        self.tell();
    }

    /// Writes down what the page shows, when that is new.
    fn tell(&mut self) {
        let Some(state) = self.client.state()["state"].as_str().map(str::to_owned) else { return };
        let call = self.call();
        if self.confirm_at.is_some_and(|at| at > Instant::now()) && self.told.is_none() {
            return;
        }
        self.confirm_at = None;
        if self.told.as_ref() == Some(&(state.clone(), call.clone())) {
            return;
        }
        self.show_consulting();
        let changed = self.told.as_ref().is_none_or(|(old, _)| *old != state);
        if changed {
            self.client.anew();
            self.state_since = Instant::now();
        }
        self.told = Some((state.clone(), call.clone()));
        self.show(Some(state.clone()));
        let agent = self.name();
        self.history.add(What::State { agent: agent.clone(), state: state.clone(), call: call.clone() });
        let Some(call) = call else { return };
        if state == "ringing" && self.rang != call.offer_id {
            self.rang.clone_from(&call.offer_id);
            self.audio.begin(self.shift.bind, self.shift.tones, Arc::clone(&self.ear));
            self.history.add(What::Rings { agent, call });
        } else if state == "talking" && self.answered != call.offer_id {
            self.answered.clone_from(&call.offer_id);
            self.history.add(What::Answers { agent, call });
        }
    }

    fn call(&self) -> Option<Call> {
        let call = &self.client.state()["call"];
        let text = |name: &str| Some(call[name].as_str()?.to_owned());
        Some(Call {
            call_id: text("call_id")?,
            offer_id: text("offer_id")?,
            caller: index_of(call["caller_number"].as_str().unwrap_or_default()),
            entered_ms: call["entered_ms"].as_i64().unwrap_or_default(),
            asked: match self.client.state()["state"].as_str() {
                Some("talking") => self.consultation() == "by",
                _ => call["consulted_by"].is_string(),
            },
        })
    }

    /// How far a consultation is; empty = there is none.
    fn consultation(&self) -> &str {
        self.client.state()["call"]["consultation"]["state"].as_str().unwrap_or_default()
    }

    fn show_consulting(&self) {
        let mut all = self.consulting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.consultation() {
            "waiting" | "with" | "by" => all.insert(self.name()),
            _ => all.remove(&self.name()),
        };
    }

    fn show(&self, state: Option<String>) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name(), state);
    }

    /// Does what the state asks for.
    async fn act(&mut self, socket: &mut Socket, orders: &Orders) -> Result<()> {
        self.tell();
        let Some((state, call)) = self.told.clone() else { return Ok(()) };
        match (state.as_str(), call) {
            ("ringing", Some(call)) => self.pick_up(socket, orders, &call).await,
            ("talking", Some(call)) => self.talk(socket, orders, &call).await,
            ("wrap_up", Some(_)) if self.client.may_ask("wrap_up_finish") => {
                self.audio.end();
                let disposition = self.client.state()["call"]["dispositions"][0].clone();
                self.client
                    .command(socket, "wrap_up_finish", json!({ "disposition": disposition, "tags": [] }))
                    .await
            }
            ("not_ready" | "signed_out", _) if self.is_open(orders) && self.client.may_ask("ready") => {
                self.client.command(socket, "ready", json!({})).await
            }
            ("ready", _) if !self.is_open(orders) && self.client.may_ask("not_ready") => {
                self.client.command(socket, "not_ready", json!({ "reason": "break" })).await
            }
            _ => Ok(()),
        }
    }

    fn is_open(&self, orders: &Orders) -> bool {
        self.number < orders.open
    }

    /// Begins to pass the caller on.
    async fn pass_on(&mut self, socket: &mut Socket, orders: &Orders, call: &Call) -> Result<()> {
        let kind = match Passing::of(self.number) {
            Passing::Blind => "transfer",
            Passing::Attended | Passing::TakenBack => "consult",
        };
        if !self.client.may_ask(kind) {
            return Ok(());
        }
        self.passed_on = orders.pass_on;
        self.asks = kind == "consult";
        let (agent, call_id) = (self.name(), call.call_id.clone());
        self.history.add(if self.asks {
            What::Consults { agent, call_id }
        } else {
            What::PassesOn { agent, call_id }
        });
        self.client.command(socket, kind, json!({ "queue_id": TRANSFER_TO })).await
    }

    async fn end_consultation(&mut self, socket: &mut Socket, call: &Call) -> Result<()> {
        let attended = Passing::of(self.number) == Passing::Attended;
        let kind = if attended { "transfer_complete" } else { "consult_cancel" };
        if !self.client.may_ask(kind) {
            return Ok(());
        }
        self.asks = false;
        let (agent, call_id) = (self.name(), call.call_id.clone());
        self.history.add(if attended {
            What::PassesOn { agent, call_id }
        } else {
            What::TakesBack { agent, call_id }
        });
        self.client.command(socket, kind, json!({})).await
    }

    async fn pick_up(&mut self, socket: &mut Socket, orders: &Orders, call: &Call) -> Result<()> {
        let due = orders.answer_after.is_some_and(|after| self.state_since.elapsed() >= after);
        if !due || !self.client.may_ask("accept") {
            return Ok(());
        }
        let sdp = self.audio.offer().await?;
        self.client.command(socket, "accept", json!({ "offer_id": call.offer_id, "sdp": sdp })).await
    }

    async fn talk(&mut self, socket: &mut Socket, orders: &Orders, call: &Call) -> Result<()> {
        let told = orders.hang_up > self.hung_up;
        let done = orders.talk.is_some_and(|talk| self.state_since.elapsed() >= talk);
        if (told || done) && self.client.may_ask("hang_up") {
            self.hung_up = orders.hang_up;
            let (agent, call_id) = (self.name(), call.call_id.clone());
            self.history.add(What::AgentHangsUp { agent, call_id });
            return self.client.command(socket, "hang_up", json!({})).await;
        }
        // One after the other, so that a fault meets them at every step.
        let turn = PASS_EACH * u32::try_from(self.number % 8).unwrap_or(0);
        let wished = orders.pass_on > self.passed_on && self.number < orders.passing && !call.asked;
        if wished && orders.pass_on_at.is_some_and(|at| at.elapsed() >= turn) {
            return self.pass_on(socket, orders, call).await;
        }
        let with = self.asks && self.consultation() == "with";
        if !with {
            self.with_since = None;
        } else if self.with_since.get_or_insert_with(Instant::now).elapsed() >= CONSULTS_FOR {
            return self.end_consultation(socket, call).await;
        }
        // The notice may have been lost with a connection; the state says so too.
        let generation = self.client.state()["call"]["media_generation"].as_u64().unwrap_or(0);
        if self.audio.follow(self.client.offer(), generation) {
            self.client.anew();
        }
        if self.audio.is_missing() && self.client.may_ask("media_resume") {
            let sdp = self.audio.offer().await?;
            return self.client.command(socket, "media_resume", resume(&sdp)).await;
        }
        Ok(())
    }
}
