//! What happens on this node when it gains or loses shards.

use std::{sync::OnceLock, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use trunkline_acd::Acd;
use trunkline_call::Calls;
use trunkline_cluster::ShardHost;
use trunkline_registrar::Registrar;
use trunkline_rpc::Bus;
use trunkline_types::{ShardGroup, ShardId};

/// The rooms whose entities live in shards. They are made after the placement that calls here: what comes before waits.
pub(super) struct Rooms {
    bus: Bus,
    acd: OnceLock<Acd>,
    registrar: OnceLock<Registrar>,
    calls: OnceLock<Calls>,
    complete: watch::Sender<bool>,
}

impl Rooms {
    pub fn new(bus: Bus) -> Self {
        Self {
            bus,
            acd: OnceLock::new(),
            registrar: OnceLock::new(),
            calls: OnceLock::new(),
            complete: watch::Sender::new(false),
        }
    }

    /// All rooms of the node are there; those that it does not have are `None`.
    pub fn complete(&self, acd: Option<Acd>, registrar: Option<Registrar>, calls: Option<Calls>) {
        acd.map(|acd| self.acd.set(acd));
        registrar.map(|registrar| self.registrar.set(registrar));
        calls.map(|calls| self.calls.set(calls));
        self.complete.send_replace(true);
    }

    /// Brings everything in these shards back; gives how many entities.
    pub async fn recover(&self, shards: &[ShardId]) -> Result<usize, String> {
        // The sender lives as long as this: an error cannot be.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
        let (acd, call) = split(shards);
        let mut entities = 0;
        if let Some(room) = self.acd.get().filter(|_| !acd.is_empty()) {
            entities += room.recover(&acd).await.map_err(|error| error.to_string())?;
        }
        if let Some(room) = self.registrar.get().filter(|_| !acd.is_empty()) {
            entities += room.recover(&acd).await.map_err(|error| error.to_string())?;
        }
        if let Some(room) = self.calls.get().filter(|_| !call.is_empty()) {
            entities += room.recover(&call).await.map_err(|error| error.to_string())?;
        }
        Ok(entities)
    }
}

fn split(shards: &[ShardId]) -> (Vec<ShardId>, Vec<ShardId>) {
    shards.iter().partition(|shard| shard.group() == ShardGroup::Acd)
}

#[async_trait]
impl ShardHost for Rooms {
    async fn open(&self, shards: &[ShardId]) -> Result<(), String> {
        let entities = self.recover(shards).await?;
        if entities > 0 {
            tracing::info!(entities, shards = shards.len(), "went on from the journal");
        }
        Ok(())
    }

    async fn close(&self, shards: &[ShardId], patience: Duration) {
        // First nothing more is let in, then what is in may be committed.
        let empty = self.bus.close_shards(shards, patience).await;
        let (of_acd, call) = split(shards);
        let registrar = async {
            match self.registrar.get() {
                Some(room) if !of_acd.is_empty() => room.release(&of_acd, patience).await,
                _ => true,
            }
        };
        let acd = async {
            match self.acd.get() {
                Some(room) if !of_acd.is_empty() => room.release(&of_acd, patience).await,
                _ => true,
            }
        };
        let calls = async {
            match self.calls.get() {
                Some(room) if !call.is_empty() => room.release(&call, patience).await,
                _ => true,
            }
        };
        let (acd, registrar, calls) = tokio::join!(acd, registrar, calls);
        if !(empty && acd && registrar && calls) {
            tracing::warn!(
                shards = shards.len(),
                "not everything was committed when shards were released; the journal fences the rest"
            );
        }
    }
}
