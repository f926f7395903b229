//! An agent at the WebSocket, written from the protocol's page alone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Mutex, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::{api::Api, s};

const ANSWER_WITHIN: Duration = s(10);
const KEEP_ALIVE: Duration = s(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Sink = SplitSink<Socket, Message>;

/// What the server has told.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The state, with every change applied.
    pub snapshot: Value,
    /// Every call that rang, in order.
    pub rings: Vec<Ring>,
    /// Every transcript segment.
    pub transcript: Vec<Value>,
    /// Why the connection ended.
    pub closed: Option<String>,
}

/// A call that rang.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring {
    /// The offer.
    pub offer_id: String,
    /// The call.
    pub call_id: String,
    /// Who calls.
    pub caller_number: String,
    /// When the caller came into the queue (server's clock).
    pub entered_ms: i64,
    /// When this client was told.
    pub at: Instant,
}

#[derive(Debug)]
struct Shared {
    sink: Mutex<Sink>,
    answers: std::sync::Mutex<HashMap<String, oneshot::Sender<Value>>>,
    seen: watch::Sender<Seen>,
    next: AtomicU64,
}

/// A signed-in agent.
#[derive(Debug)]
pub struct Agent {
    /// Sign-in name.
    pub name: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Signs in and says hello; returns when the first snapshot is there.
    pub async fn sign_in(address: SocketAddr, name: &str) -> Result<Self> {
        let api = Api::sign_in(address, name).await?;
        Self::connect(address, name, &api.token).await
    }

