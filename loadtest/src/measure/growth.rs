//! How the cost of a served call grows with the callers who wait and with the agents who work.
//!
//! Callers: as many wait, and stay as many, while calls are served at a fixed rate. Agents: as many are ready, while calls
//! come at the same rate. The processor time of a call is that of the process less what it takes at the same size without
//! calls. Its exponent is the slope of a line through the logarithms.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Rings, answered, callers, place};
use crate::{
    agents::{self, Habits, Shift},
    args::{GrowthArgs, ServerArgs},
    callers::{Callers, News},
    report::{Machine, note},
    run::{Hist, exponent},
    sip,
    system::{Server, exact},
};

/// Agents who serve while callers wait.
const SERVING: usize = 40;
/// What the process takes without calls is looked at for this long.
const IDLE: Duration = Duration::from_secs(5);
/// After everybody has come: INVITE transactions live 32 s (64·T1, RFC 6026).
const CALM: Duration = Duration::from_secs(35);

/// One size.
#[derive(Debug, Serialize)]
struct Point {
    size: usize,
    served: usize,
    cpu_ms: f64,
    idle_percent: f64,
    ring_p50_ms: f64,
    ring_p99_ms: f64,
}

/// Measures both and prints the table.
pub async fn growth(args: &GrowthArgs, server: &ServerArgs) -> Result<()> {
    let mut out = serde_json::Map::new();
    out.insert("machine".into(), serde_json::to_value(Machine::this())?);
    let mut sizes = args.callers.clone();
    sizes.sort_unstable();
    if !sizes.is_empty() {
        let system = Server::of(server, SERVING, &[]).await?;
        let mut points = Vec::new();
        for size in sizes {
            points
                .push(waiting(&system, server, args, size).await.with_context(|| format!("{size} callers"))?);
        }
        tell("callers waiting", &points, &mut out)?;
    }
    let mut sizes = args.agents.clone();
    sizes.sort_unstable();
    if let Some(most) = sizes.last().copied() {
        note(&format!("starting a system with {most} agents"));
        let system = Server::of(server, most, &[]).await?;
        let mut points = Vec::new();
        for size in sizes {
            points
                .push(working(&system, server, args, size).await.with_context(|| format!("{size} agents"))?);
        }
        tell("agents ready", &points, &mut out)?;
    }
    if let Some(path) = &server.json {
        std::fs::write(path, serde_json::to_string_pretty(&out)? + "\n")
            .with_context(|| format!("--json {}: cannot be written", path.display()))?;
    }
    Ok(())
}

