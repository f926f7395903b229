//! Our relay by itself, beside a bare one: a media node in a process of its own with calls of two plain telephones, which no
//! call of the product is, measured in the same way as rtpengine.
//!
//! This program imports nothing of the system, so that the node is another program's (`media-node`, an example of the media
//! crate). It is told what to do by JSON lines: its documentation has them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    named,
    talk::{self, Measured, Parties},
};
use crate::{
    args::{RelayArgs, ServerArgs},
    report::{Figure, figure, note, publish},
};

/// A line is answered within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Recordings are open by then.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures a bare relay, and a media node that relays, records and plays music; prints one table.
pub async fn relay(args: &RelayArgs, server: &ServerArgs) -> Result<()> {
    let plan = Plan::of(args, server)?;
    let figures = plan.run(None).await?;
    let name =
        format!("relay: {} conversations, {:.0} s each", args.conversations, args.seconds.as_secs_f64());
    publish(&name, &figures, server.json.as_deref())
}

/// What is measured, and with which programs.
pub struct Plan {
    conversations: usize,
    seconds: Duration,
    rtp: String,
    node: PathBuf,
    own: PathBuf,
}

/// A way to use the media node.
struct Way {
    name: &'static str,
    /// Milliseconds after which a recording is copied.
    segment: &'static str,
    /// Before anybody speaks.
    first: &'static [&'static str],
    /// When every source has been learnt.
    then: &'static [&'static str],
    speak: bool,
    beside: [&'static str; 3],
}

const RELAY: Way = Way {
    name: "relay",
    segment: "0",
    first: &["bridge"],
    then: &[],
    speak: true,
    beside: ["≤ 1.25 × bare, ≤ 0.65 × rtpengine", "32–38", "56"],
};
const RECORDED: [&str; 3] = ["≤ 14", "91–94", "75"];
const STORED: Way =
    Way { name: "relay recorded in stereo, stored at the end", then: &["record"], beside: RECORDED, ..RELAY };
const COPIED: Way = Way { name: "relay recorded in stereo, copied every second", segment: "1000", ..STORED };
const MUSIC: Way =
    Way { name: "music", first: &["music"], speak: false, beside: ["≤ 8", "49", ""], ..RELAY };

impl Plan {
    /// Finds the programs.
    pub fn of(args: &RelayArgs, server: &ServerArgs) -> Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        let node = match &args.media_node {
            Some(named) => named.clone(),
            None => own.with_file_name("examples").join("media-node"),
        };
        ensure!(
            node.is_file(),
            "{} is not there: build it (cargo build --release -p trunkline-media --example media-node) or name another \
             with --media-node PATH",
            node.display()
        );
        let (conversations, seconds, rtp) = (args.conversations, args.seconds, server.rtp.clone());
        Ok(Self { conversations, seconds, rtp, node, own })
    }

    /// Measures one after the other. `rtpengine` is what it spends on a packet, if that was measured.
    pub async fn run(&self, rtpengine: Option<f64>) -> Result<Vec<Figure>> {
        let bare = self.bare().await.context("the bare relay")?;
        let mut figures = named("bare relay, receive and send only", bare.figures([""; 3]));
        let ratio = |name: &str, one: f64, other: f64| figure(name, one / other, "×");
        for way in [RELAY, STORED, COPIED, MUSIC] {
            let (measured, spooled) = self.ours(&way).await.with_context(|| format!("our {}", way.name))?;
            let mut ours = measured.figures(way.beside);
            if way.speak {
                ours.push(ratio(
                    "CPU a packet to that of the bare relay",
                    measured.each_us(),
                    bare.each_us(),
                ));
            }
            if let Some(rtpengine) = rtpengine.filter(|_| way.speak) {
                ours.push(ratio("CPU a packet to that of rtpengine", measured.each_us(), rtpengine));
            }
            if way.then.contains(&"record") {
                let each = spooled as f64 / measured.span / self.conversations.max(1) as f64 / 1_000.0;
                ours.push(figure("recorded of a conversation in a second", each, "kB"));
            }
            figures.extend(named(&format!("Trunkline's media node, {}", way.name), ours));
        }
        Ok(figures)
    }

    async fn bare(&self) -> Result<Measured> {
        let mut host = Host::start(&self.own, ["bare-relay".into()])?;
        let pid = host.pid()?;
        let idle = talk::idle(pid).await;
        let parties = self.parties(&mut host).await?;
        host.ask(json!("bridge")).await?;
        note(&format!("a bare relay has {} conversations; measuring", self.conversations));
        let talk = parties.talk(true).await?;
        let measured = talk.measured(pid, idle, self.seconds).await;
        drop(talk);
        host.stop().await.map(|()| measured)
    }

    /// Gives besides how many bytes were recorded meanwhile.
    async fn ours(&self, way: &Way) -> Result<(Measured, u64)> {
        let folder = tempfile::Builder::new().prefix("trunkline-load-relay-").tempdir()?;
        let arguments = [self.rtp.clone().into(), folder.path().into(), way.segment.into()];
        let mut host = Host::start(&self.node, arguments)?;
        let pid = host.pid()?;
        let idle = talk::idle(pid).await;
        let parties = self.parties(&mut host).await?;
        for order in way.first {
            host.ask(json!(order)).await?;
        }
        note(&format!("our media node has {} conversations ({}); measuring", self.conversations, way.name));
        let talk = parties.talk(way.speak).await?;
        for order in way.then {
            host.ask(json!(order)).await?;
            tokio::time::sleep(SETTLE).await;
        }
        let before = bytes(&folder.path().join("spool"));
        let measured = talk.measured(pid, idle, self.seconds).await;
        let spooled = bytes(&folder.path().join("spool")).saturating_sub(before);
        drop(talk);
        host.stop().await.map(|()| (measured, spooled))
    }

    /// All conversations, set up at a host.
    async fn parties(&self, host: &mut Host) -> Result<Parties> {
        let mut parties = Parties::new()?;
        let [a, b] = parties.offers()?;
        for _ in 0..self.conversations {
            let shown = host.ask(json!({ "call": { "a": a, "b": b } })).await?;
            let sdp = |of: &str| shown[of].as_str().with_context(|| format!("no SDP for {of} in {shown}"));
            parties.join([sdp("a")?, sdp("b")?])?;
        }
        Ok(parties)
    }
}

/// Of all files below a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A process that relays as its lines say, and ends when there are no more, or with this.
struct Host {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Host {
    fn start<const N: usize>(program: &Path, arguments: [OsString; N]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{}: cannot be started", program.display()))?;
        let input = child.stdin.take().context("no way to tell it anything")?;
        let answers = BufReader::new(child.stdout.take().context("no way to hear it")?).lines();
        Ok(Self { child, input, answers })
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    async fn ask(&mut self, order: Value) -> Result<Value> {
        let (input, answers) = (&mut self.input, &mut self.answers);
        let asked = async {
            input.write_all(format!("{order}\n").as_bytes()).await?;
            answers.next_line().await
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await.context("it does not answer")?;
        let answer = answer.ok().flatten().context("it has ended; what it said is above")?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// One that has ended before was not measured to the end.
    async fn stop(mut self) -> Result<()> {
        ensure!(matches!(self.child.try_wait(), Ok(None)), "it has ended amid the measurement");
        drop(self.input);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.context("it does not end with its input")??;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}
