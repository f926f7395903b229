//! What belongs to one call on this thread, and what is remembered of calls that ended.

use std::collections::VecDeque;
use std::time::Duration;

use trunkline_proto::media::v1 as pb;
use trunkline_types::{CallId, Timestamp};

use crate::events::Owner;
use crate::slab::Key;

/// Replies kept for each session.
const REPLIES: usize = 256;
/// Ended sessions whose replies are kept, and how long.
const TOMBSTONES: usize = 1_024;
const TOMBSTONE_LIFE: Duration = Duration::from_secs(300);
/// Endpoints in one session.
pub(super) const MAX_ENDPOINTS: usize = 16;

/// Replies by command id.
#[derive(Debug, Default)]
pub(super) struct Replies(VecDeque<pb::MediaReply>);

impl Replies {
    pub(super) fn get(&self, command_id: u64) -> Option<&pb::MediaReply> {
        self.0.iter().rev().find(|r| r.command_id == command_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put(&mut self, reply: pb::MediaReply) {
        if self.0.len() >= REPLIES {
            self.0.pop_front();
        }
        self.0.push_back(reply);
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) owner: Owner,
    pub(super) endpoints: Vec<(String, Key)>,
    pub(super) replies: Replies,
    pub(super) last_command: u64,
    pub(super) commanded_at: Timestamp,
    /// When the call was asked whether it still wants the session.
    pub(super) asked_at: Option<Timestamp>,
    /// Id and tap.
    pub(super) recording: Option<(String, Key)>,
    pub(super) transcription: Option<(String, Option<Key>)>,
    pub(super) recording_started: Option<Timestamp>,
}

impl Session {
    pub(super) fn new(owner: Owner, now: Timestamp) -> Self {
        Self {
            owner,
            endpoints: Vec::new(),
            replies: Replies::default(),
            last_command: 0,
            commanded_at: now,
            asked_at: None,
            recording: None,
            transcription: None,
            recording_started: None,
        }
    }

    pub(super) fn endpoint(&self, name: &str) -> Option<Key> {
        self.endpoints.iter().find(|(n, _)| n == name).map(|(_, key)| *key)
    }
}

/// Replies of sessions that ended, so that a command that is repeated late does not raise the dead.
#[derive(Debug, Default)]
pub(super) struct Tombstones(VecDeque<(CallId, Timestamp, Replies)>);

impl Tombstones {
    pub(super) fn put(&mut self, call: CallId, now: Timestamp, replies: Replies) {
        if self.0.len() >= TOMBSTONES {
            self.0.pop_front();
        }
        self.0.push_back((call, now, replies));
    }

    pub(super) fn get(&self, call: CallId, command_id: u64) -> Option<&pb::MediaReply> {
        self.0.iter().rev().filter(|(c, ..)| *c == call).find_map(|(_, _, replies)| replies.get(command_id))
    }

    /// The reply of the command that ended the session comes after it.
    pub(super) fn add(&mut self, call: CallId, reply: pb::MediaReply) {
        if let Some((_, _, replies)) = self.0.iter_mut().rev().find(|(c, ..)| *c == call) {
            replies.put(reply);
        }
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.0.front().is_some_and(|(_, at, _)| now.since(*at) > TOMBSTONE_LIFE) {
            self.0.pop_front();
        }
    }
}
