//! One agent's page.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    Gate, News, Shift,
    audio::{Audio, resume},
    client::{Client, Patience, Socket, Told},
};
use crate::{
    callers::index_of,
    phone::{Ear, Tones},
    rtp::tone_of,
};

const BEAT: Duration = Duration::from_secs(1);
/// Pings are as the protocol asks.
const PATIENCE: Patience = Patience {
    open: Duration::from_secs(10),
    welcome: Duration::from_secs(20),
    ping: Duration::from_secs(10),
    silence: Duration::from_secs(25),
};

/// How many agents have signed in so far, and why the first of them could not.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived {
    pub count: usize,
    pub refused: Option<String>,
}

/// What all pages share.
#[derive(Clone)]
pub(super) struct Office {
    pub shift: Arc<Shift>,
    pub signing: Arc<Semaphore>,
    pub came: watch::Sender<Arrived>,
    pub news: mpsc::Sender<News>,
}

pub(super) struct Page {
    agent: usize,
    client: Client,
    office: Office,
    rng: StdRng,
    has_come: bool,
    /// The state that was acted on last.
    shown: String,
    /// The offer that rang last.
    offer: String,
    call: Option<usize>,
    /// When the next step in this state is due.
    due: Option<Instant>,
    free: Instant,
    accepted: Option<Instant>,
    talking: Option<Instant>,
    /// Took the one call that was wanted.
    done: bool,
    audio: Audio,
}

impl Page {
    pub fn new(agent: usize, office: Office) -> Self {
        let seed = office.shift.seed ^ (agent as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95);
        Self {
            agent,
            client: Client::new(office.shift.name(agent), "trunkline-load", PATIENCE),
            office,
            rng: StdRng::seed_from_u64(seed),
            has_come: false,
            shown: String::new(),
            offer: String::new(),
            call: None,
            due: None,
            free: Instant::now(),
            accepted: None,
            talking: None,
            done: false,
            audio: Audio::default(),
        }
    }

