//! What belongs to one call on this thread, and what is remembered of calls that ended.

use std::collections::VecDeque;
use std::time::Duration;

use trunkline_proto::media::v1 as pb;
use trunkline_types::{CallId, Epoch, Timestamp};

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

/// A session that ended.
#[derive(Debug)]
struct Tombstone {
    call: CallId,
    ended_at: Timestamp,
    /// The command that closed it and its sender's epoch; `None`: it ended by itself.
    closed_by: Option<(Epoch, u64)>,
    replies: Replies,
}

/// Replies of sessions that ended, so that a command that is repeated, or comes late, does not raise the dead.
#[derive(Debug, Default)]
pub(super) struct Tombstones(VecDeque<Tombstone>);

impl Tombstones {
    pub(super) fn put(&mut self, call: CallId, now: Timestamp, replies: Replies) {
        if self.0.len() >= TOMBSTONES {
            self.0.pop_front();
        }
        self.0.push_back(Tombstone { call, ended_at: now, closed_by: None, replies });
    }

    pub(super) fn get(&self, call: CallId, command_id: u64) -> Option<&pb::MediaReply> {
        self.of(call).find_map(|stone| stone.replies.get(command_id))
    }

    fn of(&self, call: CallId) -> impl Iterator<Item = &Tombstone> {
        self.0.iter().rev().filter(move |stone| stone.call == call)
    }

    /// Whether the same owner has closed the call's session by a later command than this one.
    pub(super) fn is_late(&self, call: CallId, epoch: Epoch, command_id: u64) -> bool {
        let closed = self.of(call).find_map(|stone| stone.closed_by);
        closed.is_some_and(|(at, by)| epoch <= at && command_id < by)
    }

    /// The reply of the command that ended the session comes after it.
    pub(super) fn add(&mut self, call: CallId, closed_by: Option<(Epoch, u64)>, reply: pb::MediaReply) {
        if let Some(stone) = self.0.iter_mut().rev().find(|stone| stone.call == call) {
            stone.closed_by = closed_by;
            stone.replies.put(reply);
        }
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.0.front().is_some_and(|stone| now.since(stone.ended_at) > TOMBSTONE_LIFE) {
            self.0.pop_front();
        }
    }
}
