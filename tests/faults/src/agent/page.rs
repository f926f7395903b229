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

use super::{Orders, Shift, States, name_of};
use crate::history::{Call, History, What};

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
    told: Option<(String, Option<Call>)>,
    confirm_at: Option<Instant>,
    rang: String,
    answered: String,
    audio: Audio,
    state_since: Instant,
    hung_up: u64,
}

impl Page {
    pub fn new(number: usize, shift: &Shift, ear: &Ear, history: &Arc<History>, states: &States) -> Self {
        Self {
            number,
            client: Client::new(name_of(number), "trunkline-faults", PATIENCE),
            shift: shift.clone(),
            ear: Arc::clone(ear),
            history: Arc::clone(history),
            states: Arc::clone(states),
            told: None,
            confirm_at: None,
            rang: String::new(),
            answered: String::new(),
            audio: Audio::default(),
            state_since: Instant::now(),
            hung_up: 0,
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
                if command == "media_resume" {
                    self.audio.refused();
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
        })
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
