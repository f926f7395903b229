//! What rooms are told when other nodes vanish, come back in another life, or drain.

use std::{collections::BTreeMap, sync::Arc};

use trunkline_acd::Acd;
use trunkline_call::Calls;
use trunkline_cluster::{Incarnation, NodeInfo, Placement, Role};
use trunkline_edge::Edge;
use trunkline_media::MediaNode;
use trunkline_types::NodeId;

/// The rooms that care.
pub(super) struct Told {
    pub acd: Option<Acd>,
    pub calls: Option<Calls>,
    pub edge: Option<Arc<Edge>>,
    pub media: Option<Arc<MediaNode>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    incarnation: Incarnation,
    media: bool,
    console: bool,
    draining: bool,
}

impl Seen {
    fn of(node: &NodeInfo) -> Self {
        Self {
            incarnation: node.identity.incarnation,
            media: node.roles.contains(&Role::Media),
            console: node.roles.contains(&Role::Console),
            draining: node.draining,
        }
    }
}

/// Follows the members until the task is ended.
pub(super) async fn follow(placement: Arc<dyn Placement>, told: Told) {
    let mut changes = placement.changes();
    let own = placement.local().id;
    let mut before = BTreeMap::new();
    loop {
        let now = members(&*placement);
        own_drain(&told, before.get(&own), now.get(&own));
        others(&told, &before, &now);
        before = now;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// An operator drains this node, or takes that back.
fn own_drain(told: &Told, before: Option<&Seen>, now: Option<&Seen>) {
    let drained = |seen: Option<&Seen>| seen.is_some_and(|seen| seen.draining);
    if drained(before) == drained(now) || now.is_none() {
        return;
    }
    tracing::info!(draining = drained(now), "this node's draining has changed");
    if let Some(edge) = &told.edge {
        edge.set_draining(drained(now));
    }
    if let Some(media) = &told.media {
        media.drain(drained(now));
    }
}

fn others(told: &Told, before: &BTreeMap<NodeId, Seen>, now: &BTreeMap<NodeId, Seen>) {
    for (node, seen) in before {
        match now.get(node).filter(|now| now.incarnation == seen.incarnation) {
            None => gone(told, node, *seen),
            Some(now) if now.draining && !seen.draining => draining(told, node, *now),
            Some(_) => {}
        }
    }
}

fn members(placement: &dyn Placement) -> BTreeMap<NodeId, Seen> {
    placement.nodes().iter().map(|node| (node.identity.id.clone(), Seen::of(node))).collect()
}

fn gone(told: &Told, node: &NodeId, seen: Seen) {
    tracing::warn!(%node, media = seen.media, console = seen.console, "a member is gone");
    if let Some(calls) = told.calls.as_ref().filter(|_| seen.media) {
        calls.media_lost(node);
    }
    if let Some(acd) = told.acd.as_ref().filter(|_| seen.console) {
        acd.console_lost(node);
    }
}

fn draining(told: &Told, node: &NodeId, seen: Seen) {
    if let Some(calls) = told.calls.as_ref().filter(|_| seen.media) {
        calls.move_media(node);
    }
}
