//! What happens by the clock: frames of programs, digits, reports, and the timers that watch over parties.

use std::time::Duration;

use trunkline_media_core::dtmf::Step;
use trunkline_media_core::program::{Frame, MAX_FRAME_SAMPLES};
use trunkline_media_core::rtcp;
use trunkline_media_core::rtp::HEADER_BYTES;
use trunkline_proto::media::v1::{self as pb, disconnected::Reason, media_event::Event};
use trunkline_telemetry::hep::{Carrier, Flow};
use trunkline_types::Timestamp;

use super::endpoint::{COMFORT_AFTER, Endpoint, SAMPLES_PER_MS, Transport, lasting};
use super::outbox::Outbox;
use super::path::{disconnected, made, send};
use super::wheel::{EARLY, SLOT};
use super::{Shared, Worker};
use crate::clock::Now;
use crate::events::Sink;
use crate::slab::Key;

const CHORE_PERIOD: Duration = Duration::from_millis(250);
const RTCP_PERIOD: Duration = Duration::from_secs(5);
const QUALITY_PERIOD: Duration = Duration::from_secs(10);
const WORKER_CHORE_PERIOD: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn serve_wheel(&mut self) {
        while let Some((due, keys)) = self.wheel.take(self.now.at) {
            if !keys.is_empty() {
                self.counts.late += self.now.at.since(due);
            }
            for (key, turn) in &keys {
                if self.endpoints.get(*key).is_some_and(|endpoint| endpoint.turn == *turn) {
                    self.tick(*key);
                }
            }
            self.wheel.done(keys);
        }
        self.empty_inbox();
    }

    fn tick(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        play(endpoint, self.now, &mut self.frame[..], &self.shared.sink, &mut self.outbox);
        let mut pump = false;
        if let Transport::WebRtc(peer) = &mut endpoint.transport {
            if peer.is_due(self.now.instant) {
                peer.advance(self.now.instant);
            }
            pump = true;
        }
        // Who has rested is here up to so much early, and would be here the next time only after another rest.
        let early = if endpoint.rests { EARLY } else { Duration::ZERO };
        if self.now.at + early >= endpoint.next_chore {
            endpoint.next_chore = self.now.at + CHORE_PERIOD;
            self.watch(key);
        }
        if pump {
            self.pump(key);
        }
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let rest = endpoint.rest(self.now.at);
        endpoint.rests = rest.is_some();
        let until = rest.unwrap_or_else(|| lasting(endpoint.frame));
        let slots = (until.as_micros() / SLOT.as_micros()) as usize;
        self.wheel.put(slots, key, endpoint.turn);
    }

    /// Something was changed about endpoints: those that rest make frames again from now on, if there are any to be made.
    pub(super) fn rouse(&mut self, keys: impl Iterator<Item = Key>) {
        for key in keys {
            if let Some(endpoint) = self.endpoints.get_mut(key)
                && std::mem::take(&mut endpoint.rests)
            {
                endpoint.turn = endpoint.turn.wrapping_add(1);
                self.wheel.insert(self.now.at, key, endpoint.turn);
            }
        }
    }

    /// Reports and timers of one endpoint.
    fn watch(&mut self, key: Key) {
        let (now, shared) = (self.now.at, self.shared.clone());
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        if now >= endpoint.next_rtcp {
            endpoint.next_rtcp = now + RTCP_PERIOD;
            if endpoint.reported.is_due(now, endpoint.out.sent().0, endpoint.stats.received()) {
                send_report(endpoint, now, false, &shared);
            }
        }
        if now >= endpoint.next_quality {
            endpoint.next_quality = now + QUALITY_PERIOD;
            let (quality, packets) = endpoint.quality(false);
            if packets > 0 {
                shared.metrics.jitter.observe(quality.jitter_ms / 1_000.0);
                shared.metrics.mos.observe(quality.mos);
                shared.sink.emit(&endpoint.owner, Event::Quality(quality));
            }
        }
        if let Some(reason) = silence(endpoint, now, &shared.config) {
            endpoint.connected = false;
            if let (Transport::WebRtc(peer), Reason::Ice) = (&mut endpoint.transport, reason) {
                peer.connected = false;
            }
            let missed = match reason {
                Reason::Ice => "ice",
                Reason::Paused => "paused",
                _ => "no_rtp",
            };
            shared.metrics.silent(missed).inc();
            shared.sink.emit(&endpoint.owner, disconnected(endpoint.name.clone(), reason));
        }
    }

    /// Once a second: counts, orphans, pauses that end by themselves.
    pub(super) fn chores(&mut self) {
        self.next_chore = self.now.at + WORKER_CHORE_PERIOD;
        self.publish_counts();
        self.tombstones.expire(self.now.at);
        let now = self.now.at;
        for (_, tap) in self.taps.iter_mut() {
            if tap.resume_at.is_some_and(|at| at <= now) {
                tap.resume(now);
            }
            tap.flush();
            self.shared.metrics.tap_gaps.inc_by(std::mem::take(&mut tap.gaps));
        }
        self.end_orphans();
    }
}

