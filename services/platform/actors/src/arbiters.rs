use std::{
    fmt, io,
    sync::{Arc, mpsc},
    thread,
};

use actix::{Arbiter, System};
use actix_rt::ArbiterHandle;
use parking_lot::Mutex;
use trunkline_types::ShardId;

/// Why the arbiters could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// There must be 1 to 256.
    #[error("arbiters: {0} asked for, 1 to 256 are possible")]
    Count(usize),
    /// A thread could not be started.
    #[error("arbiter thread: {0}")]
    Thread(#[from] io::Error),
    /// A thread ended by a panic, or before it said that it runs.
    #[error("an arbiter thread ended unexpectedly")]
    Ended,
}

/// The threads on which actors run: an actix system on one, and arbiters on one each. Cheap to clone.
#[derive(Clone)]
pub struct Arbiters(Arc<Inner>);

struct Inner {
    handles: Vec<ArbiterHandle>,
    system: System,
    thread: Mutex<Option<thread::JoinHandle<io::Result<()>>>>,
}

impl fmt::Debug for Arbiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiters").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Arbiters {
    /// Starts `count` arbiters.
    ///
    /// # Errors
    /// When `count` is out of bounds or a thread cannot be started.
    pub fn start(count: usize) -> Result<Self, ArbiterError> {
        if !(1..=256).contains(&count) {
            return Err(ArbiterError::Count(count));
        }
        let (started, handles) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("actors".to_owned()).spawn(move || {
            let runner = System::new();
            let arbiters: io::Result<Vec<Arbiter>> = (0..count).map(|_| Arbiter::try_new()).collect();
            let arbiters = arbiters?;
            let handles: Vec<ArbiterHandle> = arbiters.iter().map(Arbiter::handle).collect();
            if started.send((handles, System::current())).is_err() {
                return Ok(());
            }
            let result = runner.run();
            for arbiter in arbiters {
                arbiter.stop();
                if arbiter.join().is_err() {
                    tracing::error!("an arbiter ended by a panic");
                }
            }
            result
        })?;
        match handles.recv() {
            Ok((handles, system)) => {
                Ok(Self(Arc::new(Inner { handles, system, thread: Mutex::new(Some(thread)) })))
            }
            Err(_) => Err(thread.join().map_or(ArbiterError::Ended, |result| match result {
                Err(error) => ArbiterError::Thread(error),
                Ok(()) => ArbiterError::Ended,
            })),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.handles.len()
    }

    /// The arbiter to which a shard is pinned.
    pub(crate) fn of(&self, shard: ShardId) -> &ArbiterHandle {
        &self.0.handles[usize::from(shard.index()) % self.0.handles.len()]
    }

    /// Stops all of them and waits until their threads have ended; actors that still run are dropped. Hosts are shut down
    /// before. The second call does nothing.
    ///
    /// # Errors
    /// When a thread ended by a panic.
    pub async fn shutdown(&self) -> Result<(), ArbiterError> {
        let Some(thread) = self.0.thread.lock().take() else { return Ok(()) };
        self.0.system.stop();
        let joined =
            tokio::task::spawn_blocking(move || thread.join()).await.map_err(|_| ArbiterError::Ended)?;
        joined.map_err(|_| ArbiterError::Ended)?.map_err(ArbiterError::Thread)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.system.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shards_are_pinned_to_threads_and_threads_end() {
        let arbiters = Arbiters::start(3).unwrap();
        let name = |shard: u16| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            assert!(arbiters.of(ShardId::new(shard).unwrap()).spawn_fn(move || {
                let _ = sender.send(thread::current().id());
            }));
            receiver
        };
        let ids =
            [name(0).await.unwrap(), name(3).await.unwrap(), name(1).await.unwrap(), name(2).await.unwrap()];
        assert_eq!(ids[0], ids[1]);
        assert!(ids[0] != ids[2] && ids[2] != ids[3] && ids[0] != ids[3]);
        arbiters.shutdown().await.unwrap();
        arbiters.shutdown().await.unwrap();
        assert!(!arbiters.of(ShardId::new(0).unwrap()).spawn_fn(|| {}));
    }

    #[test]
    fn nonsensical_counts_are_refused() {
        assert!(matches!(Arbiters::start(0), Err(ArbiterError::Count(0))));
        assert!(matches!(Arbiters::start(257), Err(ArbiterError::Count(257))));
    }
}
