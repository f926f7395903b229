//! What every room stands on: journal, placement, bus, documents, threads, metrics.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use trunkline_actors::{ActorMetrics, Arbiters, now};
use trunkline_cluster::{
    ClusterMetrics, EmbeddedPlacement, EtcdPlacement, Incarnation, NodeSpec, Placement, ShardHost,
};
use trunkline_journal::{Journal, JournalMetrics, SqliteJournal, SqliteOptions};
use trunkline_rpc::{Bus, BusMetrics, Channels, LinkOptions, Peers, Tls, TlsMetrics};
use trunkline_telemetry::{
    Metrics,
    hep::{Hep, HepExporter},
};

use crate::{
    config::{NodeConfig, tls_files},
    documents::{self, Documents},
};

/// A machine's clock that is further off is worth a word.
const CLOCK_TOLERANCE_US: i64 = 1_000_000;

pub(super) struct Ground {
    pub metrics: Metrics,
    pub journal: Arc<dyn Journal>,
    pub placement: Arc<dyn Placement>,
    /// Which kind of placement it is.
    pub seat: Seat,
    pub tls: Option<Tls>,
    pub channels: Channels,
    pub arbiters: Arbiters,
    pub actor_metrics: ActorMetrics,
    pub bus: Bus,
    pub documents: Documents,
    /// Sends captures to their collector, when that is configured.
    pub hep: Option<HepExporter>,
}

impl Ground {
    pub async fn lay(config: &NodeConfig, dir: &Path, metrics: Metrics) -> Result<Self> {
        let journal = open_journal(config, dir, &metrics).await?;
        follow_clock(&*journal).await?;
        if let Some(wanted) = &config.dev {
            documents::dev(&*journal, wanted, config.console.password_cost).await?;
        }
        let documents = Documents::load(journal.clone()).await?;
        let tls = load_tls(config, &metrics)?;
        let seat = take_seat(config, &journal, &metrics).await?;
        let placement = seat.placement();
        let channels = Channels::new(placement.clone(), tls.clone());
        let bus_metrics = metrics.room("rpc", BusMetrics::register);
        let bus = Bus::new(config.node.name.clone(), bus_metrics, now);
        if config.cluster.is_some() {
            bus.join(placement.clone(), tls.clone(), LinkOptions::default());
        }
        let hep = config.hep.as_ref().map(|hep| HepExporter::start(hep, &metrics)).transpose()?;
        Ok(Self {
            hep,
            arbiters: Arbiters::start(config.node.arbiters)?,
            actor_metrics: ActorMetrics::register(&metrics),
            bus,
            placement,
            seat,
            tls,
            channels,
            metrics,
            journal,
            documents,
        })
    }

    /// What captures are handed to.
    pub fn captures(&self) -> Hep {
        self.hep.as_ref().map_or_else(Hep::off, HepExporter::inlet)
    }
}

/// How this node comes by its shards.
#[derive(Clone)]
pub(super) enum Seat {
    /// It is alone and has all.
    Alone(Arc<EmbeddedPlacement>),
    /// It is a member of a cluster.
    Member(Arc<EtcdPlacement>),
}

impl Seat {
    fn placement(&self) -> Arc<dyn Placement> {
        match self {
            Self::Alone(placement) => placement.clone(),
            Self::Member(placement) => placement.clone(),
        }
    }

    /// Takes the shards into use: all that lives in them is rebuilt by `host`. Other nodes are asked through `peers`.
    pub async fn join(&self, host: Arc<dyn ShardHost>, peers: Peers) -> Result<()> {
        match self {
            Self::Alone(placement) => placement.join(&*host).await?,
            Self::Member(placement) => {
                let peers = Arc::new(peers);
                placement.join(host, peers.clone(), peers).await.context("cluster.etcd")?;
            }
        }
        Ok(())
    }

    /// The member, when it is one.
    pub const fn member(&self) -> Option<&Arc<EtcdPlacement>> {
        match self {
            Self::Alone(_) => None,
            Self::Member(placement) => Some(placement),
        }
    }
}

/// From now on this process goes by the journal's clock, as all its nodes do.
async fn follow_clock(journal: &dyn Journal) -> Result<()> {
    let behind_us = trunkline_actors::follow(journal).await.context("journal: its clock")?;
    if behind_us.abs() > CLOCK_TOLERANCE_US {
        tracing::warn!(
            behind_s = behind_us as f64 / 1e6,
            "this machine's clock differs from the journal's, by which calls and queues go: set both by NTP"
        );
    }
    Ok(())
}

async fn take_seat(config: &NodeConfig, journal: &Arc<dyn Journal>, metrics: &Metrics) -> Result<Seat> {
    let Some(cluster) = &config.cluster else {
        // The time of the start: it rises with each.
        let incarnation = Incarnation(now().as_micros().unsigned_abs());
        let placement = EmbeddedPlacement::connect(&**journal, config.node.name.clone(), incarnation).await?;
        return Ok(Seat::Alone(Arc::new(placement)));
    };
    let spec = NodeSpec {
        id: config.node.name.clone(),
        roles: config.node.roles.clone(),
        zone: config.node.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: cluster.advertised(),
        public: config.public_addresses(),
    };
    let metrics = metrics.room("cluster", ClusterMetrics::register);
    let placement = EtcdPlacement::start(cluster, spec, journal.clone(), metrics).await;
    Ok(Seat::Member(placement.context("cluster.etcd")?))
}

fn load_tls(config: &NodeConfig, metrics: &Metrics) -> Result<Option<Tls>> {
    let Some(files) = config.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref()) else {
        return Ok(None);
    };
    let metrics = metrics.room("cluster", TlsMetrics::register);
    Ok(Some(Tls::load(tls_files(files), metrics).context("cluster.tls")?))
}

/// The journal of a node's configuration, for the command line.
pub async fn journal(config: &NodeConfig) -> Result<Arc<dyn Journal>> {
    let dir = config.node.data_dir.clone().unwrap_or_default();
    open_journal(config, &dir, &Metrics::new()).await
}

async fn open_journal(config: &NodeConfig, dir: &Path, metrics: &Metrics) -> Result<Arc<dyn Journal>> {
    let journal_metrics = JournalMetrics::register(metrics);
    if let Some(chosen) = &config.journal {
        let journal = trunkline_journal::open(chosen, config.node.name.as_str(), journal_metrics).await;
        return journal.context("journal");
    }
    let options = if config.temporary { SqliteOptions::temporary()? } else { SqliteOptions::in_dir(dir) };
    Ok(Arc::new(SqliteJournal::open(options.metrics(journal_metrics)).await?))
}
