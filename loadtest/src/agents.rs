//! Agents over the real agent protocol: sign in, ready, accept, hang up, wrap up, again.
//!
//! Each agent is a task with its own WebSocket. The WebRTC offer is valid but nobody stands behind it: a call is connected
//! when the answer to `accept` comes, and no media flows.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

const LIMIT: Duration = Duration::from_secs(20);

/// What an agent did with one call.
#[derive(Clone, Debug)]
pub struct Served {
    /// The call, by the caller's number.
    pub call: Option<usize>,
    /// When it rang.
    pub rang_at: Instant,
    /// From sending `ready` (or the end of the wrap-up) to the ring.
    pub ready_to_ring: Duration,
    /// From `accept` to its answer; `None` = not connected, with the reason in `refusal`.
    pub connected: Option<Duration>,
    /// The error code of a refused `accept`.
    pub refusal: Option<String>,
}

/// How agents work.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// How long they talk.
    pub talk: Duration,
    /// Ready again after each call.
    pub again: bool,
}

/// Which agents may be ready: number `n` is when the value is above `n`.
pub type Gate = watch::Receiver<usize>;

/// Signs in agents `agent-001` to `count`, a few at a time, and starts their tasks. `served` ends when all have ended.
pub async fn start(
    http: SocketAddr,
    count: usize,
    habits: Habits,
    gate: Gate,
) -> Result<mpsc::Receiver<Served>> {
    let (sender, served) = mpsc::channel(100_000);
    let mut signing = tokio::task::JoinSet::new();
    for number in 0..count {
        // The server hashes each password on purpose slowly: two at a time keep it from queueing.
        while signing.len() >= 2 {
            start_one(signing.join_next().await, habits, &gate, &sender)?;
        }
        signing.spawn(async move { sign_in(http, number).await.with_context(|| name_of(number)) });
    }
    while !signing.is_empty() {
        start_one(signing.join_next().await, habits, &gate, &sender)?;
    }
    Ok(served)
}

/// Lets all agents sign out and returns what they served and nobody looked at yet.
pub async fn leave(gate: watch::Sender<usize>, mut served: mpsc::Receiver<Served>) -> Vec<Served> {
    drop(gate);
    let mut rest = Vec::new();
    let all = async { while served.recv_many(&mut rest, 1_000).await > 0 {} };
    if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
        crate::report::note("some agents did not sign out in time");
    }
    rest
}

type SignedIn = std::result::Result<Result<Agent>, tokio::task::JoinError>;

fn start_one(
    agent: Option<SignedIn>,
    habits: Habits,
    gate: &Gate,
    served: &mpsc::Sender<Served>,
) -> Result<()> {
    let Some(agent) = agent else { return Ok(()) };
    let (mut agent, gate, served) = (agent.context("an agent's task failed")??, gate.clone(), served.clone());
    tokio::spawn(async move {
        let name = name_of(agent.number);
        if let Err(error) = agent.work(habits, gate, served).await {
            crate::report::note(&format!("{name}: {error:#}"));
        }
    });
    Ok(())
}

fn name_of(number: usize) -> String {
    format!("agent-{:03}", number + 1)
}

struct Agent {
    number: usize,
    socket: WebSocketStream<TcpStream>,
    state: Value,
    commands: u64,
    seen: u64,
    acknowledged: u64,
    ready_at: Instant,
    offer: String,
    accepting: Option<(String, Instant, Served)>,
    hang_up_at: Option<Instant>,
    asked: String,
}

/// A session's token, by plain HTTP/1.1.
async fn token(http: SocketAddr, name: &str) -> Result<String> {
    let body = json!({ "name": name, "password": format!("{name}-dev") }).to_string();
    let request = format!(
        "POST /api/v1/session HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64 * 1_024).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("sign-in: no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "sign-in: {}", head.lines().next().unwrap_or_default());
    let from = body.find('{').context("sign-in: no JSON")?;
    let to = body.rfind('}').context("sign-in: no JSON")?;
    let body: Value = serde_json::from_str(body.get(from..=to).unwrap_or_default())?;
    Ok(body["token"].as_str().context("sign-in: no token")?.to_owned())
}

