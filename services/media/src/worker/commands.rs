//! Commands of the call room, executed in their order, each once.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use trunkline_media_core::codec::Codec;
use trunkline_media_core::latch::Latch;
use trunkline_media_core::sdp::Negotiation;
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind,
};
use trunkline_types::{CallId, ShardId};

use super::endpoint::{self, Endpoint, Transport};
use super::poll::Ready;
use super::rtp::{self, RtpPort};
use super::session::{MAX_ENDPOINTS, Session};
use super::webrtc::Prepared;
use super::{Order, Worker, tick};
use crate::config::LatchPolicy;
use crate::events::Owner;
use crate::failure::{Done, Failure, reply};
use crate::metrics::{self, KindLabel};
use crate::slab::Key;

/// Longest name of an endpoint.
const MAX_NAME: usize = 64;

impl Worker {
    pub(super) fn execute(&mut self, order: Order) {
        let call_id = order.call.to_string();
        let answer = |done: Done| reply(&call_id, order.command_id, done);
        let highest =
            self.shared.epochs.get(usize::from(order.shard.index())).map_or(0, |e| e.load(Ordering::Acquire));
        if order.epoch < highest {
            let text = format!("epoch {} of shard {}: {highest} was seen here", order.epoch, order.shard);
            let _ = order.reply.send(answer(Err(Failure::new(Kind::StaleEpoch, text))));
            return;
        }
        let known = self.sessions.get(&order.call).and_then(|s| s.replies.get(order.command_id));
        if let Some(known) = known.or_else(|| self.tombstones.get(order.call, order.command_id)) {
            let _ = order.reply.send(known.clone());
            return;
        }
        let mut session = match self.session_for(&order) {
            Ok(session) => session,
            Err(done) => {
                let _ = order.reply.send(answer(done));
                return;
            }
        };
        session.commanded_at = self.now.at;
        session.last_command = session.last_command.max(order.command_id);
        let ends = matches!(order.command, Command::CloseSession(_));
        let done = self.apply(&mut session, order.command, order.prepared, order.command_id);
        if done.is_err() {
            self.shared.metrics.commands_refused.inc();
        }
        let reply = answer(done);
        // A session whose first command failed has not begun.
        let stillborn = session.replies.is_empty() && session.endpoints.is_empty();
        if ends || stillborn {
            let call = order.call;
            self.bury(session);
            self.tombstones.add(call, reply.clone());
        } else {
            session.replies.put(reply.clone());
            self.sessions.insert(order.call, session);
        }
        // The caller may have given up waiting.
        let _ = order.reply.send(reply);
    }

    /// The call's session, taken out; a new one for commands that make one.
    fn session_for(&mut self, order: &Order) -> Result<Session, Done> {
        if let Some(session) = self.sessions.remove(&order.call) {
            return Ok(session);
        }
        match order.command {
            Command::CreateRtp(_) | Command::CreateWebrtc(_) | Command::ReplaceWebrtc(_) => {}
            Command::CloseSession(_)
            | Command::CloseEndpoint(_)
            | Command::StopRecording(_)
            | Command::StopTranscription(_) => return Err(Ok(pb::MediaOk::default())),
            _ => {
                let text = "there is no session of this call here: create an endpoint first";
                return Err(Err(Failure::new(Kind::UnknownSession, text)));
            }
        }
        let most = self.shared.config.max_sessions;
        let counted = self
            .shared
            .sessions
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        if counted.is_err() {
            return Err(Err(Failure::overload(format!(
                "this node has its {most} sessions: place the call elsewhere"
            ))));
        }
        self.shared.metrics.sessions.inc();
        Ok(Session::new(Owner { call: order.call, shard: order.shard }, self.now.at))
    }

