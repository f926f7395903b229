//! A cluster with people: what every scenario begins and ends with.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use trunkline_loadtest::callers::index_of;
use trunkline_system_tests::{
    s,
    sipp::{Calling, Sipp},
};

use super::Run;
use crate::{
    agent::{Desk, Shift, Tones},
    checker::{self, Rules, Violation},
    history::{History, What},
    people::{AGENTS_SAY, CALLERS_SAY, Crowd},
    report::Measured,
    world::{CLIENTS, SIP_PORT, VIRTUAL_SIP, supervisor},
};

/// Everything has to be healed so long after the last fault.
const HEALED_WITHIN: Duration = s(30);
/// Callers with these numbers and above are sipp's: what happens to them, sipp says.
const STRANGERS: usize = 9_000_000;
/// What all their numbers begin with; sipp adds the number of the call, 1 to 9.
const SIPP_DIGITS: &str = "+1212900000";
const SIGNED_IN_WITHIN: Duration = s(60);

/// What a scenario found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Figures with their bounds.
    pub measured: Vec<Measured>,
    /// Promises that were not kept.
    pub violations: Vec<Violation>,
    /// Why nothing was tried.
    pub not_run: Option<&'static str>,
}

/// Where people are, and where the system is.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address of callers and agents.
    pub bind: IpAddr,
    /// Where SIP goes.
    pub sip: SocketAddr,
    /// Consoles.
    pub consoles: Vec<SocketAddr>,
}

/// Callers, agents, and what they saw.
pub struct Stage {
    /// What was seen.
    pub history: Arc<History>,
    /// Callers.
    pub crowd: Crowd,
    /// Agents.
    pub desk: Desk,
    place: Place,
    folder: PathBuf,
    /// What is allowed.
    pub rules: Rules,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// Heals so long after the last fault.
    pub healed_within: Duration,
}

impl Stage {
    /// Agents sign in and sit idle; nobody calls yet. With `audio`, callers and agents talk and listen.
    pub async fn open(run: &Run<'_>, agents: usize, audio: bool) -> Result<Self> {
        let place = Place {
            bind: run.world.network.address(CLIENTS)?.into(),
            sip: (VIRTUAL_SIP, SIP_PORT).into(),
            consoles: run.world.consoles(),
        };
        Self::build(place, &run.folder, agents, audio).await
    }

    /// The same, for a system that is no [`crate::world::World`].
    pub async fn build(place: Place, folder: &Path, agents: usize, audio: bool) -> Result<Self> {
        let history = History::new(&folder.join("history.jsonl"))?;
        let Place { bind, sip, consoles } = place.clone();
        let crowd = Crowd::start(bind, sip, audio, &history).await?;
        let tones = audio.then_some(Tones { says: AGENTS_SAY, hears: CALLERS_SAY });
        let shift = Shift { consoles, agents, bind, tones };
        let desk = Desk::start(&shift, &history);
        let rules = Rules { begun_unix_ms: history.begun_unix_ms(), ..Rules::default() };
        let (measured, healed_within, folder) = (Vec::new(), HEALED_WITHIN, folder.to_owned());
        let stage = Self { history, crowd, desk, place, folder, rules, measured, healed_within };
        stage
            .desk
            .until("all agents are signed in", SIGNED_IN_WITHIN, &["not_ready", "ready"], agents)
            .await?;
        Ok(stage)
    }

    /// Callers of another make (at most 9): sipp, which knows nothing of this suite. They wait until an agent hangs up.
    pub fn sipp(&self, calls: u32) -> Result<Calling> {
        Sipp::own("wait", self.place.sip)
            .from_address(self.place.bind)
            .key("caller", SIPP_DIGITS)
            .calls(calls, 10)
            .limit(s(180))
            .start(&self.folder)
    }

    /// So many callers talk to agents, and nobody else is there.
    pub async fn talk(&self, count: usize, limit: Duration) -> Result<Range<usize>> {
        self.desk.order(|orders| {
            orders.open = count;
            orders.talk = None;
        });
        self.desk.until("agents are ready", s(20), &["ready"], count).await?;
        let who = self.crowd.wait(count, 10.0, s(30)).await?;
        self.desk.until("all talk", limit, &["talking"], count).await?;
        Ok(who)
    }

