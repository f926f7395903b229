//! The way from the command line to a node.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tonic::{Request, transport::Channel};
use trunkline_cluster::ClusterConfig;
use trunkline_config::Loader;
use trunkline_proto::cluster::v1::{GetOverviewRequest, admin_client::AdminClient};
use trunkline_rpc::{Tls, TlsMetrics};

use crate::{cli::NodeAt, config};

/// Where a node listens when nothing says otherwise.
const DEFAULT: &str = "127.0.0.1:7400";
/// A node answers within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to the node that the flags name.
pub async fn reach(at: &NodeAt) -> Result<AdminClient<Channel>> {
    let mut cluster: Option<ClusterConfig> = None;
    if let Some(file) = &at.config {
        let loader = Loader::new().file(file)?.env("TRUNKLINE_", std::env::vars());
        if !loader.has("cluster") {
            bail!("--config {}: it has no `cluster` section; give --node HOST:PORT", file.display());
        }
        cluster = Some(loader.section("cluster")?);
    }
    let address = match (&at.node, &cluster) {
        (Some(node), _) => node.clone(),
        (None, Some(cluster)) => cluster.advertised(),
        (None, None) => DEFAULT.to_owned(),
    };
    let files = cluster.as_ref().and_then(|cluster| cluster.tls.as_ref());
    let tls = files.map(|files| Tls::load(config::tls_files(files), TlsMetrics::default()));
    let tls = tls.transpose().context("cluster.tls")?;
    let channel = trunkline_rpc::dial(&address, tls.clone()).with_context(|| format!("node {address}"))?;
    let mut client = AdminClient::new(channel);
    // It connects with the first request: the error is told here, once.
    if let Err(status) = client.get_overview(request(GetOverviewRequest {})).await {
        let certificates = match tls {
            Some(_) => "",
            None => "; when the cluster uses certificates, give --config with a node's file",
        };
        bail!("node {address} cannot be asked: {} (--node names another{certificates})", status.message());
    }
    Ok(client)
}

/// A request that does not wait for ever.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// What a node said no with.
pub fn refusal(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
