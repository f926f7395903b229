//! Callers wait, then agents become ready one after the other.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use super::{PATIENCE, Rings, answered, callers, end, place, queued::inversions};
use crate::{
    agents::{self, Habits, Shift},
    args::ServerArgs,
    report::{Figure, figure, note, times},
    sip,
    system::Server,
};

pub struct Plan {
    pub callers: usize,
    pub agents: usize,
    pub gap: Duration,
}

impl Plan {
    pub fn name(&self) -> String {
        let gap = self.gap.as_secs_f64() * 1_000.0;
        format!(
            "dispatch: {} callers wait, {} agents become ready every {gap:.0} ms",
            self.callers, self.agents
        )
    }

    pub async fn run(&self, server: &Server, args: &ServerArgs) -> Result<Vec<Figure>> {
        let ear = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let sdp = sip::offer(ear.local_addr()?, "inactive");
        let (callers, mut news) = callers(server, args, sdp, self.callers).await?;
        let (gate, closed) = watch::channel(0);
        note(&format!("signing in {} agents", self.agents));
        // They talk until the end of the run: every agent takes one call.
        let habits = Habits::quick(Duration::from_secs(3_600), false);
        let mut news_of_agents =
            agents::start(Shift::local(server.at.http, self.agents, habits), closed).await?;
        place(&callers, 0..self.callers, 50.0).await?;
        let (good, bad) = answered(&mut news, self.callers).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        note(&format!("{good} wait, {bad} failed; agents become ready"));
        let before = server.usage()?;
        for ready in 1..=self.agents {
            gate.send_replace(ready);
            tokio::time::sleep(self.gap).await;
        }
        let mut rings = Rings::default();
        let want = self.agents.min(good);
        while rings.settled < want {
            match tokio::time::timeout(PATIENCE, news_of_agents.recv()).await {
                Ok(Some(news)) => rings.note(news),
                _ => break,
            }
        }
        let rings = rings.served;
        let after = server.usage()?;
        let mut order: Vec<_> = rings.iter().filter_map(|ring| Some((ring.rang_at, ring.call?))).collect();
        order.sort_unstable();
        let mut figures = vec![
            figure("callers who waited", good as f64, "calls"),
            figure("agents who got a call", rings.len() as f64, "agents"),
            figure("agents who got none", want.saturating_sub(rings.len()) as f64, "agents"),
            figure("accept refused", rings.iter().filter(|ring| ring.refused).count() as f64, "calls"),
            figure("rang out of the order of arrival", inversions(&order) as f64, "calls"),
        ];
        let mut ready_to_ring =
            times("agent ready to ring", rings.iter().map(|ring| ring.free_to_ring).collect());
        if let Some(p99) = ready_to_ring.get_mut(1) {
            *p99 = p99.clone().beside(
                "≤ 10 idle, ≤ 40 with 2,000 waiting",
                "6–10 idle, 410 with 2,000",
                "88–105 idle",
            );
        }
        figures.extend(ready_to_ring);
        figures
            .extend(times("accept to its answer", rings.iter().filter_map(|ring| ring.connected).collect()));
        if let Some((before, after)) = before.zip(after) {
            let each = (after.cpu - before.cpu).as_secs_f64() * 1_000.0 / rings.len().max(1) as f64;
            figures.push(figure("CPU per call that was answered", each, "ms"));
        }
        end(&callers, &mut news, 0..self.callers).await?;
        agents::leave(gate, news_of_agents).await;
        Ok(figures)
    }
}
