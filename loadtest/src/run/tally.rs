//! What a run came to: everything that workers tell, as totals, by second, and as the order of service.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::{
    counts::Counts,
    hist::Hist,
    order::{Place, overtaken},
    told::{Audio, Beat, CallRecord, Told},
};
use crate::scenario::Seen;

/// Seconds that are kept with their histograms, for windows and for what comes late.
const OPEN: usize = 70;
/// Conversations shorter than this say nothing about audio both ways: the connection takes its time.
const SPEAKS_FROM_US: u64 = 2_000_000;
/// Further notes only count.
const NOTES: usize = 40;

/// Times of a run or of a second.
#[derive(Clone, Debug)]
pub struct Times {
    /// How late the generator sent INVITEs.
    pub late: Hist,
    /// Intended moment to 180.
    pub ringing: Hist,
    /// Intended moment to 200.
    pub setup: Hist,
    /// `accept` to its answer.
    pub accept: Hist,
    /// Agent free, with somebody waiting, to ringing.
    pub free_to_ring: Hist,
    /// Caller in the queue to the first ring.
    pub wait: Hist,
    /// Longest time without a packet, of each caller who heard anything.
    pub gaps: Hist,
}

impl Times {
    fn new(digits: u8) -> Self {
        let hist = || Hist::with_digits(digits);
        Self {
            late: hist(),
            ringing: hist(),
            setup: hist(),
            accept: hist(),
            free_to_ring: hist(),
            wait: hist(),
            gaps: hist(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.late.add(&other.late);
        self.ringing.add(&other.ringing);
        self.setup.add(&other.setup);
        self.accept.add(&other.accept);
        self.free_to_ring.add(&other.free_to_ring);
        self.wait.add(&other.wait);
        self.gaps.add(&other.gaps);
    }

    fn seen(&self, failed: f64) -> Seen {
        Seen {
            failed,
            ringing_p99: self.ringing.at(0.99),
            setup_p99: self.setup.at(0.99),
            free_to_ring_p99: self.free_to_ring.at(0.99),
            wait_p99: self.wait.at(0.99),
        }
    }
}

/// A second of the run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Second {
    /// Calls that were due.
    pub due: u64,
    /// Calls that were not started.
    pub not_started: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that were refused or lost.
    pub failed: u64,
    /// Callers who gave up.
    pub gave_up: u64,
    /// Calls that an agent got.
    pub served: u64,
    /// Calls under way at its end.
    pub live: u64,
    /// Callers waiting at its end.
    pub waiting: u64,
    /// Conversations at its end.
    pub talking: u64,
    /// Intended moment to 200, median, ms.
    pub setup_p50: Option<f64>,
    /// The same, 99th percentile.
    pub setup_p99: Option<f64>,
    /// Agent free to ringing, median, ms.
    pub free_p50: Option<f64>,
    /// The same, 99th percentile.
    pub free_p99: Option<f64>,
    /// Caller in the queue to ringing, 99th percentile, ms.
    pub wait_p99: Option<f64>,
}

/// A call that is not over.
#[derive(Default)]
struct Live {
    entered_us: Option<i64>,
    /// Since when the agent was free, and when it rang for the first time.
    rang: Option<(i64, i64)>,
    served: bool,
    agent: Option<usize>,
    /// How often an agent got it, and how often one was told that it is passed on.
    got: u64,
    passed_on: u64,
    /// What the agent heard, of a conversation that was long enough.
    heard: Option<Audio>,
}

/// All that was told.
pub struct Tally {
    warm_up_us: i64,
    audio: bool,
    flow: bool,
    /// Totals, without the warm-up.
    pub counts: Counts,
    /// Times, without those of the warm-up.
    pub times: Times,
    /// By second, the warm-up included.
    pub seconds: Vec<Second>,
    /// The latest seconds; the first number is that of the front.
    open: (u64, VecDeque<Times>),
    live: HashMap<usize, Live>,
    /// Calls that are over for the caller and not yet for the agent, with what the caller heard.
    ending: HashMap<usize, (usize, Audio)>,
    places: Vec<Place>,
    /// Things to note.
    pub notes: Vec<String>,
    more_notes: u64,
    /// Workers' beats that have come, by second.
    pub generator_cpu_s: f64,
    /// Under way at each worker's last beat.
    workers_live: BTreeMap<usize, u64>,
}

impl Tally {
    /// `audio`: both sides have audio, so that both must hear something. `flow`: callers are in a menu before they are in
    /// a queue, so that only the system knows when they entered it.
    pub fn new(warm_up: Duration, audio: bool, flow: bool) -> Self {
        Self {
            warm_up_us: i64::try_from(warm_up.as_micros()).unwrap_or(i64::MAX),
            audio,
            flow,
            counts: Counts::default(),
            times: Times::new(3),
            seconds: Vec::new(),
            open: (0, VecDeque::new()),
            live: HashMap::new(),
            ending: HashMap::new(),
            places: Vec::new(),
            notes: Vec::new(),
            more_notes: 0,
            generator_cpu_s: 0.0,
            workers_live: BTreeMap::new(),
        }
    }

