//! The way of a packet: from a socket, past the latch, to the taps and to everybody who hears its party. Nothing here
//! allocates, locks, logs or waits.

use std::net::SocketAddr;

use str0m::ice::StunMessage;
use trunkline_media_core::codec::Codec;
use trunkline_media_core::outbound::Placed;
use trunkline_media_core::rtp::{self, HEADER_BYTES, Header};
use trunkline_proto::media::v1::{self as pb, media_event::Event};
use trunkline_telemetry::hep::{Carrier, Flow};

use super::Worker;
use super::endpoint::{Endpoint, Heard, Transport};
use super::outbox::Outbox;
use super::webrtc::Note;
use crate::clock::Now;
use crate::slab::Key;

/// Datagrams of browsers taken before other sockets are looked at.
const BROWSER_BATCH: usize = 64;

impl Worker {
    pub(super) fn on_rtp(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let Transport::Rtp(port) = &endpoint.transport else { return };
        let Ok((len, source)) = port.socket.recv_from(&mut self.buffer[..]) else { return };
        let datagram = &self.buffer[..len];
        match rtp::kind(datagram) {
            rtp::Kind::Rtp => {
                let Some(header) = Header::read(datagram) else { return };
                let heard = endpoint.hear(self.now.at, Some(source), &header, datagram);
                self.heard(key, &header, heard);
            }
            rtp::Kind::Rtcp => self.read_rtcp(key, len, source),
            rtp::Kind::Other => self.counts.refused += 1,
        }
    }

    pub(super) fn on_rtcp(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.get(key) else { return };
        let Transport::Rtp(port) = &endpoint.transport else { return };
        let Some(socket) = &port.rtcp else { return };
        let Ok((len, source)) = socket.recv_from(&mut self.buffer[..]) else { return };
        self.read_rtcp(key, len, source);
    }

