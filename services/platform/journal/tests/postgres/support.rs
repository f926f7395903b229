use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use trunkline_journal::{
    PostgresJournal, PostgresOptions,
    testing::{Postgres, PostgresSetup},
};

/// Where those tests meet that leave the server alone; the last one that leaves ends it.
static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A server of its own, for a test that hurts it.
pub fn server() -> Postgres {
    let setup = PostgresSetup { durable: false, ..PostgresSetup::default() };
    Postgres::start_with(setup).unwrap_or_else(|error| panic!("{error}"))
}

/// An empty database on the shared server, which runs as long as somebody has it.
pub fn database() -> (Arc<Postgres>, String) {
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let server = shared.upgrade().unwrap_or_else(|| Arc::new(server()));
    *shared = Arc::downgrade(&server);
    let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let url = server.create_database(&name).unwrap_or_else(|error| panic!("{error}"));
    (server, url)
}

pub fn options(url: &str) -> PostgresOptions {
    PostgresOptions::new(url, "test").unwrap()
}

pub async fn open(url: &str) -> PostgresJournal {
    PostgresJournal::open(options(url)).await.unwrap()
}

pub async fn raw(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .unwrap_or_else(|_| panic!("waited for: {what}"));
}
