//! Calls come at a steady rate and agents answer them.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::watch;

use super::{PATIENCE, Rings, Served, callers, cpu_over, place};
use crate::{
    agents::{self, Habits, Shift},
    args::ServerArgs,
    callers::{Call, News},
    report::{Figure, figure, note, times},
    run::{Place, overtaken},
    sip,
    system::Server,
};

pub struct Plan {
    pub rate: f64,
    pub agents: usize,
    pub talk: Duration,
    pub seconds: Duration,
    /// Whether conversations are recorded; for the name only.
    pub recorded: bool,
}

impl Plan {
    pub fn name(&self) -> String {
        format!(
            "queued: {} calls/s for {:.0} s, {} agents, {:.1} s talk, no RTP, {}",
            self.rate,
            self.seconds.as_secs_f64(),
            self.agents,
            self.talk.as_secs_f64(),
            if self.recorded { "recorded" } else { "not recorded" }
        )
    }

    pub async fn run(&self, server: &Server, args: &ServerArgs) -> Result<Vec<Figure>> {
        let ear = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let sdp = sip::offer(ear.local_addr()?, "inactive");
        let total = (self.rate * self.seconds.as_secs_f64()).ceil() as usize;
        let warm_up = self.rate.ceil() as usize;
        let (callers, mut news) = callers(server, args, sdp, warm_up + total).await?;
        let (gate, closed) = watch::channel(0);
        note(&format!("signing in {} agents", self.agents));
        let habits = Habits::quick(self.talk, true);
        let served = agents::start(Shift::local(server.at.http, self.agents, habits), closed).await?;
        gate.send_replace(usize::MAX);
        tokio::time::sleep(Duration::from_secs(2)).await;
        // One second of calls that are not counted.
        place(&callers, 0..warm_up, self.rate).await?;
        drain(&mut news, warm_up).await;
        note("warm; measuring");
        let idle = cpu_over(server, Duration::from_secs(5)).await?;
        let (begun, before) = (Instant::now(), server.usage()?);
        place(&callers, warm_up..warm_up + total, self.rate).await?;
        let finished = drain(&mut news, total).await;
        let (span, after) = (begun.elapsed(), server.usage()?);
        let results = callers.results().await?;
        let mut rings = Rings::default();
        agents::leave(gate, served).await.into_iter().for_each(|news| rings.note(news));
        let rings = rings.served;
        let measured = results.get(warm_up..).unwrap_or_default();
        let mut figures = outcome(measured, &rings, warm_up, finished);
        if let Some(((before, after), (idle, idle_while))) = before.zip(after).zip(idle) {
            let spent = (after.cpu - before.cpu).as_secs_f64();
            let share = idle.as_secs_f64() / idle_while.as_secs_f64() * span.as_secs_f64();
            let each = |seconds: f64| seconds * 1_000.0 / measured.len().max(1) as f64;
            figures.push(figure("CPU per queued and answered call", each(spent), "ms").beside(
                "≤ 0.55",
                "5.1–6.6",
                "18.4",
            ));
            figures.push(figure("the same without what the idle server takes", each(spent - share), "ms"));
            let grown = (after.rss_bytes as f64 - before.rss_bytes as f64) / 1e6;
            figures.push(figure("memory growth over the run", grown, "MB"));
        }
        Ok(figures)
    }
}

/// Waits until so many calls have ended.
async fn drain(news: &mut tokio::sync::mpsc::Receiver<News>, count: usize) -> usize {
    let mut ended = 0;
    while ended < count {
        match tokio::time::timeout(PATIENCE, news.recv()).await {
            Ok(Some(News::Ended(_) | News::Failed(..))) => ended += 1,
            Ok(Some(News::Answered(_))) => {}
            _ => {
                note(&format!("{} calls did not end", count - ended));
                break;
            }
        }
    }
    ended
}

