//! One party: its transport, what it says and what it hears.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_media_core::FRAME_SAMPLES;
use trunkline_media_core::codec::Codec;
use trunkline_media_core::dtmf::{self, Pressed};
use trunkline_media_core::emodel::{self, Impairment};
use trunkline_media_core::latch::{Latch, Verdict};
use trunkline_media_core::one_way::{self, Missing, Traffic};
use trunkline_media_core::outbound::Outbound;
use trunkline_media_core::program::{Bed, Player};
use trunkline_media_core::repack::Repacketizer;
use trunkline_media_core::rtcp::{RemoteView, Reported};
use trunkline_media_core::rtp::Header;
use trunkline_media_core::sdp::{Direction, Negotiated, PayloadTypes};
use trunkline_media_core::stats::{Interval, ReceiveStats};
use trunkline_proto::media::v1 as pb;
use trunkline_telemetry::hep::Correlation;
use trunkline_types::Timestamp;

use super::rtp::RtpPort;
use super::webrtc::{Peer, Prepared};
use super::wheel::Turn;
use crate::events::Owner;
use crate::slab::Key;

/// How its packets travel.
#[derive(Debug)]
pub(crate) enum Transport {
    Rtp(Box<RtpPort>),
    WebRtc(Box<Peer>),
}

/// What became of a received packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// Nothing to pass on.
    pub(crate) dropped: bool,
    /// Audio in this law; `None`: a telephone event.
    pub(crate) audio: Option<Codec>,
    /// The first packet, or the first after a silence that was reported.
    pub(crate) connected: bool,
    /// A key.
    pub(crate) pressed: Option<Pressed>,
}

/// A listener whose party sends nothing for this long is sent silence: its own timers and its NAT need packets.
pub(crate) const COMFORT_AFTER: Duration = Duration::from_millis(400);
/// One that is sent nothing is looked after this often.
const REST: Duration = Duration::from_millis(250);
/// One that neither is sent anything nor may send (who has put us on hold): its reports can be late by so much.
const REST_ON_HOLD: Duration = Duration::from_secs(1);
/// One that is sent what another party says.
const REST_BETWEEN_PACKETS: Duration = Duration::from_millis(100);

/// All audio is narrowband, see [`trunkline_media_core::SAMPLE_RATE_HZ`].
pub(crate) const SAMPLES_PER_MS: u64 = trunkline_media_core::SAMPLE_RATE_HZ as u64 / 1_000;

const DROPPED: Heard = Heard { dropped: true, audio: None, connected: false, pressed: None };

/// See the module.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) owner: Owner,
    /// Under which name its reports are captured.
    pub(crate) correlation: Correlation,
    pub(crate) name: String,
    pub(crate) transport: Transport,
    pub(crate) codec: Codec,
    pub(crate) send: PayloadTypes,
    pub(crate) receive: PayloadTypes,
    pub(crate) direction: Direction,
    pub(crate) negotiated: bool,
    pub(crate) latch: Latch,
    pub(crate) stats: ReceiveStats,
    pub(crate) interval: Interval,
    pub(crate) mos_min: f64,
    pub(crate) view: RemoteView,
    pub(crate) dtmf: dtmf::Receiver,
    pub(crate) out: Outbound,
    pub(crate) player: Player<Key>,
    pub(crate) digits: dtmf::Sender,
    /// A digit is on the wire: the program is not heard.
    pub(crate) pressing: bool,
    pub(crate) repack: Option<Repacketizer>,
    /// Samples in a packet made here.
    pub(crate) frame: usize,
    pub(crate) listeners: Vec<Key>,
    pub(crate) muted: bool,
    /// Recording and transcription that hear it, with the channel.
    pub(crate) taps: [Option<(Key, u8)>; 2],
    pub(crate) connected: bool,
    pub(crate) heard_at: Timestamp,
    /// Which of its entries in the wheel counts.
    pub(crate) turn: Turn,
    /// Served less often than it would make frames.
    pub(crate) rests: bool,
    /// How far its program has come.
    pub(crate) played_until: Timestamp,
    pub(crate) next_chore: Timestamp,
    pub(crate) next_rtcp: Timestamp,
    pub(crate) reported: Reported,
    pub(crate) next_quality: Timestamp,
}

impl Endpoint {
    pub(crate) fn new(owner: Owner, name: &str, transport: Transport, latch: Latch, now: Timestamp) -> Self {
        let seed: u128 = rand::random();
        // Reports of many endpoints made at once are spread over their period.
        let spread = Duration::from_millis((seed & 1_023) as u64);
        Self {
            correlation: Correlation::Call(owner.call),
            owner,
            name: name.to_owned(),
            transport,
            codec: Codec::Pcmu,
            send: PayloadTypes::default(),
            receive: PayloadTypes::default(),
            direction: Direction::SendRecv,
            negotiated: false,
            latch,
            stats: ReceiveStats::default(),
            interval: Interval::default(),
            mos_min: f64::INFINITY,
            view: RemoteView::default(),
            dtmf: dtmf::Receiver::default(),
            out: Outbound::new(seed),
            player: Player::default(),
            digits: dtmf::Sender::default(),
            pressing: false,
            repack: None,
            frame: FRAME_SAMPLES,
            listeners: Vec::new(),
            muted: false,
            taps: [None; 2],
            connected: false,
            heard_at: now,
            turn: 0,
            rests: false,
            played_until: now,
            next_chore: now.plus(Duration::from_millis(250)),
            next_rtcp: now.plus(Duration::from_millis(2_000) + spread),
            reported: Reported::default(),
            next_quality: now.plus(Duration::from_millis(10_000) + spread),
        }
    }

