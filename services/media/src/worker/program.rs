//! From what the call room wants a party to hear to what plays.

use trunkline_media_core::program::{Announcement, Bed, Finished, MAX_PROMPTS, Outcome};
use trunkline_proto::media::v1::{self as pb, media_event::Event, media_failure::Kind, program};

use super::Worker;
use super::session::Session;
use crate::failure::{Done, Failure};
use crate::slab::Key;

/// A program that has been understood.
enum Plan {
    Bed(Bed<Key>),
    Announcement(Announcement<Key>),
}

pub(super) fn finished(endpoint: &str, finished: Finished) -> Event {
    let outcome = match finished.outcome {
        Outcome::Completed => pb::playback_finished::Outcome::Completed,
        Outcome::Interrupted => pb::playback_finished::Outcome::Interrupted,
        Outcome::Replaced => pb::playback_finished::Outcome::Replaced,
    };
    Event::PlaybackFinished(pb::PlaybackFinished {
        endpoint: endpoint.to_owned(),
        token: finished.token,
        outcome: outcome as i32,
    })
}

impl Worker {
    pub(super) fn set_program(&mut self, session: &Session, key: Key, program: Option<&pb::Program>) -> Done {
        let kind = program.and_then(|p| p.kind.as_ref());
        let plan = match kind {
            Some(program::Kind::Play(play)) => Plan::Announcement(self.announcement(session, key, play)?),
            other => Plan::Bed(self.bed(session, key, other)?),
        };
        let Some(endpoint) = self.endpoints.get_mut(key) else { return Ok(pb::MediaOk::default()) };
        let ended = match plan {
            Plan::Bed(bed) => endpoint.player.set(bed),
            Plan::Announcement(announcement) => endpoint.player.announce(announcement),
        };
        endpoint.out.detach();
        if let Some(repacketizer) = &mut endpoint.repack {
            repacketizer.clear();
        }
        if let Some(ended) = ended {
            self.shared.sink.emit(&session.owner, finished(&endpoint.name, ended));
        }
        self.listen(session, key);
        Ok(pb::MediaOk::default())
    }

    pub(super) fn bridge(&mut self, session: &Session, a: Key, b: Key) -> Done {
        if a == b {
            return Err(Failure::invalid("a and b are the same endpoint: name two"));
        }
        let name = |key: Key| session.endpoints.iter().find(|(_, k)| *k == key).map(|(n, _)| n.clone());
        let peer = |name: Option<String>| pb::Program { kind: name.map(program::Kind::PeerOf) };
        self.set_program(session, a, Some(&peer(name(b))))?;
        self.set_program(session, b, Some(&peer(name(a))))
    }

    /// Puts an endpoint on the list of the party that it hears, or will hear.
    fn listen(&mut self, session: &Session, key: Key) {
        for (_, other) in &session.endpoints {
            if let Some(other) = self.endpoints.get_mut(*other) {
                other.listeners.retain(|k| *k != key);
            }
        }
        let peer = self.endpoints.get(key).and_then(|e| match e.player.bed() {
            Bed::Peer(peer) => Some(*peer),
            _ => None,
        });
        if let Some(peer) = peer.and_then(|p| self.endpoints.get_mut(p)) {
            peer.listeners.push(key);
        }
    }

    fn announcement(
        &self,
        session: &Session,
        key: Key,
        play: &pb::Play,
    ) -> Result<Announcement<Key>, Failure> {
        if play.prompts.is_empty() || play.prompts.len() > MAX_PROMPTS {
            return Err(Failure::invalid(format!(
                "play.prompts has {}: name 1 to {MAX_PROMPTS}",
                play.prompts.len()
            )));
        }
        if play.token.len() > 256 {
            return Err(Failure::invalid("play.token is longer than 256 bytes"));
        }
        let then = match play.then.as_deref().and_then(|p| p.kind.as_ref()) {
            Some(program::Kind::Play(_)) => {
                return Err(Failure::invalid(
                    "play.then is another play: use music, silence, tone or peer_of",
                ));
            }
            other => self.bed(session, key, other)?,
        };
        let library = &self.shared.library;
        let find = |name: &String| {
            let unknown = || {
                Failure::new(
                    Kind::UnknownPrompt,
                    format!("play.prompts: {name:?} is none of {:?}", library.names().0),
                )
            };
            library.prompt(name).cloned().ok_or_else(unknown)
        };
        let prompts = play.prompts.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Announcement {
            prompts,
            names: play.prompts.clone(),
            then,
            token: play.token.clone(),
            interruptible: play.interruptible,
            over_music: play.over_music,
        })
    }

    fn bed(&self, session: &Session, key: Key, kind: Option<&program::Kind>) -> Result<Bed<Key>, Failure> {
        match kind {
            None | Some(program::Kind::Silence(_)) => Ok(Bed::Silence),
            Some(program::Kind::Music(music)) => {
                let library = &self.shared.library;
                let unknown = || {
                    let text = format!("music.name: {:?} is none of {:?}", music.name, library.names().1);
                    Failure::new(Kind::UnknownPrompt, text)
                };
                let clip = library.music(&music.name).cloned().ok_or_else(unknown)?;
                Ok(Bed::Music(music.name.clone(), clip))
            }
            Some(program::Kind::Tone(tone)) if (50..=3_800).contains(&tone.hz) => Ok(Bed::Tone(tone.hz)),
            Some(program::Kind::Tone(tone)) => {
                Err(Failure::invalid(format!("tone.hz is {}: use 50 to 3800", tone.hz)))
            }
            Some(program::Kind::PeerOf(name)) => match session.endpoint(name) {
                Some(peer) if peer == key => {
                    Err(Failure::invalid("peer_of names the endpoint itself: name the other party"))
                }
                Some(peer) => Ok(Bed::Peer(peer)),
                None => Err(Failure::new(
                    Kind::UnknownEndpoint,
                    format!("peer_of: there is no endpoint {name:?} in this call"),
                )),
            },
            Some(program::Kind::Play(_)) => Err(Failure::invalid("a play cannot stand here")),
        }
    }

    /// The program of an endpoint as the call room named it.
    pub(super) fn described(&self, session: &Session, key: Key) -> Option<pb::Program> {
        let player = &self.endpoints.get(key)?.player;
        let bed = match player.bed() {
            Bed::Silence => program::Kind::Silence(pb::Silence {}),
            Bed::Music(name, _) => program::Kind::Music(pb::Music { name: name.clone() }),
            Bed::Tone(hz) => program::Kind::Tone(pb::Tone { hz: *hz }),
            Bed::Peer(peer) => {
                let name = session.endpoints.iter().find(|(_, k)| k == peer).map(|(n, _)| n.clone());
                program::Kind::PeerOf(name.unwrap_or_default())
            }
        };
        let bed = pb::Program { kind: Some(bed) };
        let Some(playing) = player.announcement() else { return Some(bed) };
        let play = pb::Play {
            prompts: playing.names.clone(),
            then: Some(Box::new(bed)),
            token: playing.token.clone(),
            interruptible: playing.interruptible,
            over_music: playing.over_music,
        };
        Some(pb::Program { kind: Some(program::Kind::Play(Box::new(play))) })
    }
}