    /// Takes what a worker tells. Returns a call that an agent has got, so that its worker can be told.
    pub fn take(&mut self, worker: usize, told: Told) -> Option<usize> {
        match told {
            Told::Answered { call, at_us } => self.answered(call, at_us),
            Told::Over(record) => self.over(&record),
            Told::Rang { call, free_us, at_us, entered_us, .. } => {
                self.rang(call, free_us, at_us, entered_us.filter(|_| self.flow));
            }
            Told::Connected { call, agent } => return self.connected(call?, agent),
            Told::Finished { call, agent, talked_us, audio } => self.finished(call, agent, talked_us, audio),
            Told::PassedOn { call } => self.passed_on(call),
            Told::Refused { what } => *self.counts.agents_refused.entry(what).or_default() += 1,
            Told::Agent { online, resumed, why } => {
                self.counts.agents_resumed += u64::from(online && resumed);
                if !online {
                    self.lost(why);
                }
            }
            Told::Beat(beat) => self.beat(worker, &beat),
            Told::Note(note) => self.note(note),
            Told::Ready | Told::Done | Told::Lost { .. } => {}
        }
        None
    }

    /// A connection of an agent was lost; of very many reasons only some are kept apart.
    fn lost(&mut self, why: String) {
        let reasons = &mut self.counts.agents_lost;
        let why =
            if reasons.len() < NOTES || reasons.contains_key(&why) { why } else { "other reasons".into() };
        *reasons.entry(why).or_default() += 1;
    }

    /// Keeps a note; of very many only some.
    pub fn note(&mut self, note: String) {
        if self.notes.len() < NOTES {
            self.notes.push(note);
        } else {
            self.more_notes += 1;
        }
    }

    fn is_counted(&self, at_us: i64) -> bool {
        at_us >= self.warm_up_us
    }

    fn index(at_us: i64) -> usize {
        usize::try_from(at_us.max(0) / 1_000_000).unwrap_or(0)
    }

    fn second(&mut self, at_us: i64) -> &mut Second {
        let index = Self::index(at_us).min(8 * 24 * 3_600);
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        // Just made long enough.
        &mut self.seconds[index]
    }

    /// The histograms of a second that is not too long ago.
    fn open(&mut self, index: u64) -> Option<&mut Times> {
        while self.open.0 + self.open.1.len() as u64 <= index {
            let reused = (self.open.1.len() >= OPEN).then(|| self.open.1.pop_front()).flatten();
            self.open.0 += u64::from(reused.is_some());
            self.open.1.push_back(Times::new(2));
        }
        let place = usize::try_from(index.checked_sub(self.open.0)?).ok()?;
        self.open.1.get_mut(place)
    }

    fn over(&mut self, record: &CallRecord) {
        let live = self.live.remove(&record.call).unwrap_or_default();
        let second = self.second(record.over_us);
        second.failed += u64::from(record.failed.is_some());
        second.gave_up += u64::from(record.gave_up);
        if let Some(entered_us) = live.entered_us {
            let left_us = live.rang.map_or(record.over_us, |(_, at_us)| at_us);
            // In a flow the system said when the queue was entered.
            let sent_us = if self.flow { entered_us } else { record.sent_us };
            self.places.push(Place { sent_us, entered_us, rang: live.rang.is_some(), left_us });
        }
        if !self.is_counted(record.intended_us) {
            return;
        }
        let counts = &mut self.counts;
        counts.over += 1;
        counts.served += u64::from(live.served);
        counts.passed_on += live.passed_on.min(live.got.saturating_sub(1));
        counts.gave_up += u64::from(record.gave_up);
        counts.repeats += u64::from(record.repeats);
        if let Some(status) = record.failed {
            *counts.refused.entry(status).or_default() += 1;
        }
        let Some(audio) = record.audio else { return };
        counts.packets += audio.packets;
        counts.packets_lost += audio.lost;
        if audio.packets > 0 {
            let gap = Duration::from_micros(audio.gap_us);
            counts.gap_ms = counts.gap_ms.max(gap.as_secs_f64() * 1_000.0);
            self.times.gaps.record(gap);
        }
        match (live.heard, live.agent) {
            (Some(heard), _) => self.both(heard, audio),
            (None, Some(agent)) => {
                self.ending.insert(record.call, (agent, audio));
            }
            (None, None) => {}
        }
    }

