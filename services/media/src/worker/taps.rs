//! Recording and transcription of a session: which endpoints they hear, and their marks.

use std::time::Duration;

use trunkline_proto::media::v1::{self as pb, media_event::Event, media_failure::Kind};
use trunkline_types::{RecordingId, TenantId};

use super::Worker;
use super::lifecycle::check_name;
use super::session::Session;
use crate::failure::{Done, Failure};
use crate::recording::Meta;
use crate::tap;
use crate::transcription::Order as TranscriptionOrder;

/// A pause for card data ends by itself after this, when the command does not say.
const DEFAULT_PAUSE: Duration = Duration::from_secs(300);
/// Phrases for the recogniser.
const MAX_PHRASES: usize = 256;
const MAX_PHRASE_CHARS: usize = 100;

impl Worker {
    /// Lets the taps of the session hear the endpoints that they name; called after every change of either.
    pub(super) fn attach_taps(&mut self, session: &Session) {
        let taps = [
            session.recording.as_ref().map(|(_, key)| *key),
            session.transcription.as_ref().and_then(|(_, key)| *key),
        ];
        for (name, key) in &session.endpoints {
            let channels = taps.map(|tap| {
                let tap_key = tap?;
                let side = self.taps.get(tap_key)?.sides.iter().position(|side| side == name)?;
                Some((tap_key, side as u8))
            });
            if let Some(endpoint) = self.endpoints.get_mut(*key) {
                endpoint.taps = channels;
            }
        }
    }

    pub(super) fn start_recording(&mut self, session: &mut Session, c: &pb::StartRecording) -> Done {
        let id: RecordingId =
            c.recording_id.parse().map_err(|e| Failure::invalid(format!("recording_id: {e}")))?;
        if id.call != session.owner.call {
            return Err(Failure::invalid("recording_id is of another call"));
        }
        let tenant: TenantId = c.tenant.parse().map_err(|e| Failure::invalid(format!("tenant: {e}")))?;
        check_name("left", &c.left)?;
        check_name("right", &c.right)?;
        let no_recogniser = !self.shared.transcriber.listens();
        let begun = pb::MediaOk { no_recogniser, ..pb::MediaOk::default() };
        if let Some((running, _)) = &session.recording {
            return if *running == c.recording_id {
                Ok(begun)
            } else {
                Err(Failure::new(Kind::Conflict, format!("recording {running} runs: stop it first")))
            };
        }
        let (tap, reader) = tap::tap(&c.left, &c.right);
        let started_at = self.now.at;
        let meta = Meta::new(id, session.owner.shard, tenant, started_at);
        self.shared.recorder.begin(meta, reader).map_err(Failure::overload)?;
        session.recording = Some((c.recording_id.clone(), self.taps.insert(tap)));
        session.recording_started = Some(started_at);
        self.attach_taps(session);
        let started = pb::RecordingStarted {
            recording_id: c.recording_id.clone(),
            started_at_us: started_at.as_micros(),
        };
        self.shared.sink.emit(&session.owner, Event::RecordingStarted(started));
        Ok(begun)
    }

