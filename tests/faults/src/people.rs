//! Callers: they wait, talk, hang up, and write down what happens to them.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{sync::mpsc, task::JoinHandle};
use trunkline_loadtest::{
    callers::{Call, Callers, News, Target},
    rtp::{Ears, Heard},
    sip,
};

use crate::history::{History, What};

/// What callers say, Hz.
pub const CALLERS_SAY: u32 = 600;
/// What agents say, Hz.
pub const AGENTS_SAY: u32 = 1_000;
/// The queue of the sample data, as it is dialled.
const QUEUE: &str = "support";
const MOST: usize = 20_000;

/// Callers are counted over the whole process, so that no two runs on one cluster share a number.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The callers of one run.
pub struct Crowd {
    callers: Callers,
    ears: Arc<Ears>,
    history: Arc<History>,
    first: usize,
    pump: JoinHandle<()>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Crowd {
    /// Callers at `bind` who call `sip`; they speak when `speak`, and always listen.
    pub async fn start(bind: IpAddr, sip: SocketAddr, speak: bool, history: &Arc<History>) -> Result<Self> {
        let ears = Ears::start(bind, speak.then_some(CALLERS_SAY), AGENTS_SAY)?;
        let sdp = sip::offer(ears.local(), "sendrecv");
        let target =
            Target { sip, to: QUEUE.to_owned(), sdp, limit: MOST, bind, ears: Some(Arc::clone(&ears)) };
        let (callers, news) = Callers::start(target).await?;
        let pump = tokio::spawn(pump(news, Arc::clone(history)));
        let first = NEXT.load(Ordering::Relaxed);
        Ok(Self { callers, ears, history: Arc::clone(history), first, pump })
    }

    /// The first caller of this run.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Callers come at an even rate; returns when all INVITEs were sent.
    pub async fn come(&self, count: usize, each_second: f64) -> Result<Range<usize>> {
        let begun = Instant::now();
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        for n in 0..count {
            let due = begun + Duration::from_secs_f64(n as f64 / each_second);
            tokio::time::sleep_until(due.into()).await;
            self.history.add(What::Calls { caller: first + n });
            self.callers.place_at(first + n, Instant::now()).await?;
        }
        Ok(first..first + count)
    }

    /// Callers come at an even rate and all of them are answered.
    pub async fn wait(&self, count: usize, each_second: f64, limit: Duration) -> Result<Range<usize>> {
        let from = self.history.len();
        let who = self.come(count, each_second).await?;
        let ours = who.clone();
        self.history
            .until(
                "every caller is answered",
                limit,
                from,
                count,
                move |what| matches!(what, What::Connected { caller } if ours.contains(caller)),
            )
            .await?;
        Ok(who)
    }

    /// These callers hang up.
    pub async fn hang_up(&self, who: impl IntoIterator<Item = usize>) -> Result<()> {
        for caller in who {
            self.history.add(What::HangsUp { caller });
            self.callers.hang_up(caller).await?;
        }
        Ok(())
    }

    /// Waits until these callers' calls are over.
    pub async fn over(&self, who: Range<usize>, limit: Duration) -> Result<()> {
        let count = who.len();
        self.history
            .until("every call is over", limit, 0, count, |what| match what {
                What::Ended { caller } | What::Refused { caller, .. } => who.contains(caller),
                _ => false,
            })
            .await
    }

    /// Callers whose call is not over, although it was answered.
    pub fn present(&self) -> Vec<usize> {
        let mut present = Vec::new();
        for entry in self.history.entries() {
            match entry.what {
                What::Connected { caller } => present.push(caller),
                What::Ended { caller } => present.retain(|other| *other != caller),
                _ => {}
            }
        }
        present
    }

    /// What a caller has heard.
    pub fn heard(&self, caller: usize) -> Heard {
        self.ears.heard(caller)
    }

    /// A caller's call as SIP saw it.
    pub async fn call(&self, caller: usize) -> Result<Call> {
        let calls = self.callers.results().await?;
        calls.get(caller).cloned().with_context(|| format!("caller {caller} has not called"))
    }

    /// All calls as SIP saw them, by caller; those of others are empty.
    pub async fn calls(&self) -> Result<Vec<Call>> {
        self.callers.results().await
    }

    /// The longest time that any of these callers heard nothing, from `since` until now.
    pub fn longest_silence(&self, who: impl IntoIterator<Item = usize>, since: Instant) -> Duration {
        let now = Instant::now();
        who.into_iter().map(|caller| self.heard(caller).longest(since, now)).max().unwrap_or_default()
    }
}

async fn pump(mut news: mpsc::Receiver<News>, history: Arc<History>) {
    while let Some(news) = news.recv().await {
        history.add(match news {
            News::Answered(caller) => What::Connected { caller },
            News::Ended(caller) => What::Ended { caller },
            News::Failed(caller, status) => What::Refused { caller, status },
        });
    }
}
