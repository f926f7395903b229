//! The agent protocol from the client's side: a session that outlives its sockets and its consoles.
//!
//! It keeps what the protocol asks a client to keep: the token, the session and the last frame seen, the state with its
//! patches, and the commands that have no result yet, which are sent again under the same ids. What an agent does with it
//! is its owner's.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{merge, wire};

/// What was refused is asked for again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// A WebSocket to a console.
pub type Socket = WebSocketStream<TcpStream>;

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the WebSocket is open.
    pub open: Duration,
    /// Until the welcome comes.
    pub welcome: Duration,
    /// Between pings.
    pub ping: Duration,
    /// No frame for this long although pings are sent: the connection is dead, whatever TCP believes.
    pub silence: Duration,
}

/// What a frame was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The state may be another one.
    State,
    /// A command has its result.
    Done {
        /// The command.
        command: String,
        /// An SDP answer where one is due, or the error code.
        result: Result<Option<String>, String>,
    },
    /// The call's media is somewhere else: a new connection is needed.
    MediaMoved {
        /// Of which offer; `None`: of the one in hand.
        offer: Option<String>,
        /// Counts the moves, from 1.
        generation: u64,
    },
    /// Nothing that anybody waits for.
    Nothing,
}

/// One agent's session.
#[derive(Debug)]
pub struct Client {
    name: String,
    /// Says who it is in `hello`.
    program: &'static str,
    patience: Patience,
    token: Option<String>,
    session: Option<String>,
    connection: u64,
    seen: u64,
    acknowledged: u64,
    commands: u64,
    pending: BTreeMap<u64, (String, Value)>,
    state: Value,
    /// What is asked for in this state, and when it may be asked for again.
    asked: Option<(String, Instant)>,
    heard: Instant,
    pinged: Instant,
}

impl Client {
    /// The client of an agent's account that is not signed in yet.
    pub fn new(name: String, program: &'static str, patience: Patience) -> Self {
        Self {
            name,
            program,
            patience,
            token: None,
            session: None,
            connection: 0,
            seen: 0,
            acknowledged: 0,
            commands: 0,
            pending: BTreeMap::new(),
            state: Value::Null,
            asked: None,
            heard: Instant::now(),
            pinged: Instant::now(),
        }
    }

    /// The account.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The snapshot with all patches; null before the first.
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// The offer in hand, or nothing.
    pub fn offer(&self) -> &str {
        self.state["call"]["offer_id"].as_str().unwrap_or_default()
    }

    /// Whether it has a token.
    pub fn is_signed_in(&self) -> bool {
        self.token.is_some()
    }

    /// Gets a token.
    ///
    /// # Errors
    /// When the console refuses or does not answer.
    pub async fn sign_in(&mut self, console: SocketAddr, password: &str) -> Result<()> {
        self.token = Some(wire::token(console, &self.name, password).await?);
        Ok(())
    }

