//! `trunkline dev call`: telephones that call the running system.
//!
//! Owns a small SIP telephone of its own (UDP, G.711, telephone-event) on top of the pure `trunkline-sip`, so that a
//! newcomer needs no other, and tests have one more peer. It shares no media code with the system it calls. It refuses
//! what a telephone of the house does not need: registration, authentication, incoming calls, transfer, TCP, SRTP.
//!
//! Called by the command line only. RFC 3261, 3264 (offer/answer with hold), 3311 (UPDATE), 3326 (Reason), 3550 and
//! 3551 (RTP, G.711), 4733 (keys).
//!
//! `args` is the command line, `ua` the SIP socket and its transactions, `call` one call, `rtp` its voice, `listen` what it
//! hears, `sdp` and `audio` formats, `report` the terminal.

mod args;
mod audio;
mod call;
mod listen;
mod report;
mod rtp;
mod sdp;
mod ua;

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
pub use args::DevCallArgs;
pub use report::Outcome;
use tokio::{sync::watch, task::JoinSet};
use trunkline_sip::{SipUri, Uri};

use self::{audio::Speech, call::Plan, report::Line, rtp::Script};

/// Places the calls and waits for all of them. The exit code is 1 when one of them failed.
///
/// # Errors
/// A file cannot be read, an address cannot be found, or nothing listens there.
pub async fn run(args: DevCallArgs) -> anyhow::Result<ExitCode> {
    let outcomes = place(args).await?;
    Ok(if report::totals(&outcomes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Places the calls and tells how each went.
///
/// # Errors
/// As [`run`].
pub async fn place(args: DevCallArgs) -> anyhow::Result<Vec<Outcome>> {
    let speeches = speeches(&args)?;
    if let Some(folder) = &args.record {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("--record {}: cannot be created", folder.display()))?;
    }
    let to = request_uri(&args)?;
    let target = ua::resolve(&route(&args.sip)?).await.with_context(|| format!("--sip {}", args.sip))?;
    let ua = ua::start(target).await?;
    let (stop, stopped) = watch::channel(false);
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    for number in 1..=args.count {
        let due = begun + Duration::from_secs_f64(f64::from(number - 1) / args.rate);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = &mut interrupt => { stop.send_replace(true); break; }
        }
        let speech =
            speeches.get((number as usize - 1) % speeches.len().max(1)).context("no speech")?.clone();
        let plan = plan(&args, number, speech, to.clone(), target);
        let line = Line::new(begun, number, args.count, args.quiet);
        calls.spawn(call::place(plan, ua.clone(), line, stopped.clone()));
    }
    let mut outcomes = Vec::new();
    loop {
        tokio::select! {
            done = calls.join_next() => match done {
                Some(outcome) => outcomes.push(outcome.context("a call's task failed")?),
                None => break,
            },
            _ = &mut interrupt, if !*stop.borrow() => { stop.send_replace(true); }
        }
    }
    Ok(outcomes)
}

fn speeches(args: &DevCallArgs) -> anyhow::Result<Vec<Speech>> {
    if args.wav.is_empty() {
        Ok(vec![Speech::sample()?])
    } else {
        args.wav.iter().map(|path| Speech::load(path)).collect()
    }
}

/// `host:port` or `host` as a URI.
fn route(sip: &str) -> anyhow::Result<Uri> {
    format!("sip:{sip}")
        .parse()
        .with_context(|| format!("--sip {sip}: an address like 127.0.0.1:5060 is needed"))
}

/// A name or number at the system's address, or the URI as given.
fn request_uri(args: &DevCallArgs) -> anyhow::Result<Uri> {
    let remedy = || format!("--to {}: a name, a number or a sip: URI is needed", args.to);
    if args.to.contains(':') {
        return args.to.parse().with_context(remedy);
    }
    let route = route(&args.sip)?;
    let place = route.as_sip().with_context(remedy)?;
    let uri = SipUri::new(Some(&args.to), place.host()).with_context(remedy)?;
    Ok(match place.port {
        Some(port) => uri.with_port(port).into(),
        None => uri.into(),
    })
}

fn plan(args: &DevCallArgs, number: u32, speech: Speech, to: Uri, target: SocketAddr) -> Plan {
    let record = args.record.as_ref().map(|folder| folder.join(format!("call-{number:03}.wav")));
    Plan {
        to,
        target,
        // Numbers that are reserved for fiction, so that nobody's telephone is in a test's record.
        from: args.from.clone().unwrap_or_else(|| format!("+121255501{:02}", (number - 1) % 100)),
        name: args.name.clone().unwrap_or_else(|| format!("Caller {number}")),
        laws: args.codec.order(),
        script: Script { speech, once: args.once || args.hang_up_after, digits: args.digits.clone(), record },
        hang_up_after: args.hang_up_after,
        talk: args.talk,
        max: args.max_seconds,
    }
}
