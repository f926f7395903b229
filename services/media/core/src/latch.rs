//! Which source is believed: protection against injected audio ("RTP bleed") that still lets callers behind NAT in.
//!
//! - The address of the SDP is believed at its first valid packet.
//! - Another port of the same host, or the host from which the SIP signalling comes, is believed after a probation of
//!   [`PROBATION`] packets in order, of one SSRC, without one from the SDP's address in between.
//! - With an SDP address that cannot be reached from outside (private, carrier-grade NAT, loopback, unspecified) and an
//!   unknown signalling address, any other host is believed after [`LONG_PROBATION`] such packets.
//! - Everything else is refused. Once latched, every other source is refused too, with one exception: within
//!   [`CORRECTION`] of the latch the SDP's own address may take it back.
//! - A new negotiation that changes the remote address begins anew; one that does not keeps the latch.
//!
//! "Valid" (RTP version 2, negotiated payload type) is checked by the caller before. SRTP makes all of this moot; this
//! is for plain RTP/AVP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use trunkline_types::Timestamp;

/// Packets in order before a plausible source is believed.
pub const PROBATION: u8 = 3;
/// Packets in order before any source is believed where nothing is known.
pub const LONG_PROBATION: u8 = 10;
/// How long after the latch the SDP's own address may take it back.
pub const CORRECTION: Duration = Duration::from_secs(3);
/// A pause longer than this begins a probation anew.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a packet's source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The latched source: use the packet.
    Accept,
    /// The latch has just closed on this source: use the packet, send there from now on.
    Latched,
    /// Not (yet) believed: drop the packet.
    Refuse,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: SocketAddr,
    ssrc: u32,
    next: u16,
    good: u8,
    seen: Timestamp,
}

/// The latch of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Latch {
    signalled: Option<SocketAddr>,
    signalling_ip: Option<IpAddr>,
    strict: bool,
    latched: Option<(SocketAddr, Timestamp)>,
    candidate: Option<Candidate>,
    refused: u64,
}

impl Latch {
    /// `strict`: only the SDP's address is ever believed.
    pub fn new(strict: bool, signalling_ip: Option<IpAddr>) -> Self {
        Self { strict, signalling_ip, ..Self::default() }
    }

    /// The negotiated remote address; `None` for `0.0.0.0` (hold of RFC 2543), which keeps what was learnt.
    pub fn signal(&mut self, remote: Option<SocketAddr>) {
        if remote.is_some() && remote != self.signalled {
            self.signalled = remote;
            self.latched = None;
            self.candidate = None;
        }
    }

    /// Where to send: the latched source, before that the SDP's address.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.latched.map(|(source, _)| source).or(self.signalled)
    }

    /// The source that is believed.
    pub fn latched(&self) -> Option<SocketAddr> {
        self.latched.map(|(source, _)| source)
    }

    /// Packets refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Judges the source of a valid packet.
    #[inline]
    pub fn judge(&mut self, now: Timestamp, source: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        if let Some((latched, since)) = self.latched {
            if latched == source {
                return Verdict::Accept;
            }
            let correction = self.signalled == Some(source) && now.since(since) <= CORRECTION;
            return if correction { self.close(now, source) } else { self.refuse() };
        }
        if self.signalled == Some(source) {
            return self.close(now, source);
        }
        self.probation(now, source, ssrc, sequence)
    }

    fn probation(&mut self, now: Timestamp, source: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        let Some(needed) = self.needed(source.ip()) else { return self.refuse() };
        let good = match &mut self.candidate {
            Some(c) if c.source == source && c.ssrc == ssrc && now.since(c.seen) <= PATIENCE => {
                // One lost packet is forgiven, going back is not.
                let step = sequence.wrapping_sub(c.next);
                c.good = if step <= 1 { c.good + 1 } else { 1 };
                (c.next, c.seen) = (sequence.wrapping_add(1), now);
                c.good
            }
            // Another source during a probation does not get to restart it: first come, first judged.
            Some(c) if c.source != source && now.since(c.seen) <= PATIENCE => return self.refuse(),
            _ => {
                self.candidate =
                    Some(Candidate { source, ssrc, next: sequence.wrapping_add(1), good: 1, seen: now });
                1
            }
        };
        if good >= needed { self.close(now, source) } else { self.refuse() }
    }

    fn needed(&self, ip: IpAddr) -> Option<u8> {
        let signalled = self.signalled?.ip();
        if self.strict {
            return None;
        }
        if ip == signalled || self.signalling_ip == Some(ip) {
            return Some(PROBATION);
        }
        (self.signalling_ip.is_none() && !reachable(signalled)).then_some(LONG_PROBATION)
    }

    fn close(&mut self, now: Timestamp, source: SocketAddr) -> Verdict {
        self.latched = Some((source, now));
        self.candidate = None;
        Verdict::Latched
    }

    fn refuse(&mut self) -> Verdict {
        self.refused += 1;
        Verdict::Refuse
    }
}