    /// Opens a socket and says hello; true: the session of before goes on. What was under way is asked for again under the
    /// same ids, so that it is not done twice.
    ///
    /// # Errors
    /// When there is no token, or the console does not welcome it in time.
    pub async fn connect(&mut self, console: SocketAddr) -> Result<(Socket, bool)> {
        let token = self.token.as_deref().context("not signed in")?;
        let mut socket = wire::open(console, token, self.patience.open).await?;
        self.connection += 1;
        let mut hello = json!({ "client": self.program, "connection": self.connection });
        if let Some(session) = &self.session {
            hello["resume"] = json!({ "session": session, "last_seq": self.seen });
        }
        self.send(&mut socket, "hello", hello).await?;
        let welcome = loop {
            let frame = tokio::time::timeout(self.patience.welcome, socket.next()).await;
            let frame = parse(frame.context("no welcome")?.context("closed before the welcome")??)?;
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
        self.anew();
        (self.heard, self.pinged) = (Instant::now(), Instant::now());
        for (id, (kind, data)) in self.pending.clone() {
            let frame = json!({ "id": self.id(id), "type": kind, "data": data }).to_string();
            socket.send(Message::text(frame)).await?;
        }
        Ok((socket, resumed))
    }

    /// The connection ended for this reason: a token that is good no more is forgotten.
    pub fn lost(&mut self, why: &str) {
        if why.contains("4401") {
            self.token = None;
        }
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// When the console closes, or says what is no frame.
    pub fn take(&mut self, message: Message) -> Result<Told> {
        self.heard = Instant::now();
        let Some(mut frame) = parse(message)? else { return Ok(Told::Nothing) };
        let seq = frame["seq"].as_u64().unwrap_or(0);
        if seq <= self.seen && seq > 0 {
            return Ok(Told::Nothing);
        }
        self.seen = seq.max(self.seen);
        Ok(match frame["type"].as_str().unwrap_or_default() {
            "snapshot" => {
                self.state = frame["data"].take();
                Told::State
            }
            "delta" => {
                merge(&mut self.state, frame["data"].take());
                Told::State
            }
            "result" => self.result(&frame),
            "media_moved" => Told::MediaMoved {
                offer: frame["data"]["offer_id"].as_str().map(str::to_owned),
                generation: frame["data"]["generation"].as_u64().unwrap_or(1).max(1),
            },
            _ => Told::Nothing,
        })
    }

    fn result(&mut self, frame: &Value) -> Told {
        let number = |id: &str| id.strip_prefix(&self.name)?.strip_prefix('-')?.parse::<u64>().ok();
        let id = frame["re"].as_str().and_then(number);
        let Some((command, _)) = id.and_then(|id| self.pending.remove(&id)) else { return Told::Nothing };
        let data = &frame["data"];
        if data["ok"] == true {
            return Told::Done { command, result: Ok(data["sdp"].as_str().map(str::to_owned)) };
        }
        self.asked = Some((command.clone(), Instant::now() + AGAIN));
        let error = data["error"].as_str().unwrap_or("unknown").to_owned();
        Told::Done { command, result: Err(error) }
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.name)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the socket is gone.
    pub async fn send(&mut self, socket: &mut Socket, kind: &str, data: Value) -> Result<()> {
        self.commands += 1;
        let frame = json!({ "id": self.id(self.commands), "type": kind, "data": data }).to_string();
        Ok(socket.send(Message::text(frame)).await?)
    }

    /// Sends what has a result; it is kept until the result is there.
    ///
    /// # Errors
    /// When the socket is gone.
    pub async fn command(&mut self, socket: &mut Socket, kind: &str, data: Value) -> Result<()> {
        self.pending.insert(self.commands + 1, (kind.to_owned(), data.clone()));
        self.send(socket, kind, data).await
    }

    /// What has to be said now and then: pings, acknowledgements.
    ///
    /// # Errors
    /// When the console has been silent for too long, or the socket is gone.
    pub async fn beat(&mut self, socket: &mut Socket) -> Result<()> {
        if self.heard.elapsed() > self.patience.silence {
            bail!("silent for {:?}", self.patience.silence);
        }
        if self.pinged.elapsed() > self.patience.ping {
            self.pinged = Instant::now();
            self.send(socket, "ping", json!({})).await?;
        }
        if self.seen > self.acknowledged {
            self.acknowledged = self.seen;
            self.send(socket, "ack", json!({ "seq": self.seen })).await?;
        }
        Ok(())
    }

    /// Another state: everything may be asked for.
    pub fn anew(&mut self) {
        self.asked = None;
    }

    /// Each thing is asked for once in a state, and again a while after it was refused.
    pub fn may_ask(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        let waits = self.asked.as_ref().is_some_and(|(asked, again)| asked == kind && *again > now);
        if waits || self.pending.values().any(|(pending, _)| pending == kind) {
            return false;
        }
        self.asked = Some((kind.to_owned(), now + AGAIN));
        true
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        open: Duration::from_secs(1),
        welcome: Duration::from_secs(1),
        ping: Duration::from_secs(1),
        silence: Duration::from_secs(1),
    };

    fn told(client: &mut Client, frame: Value) -> Told {
        client.take(Message::text(frame.to_string())).unwrap()
    }

    #[test]
    fn the_state_is_the_snapshot_with_each_patch_once() {
        let mut client = Client::new("agent-001".into(), "test", PATIENCE);
        let snapshot = json!({ "seq": 1, "type": "snapshot", "data": { "state": "ready", "n": 1 } });
        assert_eq!(told(&mut client, snapshot), Told::State);
        let delta = json!({ "seq": 2, "type": "delta", "data": { "call": { "offer_id": "o1" } } });
        assert_eq!(told(&mut client, delta.clone()), Told::State);
        assert_eq!(client.offer(), "o1");
        assert_eq!(told(&mut client, delta), Told::Nothing, "it came again after a reconnect");
        assert_eq!(client.state()["n"], 1);
    }

    #[test]
    fn a_result_is_its_command_s_and_what_was_refused_waits() {
        let mut client = Client::new("agent-001".into(), "test", PATIENCE);
        client.pending.insert(7, ("accept".into(), json!({})));
        assert!(!client.may_ask("accept"), "it is under way");
        let other = json!({ "seq": 1, "type": "result", "re": "agent-0017-7", "data": { "ok": true } });
        assert_eq!(told(&mut client, other), Told::Nothing, "another agent's");
        let refused =
            json!({ "seq": 2, "type": "result", "re": "agent-001-7", "data": { "error": "too_late" } });
        let result = Err("too_late".to_owned());
        assert_eq!(told(&mut client, refused), Told::Done { command: "accept".into(), result });
        assert!(!client.may_ask("accept"), "not at once");
        client.anew();
        assert!(client.may_ask("accept"), "another state, another time");
    }
}
