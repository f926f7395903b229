//! Telephones' accounts as actors, placed by shard like queues and agents: where each telephone can be reached.
//!
//! Owns the shell of the core in `registrar/core`: conversions between `trunkline.registrar.v1` and the core, events to and
//! from the journal, answers to edges, and the board from which operators read what is bound. Bindings belong to no edge
//! and to no node: an edge that dies takes none along, and the next owner of a shard goes on from the journal. Refuses
//! accounts that are not configured, and to see credentials: edges check them. Writes nothing before every node of the
//! cluster knows what telephones are ([`Feature::Telephones`]).
//!
//! Called by the daemon; reached over the bus.

mod board;
mod convert;
mod metrics;
mod shell;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use trunkline_actors::{Activation, ActorMetrics, Arbiters, Host, HostOptions};
use trunkline_cluster::Placement;
use trunkline_journal::{Journal, JournalError};
use trunkline_proto::{
    common::v1::{Envelope, envelope::Payload},
    registrar::v1::{Refusal, refusal::Reason, registrar_answer, telephone_message::Message},
};
use trunkline_registrar_core::Telephone;
use trunkline_rpc::{Bus, Deliver, Refused};
use trunkline_types::{EntityAddress, EntityKind, Feature, ShardId, TelephoneId, TenantId};

use crate::{
    board::Board,
    shell::{Answerer, Mail, TelephoneShell},
};
pub use crate::{board::Seen, metrics::RegistrarMetrics};

/// Requests that may wait at one account: it has few telephones, and each has one at a time.
const PERMITS: u32 = 64;
const MAX_TELEPHONES: usize = 1_000_000;
/// A refresh is an event, and a telephone does it for years.
const SNAPSHOT_EVERY: u64 = 64;

/// The accounts' configuration, as the daemon keeps it.
pub trait Directory: Send + Sync + 'static {
    /// Whether there is such an account.
    fn has_telephone(&self, tenant: &TenantId, telephone: &TelephoneId) -> bool;
}

/// What the room needs from its node.
pub struct RegistrarParts {
    /// The bus.
    pub bus: Bus,
    /// The threads of the actors.
    pub arbiters: Arbiters,
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Who owns which shard.
    pub placement: Arc<dyn Placement>,
    /// The configuration.
    pub directory: Arc<dyn Directory>,
    /// Counters of the actors' host.
    pub actor_metrics: ActorMetrics,
    /// Counters of registrations.
    pub metrics: RegistrarMetrics,
}

/// The running room. Clones are handles to the same.
#[derive(Clone)]
pub struct Registrar {
    host: Host<TelephoneShell>,
    directory: Arc<dyn Directory>,
    board: Board,
}

impl Registrar {
    /// Makes the host and attaches it to the bus. Nothing is active until [`Registrar::recover`] or a message.
    pub fn start(parts: &RegistrarParts) -> Self {
        let board = Board::new(parts.metrics.clone());
        let options = HostOptions {
            permits: PERMITS,
            max_entities: MAX_TELEPHONES,
            snapshot_every: SNAPSHOT_EVERY,
            ..HostOptions::new(EntityKind::Telephone)
        };
        let (bus, placement) = (parts.bus.clone(), parts.placement.clone());
        let (directory, metrics, shown) = (parts.directory.clone(), parts.metrics.clone(), board.clone());
        let host = Host::builder(
            options,
            &parts.arbiters,
            parts.journal.clone(),
            parts.placement.clone(),
            &parts.actor_metrics,
            move |address, own| {
                let answerer = Answerer::new(bus.clone(), placement.clone(), address.clone());
                let place = shown.place(address.clone());
                (
                    Telephone::new(),
                    TelephoneShell::new(answerer, own, directory.clone(), metrics.clone(), place),
                )
            },
        )
        .build();
        let end = End {
            host: host.clone(),
            bus: parts.bus.clone(),
            placement: parts.placement.clone(),
            directory: parts.directory.clone(),
        };
        parts.bus.attach_entities(EntityKind::Telephone, Arc::new(end));
        Self { host, directory: parts.directory.clone(), board }
    }

    /// Brings all accounts of `shards` back from the journal. Gives how many came up. May be called again for a shard that
    /// was released.
    ///
    /// # Errors
    /// When the journal cannot tell which there are.
    pub async fn recover(&self, shards: &[ShardId]) -> Result<usize, JournalError> {
        self.host.recover_all(shards).await
    }

    /// Lets go of `shards`: takes no more requests for them, lets what is under way be committed, ends the actors. False
    /// when some had not ended after `patience`; the new owner's seal fences them.
    pub async fn release(&self, shards: &[ShardId], patience: Duration) -> bool {
        self.host.release(shards, patience).await
    }

    /// The configuration has changed: accounts that are gone are reached nowhere from now on.
    pub fn accounts_changed(&self) {
        for address in self.board.addresses() {
            if !is_configured(&*self.directory, &address) {
                // Full: its next answer tells it.
                let _ = self.host.deliver(&address, Mail::Withdraw, Activation::OnlyExisting);
            }
        }
    }

    /// What is bound here, in the order of tenants and names: of so many accounts at most, after the account `after`.
    pub fn seen(
        &self,
        after: Option<&EntityAddress>,
        wanted: impl Fn(&EntityAddress) -> bool,
        accounts: usize,
    ) -> Vec<Seen> {
        self.board.seen(after, wanted, accounts)
    }

    /// Lets what is under way be committed, then ends the actors.
    pub async fn shutdown(&self, limit: Duration) {
        self.host.shutdown(limit).await;
    }
}

fn is_configured(directory: &dyn Directory, address: &EntityAddress) -> bool {
    address.id.parse().is_ok_and(|id| directory.has_telephone(&address.tenant, &id))
}

/// The bus's end.
struct End {
    host: Host<TelephoneShell>,
    bus: Bus,
    placement: Arc<dyn Placement>,
    directory: Arc<dyn Directory>,
}

impl Deliver for End {
    fn deliver(&self, address: Option<EntityAddress>, envelope: Envelope) -> Result<(), Refused> {
        let (Some(address), Some(Payload::Telephone(message))) = (address, envelope.payload) else {
            return Err(Refused::Unroutable);
        };
        let Some(Message::Register(register)) = message.message else { return Err(Refused::Unroutable) };
        // The edge has looked already; one whose view is older than this node's is not to be trusted with it.
        if !self.placement.may_write(Feature::Telephones) {
            return Err(Refused::Unroutable);
        }
        if !is_configured(&*self.directory, &address) {
            let refusal = Refusal { reason: Reason::Unknown.into(), ..Refusal::default() };
            let answerer = Answerer::new(self.bus.clone(), self.placement.clone(), address);
            answerer.answer(
                &register.edge,
                register.transaction,
                registrar_answer::Result::Refusal(refusal),
                None,
            );
            return Ok(());
        }
        let mail = Mail::Register(Box::new(register));
        self.host.deliver(&address, mail, Activation::CreateIfMissing).map_err(|error| match error {
            trunkline_actors::Refused::Full | trunkline_actors::Refused::Crowded => Refused::Full,
            trunkline_actors::Refused::Stopped | trunkline_actors::Refused::Closing => Refused::Stopped,
            trunkline_actors::Refused::NotOwner => Refused::Unroutable,
        })
    }
}
