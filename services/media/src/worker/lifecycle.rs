//! The life of an endpoint: made, negotiated, replaced, closed.

use std::net::IpAddr;

use trunkline_media_core::codec::Codec;
use trunkline_media_core::latch::Latch;
use trunkline_media_core::sdp::Negotiation;
use trunkline_proto::media::v1::{self as pb, media_event::Event, media_failure::Kind};
use trunkline_telemetry::hep::Correlation;

use super::endpoint::{self, Endpoint, Transport};
use super::poll::Ready;
use super::rtp::{self, RtpPort};
use super::session::{MAX_ENDPOINTS, Session};
use super::webrtc::Prepared;
use super::{Worker, tick};
use crate::config::LatchPolicy;
use crate::failure::{Done, Failure};
use crate::metrics::{self, KindLabel};
use crate::slab::Key;

/// A Call-ID that is longer is not kept: reports are captured under the call's own id.
const MAX_CALL_ID_BYTES: usize = 255;
/// Longest name of an endpoint.
const MAX_NAME: usize = 64;

impl Worker {
    pub(super) fn create_rtp(&mut self, session: &mut Session, c: &pb::CreateRtpEndpoint) -> Done {
        vacant(session, &c.endpoint)?;
        let prefer = codecs(&c.prefer)?;
        let signalling: Option<IpAddr> = if c.signalling_ip.is_empty() {
            None
        } else {
            let wrong =
                |_| Failure::invalid(format!("signalling_ip {:?} is no IP address", cut(&c.signalling_ip)));
            Some(c.signalling_ip.parse().map_err(wrong)?)
        };
        let socket =
            self.ports.open().map_err(|e| Failure::overload(format!("no RTP port: {e}; widen media.rtp")))?;
        let internal = |e: std::io::Error| Failure::new(Kind::Internal, e.to_string());
        let local = rtp::local(self.shared.config.advertised(), &socket, rand::random::<u64>() >> 2)
            .map_err(internal)?;
        let negotiation = if c.former_sdp.is_empty() {
            Negotiation::new(local, prefer)
        } else {
            let wrong = |e| Failure::invalid(format!("former_sdp: {e}; give what the other node gave last"));
            Negotiation::continuing(local, prefer, &c.former_sdp).map_err(wrong)?
        };
        let mut port = RtpPort::new(socket, negotiation).map_err(internal)?;
        let number = port.port;
        let sdp = if c.sdp.is_empty() {
            Ok(port.negotiation.offer())
        } else {
            port.negotiation.answer(&c.sdp).map(|(s, _)| s)
        };
        let sdp = match sdp {
            Ok(sdp) => sdp,
            Err(error) => {
                drop(port);
                self.ports.close(number);
                return Err(error.into());
            }
        };
        let latch = Latch::new(self.shared.config.latch == LatchPolicy::Strict, signalling);
        let transport = Transport::Rtp(Box::new(port));
        let mut endpoint = Endpoint::new(session.owner.clone(), &c.endpoint, transport, latch, self.now.at);
        if self.shared.hep.wants_rtcp() && (1..=MAX_CALL_ID_BYTES).contains(&c.sip_call_id.len()) {
            endpoint.correlation = Correlation::Sip(c.sip_call_id.as_str().into());
        }
        let key = self.endpoints.insert(endpoint);
        session.endpoints.push((c.endpoint.clone(), key));
        self.shared.metrics.endpoints.get_or_create(&KindLabel { kind: metrics::Kind::Rtp }).inc();
        if let Err(failure) = self.watch_socket(key).and_then(|()| self.follow(key)) {
            self.close_endpoint(session, key);
            return Err(failure);
        }
        self.wheel.insert(self.now.at, key, 0);
        self.attach_taps(session);
        Ok(pb::MediaOk { sdp: sdp.into(), ..self.state(key) })
    }

    fn watch_socket(&mut self, key: Key) -> Result<(), Failure> {
        let port = match self.endpoints.get(key).map(|e| &e.transport) {
            Some(Transport::Rtp(port)) => port,
            _ => return Ok(()),
        };
        self.poll.add(&port.socket, Ready::Rtp(key)).map_err(|e| Failure::overload(format!("epoll: {e}")))
    }

