//! A cluster that does nothing yet, and what its processes spend when it does something.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use trunkline_loadtest::{
    args::{PlayArgs, ServerArgs},
    report::{Figure, Report, figure},
    run,
    system::usage,
};
use trunkline_operations_tests::lab::Lab;

const IDLE: Duration = Duration::from_secs(10);

/// Processes by name, and what they spend when there is nothing to do.
pub struct Cluster<'a> {
    server: ServerArgs,
    /// Of callers, agents, telephones and what the nodes send to.
    pub bind: IpAddr,
    folder: &'a Path,
    /// Share of a core by process.
    idle: BTreeMap<String, f64>,
}

impl<'a> Cluster<'a> {
    pub async fn of(lab: &mut Lab, folder: &'a Path) -> Result<Self> {
        let place = lab.place()?;
        let mut pid = lab.pids()?;
        pid.push(("PostgreSQL".into(), lab.postgres.pid().context("PostgreSQL does not run")?));
        pid.extend(lab.etcd.pids().into_iter().enumerate().map(|(n, pid)| (format!("etcd {}", n + 1), pid)));
        let server = ServerArgs { pid, sip: vec![place.sip], http: place.consoles, ..ServerArgs::default() };
        let mut this = Self { server, bind: place.bind, folder, idle: BTreeMap::new() };
        this.idle = this.share_over(tokio::time::sleep(IDLE)).await?.0;
        Ok(this)
    }

    /// Where telephones register.
    pub fn sip(&self) -> std::net::SocketAddr {
        self.server.sip()
    }

    pub fn idle(&self) -> Vec<Figure> {
        let figures = self
            .idle
            .iter()
            .map(|(name, share)| figure(format!("nothing to do: {name}"), share * 100.0, "% of a core"));
        figures.collect()
    }

    /// What each process needs while something is done, as a share of a core, and what came of it.
    async fn share_over<T>(&self, work: impl Future<Output = T>) -> Result<(BTreeMap<String, f64>, T)> {
        let spent = || -> Result<BTreeMap<String, f64>> {
            let all = self.server.pid.iter();
            all.map(|(name, pid)| Ok((name.clone(), usage(*pid)?.cpu.as_secs_f64()))).collect()
        };
        let (begun, before) = (std::time::Instant::now(), spent()?);
        let came = work.await;
        let (while_s, after) = (begun.elapsed().as_secs_f64(), spent()?);
        let share = |(name, spent): (String, f64)| {
            let before = before.get(&name).copied().unwrap_or_default();
            (name, (spent - before) / while_s)
        };
        Ok((after.into_iter().map(share).collect(), came))
    }

    /// The same above what it needs when idle.
    pub async fn busy_over<T>(&self, work: impl Future<Output = T>) -> Result<(BTreeMap<String, f64>, T)> {
        let (mut busy, came) = self.share_over(work).await?;
        for (name, share) in &mut busy {
            *share -= self.idle.get(name).copied().unwrap_or_default();
        }
        Ok((busy, came))
    }

    /// Plays a scenario in which no call may fail.
    pub async fn play(&self, name: &str, text: &str) -> Result<Report> {
        let args = PlayArgs { bind: self.bind.to_string(), ..PlayArgs::default() };
        let played = Box::pin(run::play(text, name, self.folder, &args, &self.server)).await?;
        let report = Report::of(played);
        eprintln!("{}", report.text());
        let counts = &report.counts;
        ensure!(counts.refused_all() == 0 && counts.not_started == 0, "calls failed: {counts:?}");
        Ok(report)
    }

    /// What each process needed in these seconds above what it needs when idle, as a share of a core.
    pub fn busy(&self, report: &Report, from_s: f64, to_s: f64) -> Result<BTreeMap<String, f64>> {
        let mut busy = BTreeMap::new();
        for (name, process) in &report.processes {
            let samples = process.followed.samples.iter();
            let within: Vec<f64> = samples
                .filter(|sample| sample.at_s > from_s && sample.at_s <= to_s)
                .map(|sample| sample.cpu_percent / 100.0)
                .collect();
            ensure!(!within.is_empty(), "{name} was not seen from second {from_s} to {to_s}");
            let idle = self.idle.get(name).copied().unwrap_or_default();
            busy.insert(name.clone(), within.iter().sum::<f64>() / within.len() as f64 - idle);
        }
        Ok(busy)
    }
}

/// Milliseconds of each process for one of something that is done so often a second, and of all nodes together.
pub fn each(what: &str, busy: &BTreeMap<String, f64>, rate: f64) -> Vec<Figure> {
    let ms = |share: f64| share * 1_000.0 / rate;
    let mut figures: Vec<Figure> =
        busy.iter().map(|(name, share)| figure(format!("{what}: {name}"), ms(*share), "ms")).collect();
    let all = |nodes: bool| {
        let is_node = |name: &String| super::NODES.iter().any(|(node, _)| node == name);
        busy.iter().filter(|(name, _)| is_node(name) == nodes).map(|(_, share)| ms(*share)).sum::<f64>()
    };
    figures.push(figure(format!("{what}: all nodes"), all(true), "ms"));
    figures.push(figure(format!("{what}: PostgreSQL and etcd"), all(false), "ms"));
    figures
}