    /// What both sides of a conversation heard.
    fn both(&mut self, agent: Audio, caller: Audio) {
        if self.audio {
            self.counts.two_sided += 1;
            self.counts.one_way += u64::from(!(agent.tone && caller.tone));
        }
    }

    fn answered(&mut self, call: usize, at_us: i64) {
        self.second(at_us).answered += 1;
        self.counts.answered += u64::from(self.is_counted(at_us));
        // An agent's page may have been faster than the caller's 200.
        let live = self.live.entry(call).or_default();
        let entered_us = *live.entered_us.get_or_insert(at_us);
        if let Some((free_us, rang_us)) = live.rang {
            self.waited(entered_us, free_us, rang_us);
        }
    }

    fn rang(&mut self, call: Option<usize>, free_us: i64, at_us: i64, entered_us: Option<i64>) {
        let Some(call) = call else { return };
        let live = self.live.entry(call).or_default();
        if live.rang.is_some() {
            return;
        }
        live.rang = Some((free_us, at_us));
        live.entered_us = entered_us.or(live.entered_us);
        if let Some(entered_us) = live.entered_us {
            self.waited(entered_us, free_us, at_us);
        }
    }

    /// A caller's first ring.
    fn waited(&mut self, entered_us: i64, free_us: i64, at_us: i64) {
        let wait = after(entered_us, at_us);
        // Before both were there nobody could have rung.
        let free = after(entered_us.max(free_us), at_us);
        let index = Self::index(at_us) as u64;
        if let Some(times) = self.open(index) {
            times.wait.record(wait);
            times.free_to_ring.record(free);
        }
        if self.is_counted(at_us) {
            self.times.wait.record(wait);
            self.times.free_to_ring.record(free);
        }
        self.summarise(index);
    }

    fn connected(&mut self, call: usize, agent: usize) -> Option<usize> {
        let now = self.seconds.len().saturating_sub(1);
        let live = self.live.entry(call).or_default();
        live.got += 1;
        if live.agent.is_some_and(|other| other != agent) {
            self.counts.twice += 1;
            self.note(format!("call {call} was with two agents at once"));
            return Some(call);
        }
        live.agent = Some(agent);
        if !std::mem::replace(&mut live.served, true)
            && let Some(second) = self.seconds.get_mut(now)
        {
            second.served += 1;
        }
        Some(call)
    }

    fn passed_on(&mut self, call: Option<usize>) {
        if let Some(live) = call.and_then(|call| self.live.get_mut(&call)) {
            live.passed_on += 1;
        }
    }

    fn finished(&mut self, call: Option<usize>, agent: usize, talked_us: u64, audio: Option<Audio>) {
        let Some(call) = call else { return };
        if let Some(audio) = audio {
            self.counts.packets += audio.packets;
            self.counts.packets_lost += audio.lost;
        }
        let long_enough = audio.filter(|_| talked_us >= SPEAKS_FROM_US);
        if let Some(live) = self.live.get_mut(&call) {
            if live.agent == Some(agent) {
                live.agent = None;
            }
            live.heard = live.heard.or(long_enough);
        } else if let Some((_, caller)) = self.ending.remove(&call).filter(|(of, _)| *of == agent)
            && let Some(heard) = long_enough
        {
            self.both(heard, caller);
        }
    }

    fn beat(&mut self, worker: usize, beat: &Beat) {
        self.workers_live.insert(worker, beat.live);
        let at_us = i64::try_from(beat.second).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let (waiting, talking) = self.now();
        let live = self.workers_live.values().sum();
        let second = self.second(at_us);
        second.due += beat.due;
        second.not_started += beat.not_started;
        (second.live, second.waiting, second.talking) = (live, waiting, talking);
        let mut times = Times::new(2);
        times.late.add(&beat.late);
        times.ringing.add(&beat.ringing);
        times.setup.add(&beat.setup);
        times.accept.add(&beat.accept);
        if let Some(open) = self.open(beat.second) {
            open.add(&times);
        }
        self.generator_cpu_s += beat.cpu_s;
        if self.is_counted(at_us) {
            self.counts.due += beat.due;
            self.counts.not_started += beat.not_started;
            self.times.late.add(&beat.late);
            self.times.ringing.add(&beat.ringing);
            self.times.setup.add(&beat.setup);
            self.times.accept.add(&beat.accept);
        }
        self.summarise(beat.second);
    }

