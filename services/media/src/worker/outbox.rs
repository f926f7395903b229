//! What leaves on plain RTP in a turn: copied into slots and given to the system by one call of `io_uring`, or, where the
//! system does not permit that, sent packet by packet.

use std::fmt;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, opcode, types};
use rustix::net::SendFlags;
use socket2::SockAddr;

/// Packets that wait at most; the queues of the ring have room for as many.
const SLOTS: u16 = 512;
/// Longest packet that waits: what fits on an Ethernet. Longer ones are sent at once.
const SLOT_BYTES: usize = 1_500;
/// Calls for what waits before the ring is given up.
const TRIES: usize = 8;

/// Packets that left and that could not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) errors: u64,
}

/// Packets leave in the order in which they came; what waits leaves by [`Outbox::flush`], at the latest.
#[derive(Debug)]
pub(super) struct Outbox {
    ring: Option<Ring>,
    tally: Tally,
}

impl Outbox {
    /// Sends each packet at once.
    pub(super) fn direct() -> Self {
        Self { ring: None, tally: Tally::default() }
    }

    /// Sends by a ring. To be made by the thread that sends: the system refuses all others.
    ///
    /// # Errors
    /// Why a ring cannot be had.
    pub(super) fn ring() -> io::Result<Self> {
        let mut ring = Ring::new()?;
        ring.attempt()?;
        Ok(Self { ring: Some(ring), tally: Tally::default() })
    }

    /// The socket has to stay open until the next [`Outbox::flush`].
    #[inline]
    pub(super) fn send(&mut self, socket: &UdpSocket, packet: &[u8], to: SocketAddr) {
        if self.put(socket.as_raw_fd(), packet, to) {
            return;
        }
        self.flush();
        if !self.put(socket.as_raw_fd(), packet, to) {
            self.count(socket.send_to(packet, to).is_ok());
        }
    }

    fn put(&mut self, socket: RawFd, packet: &[u8], to: SocketAddr) -> bool {
        self.ring.as_mut().is_some_and(|ring| ring.put(socket, packet, to))
    }

    /// Counts a packet that left, or could not, by another way.
    #[inline]
    pub(super) fn count(&mut self, sent: bool) {
        self.tally.count(sent);
    }

    /// Sends what waits.
    #[inline]
    pub(super) fn flush(&mut self) {
        let Some(ring) = self.ring.as_mut().filter(|ring| !ring.is_idle()) else { return };
        if let Err(error) = ring.flush(&mut self.tally) {
            self.tally.errors += ring.waiting() as u64;
            self.ring = None;
            tracing::warn!(%error, "packets are sent one by one from now on: io_uring failed");
        }
    }

    /// What was counted since the last time.
    pub(super) fn take_tally(&mut self) -> Tally {
        mem::take(&mut self.tally)
    }
}

impl Tally {
    fn count(&mut self, sent: bool) {
        *(if sent { &mut self.sent } else { &mut self.errors }) += 1;
    }
}

struct Slot {
    packet: [u8; SLOT_BYTES],
    to: SockAddr,
}

