use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    command_log::Begin,
    commands,
    protocol::{ClientMessage, CloseCode, Pong, kind},
    registry::Registry,
    session::{Close, Link, Session, json},
};
use crate::{auth::Caller, clock, config::Timings, metrics::ConsoleMetrics};

/// Frames written between two looks at what came in.
const BATCH: usize = 64;
/// Frames a client may send at once, and for each second.
const BURST: f64 = 200.0;
const RATE: f64 = 50.0;
/// Longest id of a frame.
const MAX_ID_BYTES: usize = 64;
/// The reason of a close frame (RFC 6455 section 5.5).
const MAX_REASON_BYTES: usize = 123;
/// The peer's close frame is awaited this long.
const FAREWELL: Duration = Duration::from_secs(2);

/// One WebSocket of an agent, from `hello` to the close frame.
pub(super) struct Socket {
    pub(super) socket: WebSocket,
    /// Unknown: a ticket in `hello` has to say who it is.
    pub(super) caller: Option<Caller>,
    pub(super) registry: Arc<Registry>,
    pub(super) timings: Timings,
    pub(super) metrics: ConsoleMetrics,
    pub(super) stop: CancellationToken,
}

/// What a client's frame is, before its data is read.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    id: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Value,
}

/// Why the conversation ended.
enum End {
    /// The peer closed or is gone.
    Gone,
    /// This side closes.
    Close(Close),
}

fn protocol_error(reason: impl Into<Cow<'static, str>>) -> End {
    End::Close(Close::new(CloseCode::Protocol, reason))
}

impl Socket {
    /// Serves the socket until one side closes it.
    pub(super) async fn serve(mut self) {
        let end = self.greet().await;
        match end {
            End::Gone => {}
            End::Close(close) => self.close(close).await,
        }
    }

    async fn greet(&mut self) -> End {
        let deadline = Instant::now() + self.timings.hello;
        let envelope = tokio::select! {
            () = self.stop.cancelled() => return draining(),
            () = sleep_until(deadline) => return protocol_error("no hello in time"),
            text = text_frame(&mut self.socket) => match text.and_then(|text| read_envelope(&text)) {
                Ok(envelope) => envelope,
                Err(end) => return end,
            },
        };
        self.metrics.frame("in");
        let hello = match ClientMessage::read(&envelope.kind, envelope.data) {
            Some(Ok(ClientMessage::Hello(hello))) if hello.client.len() <= 128 => hello,
            Some(Ok(ClientMessage::Hello(_))) => {
                return protocol_error("hello: client: give at most 128 bytes");
            }
            Some(Err(error)) => return protocol_error(format!("hello: {error}")),
            _ => return protocol_error("the first frame has to be hello"),
        };
        let Some(caller) = self.caller.take().or_else(|| self.registry.ticket_holder(&hello)) else {
            return End::Close(Close::new(CloseCode::NotSignedIn, "sign in first"));
        };
        let link = Arc::new(Link::default());
        let session = match self.registry.join(&caller, &hello, envelope.id.map(Into::into), &link) {
            Ok(session) => session,
            Err(close) => return End::Close(close),
        };
        let end = self.converse(&caller, &session, &link).await;
        self.registry.part(&session, &link);
        end
    }

    async fn converse(&mut self, caller: &Caller, session: &Arc<Session>, link: &Arc<Link>) -> End {
        let mut idle = Instant::now() + self.timings.idle;
        let mut allowance = Allowance::new();
        loop {
            if let Some(close) = link.closing() {
                return End::Close(close);
            }
            let frames = session.lock().take(link, BATCH);
            let more = frames.len() == BATCH;
            for frame in frames {
                if let Err(end) = self.send(frame).await {
                    return end;
                }
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return draining(),
                () = link.wake.notified() => {}
                () = sleep_until(idle) => {
                    return End::Close(Close::new(CloseCode::Idle, "nothing came from the client: send ping"));
                }
                received = frame(&mut self.socket) => {
                    idle = Instant::now() + self.timings.idle;
                    if !allowance.spend() {
                        return protocol_error("too many frames: at most 50 a second");
                    }
                    match received {
                        Ok(Some(text)) => if let Err(end) = self.handle(caller, session, &text) {
                            return end;
                        },
                        Ok(None) => {}
                        Err(end) => return end,
                    }
                }
            }
        }
    }

