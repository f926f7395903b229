//! A real browser: headless Chromium offers, hears the caller, is heard, presses a key, and is reloaded.
//!
//! Needs `chromium` on the path; without one the test says so and passes (the browser suite of the project requires it).

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use trunkline_media_core::codec::Codec;
use trunkline_proto::media::v1::{self as pb, media_command::Command, media_event::Event};

const PAGE: &str = r#"<!doctype html><audio id=a autoplay></audio><script>
(async () => {
  const post = (path, body) => fetch(path, { method: "POST", body }).then(r => r.text());
  try {
    const context = new AudioContext();
    const tone = context.createOscillator();
    tone.frequency.value = 1000;
    const out = context.createMediaStreamDestination();
    tone.connect(out); tone.start();
    const pc = new RTCPeerConnection();
    const sender = pc.addTrack(out.stream.getAudioTracks()[0], out.stream);
    pc.ontrack = e => {
      const stream = new MediaStream([e.track]);
      document.getElementById("a").srcObject = stream;
      const analyser = context.createAnalyser();
      analyser.fftSize = 4096;
      context.createMediaStreamSource(stream).connect(analyser);
      const bins = new Float32Array(analyser.frequencyBinCount);
      setInterval(() => {
        analyser.getFloatFrequencyData(bins);
        let best = 0;
        bins.forEach((v, i) => { if (v > bins[best]) best = i; });
        const hz = best * context.sampleRate / analyser.fftSize;
        post("/heard", Math.round(bins[best] > -60 ? hz : 0) + "");
      }, 200);
    };
    await pc.setLocalDescription();
    const answer = await post("/offer", pc.localDescription.sdp);
    await pc.setRemoteDescription({ type: "answer", sdp: answer });
    const keys = setInterval(() => {
      if (pc.connectionState !== "connected" || !sender.dtmf || !sender.dtmf.canInsertDTMF) return;
      clearInterval(keys);
      setTimeout(() => sender.dtmf.insertDTMF("7"), 500);
    }, 100);
  } catch (e) { post("/error", e + ""); }
})();
</script>"#;

/// What the page says.
#[derive(Debug)]
struct Said {
    path: String,
    body: String,
    answer: tokio::sync::oneshot::Sender<Vec<u8>>,
}

struct Browser(Child, #[allow(dead_code, reason = "removed with the browser")] tempfile::TempDir);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open(url: &str) -> Option<Browser> {
    let profile = tempfile::tempdir().unwrap();
    let child = Process::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some(Browser(child, profile))
}

/// As much HTTP as the page needs.
async fn serve(mut stream: TcpStream, said: mpsc::Sender<Said>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16_384];
    loop {
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&buffer[..n]);
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        while bytes.len() < head_end + length {
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&buffer[..n]);
        }
        let path = head.split(' ').nth(1)?.to_owned();
        let body = String::from_utf8_lossy(&bytes[head_end..head_end + length]).into_owned();
        bytes.drain(..head_end + length);
        let (kind, answer) = if head.starts_with("get") {
            ("text/html", PAGE.as_bytes().to_vec())
        } else {
            let (answer, answered) = tokio::sync::oneshot::channel();
            said.send(Said { path, body, answer }).await.ok()?;
            ("text/plain", answered.await.unwrap_or_default())
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&answer).await.ok()?;
    }
}

/// Answers the page until it hears `hz`.
async fn until_page_hears(bench: &Bench, said: &mut mpsc::Receiver<Said>, hz: i32, replace: bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let next = tokio::time::timeout_at(deadline, said.recv()).await;
        let Said { path, body, answer } =
            next.unwrap_or_else(|_| panic!("{hz} Hz is not heard in the page")).unwrap();
        match path.as_str() {
            "/offer" => {
                let (endpoint, sdp, prefer) =
                    ("agent".to_owned(), body.into_bytes().into(), vec![pb::Codec::Pcma as i32]);
                let ok = if replace {
                    bench.ok(Command::ReplaceWebrtc(pb::ReplaceWebRtc { endpoint, sdp, prefer })).await
                } else {
                    let ok = bench
                        .ok(Command::CreateWebrtc(pb::CreateWebRtcEndpoint { endpoint, sdp, prefer }))
                        .await;
                    bench.ok(bridge("alice", "agent")).await;
                    ok
                };
                assert!(ok.telephone_event && ok.codec() == pb::Codec::Pcma, "{ok:?}");
                let _ = answer.send(ok.sdp.to_vec());
            }
            "/heard" => {
                let _ = answer.send(Vec::new());
                if (body.parse::<i32>().unwrap() - hz).abs() < 15 {
                    return;
                }
            }
            _ => panic!("the page failed: {body}"),
        }
    }
}

#[tokio::test]
async fn chromium_hears_the_caller_is_heard_presses_a_key_and_is_reloaded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let (sender, mut said) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, sender.clone()));
        }
    });
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcma).await;
    alice.tone(440);
    let page = open(&url).expect("there is no chromium on the path: install the package chromium");
    until_page_hears(&bench, &mut said, 440, false).await;
    alice.hears(1_000).await;
    let answering = async {
        while let Some(said) = said.recv().await {
            let _ = said.answer.send(Vec::new());
        }
    };
    let digit = tokio::select! {
        digit = bench.event("digit", |e| match e { Event::Digit(d) => Some(d.digit.clone()), _ => None }) => digit,
        () = answering => panic!("the page is gone"),
    };
    assert_eq!(digit, "7");
    drop(page);
    let page = open(&url).unwrap();
    alice.tone(600);
    until_page_hears(&bench, &mut said, 600, true).await;
    alice.hears(1_000).await;
    drop(page);
}
