//! Calls as actors: one a call, placed by the shard inside its id.
//!
//! **Owns** the shell of [`trunkline_call_core::Call`]: conversions between `trunkline.*.v1` and the core, events to
//! and from the journal (`trunkline.call.v1.CallEvent`, kinds `call.started`, `call.queue_entered`, …), effects to the
//! bus, the answer for a call that is not there any more, metrics, the spans of a call's trace.
//!
//! **Refuses** every decision: what a call does is decided in the core. Opens no socket; SIP and SDP pass through.
//!
//! **Called by** the daemon; reached over the bus. A message is read in the sender's thread and refused there when it
//! cannot be, so that actors only see typed inputs.

mod convert;
mod ends;
mod flows;
mod media_nodes;
mod metrics;
mod moves;
mod outbox;
mod shell;
mod spans;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use trunkline_actors::{ActorMetrics, Arbiters, Host, HostOptions};
use trunkline_call_core::Call;
use trunkline_cluster::Placement;
use trunkline_journal::{Journal, JournalError};
use trunkline_rpc::Bus;
use trunkline_telemetry::trace_id_of;
use trunkline_types::{CallId, EntityAddress, EntityKind, NodeId, ShardId, TenantId};

use crate::{ends::CallEnd, outbox::Sender, shell::CallShell};
pub use crate::{
    flows::FlowStore,
    media_nodes::{MediaMembers, MediaNodes, MediaWish},
    metrics::CallMetrics,
};
use crate::{
    media_nodes::{MediaUse, Outside},
    moves::MediaMoves,
};
pub use trunkline_call_core::{
    Announcement, Library, Phase, Settings, Treatment,
    flow::{FLOW_SCHEMA, Flow, FlowError},
};

/// The sample flow that `dev` publishes as `menu`.
pub const SAMPLE_FLOW: &str = include_str!("../flows/menu.yaml");

/// Messages that may wait at one call: its media, its queue, its agent and its peer together say far less.
const PERMITS: u32 = 512;
/// A call's history is short, and read once.
const SNAPSHOT_EVERY: u64 = u64::MAX;

/// What the role needs from its node.
pub struct CallParts {
    /// The bus.
    pub bus: Bus,
    /// The threads of the actors.
    pub arbiters: Arbiters,
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Who owns which shard.
    pub placement: Arc<dyn Placement>,
    /// Flows and how queues treat their callers; [`FlowStore`] is one.
    pub library: Arc<dyn Library>,
    /// Where calls get their media; [`MediaMembers`] is one.
    pub media: Arc<dyn MediaNodes>,
    /// Time limits.
    pub settings: Settings,
    /// Calls that may be active at a time; more are refused with 503.
    pub max_calls: usize,
    /// Counters of the actors' host.
    pub actor_metrics: ActorMetrics,
    /// Counters of calls.
    pub metrics: CallMetrics,
}

/// The running role. Clones are handles to the same.
#[derive(Clone)]
pub struct Calls {
    host: Host<CallShell>,
    moves: MediaMoves,
}

impl Calls {
    /// Makes the host and attaches it to the bus. Call within a tokio runtime. Nothing is active until
    /// [`Calls::recover`] or a new call.
    pub fn start(parts: &CallParts) -> Self {
        let used = Arc::new(MediaUse::default());
        let library: Arc<dyn Library> = Arc::new(Outside {
            library: parts.library.clone(),
            media: parts.media.clone(),
            used: used.clone(),
            placement: parts.placement.clone(),
        });
        let host = host(parts, &library, &used);
        let end = CallEnd::new(parts, host.clone(), library);
        parts.bus.attach_entities(EntityKind::Call, Arc::new(end));
        let moves = MediaMoves::new(host.clone(), used, parts.placement.clone());
        Self { host, moves }
    }

    /// Brings all unfinished calls of `shards` back from the journal. Each asks its media node what is left: what is
    /// there goes on, what is gone moves to another media node.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn recover(&self, shards: &[ShardId]) -> Result<usize, JournalError> {
        self.host.recover_all(shards).await
    }

    /// Lets shards go: takes nothing more for their calls, lets what is under way be committed, ends the actors. The calls
    /// go on with the shards' next owner, and on their media nodes meanwhile. True when all was committed in time.
    pub async fn release(&self, shards: &[ShardId], patience: Duration) -> bool {
        self.host.release(shards, patience).await
    }

    /// A media node is no member any more, or came back as another incarnation: the calls of this node that were on it
    /// move to other media nodes at once. Returns without waiting for them.
    pub fn media_lost(&self, node: &NodeId) {
        self.moves.lost(node);
    }

    /// A media node drains: the calls of this node that are on it move away, make before break, at a bounded pace, until
    /// none is left or the node drains no more. Returns without waiting for them; a second call meanwhile changes nothing.
    pub fn move_media(&self, node: &NodeId) {
        self.moves.leave(node);
    }

    /// Active calls that have their media on this node.
    pub fn on_media(&self, node: &NodeId) -> usize {
        self.moves.count(node)
    }

    /// Active calls, those included that are over and settle what is owed.
    pub fn count(&self) -> usize {
        self.host.count()
    }

    /// Where a call is; `None` when it is not active here.
    pub async fn phase(&self, tenant: &TenantId, call: CallId) -> Option<Phase> {
        self.host.inspect(&EntityAddress::call(tenant, call), Call::phase).await
    }

    /// Lets what is under way be committed, then ends the actors. The calls themselves go on in the journal and on
    /// their media nodes. True when all was committed in time.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.host.shutdown(patience).await
    }
}

fn host(parts: &CallParts, library: &Arc<dyn Library>, used: &Arc<MediaUse>) -> Host<CallShell> {
    let options = HostOptions {
        permits: PERMITS,
        max_entities: parts.max_calls,
        snapshot_every: SNAPSHOT_EVERY,
        ..HostOptions::new(EntityKind::Call)
    };
    let (bus, placement) = (parts.bus.clone(), parts.placement.clone());
    let (library, used, metrics) = (library.clone(), used.clone(), parts.metrics.clone());
    metrics.takes(parts.max_calls);
    let settings = Arc::new(parts.settings.clone());
    let factory = move |address: &EntityAddress, _| {
        // Checked when the message was taken from the bus, or written by this crate.
        let id: CallId = address.id.parse().unwrap_or_else(|_| unreachable!("checked by the bus end"));
        let sender = Sender::new(bus.clone(), placement.clone(), address.clone());
        let core = Call::new(id, address.tenant.clone(), settings.clone(), library.clone());
        (core, CallShell::new(id, address.tenant.clone(), sender, metrics.clone(), used.clone()))
    };
    let (bus, placement) = (parts.bus.clone(), parts.placement.clone());
    Host::builder(
        options,
        &parts.arbiters,
        parts.journal.clone(),
        parts.placement.clone(),
        &parts.actor_metrics,
        factory,
    )
    .on_lost(|call, lost| {
        let trace_id = call.id.parse().map(trace_id_of).ok().map(tracing::field::display);
        tracing::error!(call_id = call.id, trace_id, %lost, "a call's actor was discarded");
    })
    .on_undeliverable(move |address, mail, why| {
        ends::answer_for_gone(
            &Sender::new(bus.clone(), placement.clone(), address.clone()),
            address,
            mail,
            why,
        );
    })
    .build()
}