/// A slot belongs to the system from its entry in the submission queue to the completion that names it.
struct Ring {
    ring: IoUring,
    slots: Box<[Slot]>,
    free: Vec<u16>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("free", &self.free.len()).finish_non_exhaustive()
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_submit_all();
        builder.setup_coop_taskrun().setup_defer_taskrun().setup_taskrun_flag();
        let nowhere = SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let slots = (0..SLOTS).map(|_| Slot { packet: [0; SLOT_BYTES], to: nowhere.clone() }).collect();
        Ok(Self { ring: builder.build(u32::from(SLOTS))?, slots, free: (0..SLOTS).rev().collect() })
    }

    /// A packet to its own sender. Systems that have rings but cannot send to an address by them refuse it.
    fn attempt(&mut self) -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        self.put(socket.as_raw_fd(), b"attempt", socket.local_addr()?);
        self.ring.submit()?;
        let Some(completion) = self.ring.completion().next() else {
            return Err(io::Error::other("a packet did not leave at once"));
        };
        self.free.push(completion.user_data() as u16);
        match completion.result() {
            refusal @ ..0 => Err(io::Error::from_raw_os_error(-refusal)),
            _ => Ok(()),
        }
    }

    fn put(&mut self, socket: RawFd, packet: &[u8], to: SocketAddr) -> bool {
        let Some(n) = self.free.last().copied() else { return false };
        let Some(slot) = self.slots.get_mut(usize::from(n)) else { return false };
        let Some(space) = slot.packet.get_mut(..packet.len()) else { return false };
        space.copy_from_slice(packet);
        slot.to = to.into();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let send = opcode::Send::new(types::Fd(socket), space.as_ptr(), packet.len() as u32)
            .flags(flags.bits() as i32)
            .dest_addr(slot.to.as_ptr().cast())
            .dest_addr_len(slot.to.len())
            .build()
            .user_data(u64::from(n));
        #[allow(unsafe_code, reason = "the system reads the slot later")]
        // SAFETY: packet and address lie in a boxed slot, which is neither touched nor freed (see `drop`) before its
        // completion has put it back among the free ones.
        let pushed = unsafe { self.ring.submission().push(&send) }.is_ok();
        if pushed {
            self.free.pop();
        }
        pushed
    }

    /// Whether no slot is in use.
    #[inline]
    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Entries that the system has not taken.
    fn waiting(&mut self) -> usize {
        self.ring.submission().len()
    }

    fn flush(&mut self, tally: &mut Tally) -> io::Result<()> {
        self.reap(tally);
        let mut refusal = io::ErrorKind::WouldBlock.into();
        for _ in 0..TRIES {
            if self.waiting() == 0 {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => refusal = error,
                Err(error) => return Err(error),
            }
            self.reap(tally);
        }
        if self.waiting() == 0 { Ok(()) } else { Err(refusal) }
    }

    fn reap(&mut self, tally: &mut Tally) {
        for completion in self.ring.completion() {
            tally.count(completion.result() >= 0);
            self.free.push(completion.user_data() as u16);
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock)
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The system may still read slots of entries that it took and did not complete: their memory is left to it.
        if self.free.len() + self.waiting() < self.slots.len() {
            mem::forget(mem::take(&mut self.slots));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    /// Both ways to send.
    fn both() -> [Outbox; 2] {
        [Outbox::direct(), ring()]
    }

    /// By a ring, which the machine has to permit.
    pub(crate) fn ring() -> Outbox {
        Outbox::ring().unwrap_or_else(|error| panic!("this machine permits no io_uring: {error}"))
    }

    fn socket(ip: IpAddr) -> UdpSocket {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn v4() -> UdpSocket {
        socket(Ipv4Addr::LOCALHOST.into())
    }

    /// What is there.
    fn arrived(socket: &UdpSocket) -> Vec<Vec<u8>> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4_096];
        let next = || socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec());
        std::iter::from_fn(next).collect()
    }

    fn tally(sent: u64, errors: u64) -> Tally {
        Tally { sent, errors }
    }

    /// Of all lengths, some longer than a slot; their numbers come first.
    fn packet(n: u16) -> Vec<u8> {
        let len = 2 + usize::from(n) * 37 % 2_046;
        n.to_be_bytes().into_iter().chain((0..).map(|at: u32| (at * u32::from(n)) as u8)).take(len).collect()
    }

    #[test]
    fn by_a_ring_and_without_the_same_packets_arrive_in_the_same_order() {
        let heard = both().map(|mut outbox| {
            let legs = [v4(), socket(std::net::Ipv6Addr::LOCALHOST.into())];
            let parties: Vec<_> = legs.iter().map(|leg| socket(leg.local_addr().unwrap().ip())).collect();
            for n in 0..120 {
                let (leg, party) = (&legs[usize::from(n % 2)], &parties[usize::from(n % 2)]);
                outbox.send(leg, &packet(n), party.local_addr().unwrap());
            }
            outbox.flush();
            assert_eq!(outbox.take_tally(), tally(120, 0));
            parties.iter().map(arrived).collect::<Vec<_>>()
        });
        let [direct, ring] = heard;
        let expected = [0, 1].map(|party| (party..120).step_by(2).map(packet).collect::<Vec<_>>());
        assert!(direct == expected && ring == expected, "{direct:?}\n{ring:?}");
    }

    #[test]
    fn packets_wait_for_each_other_while_there_are_slots() {
        let mut outbox = ring();
        let (leg, parties) = (v4(), [(); 16].map(|()| v4()));
        let to: Vec<_> = parties.iter().map(|party| party.local_addr().unwrap()).collect();
        // Twice: slots serve again.
        for _ in 0..2 {
            for n in 0..SLOTS + 188 {
                outbox.send(&leg, &n.to_be_bytes(), to[usize::from(n) % 16]);
            }
            assert_eq!(
                outbox.take_tally(),
                tally(u64::from(SLOTS), 0),
                "of more packets than slots the first leave"
            );
            outbox.flush();
            assert_eq!(outbox.take_tally(), tally(188, 0));
            for (first, party) in (0..).zip(&parties) {
                let expected = (first..SLOTS + 188).step_by(16).map(|n| n.to_be_bytes().to_vec());
                assert_eq!(arrived(party), expected.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_packet_that_cannot_leave_is_counted_and_stops_no_other() {
        for mut outbox in both() {
            let (leg, party) = (v4(), v4());
            let to = party.local_addr().unwrap();
            outbox.send(&leg, b"one", to);
            // EAFNOSUPPORT, EINVAL, EACCES.
            for nowhere in ["[::1]:9", "127.0.0.1:0", "255.255.255.255:9"] {
                outbox.send(&leg, b"lost", nowhere.parse().unwrap());
            }
            outbox.send(&leg, b"two", to);
            outbox.flush();
            assert_eq!(outbox.take_tally(), tally(2, 3), "{outbox:?}");
            assert_eq!(arrived(&party), [b"one", b"two"]);
        }
    }

    /// As the system refuses all threads but the one that made it.
    #[test]
    fn a_ring_that_fails_is_given_up_with_what_it_had() {
        let mut outbox = std::thread::spawn(ring).join().unwrap();
        let (leg, party) = (v4(), v4());
        let to = party.local_addr().unwrap();
        outbox.send(&leg, b"lost", to);
        outbox.send(&leg, b"lost too", to);
        outbox.flush();
        assert_eq!((outbox.take_tally(), outbox.ring.is_some()), (tally(0, 2), false));
        outbox.send(&leg, b"at once", to);
        assert_eq!((outbox.take_tally(), arrived(&party)), (tally(1, 0), vec![b"at once".to_vec()]));
    }
}
