//! One agent's page.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use trunkline_loadtest::{
    agents::{browser_offer, merge},
    callers::index_of,
    phone::{Ear, Phone},
};

use super::{Orders, Shift, States, name_of, wire};
use crate::history::{Call, History, What};

const BEAT: Duration = Duration::from_millis(200);
/// No frame for this long although pings are sent: the connection is dead, whatever TCP believes.
const SILENCE: Duration = Duration::from_secs(6);
const PING: Duration = Duration::from_secs(2);
/// What was refused is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// An audio connection that is not there after this is made anew.
const AUDIO_WITHIN: Duration = Duration::from_secs(5);
/// After a resumed session, missed frames come within this; only then is what the page shows what the system says.
const MISSED_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Page {
    number: usize,
    name: String,
    shift: Shift,
    ear: Ear,
    history: Arc<History>,
    states: States,
    token: Option<String>,
    session: Option<String>,
    connection: u64,
    seen: u64,
    acknowledged: u64,
    commands: u64,
    pending: BTreeMap<u64, (String, Value)>,
    state: Value,
    told: Option<(String, Option<Call>)>,
    confirm_at: Option<Instant>,
    rang: String,
    answered: String,
    phone: Option<(Phone, Instant)>,
    /// Keeps talking until the new connection stands, when media moves as planned.
    former: Option<(Phone, Instant)>,
    /// Media moved: whoever has no real audio answers as well.
    remake: bool,
    /// Offer and count of the last move of media that was followed.
    moved: (String, u64),
    /// What is asked for in the present state, and when it may be asked for again.
    asked: Option<(String, Instant)>,
    state_since: Instant,
    hung_up: u64,
}

type Socket = WebSocketStream<TcpStream>;

