//! What every placement promises, on the embedded one and on etcd: the same steps through the same trait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::Semaphore;
use trunkline_cluster::{
    ClusterError, ClusterMetrics, EmbeddedPlacement, EtcdPlacement, Incarnation, Loads, NodeInfo, NodeSpec,
    Placement, Probe, ReleasePeer, Role, ShardHost, mint_call, testing::Etcd,
};
use trunkline_types::{Epoch, ShardGroup, ShardId, Timestamp};

use crate::nodes::{World, config, id, until};

/// A host that opens only when it is let.
struct Gate(Semaphore);

#[async_trait]
impl ShardHost for Gate {
    async fn open(&self, _: &[ShardId]) -> Result<(), String> {
        self.0.acquire().await.map_err(|error| error.to_string())?.forget();
        Ok(())
    }
    async fn close(&self, _: &[ShardId], _: Duration) {}
}

struct Nobody;

#[async_trait]
impl ReleasePeer for Nobody {
    async fn release(&self, _: &NodeInfo, _: &[ShardId], _: Duration) {}
}

#[async_trait]
impl Probe for Nobody {
    async fn reachable(&self, _: &NodeInfo, _: Duration) -> bool {
        false
    }
}

/// A life of the only node `n1`, its shards sealed and its host waiting at the gate.
struct Life {
    placement: Arc<dyn Placement>,
    gate: Arc<Gate>,
    etcd: Option<Arc<EtcdPlacement>>,
    embedded: Option<Arc<EmbeddedPlacement>>,
}

impl Life {
    async fn start(world: &Arc<World>, etcd: Option<&Etcd>, incarnation: u64) -> Self {
        let gate = Arc::new(Gate(Semaphore::new(0)));
        if let Some(etcd) = etcd {
            let spec = NodeSpec {
                id: id(1),
                roles: Role::ALL.into(),
                zone: None,
                version: "1".to_owned(),
                address: "127.0.0.1:1".to_owned(),
                public: [].into(),
            };
            let metrics = ClusterMetrics::new();
            let made =
                EtcdPlacement::start(&config(etcd), spec, world.journal.clone(), metrics).await.unwrap();
            made.join(gate.clone(), Arc::new(Nobody), Arc::new(Nobody)).await.unwrap();
            return Self { placement: made.clone(), gate, etcd: Some(made), embedded: None };
        }
        let made =
            EmbeddedPlacement::connect(&*world.journal, id(1), Incarnation(incarnation)).await.unwrap();
        let made = Arc::new(made);
        let (joining, host) = (made.clone(), gate.clone());
        tokio::spawn(async move { joining.join(&*host).await });
        Self { placement: made.clone(), gate, etcd: None, embedded: Some(made) }
    }

    async fn set_drain(&self, drain: bool) {
        if let Some(placement) = &self.etcd {
            placement.set_drain(&id(1), drain).await.unwrap();
        }
        if let Some(placement) = &self.embedded {
            placement.set_drain(drain);
        }
    }
}

async fn contract(etcd: Option<Etcd>) {
    let world = World::new().await;
    let life = Life::start(&world, etcd.as_ref(), 1).await;
    let placement = &*life.placement;
    let any = ShardId::new(2_000).unwrap();

    // Sealed, and not rebuilt: recovered entities may act, nothing else may.
    until("all is opening", || ShardId::all().all(|shard| placement.opening(shard).is_some())).await;
    assert_eq!(
        (placement.held(any), placement.sealed(any), placement.held_shards().len()),
        (None, Some(Epoch(1)), 0)
    );
    assert!(placement.owner(any).is_some_and(|owner| owner.is(&placement.local()) && !owner.active));
    assert!(!placement.placeable(any));
    let loads = Loads::new(2);
    assert!(mint_call(placement, &loads, Timestamp::ZERO, 1).is_ok(), "a call waits for the one that opens");

    // Open: held, active, the same for every reader.
    let mut changes = placement.changes();
    changes.mark_unchanged();
    life.gate.0.add_permits(100);
    until("all is held", || placement.held_shards().len() == 4_096).await;
    assert!(changes.has_changed().unwrap());
    until("and open for calls", || ShardGroup::Call.shards().all(|shard| placement.placeable(shard))).await;
    for shard in ShardId::all() {
        let owner = placement.owner(shard).unwrap();
        assert_eq!((owner.epoch, owner.active, placement.opening(shard)), (Epoch(1), true, None));
    }
    let local = placement.local();
    let me = placement.node(&local.id).unwrap();
    assert!(
        me.identity == local
            && Role::ALL.into_iter().all(|role| me.has(role))
            && placement.nodes().len() == 1
    );
    assert!(placement.node(&id(9)).is_none());

    // Draining: no new calls, and nothing else changes.
    life.set_drain(true).await;
    until("it drains", || placement.draining()).await;
    until("no shard is open for calls", || !placement.placeable(any)).await;
    assert!(matches!(mint_call(placement, &loads, Timestamp::ZERO, 1), Err(ClusterError::NoShard)));
    assert_eq!(placement.held_shards().len(), 4_096);
    life.set_drain(false).await;
    until("it does not", || !placement.draining() && placement.placeable(any)).await;

    // Fencing: our own epoch and older ones say nothing; a higher one ends it at once.
    placement.fenced(any, Epoch(1));
    assert_eq!(placement.held(any), Some(Epoch(1)));
    let seed = 5;
    println!("seed {seed}");
    let shard = ShardId::new(StdRng::seed_from_u64(seed).random_range(0..4_096)).unwrap();
    let stolen = world.journal.seal(&[shard], "thief").await.unwrap()[0].1;
    changes.mark_unchanged();
    placement.fenced(shard, stolen);
    assert_eq!((placement.held(shard), placement.sealed(shard)), (None, None));
    assert!(changes.has_changed().unwrap());

    // The next life has other epochs, and a higher incarnation.
    drop(life);
    let next = Life::start(&world, etcd.as_ref(), 2).await;
    next.gate.0.add_permits(1_000);
    until("the next life has all", || next.placement.held_shards().len() == 4_096).await;
    assert!(next.placement.local().incarnation > local.incarnation);
    assert!(ShardId::all().all(|shard| next.placement.held(shard) > Some(Epoch(1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_placement_keeps_the_contract() {
    contract(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    contract(Some(Etcd::start(3).await)).await;
}