async fn sign_in(http: SocketAddr, number: usize) -> Result<Agent> {
    let token =
        tokio::time::timeout(LIMIT, token(http, &name_of(number))).await.context("sign-in timed out")??;
    let mut request = format!("ws://{http}/api/v1/agent/ws").into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("Authorization", HeaderValue::try_from(format!("Bearer {token}"))?);
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("trunkline.v1"));
    let stream = TcpStream::connect(http).await?;
    stream.set_nodelay(true)?;
    let opened = tokio::time::timeout(LIMIT, client_async(request, stream)).await;
    let (socket, _) = opened.context("WebSocket timed out")?.context("WebSocket refused")?;
    let mut agent = Agent {
        number,
        socket,
        state: Value::Null,
        commands: 0,
        seen: 0,
        acknowledged: 0,
        ready_at: Instant::now(),
        offer: String::new(),
        accepting: None,
        hang_up_at: None,
        asked: String::new(),
    };
    agent.send("hello", json!({ "client": "trunkline-loadtest" })).await?;
    while agent.state.is_null() {
        let frame = tokio::time::timeout(LIMIT, agent.socket.next()).await.context("no snapshot")?;
        agent.frame(frame.context("closed before the snapshot")??)?;
    }
    Ok(agent)
}

impl Agent {
    async fn send(&mut self, kind: &str, data: Value) -> Result<String> {
        self.commands += 1;
        let id = format!("{}-{}", self.number, self.commands);
        let frame = json!({ "id": id, "type": kind, "data": data }).to_string();
        self.socket.send(Message::text(frame)).await?;
        Ok(id)
    }

    async fn work(&mut self, habits: Habits, mut gate: Gate, served: mpsc::Sender<Served>) -> Result<()> {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        let mut beats = 0u64;
        loop {
            let open = *gate.borrow() > self.number;
            self.act(habits, open, &served).await?;
            let hang_up = self.hang_up_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            tokio::select! {
                frame = self.socket.next() => {
                    let Some(frame) = frame else { bail!("the server closed the connection") };
                    let answered = self.frame(frame.context("connection broken")?)?;
                    if let Some(result) = answered {
                        self.answered(&result, habits, &served);
                    }
                }
                () = tokio::time::sleep_until(hang_up.into()) => {
                    self.hang_up_at = None;
                    self.send("hang_up", json!({})).await?;
                }
                _ = beat.tick() => {
                    beats += 1;
                    if self.seen > self.acknowledged {
                        self.acknowledged = self.seen;
                        self.send("ack", json!({ "seq": self.seen })).await?;
                    }
                    if beats.is_multiple_of(10) {
                        self.send("ping", json!({})).await?;
                    }
                }
                changed = gate.changed() => if changed.is_err() {
                    self.send("sign_out", json!({})).await?;
                    self.socket.close(None).await?;
                    return Ok(());
                },
            }
        }
    }

    /// Does what the state asks for, once for each state.
    async fn act(&mut self, habits: Habits, open: bool, served: &mpsc::Sender<Served>) -> Result<()> {
        let state = self.state["state"].as_str().unwrap_or_default().to_owned();
        if state == "ringing" {
            let offer = self.state["call"]["offer_id"].as_str().unwrap_or_default();
            if !offer.is_empty() && offer != self.offer {
                self.offer = offer.to_owned();
                return self.ring().await;
            }
        }
        if state == self.asked {
            return Ok(());
        }
        match state.as_str() {
            "not_ready" | "signed_out" if open => {
                self.ready_at = Instant::now();
                self.send("ready", json!({})).await?;
            }
            "wrap_up" => {
                self.hang_up_at = None;
                self.ready_at = Instant::now();
                if !habits.again {
                    self.send("next", json!({ "ready": false, "reason": "break" })).await?;
                }
                let disposition = self.state["call"]["dispositions"][0].clone();
                self.send("wrap_up_finish", json!({ "disposition": disposition, "tags": [] })).await?;
            }
            "not_ready" | "signed_out" => return Ok(()),
            _ => {}
        }
        // A ring that was withdrawn before the answer to `accept` came is told by that answer.
        if served.is_closed() {
            bail!("nobody counts any more");
        }
        self.asked = state;
        Ok(())
    }