    /// Follows an offer and answer of plain RTP.
    pub(crate) fn follow(&mut self, negotiated: &Negotiated, now: Timestamp) {
        (self.codec, self.send, self.receive) = (negotiated.codec, negotiated.send, negotiated.receive);
        if !self.direction.receives() && negotiated.direction.receives() {
            self.heard_at = now;
        }
        self.direction = negotiated.direction;
        self.negotiated = true;
        self.latch.signal(negotiated.remote);
        if negotiated.remote.is_none() {
            self.direction = Direction::new(false, negotiated.direction.receives());
        }
        let frame = negotiated.ptime_ms.map_or(FRAME_SAMPLES, |ms| ms as usize * SAMPLES_PER_MS as usize);
        if frame != self.frame || self.repack.is_some() != negotiated.ptime_ms.is_some() {
            self.frame = frame;
            self.repack = negotiated.ptime_ms.map(|_| Repacketizer::new(frame));
        }
    }

    /// Puts a browser's connection in; gives the one that was there before.
    pub(crate) fn attach(&mut self, prepared: Prepared) -> Transport {
        self.codec = prepared.codec;
        self.send = prepared.payload_types;
        self.receive = prepared.payload_types;
        self.direction = prepared.direction;
        self.negotiated = true;
        self.connected = false;
        self.pressing = false;
        self.dtmf = dtmf::Receiver::default();
        // A new connection has new keys: its sequence begins anew, below 65,536.
        self.out = Outbound::new(rand::random());
        self.out.set_ssrc(prepared.peer.ssrc());
        std::mem::replace(&mut self.transport, Transport::WebRtc(prepared.peer))
    }

    /// Judges and counts a packet. `source` is known for plain RTP only; SRTP needs no latch.
    #[inline]
    pub(crate) fn hear(
        &mut self,
        now: Timestamp,
        source: Option<SocketAddr>,
        header: &Header,
        datagram: &[u8],
    ) -> Heard {
        let audio = self.receive.codec(header.payload_type);
        let event = audio.is_none() && self.is_event(header.payload_type);
        if !(audio.is_some() || event) || !self.direction.receives() {
            return DROPPED;
        }
        if let Some(source) = source
            && self.latch.judge(now, source, header.ssrc, header.sequence) == Verdict::Refuse
        {
            return DROPPED;
        }
        self.stats.packet(now, header.ssrc, header.sequence, audio.map(|_| header.timestamp));
        let connected =
            !self.connected && !matches!(&self.transport, Transport::WebRtc(peer) if !peer.connected);
        self.connected |= connected;
        self.heard_at = now;
        let pressed = if event {
            let payload = datagram.get(header.payload_offset..header.payload_offset + header.payload_len);
            self.dtmf.packet(header.ssrc, header.timestamp, payload.unwrap_or(&[]))
        } else {
            None
        };
        Heard { dropped: false, audio, connected, pressed }
    }

    /// The number that was told to the party; some send with the number that they told us.
    fn is_event(&self, payload_type: u8) -> bool {
        self.receive.event == Some(payload_type) || self.send.event == Some(payload_type)
    }

    /// Whether it can be sent anything now.
    #[inline]
    pub(crate) fn listens(&self) -> bool {
        self.direction.sends()
            && match &self.transport {
                Transport::Rtp(_) => self.negotiated && self.latch.destination().is_some(),
                Transport::WebRtc(peer) => peer.connected,
            }
    }

    /// For how long there is nothing to make for it, unless a command changes that; `None`: the next frame is to be made.
    /// Who is not to be sent anything, or hears a party whose packets are relayed as they come, needs no frames.
    pub(crate) fn rest(&self, now: Timestamp) -> Option<Duration> {
        let Transport::Rtp(_) = &self.transport else { return None };
        if self.pressing || !self.digits.is_idle() {
            return None;
        }
        if !self.direction.sends() {
            let rest = if self.direction.receives() { REST } else { REST_ON_HOLD };
            // The end of an announcement is told in time.
            return Some(self.player.remaining().map_or(rest, |samples| rest.min(lasting(samples))));
        }
        if self.player.announcement().is_some() {
            return None;
        }
        let relayed = matches!(self.player.bed(), Bed::Peer(_));
        let heard =
            self.out.last_sent().is_some_and(|at| now.since(at) + REST_BETWEEN_PACKETS <= COMFORT_AFTER);
        (relayed && heard).then_some(REST_BETWEEN_PACKETS)
    }

