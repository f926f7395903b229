//! What a host does with many entities at once: lets shards go, and tells all.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use trunkline_types::{EntityAddress, Epoch, ShardId};

use crate::{
    Activation, Behaviour, Host, Refused,
    entity::Close,
    handle::Admitted,
    registry::{Slot, Target},
};

/// At most this long between two looks at what has not ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl<B: Behaviour> Host<B> {
    /// Lets shards go: takes no more messages for them ([`Refused::NotOwner`]), lets each of their entities handle what it
    /// has admitted and commit it, and ends it. False when some had not ended after `patience`: their commits hang; they end
    /// when the journal answers, and the epoch keeps them from doing harm.
    ///
    /// The shards can be acted on again when this node has sealed them at a higher epoch.
    pub async fn release(&self, shards: &[ShardId], patience: Duration) -> bool {
        let inner = &self.0;
        let deadline = Instant::now() + patience;
        let released: HashMap<ShardId, Epoch> = shards
            .iter()
            .map(|shard| (*shard, inner.tenures.release(*shard, inner.placement.sealed(*shard))))
            .collect();
        let ours = |address: &EntityAddress, epoch: Epoch| {
            released.get(&address.shard()).is_some_and(|released| epoch <= *released)
        };
        loop {
            let removed = inner.registry.removed.notified();
            tokio::pin!(removed);
            removed.as_mut().enable();
            let left = inner.registry.collect(|address, slot| ours(address, slot.epoch()));
            if left.is_empty() {
                return true;
            }
            for target in &left {
                target.close();
            }
            let look = (Instant::now() + LOOK_EVERY).min(deadline);
            let addresses: Vec<Arc<EntityAddress>> = left.into_iter().map(|target| target.address).collect();
            loop {
                if timeout_at(look, removed.as_mut()).await.is_err() {
                    break;
                }
                let gone = |address: &Arc<EntityAddress>| {
                    inner
                        .registry
                        .stripe(address)
                        .get(&**address)
                        .is_none_or(|slot| !ours(address, slot.epoch()))
                };
                if addresses.iter().all(gone) {
                    break;
                }
                removed.set(inner.registry.removed.notified());
                removed.as_mut().enable();
            }
            if Instant::now() >= deadline {
                let left = inner.registry.collect(|address, slot| ours(address, slot.epoch()));
                if !left.is_empty() {
                    tracing::warn!(
                        entities = left.len(),
                        shards = shards.len(),
                        "entities have not ended in time"
                    );
                }
                return left.is_empty();
            }
        }
    }

    /// Hands a message to every active entity, and to those that are being started. Gives those that have no permit left:
    /// try them again with [`Host::deliver`] and [`Activation::OnlyExisting`].
    pub fn broadcast(&self, message: impl Fn() -> B::Message) -> Vec<EntityAddress> {
        let mut full = Vec::new();
        for target in self.0.registry.collect(|_, _| true) {
            let Some((actor, admission)) = target.actor else {
                let delivered = self.deliver(&target.address, message(), Activation::OnlyExisting);
                if delivered == Err(Refused::Full) {
                    full.push(EntityAddress::clone(&target.address));
                }
                continue;
            };
            match admission.admit() {
                Some(permit) => {
                    // The permit is the bound, see `Handle`.
                    #[allow(clippy::disallowed_methods)]
                    actor.do_send(Admitted { message: message(), permit });
                }
                None => {
                    self.0.metrics.refuse(Refused::Full.as_str());
                    full.push(EntityAddress::clone(&target.address));
                }
            }
        }
        full
    }
}

impl<B: Behaviour> Target<B> {
    /// Asks an actor to end once what is under way is committed. One that is being started is asked when it is up.
    pub(crate) fn close(&self) {
        if let Some((actor, _)) = &self.actor {
            // At most one for each look and actor.
            #[allow(clippy::disallowed_methods)]
            actor.do_send(Close);
        }
    }
}

impl<B: Behaviour> Slot<B> {
    /// The epoch at which the entity acts, or will.
    pub(crate) fn epoch(&self) -> Epoch {
        match self {
            Self::Starting(starting) => starting.epoch,
            Self::Running { epoch, .. } => *epoch,
        }
    }
}
