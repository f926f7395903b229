//! The little SIP that a test says itself: bytes out, answers in.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The message.
    pub text: String,
}

impl Answer {
    /// A SIP response, None for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()?;
        Some(Self { status, text })
    }

    /// The values of a header field in its long form.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.text
            .split("\r\n")
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(':'))
            .filter(|(field, _)| field.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

/// An OPTIONS request that nobody else has sent.
pub fn options(to: SocketAddr, from: SocketAddr, transport: &str, n: u64) -> String {
    let call = format!("{n}-{}", std::process::id());
    format!(
        "OPTIONS sip:support@{to} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {from};branch=z9hG4bK-options-{call};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:test@{from}>;tag={call}\r\n\
         To: <sip:support@{to}>\r\n\
         Call-ID: options-{call}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The next datagram within a limit, None when there is none.
pub async fn receive(socket: &UdpSocket, limit: Duration) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 65_536];
    match timeout(limit, socket.recv_from(&mut bytes)).await {
        Ok(received) => {
            let (length, _) = received.context("receiving")?;
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        Err(_) => Ok(None),
    }
}

/// A TCP connection that is read message by message.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a TCP connection gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A whole message.
    Message(Vec<u8>),
    /// Nothing within the limit.
    Silence,
    /// The peer closed.
    Closed,
}

impl Stream {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Result<Self> {
        let stream =
            timeout(Duration::from_secs(5), TcpStream::connect(to)).await.context("connecting")??;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// This side's address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends bytes; false when the peer has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        // The peer may have closed already.
        let _ = self.stream.shutdown().await;
    }

    /// Reads a message.
    pub async fn read(&mut self, limit: Duration) -> Result<Read> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(length) = message_length(&self.buffer)? {
                return Ok(Read::Message(self.buffer.drain(..length).collect()));
            }
            let mut part = vec![0; 16_384];
            match tokio::time::timeout_at(deadline, self.stream.read(&mut part)).await {
                Err(_) => return Ok(Read::Silence),
                Ok(Ok(0) | Err(_)) => return Ok(Read::Closed),
                Ok(Ok(n)) => self.buffer.extend_from_slice(&part[..n]),
            }
        }
    }
}

/// How many bytes the first message has, when it is whole.
fn message_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let length = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse::<usize>());
    let Some(Ok(length)) = length else { bail!("an answer over TCP without Content-Length: {head}") };
    let whole = end + 4 + length;
    Ok((bytes.len() >= whole).then_some(whole))
}