    /// Quality so far.
    pub(crate) fn quality(&mut self, last: bool) -> (pb::Quality, u64) {
        let (loss, packets) = self.interval.step(&self.stats);
        let rtt_ms = self.view.rtt_ms();
        let recent = Impairment { loss_percent: loss, jitter_ms: self.stats.jitter_ms(), rtt_ms };
        if packets > 0 {
            self.mos_min = self.mos_min.min(emodel::mos(&recent));
        }
        let whole = Impairment { loss_percent: self.stats.loss_percent(), ..recent };
        let mos = emodel::mos(if last { &whole } else { &recent });
        let traffic = Traffic {
            sent: self.out.sent().0.into(),
            received: self.stats.received(),
            reported_loss: self.view.loss_percent(),
            sends: self.direction.sends(),
            receives: self.direction.receives(),
        };
        let quality = pb::Quality {
            endpoint: self.name.clone(),
            r#final: last,
            codec: codec(self.codec) as i32,
            received_packets: self.stats.received(),
            expected_packets: self.stats.expected(),
            lost_packets: self.stats.lost(),
            loss_percent: self.stats.loss_percent(),
            jitter_ms: self.stats.jitter_ms(),
            max_jitter_ms: self.stats.max_jitter_ms(),
            remote_loss_percent: self.view.loss_percent().unwrap_or(-1.0),
            rtt_ms: rtt_ms.unwrap_or(-1.0),
            mos,
            mos_min: if self.mos_min.is_finite() { self.mos_min } else { mos },
            refused_packets: self.latch.refused(),
            sent_packets: traffic.sent,
            missing: one_way::missing(&traffic).map_or(pb::Missing::Unspecified, missing) as i32,
        };
        (quality, packets)
    }
}

/// How long so many samples are.
pub(crate) fn lasting(samples: usize) -> Duration {
    Duration::from_micros(samples as u64 * 1_000 / SAMPLES_PER_MS)
}

fn missing(missing: Missing) -> pb::Missing {
    match missing {
        Missing::Received => pb::Missing::Received,
        Missing::Sent => pb::Missing::Sent,
    }
}

pub(crate) fn codec(codec: Codec) -> pb::Codec {
    match codec {
        Codec::Pcmu => pb::Codec::Pcmu,
        Codec::Pcma => pb::Codec::Pcma,
    }
}

pub(crate) fn direction(direction: Direction) -> pb::Direction {
    match direction {
        Direction::SendRecv => pb::Direction::Sendrecv,
        Direction::SendOnly => pb::Direction::Sendonly,
        Direction::RecvOnly => pb::Direction::Recvonly,
        Direction::Inactive => pb::Direction::Inactive,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trunkline_media_core::clip::Clip;
    use trunkline_media_core::program::Announcement;
    use trunkline_media_core::sdp::{Local, Negotiation};
    use trunkline_types::{CallId, ShardId};

    use super::*;

    fn endpoint(now: Timestamp) -> Endpoint {
        let shard = ShardId::new(7).unwrap();
        let owner = Owner { call: CallId::mint(shard, now, 1), shard, tenant: "default".into() };
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = Local { address: socket.local_addr().unwrap(), session_id: 1 };
        let port = RtpPort::new(socket, Negotiation::new(local, Vec::new())).unwrap();
        Endpoint::new(owner, "alice", Transport::Rtp(Box::new(port)), Latch::default(), now)
    }

    /// Who is sent nothing is looked after less often, and least of all who neither is sent nor sends anything: who has put us
    /// on hold. What is to be told in time is: the end of an announcement that nobody hears, and keys.
    #[test]
    fn who_is_sent_nothing_rests() {
        let now = Timestamp::from_millis(1_000_000);
        let mut alice = endpoint(now);
        let mut rest_of = |direction| {
            alice.direction = direction;
            alice.rest(now)
        };
        assert_eq!((rest_of(Direction::SendRecv), rest_of(Direction::SendOnly)), (None, None));
        let second = Duration::from_secs(1);
        assert_eq!(rest_of(Direction::RecvOnly), Some(second / 4));
        assert_eq!(rest_of(Direction::Inactive), Some(second));
        // 400 ms.
        let prompt = Arc::new(Clip::new(vec![0; 3_200]).unwrap());
        alice.player.announce(Announcement {
            prompts: vec![prompt],
            names: vec!["prompt".into()],
            then: Bed::Silence,
            token: String::new(),
            interruptible: false,
            over_music: false,
        });
        assert_eq!(alice.rest(now), Some(Duration::from_millis(400)));
        alice.player.pass(2_400);
        assert_eq!(alice.rest(now), Some(Duration::from_millis(100)));
        alice.pressing = true;
        assert_eq!(alice.rest(now), None);
    }
}