    /// Works until the gate is gone. A lost connection is made again, spread in time, at the next console.
    pub async fn run(mut self, mut gate: Gate) {
        let mut turn = self.agent;
        loop {
            let consoles = &self.office.shift.consoles;
            let Some(console) = consoles.get(turn % consoles.len().max(1)).copied() else { return };
            let why = match Box::pin(self.work(console, &mut gate)).await {
                Ok(()) => return,
                Err(error) => format!("{error:#}"),
            };
            self.client.lost(&why);
            if !self.has_come {
                let refused = format!("{} at {console}: {why}", self.client.name());
                self.office.came.send_modify(|came| came.refused = Some(refused));
            }
            let news = News::Offline { agent: self.agent, why };
            if self.office.news.send(news).await.is_err() || gate.has_changed().is_err() {
                return;
            }
            turn += 1;
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..1_000))).await;
        }
    }

    async fn work(&mut self, console: SocketAddr, gate: &mut Gate) -> Result<()> {
        if !self.client.is_signed_in() {
            let _turn = self.office.signing.acquire().await.context("nobody signs in any more")?;
            let password = self.office.shift.password.replace("{name}", self.client.name());
            self.client.sign_in(console, &password).await?;
        }
        let (mut socket, resumed) = self.client.connect(console).await?;
        if !std::mem::replace(&mut self.has_come, true) {
            self.office.came.send_modify(|came| came.count += 1);
        }
        self.tell(News::Online { agent: self.agent, resumed }).await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let open = *gate.borrow_and_update() > self.agent;
            self.act(&mut socket, open).await?;
            let due = self.due.unwrap_or_else(|| Instant::now() + BEAT * 10);
            tokio::select! {
                frame = socket.next() => {
                    let told = self.client.take(frame.context("closed")??)?;
                    self.hear(told).await?;
                }
                () = tokio::time::sleep_until(due.into()), if self.due.is_some_and(|due| due > Instant::now()) => {}
                _ = beat.tick() => self.client.beat(&mut socket).await?,
                changed = gate.changed() => if changed.is_err() {
                    self.client.send(&mut socket, "sign_out", json!({})).await?;
                    socket.close(None).await?;
                    return Ok(());
                },
            }
        }
    }

    async fn tell(&self, news: News) -> Result<()> {
        self.office.news.send(news).await.ok().context("nobody counts any more")
    }

    async fn hear(&mut self, told: Told) -> Result<()> {
        match told {
            Told::State | Told::Nothing => {}
            Told::MediaMoved { offer, generation } => {
                self.audio.follow(offer.as_deref().unwrap_or(&self.offer), generation);
            }
            Told::Done { command, result } => self.result(command, result).await?,
        }
        self.notice().await
    }

    async fn result(&mut self, command: String, result: Result<Option<String>, String>) -> Result<()> {
        let (agent, call) = (self.agent, self.call);
        match result {
            Ok(sdp) => {
                if let Some(sdp) = sdp {
                    self.audio.answered(&sdp);
                }
                if command == "transfer" {
                    self.tell(News::PassedOn { call }).await?;
                }
                let took = self.accepted.take_if(|_| command == "accept").map(|at| at.elapsed());
                if let Some(took) = took {
                    self.tell(News::Connected { agent, call, took }).await?;
                }
                Ok(())
            }
            Err(error) => {
                if command == "media_resume" {
                    self.audio.refused();
                }
                self.tell(News::Refused { agent, call, command, error }).await
            }
        }
    }

    /// A new state, or another offer within it: what is due in it, and whom to tell.
    async fn notice(&mut self) -> Result<()> {
        let Some(state) = self.client.state()["state"].as_str() else { return Ok(()) };
        let offer = self.client.offer();
        let rings_anew = state == "ringing" && !offer.is_empty() && offer != self.offer;
        if state == self.shown && !rings_anew {
            return Ok(());
        }
        let (state, now) = (state.to_owned(), Instant::now());
        self.due = None;
        self.client.anew();
        let was = std::mem::replace(&mut self.shown, state.clone());
        if was == "talking" {
            let talked = self.talking.take().map_or(Duration::ZERO, |since| since.elapsed());
            let heard = self.audio.end();
            self.tell(News::Finished { agent: self.agent, call: self.call, talked, heard }).await?;
        }
        let habits = &self.office.shift.habits;
        match state.as_str() {
            "ringing" => {
                self.due = Some(now + habits.answer.draw(&mut self.rng));
                self.offer = self.client.offer().to_owned();
                let view = &self.client.state()["call"];
                self.call = index_of(view["caller_number"].as_str().unwrap_or_default());
                let (agent, call, free) = (self.agent, self.call, self.free);
                let entered = view["entered_ms"].as_u64().and_then(|ms| at_wall(now, ms));
                self.audio.begin(self.office.shift.bind, self.tones(), Ear::default());
                self.tell(News::Rang { agent, call, free, at: now, entered }).await?;
            }
            "talking" => {
                self.due = Some(now + habits.talk.draw(&mut self.rng));
                self.talking = Some(now);
            }
            "wrap_up" => self.due = Some(now + habits.wrap_up.draw(&mut self.rng)),
            // The call that rang went elsewhere.
            "ready" if matches!(was.as_str(), "ringing" | "connecting") => self.free = now,
            _ => {}
        }
        Ok(())
    }

    fn tones(&self) -> Option<Tones> {
        let voices = self.office.shift.voices.as_ref()?;
        // Silent callers: the agent listens for a tone that nobody says.
        let hears = tone_of(&voices.callers, self.call.unwrap_or_default()).unwrap_or_default();
        Some(Tones { says: voices.agents, hears })
    }

    /// Ends the conversation: passes a caller of another queue on where that is wanted, and hangs up elsewhere.
    async fn end(&mut self, socket: &mut Socket) -> Result<()> {
        let queue = self.client.state()["call"]["queue_id"].as_str();
        let to = self.office.shift.habits.transfer.clone().filter(|to| queue != Some(to));
        match to {
            Some(to) if self.client.may_ask("transfer") => {
                self.client.command(socket, "transfer", json!({ "queue_id": to })).await
            }
            None if self.client.may_ask("hang_up") => self.client.command(socket, "hang_up", json!({})).await,
            _ => Ok(()),
        }
    }

    /// Does what the state asks for, when it is due.
    async fn act(&mut self, socket: &mut Socket, open: bool) -> Result<()> {
        self.notice().await?;
        let due = self.due.is_none_or(|due| due <= Instant::now());
        match self.shown.clone().as_str() {
            "ringing" if due && self.client.may_ask("accept") => {
                let sdp = self.audio.offer().await?;
                self.accepted = Some(Instant::now());
                self.client.command(socket, "accept", json!({ "offer_id": self.offer, "sdp": sdp })).await
            }
            "talking" if due => self.end(socket).await,
            "talking" => {
                // The notice may have been lost with a connection; the state says so too.
                let generation = self.client.state()["call"]["media_generation"].as_u64().unwrap_or(0);
                self.audio.follow(self.client.offer(), generation);
                if self.audio.is_missing() && self.client.may_ask("media_resume") {
                    let sdp = self.audio.offer().await?;
                    return self.client.command(socket, "media_resume", resume(&sdp)).await;
                }
                Ok(())
            }
            "wrap_up" if due && self.client.may_ask("wrap_up_finish") => {
                self.free = Instant::now();
                if !self.office.shift.habits.again {
                    self.done = true;
                    self.client.command(socket, "next", json!({ "ready": false, "reason": "break" })).await?;
                }
                let disposition = self.client.state()["call"]["dispositions"][0].clone();
                let data = json!({ "disposition": disposition, "tags": [] });
                self.client.command(socket, "wrap_up_finish", data).await
            }
            "not_ready" | "signed_out" if open && !self.done && self.client.may_ask("ready") => {
                self.free = Instant::now();
                self.client.command(socket, "ready", json!({})).await
            }
            "ready" if !open && self.client.may_ask("not_ready") => {
                self.client.command(socket, "not_ready", json!({ "reason": "break" })).await
            }
            _ => Ok(()),
        }
    }
}

/// The moment of a wall clock in milliseconds, not after `now`.
fn at_wall(now: Instant, ms: u64) -> Option<Instant> {
    let wall = std::time::UNIX_EPOCH + Duration::from_millis(ms);
    now.checked_sub(wall.elapsed().ok()?)
}