fn outcome(calls: &[Call], rings: &[Served], warm_up: usize, finished: usize) -> Vec<Figure> {
    let mut served = vec![0u32; calls.len()];
    let (mut to_ring, mut connected) = (Vec::new(), Vec::new());
    let mut first_ring: Vec<Option<Instant>> = vec![None; calls.len()];
    for ring in rings {
        let Some(index) = ring.call.and_then(|call| call.checked_sub(warm_up)) else { continue };
        let Some(count) = served.get_mut(index) else { continue };
        *count += u32::from(ring.connected.is_some());
        connected.extend(ring.connected);
        if let Some(entered) = calls.get(index).and_then(|call| call.answered_at) {
            to_ring.push(ring.rang_at.saturating_duration_since(entered));
        }
        let first = first_ring.get_mut(index).map(|first| first.get_or_insert(ring.rang_at));
        if let Some(first) = first {
            *first = ring.rang_at.min(*first);
        }
    }
    let failed = calls.iter().filter(|call| call.failed.is_some()).count();
    let mut figures = vec![
        figure("calls", calls.len() as f64, "calls"),
        figure("of them refused or lost", failed as f64, "calls"),
        figure("of them ended", finished as f64, "calls"),
        figure("connected to an agent", served.iter().filter(|count| **count == 1).count() as f64, "calls"),
        figure("connected more than once", served.iter().filter(|count| **count > 1).count() as f64, "calls"),
        figure("never connected", served.iter().filter(|count| **count == 0).count() as f64, "calls"),
        figure("repeated requests", calls.iter().map(|call| f64::from(call.repeats)).sum(), "packets"),
        figure("overtaken in the queue", overtaken(&places(calls, &first_ring)) as f64, "calls"),
    ];
    figures.extend(times("INVITE to 180", calls.iter().filter_map(|call| call.ringing).collect()));
    figures.extend(times("INVITE to 200", calls.iter().filter_map(|call| call.answered).collect()));
    figures.extend(times("caller answered to agent's ring", to_ring));
    figures.extend(times("accept to its answer", connected));
    figures
}

/// The calls that were answered and rang, in microseconds from the first of them.
fn places(calls: &[Call], first_ring: &[Option<Instant>]) -> Vec<Place> {
    let times = calls.iter().zip(first_ring).filter_map(|(call, rang)| {
        let entered = call.answered_at?;
        Some((entered.checked_sub(call.answered?)?, entered, (*rang)?))
    });
    let times: Vec<_> = times.collect();
    let Some(start) = times.iter().map(|(sent, ..)| *sent).min() else { return Vec::new() };
    let us = |at: Instant| i64::try_from(at.saturating_duration_since(start).as_micros()).unwrap_or(i64::MAX);
    let of = |(sent, entered, rang): &(Instant, Instant, Instant)| Place {
        sent_us: us(*sent),
        entered_us: us(*entered),
        rang: true,
        left_us: us(*rang),
    };
    times.iter().map(of).collect()
}

/// Calls that rang after a later one did. `order` is sorted by the time of the ring.
pub fn inversions(order: &[(Instant, usize)]) -> usize {
    let mut most = None;
    order
        .iter()
        .filter(|(_, index)| {
            let late = most.is_some_and(|most| *index < most);
            most = most.max(Some(*index));
            late
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_were_overtaken_are_counted() {
        let now = Instant::now();
        let order: Vec<_> = [0, 1, 3, 2, 4].map(|index| (now, index)).into();
        assert_eq!(inversions(&order), 1);
        assert_eq!(inversions(&[]), 0);
    }

    #[test]
    fn a_place_is_from_the_invite_to_the_first_ring() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let call = |answered_ms: u64| Call {
            answered: Some(ms(5)),
            answered_at: Some(start + ms(answered_ms)),
            ..Call::default()
        };
        let calls = [call(5), call(105), call(205), Call::default()];
        let rings = [Some(start + ms(400)), Some(start + ms(200)), None, Some(start)];
        let found = places(&calls, &rings);
        assert_eq!(found.len(), 2, "who was not answered or did not ring has none");
        assert_eq!((found[1].sent_us, found[1].entered_us, found[1].left_us), (100_000, 105_000, 200_000));
        assert_eq!(overtaken(&found), 1, "the second was served first");
    }
}
