//! Agents over the documented agent protocol (`/api/v1/agent/protocol`): they sign in, are ready, accept, talk, hang up,
//! wrap up, and come back by themselves when their console is gone.
//!
//! Each agent is a task with its own WebSocket. With tones each call has a real WebRTC connection; without them the offer
//! is valid but nobody stands behind it, and a call is connected when the answer to `accept` comes.

pub mod audio;
pub mod client;
mod page;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{load::Dist, rtp::Heard};

/// The server hashes passwords on purpose slowly: more at a time only queue there.
const SIGNING_AT_ONCE: usize = 2;
/// The first sign-in, and a second for each further agent.
const FIRST_SIGN_IN: Duration = Duration::from_secs(60);
/// News that nobody has read yet.
const NEWS: usize = 100_000;

/// What happens to agents.
#[derive(Clone, Debug)]
pub enum News {
    /// The page shows the agent's state.
    Online {
        /// Which, from 0.
        agent: usize,
        /// The session before goes on.
        resumed: bool,
    },
    /// The connection is lost; it will be made again.
    Offline {
        /// Which.
        agent: usize,
        /// Why.
        why: String,
    },
    /// A call rings.
    Rang {
        /// Which agent.
        agent: usize,
        /// The call, by the caller's number.
        call: Option<usize>,
        /// When the agent became free: `ready` or the end of the wrap-up was sent.
        free: Instant,
        /// When it rang.
        at: Instant,
        /// When the caller entered the queue, by the system's clock, which is taken to be this machine's.
        entered: Option<Instant>,
    },
    /// The agent has the call.
    Connected {
        /// Which agent.
        agent: usize,
        /// The call.
        call: Option<usize>,
        /// From `accept` to its answer.
        took: Duration,
    },
    /// The system refused what an agent wanted.
    Refused {
        /// Which agent.
        agent: usize,
        /// The call.
        call: Option<usize>,
        /// What was wanted.
        command: String,
        /// The error code.
        error: String,
    },
    /// The conversation is over.
    Finished {
        /// Which agent.
        agent: usize,
        /// The call.
        call: Option<usize>,
        /// How long it was.
        talked: Duration,
        /// What the agent heard, with audio.
        heard: Option<Heard>,
    },
    /// The caller was passed on to another queue; the conversation is over for this agent.
    PassedOn {
        /// The call.
        call: Option<usize>,
    },
}

/// How agents work.
#[derive(Clone, Debug)]
pub struct Habits {
    /// From ringing to picking up.
    pub answer: Dist,
    /// How long they talk.
    pub talk: Dist,
    /// From hanging up to being ready again.
    pub wrap_up: Dist,
    /// Ready again after each call.
    pub again: bool,
    /// A caller of another queue is passed on to this one (blind) at the end of the conversation.
    pub transfer: Option<String>,
}

impl Habits {
    /// They pick up at once and need no time after the call.
    pub fn quick(talk: Duration, again: bool) -> Self {
        let none = Dist::constant(Duration::ZERO);
        Self { answer: none.clone(), talk: talk.into(), wrap_up: none, again, transfer: None }
    }
}

/// Which tones a conversation with a caller has: what the agent says and what it listens for.
#[derive(Clone, Debug)]
pub struct Voices {
    /// What agents say, Hz.
    pub agents: u32,
    /// What callers say, Hz, in turns by their number.
    pub callers: Vec<u32>,
}

/// Who works where.
#[derive(Clone, Debug)]
pub struct Shift {
    /// Consoles.
    pub consoles: Vec<SocketAddr>,
    /// The first agent, from 0.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Accounts are this and a number from 001 on.
    pub prefix: String,
    /// `{name}` is the account.
    pub password: String,
    /// Their own address.
    pub bind: IpAddr,
    /// Real audio; `None`: signalling only.
    pub voices: Option<Voices>,
    /// How they work.
    pub habits: Habits,
    /// Seed of what they draw.
    pub seed: u64,
}

impl Shift {
    /// Sample agents of a system on this machine, without audio.
    pub fn local(console: SocketAddr, count: usize, habits: Habits) -> Self {
        Self {
            consoles: vec![console],
            first: 0,
            count,
            prefix: "agent-".into(),
            password: "{name}-dev".into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            voices: None,
            habits,
            seed: 1,
        }
    }

    fn name(&self, agent: usize) -> String {
        format!("{}{:03}", self.prefix, agent + 1)
    }
}

/// Which agents may be ready: number `n` is when the value is above `n`.
pub type Gate = watch::Receiver<usize>;

/// Starts the agents and waits until all are signed in. The news end when all have left, which they do when the gate's
/// sender is dropped.
pub async fn start(shift: Shift, gate: Gate) -> Result<mpsc::Receiver<News>> {
    let (sender, news) = mpsc::channel(NEWS);
    let (came, mut here) = watch::channel(page::Arrived::default());
    let count = shift.count;
    let (shift, signing) = (Arc::new(shift), Arc::new(Semaphore::new(SIGNING_AT_ONCE)));
    for n in 0..count {
        let office = page::Office {
            shift: Arc::clone(&shift),
            signing: Arc::clone(&signing),
            came: came.clone(),
            news: sender.clone(),
        };
        tokio::spawn(page::Page::new(shift.first + n, office).run(gate.clone()));
    }
    drop((came, sender));
    let deadline = tokio::time::Instant::now() + FIRST_SIGN_IN + Duration::from_secs(count as u64);
    let mut told = Instant::now();
    loop {
        let now = here.borrow_and_update().clone();
        if now.count >= count {
            return Ok(news);
        }
        if let Some(why) = now.refused {
            bail!("agents cannot sign in: {why}");
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            crate::report::note(&format!("{} of {count} agents are signed in", now.count));
        }
        let changed = tokio::time::timeout_at(deadline, here.changed()).await;
        changed
            .with_context(|| format!("only {} of {count} agents are signed in", now.count))?
            .context("the agents' tasks have ended")?;
    }
}

/// Lets all agents sign out and returns the news that nobody has read yet.
pub async fn leave(gate: watch::Sender<usize>, mut news: mpsc::Receiver<News>) -> Vec<News> {
    drop(gate);
    let mut rest = Vec::new();
    let all = async { while news.recv_many(&mut rest, 1_000).await > 0 {} };
    if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
        crate::report::note("some agents did not sign out in time");
    }
    rest
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
