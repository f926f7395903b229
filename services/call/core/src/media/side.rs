//! Commands beside the session: ends what is left on a node that the call has left, and has recordings of lost nodes put
//! together. Each is sent until it is answered or too old; neither its loss nor its delay holds up the call.

use std::time::Duration;

use trunkline_types::{NodeId, RecordingId, Timestamp};

use super::message::{MediaBody, MediaCommand, MediaFailureKind, MediaReply};
use crate::{
    call::{Call, Cx, Timer},
    effect::Effect,
};

/// Commands beside the session at a time. A call that moves leaves one node, with one recording.
const MAX_SIDES: usize = 8;

/// A command to any node.
#[derive(Debug)]
pub(crate) struct Side {
    node: NodeId,
    id: u64,
    body: MediaBody,
    next: Timestamp,
    interval: Duration,
    until: Timestamp,
}

impl Side {
    fn salvages(&self) -> Option<RecordingId> {
        match self.body {
            MediaBody::Salvage { recording, .. } => Some(recording),
            _ => None,
        }
    }
}

impl Call {
    /// Has a command done on a node, whether the call is there or not.
    pub(crate) fn aside(&mut self, cx: &mut Cx<'_>, node: NodeId, body: MediaBody) {
        let known = self.media.sides.iter().any(|side| side.node == node && side.body == body);
        if known || self.media.sides.len() >= MAX_SIDES {
            return;
        }
        let id = self.media.mint(cx.now);
        let until = cx.now.plus(self.settings.settle_deadline);
        let side = Side { node, id, body, next: cx.now, interval: self.settings.media_resend, until };
        self.media.sides.push(side);
        self.side_timer(cx, self.media.sides.len() - 1);
    }

    /// The session on a node that the call has left.
    pub(crate) fn close_former(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        self.aside(cx, node, MediaBody::CloseSession);
    }

    /// What is stored of a recording whose node is lost: any other node can put it together.
    pub(crate) fn salvage(&mut self, cx: &mut Cx<'_>, recording: RecordingId, lost: NodeId) {
        let here = self.media.node.clone().filter(|node| *node != lost && !self.media.is_lost());
        let by = here.or_else(|| self.pick_node(std::slice::from_ref(&lost)));
        // Alone it may be the same node after a restart, which finds what its former life had stored.
        let by = by.unwrap_or_else(|| lost.clone());
        self.aside(cx, by, MediaBody::Salvage { recording, node: lost });
    }

    pub(crate) fn side_timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        for (n, side) in self.media.sides.iter().enumerate() {
            visit(side.next.min(side.until), Timer::Side(n));
        }
    }

    pub(crate) fn side_timer(&mut self, cx: &mut Cx<'_>, n: usize) {
        let longest = self.settings.resend_max;
        let Some(side) = self.media.sides.get_mut(n) else { return };
        if cx.now >= side.until {
            let side = self.media.sides.remove(n);
            if let Some(recording) = side.salvages() {
                self.recording_failed(
                    cx,
                    recording,
                    "no media node could put it together in time".to_owned(),
                );
            }
            return;
        }
        side.next = cx.now.plus(side.interval);
        side.interval = (side.interval * 2).min(longest);
        let command = MediaCommand { id: side.id, body: side.body.clone() };
        cx.out.effect(Effect::Media { node: side.node.clone(), command });
    }

    /// True when the answer was to a command beside the session.
    pub(crate) fn side_answered(&mut self, cx: &mut Cx<'_>, reply: &MediaReply) -> bool {
        let Some(n) = self.media.sides.iter().position(|side| side.id == reply.command) else { return false };
        let side = self.media.sides.remove(n);
        let Some(recording) = side.salvages() else { return true };
        match &reply.result {
            Ok(_) => self.salvage_begun(cx.now, recording),
            Err(failure) => match failure.kind {
                MediaFailureKind::Overload | MediaFailureKind::ShuttingDown | MediaFailureKind::Internal => {
                    self.side_elsewhere(cx, side);
                }
                // Another owner acts for this call.
                MediaFailureKind::StaleEpoch => {}
                _ => self.recording_failed(cx, recording, failure.message.clone()),
            },
        }
        true
    }

    /// The same on another node, or later on this one.
    fn side_elsewhere(&mut self, cx: &mut Cx<'_>, side: Side) {
        let id = self.media.mint(cx.now);
        let node = self.pick_node(std::slice::from_ref(&side.node)).unwrap_or_else(|| side.node.clone());
        self.media.sides.push(Side { node, id, next: cx.now.plus(side.interval), ..side });
    }

    /// Nothing is left to be closed there; what it was asked to put together, another node does.
    pub(crate) fn sides_lost(&mut self, cx: &mut Cx<'_>, node: &NodeId) {
        let (lost, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.media.sides).into_iter().partition(|side| side.node == *node);
        self.media.sides = kept;
        for side in lost {
            if side.salvages().is_some() {
                self.side_elsewhere(cx, side);
            }
        }
    }

    /// The call is (back) on this node: a session there is not closed any more.
    pub(crate) fn keep_session_on(&mut self, node: &NodeId) {
        self.media.sides.retain(|side| side.node != *node || side.body != MediaBody::CloseSession);
    }
}
