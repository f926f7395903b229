//! Whoever is called: answers every INVITE at once, so that what lies between can be measured.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{net::UdpSocket, sync::watch};

use crate::sip::{self, Message};

/// Answers calls until it is dropped.
#[derive(Debug)]
pub struct Callee {
    /// Where it is called.
    pub at: SocketAddr,
    pause: watch::Sender<Duration>,
    task: tokio::task::JoinHandle<()>,
}

impl Callee {
    /// Opens a socket.
    pub fn start(bind: IpAddr) -> Result<Self> {
        let socket = crate::callers::socket(bind)?;
        let at = socket.local_addr()?;
        let (pause, pauses) = watch::channel(Duration::ZERO);
        Ok(Self { at, pause, task: tokio::spawn(run(socket, at, pauses)) })
    }

    /// Reads nothing for a while, as a system that stalls.
    pub fn stall(&self, how_long: Duration) {
        self.pause.send_replace(how_long);
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(socket: UdpSocket, at: SocketAddr, mut pauses: watch::Receiver<Duration>) {
    let contact = format!("sip:callee@{at}");
    let sdp = sip::offer(at, "inactive");
    let mut buffer = vec![0; 65_535];
    loop {
        tokio::select! {
            changed = pauses.changed() => {
                if changed.is_err() {
                    return;
                }
                let pause = *pauses.borrow_and_update();
                tokio::time::sleep_until((Instant::now() + pause).into()).await;
            }
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, source)) = received else { continue };
                let Some(request) = Message::parse(buffer.get(..length).unwrap_or_default()) else { continue };
                let answers = match (request.status(), request.method()) {
                    (None, "INVITE") => {
                        let ok = tagged(&request.ok(&contact, Some(&sdp)));
                        let ringing = tagged(&request.ok(&contact, None)).replacen("200 OK", "180 Ringing", 1);
                        vec![ringing, ok]
                    }
                    (None, "BYE" | "CANCEL" | "OPTIONS") => vec![request.ok(&contact, None)],
                    _ => continue,
                };
                for answer in answers {
                    // A full buffer is loss like any other.
                    let _ = socket.try_send_to(answer.as_bytes(), source);
                }
            }
        }
    }
}

/// With a tag in To, as a response that makes a dialog needs it; Record-Route is kept by `Message::ok`.
fn tagged(response: &str) -> String {
    let lines = response.split("\r\n").map(|line| match line.strip_prefix("To: ") {
        Some(to) if !to.contains("tag=") => format!("To: {to};tag=callee"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n")
}