    fn read_rtcp(&mut self, key: Key, len: usize, source: SocketAddr) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        // Reports are believed from the host that is believed for audio.
        if endpoint.latch.destination().is_some_and(|d| d.ip() == source.ip()) {
            endpoint.view.read(self.now.at, &self.buffer[..len], endpoint.out.ssrc());
            if let (Transport::Rtp(port), true) = (&endpoint.transport, self.shared.hep.wants_rtcp()) {
                let destination = self.shared.report_address(port);
                let flow = Flow { source, destination, carrier: Carrier::Udp };
                self.shared.hep.rtcp(self.now.at, flow, &endpoint.correlation, &self.buffer[..len]);
            }
        }
    }

    pub(super) fn on_webrtc(&mut self) {
        for _ in 0..BROWSER_BATCH {
            let Ok((len, source)) = self.browsers.recv_from(&mut self.buffer[..]) else { return };
            let datagram = &self.buffer[..len];
            let Some(key) = self.route(datagram, source) else {
                self.counts.refused += 1;
                continue;
            };
            let Some(endpoint) = self.endpoints.get_mut(key) else { continue };
            let Transport::WebRtc(peer) = &mut endpoint.transport else { continue };
            if !peer.receive(self.now, source, datagram) {
                self.counts.refused += 1;
                continue;
            }
            if peer.learn(source) {
                self.by_address.insert(source, key);
            }
            if !peer.connected && peer.revive() {
                self.noted(key, Note::Connected);
            }
            self.pump(key);
            self.empty_inbox();
        }
    }

    /// STUN by our part of its user name, the rest by a source that was accepted before. Never by scanning.
    fn route(&self, datagram: &[u8], source: SocketAddr) -> Option<Key> {
        if datagram.first().is_some_and(|b| *b < 2) {
            let message = StunMessage::parse(datagram).ok()?;
            let (ours, _) = message.split_username()?;
            return self.by_ufrag.get(ours).copied();
        }
        self.by_address.get(&source).copied()
    }

    /// Lets a browser's connection send and tell what it has.
    pub(super) fn pump(&mut self, key: Key) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let Transport::WebRtc(peer) = &mut endpoint.transport else { return };
        let note = peer.pump(key, &self.browsers, &mut self.inbox, &mut endpoint.view);
        if let Some(note) = note {
            self.noted(key, note);
        }
    }

    fn noted(&mut self, key: Key, note: Note) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        endpoint.connected = note == Note::Connected;
        endpoint.heard_at = self.now.at;
        let name = endpoint.name.clone();
        let event = match note {
            Note::Connected => Event::Connected(pb::Connected { endpoint: name }),
            Note::Closed => disconnected(name, pb::disconnected::Reason::Closed),
            Note::Failed => disconnected(name, pb::disconnected::Reason::Failed),
        };
        self.shared.sink.emit(&endpoint.owner, event);
    }

    /// Passes on what browsers said.
    pub(super) fn empty_inbox(&mut self) {
        while let Some((key, packet)) = self.inbox.pop_front() {
            let len = packet.payload.len();
            let Some(space) = self.buffer.get_mut(HEADER_BYTES..HEADER_BYTES + len) else { continue };
            space.copy_from_slice(&packet.payload);
            let header = Header {
                payload_type: *packet.header.payload_type,
                marker: packet.header.marker,
                sequence: packet.header.sequence_number,
                timestamp: packet.header.timestamp,
                ssrc: *packet.header.ssrc,
                payload_offset: HEADER_BYTES,
                payload_len: len,
            };
            let Some(endpoint) = self.endpoints.get_mut(key) else { continue };
            let heard = endpoint.hear(self.now.at, None, &header, &self.buffer[..HEADER_BYTES + len]);
            self.heard(key, &header, heard);
        }
    }

    #[inline]
    fn heard(&mut self, key: Key, header: &Header, heard: Heard) {
        if heard.dropped {
            self.counts.refused += 1;
            return;
        }
        self.counts.received += 1;
        if heard.connected || heard.pressed.is_some() {
            self.tell(key, heard);
        }
        self.distribute(key, header, heard.audio);
    }

    /// The rare news in a packet.
    #[cold]
    fn tell(&mut self, key: Key, heard: Heard) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let sink = &self.shared.sink;
        if heard.connected {
            sink.emit(&endpoint.owner, Event::Connected(pb::Connected { endpoint: endpoint.name.clone() }));
        }
        if let Some(pressed) = heard.pressed {
            let digit = pb::Digit {
                endpoint: endpoint.name.clone(),
                digit: pressed.digit.as_char().to_string(),
                duration_ms: u32::try_from(pressed.duration.as_millis()).unwrap_or(u32::MAX),
            };
            sink.emit(&endpoint.owner, Event::Digit(digit));
            if let Some(finished) = endpoint.player.digit() {
                sink.emit(&endpoint.owner, super::program::finished(&endpoint.name, finished));
            }
        }
    }

    /// To the taps and to all listeners. The payload lies in the buffer; its law may change on the way.
    #[inline]
    fn distribute(&mut self, key: Key, header: &Header, audio: Option<Codec>) {
        let Some(endpoint) = self.endpoints.get(key) else { return };
        let (muted, taps) = (endpoint.muted, endpoint.taps);
        let span = header.payload_offset..header.payload_offset + header.payload_len;
        if let Some(codec) = audio {
            if muted {
                self.buffer[span].fill(codec.silence());
            } else {
                for (tap, channel) in taps.into_iter().flatten() {
                    if let Some(tap) = self.taps.get_mut(tap) {
                        tap.audio(
                            channel,
                            codec,
                            header.ssrc,
                            header.timestamp,
                            self.now.at,
                            &self.buffer[span.clone()],
                        );
                    }
                }
            }
        }
        let mut law = audio;
        let mut n = 0;
        while let Some(listener) = self.endpoints.get(key).and_then(|e| e.listeners.get(n)).copied() {
            law = self.deliver(listener, key, header, law);
            n += 1;
        }
    }

    /// Sends the packet in the buffer to one listener; gives the law that its payload is in afterwards.
    #[inline]
    fn deliver(&mut self, listener: Key, speaker: Key, header: &Header, law: Option<Codec>) -> Option<Codec> {
        let Some(endpoint) = self.endpoints.get_mut(listener) else { return law };
        if endpoint.player.peer() != Some(speaker) || !endpoint.listens() || endpoint.pressing {
            return law;
        }
        let span = header.payload_offset..header.payload_offset + header.payload_len;
        let Some(payload_type) = (match law {
            Some(_) => endpoint.send.audio(endpoint.codec),
            None => endpoint.send.event,
        }) else {
            return law;
        };
        if let Some(law) = law {
            law.transcode(endpoint.codec, &mut self.buffer[span.clone()]);
            if endpoint.repack.as_ref().is_some_and(|r| r.frame() != header.payload_len) {
                repack(
                    endpoint,
                    self.now,
                    payload_type,
                    &self.buffer[span],
                    &mut self.frame[..],
                    &mut self.outbox,
                );
                return Some(endpoint.codec);
            }
        }
        let law = law.map(|_| endpoint.codec);
        let place = endpoint.out.relay(
            self.now.at,
            header.ssrc,
            header.sequence,
            header.timestamp,
            header.payload_len,
        );
        let Some(mut placed) = place else { return law };
        placed.marker |= header.marker;
        send(endpoint, self.now, payload_type, &placed, header, &mut self.buffer[..], &mut self.outbox);
        if matches!(endpoint.transport, Transport::WebRtc(_)) {
            self.pump(listener);
        }
        law
    }
}