impl Page {
    pub fn new(number: usize, shift: &Shift, ear: &Ear, history: &Arc<History>, states: &States) -> Self {
        Self {
            number,
            name: name_of(number),
            shift: shift.clone(),
            ear: Arc::clone(ear),
            history: Arc::clone(history),
            states: Arc::clone(states),
            token: None,
            session: None,
            connection: 0,
            seen: 0,
            acknowledged: 0,
            commands: 0,
            pending: BTreeMap::new(),
            state: Value::Null,
            told: None,
            confirm_at: None,
            rang: String::new(),
            answered: String::new(),
            phone: None,
            former: None,
            remake: false,
            moved: (String::new(), 0),
            asked: None,
            state_since: Instant::now(),
            hung_up: 0,
        }
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
                    if why.contains("4401") {
                        self.token = None;
                    }
                    self.history.add(What::Offline { agent: self.name.clone(), why });
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
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.token.insert(wire::token(console, &self.name).await?).clone(),
        };
        let mut socket = wire::open(console, &token).await?;
        self.hello(&mut socket, console).await?;
        let mut beat = tokio::time::interval(BEAT);
        let (mut heard, mut pinged) = (Instant::now(), Instant::now());
        loop {
            let now = orders.borrow_and_update().clone();
            if now.leave {
                let _ = self.command(&mut socket, "sign_out", json!({})).await;
                let _ = socket.close(None).await;
                return Ok(());
            }
            self.act(&mut socket, &now).await?;
            tokio::select! {
                frame = socket.next() => {
                    let frame = frame.context("closed")??;
                    heard = Instant::now();
                    self.frame(frame)?;
                }
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
                _ = orders.changed() => {}
            }
        }
    }

    async fn hello(&mut self, socket: &mut Socket, console: SocketAddr) -> Result<()> {
        self.connection += 1;
        let mut hello = json!({ "client": "trunkline-faults", "connection": self.connection });
        if let Some(session) = &self.session {
            hello["resume"] = json!({ "session": session, "last_seq": self.seen });
        }
        self.send(socket, "hello", hello).await?;
        let welcome = loop {
            let frame = tokio::time::timeout(SILENCE, socket.next()).await.context("no welcome")?;
            let frame = self.parse(frame.context("closed before the welcome")??)?;
            if let Some(frame) = frame.filter(|frame| frame["type"] == "welcome") {
                break frame;
            }
        };
        let resumed = welcome["data"]["resumed"] == true;
        self.session = welcome["data"]["session"].as_str().map(str::to_owned);
        let seq = welcome["seq"].as_u64().unwrap_or(0);
        if resumed {
            self.confirm_at = Some(Instant::now() + MISSED_WITHIN);
        } else {
            (self.seen, self.acknowledged, self.state) = (seq, 0, Value::Null);
            self.confirm_at = None;
        }
        self.told = None;
        self.asked = None;
        let (agent, console) = (self.name.clone(), console.to_string());
        self.history.add(What::Online { agent, console, resumed });
        // What was under way is asked for again under the same ids: it is not done twice.
        for (id, (kind, data)) in self.pending.clone() {
            let frame = json!({ "id": self.id(id), "type": kind, "data": data }).to_string();
            socket.send(Message::text(frame)).await?;
        }
        Ok(())
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

    fn parse(&mut self, message: Message) -> Result<Option<Value>> {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(Some(close)) => bail!("closed with {}: {}", u16::from(close.code), close.reason),
            Message::Close(None) => bail!("closed"),
            _ => return Ok(None),
        };
        let frame: Value = serde_json::from_str(text.as_str()).context("not JSON")?;
        Ok(Some(frame))
    }

    fn frame(&mut self, message: Message) -> Result<()> {
        let Some(mut frame) = self.parse(message)? else { return Ok(()) };
        let seq = frame["seq"].as_u64().unwrap_or(0);
        if seq <= self.seen && seq > 0 {
            return Ok(());
        }
        self.seen = seq.max(self.seen);
        match frame["type"].as_str().unwrap_or_default() {
            "snapshot" => self.state = frame["data"].take(),
            "delta" => merge(&mut self.state, frame["data"].take()),
            "result" => self.result(&frame),
            "media_moved" => self.media_moved(&frame["data"]),
            _ => {}
        }
        self.tell();
        Ok(())
    }

    fn result(&mut self, frame: &Value) {
        let prefix = format!("{}-", self.name);
        let id = frame["re"].as_str().and_then(|id| id.strip_prefix(&prefix)?.parse().ok());
        let Some((kind, _)) = id.and_then(|id: u64| self.pending.remove(&id)) else { return };
        let data = &frame["data"];
        if data["ok"] == true {
            if let (Some(sdp), Some((phone, _))) = (data["sdp"].as_str(), &mut self.phone) {
                phone.answered(sdp);
            }
            return;
        }
        let error = data["error"].as_str().unwrap_or("unknown").to_owned();
        if kind == "media_resume" {
            (self.phone, self.remake) = (None, true);
        }
        self.asked = Some((kind.clone(), Instant::now() + AGAIN));
        self.history.add(What::CommandRefused { agent: self.name.clone(), command: kind, error });
    }

    /// The media node is gone or drains: a new connection at once, once for each move.
    fn media_moved(&mut self, data: &Value) {
        let offer = data["offer_id"].as_str().unwrap_or(&self.answered).to_owned();
        let moved = (offer, data["generation"].as_u64().unwrap_or(0));
        if moved.0 != self.moved.0 || moved.1 > self.moved.1 {
            self.moved = moved;
            self.former = self.phone.take();
            self.remake = true;
            self.asked = None;
        }
    }

    /// Writes down what the page shows, when that is new.
    fn tell(&mut self) {
        let Some(state) = self.state["state"].as_str().map(str::to_owned) else { return };
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
            self.asked = None;
            self.state_since = Instant::now();
            self.remake = false;
        }
        self.told = Some((state.clone(), call.clone()));
        self.show(Some(state.clone()));
        let agent = self.name.clone();
        self.history.add(What::State { agent: agent.clone(), state: state.clone(), call: call.clone() });
        let Some(call) = call else { return };
        if state == "ringing" && self.rang != call.offer_id {
            self.rang.clone_from(&call.offer_id);
            self.history.add(What::Rings { agent, call });
        } else if state == "talking" && self.answered != call.offer_id {
            self.answered.clone_from(&call.offer_id);
            self.history.add(What::Answers { agent, call });
        }
    }

    fn call(&self) -> Option<Call> {
        let call = &self.state["call"];
        let text = |name: &str| Some(call[name].as_str()?.to_owned());
        Some(Call {
            call_id: text("call_id")?,
            offer_id: text("offer_id")?,
            caller: index_of(call["caller_number"].as_str().unwrap_or_default()),
            entered_ms: call["entered_ms"].as_i64().unwrap_or_default(),
        })
    }

    fn show(&self, state: Option<String>) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name.clone(), state);
    }

    /// Does what the state asks for.
    async fn act(&mut self, socket: &mut Socket, orders: &Orders) -> Result<()> {
        self.tell();
        let Some((state, call)) = self.told.clone() else { return Ok(()) };
        match (state.as_str(), call) {
            ("ringing", Some(call)) => self.pick_up(socket, orders, &call).await,
            ("talking", Some(call)) => self.talk(socket, orders, &call).await,
            ("wrap_up", Some(_)) if self.may_ask("wrap_up_finish") => {
                (self.phone, self.former) = (None, None);
                let disposition = self.state["call"]["dispositions"][0].clone();
                self.command(socket, "wrap_up_finish", json!({ "disposition": disposition, "tags": [] }))
                    .await
            }
            ("not_ready" | "signed_out", _) if self.is_open(orders) && self.may_ask("ready") => {
                self.command(socket, "ready", json!({})).await
            }
            ("ready", _) if !self.is_open(orders) && self.may_ask("not_ready") => {
                self.command(socket, "not_ready", json!({ "reason": "break" })).await
            }
            _ => Ok(()),
        }
    }

    fn is_open(&self, orders: &Orders) -> bool {
        self.number < orders.open
    }

    /// Each thing is asked for once in a state, and again when it was refused.
    fn may_ask(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        let waits = self.asked.as_ref().is_some_and(|(asked, again)| asked == kind && *again > now);
        if waits || self.pending.values().any(|(pending, _)| pending == kind) {
            return false;
        }
        self.asked = Some((kind.to_owned(), now + AGAIN));
        true
    }

    async fn pick_up(&mut self, socket: &mut Socket, orders: &Orders, call: &Call) -> Result<()> {
        let due = orders.answer_after.is_some_and(|after| self.state_since.elapsed() >= after);
        if !due || !self.may_ask("accept") {
            return Ok(());
        }
        let sdp = self.offer().await?;
        self.command(socket, "accept", json!({ "offer_id": call.offer_id, "sdp": sdp })).await
    }

    async fn talk(&mut self, socket: &mut Socket, orders: &Orders, call: &Call) -> Result<()> {
        let told = orders.hang_up > self.hung_up;
        let done = orders.talk.is_some_and(|talk| self.state_since.elapsed() >= talk);
        if (told || done) && self.may_ask("hang_up") {
            self.hung_up = orders.hang_up;
            let (agent, call_id) = (self.name.clone(), call.call_id.clone());
            self.history.add(What::AgentHangsUp { agent, call_id });
            return self.command(socket, "hang_up", json!({})).await;
        }
        if self.phone.as_ref().is_some_and(|(_, since)| since.elapsed() > AUDIO_WITHIN) {
            self.former = None;
        }
        // The notice may have been lost with a connection; the state says so too.
        let view = &self.state["call"];
        let news = json!({ "offer_id": view["offer_id"], "generation": view["media_generation"] });
        if news["generation"].as_u64() > Some(0) {
            self.media_moved(&news);
        }
        let broken = self.phone.as_ref().is_none_or(|(phone, since)| {
            phone.is_broken() && since.elapsed() > Duration::from_millis(500)
                || !phone.has_answer() && since.elapsed() > AUDIO_WITHIN
        });
        let broken = self.shift.tones.is_some() && broken;
        if (self.remake || broken) && self.may_ask("media_resume") {
            self.remake = false;
            let sdp = self.offer().await?;
            return self.command(socket, "media_resume", json!({ "sdp": sdp, "take_over": false })).await;
        }
        Ok(())
    }

    async fn offer(&mut self) -> Result<String> {
        let Some(tones) = self.shift.tones else { return Ok(browser_offer()) };
        let phone = Phone::new(self.shift.bind, tones, Arc::clone(&self.ear)).await?;
        let offer = phone.offer.clone();
        self.phone = Some((phone, Instant::now()));
        Ok(offer)
    }
}
