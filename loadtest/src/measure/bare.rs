//! What no relay can be below: one thread that waits for many sockets, and receives and sends each packet. A process of its
//! own, told by the same lines as the media node (see `relay`).

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use serde::Deserialize;

use crate::sip;

/// Events taken by one wait.
const BATCH: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Call { a: String, b: String },
    Bridge,
}

/// A port, and the party that sends to it and hears from it. The two of a call stand side by side.
type Port = (UdpSocket, SocketAddr);

/// Does what the lines on the standard input say until there are no more.
pub fn bare_relay() -> Result<()> {
    let mut ports = Vec::new();
    for line in std::io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Order::Call { a, b } => {
                serde_json::json!({ "a": open(&mut ports, &a)?, "b": open(&mut ports, &b)? })
            }
            Order::Bridge => {
                let ports = std::mem::take(&mut ports);
                ensure!(!ports.is_empty(), "there is no call");
                std::thread::Builder::new().name("bare-relay".into()).spawn(move || relay(&ports))?;
                serde_json::json!({})
            }
        };
        writeln!(std::io::stdout().lock(), "{answer}")?;
    }
    Ok(())
}

fn open(ports: &mut Vec<Port>, sdp: &str) -> Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let shown = sip::offer(socket.local_addr()?, "sendrecv");
    ports.push((socket, sip::media_address(sdp).context("an offer without media")?));
    Ok(shown)
}

/// Ends with the process.
fn relay(ports: &[Port]) -> Result<()> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    for (n, (port, _)) in ports.iter().enumerate() {
        epoll::add(&poll, port, EventData::new_u64(n as u64), EventFlags::IN)?;
    }
    let (mut ready, mut packet) = (Vec::with_capacity(BATCH), [0; 2_048]);
    loop {
        ready.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut ready), None)?;
        for n in ready.iter().map(|event: &Event| event.data.u64() as usize) {
            let (Some((from, _)), Some((port, other))) = (ports.get(n), ports.get(n ^ 1)) else { continue };
            let Ok((length, _)) = from.recv_from(&mut packet) else { continue };
            // To the other party of the call, from the port that it knows. A full buffer is loss.
            let _ = port.send_to(packet.get(..length).unwrap_or_default(), other);
        }
    }
}
