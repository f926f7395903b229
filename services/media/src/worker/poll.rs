//! epoll, level-triggered: one receive call a packet, since what was left unread is told again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::slab::Key;

/// What is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    /// Commands wait.
    Wake,
    /// The browsers' socket.
    WebRtc,
    /// An endpoint's RTP port.
    Rtp(Key),
    /// An endpoint's RTCP port.
    Rtcp(Key),
}

impl Ready {
    fn to_bits(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::WebRtc => 1,
            Self::Rtp(key) => (key.to_bits() << 2) | 2,
            Self::Rtcp(key) => (key.to_bits() << 2) | 3,
        }
    }

    fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Wake,
            1 => Self::WebRtc,
            2 => Self::Rtp(Key::from_bits(bits >> 2)),
            _ => Self::Rtcp(Key::from_bits(bits >> 2)),
        }
    }
}

/// Most events taken at once.
const BATCH: usize = 512;

#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
}

/// Room for what a wait gives; stays on its thread.
pub(crate) struct Batch(Vec<Event>);

impl Batch {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(BATCH))
    }

    pub(crate) fn get(&self, n: usize) -> Option<Ready> {
        self.0.get(n).map(|event| Ready::from_bits(event.data.u64()))
    }
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn add(&self, source: impl AsFd, ready: Ready) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(ready.to_bits()), EventFlags::IN)?)
    }

    /// Waits at most `timeout`; `batch` then has `0..n`.
    pub(crate) fn wait(&self, timeout: Duration, batch: &mut Batch) -> usize {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        batch.0.clear();
        // EINTR and the like: the next turn asks again.
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut batch.0), Some(&timeout)).unwrap_or(0)
    }
}

/// Wakes a worker out of its wait.
pub(crate) fn waker() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// From any thread.
pub(crate) fn wake(waker: &OwnedFd) {
    // A full counter (EAGAIN) means that it is awake already.
    let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
}

/// By the worker that was woken.
pub(crate) fn clear(waker: &OwnedFd) {
    let mut counter = [0; 8];
    let _ = rustix::io::read(waker, &mut counter);
}
