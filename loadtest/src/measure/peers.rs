//! Yardsticks: Debian's Kamailio as a stateful proxy and rtpengine in user space, at the same offered load and in the same
//! run as ours, because figures of other days and machines say little.
//!
//! Neither does what Trunkline does: a proxy neither queues nor ends calls, a relay neither records nor mixes. They tell
//! what the machine can do.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::{Child, Command};

use super::{
    music, named, ng, queued, relay,
    talk::{self, Measured, Parties},
};
use crate::{
    args::{PeersArgs, ServerArgs},
    callee::Callee,
    callers::{Callers, News, Target},
    report::{Figure, figure, note, publish, times},
    sip,
    system::Server,
};

const KAMAILIO: &str = include_str!("kamailio.cfg");
const START_WITHIN: Duration = Duration::from_secs(20);
/// Calls through the proxy last this long.
const TALK: Duration = Duration::from_secs(1);

/// Measures all and prints one table.
pub async fn peers(args: &PeersArgs, server: &ServerArgs) -> Result<()> {
    let ours = relay::Plan::of(&args.relay, server)?;
    let folder = tempfile::Builder::new().prefix("trunkline-load-peers-").tempdir()?;
    let mut figures = kamailio(args, folder.path()).await.context("Kamailio")?;
    let relayed = rtpengine(args, folder.path()).await.context("rtpengine")?;
    figures.extend(named("rtpengine, user space", relayed.figures([""; 3])));
    figures.extend(ours.run(Some(relayed.each_us())).await?);
    if server.spawn.is_some() || !server.pid.is_empty() {
        let agents = (args.rate * 4.0).ceil() as usize;
        let plan = |recorded| queued::Plan {
            rate: args.rate,
            agents,
            talk: Duration::from_secs(2),
            seconds: args.relay.seconds,
            recorded,
        };
        if server.spawn.is_some() {
            // The work of the table; a system that runs already records as it is told.
            let system = Server::of(server, agents, &["--no-recording".to_owned()]).await?;
            let figures_of = plan(false).run(&system, server).await?;
            figures.extend(named("Trunkline, queued, not recorded", figures_of));
        }
        let system = Server::of(server, agents, &[]).await?;
        figures.extend(named("Trunkline, queued", plan(true).run(&system, server).await?));
        let plan =
            music::Plan { callers: args.relay.conversations, speak: false, seconds: args.relay.seconds };
        figures.extend(named("Trunkline, music", plan.run(&system, server).await?));
    }
    let name = format!(
        "peers: {} calls/s through Kamailio, {} conversations through rtpengine and our relay, {:.0} s each",
        args.rate,
        args.relay.conversations,
        args.relay.seconds.as_secs_f64()
    );
    publish(&name, &figures, server.json.as_deref())
}

/// A port that nobody has now.
fn free_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A peer's process; it ends with this.
struct Peer {
    child: Child,
    name: &'static str,
}

impl Peer {
    fn start(name: &'static str, program: &Path, arguments: Vec<OsString>, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "{}: cannot be started; install the package (cargo xtask load peers does)",
                    program.display()
                )
            })?;
        Ok(Self { child, name })
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    fn cpu(&self) -> Result<Duration> {
        self.pid().map(talk::cpu)
    }

    async fn stop(mut self) {
        if let Some(pid) =
            self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        // Whoever does not end by then is killed when this is dropped.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await;
    }
}

fn log_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

async fn kamailio(args: &PeersArgs, folder: &Path) -> Result<Vec<Figure>> {
    let callee = Callee::start(Ipv4Addr::LOCALHOST.into())?;
    let at = free_port()?;
    let (config, log) = (folder.join("kamailio.cfg"), folder.join("kamailio.log"));
    let text = KAMAILIO.replace("@LISTEN@", &at.to_string()).replace("@CALLEE@", &callee.at.to_string());
    std::fs::write(&config, text)?;
    let mut arguments: Vec<OsString> =
        ["-DD", "-E", "-m", "128", "-M", "16", "-f"].map(OsString::from).into();
    arguments.extend([config.into(), "-Y".into(), folder.into(), "-w".into(), folder.into()]);
    let mut peer = Peer::start("kamailio", &args.kamailio, arguments, &log)?;
    let ear = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sdp = sip::offer(ear.local_addr()?, "inactive");
    let warm_up = args.rate.ceil() as usize;
    let total = warm_up + (args.rate * args.relay.seconds.as_secs_f64()).ceil() as usize;
    let (callers, mut news) = Callers::start(Target::local(at, "support".into(), sdp, total)).await?;
    first_call(&callers, &mut news).await.with_context(|| log_of(&log))?;
    ensure!(matches!(peer.child.try_wait(), Ok(None)), "it has ended:\n{}", log_of(&log));
    note("Kamailio is up; measuring");
    calls(&callers, &mut news, 1..warm_up, args.rate).await?;
    let (begun, before) = (Instant::now(), peer.cpu()?);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = peer.cpu()?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let (begun, before) = (Instant::now(), peer.cpu()?);
    let failed = calls(&callers, &mut news, warm_up..total, args.rate).await?;
    let spent = peer.cpu()?.saturating_sub(before).as_secs_f64() - idle * begun.elapsed().as_secs_f64();
    let results = callers.results().await?;
    peer.stop().await;
    let measured = results.get(warm_up..).unwrap_or_default();
    let mut figures = vec![
        figure("calls", measured.len() as f64, "calls"),
        figure("of them failed", failed as f64, "calls"),
        figure("repeated requests", measured.iter().map(|call| f64::from(call.repeats)).sum(), "packets"),
        figure("CPU a call", spent * 1_000.0 / measured.len().max(1) as f64, "ms"),
    ];
    figures.extend(times("INVITE to 200", measured.iter().filter_map(|call| call.answered).collect()));
    Ok(named("Kamailio, stateful proxy", figures))
}