    fn summarise(&mut self, index: u64) {
        let Some(times) = self.open(index) else { return };
        let (setup, free, wait) = (&times.setup, &times.free_to_ring, &times.wait);
        let (setup_p50, setup_p99) = (setup.at(0.5), setup.at(0.99));
        let (free_p50, free_p99, wait_p99) = (free.at(0.5), free.at(0.99), wait.at(0.99));
        let second = self.second(i64::try_from(index).unwrap_or(0).saturating_mul(1_000_000));
        (second.setup_p50, second.setup_p99) = (setup_p50, setup_p99);
        (second.free_p50, second.free_p99, second.wait_p99) = (free_p50, free_p99, wait_p99);
    }

    /// What the seconds before `until` have shown, `over` of them.
    pub fn window(&mut self, until: u64, over: u64) -> Seen {
        let from = until.saturating_sub(over);
        let mut times = Times::new(2);
        for index in from..until {
            if let Some(open) = self.open(index) {
                times.add(open);
            }
        }
        let place = |index: u64| usize::try_from(index).unwrap_or(usize::MAX).min(self.seconds.len());
        let seconds = self.seconds.get(place(from)..place(until)).unwrap_or_default();
        let bad: u64 = seconds.iter().map(|s| s.failed + s.not_started).sum();
        let due: u64 = seconds.iter().map(|s| s.due).sum();
        times.seen(bad as f64 / due.max(1) as f64)
    }

    /// At the end: the order of service, and how many notes there were besides.
    pub fn close(&mut self) {
        self.counts.overtaken = overtaken(&self.places);
        if self.more_notes > 0 {
            self.notes.push(format!("and {} more", self.more_notes));
        }
    }

    /// What the whole run has shown.
    pub fn seen(&self) -> Seen {
        self.times.seen(self.counts.failed())
    }