/// Whether a party that should be heard no longer is.
fn silence(endpoint: &Endpoint, now: Timestamp, config: &crate::config::Config) -> Option<Reason> {
    let since = |at: Timestamp, ms: u64| now.since(at) > Duration::from_millis(ms);
    match &endpoint.transport {
        // A path that is gone is told even when its audio was missed before.
        Transport::WebRtc(peer) if peer.connected && since(peer.stun_at, config.webrtc_stun_timeout_ms) => {
            Some(Reason::Ice)
        }
        _ if !endpoint.connected => None,
        Transport::WebRtc(_) if !endpoint.direction.receives() => None,
        Transport::WebRtc(_) => {
            since(endpoint.heard_at, config.webrtc_rtp_pause_ms).then_some(Reason::Paused)
        }
        Transport::Rtp(_) if !endpoint.direction.receives() => None,
        Transport::Rtp(_) => since(endpoint.heard_at, config.no_rtp_timeout_ms).then_some(Reason::NoRtp),
    }
}

/// Makes what is due for one packet interval: a digit's packet, or the program's frame.
fn play(endpoint: &mut Endpoint, now: Now, scratch: &mut [u8], sink: &Sink, outbox: &mut Outbox) {
    let samples = endpoint.frame.min(MAX_FRAME_SAMPLES);
    let step = loop {
        match endpoint.digits.step(samples as u32) {
            Step::Done(command_id) => {
                let sent = pb::DigitsSent { endpoint: endpoint.name.clone(), command_id };
                sink.emit(&endpoint.owner, Event::DigitsSent(sent));
            }
            step => break step,
        }
    };
    let was_pressing = endpoint.pressing;
    endpoint.pressing = matches!(step, Step::Packet { last: false, .. });
    if let Step::Packet { payload, first, .. } = step {
        if let Some(payload_type) = endpoint.send.event
            && endpoint.listens()
        {
            let header = made(payload_type, payload.len());
            scratch[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
            let placed = endpoint.out.event(now.at, first, payload.len());
            send(endpoint, now, payload_type, &placed, &header, scratch, outbox);
        }
        return;
    }
    if was_pressing && let Some(repacketizer) = &mut endpoint.repack {
        repacketizer.clear();
    }
    let since = now.at.since(std::mem::replace(&mut endpoint.played_until, now.at));
    if !endpoint.direction.sends() {
        // Nobody hears it: it goes on as if somebody did.
        let passed = since.as_micros() as u64 * SAMPLES_PER_MS / 1_000;
        if let Some(finished) = endpoint.player.pass(passed as usize) {
            sink.emit(&endpoint.owner, super::program::finished(&endpoint.name, finished));
        }
        return;
    }
    let body = &mut scratch[HEADER_BYTES..HEADER_BYTES + samples];
    let (mut made_frame, finished) = endpoint.player.frame(endpoint.codec, body);
    if let Some(finished) = finished {
        sink.emit(&endpoint.owner, super::program::finished(&endpoint.name, finished));
    }
    let Some(payload_type) = endpoint.send.audio(endpoint.codec).filter(|_| endpoint.listens()) else {
        return;
    };
    if made_frame == Frame::Relayed
        && endpoint.out.last_sent().is_none_or(|at| now.at.since(at) > COMFORT_AFTER)
    {
        body.fill(endpoint.codec.silence());
        made_frame = Frame::Audio;
    }
    if made_frame == Frame::Audio {
        let placed = endpoint.out.generated(now.at, samples as u32);
        send(endpoint, now, payload_type, &placed, &made(payload_type, samples), scratch, outbox);
    }
}

/// RTCP of plain RTP; str0m sends its own.
pub(super) fn send_report(endpoint: &mut Endpoint, now: Timestamp, bye: bool, shared: &Shared) {
    let Transport::Rtp(port) = &endpoint.transport else { return };
    if !endpoint.negotiated {
        return;
    }
    let mut report = [0; rtcp::MAX_BYTES];
    let len =
        rtcp::write(now, &endpoint.out, &mut endpoint.stats, &endpoint.view, "trunkline", bye, &mut report);
    let sent_to = port.send_rtcp(&report[..len], endpoint.latch.latched());
    if let Some(destination) = sent_to.filter(|_| shared.hep.wants_rtcp()) {
        let flow = Flow { source: shared.report_address(port), destination, carrier: Carrier::Udp };
        shared.hep.rtcp(now, flow, &endpoint.correlation, &report[..len]);
    }
}