    /// Takes over what the endpoint's negotiation says now.
    fn follow(&mut self, key: Key) -> Result<(), Failure> {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return Ok(()) };
        let Transport::Rtp(port) = &mut endpoint.transport else { return Ok(()) };
        let Some(negotiated) = port.negotiation.current().cloned() else { return Ok(()) };
        // A port for RTCP that cannot be had costs the reports, not the call.
        if let Ok(Some(socket)) = port.follow(&negotiated) {
            self.poll.add(socket, Ready::Rtcp(key)).map_err(|e| Failure::overload(format!("epoll: {e}")))?;
        }
        endpoint.follow(&negotiated, self.now.at);
        Ok(())
    }

    pub(super) fn rtp_port(&mut self, key: Key) -> Result<&mut RtpPort, Failure> {
        match self.endpoints.get_mut(key).map(|e| &mut e.transport) {
            Some(Transport::Rtp(port)) => Ok(port),
            _ => Err(Failure::invalid("endpoint is a browser's: use replace_webrtc")),
        }
    }

    pub(super) fn negotiate(
        &mut self,
        session: &Session,
        name: &str,
        step: impl FnOnce(&mut Negotiation) -> Result<Vec<u8>, trunkline_media_core::sdp::SdpError>,
    ) -> Done {
        let key = find(session, "endpoint", name)?;
        let sdp = step(&mut self.rtp_port(key)?.negotiation)?;
        self.follow(key)?;
        Ok(pb::MediaOk { sdp: sdp.into(), ..self.state(key) })
    }

    /// What was negotiated, for replies.
    pub(super) fn state(&self, key: Key) -> pb::MediaOk {
        let Some(endpoint) = self.endpoints.get(key).filter(|e| e.negotiated) else {
            return pb::MediaOk::default();
        };
        let direction = match &endpoint.transport {
            Transport::Rtp(port) => port.negotiation.current().map_or(endpoint.direction, |n| n.direction),
            Transport::WebRtc(_) => endpoint.direction,
        };
        pb::MediaOk {
            codec: endpoint::codec(endpoint.codec) as i32,
            direction: endpoint::direction(direction) as i32,
            telephone_event: endpoint.send.event.is_some(),
            ..pb::MediaOk::default()
        }
    }

    pub(super) fn put_webrtc(
        &mut self,
        session: &mut Session,
        name: &str,
        prepared: Option<Result<Prepared, Failure>>,
    ) -> Done {
        let missing = || Err(Failure::new(Kind::Internal, "the connection was not prepared"));
        let prepared = prepared.unwrap_or_else(missing)?;
        let answer = prepared.peer.answer.clone();
        let key = match session.endpoint(name) {
            Some(key) => {
                let Some(endpoint) = self.endpoints.get_mut(key) else {
                    return Err(unknown("endpoint", name));
                };
                if matches!(endpoint.transport, Transport::Rtp(_)) {
                    return Err(Failure::invalid("endpoint is plain RTP: use renegotiate_rtp"));
                }
                let old = endpoint.attach(prepared);
                endpoint.heard_at = self.now.at;
                self.hang_up(key, old);
                key
            }
            None => {
                vacant(session, name)?;
                let (codec, types, direction) = (prepared.codec, prepared.payload_types, prepared.direction);
                let ssrc = prepared.peer.ssrc();
                let transport = Transport::WebRtc(prepared.peer);
                let mut endpoint = Endpoint::new(
                    session.owner.clone(),
                    name,
                    transport,
                    Latch::new(true, None),
                    self.now.at,
                );
                (endpoint.codec, endpoint.send, endpoint.receive) = (codec, types, types);
                (endpoint.direction, endpoint.negotiated) = (direction, true);
                endpoint.out.set_ssrc(ssrc);
                let key = self.endpoints.insert(endpoint);
                session.endpoints.push((name.to_owned(), key));
                self.shared.metrics.endpoints.get_or_create(&KindLabel { kind: metrics::Kind::Webrtc }).inc();
                self.wheel.insert(self.now.at, key, 0);
                key
            }
        };
        if let Some(Transport::WebRtc(peer)) = self.endpoints.get(key).map(|e| &e.transport) {
            self.by_ufrag.insert(peer.ufrag.clone(), key);
        }
        self.attach_taps(session);
        Ok(pb::MediaOk { sdp: answer.into(), ..self.state(key) })
    }

    /// Says goodbye on a transport that is no longer used, and forgets how to find it.
    fn hang_up(&mut self, key: Key, transport: Transport) {
        match transport {
            Transport::Rtp(port) => self.ports.close(port.port),
            Transport::WebRtc(mut peer) => {
                self.by_ufrag.remove(&peer.ufrag);
                for address in &peer.addresses {
                    if self.by_address.get(address) == Some(&key) {
                        self.by_address.remove(address);
                    }
                }
                peer.close();
                let mut last_words = std::collections::VecDeque::new();
                let mut view = trunkline_media_core::rtcp::RemoteView::default();
                peer.pump(key, &self.browsers, &mut last_words, &mut view);
            }
        }
    }

    pub(super) fn close_endpoint(&mut self, session: &mut Session, key: Key) {
        session.endpoints.retain(|(_, k)| *k != key);
        let Some(mut endpoint) = self.endpoints.remove(key) else { return };
        // What waits names the socket by a number, which the next one may get.
        self.outbox.flush();
        for (_, other) in &session.endpoints {
            if let Some(other) = self.endpoints.get_mut(*other) {
                other.player.forget(|peer| peer == key);
                other.listeners.retain(|k| *k != key);
                other.out.detach();
            }
        }
        let sink = &self.shared.sink;
        if let Some(ended) = endpoint.player.close() {
            sink.emit(&endpoint.owner, super::program::finished(&endpoint.name, ended));
        }
        tick::send_report(&mut endpoint, self.now.at, true, &self.shared);
        let (quality, _) = endpoint.quality(true);
        self.shared.metrics.packets_lost.inc_by(quality.lost_packets);
        sink.emit(&endpoint.owner, Event::Quality(quality));
        let kind = match endpoint.transport {
            Transport::Rtp(_) => metrics::Kind::Rtp,
            Transport::WebRtc(_) => metrics::Kind::Webrtc,
        };
        self.shared.metrics.endpoints.get_or_create(&KindLabel { kind }).dec();
        self.hang_up(key, endpoint.transport);
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(super) fn unknown(field: &str, name: &str) -> Failure {
    Failure::new(Kind::UnknownEndpoint, format!("{field}: there is no endpoint {:?} in this call", cut(name)))
}

pub(super) fn find(session: &Session, field: &str, name: &str) -> Result<Key, Failure> {
    session.endpoint(name).ok_or_else(|| unknown(field, name))
}

pub(super) fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    let ok = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    if ok {
        Ok(())
    } else {
        Err(Failure::invalid(format!("{field} {:?}: use 1 to {MAX_NAME} printable characters", cut(name))))
    }
}

pub(super) fn vacant(session: &Session, name: &str) -> Result<(), Failure> {
    check_name("endpoint", name)?;
    if session.endpoint(name).is_some() {
        return Err(Failure::new(
            Kind::Conflict,
            format!("endpoint {name:?} exists: close it first, or use another command id to change it"),
        ));
    }
    if session.endpoints.len() >= MAX_ENDPOINTS {
        return Err(Failure::overload(format!("the call has {MAX_ENDPOINTS} endpoints already")));
    }
    Ok(())
}

/// The codecs of a `prefer` field.
pub(crate) fn codecs(prefer: &[i32]) -> Result<Vec<Codec>, Failure> {
    let known = |value: &i32| match pb::Codec::try_from(*value) {
        Ok(pb::Codec::Pcmu) => Ok(Codec::Pcmu),
        Ok(pb::Codec::Pcma) => Ok(Codec::Pcma),
        _ => Err(Failure::invalid(format!("prefer has codec {value}: use CODEC_PCMU and CODEC_PCMA"))),
    };
    prefer.iter().take(8).map(known).collect()
}
