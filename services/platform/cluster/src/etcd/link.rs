//! The way to etcd: one member at a time, the next one when it does not answer, and the one watch over all keys.
//!
//! One member at a time, because a balanced channel keeps on asking members that hang (a stopped process accepts
//! connections and answers nothing). HTTP/2 pings notice those, `require-leader` ends streams at a member that is cut off
//! from its peers, and every request has a deadline.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, Identity, TlsOptions,
    Txn, TxnOp, WatchOptions,
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use trunkline_cluster_core::{Input, Seen};
use trunkline_types::Feature;

use super::{Inputs, keys::Keys};
use crate::{ClusterError, ClusterMetrics, EtcdConfig};

/// A request's deadline.
pub(super) const DEADLINE: Duration = Duration::from_millis(1_500);
/// Pings of the connection, and how long one may take.
const PING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));
/// Between two tries, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The form of the keys that this program reads and writes.
const FORM: &str = r#"{"form":1,"shards":4096}"#;

/// A connection that answered once. The number tells one from the next.
#[derive(Clone)]
pub(super) struct Connection {
    pub number: u64,
    pub client: Client,
}

/// The connection of the moment, for everybody who asks etcd something.
pub(super) struct Link {
    pub keys: Keys,
    options: ConnectOptions,
    endpoints: Vec<String>,
    connection: watch::Sender<Option<Connection>>,
    /// Numbers of connections that somebody found broken.
    broken: watch::Sender<u64>,
    problem: Mutex<Option<String>>,
    pub metrics: ClusterMetrics,
}

impl Link {
    pub fn new(config: &EtcdConfig, keys: Keys, metrics: ClusterMetrics) -> Result<Arc<Self>, ClusterError> {
        Ok(Arc::new(Self {
            keys,
            options: options(config)?,
            endpoints: config.endpoints.clone(),
            connection: watch::Sender::new(None),
            broken: watch::Sender::new(0),
            problem: Mutex::new(Some("etcd has not answered yet".to_owned())),
            metrics,
        }))
    }

    /// The connection of the moment.
    pub fn connection(&self) -> Option<Connection> {
        self.connection.borrow().clone()
    }

    /// To wait for the next one.
    pub fn connections(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.subscribe()
    }

    /// What is wrong, in a sentence.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Somebody got no answer over this connection.
    pub fn is_broken(&self, number: u64) {
        self.broken.send_if_modified(|broken| {
            let news = *broken < number;
            *broken = (*broken).max(number);
            news
        });
    }

