//! Commands of the call room, executed in their order, each once.

use std::sync::atomic::Ordering;

use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind,
};
use trunkline_types::{CallId, Epoch, ShardId, Timestamp};

use super::endpoint::Transport;
use super::lifecycle::{find, unknown, vacant};
use super::session::{Replies, Session};
use super::webrtc::Prepared;
use super::{Order, Worker};
use crate::events::Owner;
use crate::failure::{Done, Failure, reply};
use crate::slab::Key;

impl Worker {
    pub(super) fn execute(&mut self, order: Order) {
        let Order { owner, epoch, command_id, command, prepared, reply: to } = order;
        let (call, shard) = (owner.call, owner.shard);
        let call_id = call.to_string();
        let answer = |done: Done| reply(&call_id, command_id, done);
        // Since it was admitted another owner may have spoken, whose command came first.
        if let Err(stale) = self.shared.owners.check(shard, epoch) {
            self.shared.metrics.epochs_refused.inc();
            return to.tell(answer(Err(stale.into())));
        }
        let known = self.sessions.get(&call).and_then(|s| s.replies.get(command_id));
        if let Some(known) = known.or_else(|| self.tombstones.get(call, command_id)) {
            return to.tell(known.clone());
        }
        let ends = matches!(command, Command::CloseSession(_));
        let mut session = match self.session_for(owner, epoch, command_id, &command) {
            Ok(session) => session,
            Err(done) => {
                let reply = answer(done);
                if ends {
                    // What the call wanted before comes late, if at all.
                    self.tombstones.put(call, self.now.at, Replies::default());
                    self.tombstones.add(call, Some((epoch, command_id)), reply.clone());
                }
                return to.tell(reply);
            }
        };
        session.commanded_at = self.now.at;
        session.last_command = session.last_command.max(command_id);
        let done = self.apply(&mut session, command, prepared, command_id);
        if done.is_err() {
            self.shared.metrics.commands_refused.inc();
        }
        let reply = answer(done);
        // A session whose first command failed has not begun.
        let stillborn = session.replies.is_empty() && session.endpoints.is_empty();
        if ends || stillborn {
            self.bury(session);
            self.tombstones.add(call, ends.then_some((epoch, command_id)), reply.clone());
        } else {
            session.replies.put(reply.clone());
            self.rouse(session.endpoints.iter().map(|(_, key)| *key));
            self.sessions.insert(call, session);
        }
        to.tell(reply);
    }

    /// The call's session, taken out; a new one for commands that make one.
    fn session_for(
        &mut self,
        owner: Owner,
        epoch: Epoch,
        command_id: u64,
        command: &Command,
    ) -> Result<Session, Done> {
        if let Some(session) = self.sessions.remove(&owner.call) {
            return Ok(session);
        }
        match command {
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
        if self.tombstones.is_late(owner.call, epoch, command_id) {
            let text = "the session was closed by a later command: this one comes too late";
            return Err(Err(Failure::new(Kind::UnknownSession, text)));
        }
        if self.shared.draining.load(Ordering::Relaxed) {
            let text = "this node drains: place the call elsewhere";
            return Err(Err(Failure::new(Kind::ShuttingDown, text)));
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
        Ok(Session::new(owner, self.now.at))
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
            Command::ListSessions(_) | Command::SalvageRecording(_) | Command::AcknowledgeEvents(_) => {
                Err(Failure::new(Kind::Internal, "this command is not about a session"))
            }
        }
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
        let owner = session.owner.clone();
        self.bury(session);
        if let Some(reason) = reason {
            self.shared.sink.emit(&owner, Event::SessionEnded(pb::SessionEnded { reason: reason as i32 }));
        }
    }

    /// Asks after sessions that nobody commands, and ends those in which nobody speaks either.
    pub(super) fn end_orphans(&mut self) {
        let limit = std::time::Duration::from_millis(self.shared.config.orphan_timeout_ms);
        let now = self.now.at;
        for session in self.sessions.values_mut().filter(|s| now.since(s.commanded_at) > limit / 2) {
            // The question is repeated by itself for minutes, and then asked anew.
            if session.asked_at.is_none_or(|at| at < session.commanded_at || now.since(at) > 2 * limit) {
                session.asked_at = Some(now);
                let question = Event::SessionUnattended(pb::SessionUnattended {});
                self.shared.sink.emit(&session.owner, question);
            }
        }
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

    pub(super) fn list(&mut self, shard: ShardId) -> Vec<pb::SessionInfo> {
        // Somebody cares for them.
        for session in self.sessions.values_mut().filter(|s| s.owner.shard == shard) {
            session.commanded_at = self.now.at;
        }
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
                telephone_event: state.telephone_event,
            })
        });
        let tap = session.recording.as_ref().and_then(|(_, key)| self.taps.get(*key));
        pb::SessionInfo {
            call_id: session.owner.call.to_string(),
            endpoints: endpoints.collect(),
            recording_id: session.recording.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
            transcription_id: session.transcription.as_ref().map(|(id, _)| id.clone()).unwrap_or_default(),
            last_command_id: session.last_command,
            recording_started_at_us: tap.and(session.recording_started).map_or(0, Timestamp::as_micros),
            recording_paused: tap.is_some_and(|tap| tap.resume_at.is_some()),
            recording_on_hold: tap.is_some_and(|tap| tap.held),
        }
    }
}