/// Whether an address can be a peer's on the open internet.
fn reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (v4.octets()[1] & 0xc0) == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            let unique_local = v6.octets()[0] & 0xfe == 0xfc;
            let link_local = v6.segments()[0] & 0xffc0 == 0xfe80;
            !(v6.is_loopback() || v6.is_unspecified() || unique_local || link_local)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn feed(latch: &mut Latch, from: &str, start_ms: i64, count: u16) -> Vec<Verdict> {
        (0..count).map(|n| latch.judge(at(start_ms + i64::from(n) * 20), addr(from), 7, n)).collect()
    }

    #[test]
    fn the_signalled_source_is_believed_at_once_and_nobody_else_after_it() {
        let mut latch = Latch::new(false, None);
        latch.signal(Some(addr("198.51.100.1:4000")));
        assert_eq!(latch.judge(at(0), addr("198.51.100.1:4000"), 1, 1), Verdict::Latched);
        assert!(feed(&mut latch, "198.51.100.1:4002", 20, 50).iter().all(|v| *v == Verdict::Refuse));
        assert_eq!((latch.destination(), latch.refused()), (Some(addr("198.51.100.1:4000")), 50));
    }

    #[test]
    fn an_injector_from_elsewhere_never_gets_in() {
        let mut latch = Latch::new(false, Some("192.0.2.9".parse().unwrap()));
        latch.signal(Some(addr("10.0.0.5:4000")));
        assert!(feed(&mut latch, "203.0.113.66:4000", 0, 200).iter().all(|v| *v == Verdict::Refuse));
        // The signalling host, behind whose NAT the caller sits, does after its probation.
        let verdicts = feed(&mut latch, "192.0.2.9:31000", 10_000, 5);
        assert_eq!(
            verdicts,
            [Verdict::Refuse, Verdict::Refuse, Verdict::Latched, Verdict::Accept, Verdict::Accept]
        );
    }

    #[test]
    fn a_private_address_without_more_knowledge_needs_the_long_probation() {
        let mut latch = Latch::new(false, None);
        latch.signal(Some(addr("192.168.1.5:4000")));
        let verdicts = feed(&mut latch, "203.0.113.7:4000", 0, 12);
        assert_eq!(
            verdicts.iter().position(|v| *v == Verdict::Latched),
            Some(usize::from(LONG_PROBATION) - 1)
        );
        let mut public = Latch::new(false, None);
        public.signal(Some(addr("198.51.100.1:4000")));
        assert!(feed(&mut public, "203.0.113.7:4000", 0, 50).iter().all(|v| *v == Verdict::Refuse));
    }

    #[test]
    fn guessing_sequence_numbers_does_not_help() {
        let mut latch = Latch::new(false, None);
        latch.signal(Some(addr("198.51.100.1:4000")));
        for n in 0..200u32 {
            let sequence = (n.wrapping_mul(40_503) >> 3) as u16;
            assert_eq!(
                latch.judge(at(i64::from(n) * 20), addr("198.51.100.1:9999"), 7, sequence),
                Verdict::Refuse
            );
        }
    }

    #[test]
    fn the_signalled_address_takes_an_early_latch_back_but_only_early() {
        let mut latch = Latch::new(false, None);
        latch.signal(Some(addr("198.51.100.1:4000")));
        feed(&mut latch, "198.51.100.1:5000", 0, 3);
        assert_eq!(latch.latched(), Some(addr("198.51.100.1:5000")));
        assert_eq!(latch.judge(at(1_000), addr("198.51.100.1:4000"), 1, 1), Verdict::Latched);
        assert_eq!(latch.judge(at(1_020), addr("198.51.100.1:5000"), 7, 4), Verdict::Refuse);
        let mut late = Latch::new(false, None);
        late.signal(Some(addr("198.51.100.1:4000")));
        feed(&mut late, "198.51.100.1:5000", 0, 3);
        assert_eq!(late.judge(at(60_000), addr("198.51.100.1:4000"), 1, 1), Verdict::Refuse);
    }

    #[test]
    fn a_re_invite_with_a_new_address_learns_anew_and_a_hold_does_not() {
        let mut latch = Latch::new(true, None);
        latch.signal(Some(addr("198.51.100.1:4000")));
        latch.judge(at(0), addr("198.51.100.1:4000"), 1, 1);
        latch.signal(None);
        assert_eq!(latch.judge(at(20), addr("198.51.100.1:4000"), 1, 2), Verdict::Accept);
        latch.signal(Some(addr("198.51.100.2:6000")));
        assert_eq!(latch.judge(at(40), addr("198.51.100.1:4000"), 1, 3), Verdict::Refuse);
        assert_eq!(latch.judge(at(60), addr("198.51.100.2:6000"), 1, 3), Verdict::Latched);
    }
}
