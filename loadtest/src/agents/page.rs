//! One agent's page.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc, watch},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    Gate, News, Shift,
    audio::{Audio, resume},
    merge, wire,
};
use crate::{callers::index_of, phone::Tones, rtp::tone_of};

const BEAT: Duration = Duration::from_secs(1);
/// As the protocol asks.
const PING: Duration = Duration::from_secs(10);
/// No frame for this long although pings are sent: the connection is dead, whatever TCP believes.
const SILENCE: Duration = Duration::from_secs(25);
const WELCOME_WITHIN: Duration = Duration::from_secs(20);
/// What was refused is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TcpStream>;

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
    name: String,
    office: Office,
    rng: StdRng,
    has_come: bool,
    token: Option<String>,
    session: Option<String>,
    connection: u64,
    seen: u64,
    acknowledged: u64,
    commands: u64,
    pending: BTreeMap<u64, (String, Value)>,
    state: Value,
    /// The state that was acted on last.
    shown: String,
    /// The offer that rang last.
    offer: String,
    call: Option<usize>,
    /// When the next step in this state is due.
    due: Option<Instant>,
    /// What is asked for in this state, and when it may be asked for again.
    asked: Option<(String, Instant)>,
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
            name: office.shift.name(agent),
            office,
            rng: StdRng::seed_from_u64(seed),
            has_come: false,
            token: None,
            session: None,
            connection: 0,
            seen: 0,
            acknowledged: 0,
            commands: 0,
            pending: BTreeMap::new(),
            state: Value::Null,
            shown: String::new(),
            offer: String::new(),
            call: None,
            due: None,
            asked: None,
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
            if why.contains("4401") {
                self.token = None;
            }
            if !self.has_come {
                let refused = format!("{} at {console}: {why}", self.name);
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
        let token = match &self.token {
            Some(token) => token.clone(),
            None => {
                let _turn = self.office.signing.acquire().await.context("nobody signs in any more")?;
                let password = self.office.shift.password.replace("{name}", &self.name);
                self.token.insert(wire::token(console, &self.name, &password).await?).clone()
            }
        };
        let mut socket = wire::open(console, &token).await?;
        self.hello(&mut socket).await?;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut heard, mut pinged) = (Instant::now(), Instant::now());
        loop {
            let open = *gate.borrow_and_update() > self.agent;
            self.act(&mut socket, open).await?;
            let due = self.due.unwrap_or_else(|| Instant::now() + BEAT * 10);
            tokio::select! {
                frame = socket.next() => {
                    heard = Instant::now();
                    self.frame(frame.context("closed")??).await?;
                }
                () = tokio::time::sleep_until(due.into()), if self.due.is_some_and(|due| due > Instant::now()) => {}
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        bail!("silent for {SILENCE:?}");
                    }
                    if pinged.elapsed() > PING {
                        pinged = Instant::now();
                        self.send(&mut socket, "ping", json!({})).await?;
                    }
                    if self.seen > self.acknowledged {
                        self.acknowledged = self.seen;
                        self.send(&mut socket, "ack", json!({ "seq": self.seen })).await?;
                    }
                }
                changed = gate.changed() => if changed.is_err() {
                    self.send(&mut socket, "sign_out", json!({})).await?;
                    socket.close(None).await?;
                    return Ok(());
                },
            }
        }
    }

    async fn hello(&mut self, socket: &mut Socket) -> Result<()> {
        self.connection += 1;
        let mut hello = json!({ "client": "trunkline-load", "connection": self.connection });
        if let Some(session) = &self.session {
            hello["resume"] = json!({ "session": session, "last_seq": self.seen });
        }
        self.send(socket, "hello", hello).await?;
        let welcome = loop {
            let frame = tokio::time::timeout(WELCOME_WITHIN, socket.next()).await.context("no welcome")?;
            let frame = parse(frame.context("closed before the welcome")??)?;
            if let Some(frame) = frame.filter(|frame| frame["type"] == "welcome") {
                break frame;
            }
        };
        let resumed = welcome["data"]["resumed"] == true;
        self.session = welcome["data"]["session"].as_str().map(str::to_owned);
        if !resumed {
            self.seen = welcome["seq"].as_u64().unwrap_or(0);
            (self.acknowledged, self.state) = (0, Value::Null);
        }
        self.asked = None;
        if !std::mem::replace(&mut self.has_come, true) {
            self.office.came.send_modify(|came| came.count += 1);
        }
        self.tell(News::Online { agent: self.agent, resumed }).await?;
        // What was under way is asked for again under the same ids: it is not done twice.
        for (id, (kind, data)) in self.pending.clone() {
            let frame = json!({ "id": self.id(id), "type": kind, "data": data }).to_string();
            socket.send(Message::text(frame)).await?;
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<()> {
        self.office.news.send(news).await.ok().context("nobody counts any more")
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.name)
    }

    async fn send(&mut self, socket: &mut Socket, kind: &str, data: Value) -> Result<()> {
        self.commands += 1;
        let frame = json!({ "id": self.id(self.commands), "type": kind, "data": data }).to_string();
        Ok(socket.send(Message::text(frame)).await?)
    }

    /// Sends what has a result; it is kept until the result is there.
    async fn command(&mut self, socket: &mut Socket, kind: &str, data: Value) -> Result<()> {
        self.pending.insert(self.commands + 1, (kind.to_owned(), data.clone()));
        self.send(socket, kind, data).await
    }

    async fn frame(&mut self, message: Message) -> Result<()> {
        let Some(mut frame) = parse(message)? else { return Ok(()) };
        let seq = frame["seq"].as_u64().unwrap_or(0);
        if seq <= self.seen && seq > 0 {
            return Ok(());
        }
        self.seen = seq.max(self.seen);
        match frame["type"].as_str().unwrap_or_default() {
            "snapshot" => self.state = frame["data"].take(),
            "delta" => merge(&mut self.state, frame["data"].take()),
            "result" => self.result(&frame).await?,
            "media_moved" => {
                let offer = frame["data"]["offer_id"].as_str().unwrap_or(&self.offer);
                self.audio.follow(offer, frame["data"]["generation"].as_u64().unwrap_or(1).max(1));
            }
            _ => {}
        }
        self.notice().await
    }

    async fn result(&mut self, frame: &Value) -> Result<()> {
        let prefix = format!("{}-", self.name);
        let id = frame["re"].as_str().and_then(|id| id.strip_prefix(&prefix)?.parse().ok());
        let Some((kind, _)) = id.and_then(|id: u64| self.pending.remove(&id)) else { return Ok(()) };
        let (data, agent, call) = (&frame["data"], self.agent, self.call);
        if data["ok"] == true {
            if let Some(sdp) = data["sdp"].as_str() {
                self.audio.answered(sdp);
            }
            let took = self.accepted.take_if(|_| kind == "accept").map(|at| at.elapsed());
            if let Some(took) = took {
                self.tell(News::Connected { agent, call, took }).await?;
            }
            return Ok(());
        }
        let error = data["error"].as_str().unwrap_or("unknown").to_owned();
        if kind == "media_resume" {
            self.audio.refused();
        }
        self.asked = Some((kind.clone(), Instant::now() + AGAIN));
        self.tell(News::Refused { agent, call, command: kind, error }).await
    }

    /// A new state, or another offer within it: what is due in it, and whom to tell.
    async fn notice(&mut self) -> Result<()> {
        let Some(state) = self.state["state"].as_str() else { return Ok(()) };
        let offer = self.state["call"]["offer_id"].as_str().unwrap_or_default();
        let rings_anew = state == "ringing" && !offer.is_empty() && offer != self.offer;
        if state == self.shown && !rings_anew {
            return Ok(());
        }
        let (state, now) = (state.to_owned(), Instant::now());
        (self.asked, self.due) = (None, None);
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
                self.offer = offer_of(&self.state);
                self.call = index_of(self.state["call"]["caller_number"].as_str().unwrap_or_default());
                let (agent, call, free) = (self.agent, self.call, self.free);
                let entered = self.state["call"]["entered_ms"].as_u64().and_then(|ms| at_wall(now, ms));
                self.audio.begin(self.office.shift.bind, self.tones());
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

    /// Does what the state asks for, when it is due.
    async fn act(&mut self, socket: &mut Socket, open: bool) -> Result<()> {
        self.notice().await?;
        let due = self.due.is_none_or(|due| due <= Instant::now());
        match self.shown.clone().as_str() {
            "ringing" if due && self.may_ask("accept") => {
                let sdp = self.audio.offer().await?;
                self.accepted = Some(Instant::now());
                self.command(socket, "accept", json!({ "offer_id": self.offer, "sdp": sdp })).await
            }
            "talking" if due && self.may_ask("hang_up") => self.command(socket, "hang_up", json!({})).await,
            "talking" if !due => {
                // The notice may have been lost with a connection; the state says so too.
                let generation = self.state["call"]["media_generation"].as_u64().unwrap_or(0);
                self.audio.follow(&offer_of(&self.state), generation);
                if self.audio.is_missing() && self.may_ask("media_resume") {
                    let sdp = self.audio.offer().await?;
                    return self.command(socket, "media_resume", resume(&sdp)).await;
                }
                Ok(())
            }
            "wrap_up" if due && self.may_ask("wrap_up_finish") => {
                self.free = Instant::now();
                if !self.office.shift.habits.again {
                    self.done = true;
                    self.command(socket, "next", json!({ "ready": false, "reason": "break" })).await?;
                }
                let disposition = self.state["call"]["dispositions"][0].clone();
                let data = json!({ "disposition": disposition, "tags": [] });
                self.command(socket, "wrap_up_finish", data).await
            }
            "not_ready" | "signed_out" if open && !self.done && self.may_ask("ready") => {
                self.free = Instant::now();
                self.command(socket, "ready", json!({})).await
            }
            "ready" if !open && self.may_ask("not_ready") => {
                self.command(socket, "not_ready", json!({ "reason": "break" })).await
            }
            _ => Ok(()),
        }
    }

    /// Each thing is asked for once in a state, and again when it was refused.
    fn may_ask(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        let waits = match &self.asked {
            Some((asked, again)) if asked == kind => *again > now,
            // Asked for once in this state.
            _ => false,
        };
        if waits || self.pending.values().any(|(pending, _)| pending == kind) {
            return false;
        }
        self.asked = Some((kind.to_owned(), now + AGAIN));
        true
    }
}

/// The moment of a wall clock in milliseconds, not after `now`.
fn at_wall(now: Instant, ms: u64) -> Option<Instant> {
    let wall = std::time::UNIX_EPOCH + Duration::from_millis(ms);
    now.checked_sub(wall.elapsed().ok()?)
}

fn offer_of(state: &Value) -> String {
    state["call"]["offer_id"].as_str().unwrap_or_default().to_owned()
}

fn parse(message: Message) -> Result<Option<Value>> {
    let text = match message {
        Message::Text(text) => text,
        Message::Close(Some(close)) => bail!("closed with {}: {}", u16::from(close.code), close.reason),
        Message::Close(None) => bail!("closed"),
        _ => return Ok(None),
    };
    Ok(Some(serde_json::from_str(text.as_str()).context("not JSON")?))
}
