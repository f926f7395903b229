//! Callers hear music on hold.
//!
//! A few sockets stand for all telephones: every offer names one of them, so that the generator spends little beside
//! the server that is measured. Threads of their own, since this is the generator's only work per packet.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{answered, callers, cpu_over, end, place};
use crate::{
    args::ServerArgs,
    report::{Figure, figure, note},
    sip,
    system::Server,
};

pub struct Plan {
    pub callers: usize,
    pub speak: bool,
    pub seconds: Duration,
}

impl Plan {
    pub fn name(&self) -> String {
        let speak = if self.speak { "who speak too" } else { "who only listen" };
        format!("music: {} callers on hold {speak}", self.callers)
    }

    pub async fn run(&self, server: &Server, args: &ServerArgs) -> Result<Vec<Figure>> {
        let socket = socket()?;
        let sdp = sip::offer(socket.local_addr()?, "sendrecv");
        let (callers, mut news) = callers(server, args, sdp, self.callers).await?;
        let idle = cpu_over(server, Duration::from_secs(5)).await?;
        let ear = Ear::start(&socket)?;
        place(&callers, 0..self.callers, 100.0).await?;
        let (good, bad) = answered(&mut news, self.callers).await?;
        let media: Vec<SocketAddr> = callers.results().await?.iter().filter_map(|call| call.media).collect();
        let mouth = if self.speak { Some(Mouth::start(&socket, media)?) } else { None };
        note(&format!("{good} hear music, {bad} failed; measuring"));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let heard = ear.heard();
        let cpu = cpu_over(server, self.seconds).await?;
        let heard = ear.heard() - heard;
        drop(mouth);
        end(&callers, &mut news, 0..self.callers).await?;
        let due = good as f64 * 50.0 * self.seconds.as_secs_f64();
        let mut figures = vec![
            figure("callers on hold", good as f64, "calls"),
            figure("packets heard", heard as f64, "packets"),
            figure("packets heard of those due", heard as f64 / due.max(1.0) * 100.0, "%"),
        ];
        if let Some(((cpu, while_), (idle, idle_while))) = cpu.zip(idle) {
            let busy =
                cpu.as_secs_f64() - idle.as_secs_f64() / idle_while.as_secs_f64() * while_.as_secs_f64();
            let each = figure("CPU per packet heard", busy * 1e6 / heard.max(1) as f64, "µs");
            figures.push(if self.speak { each } else { each.beside("≤ 8", "49", "") });
        }
        Ok(figures)
    }
}

/// A blocking socket with room for a crowd.
pub fn socket() -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    Ok(socket.into())
}

/// Counts what comes.
pub struct Ear {
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Ear {
    /// Packets so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    pub fn start(socket: &UdpSocket) -> Result<Self> {
        let ear = Self { heard: Arc::default(), stop: Arc::default() };
        let (socket, heard, stop) = (socket.try_clone()?, ear.heard.clone(), ear.stop.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop.load(Ordering::Relaxed) {
                if socket.recv_from(&mut buffer).is_ok() {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(ear)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Speaks silence.
pub struct Mouth {
    stop: Arc<AtomicBool>,
}

impl Mouth {
    /// Sends silence to every call, 50 packets a second.
    pub fn start(socket: &UdpSocket, media: Vec<SocketAddr>) -> Result<Self> {
        let mouth = Self { stop: Arc::default() };
        let (socket, stop) = (socket.try_clone()?, mouth.stop.clone());
        std::thread::spawn(move || {
            let (begun, mut n) = (Instant::now(), 0u32);
            while !stop.load(Ordering::Relaxed) {
                for (ssrc, to) in (1u32..).zip(&media) {
                    let mut packet = [0xff; 172];
                    let header =
                        [&[0x80, 0][..], &(n as u16).to_be_bytes(), &(n.wrapping_mul(160)).to_be_bytes()];
                    let header = [header.concat(), ssrc.to_be_bytes().to_vec()].concat();
                    for (octet, value) in packet.iter_mut().zip(header) {
                        *octet = value;
                    }
                    // A full buffer is loss.
                    let _ = socket.send_to(&packet, to);
                }
                n += 1;
                let due = begun + Duration::from_millis(20) * n;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        Ok(mouth)
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