    fn apply(
        &mut self,
        session: &mut Session,
        command: Command,
        prepared: Option<Result<Prepared, Failure>>,
        command_id: u64,
    ) -> Done {
        match command {
            Command::CreateRtp(c) => self.create_rtp(session, &c),
            Command::SetRemote(c) => {
                self.negotiate(session, &c.endpoint, |n| n.accept(&c.sdp).map(|_| Vec::new()))
            }
            Command::RenegotiateRtp(c) => {
                self.negotiate(session, &c.endpoint, |n| n.answer(&c.sdp).map(|(sdp, _)| sdp))
            }
            Command::CreateOffer(c) => {
                let key = find(session, "endpoint", &c.endpoint)?;
                let port = self.rtp_port(key)?;
                let sdp = port.negotiation.offer();
                Ok(pb::MediaOk { sdp: sdp.into(), ..self.state(key) })
            }
            Command::CreateWebrtc(c) => {
                vacant(session, &c.endpoint)?;
                self.put_webrtc(session, &c.endpoint, prepared)
            }
            Command::ReplaceWebrtc(c) => self.put_webrtc(session, &c.endpoint, prepared),
            Command::CloseEndpoint(c) => {
                if let Some(key) = session.endpoint(&c.endpoint) {
                    self.close_endpoint(session, key);
                }
                Ok(pb::MediaOk::default())
            }
            Command::CloseSession(_) => Ok(pb::MediaOk::default()),
            Command::SetProgram(c) => {
                let key = find(session, "endpoint", &c.endpoint)?;
                self.set_program(session, key, c.program.as_ref())
            }
            Command::Bridge(c) => {
                let (a, b) = (find(session, "a", &c.a)?, find(session, "b", &c.b)?);
                self.bridge(session, a, b)
            }
            Command::SetMuted(c) => {
                let key = find(session, "endpoint", &c.endpoint)?;
                if let Some(endpoint) = self.endpoints.get_mut(key) {
                    endpoint.muted = c.muted;
                }
                Ok(pb::MediaOk::default())
            }
            Command::SendDigits(c) => self.send_digits(session, &c, command_id),
            Command::StartRecording(c) => self.start_recording(session, &c),
            Command::MarkRecording(c) => self.mark_recording(session, &c),
            Command::PauseRecording(c) => self.pause_recording(session, &c),
            Command::ResumeRecording(c) => self.resume_recording(session, &c.recording_id),
            Command::StopRecording(c) => self.stop_recording(session, &c.recording_id),
            Command::StartTranscription(c) => self.start_transcription(session, c),
            Command::StopTranscription(c) => self.stop_transcription(session, &c.transcription_id),
            Command::ListSessions(_) => Err(Failure::invalid("list_sessions is not about one call")),
        }
    }

