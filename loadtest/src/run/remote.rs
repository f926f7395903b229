//! Workers on other machines: one TCP connection each, lines of JSON.
//!
//! A worker only places calls and plays agents; what a scenario does to a system is done by the coordinator. Beyond
//! loopback a worker wants a secret, because whoever can use it can aim load at anybody.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::codec::{Framed, LinesCodec};

use super::{
    clock::{Exchange, Offset, agree},
    told::{Assignment, Order, Told},
    worker,
};
use crate::{args::WorkerArgs, report::note};

/// Both sides must be the same.
const VERSION: u32 = 1;
/// Longest line.
const LINE: usize = 8 << 20;
const PINGS: u32 = 20;
const LIMIT: Duration = Duration::from_secs(10);
/// Nothing said for this long: the other side is gone. Workers tell something each second.
const SILENCE: Duration = Duration::from_secs(15);
const BEAT: Duration = Duration::from_secs(3);

type Line = Framed<TcpStream, LinesCodec>;

/// From the coordinator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Ask {
    Hello {
        version: u32,
        secret: String,
    },
    Ping {
        n: u32,
    },
    Assign {
        assignment: Box<Assignment>,
    },
    /// By the worker's clock.
    Start {
        at_us: i64,
    },
    Connected {
        call: usize,
    },
    Stop,
    Alive,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Tell {
    Welcome { version: u32, cores: usize },
    Refused { why: String },
    Pong { n: u32, at_us: i64 },
    Told { told: Told },
    Failed { why: String },
    Alive,
}

async fn say<T: Serialize>(line: &mut Line, what: &T) -> Result<()> {
    let text = serde_json::to_string(what)?;
    tokio::time::timeout(LIMIT, line.send(text)).await.context("the other side does not read")??;
    Ok(())
}

async fn hear<T: for<'de> Deserialize<'de>>(line: &mut Line, limit: Duration) -> Result<T> {
    let text = tokio::time::timeout(limit, line.next()).await.context("the other side is silent")?;
    let text = text.context("the other side closed the connection")??;
    serde_json::from_str(&text).context("not what is said here; is the other side of the same version?")
}

fn signed(us: u128) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

/// What the coordinator knows about a worker on another machine.
#[derive(Clone, Debug, Serialize)]
pub struct Remote {
    /// Where.
    pub at: SocketAddr,
    /// Its cores.
    pub cores: usize,
    /// Its clock.
    pub clock: Offset,
}

/// Connects to a worker and gives it its assignment. What it tells comes through `told`; when the connection breaks, that
/// it is lost.
pub(super) async fn connect(
    at: SocketAddr,
    secret: &str,
    assignment: Assignment,
    told: mpsc::Sender<(usize, Told)>,
) -> Result<(Remote, mpsc::Sender<Order>)> {
    let stream = tokio::time::timeout(LIMIT, TcpStream::connect(at)).await;
    let stream = stream.context("no answer")?.with_context(|| format!("--worker {at}"))?;
    stream.set_nodelay(true)?;
    let mut line = Framed::new(stream, LinesCodec::new_with_max_length(LINE));
    say(&mut line, &Ask::Hello { version: VERSION, secret: secret.to_owned() }).await?;
    let cores = match hear(&mut line, LIMIT).await? {
        Tell::Welcome { version: VERSION, cores } => cores,
        Tell::Welcome { version, .. } => bail!("it speaks version {version}, this program {VERSION}"),
        Tell::Refused { why } => bail!("{why}"),
        other => bail!("unexpected: {other:?}"),
    };
    let epoch = Instant::now();
    let mut exchanges = Vec::new();
    for n in 0..PINGS {
        let sent_us = signed(epoch.elapsed().as_micros());
        say(&mut line, &Ask::Ping { n }).await?;
        let Tell::Pong { at_us, .. } = hear(&mut line, LIMIT).await? else { bail!("no answer to a ping") };
        let received_us = signed(epoch.elapsed().as_micros());
        exchanges.push(Exchange { sent_us, theirs_us: at_us, received_us });
    }
    let clock = agree(&exchanges).context("no clock to agree upon")?;
    let number = assignment.worker;
    say(&mut line, &Ask::Assign { assignment: Box::new(assignment) }).await?;
    let (orders, queue) = mpsc::channel(10_000);
    tokio::spawn(async move {
        if let Err(error) = relay(&mut line, queue, &told, number, epoch, clock).await {
            let _ = told.send((number, Told::Lost { why: format!("{error:#}") })).await;
        }
    });
    Ok((Remote { at, cores, clock }, orders))
}

async fn relay(
    line: &mut Line,
    mut orders: mpsc::Receiver<Order>,
    told: &mpsc::Sender<(usize, Told)>,
    number: usize,
    epoch: Instant,
    clock: Offset,
) -> Result<()> {
    let mut beat = tokio::time::interval(BEAT);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let ask = match order {
                    Some(Order::Start(at)) => {
                        let ours = signed(at.saturating_duration_since(epoch).as_micros());
                        Ask::Start { at_us: ours + clock.offset_us }
                    }
                    Some(Order::Connected(call)) => Ask::Connected { call },
                    Some(Order::Stop) => Ask::Stop,
                    None => return Ok(()),
                };
                say(line, &ask).await?;
            }
            tell = hear(line, SILENCE) => {
                heard = Instant::now();
                match tell? {
                    Tell::Told { told: Told::Done } => {
                        let _ = told.send((number, Told::Done)).await;
                        return Ok(());
                    }
                    Tell::Told { told: one } => told.send((number, one)).await.ok().context("nobody counts")?,
                    Tell::Failed { why } => bail!("{why}"),
                    _ => {}
                }
            }
            _ = beat.tick() => {
                ensure!(heard.elapsed() < SILENCE, "silent for {} s", SILENCE.as_secs());
                say(line, &Ask::Alive).await?;
            }
        }
    }
}