/// A call goes through, which tells that the proxy serves; INVITE is repeated until then.
async fn first_call(callers: &Callers, news: &mut tokio::sync::mpsc::Receiver<News>) -> Result<()> {
    callers.place_at(0, Instant::now()).await?;
    let answered = async {
        loop {
            match news.recv().await.context("the callers' task has ended")? {
                News::Answered(0) => return Ok(()),
                News::Failed(_, status) => bail!("the first call failed with {status}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(START_WITHIN, answered).await.context("no call goes through")??;
    callers.hang_up(0).await
}

/// Places calls at an even rate, hangs each up after a while, and waits for the end of all. Returns how many failed.
async fn calls(
    callers: &Callers,
    news: &mut tokio::sync::mpsc::Receiver<News>,
    which: std::ops::Range<usize>,
    rate: f64,
) -> Result<usize> {
    let (begun, count, first) = (Instant::now(), which.len(), which.start);
    let due = |n: usize| begun + Duration::from_secs_f64(n as f64 / rate);
    let (mut placed, mut ended, mut hung, mut failed) = (0, 0, 0, 0);
    let deadline = due(count) + TALK + Duration::from_secs(40);
    while ended < count {
        ensure!(Instant::now() < deadline, "{} calls did not end", count - ended);
        let place = if placed < count { due(placed) } else { deadline };
        let hang = if hung < placed { due(hung) + TALK } else { deadline };
        tokio::select! {
            () = tokio::time::sleep_until(place.min(hang).into()) => {
                if placed < count && place <= hang {
                    callers.place_at(first + placed, place).await?;
                    placed += 1;
                } else if hung < placed {
                    callers.hang_up(first + hung).await?;
                    hung += 1;
                }
            }
            one = news.recv() => match one.context("the callers' task has ended")? {
                News::Ended(index) if which.contains(&index) => ended += 1,
                News::Failed(index, _) if which.contains(&index) => (ended, failed) = (ended + 1, failed + 1),
                _ => {}
            },
        }
    }
    Ok(failed)
}

async fn rtpengine(args: &PeersArgs, folder: &Path) -> Result<Measured> {
    let (at, log) = (free_port()?, folder.join("rtpengine.log"));
    let listen = format!("--listen-ng={at}");
    let options = [
        "--foreground",
        "--log-stderr",
        "--log-level=4",
        "--interface=127.0.0.1",
        "--table=-1",
        "--port-min=40000",
        "--port-max=49999",
        "--num-threads=2",
    ];
    // Table -1 asks for user space.
    let mut arguments: Vec<OsString> = options.map(OsString::from).into();
    arguments.push(listen.into());
    // Not where the one of the machine, or of another run, has them.
    arguments.push(format!("--listen-cli={}", free_port()?).into());
    arguments.push(format!("--listen-http={}", free_port()?).into());
    arguments.push(format!("--pidfile={}", folder.join("rtpengine.pid").display()).into());
    let mut peer = Peer::start("rtpengine", &args.rtpengine, arguments, &log)?;
    let control = ng::Control::connect(at, START_WITHIN).await.with_context(|| log_of(&log))?;
    let pid = peer.pid()?;
    let idle = talk::idle(pid).await;
    let mut parties = Parties::new()?;
    let [a, b] = parties.offers()?;
    for n in 0..args.relay.conversations {
        let call = format!("load-{n}");
        let offered = control.offer(&call, &a).await?;
        let answered = control.answer(&call, &b).await?;
        // A is shown what answers its offer, and B what is offered to it.
        parties.join([&answered, &offered])?;
    }
    note(&format!("rtpengine relays {} conversations; measuring", args.relay.conversations));
    let talk = parties.talk(true).await?;
    let measured = talk.measured(pid, idle, args.relay.seconds).await;
    drop(talk);
    ensure!(matches!(peer.child.try_wait(), Ok(None)), "it has ended:\n{}", log_of(&log));
    peer.stop().await;
    Ok(measured)
}