    /// Stays connected and tells what changes, until the engine is gone.
    pub async fn run(self: Arc<Self>, inputs: Inputs) {
        let (mut revision, mut number, mut pause, mut told) = (None, 0, PAUSE.0, false);
        for endpoint in self.endpoints.iter().cycle() {
            number += 1;
            let ended = self.session(endpoint, number, &inputs, &mut revision).await;
            let connected = self.connection.send_replace(None).is_some();
            if inputs.is_closed() {
                return;
            }
            if connected {
                inputs.tell(Input::Connected(false)).await;
                (pause, told) = (PAUSE.0, false);
            }
            self.metrics.etcd_connected.set(0);
            if !told {
                tracing::warn!(endpoint, reason = %ended, "etcd does not answer: the last map stays in force");
                told = self.endpoints.len() == 1 || number % self.endpoints.len() as u64 == 0;
            }
            *self.problem.lock() = Some(format!("etcd at {endpoint}: {ended}"));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One connection from its first answer to its end; gives the reason of the end.
    async fn session(
        &self,
        endpoint: &str,
        number: u64,
        inputs: &Inputs,
        revision: &mut Option<u64>,
    ) -> String {
        let connected = timeout(DEADLINE, Client::connect([endpoint], Some(self.options.clone()))).await;
        let mut client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "no connection in time".to_owned(),
        };
        if let Err(reason) = self.open(&mut client, inputs, revision).await {
            return reason;
        }
        let from = revision.unwrap_or(0) + 1;
        let options =
            WatchOptions::new().with_prefix().with_start_revision(from as i64).with_progress_notify();
        let mut stream = match timeout(DEADLINE, client.watch(self.keys.prefix(), Some(options))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return format!("the watch is refused: {error}"),
            Err(_) => return "the watch is not answered".to_owned(),
        };
        let mut broken = self.broken.subscribe();
        self.connection.send_replace(Some(Connection { number, client }));
        self.metrics.etcd_connected.set(1);
        *self.problem.lock() = None;
        tracing::debug!(endpoint, from, "etcd answers");
        inputs.tell(Input::Connected(true)).await;
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = inputs.closed() => return "stopped".to_owned(),
                found = broken.wait_for(|broken| *broken >= number) => {
                    drop(found);
                    return "a request was not answered".to_owned();
                }
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return "the watch has ended".to_owned(),
                Err(error) => return format!("the watch has ended: {error}"),
            };
            if response.compact_revision() != 0 {
                // What lies between was compacted away: everything is read again.
                *revision = None;
                return "the watch was behind the compaction".to_owned();
            }
            if response.canceled() {
                return format!("the watch was cancelled: {}", response.cancel_reason());
            }
            let seen: Vec<Seen> = response
                .events()
                .iter()
                .filter_map(|event| {
                    let pair = event.kv()?;
                    if event.event_type() == EventType::Put {
                        self.keys.read(pair)
                    } else {
                        self.keys.gone(pair.key())
                    }
                })
                .collect();
            let at = response.header().map_or(0, |header| header.revision().unsigned_abs());
            if response.created() && seen.is_empty() {
                continue;
            }
            *revision = (*revision).max(Some(at));
            if !seen.is_empty() {
                inputs.tell(Input::Watched(at, seen)).await;
            }
        }
    }

    /// Finds out that there is a quorum, and reads everything unless the watch can go on where it was.
    async fn open(
        &self,
        client: &mut Client,
        inputs: &Inputs,
        revision: &mut Option<u64>,
    ) -> Result<(), String> {
        let read = async {
            if revision.is_some() {
                return client.get(self.keys.meta(), None).await.map(|_| None);
            }
            let all = client.get(self.keys.prefix(), Some(GetOptions::new().with_prefix())).await?;
            Ok(Some(all))
        };
        let all = match timeout(DEADLINE * 2, read).await {
            Ok(Ok(all)) => all,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer in time (is there a quorum?)".to_owned()),
        };
        let Some(all) = all else { return Ok(()) };
        self.check_form(client, all.kvs().iter().find(|pair| pair.key() == self.keys.meta().as_bytes()))
            .await?;
        let at = all.header().map_or(0, |header| header.revision().unsigned_abs());
        let seen = all.kvs().iter().filter_map(|pair| self.keys.read(pair)).collect();
        inputs.tell(Input::Listed(at, seen)).await;
        *revision = Some(at);
        Ok(())
    }

    async fn check_form(
        &self,
        client: &mut Client,
        found: Option<&etcd_client::KeyValue>,
    ) -> Result<(), String> {
        match found {
            Some(pair) if pair.value() == FORM.as_bytes() => Ok(()),
            Some(pair) => Err(format!(
                "{} says {}, this program knows {FORM}: give the cluster another name, or upgrade this node",
                self.keys.meta(),
                String::from_utf8_lossy(pair.value())
            )),
            None => {
                // Nobody was here before, so nobody has to be able to go back.
                let new = Compare::create_revision(self.keys.meta(), CompareOp::Equal, 0);
                let txn = Txn::new().when([new]).and_then([
                    TxnOp::put(self.keys.meta(), FORM, None),
                    TxnOp::put(self.keys.gate(), Feature::LATEST.to_string(), None),
                ]);
                let put = timeout(DEADLINE, client.txn(txn)).await;
                put.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
                Ok(())
            }
        }
    }
}

pub(super) fn options(config: &EtcdConfig) -> Result<ConnectOptions, ClusterError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(DEADLINE)
        .with_keep_alive(PING.0, PING.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.with_user(user, password.expose()).with_auto_token_refresh(true);
    }
    if let Some(tls) = &config.tls {
        let read = |field: &'static str, path: &std::path::Path| {
            std::fs::read(path).map_err(|error| {
                let problem = format!("cannot read {}: {error}", path.display());
                ClusterError::Config(crate::ConfigError { field, problem })
            })
        };
        let mut made = TlsOptions::new().ca_certificate(Certificate::from_pem(read("etcd.tls.ca", &tls.ca)?));
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            made =
                made.identity(Identity::from_pem(read("etcd.tls.cert", cert)?, read("etcd.tls.key", key)?));
        }
        options = options.with_tls(made);
    }
    Ok(options)
}