    /// Adds a figure.
    pub fn measure(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// From an instant to the first ring after it.
    pub async fn first_ring(&self, since: Instant, from: usize, limit: Duration) -> Result<Duration> {
        let rings = |what: &What| matches!(what, What::Rings { .. });
        self.history.until("a call rings", limit, from, 1, rings).await?;
        let ring = self.history.find(from, rings).context("a ring")?;
        Ok(self.history.instant(ring.at_ms).saturating_duration_since(since))
    }

    /// Ends all: agents serve or hang up, whoever is left is waited for; then records and what is left are read, and the
    /// history is judged.
    pub async fn close(self) -> Result<Verdict> {
        self.desk.order(|orders| {
            orders.open = usize::MAX;
            orders.answer_after = Some(Duration::from_millis(100));
            orders.talk = Some(Duration::from_millis(300));
            orders.hang_up += 1;
        });
        let served = trunkline_system_tests::until("every caller is served", self.healed_within, || {
            std::future::ready(Ok(self.crowd.present().is_empty().then_some(())))
        });
        // Whoever is not served by now is told by the checker: they wait in vain.
        let waited = served.await;
        self.desk.order(|orders| orders.open = 0);
        let agents = self.desk.states().len();
        let idle =
            self.desk.until("every agent is free", self.healed_within, &["not_ready", "signed_out"], agents);
        let settled = idle.await;
        self.records().await?;
        for (agent, state) in self.desk.states() {
            let state = state.unwrap_or_else(|| "offline".into());
            self.history.add(What::Settled { agent, state });
        }
        self.history.flush()?;
        let history = self.history.entries();
        let mut violations = checker::check(&history, &self.rules);
        for caller in self.crowd.present() {
            violations.push(Violation {
                promise: checker::Promise::NobodyStuck,
                text: format!("caller {caller} is still there and nobody serves them"),
            });
        }
        for error in [waited, settled].into_iter().filter_map(Result::err) {
            crate::report::note(&format!("{error:#}"));
        }
        self.desk.leave().await;
        Ok(Verdict { measured: self.measured, violations, not_run: None })
    }

    /// Reads the records of this run's callers, and what the system believes to be there.
    async fn records(&self) -> Result<()> {
        let connected: BTreeSet<usize> = self
            .history
            .entries()
            .into_iter()
            .filter_map(|entry| match entry.what {
                What::Connected { caller } => Some(caller),
                _ => None,
            })
            .collect();
        let first = self.crowd.first();
        let deadline = Instant::now() + self.healed_within;
        let (mut records, mut rest) = (Vec::new(), (u64::MAX, u64::MAX));
        loop {
            // Whichever console answers: the one that was asked last may be the one that is gone.
            let asked = async {
                let api = supervisor(&self.place.consoles).await?;
                anyhow::Ok((api.contacts("").await?, api.live().await?))
            };
            if let Ok(Ok((contacts, live))) = tokio::time::timeout(s(10), asked).await {
                records = ours(&contacts, first);
                rest = left(&live);
                let whole =
                    records.iter().all(|record| matches!(record, What::Record { ended_ms: Some(_), .. }));
                if whole && records.len() >= connected.len() && rest == (0, 0) {
                    break;
                }
            }
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        anyhow::ensure!(rest.0 != u64::MAX, "no console tells the records");
        records.into_iter().for_each(|record| self.history.add(record));
        self.history.add(What::Rest { calls: rest.0, waiting: rest.1 });
        Ok(())
    }
}

/// The records of callers from `first` on; numbers that the harness did not give count as nobody's.
fn ours(contacts: &[Value], first: usize) -> Vec<What> {
    let record = |contact: &Value| {
        let text = |name: &str| contact[name].as_str().unwrap_or_default().to_owned();
        let ms = |name: &str| contact[name].as_i64().unwrap_or_default();
        let caller = index_of(contact["caller_number"].as_str().unwrap_or_default());
        let counts = caller.is_none_or(|caller| (first..STRANGERS).contains(&caller));
        counts.then(|| What::Record {
            call_id: text("call_id"),
            caller,
            outcome: text("outcome"),
            agent: text("agent_id"),
            ended_ms: contact["ended_ms"].as_i64(),
            talk_ms: ms("talk_ms") + ms("hold_ms"),
            cause: text("cause"),
        })
    };
    contacts.iter().filter_map(record).collect()
}

fn left(live: &Value) -> (u64, u64) {
    let calls = live["calls_active"].as_u64().unwrap_or_default();
    let queues = live["queues"].as_array().cloned().unwrap_or_default();
    (calls, queues.iter().map(|queue| queue["waiting"].as_u64().unwrap_or_default()).sum())
}