    /// Opens the WebSocket with a token.
    pub async fn connect(address: SocketAddr, name: &str, token: &str) -> Result<Self> {
        let mut request = format!("ws://{address}/api/v1/agent/ws").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("Authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
        headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("trunkline.v1"));
        let (socket, answer) = timeout(ANSWER_WITHIN, connect_async(request))
            .await
            .context("no answer")?
            .with_context(|| format!("the WebSocket of {name}"))?;
        let chosen = answer.headers().get("Sec-WebSocket-Protocol").and_then(|v| v.to_str().ok());
        ensure!(chosen == Some("trunkline.v1"), "subprotocol {chosen:?}");
        let (sink, mut stream) = socket.split();
        let shared = Arc::new(Shared {
            sink: Mutex::new(sink),
            answers: std::sync::Mutex::default(),
            seen: watch::Sender::new(Seen::default()),
            next: AtomicU64::new(1),
        });
        let reader = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut last = 0;
            let mut ticks = tokio::time::interval(KEEP_ALIVE);
            let why = loop {
                let step = tokio::select! {
                    frame = stream.next() => match frame {
                        Some(Ok(Message::Text(text))) => reader.take(&text, &mut last).await,
                        Some(Ok(Message::Close(frame))) => Err(anyhow::anyhow!("closed: {frame:?}")),
                        Some(Ok(_)) => Ok(()),
                        Some(Err(error)) => Err(error.into()),
                        None => Err(anyhow::anyhow!("closed")),
                    },
                    _ = ticks.tick(), if last > 0 => reader.send("ping", json!({})).await.map(drop),
                };
                if let Err(error) = step {
                    break format!("{error:#}");
                }
            };
            reader.answers.lock().unwrap_or_else(|e| e.into_inner()).clear();
            reader.seen.send_modify(|seen| seen.closed = Some(why));
        });
        let agent = Self { name: name.to_owned(), shared, task };
        agent.shared.send("hello", json!({ "client": "system-tests/1" })).await?;
        agent.until("the first snapshot", ANSWER_WITHIN, |seen| seen.snapshot.is_object()).await?;
        Ok(agent)
    }

    /// Sends a command and returns its result.
    pub async fn command(&self, kind: &str, data: Value) -> Result<Value> {
        let (answered, answer) = oneshot::channel();
        let id = self.shared.send_expecting(kind, data, answered).await?;
        timeout(ANSWER_WITHIN, answer)
            .await
            .with_context(|| format!("{}: no result of {kind} ({id})", self.name))?
            .with_context(|| {
                format!("{}: closed before the result of {kind}: {:?}", self.name, self.seen().closed)
            })
    }

    /// Sends a command that must succeed.
    pub async fn done(&self, kind: &str, data: Value) -> Result<Value> {
        let result = self.command(kind, data).await?;
        ensure!(result["ok"] == true, "{}: {kind}: {result}; state {}", self.name, self.seen().snapshot);
        Ok(result)
    }

    /// Goes ready.
    pub async fn ready(&self) -> Result<()> {
        self.done("ready", json!({})).await.map(drop)
    }

    /// Accepts the call that rings, with an SDP offer, and returns the SDP answer.
    pub async fn accept(&self, offer_id: &str, sdp: &str) -> Result<String> {
        let result = self.done("accept", json!({ "offer_id": offer_id, "sdp": sdp })).await?;
        Ok(result["sdp"].as_str().context("no SDP answer")?.to_owned())
    }

    /// Hangs up.
    pub async fn hang_up(&self) -> Result<()> {
        self.done("hang_up", json!({})).await.map(drop)
    }

    /// Ends the wrap-up.
    pub async fn wrap_up(&self, disposition: &str, tags: &[&str]) -> Result<()> {
        self.done("wrap_up_finish", json!({ "disposition": disposition, "tags": tags })).await.map(drop)
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until a state (`ready`, `talking`) is shown.
    pub async fn until_state(&self, state: &str, limit: Duration) -> Result<Seen> {
        self.until(state, limit, |seen| seen.snapshot["state"] == state).await
    }

    /// Waits until more than `before` calls have rung here, and returns the next one.
    pub async fn next_ring(&self, before: usize, limit: Duration) -> Result<Ring> {
        let seen = self.until("a call rings", limit, |seen| seen.rings.len() > before).await?;
        Ok(seen.rings[before].clone())
    }

    /// Waits for a condition on what was seen.
    pub async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let mut watching = self.shared.seen.subscribe();
        let found = timeout(limit, async {
            loop {
                let now = watching.borrow_and_update().clone();
                if wanted(&now) {
                    return Ok(now);
                }
                if let Some(why) = now.closed {
                    bail!("{}: {why} while waiting for: {what}", self.name);
                }
                watching.changed().await?;
            }
        })
        .await;
        match found {
            Ok(result) => result,
            Err(_) => bail!(
                "{}: not within {:.1} s: {what}; state {}",
                self.name,
                limit.as_secs_f64(),
                self.seen().snapshot
            ),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn send(&self, kind: &str, data: Value) -> Result<String> {
        let id = format!("t{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.put(&id, kind, data).await?;
        Ok(id)
    }

    async fn send_expecting(
        &self,
        kind: &str,
        data: Value,
        answered: oneshot::Sender<Value>,
    ) -> Result<String> {
        let id = format!("t{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.answers.lock().unwrap_or_else(|e| e.into_inner()).insert(id.clone(), answered);
        self.put(&id, kind, data).await?;
        Ok(id)
    }

    async fn put(&self, id: &str, kind: &str, data: Value) -> Result<()> {
        let text = json!({ "id": id, "type": kind, "data": data }).to_string();
        Ok(self.sink.lock().await.send(Message::text(text)).await?)
    }

    /// One frame: numbers must have no gap, and each frame is acknowledged.
    async fn take(&self, text: &str, last: &mut u64) -> Result<()> {
        let frame: Value = serde_json::from_str(text)?;
        let seq = frame["seq"].as_u64().context("a frame without seq")?;
        ensure!(seq == *last + 1, "frame {seq} after {last}");
        *last = seq;
        let data = frame["data"].clone();
        match frame["type"].as_str().context("a frame without type")? {
            "snapshot" => {
                self.seen.send_modify(|seen| seen.snapshot = data);
            }
            "delta" => {
                self.seen.send_modify(|seen| merge(&mut seen.snapshot, &data));
            }
            "ring" => {
                self.seen.send_modify(|seen| ring(seen, &data));
            }
            "transcript" => {
                self.seen.send_modify(|seen| seen.transcript.push(data));
            }
            "result" => {
                let id = frame["re"].as_str().context("a result without re")?;
                let waiting = self.answers.lock().unwrap_or_else(|e| e.into_inner()).remove(id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(data);
                }
            }
            "welcome" | "pong" | "microphone_lost" => {}
            other => bail!("a frame of the unknown type {other}"),
        }
        self.send("ack", json!({ "seq": seq })).await.map(drop)
    }
}

fn ring(seen: &mut Seen, data: &Value) {
    let call = &seen.snapshot["call"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ring = Ring {
        offer_id: text(&data["offer_id"]),
        call_id: text(&call["call_id"]),
        caller_number: text(&call["caller_number"]),
        entered_ms: call["entered_ms"].as_i64().unwrap_or_default(),
        at: Instant::now(),
    };
    if seen.rings.last().is_none_or(|last| last.offer_id != ring.offer_id) {
        seen.rings.push(ring);
    }
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patches_apply_as_the_rfc_says() {
        let mut target = json!({ "a": { "b": 1, "c": 2 }, "d": 3 });
        merge(&mut target, &json!({ "a": { "b": null, "e": 4 }, "d": [1] }));
        assert_eq!(target, json!({ "a": { "c": 2, "e": 4 }, "d": [1] }));
    }
}