    /// Callers waiting and conversations now.
    pub fn now(&self) -> (u64, u64) {
        let (mut waiting, mut talking) = (0, 0);
        for live in self.live.values() {
            talking += u64::from(live.agent.is_some());
            waiting += u64::from(live.entered_us.is_some() && !live.served);
        }
        (waiting, talking)
    }
}

fn after(from_us: i64, to_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(to_us - from_us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(call: usize, over_us: i64) -> Told {
        Told::Over(CallRecord { call, over_us, answered: true, ..CallRecord::default() })
    }

    fn tally() -> Tally {
        Tally::new(Duration::ZERO, true, false)
    }

    /// A call of agent 1 that another agent has too is the gravest of mistakes; one after the other is a transfer.
    #[test]
    fn two_agents_at_once_are_counted_and_one_after_the_other_are_not() {
        let mut tally = tally();
        for call in [7, 8] {
            tally.take(0, Told::Answered { call, at_us: 0 });
            assert_eq!(tally.take(0, Told::Connected { call: Some(call), agent: 1 + call }), Some(call));
        }
        tally.take(0, Told::Finished { call: Some(8), agent: 9, talked_us: 1, audio: None });
        for call in [7, 8] {
            tally.take(0, Told::Connected { call: Some(call), agent: 2 });
        }
        assert_eq!((tally.counts.twice, tally.now()), (1, (0, 2)));
        tally.take(0, over(7, 5_000_000));
        tally.take(0, over(8, 5_000_000));
        assert_eq!((tally.counts.over, tally.counts.served, tally.now()), (2, 2, (0, 0)));
    }

    /// Passed on is who was let go by one agent and got by another, in whichever order both tell it.
    #[test]
    fn callers_who_reach_nobody_after_a_transfer_were_not_passed_on() {
        let mut tally = tally();
        let connected = |call, agent| Told::Connected { call: Some(call), agent };
        for call in 0..4 {
            tally.take(0, Told::Answered { call, at_us: 0 });
            tally.take(0, connected(call, call));
            tally.take(0, Told::Finished { call: Some(call), agent: call, talked_us: 1, audio: None });
        }
        for told in [
            Told::PassedOn { call: Some(0) },
            connected(0, 9),
            connected(1, 9),
            Told::PassedOn { call: Some(1) },
            Told::PassedOn { call: Some(2) },
        ] {
            tally.take(0, told);
        }
        for call in 0..4 {
            tally.take(0, over(call, 5_000_000));
        }
        assert_eq!((tally.counts.served, tally.counts.passed_on, tally.counts.twice), (4, 2, 0));
    }

    /// The time from free to ringing begins when both an agent and a caller are there.
    #[test]
    fn an_agent_without_callers_is_not_slow() {
        let mut tally = tally();
        tally.take(0, Told::Answered { call: 1, at_us: 10_000_000 });
        tally.take(
            0,
            Told::Rang { call: Some(1), agent: 0, free_us: 0, at_us: 10_004_000, entered_us: Some(1) },
        );
        assert!((tally.times.free_to_ring.at(1.0).unwrap() - 4.0).abs() < 0.1);
        tally.take(0, Told::Answered { call: 2, at_us: 11_000_000 });
        tally.take(
            0,
            Told::Rang { call: Some(2), agent: 0, free_us: 14_990_000, at_us: 15_000_000, entered_us: None },
        );
        assert!((tally.times.free_to_ring.at(1.0).unwrap() - 10.0).abs() < 0.1);
        assert!((tally.times.wait.at(1.0).unwrap() - 4_000.0).abs() < 10.0);
        assert!((tally.window(16, 5).free_to_ring_p99.unwrap() - 10.0).abs() < 0.2);
    }

    /// A page can ring before the caller's 200 is read: nothing is lost, and nobody was overtaken.
    #[test]
    fn what_is_told_in_another_order_comes_to_the_same() {
        let told = |call: usize| {
            let at_us = call as i64 * 1_000_000;
            [
                Told::Answered { call, at_us },
                Told::Rang {
                    call: Some(call),
                    agent: call,
                    free_us: 0,
                    at_us: at_us + 3_000,
                    entered_us: None,
                },
                Told::Connected { call: Some(call), agent: call },
            ]
        };
        let mut tally = tally();
        for call in 0..4 {
            let mut told = told(call);
            told.rotate_left(call % 3);
            for one in told {
                tally.take(0, one);
            }
        }
        assert_eq!((tally.now(), tally.times.wait.count()), ((0, 4), 4));
        for call in 0..4 {
            tally.take(0, over(call, 9_000_000));
        }
        tally.close();
        assert_eq!((tally.counts.served, tally.counts.overtaken), (4, 0));
    }

    #[test]
    fn audio_that_only_one_side_hears_is_noticed() {
        let mut tally = tally();
        let audio = |tone| Audio { packets: 100, lost: 1, tone, ..Audio::default() };
        for (call, caller, agent, talked_us) in [
            (1, true, true, 3_000_000),
            (2, false, true, 3_000_000),
            (3, true, false, 3_000_000),
            (4, false, false, 1),
        ] {
            tally.take(0, Told::Answered { call, at_us: 0 });
            let told = Told::Finished { call: Some(call), agent: 0, talked_us, audio: Some(audio(agent)) };
            let record =
                CallRecord { call, answered: true, audio: Some(audio(caller)), ..CallRecord::default() };
            tally.take(0, Told::Connected { call: Some(call), agent: 0 });
            // Either side can be the first to know that it is over.
            let both = if call == 1 { [told, Told::Over(record)] } else { [Told::Over(record), told] };
            for one in both {
                tally.take(0, one);
            }
        }
        assert_eq!((tally.counts.two_sided, tally.counts.one_way), (3, 2), "a short one says nothing");
        assert_eq!((tally.counts.packets, tally.counts.packets_lost), (800, 8));
    }

    /// Beats of two workers for one second are added; the warm-up is shown but not counted; very old seconds do no harm.
    #[test]
    fn beats_are_added_and_the_warm_up_is_left_out() {
        let mut tally = Tally::new(Duration::from_secs(1), false, false);
        for (worker, second) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 200), (0, 2)] {
            let mut beat = Beat { second, due: 10, live: 3, not_started: 1, ..Beat::default() };
            beat.setup.record(Duration::from_millis(20));
            tally.take(worker, Told::Beat(Box::new(beat)));
        }
        assert_eq!((tally.seconds[0].due, tally.seconds[1].due, tally.seconds[1].live), (20, 20, 6));
        assert_eq!((tally.counts.due, tally.times.setup.count()), (40, 4));
        assert!(tally.window(201, 1).failed > 0.09);
    }
}
