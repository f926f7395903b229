//! Copies the write-ahead log back into the file. The work is done beside the writer, on a thread and a connection of its
//! own; the writer itself then adds the small rest, which lets the log start from its beginning.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use rusqlite::Connection;

use super::{schema::Target, store::Store};

/// A checkpoint after this many events keeps the write-ahead log at some 10 MB.
const EVENTS: u64 = 4_000;

/// What the writer knows of checkpoints. The thread ends with it.
#[derive(Debug)]
pub(super) struct Checkpoints {
    ask: SyncSender<()>,
    done: Arc<AtomicBool>,
    events: u64,
    running: bool,
}

impl Checkpoints {
    pub(super) fn start(target: Target) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        thread::Builder::new()
            .name("journal-checkpt".to_owned())
            .spawn(move || work(&target, &asked, &told))?;
        Ok(Self { ask, done, events: 0, running: false })
    }

    /// So many events were committed.
    pub(super) fn note(&mut self, events: u64, store: &mut Store) {
        self.events += events;
        if self.running && self.done.load(Ordering::Acquire) {
            self.running = false;
            if let Ok((connection, _)) = store.ready() {
                tell(checkpoint(connection));
            }
        } else if !self.running && self.events >= EVENTS {
            (self.events, self.running) = (0, true);
            self.done.store(false, Ordering::Release);
            // Never full: there is one at a time.
            let _ = self.ask.try_send(());
        }
    }
}

fn work(target: &Target, asked: &Receiver<()>, done: &AtomicBool) {
    let mut connection = None;
    while asked.recv().is_ok() {
        if connection.is_none() {
            connection = target.connect().map_err(|error| tell(Err(error))).ok();
        }
        if let Some(open) = &connection {
            let result = checkpoint(open);
            if result.is_err() {
                connection = None;
            }
            tell(result);
        }
        done.store(true, Ordering::Release);
    }
}

fn checkpoint(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))
}

fn tell(result: Result<(), rusqlite::Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "journal checkpoint failed; the write-ahead log grows until one succeeds");
    }
}