fn tell(what: &str, points: &[Point], out: &mut serde_json::Map<String, serde_json::Value>) -> Result<()> {
    use std::io::Write;
    let mut text = format!(
        "\n{what:>16}{:>9}{:>16}{:>12}{:>12}{:>12}\n",
        "served", "CPU ms a call", "idle CPU %", "p50 ms", "p99 ms"
    );
    for point in points {
        text += &format!(
            "{:>16}{:>9}{:>16.3}{:>12.1}{:>12.1}{:>12.1}\n",
            point.size, point.served, point.cpu_ms, point.idle_percent, point.ring_p50_ms, point.ring_p99_ms
        );
    }
    let of = |part: fn(&Point) -> f64| -> Vec<(f64, f64)> {
        points.iter().map(|point| (point.size as f64, part(point))).collect()
    };
    let mut exponents = serde_json::Map::new();
    for (name, points) in
        [("CPU a call", of(|p| p.cpu_ms)), ("decision (free to ringing, p50)", of(|p| p.ring_p50_ms))]
    {
        let Some((b, low, high)) = exponent(&points) else { continue };
        text += &format!("  {name} grows as size^{b:.3} (95 %: {low:.3} to {high:.3})\n");
        exponents.insert(name.into(), serde_json::json!({ "exponent": b, "low": low, "high": high }));
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    out.insert(what.into(), serde_json::json!({ "points": points, "exponents": exponents }));
    Ok(())
}

/// Processor time over a while, exactly; zero when no process is known.
fn spent(server: &Server) -> Duration {
    server.pid.map_or(Duration::ZERO, |pid| exact(&[pid]))
}

async fn idle(server: &Server) -> f64 {
    let (begun, before) = (Instant::now(), spent(server));
    tokio::time::sleep(IDLE).await;
    spent(server).saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// As many callers wait while calls are served.
async fn waiting(server: &Server, args: &ServerArgs, growth: &GrowthArgs, size: usize) -> Result<Point> {
    let ear = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let sdp = sip::offer(ear.local_addr()?, "inactive");
    let all = size + growth.served + SERVING;
    let (callers, mut news) = callers(server, args, sdp, all).await?;
    let (gate, open) = watch::channel(0);
    // Each agent serves one call in this time, so that all together serve at the rate.
    let talk = Duration::from_secs_f64(SERVING as f64 / growth.rate);
    let shift = Shift::local(server.at.http, SERVING, Habits::quick(talk, true));
    let mut served = agents::start(shift, open).await?;
    place(&callers, 0..size, 100.0).await?;
    let (good, bad) = answered(&mut news, size).await?;
    note(&format!("{good} wait, {bad} failed"));
    tokio::time::sleep(CALM).await;
    let idle = idle(server).await;
    // One agent after the other, so that they become free one after the other ever after.
    let first = Instant::now();
    for n in 0..SERVING {
        let due = first + Duration::from_secs_f64(n as f64 / growth.rate);
        tokio::time::sleep_until(due.into()).await;
        gate.send_replace(n + 1);
        callers.place_at(size + n, due).await?;
    }
    while served.try_recv().is_ok() {}
    let (begun, before) = (Instant::now(), spent(server));
    place(&callers, size + SERVING..all, growth.rate).await?;
    let (span, cpu) = (begun.elapsed(), spent(server).saturating_sub(before));
    let point = point(size, &mut served, idle, span, cpu, begun, &callers).await?;
    end_all(&callers).await?;
    agents::leave(gate, served).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(point)
}

/// Hangs up whoever is still there and waits until all calls are over.
async fn end_all(callers: &Callers) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let calls = callers.results().await?;
        let open: Vec<usize> =
            (0..calls.len()).filter(|n| calls.get(*n).is_some_and(|call| !call.ended)).collect();
        if open.is_empty() || Instant::now() > deadline {
            return Ok(());
        }
        for some in open.chunks(20) {
            for call in some {
                callers.hang_up(*call).await?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// As many agents are ready while calls come.
async fn working(server: &Server, args: &ServerArgs, growth: &GrowthArgs, size: usize) -> Result<Point> {
    let ear = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let sdp = sip::offer(ear.local_addr()?, "inactive");
    let warm_up = growth.rate.ceil() as usize;
    let (callers, news) = callers(server, args, sdp, warm_up + growth.served).await?;
    let (gate, open) = watch::channel(0);
    // Half of ten agents are busy at most.
    let talk = Duration::from_secs_f64((5.0 / growth.rate).min(1.0));
    let mut served =
        agents::start(Shift::local(server.at.http, size, Habits::quick(talk, true)), open).await?;
    gate.send_replace(usize::MAX);
    ready(&mut served, news, &callers, warm_up, growth.rate).await?;
    let idle = idle(server).await;
    let (begun, before) = (Instant::now(), spent(server));
    place(&callers, warm_up..warm_up + growth.served, growth.rate).await?;
    tokio::time::sleep(talk * 2).await;
    let (span, cpu) = (begun.elapsed(), spent(server).saturating_sub(before));
    let point = point(size, &mut served, idle, span, cpu, begun, &callers).await?;
    agents::leave(gate, served).await;
    Ok(point)
}

/// Lets a few calls through, so that what happens once has happened.
async fn ready(
    served: &mut mpsc::Receiver<agents::News>,
    mut news: mpsc::Receiver<News>,
    callers: &Callers,
    warm_up: usize,
    rate: f64,
) -> Result<()> {
    // Everybody becomes ready; the burst is over when the process is calm.
    tokio::time::sleep(Duration::from_secs(5)).await;
    place(callers, 0..warm_up, rate).await?;
    tokio::spawn(async move { while news.recv().await.is_some() {} });
    tokio::time::sleep(Duration::from_secs(2)).await;
    while served.try_recv().is_ok() {}
    Ok(())
}

async fn point(
    size: usize,
    served: &mut mpsc::Receiver<agents::News>,
    idle: f64,
    span: Duration,
    cpu: Duration,
    begun: Instant,
    callers: &Callers,
) -> Result<Point> {
    let calls = callers.results().await?;
    let mut rings = Rings::default();
    while let Ok(news) = served.try_recv() {
        rings.note(news);
    }
    let mut hist = Hist::default();
    let measured = rings.served.iter().filter(|ring| ring.rang_at >= begun && ring.connected.is_some());
    let mut count = 0;
    for ring in measured {
        count += 1;
        let entered = ring.call.and_then(|call| calls.get(call)?.answered_at);
        // Before both were there nobody could have rung.
        let free = ring.rang_at.checked_sub(ring.free_to_ring).unwrap_or(begun);
        let from = entered.map_or(free, |entered| entered.max(free));
        hist.record(ring.rang_at.saturating_duration_since(from));
    }
    let net = (cpu.as_secs_f64() - idle * span.as_secs_f64()).max(0.0);
    Ok(Point {
        size,
        served: count,
        cpu_ms: net * 1_000.0 / count.max(1) as f64,
        idle_percent: idle * 100.0,
        ring_p50_ms: hist.at(0.5).unwrap_or_default(),
        ring_p99_ms: hist.at(0.99).unwrap_or_default(),
    })
}
