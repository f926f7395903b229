//! What others wait on: how far the journal can be read without a gap, and the newest revision of a document.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, Postgres, Row, pool::PoolConnection, postgres::PgListener};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::read;
use crate::JournalError;

/// Between two looks, however often this node commits.
const LEAST: Duration = Duration::from_millis(5);
/// While this node waits to see its own commit behind somebody else's open transaction.
const CATCHING_UP: Duration = Duration::from_millis(10);
/// While other nodes commit, and while nobody does.
const BUSY: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(250);
/// While nobody waits for it.
const UNWATCHED: Duration = Duration::from_secs(2);
/// Busy = something was committed in this time.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// An own commit that cannot be read for so long is held back by something that somebody should look at.
const HELD_BACK: Duration = Duration::from_secs(5);
/// Notifications of documents may be lost with their connection: they are looked for besides.
const DOCUMENTS: Duration = Duration::from_secs(2);

/// The position up to which the journal can be read, kept by looking.
#[derive(Debug)]
pub(super) struct Committed {
    position: watch::Sender<u64>,
    /// The last position that this node wrote.
    own: AtomicU64,
    look: Notify,
}

impl Committed {
    pub(super) fn new(position: u64) -> Arc<Self> {
        Arc::new(Self { position: watch::Sender::new(position), own: AtomicU64::new(0), look: Notify::new() })
    }

    /// This node has committed something at that position.
    pub(super) fn written(&self, position: u64) {
        self.own.fetch_max(position, Ordering::Relaxed);
        if self.position.receiver_count() > 0 {
            self.look.notify_one();
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.look.notify_one();
        self.position.subscribe()
    }

    /// Looks without end.
    pub(super) async fn follow(self: Arc<Self>, pool: PgPool) {
        let mut changed = Instant::now();
        // An own position that could not be read yet, and since when.
        let mut behind: Option<(u64, Instant)> = None;
        let mut told = false;
        // Kept, so that a look is one round trip.
        let mut connection = None;
        loop {
            match look(&pool, &mut connection).await {
                Ok(position) => {
                    if raise(&self.position, position) {
                        changed = Instant::now();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the journal's position cannot be read");
                    (connection, behind) = (None, None);
                }
            }
            let (seen, own) = (*self.position.borrow(), self.own.load(Ordering::Relaxed));
            behind = behind.filter(|(wanted, _)| *wanted > seen);
            if behind.is_none() && own > seen {
                behind = Some((own, Instant::now()));
            }
            let watched = self.position.receiver_count() > 0;
            let late = watched && behind.is_some_and(|(_, since)| since.elapsed() > HELD_BACK);
            if late && !told {
                tracing::warn!(
                    "another transaction of the database server is open for long and holds back all readers of the \
                     journal (records fall behind, calls do not): see backend_xid in pg_stat_activity"
                );
            }
            told = late;
            sleep(LEAST).await;
            let pause = match () {
                () if !watched => UNWATCHED,
                () if behind.is_some() && !late => CATCHING_UP,
                () if changed.elapsed() < BUSY_FOR || late => BUSY,
                () => IDLE,
            };
            let _ = timeout(pause, self.look.notified()).await;
        }
    }
}

/// Keeps the newest revision of a document, by notification and by looking.
pub(super) async fn follow_documents(pool: PgPool, revision: Arc<watch::Sender<u64>>) {
    loop {
        if let Err(error) = listen(&pool, &revision).await {
            tracing::debug!(%error, "changes of documents are not notified for now");
        }
        sleep(DOCUMENTS).await;
    }
}

async fn look(pool: &PgPool, connection: &mut Option<PoolConnection<Postgres>>) -> Result<u64, JournalError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(pool.acquire().await?),
    };
    read::position(&mut **connection).await
}

/// Raises what is known.
pub(super) fn raise(known: &watch::Sender<u64>, revision: u64) -> bool {
    known.send_if_modified(|known| {
        revision > *known && {
            *known = revision;
            true
        }
    })
}

async fn listen(pool: &PgPool, revision: &watch::Sender<u64>) -> Result<(), JournalError> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("trunkline_documents").await?;
    loop {
        raise(revision, newest(pool).await?);
        match timeout(DOCUMENTS, listener.try_recv()).await {
            // Lost: the listener has connected again, or will with the next call.
            Ok(received) => drop(received?),
            Err(_elapsed) => {}
        }
    }
}

pub(super) async fn newest(pool: &PgPool) -> Result<u64, JournalError> {
    let row =
        sqlx::query("SELECT coalesce(max(revision), 0) FROM trunkline.document").fetch_one(pool).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
}
