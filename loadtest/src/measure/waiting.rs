//! Callers wait and nobody answers.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use super::{answered, callers, cpu_over, each_kb, end, place};
use crate::{
    agents::{self, Habits, Shift},
    args::ServerArgs,
    report::{Figure, figure, note, times},
    sip,
    system::Server,
};

/// Calls before the measurement, so that what a process allocates once is not counted.
const WARM_UP: usize = 50;

pub struct Plan {
    pub callers: usize,
    pub rate: f64,
    pub agents: usize,
    pub media: bool,
    pub seconds: Duration,
}

impl Plan {
    pub fn name(&self) -> String {
        let media = if self.media { "with music" } else { "no media" };
        format!("waiting: {} callers, {media}, {} agents signed in", self.callers, self.agents)
    }

    pub async fn run(&self, server: &Server, args: &ServerArgs) -> Result<Vec<Figure>> {
        // Keeps the port from answering with ICMP; what arrives is thrown away when its buffer is full.
        let ear = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let direction = if self.media { "sendrecv" } else { "inactive" };
        let sdp = sip::offer(ear.local_addr()?, direction);
        let (gate, closed) = watch::channel(0);
        let habits = Habits::quick(Duration::from_secs(1), false);
        let served = agents::start(Shift::local(server.at.http, self.agents, habits), closed).await?;
        let last = WARM_UP + self.callers;
        let (callers, mut news) = callers(server, args, sdp, last).await?;
        place(&callers, 0..WARM_UP, self.rate).await?;
        answered(&mut news, WARM_UP).await?;
        end(&callers, &mut news, 0..WARM_UP).await?;
        note("warm; measuring the idle server");
        let idle = cpu_over(server, self.seconds.min(Duration::from_secs(10))).await?;
        let before = server.usage()?;
        place(&callers, WARM_UP..last, self.rate).await?;
        let (good, bad) = answered(&mut news, self.callers).await?;
        note(&format!("{good} wait, {bad} failed; measuring"));
        // Transactions of the INVITEs live 32 s (64*T1, RFC 6026); what is wanted is the cost of a caller who waits.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let early = server.usage()?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let (cpu, after) = (cpu_over(server, self.seconds).await?, server.usage()?);
        let results = callers.results().await?;
        end(&callers, &mut news, WARM_UP..last).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let ended = server.usage()?;
        agents::leave(gate, served).await;
        let measured = results.get(WARM_UP..).unwrap_or_default();
        let mut figures = vec![
            figure("callers who waited", good as f64, "calls"),
            figure("callers refused or lost", bad as f64, "calls"),
            figure("repeated requests", measured.iter().map(|call| f64::from(call.repeats)).sum(), "packets"),
        ];
        if let (Some(before), Some(early), Some(after)) = (before, early, after) {
            figures.push(figure("memory per waiting caller", each_kb(before, after, good), "kB").beside(
                "≤ 14",
                "141",
                "392–440",
            ));
            figures.push(figure("the same 5 s after the last came", each_kb(before, early, good), "kB"));
            let each = |now: u64, then: u64| (now as f64 - then as f64) / good.max(1) as f64;
            let threads = each(after.threads, before.threads);
            figures.push(figure("threads per waiting caller", threads, "threads").beside("0", "1", "2"));
            let descriptors = each(after.descriptors, before.descriptors);
            figures.push(figure("descriptors per waiting caller", descriptors, "").beside("", "4", ""));
        }
        if let Some(((cpu, while_), (idle, idle_while))) = cpu.zip(idle) {
            let busy =
                cpu.as_secs_f64() / while_.as_secs_f64() - idle.as_secs_f64() / idle_while.as_secs_f64();
            let each = figure("CPU per waiting caller and second", busy * 1e6 / good.max(1) as f64, "µs");
            figures.push(if self.media { each } else { each.beside("≤ 5", "76–108", "2,600–3,400") });
            figures.push(figure(
                "CPU of the idle server",
                idle.as_secs_f64() / idle_while.as_secs_f64() * 100.0,
                "%",
            ));
        }
        if let (Some(before), Some(ended)) = (before, ended) {
            figures.push(figure(
                "memory kept after all hung up, per caller",
                each_kb(before, ended, good),
                "kB",
            ));
        }
        figures.extend(times("INVITE to 180", measured.iter().filter_map(|call| call.ringing).collect()));
        figures.extend(times("INVITE to 200", measured.iter().filter_map(|call| call.answered).collect()));
        Ok(figures)
    }
}
