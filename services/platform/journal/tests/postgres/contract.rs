use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use trunkline_journal::{
    Journal, PostgresJournal,
    contract::{self as suite, Fault, Harness},
    testing::Postgres,
};

use super::support::{database, open};

#[derive(Default)]
struct Databases(Mutex<Option<(Arc<Postgres>, String, PostgresJournal)>>);

#[async_trait]
impl Harness for Databases {
    async fn fresh(&self) -> Arc<dyn Journal> {
        let (server, url) = database();
        let journal = open(&url).await;
        *self.0.lock().await = Some((server, url, journal.clone()));
        Arc::new(journal)
    }

    async fn reopen(&self, journal: Arc<dyn Journal>) -> Arc<dyn Journal> {
        journal.close().await;
        let mut held = self.0.lock().await;
        let (_, url, held) = held.as_mut().unwrap();
        *held = open(url).await;
        Arc::new(held.clone())
    }

    async fn inject(&self, _: &Arc<dyn Journal>, fault: Fault) {
        self.0.lock().await.as_ref().unwrap().2.inject(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_keeps_the_contract() {
    suite::all(&Databases::default()).await;
}