    fn create_rtp(&mut self, session: &mut Session, c: &pb::CreateRtpEndpoint) -> Done {
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
        let mut port = RtpPort::new(socket, Negotiation::new(local, prefer)).map_err(internal)?;
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
        let key =
            self.endpoints.insert(Endpoint::new(session.owner, &c.endpoint, transport, latch, self.now.at));
        session.endpoints.push((c.endpoint.clone(), key));
        self.shared.metrics.endpoints.get_or_create(&KindLabel { kind: metrics::Kind::Rtp }).inc();
        if let Err(failure) = self.watch_socket(key).and_then(|()| self.follow(key)) {
            self.close_endpoint(session, key);
            return Err(failure);
        }
        self.wheel.insert(self.now.at, key);
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

    fn rtp_port(&mut self, key: Key) -> Result<&mut RtpPort, Failure> {
        match self.endpoints.get_mut(key).map(|e| &mut e.transport) {
            Some(Transport::Rtp(port)) => Ok(port),
            _ => Err(Failure::invalid("endpoint is a browser's: use replace_webrtc")),
        }
    }

    fn negotiate(
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
    fn state(&self, key: Key) -> pb::MediaOk {
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

    fn put_webrtc(
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
                let mut endpoint =
                    Endpoint::new(session.owner, name, transport, Latch::new(true, None), self.now.at);
                (endpoint.codec, endpoint.send, endpoint.receive) = (codec, types, types);
                (endpoint.direction, endpoint.negotiated) = (direction, true);
                endpoint.out.set_ssrc(ssrc);
                let key = self.endpoints.insert(endpoint);
                session.endpoints.push((name.to_owned(), key));
                self.shared.metrics.endpoints.get_or_create(&KindLabel { kind: metrics::Kind::Webrtc }).inc();
                self.wheel.insert(self.now.at, key);
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
        for (_, other) in &session.endpoints {
            if let Some(other) = self.endpoints.get_mut(*other) {
                other.player.forget(|peer| peer == key);
                other.listeners.retain(|k| *k != key);
                other.out.detach();
            }
        }
        let sink = &self.shared.sink;
        if let Some(ended) = endpoint.player.close() {
            sink.emit(endpoint.owner, super::program::finished(&endpoint.name, ended));
        }
        tick::send_report(&mut endpoint, self.now.at, true);
        let (quality, _) = endpoint.quality(true);
        self.shared.metrics.packets_lost.inc_by(quality.lost_packets);
        sink.emit(endpoint.owner, Event::Quality(quality));
        let kind = match endpoint.transport {
            Transport::Rtp(_) => metrics::Kind::Rtp,
            Transport::WebRtc(_) => metrics::Kind::Webrtc,
        };
        self.shared.metrics.endpoints.get_or_create(&KindLabel { kind }).dec();
        self.hang_up(key, endpoint.transport);
    }

    fn send_digits(&mut self, session: &Session, c: &pb::SendDigits, command_id: u64) -> Done {
        let key = find(session, "endpoint", &c.endpoint)?;
        let Some(endpoint) = self.endpoints.get_mut(key) else {
            return Err(unknown("endpoint", &c.endpoint));
        };
        if endpoint.send.event.is_none() {
            let text = "the party did not agree to telephone events: use SIP INFO";
            return Err(Failure::new(Kind::NoTelephoneEvent, text));
        }
        endpoint.digits.push(&c.digits, c.duration_ms, c.gap_ms, command_id)?;
        Ok(pb::MediaOk::default())
    }

    /// Ends a session that was taken out of the table.
    fn bury(&mut self, mut session: Session) {
        let keys: Vec<Key> = session.endpoints.iter().map(|(_, key)| *key).collect();
        for key in keys {
            self.close_endpoint(&mut session, key);
        }
        self.close_taps(&mut session);
        self.shared.sessions.fetch_sub(1, Ordering::AcqRel);
        self.shared.metrics.sessions.dec();
        self.tombstones.put(session.owner.call, self.now.at, session.replies);
    }

    /// Ends a session by our own decision.
    pub(super) fn end_session(&mut self, call: CallId, reason: Option<pb::session_ended::Reason>) {
        let Some(session) = self.sessions.remove(&call) else { return };
        let owner = session.owner;
        self.bury(session);
        if let Some(reason) = reason {
            self.shared.sink.emit(owner, Event::SessionEnded(pb::SessionEnded { reason: reason as i32 }));
        }
    }

    /// Sessions that nobody commands and in which nobody speaks.
    pub(super) fn end_orphans(&mut self) {
        let limit = std::time::Duration::from_millis(self.shared.config.orphan_timeout_ms);
        let now = self.now.at;
        let endpoints = &self.endpoints;
        let silent = |key: &Key| endpoints.get(*key).is_none_or(|e| now.since(e.heard_at) > limit);
        let orphaned =
            |s: &Session| now.since(s.commanded_at) > limit && s.endpoints.iter().all(|(_, key)| silent(key));
        let orphans: Vec<CallId> =
            self.sessions.iter().filter(|(_, s)| orphaned(s)).map(|(call, _)| *call).collect();
        for call in orphans {
            self.end_session(call, Some(pb::session_ended::Reason::Orphaned));
        }
    }

    pub(super) fn list(&self, shard: ShardId) -> Vec<pb::SessionInfo> {
        self.sessions.values().filter(|s| s.owner.shard == shard).map(|s| self.describe(s)).collect()
    }

    fn describe(&self, session: &Session) -> pb::SessionInfo {
        let endpoints = session.endpoints.iter().filter_map(|(name, key)| {
            let endpoint = self.endpoints.get(*key)?;
            let (kind, local_sdp) = match &endpoint.transport {
                Transport::Rtp(port) => (pb::endpoint_info::Kind::Rtp, port.negotiation.last_sdp().to_vec()),
                Transport::WebRtc(peer) => (pb::endpoint_info::Kind::Webrtc, peer.answer.clone()),
            };
            let state = self.state(*key);
            Some(pb::EndpointInfo {
                endpoint: name.clone(),
                kind: kind as i32,
                program: self.described(session, *key),
                muted: endpoint.muted,
                connected: endpoint.connected,
                codec: state.codec,
                direction: state.direction,
                local_sdp: local_sdp.into(),
            })
        });
        pb::SessionInfo {
            call_id: session.owner.call.to_string(),
            endpoints: endpoints.collect(),
            recording_id: session.recording.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
            transcription_id: session.transcription.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
            last_command_id: session.last_command,
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(super) fn unknown(field: &str, name: &str) -> Failure {
    Failure::new(Kind::UnknownEndpoint, format!("{field}: there is no endpoint {:?} in this call", cut(name)))
}

fn find(session: &Session, field: &str, name: &str) -> Result<Key, Failure> {
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

fn vacant(session: &Session, name: &str) -> Result<(), Failure> {
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