/// Sends the payload that `header` describes in `datagram`.
#[inline]
pub(super) fn send(
    endpoint: &mut Endpoint,
    now: Now,
    payload_type: u8,
    placed: &Placed,
    header: &Header,
    datagram: &mut [u8],
    outbox: &mut Outbox,
) {
    match &mut endpoint.transport {
        Transport::Rtp(port) => {
            let Some(destination) = endpoint.latch.destination() else { return };
            let sequence = placed.sequence as u16;
            let ssrc = endpoint.out.ssrc();
            let packet =
                rtp::rewrite(datagram, header, payload_type, placed.marker, sequence, placed.timestamp, ssrc);
            match packet {
                Some(packet) => outbox.send(&port.socket, packet, destination),
                None => outbox.count(false),
            }
        }
        Transport::WebRtc(peer) => {
            let payload = datagram.get(header.payload_offset..header.payload_offset + header.payload_len);
            peer.write(now, payload_type, placed, payload.unwrap_or(&[]));
            outbox.count(true);
        }
    }
}

/// The listener wants packets of another duration than the speaker sends.
fn repack(
    endpoint: &mut Endpoint,
    now: Now,
    payload_type: u8,
    payload: &[u8],
    scratch: &mut [u8],
    outbox: &mut Outbox,
) {
    // Taken out so that the closure can use the rest of the endpoint.
    let Some(mut repacketizer) = endpoint.repack.take() else { return };
    repacketizer.push(payload, |frame| {
        let header = made(payload_type, frame.len());
        let Some(space) = scratch.get_mut(HEADER_BYTES..HEADER_BYTES + frame.len()) else { return };
        space.copy_from_slice(frame);
        let placed = endpoint.out.generated(now.at, frame.len() as u32);
        send(endpoint, now, payload_type, &placed, &header, scratch, outbox);
    });
    endpoint.repack = Some(repacketizer);
}

/// The description of a packet made here: its payload follows a plain header.
pub(super) fn made(payload_type: u8, payload_len: usize) -> Header {
    Header {
        payload_type,
        marker: false,
        sequence: 0,
        timestamp: 0,
        ssrc: 0,
        payload_offset: HEADER_BYTES,
        payload_len,
    }
}

pub(super) fn disconnected(endpoint: String, reason: pb::disconnected::Reason) -> Event {
    Event::Disconnected(pb::Disconnected { endpoint, reason: reason as i32 })
}
