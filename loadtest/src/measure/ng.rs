//! As much of rtpengine's control protocol as a relayed call needs: bencoded dictionaries over UDP, each with a cookie.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;

/// An answer comes within this, or the question is repeated.
const WITHIN: Duration = Duration::from_millis(500);

/// A control connection.
pub struct Control {
    socket: UdpSocket,
    cookies: AtomicU64,
}

impl Control {
    /// Waits until rtpengine answers.
    pub async fn connect(at: SocketAddr, limit: Duration) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(at).await?;
        let control = Self { socket, cookies: AtomicU64::new(1) };
        let deadline = tokio::time::Instant::now() + limit;
        while control.ask(&[("command", "ping")]).await.is_err() {
            if tokio::time::Instant::now() > deadline {
                bail!("rtpengine does not answer at {at}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(control)
    }

    /// The SDP to show to the other side.
    pub async fn offer(&self, call: &str, sdp: &str) -> Result<String> {
        self.sdp(&[
            ("ICE", "remove"),
            ("call-id", call),
            ("command", "offer"),
            ("from-tag", "a"),
            ("sdp", sdp),
        ])
        .await
    }

    /// The SDP to show to who made the offer.
    pub async fn answer(&self, call: &str, sdp: &str) -> Result<String> {
        let fields = [
            ("ICE", "remove"),
            ("call-id", call),
            ("command", "answer"),
            ("from-tag", "a"),
            ("sdp", sdp),
            ("to-tag", "b"),
        ];
        self.sdp(&fields).await
    }

    async fn sdp(&self, fields: &[(&str, &str)]) -> Result<String> {
        let answer = self.ask(fields).await?;
        text(&answer, "sdp").with_context(|| format!("no SDP in {answer:?}"))
    }

    async fn ask(&self, fields: &[(&str, &str)]) -> Result<String> {
        let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
        let question = format!("{cookie} {}", dictionary(fields));
        let mut buffer = vec![0; 65_535];
        for _ in 0..4 {
            self.socket.send(question.as_bytes()).await?;
            let Ok(Ok(length)) = tokio::time::timeout(WITHIN, self.socket.recv(&mut buffer)).await else {
                continue;
            };
            let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            let Some(answer) = answer.strip_prefix(&format!("{cookie} ")) else { continue };
            if let Some(reason) = text(answer, "error-reason") {
                bail!("rtpengine: {reason}");
            }
            return Ok(answer.to_owned());
        }
        bail!("rtpengine does not answer")
    }
}

fn dictionary(fields: &[(&str, &str)]) -> String {
    let string = |text: &str| format!("{}:{text}", text.len());
    let fields: String = fields.iter().map(|(key, value)| string(key) + &string(value)).collect();
    format!("d{fields}e")
}

/// A text in a dictionary, wherever it is.
fn text(bencoded: &str, key: &str) -> Option<String> {
    let (_, rest) = bencoded.split_once(&format!("{}:{key}", key.len()))?;
    let (length, rest) = rest.split_once(':')?;
    Some(rest.get(..length.parse().ok()?)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_written_and_texts_are_found() {
        let written = dictionary(&[("call-id", "x"), ("sdp", "v=0\r\n")]);
        assert_eq!(written, "d7:call-id1:x3:sdp5:v=0\r\ne");
        assert_eq!(text(&written, "sdp").as_deref(), Some("v=0\r\n"));
        assert_eq!(text(&written, "result"), None);
        assert_eq!(text("d3:sdp99:shorte", "sdp"), None);
    }
}