    fn recording<'a>(&'a mut self, session: &Session, id: &str) -> Result<&'a mut tap::Tap, Failure> {
        let key = session.recording.as_ref().filter(|(running, _)| running == id).map(|(_, key)| *key);
        key.and_then(|key| self.taps.get_mut(key))
            .ok_or_else(|| Failure::invalid("recording_id: no such recording runs"))
    }

    /// Holds: what an agent says to a colleague while the caller hears music is neither recorded nor transcribed.
    pub(super) fn mark_recording(&mut self, session: &Session, c: &pb::MarkRecording) -> Done {
        let begins = match pb::mark_recording::Mark::try_from(c.mark) {
            Ok(pb::mark_recording::Mark::HoldStarted) => true,
            Ok(pb::mark_recording::Mark::HoldEnded) => false,
            _ => {
                return Err(Failure::invalid(format!(
                    "mark is {}: use MARK_HOLD_STARTED or MARK_HOLD_ENDED",
                    c.mark
                )));
            }
        };
        let now = self.now.at;
        self.recording(session, &c.recording_id)?.hold(now, begins);
        if let Some(tap) = self.transcription_tap(session) {
            tap.hold(now, begins);
        }
        Ok(pb::MediaOk::default())
    }

    /// What must not be recorded must not be transcribed either: both taps pause.
    pub(super) fn pause_recording(&mut self, session: &Session, c: &pb::PauseRecording) -> Done {
        let now = self.now.at;
        let pause = if c.resume_after_ms == 0 {
            DEFAULT_PAUSE
        } else {
            Duration::from_millis(c.resume_after_ms.into())
        };
        self.recording(session, &c.recording_id)?.pause(now, now + pause);
        if let Some(tap) = self.transcription_tap(session) {
            tap.pause(now, now + pause);
        }
        Ok(pb::MediaOk::default())
    }

    pub(super) fn resume_recording(&mut self, session: &Session, id: &str) -> Done {
        let now = self.now.at;
        self.recording(session, id)?.resume(now);
        if let Some(tap) = self.transcription_tap(session) {
            tap.resume(now);
        }
        Ok(pb::MediaOk::default())
    }

    fn transcription_tap(&mut self, session: &Session) -> Option<&mut tap::Tap> {
        let key = session.transcription.as_ref().and_then(|(_, key)| *key)?;
        self.taps.get_mut(key)
    }

    pub(super) fn stop_recording(&mut self, session: &mut Session, id: &str) -> Done {
        if let Some((_, key)) = session.recording.take_if(|(running, _)| running == id) {
            if let Some(tap) = self.taps.remove(key) {
                tap.stop(self.now.at);
            }
            self.attach_taps(session);
        }
        Ok(pb::MediaOk::default())
    }

    pub(super) fn start_transcription(&mut self, session: &mut Session, c: pb::StartTranscription) -> Done {
        check_name("transcription_id", &c.transcription_id)?;
        check_name("left", &c.left)?;
        check_name("right", &c.right)?;
        let tenant: TenantId = c.tenant.parse().map_err(|e| Failure::invalid(format!("tenant: {e}")))?;
        if c.phrases.len() > MAX_PHRASES || c.phrases.iter().any(|p| p.chars().count() > MAX_PHRASE_CHARS) {
            return Err(Failure::invalid(format!(
                "phrases: at most {MAX_PHRASES} of {MAX_PHRASE_CHARS} characters"
            )));
        }
        if c.language.len() > 35 {
            return Err(Failure::invalid("language: use a BCP 47 tag of at most 35 characters"));
        }
        if let Some((running, _)) = &session.transcription {
            return if *running == c.transcription_id {
                Ok(pb::MediaOk::default())
            } else {
                Err(Failure::new(Kind::Conflict, format!("transcription {running} runs: stop it first")))
            };
        }
        let (mut tap, reader) = tap::tap(&c.left, &c.right);
        if let Some(recording) = session.recording.as_ref().and_then(|(_, key)| self.taps.get(*key)) {
            if let Some(resume_at) = recording.resume_at {
                tap.pause(self.now.at, resume_at);
            }
            tap.hold(self.now.at, recording.held);
        }
        let order = TranscriptionOrder {
            owner: session.owner.clone(),
            id: c.transcription_id.clone(),
            tenant,
            language: c.language,
            phrases: c.phrases,
            // One axis with the recording, so that a segment's time is the place to seek to.
            axis: session.recording.as_ref().and(session.recording_started).unwrap_or(self.now.at),
            started_at: self.now.at,
        };
        let taken = self.shared.transcriber.begin(order, reader).map_err(Failure::overload)?;
        let key = taken.then(|| self.taps.insert(tap));
        session.transcription = Some((c.transcription_id, key));
        self.attach_taps(session);
        Ok(pb::MediaOk::default())
    }

    pub(super) fn stop_transcription(&mut self, session: &mut Session, id: &str) -> Done {
        if let Some((_, key)) = session.transcription.take_if(|(running, _)| running == id) {
            if let Some(tap) = key.and_then(|key| self.taps.remove(key)) {
                tap.stop(self.now.at);
            }
            self.attach_taps(session);
        }
        Ok(pb::MediaOk::default())
    }

    pub(super) fn close_taps(&mut self, session: &mut Session) {
        let recording = session.recording.take().map(|(_, key)| key);
        let transcription = session.transcription.take().and_then(|(_, key)| key);
        for key in [recording, transcription].into_iter().flatten() {
            if let Some(tap) = self.taps.remove(key) {
                tap.stop(self.now.at);
            }
        }
    }
}
