//! baresip as a caller's telephone: what it sends and what it hears is kept as WAV.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    audio::{Sound, from_pcm},
    net,
    process::Program,
    s, until,
};

const RATE_HZ: u32 = 8_000;
const WAV_HEADER_BYTES: usize = 44;
const ANSWER_WITHIN: Duration = s(5);

/// A running baresip.
#[derive(Debug)]
pub struct Baresip {
    program: Program,
    control: SocketAddr,
    sounds: PathBuf,
}

impl Baresip {
    /// Starts it with a WAV file (8 kHz, mono) as its microphone. `user` is its name in From.
    pub async fn start(folder: &Path, user: &str, microphone: &Path) -> Result<Self> {
        Self::start_as(folder, user, microphone, None).await
    }

    /// The same with an account: it registers, and keeps itself registered.
    pub async fn registered(
        folder: &Path,
        user: &str,
        microphone: &Path,
        registrar: SocketAddr,
        password: &str,
    ) -> Result<Self> {
        Self::start_as(folder, user, microphone, Some((registrar, password))).await
    }

    async fn start_as(
        folder: &Path,
        user: &str,
        microphone: &Path,
        registrar: Option<(SocketAddr, &str)>,
    ) -> Result<Self> {
        let home = folder.join(format!("baresip-{user}"));
        let sounds = home.join("sounds");
        fs::create_dir_all(&sounds)?;
        let (sip, control) = (net::address()?, net::address()?);
        fs::write(home.join("accounts"), account(user, sip, registrar))?;
        fs::write(home.join("config"), config(sip, control, microphone, &sounds)?)?;
        let mut command = Command::new("baresip");
        command.arg("-4").arg("-f").arg(&home);
        let mut program = Program::start(&format!("baresip-{user}"), folder, &mut command)?;
        until("baresip takes commands", s(15), || {
            let ended = program.poll();
            async move {
                if let Some(status) = ended? {
                    bail!("baresip ended: {status}");
                }
                Ok(TcpStream::connect(control).await.ok().map(drop))
            }
        })
        .await
        .with_context(|| program.stdout())?;
        Ok(Self { program, control, sounds })
    }

    /// Calls.
    pub async fn dial(&self, uri: &str) -> Result<()> {
        self.command("dial", uri).await
    }

    /// Puts the other side on hold, or back.
    pub async fn hold(&self, on: bool) -> Result<()> {
        self.command(if on { "hold" } else { "resume" }, "").await
    }

    /// Presses a key.
    pub async fn key(&self, key: char) -> Result<()> {
        self.command("sndcode", &key.to_string()).await
    }

    /// Hangs up.
    pub async fn hang_up(&self) -> Result<()> {
        self.command("hangup", "").await
    }

    /// What the caller hears, from now on for so long.
    pub async fn hear(&self, length: Duration) -> Result<Sound> {
        let bytes = length.as_millis() as usize * RATE_HZ as usize / 1_000 * 2;
        let from = self.received().map_or(0, |pcm| pcm.len());
        let pcm = until("baresip has heard enough", length + s(10), || {
            std::future::ready(Ok(self.received().filter(|pcm| pcm.len() >= from + bytes)))
        })
        .await?;
        Ok(from_pcm(&pcm[from..from + bytes], RATE_HZ))
    }

    /// All that was heard in the call so far.
    pub fn heard(&self) -> Sound {
        from_pcm(&self.received().unwrap_or_default(), RATE_HZ)
    }

    /// What it has written about itself.
    pub fn log(&self) -> String {
        self.program.stdout()
    }

    fn received(&self) -> Option<Vec<u8>> {
        let mut found: Vec<PathBuf> = fs::read_dir(&self.sounds)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
            .collect();
        found.sort();
        let bytes = fs::read(found.pop()?).ok()?;
        let pcm = bytes.get(WAV_HEADER_BYTES..)?;
        Some(pcm[..pcm.len() / 2 * 2].to_vec())
    }

    /// A command by netstring and JSON, whose answer must be "ok".
    async fn command(&self, command: &str, params: &str) -> Result<()> {
        let body = json!({ "command": command, "params": params, "token": "t" }).to_string();
        let exchange = async {
            let mut stream = TcpStream::connect(self.control).await?;
            stream.write_all(format!("{}:{body},", body.len()).as_bytes()).await?;
            let mut seen = Vec::new();
            loop {
                let mut part = [0; 4_096];
                let n = stream.read(&mut part).await?;
                ensure!(n > 0, "baresip closed the connection");
                seen.extend_from_slice(&part[..n]);
                let answers = netstrings(&seen);
                if let Some(answer) = answers.iter().find(|a| a["response"] == true) {
                    ensure!(answer["ok"] == true, "baresip: {command} {params}: {answer}");
                    return Ok(());
                }
            }
        };
        timeout(ANSWER_WITHIN, exchange)
            .await
            .with_context(|| format!("baresip does not answer to {command}"))?
    }
}

fn netstrings(mut bytes: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(colon) = bytes.iter().position(|b| *b == b':') {
        let Some(length) = std::str::from_utf8(&bytes[..colon]).ok().and_then(|n| n.parse::<usize>().ok())
        else {
            break;
        };
        let Some(body) = bytes.get(colon + 1..colon + 1 + length) else { break };
        all.extend(serde_json::from_slice::<Value>(body));
        bytes = bytes.get(colon + 2 + length..).unwrap_or_default();
    }
    all
}

fn account(user: &str, sip: SocketAddr, registrar: Option<(SocketAddr, &str)>) -> String {
    let (host, registers) = match registrar {
        None => (sip, "regint=0".to_owned()),
        Some((at, password)) => (at, format!("regint=60;auth_user={user};auth_pass={password}")),
    };
    format!("<sip:{user}@{host}>;{registers};answermode=manual;audio_codecs=pcma/8000/1,pcmu/8000/1\n")
}

fn config(sip: SocketAddr, control: SocketAddr, microphone: &Path, sounds: &Path) -> Result<String> {
    let modules =
        ["/usr/lib/baresip/modules", "/usr/lib64/baresip/modules", "/usr/local/lib/baresip/modules"]
            .into_iter()
            .find(|path| Path::new(path).is_dir())
            .context("the modules of baresip are not where its packages put them")?;
    let media = net::rtp_range()?;
    let microphone = microphone.display();
    let sounds = sounds.display();
    Ok(format!(
        "poll_method epoll\n\
         sip_listen {sip}\n\
         net_interface 127.0.0.1\n\
         rtp_ports {media}\n\
         rtp_timeout 60\n\
         call_max_calls 4\n\
         audio_source aufile,{microphone}\n\
         audio_player aufile,/dev/null\n\
         audio_alert aufile,/dev/null\n\
         ausrc_srate {RATE_HZ}\n\
         auplay_srate {RATE_HZ}\n\
         ausrc_channels 1\n\
         auplay_channels 1\n\
         audio_buffer 20-160\n\
         module_path {modules}\n\
         module g711.so\n\
         module aufile.so\n\
         module sndfile.so\n\
         module_app account.so\n\
         module_app menu.so\n\
         module_app ctrl_tcp.so\n\
         ctrl_tcp_listen {control}\n\
         snd_path {sounds}\n"
    ))
}