/// Serves coordinators, one after the other.
pub async fn serve(args: &WorkerArgs) -> Result<()> {
    ensure!(
        args.listen.ip().is_loopback() || !args.secret.is_empty(),
        "--listen {}: beyond loopback --secret (or TRUNKLINE_LOAD_SECRET) is needed, since whoever reaches this port can \
         aim load at anybody",
        args.listen
    );
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    note(&format!("worker at {}; waiting for a coordinator", listener.local_addr()?));
    serve_at(listener, args).await
}

/// The same on a socket that listens already.
pub async fn serve_at(listener: TcpListener, args: &WorkerArgs) -> Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut line = Framed::new(stream, LinesCodec::new_with_max_length(LINE));
        note(&format!("coordinator {peer}"));
        if let Err(error) = Box::pin(session(&mut line, args)).await {
            note(&format!("coordinator {peer}: {error:#}"));
            let _ = say(&mut line, &Tell::Failed { why: format!("{error:#}") }).await;
        }
        if args.once {
            return Ok(());
        }
    }
}

async fn session(line: &mut Line, args: &WorkerArgs) -> Result<()> {
    let epoch = Instant::now();
    let Ask::Hello { version, secret } = hear(line, LIMIT).await? else { bail!("no greeting") };
    if version != VERSION || !same(&secret, &args.secret) {
        let why = if version == VERSION { "the secret is wrong" } else { "another version of the protocol" };
        say(line, &Tell::Refused { why: why.into() }).await?;
        bail!("refused: {why}");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    say(line, &Tell::Welcome { version: VERSION, cores }).await?;
    let mut assignment = loop {
        match hear(line, SILENCE).await? {
            Ask::Ping { n } => {
                say(line, &Tell::Pong { n, at_us: signed(epoch.elapsed().as_micros()) }).await?
            }
            Ask::Assign { assignment } => break *assignment,
            other => bail!("unexpected: {other:?}"),
        }
    };
    let edge: SocketAddr = *assignment.sip.first().context("an assignment without a SIP address")?;
    assignment.bind = own_address(args.bind, edge)?;
    let (orders, queue) = mpsc::channel(10_000);
    let (told, mut tells) = mpsc::channel(200_000);
    let work = tokio::spawn(worker::work(assignment, queue, told));
    let done = pass_on(line, &orders, &mut tells, epoch).await;
    // Without orders the work ends by itself, soon; what it still does is cut off.
    drop(orders);
    if done.is_err() {
        work.abort();
        return done;
    }
    work.await.context("the work was cut off")??;
    Ok(())
}

async fn pass_on(
    line: &mut Line,
    orders: &mpsc::Sender<Order>,
    tells: &mut mpsc::Receiver<Told>,
    epoch: Instant,
) -> Result<()> {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            told = tells.recv() => {
                // The work has ended; its result says how.
                let Some(told) = told else { return Ok(()) };
                let done = matches!(told, Told::Done);
                say(line, &Tell::Told { told }).await?;
                // The coordinator has nothing to say after that, and closes the connection.
                if done {
                    return Ok(());
                }
            }
            ask = hear(line, SILENCE) => {
                let order = match ask? {
                    Ask::Start { at_us } => {
                        let after = Duration::from_micros(u64::try_from(at_us).unwrap_or(0));
                        Order::Start(epoch + after)
                    }
                    Ask::Connected { call } => Order::Connected(call),
                    Ask::Stop => Order::Stop,
                    _ => continue,
                };
                let _ = orders.send(order).await;
            }
            _ = beat.tick() => say(line, &Tell::Alive).await?,
        }
    }
}

/// The address for callers and agents: the one that was told, or the one from which the system is reached.
fn own_address(told: Option<IpAddr>, system: SocketAddr) -> Result<IpAddr> {
    if let Some(told) = told {
        return Ok(told);
    }
    // No packet is sent: the kernel only chooses.
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(system)?;
    Ok(socket.local_addr()?.ip())
}

/// Compares without telling by its time how much was right.
fn same(one: &str, other: &str) -> bool {
    let differs = one.bytes().zip(other.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    one.len() == other.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_as_a_whole() {
        assert!(same("", "") && same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "x"));
    }

    #[tokio::test]
    async fn a_wrong_secret_and_an_open_worker_are_refused() {
        let mut args = WorkerArgs {
            listen: "0.0.0.0:0".parse().unwrap(),
            secret: String::new(),
            bind: None,
            once: true,
        };
        assert!(serve(&args).await.unwrap_err().to_string().contains("--secret"));
        args.secret = "right".into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let served = tokio::spawn(async move { serve_at(listener, &args).await });
        let assignment = Assignment {
            worker: 0,
            workers: 1,
            scenario: String::new(),
            changes: Default::default(),
            sip: Vec::new(),
            http: Vec::new(),
            bind: at.ip(),
        };
        let error = connect(at, "wrong", assignment, mpsc::channel(1).0).await.unwrap_err();
        assert!(error.to_string().contains("the secret is wrong"), "{error}");
        served.await.unwrap().unwrap();
    }
}