    async fn send(&mut self, text: String) -> Result<(), End> {
        self.metrics.frame("out");
        match timeout(self.timings.write_stall, self.socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Gone),
        }
    }

    fn handle(&self, caller: &Caller, session: &Arc<Session>, text: &str) -> Result<(), End> {
        self.metrics.frame("in");
        let envelope = read_envelope(text)?;
        let Some(message) = ClientMessage::read(&envelope.kind, envelope.data) else {
            let id = command_id(envelope.id)?;
            let message =
                format!("there is no type {:?}", envelope.kind.chars().take(64).collect::<String>());
            session.lock().refuse(&id, "unknown_type", &message, None);
            return Ok(());
        };
        match message {
            Ok(ClientMessage::Hello(_)) => Err(protocol_error("hello comes once, as the first frame")),
            Ok(ClientMessage::Ack(ack)) => session.lock().acknowledge(ack.seq).map_err(|error| {
                protocol_error(format!("ack of {}, but the last frame was {}", ack.seq, error.last))
            }),
            Ok(ClientMessage::Ping(_)) => {
                let pong = json(&Pong { server_ms: clock::now_ms() });
                session.lock().push(kind::PONG, envelope.id.map(Into::into), pong);
                Ok(())
            }
            Ok(message) => {
                self.command(caller, session, &command_id(envelope.id)?, message);
                Ok(())
            }
            Err(error) => {
                let id = command_id(envelope.id)?;
                session.lock().refuse(&id, "invalid", &error.to_string(), Some(error.field));
                Ok(())
            }
        }
    }

    fn command(&self, caller: &Caller, session: &Arc<Session>, id: &str, message: ClientMessage) {
        let name = message.name();
        let now = std::time::Instant::now();
        let saved = session.lock().saved_notes();
        let command = match commands::command(message, &saved) {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(error) => return session.lock().refuse(id, "invalid", &error.to_string(), Some(error.field)),
        };
        let begin = session.lock().begin(id, name, &command, now);
        if begin != Begin::New {
            return;
        }
        // Not under the lock: the answer may come back on this very thread.
        if let Err(refused) = self.registry.send(caller, &session.id, id, command) {
            session.lock().fail(id, refused.code(), &refused.to_string(), now);
        }
    }

    /// Says why and waits a moment for the peer's own close frame, so that the reason is not lost with a reset.
    async fn close(&mut self, close: Close) {
        close_with(&mut self.socket, &close, &self.metrics).await;
    }
}

/// Sends a close frame and waits a moment for the peer's.
pub(super) async fn close_with(socket: &mut WebSocket, close: &Close, metrics: &ConsoleMetrics) {
    metrics.close(close.code.code());
    tracing::debug!(code = close.code.code(), reason = %close.reason, "closing an agent's socket");
    let mut end = close.reason.len().min(MAX_REASON_BYTES);
    while !close.reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = Utf8Bytes::from(&close.reason[..end]);
    let frame = Message::Close(Some(CloseFrame { code: close.code.code(), reason }));
    let farewell = async {
        if socket.send(frame).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

fn draining() -> End {
    End::Close(Close::new(CloseCode::Draining, "this node is being stopped: connect again"))
}

/// The next frame; `None` for those of WebSocket itself.
async fn frame(socket: &mut WebSocket) -> Result<Option<Utf8Bytes>, End> {
    match socket.recv().await {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Binary(_))) => Err(protocol_error("frames have to be text")),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_))) | None => Err(End::Gone),
        Some(Err(error)) => {
            tracing::debug!(%error, "an agent's socket broke");
            Err(protocol_error("the frame is too large or not WebSocket"))
        }
    }
}

async fn text_frame(socket: &mut WebSocket) -> Result<Utf8Bytes, End> {
    loop {
        if let Some(text) = frame(socket).await? {
            return Ok(text);
        }
    }
}

fn read_envelope(text: &str) -> Result<Envelope, End> {
    let envelope: Envelope =
        serde_json::from_str(text).map_err(|error| protocol_error(format!("not a frame: {error}")))?;
    match &envelope.id {
        Some(id) if id.is_empty() || id.len() > MAX_ID_BYTES => {
            Err(protocol_error(format!("id: give 1 to {MAX_ID_BYTES} bytes")))
        }
        _ => Ok(envelope),
    }
}

fn command_id(id: Option<String>) -> Result<String, End> {
    id.ok_or_else(|| protocol_error("id is missing: each command needs its own"))
}

/// A token bucket for a client's frames.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: BURST, at: Instant::now() }
    }

    fn spend(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}
