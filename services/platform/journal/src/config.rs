use std::{path::PathBuf, sync::Arc};

use serde::Deserialize;
use trunkline_config::{Secret, Span};

use crate::{
    Journal, JournalMetrics, OpenError, PostgresJournal, PostgresOptions, SqliteJournal, SqliteOptions,
};

/// The section `journal` of a node's configuration: where decisions are kept. Exactly one of its keys is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// In PostgreSQL: for any number of nodes.
    pub postgres: Option<PostgresConfig>,
    /// In a file of this machine: for a cluster of one node.
    pub sqlite: Option<SqliteConfig>,
}

/// `journal.postgres`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://USER:PASSWORD@HOST:5432/DATABASE`, with `?sslmode=verify-full&sslrootcert=FILE` beyond a trusted network.
    pub url: Secret,
    /// Connections for reads, seals and documents; three more are held for writing and following. 8 unless told.
    #[serde(default)]
    pub connections: Option<u32>,
    /// How long a decision waits for a server that is away before it is refused. `90s` unless told.
    #[serde(default)]
    pub patience: Option<Span>,
    /// Least time between two commits of a busy node; an idle one commits at once. `1ms` unless told.
    #[serde(default)]
    pub spacing: Option<Span>,
}

/// `journal.sqlite`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The folder of the file; it is made if need be.
    pub dir: PathBuf,
    /// Least time between two commits while it is busy; an idle one commits at once. `1ms` unless told.
    #[serde(default)]
    pub spacing: Option<Span>,
}

impl JournalConfig {
    /// Whether it can be used, without opening anything.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), OpenError> {
        let wrong = |what: &str| Err(OpenError::Config(what.to_owned()));
        match (&self.postgres, &self.sqlite) {
            (None, None) => wrong("no store is given: write postgres: {url: …} or sqlite: {dir: …}"),
            (Some(_), Some(_)) => wrong("postgres and sqlite are given: remove one of them"),
            (Some(postgres), None) => {
                if postgres.connections.is_some_and(|n| !(1..=1_000).contains(&n)) {
                    return wrong("postgres.connections: write a number from 1 to 1000");
                }
                PostgresOptions::new(postgres.url.expose(), "").map(|_| ())
            }
            (None, Some(_)) => Ok(()),
        }
    }
}

/// Opens the journal that is configured. `node` names this node to those who look at the store.
///
/// # Errors
/// When the configuration names no store or two, or the store cannot be opened.
pub async fn open(
    config: &JournalConfig,
    node: &str,
    metrics: JournalMetrics,
) -> Result<Arc<dyn Journal>, OpenError> {
    config.validate()?;
    if let Some(postgres) = &config.postgres {
        let mut options = PostgresOptions::new(postgres.url.expose(), node)?.metrics(metrics);
        if let Some(connections) = postgres.connections {
            options = options.connections(connections);
        }
        if let Some(patience) = postgres.patience {
            options = options.patience(patience.0);
        }
        if let Some(spacing) = postgres.spacing {
            options = options.spacing(spacing.0);
        }
        return Ok(Arc::new(PostgresJournal::open(options).await?));
    }
    let Some(sqlite) = &config.sqlite else { return Err(OpenError::Config("no store is given".to_owned())) };
    let mut options = SqliteOptions::in_dir(&sqlite.dir).metrics(metrics);
    if let Some(spacing) = sqlite.spacing {
        options = options.spacing(spacing.0);
    }
    Ok(Arc::new(SqliteJournal::open(options).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> JournalConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_configuration_names_one_store_and_mistakes_name_their_key() {
        assert!(config(r#"{"postgres": {"url": "postgres://t@h/d", "patience": "30s"}}"#).validate().is_ok());
        assert!(config(r#"{"sqlite": {"dir": "/tmp/x"}}"#).validate().is_ok());
        for (wrong, names) in [
            ("{}", "postgres: {url"),
            (r#"{"postgres": {"url": "postgres://h/d"}, "sqlite": {"dir": "x"}}"#, "remove one"),
            (r#"{"postgres": {"url": "postgres://h/d", "connections": 0}}"#, "postgres.connections"),
            (r#"{"postgres": {"url": "hunter2"}}"#, "postgres.url"),
        ] {
            let error = config(wrong).validate().unwrap_err().to_string();
            assert!(error.contains(names) && !error.contains("hunter2"), "{wrong}: {error}");
        }
        assert!(serde_json::from_str::<JournalConfig>(r#"{"postgres": {"uri": "x"}}"#).is_err());
        let shown = format!("{:?}", config(r#"{"postgres": {"url": "postgres://u:hunter2@h/d"}}"#));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
