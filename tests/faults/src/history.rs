//! What callers and agents saw, in order, kept as lines of JSON.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(25);

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the beginning of the run, by the harness's monotonic clock.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can be seen. Callers are known by their number, calls by the id that the system gave them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Something was done to the system.
    Fault {
        /// In words.
        text: String,
    },
    /// A caller sent an INVITE.
    Calls {
        /// Who.
        caller: usize,
    },
    /// The INVITE was answered with 200.
    Connected {
        /// Who.
        caller: usize,
    },
    /// The INVITE was refused, or not answered at all (0).
    Refused {
        /// Who.
        caller: usize,
        /// SIP status.
        status: u16,
    },
    /// The caller decided to hang up.
    HangsUp {
        /// Who.
        caller: usize,
    },
    /// The caller's call is over.
    Ended {
        /// Who.
        caller: usize,
    },
    /// An agent's page is connected to a console.
    Online {
        /// Who.
        agent: String,
        /// Where.
        console: String,
        /// The session went on where it was.
        resumed: bool,
    },
    /// An agent's page lost its connection.
    Offline {
        /// Who.
        agent: String,
        /// Why.
        why: String,
    },
    /// An agent's page shows this now.
    State {
        /// Who.
        agent: String,
        /// The state.
        state: String,
        /// The call in front of the agent, if any.
        #[serde(flatten)]
        call: Option<Call>,
    },
    /// A call rings at an agent (told once for each offer).
    Rings {
        /// Who.
        agent: String,
        /// Which.
        #[serde(flatten)]
        call: Call,
    },
    /// The agent picked up and was connected.
    Answers {
        /// Who.
        agent: String,
        /// Which.
        #[serde(flatten)]
        call: Call,
    },
    /// A command of an agent was refused.
    CommandRefused {
        /// Who.
        agent: String,
        /// Which.
        command: String,
        /// Why.
        error: String,
    },
    /// The agent decided to hang up.
    AgentHangsUp {
        /// Who.
        agent: String,
        /// Which.
        call_id: String,
    },
    /// The agent asks a queue for another one, while the caller hears music.
    Consults {
        /// Who.
        agent: String,
        /// Which.
        call_id: String,
    },
    /// The agent goes back to the caller, and the other one goes.
    TakesBack {
        /// Who.
        agent: String,
        /// Which.
        call_id: String,
    },
    /// The agent leaves the caller to another one: a blind transfer, or the end of a consultation.
    PassesOn {
        /// Who.
        agent: String,
        /// Which.
        call_id: String,
    },
    /// A contact record, read at the end.
    Record {
        /// The call.
        call_id: String,
        /// Who called; None = nobody that the harness knows.
        caller: Option<usize>,
        /// As in the record.
        outcome: String,
        /// The last agent; empty = none.
        agent: String,
        /// Over, milliseconds since the Unix epoch.
        ended_ms: Option<i64>,
        /// Conversation and hold, milliseconds.
        talk_ms: i64,
        /// Release cause.
        cause: String,
    },
    /// What the live numbers say at the end, after everybody has left.
    Rest {
        /// Calls that the system believes to be there.
        calls: u64,
        /// Callers that it believes to be waiting.
        waiting: u64,
    },
    /// The state in which an agent was at the end, after the time in which everything has to heal.
    Settled {
        /// Who.
        agent: String,
        /// The state.
        state: String,
    },
}

/// A call as an agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its id.
    pub call_id: String,
    /// The offer.
    pub offer_id: String,
    /// The caller; None = a number that the harness did not give.
    pub caller: Option<usize>,
    /// Since when the caller waits, milliseconds since the Unix epoch by the system's clock.
    pub entered_ms: i64,
    /// Another agent has the caller, and asks for this one.
    #[serde(default)]
    pub asked: bool,
}

/// The history of one run.
#[derive(Debug)]
pub struct History {
    begun: Instant,
    begun_unix_ms: i64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    file: BufWriter<File>,
}

impl History {
    /// An empty one that is also written to a file.
    pub fn new(path: &Path) -> Result<Arc<Self>> {
        let file = File::create(path).with_context(|| format!("{}", path.display()))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let inner = Inner { entries: Vec::new(), file: BufWriter::new(file) };
        Ok(Arc::new(Self {
            begun: Instant::now(),
            begun_unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            inner: Mutex::new(inner),
        }))
    }

    /// Adds what has just been seen.
    pub fn add(&self, what: What) {
        let entry = Entry { at_ms: self.at(Instant::now()), what };
        let mut inner = self.inner();
        // The verdict is made from memory; a file that cannot be written is noticed at the end.
        if let Ok(line) = serde_json::to_string(&entry) {
            let _ = writeln!(inner.file, "{line}");
        }
        inner.entries.push(entry);
    }

    /// Adds that something was done to the system, and says so.
    pub fn fault(&self, text: impl Into<String>) {
        let text = text.into();
        crate::report::note(&text);
        self.add(What::Fault { text });
    }

    /// An instant in the history's time.
    pub fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// The instant of a time in the history.
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.begun + Duration::from_millis(at_ms)
    }

    /// The harness's wall clock at the beginning, milliseconds since the Unix epoch.
    pub fn begun_unix_ms(&self) -> i64 {
        self.begun_unix_ms
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// How much there is; to look only at what comes later.
    pub fn len(&self) -> usize {
        self.inner().entries.len()
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries from `from` on satisfy a condition.
    pub fn count(&self, from: usize, wanted: impl Fn(&What) -> bool) -> usize {
        self.inner().entries.iter().skip(from).filter(|entry| wanted(&entry.what)).count()
    }

    /// The first entry from `from` on that satisfies a condition.
    pub fn find(&self, from: usize, wanted: impl Fn(&What) -> bool) -> Option<Entry> {
        self.inner().entries.iter().skip(from).find(|entry| wanted(&entry.what)).cloned()
    }

    /// Waits until so many entries from `from` on satisfy a condition; returns how many there were when it gave up.
    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        from: usize,
        count: usize,
        wanted: impl Fn(&What) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.count(from, &wanted);
            if found >= count {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("not within {:.1} s: {what} ({found} of {count})", limit.as_secs_f64());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes out what is still in memory.
    pub fn flush(&self) -> Result<()> {
        self.inner().file.flush().context("the history could not be written")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a history's file.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let line = |(n, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), n + 1))
    };
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let history = History::new(&path).unwrap();
        let call =
            Call { call_id: "c".into(), offer_id: "o".into(), caller: Some(3), entered_ms: 5, asked: false };
        history.add(What::Calls { caller: 3 });
        history.add(What::State { agent: "a".into(), state: "ready".into(), call: None });
        history.add(What::State { agent: "a".into(), state: "talking".into(), call: Some(call.clone()) });
        history.add(What::Rings { agent: "a".into(), call });
        history.flush().unwrap();
        assert_eq!(read(&path).unwrap(), history.entries());
        assert_eq!(history.count(1, |what| matches!(what, What::State { .. })), 2);
    }
}
