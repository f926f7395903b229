//! Calls leave a media node: all at once when it is lost, one after the other when it drains.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use trunkline_actors::{Activation, Host, Refused};
use trunkline_call_core::Input;
use trunkline_cluster::Placement;
use trunkline_types::{EntityAddress, NodeId};

use crate::{
    media_nodes::MediaUse,
    shell::{CallShell, Mail},
};

/// Calls that picked the node just before they could know of its loss are told by a later round.
const ROUNDS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// A call that has no room for the news is tried again this often, at this interval.
const TRIES: u32 = 40;
const RETRY: Duration = Duration::from_millis(50);
/// One call leaves a draining node every so often: a re-INVITE and a new WebRTC connection each.
const PACE: Duration = Duration::from_millis(25);
/// Calls that could not leave yet (they were being set up, or connected) are asked again after this pause.
const PAUSE: Duration = Duration::from_secs(1);
/// A drain that is not done by then goes on without this: what is left ends by itself.
const LONGEST: Duration = Duration::from_secs(4 * 3_600);

/// Tells calls of their media nodes.
#[derive(Clone)]
pub(crate) struct MediaMoves {
    host: Host<CallShell>,
    used: Arc<MediaUse>,
    placement: Arc<dyn Placement>,
    leaving: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl MediaMoves {
    pub fn new(host: Host<CallShell>, used: Arc<MediaUse>, placement: Arc<dyn Placement>) -> Self {
        Self { host, used, placement, leaving: Arc::default() }
    }

    pub fn count(&self, node: &NodeId) -> usize {
        self.used.count(node)
    }

    /// The node is gone.
    pub fn lost(&self, node: &NodeId) {
        let (moves, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            for (round, pause) in ROUNDS.into_iter().enumerate() {
                tokio::time::sleep(pause).await;
                // It is back: who is on it now has come to its new life.
                if round > 0 && moves.placement.node(&node).is_some() {
                    return;
                }
                let calls = moves.used.on(&node);
                if !calls.is_empty() {
                    tracing::warn!(%node, calls = calls.len(), "a media node is lost: its calls move");
                }
                for call in calls {
                    moves.tell(&call, || Input::MediaNodeLost(node.clone())).await;
                }
            }
        });
    }

    /// The node drains.
    pub fn leave(&self, node: &NodeId) {
        if !self.leaving.lock().insert(node.clone()) {
            return;
        }
        let (moves, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(LONGEST, moves.empty(&node)).await.is_err() {
                tracing::warn!(%node, calls = moves.used.count(&node), "calls stay on a draining media node");
            }
            moves.leaving.lock().remove(&node);
        });
    }

    async fn empty(&self, node: &NodeId) {
        while self.placement.node(node).is_some_and(|info| info.draining) {
            for call in self.used.on(node) {
                self.tell(&call, || Input::LeaveMediaNode(node.clone())).await;
                tokio::time::sleep(PACE).await;
            }
            if self.used.count(node) == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tell(&self, call: &EntityAddress, news: impl Fn() -> Input) {
        for _ in 0..TRIES {
            let mail = Mail { input: news(), received: None, traceparent: String::new() };
            match self.host.deliver(call, mail, Activation::OnlyExisting) {
                Err(Refused::Full) => tokio::time::sleep(RETRY).await,
                // One that is not here any more has a new owner, who asks the node.
                Ok(()) | Err(_) => return,
            }
        }
        tracing::warn!(
            call_id = call.id,
            "a call has no room for the news of its media node; it finds out by itself"
        );
    }
}