    async fn ring(&mut self) -> Result<()> {
        let now = Instant::now();
        let number = self.state["call"]["caller_number"].as_str().unwrap_or_default();
        let served = Served {
            call: crate::callers::index_of(number),
            rang_at: now,
            ready_to_ring: now - self.ready_at,
            connected: None,
            refusal: None,
        };
        let id = self.send("accept", json!({ "offer_id": self.offer, "sdp": browser_offer() })).await?;
        self.accepting = Some((id, now, served));
        Ok(())
    }

    fn answered(&mut self, frame: &Value, habits: Habits, counted: &mpsc::Sender<Served>) {
        let re = frame["re"].as_str().unwrap_or_default();
        let Some((_, asked_at, mut served)) = self.accepting.take_if(|(id, ..)| id == re) else {
            if frame["data"]["ok"] == false {
                crate::report::note(&format!("{}: {re} refused: {}", name_of(self.number), frame["data"]));
            }
            return;
        };
        if frame["data"]["ok"] == true {
            served.connected = Some(asked_at.elapsed());
            self.hang_up_at = Some(Instant::now() + habits.talk);
        } else {
            served.refusal = Some(frame["data"]["error"].as_str().unwrap_or("unknown").to_owned());
        }
        let _ = counted.try_send(served);
    }

    /// Takes a frame; returns it when it is a `result`.
    fn frame(&mut self, message: Message) -> Result<Option<Value>> {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(Some(close)) => bail!("closed with {}: {}", u16::from(close.code), close.reason),
            _ => return Ok(None),
        };
        let mut frame: Value = serde_json::from_str(text.as_str()).context("not JSON")?;
        self.seen = frame["seq"].as_u64().unwrap_or(0).max(self.seen);
        let before = self.state["state"].clone();
        match frame["type"].as_str() {
            Some("snapshot") => self.state = frame["data"].take(),
            Some("delta") => merge(&mut self.state, frame["data"].take()),
            Some("result") => return Ok(Some(frame)),
            _ => {}
        }
        if self.state["state"] != before {
            self.asked.clear();
        }
        Ok(None)
    }
}

/// JSON merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// As Chromium offers one audio line, with fresh ICE credentials and the fingerprint of nobody's certificate.
pub fn browser_offer() -> String {
    let (id, ufrag, password) = (rand::random::<u32>(), rand::random::<u32>(), rand::random::<u128>());
    let fingerprint: Vec<String> =
        rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02X}")).collect();
    let fingerprint = fingerprint.join(":");
    format!(
        "v=0\r\no=- {id} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=extmap-allow-mixed\r\n\
         a=msid-semantic: WMS\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 0 8 110 126\r\nc=IN IP4 0.0.0.0\r\n\
         a=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag:08x}\r\na=ice-pwd:{password:032x}\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:0\r\na=sendrecv\r\na=msid:- microphone\r\n\
         a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:110 telephone-event/48000\r\n\
         a=rtpmap:126 telephone-event/8000\r\na=ssrc:{id} cname:loadtest\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7396 that matter here: replace, remove, nested, array.
    #[test]
    fn patches_are_merged() {
        let mut state = json!({ "a": 1, "call": { "x": 1, "y": 2 }, "list": [1, 2] });
        merge(&mut state, json!({ "a": 2, "call": { "x": null, "z": { "n": null, "k": 1 } }, "list": [3] }));
        assert_eq!(state, json!({ "a": 2, "call": { "y": 2, "z": { "k": 1 } }, "list": [3] }));
        merge(&mut state, json!({ "call": null }));
        assert_eq!(state["call"], Value::Null);
    }

    #[test]
    fn offers_differ_and_have_one_audio_line() {
        let (one, two) = (browser_offer(), browser_offer());
        assert_ne!(one, two);
        assert_eq!(one.matches("m=audio").count(), 1);
    }
}
