use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use actix::{Message, Recipient};
use prometheus_client::metrics::gauge::Gauge;

/// Why a message was not taken. Nothing of it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// The entity has as much to do as it may have waiting.
    #[error("the entity's queue is full")]
    Full,
    /// The actor has ended; its host may start it again.
    #[error("the actor has ended")]
    Stopped,
    /// This node may not act on the entity's shard: ask the placement where to send.
    #[error("the entity lives on another node")]
    NotOwner,
    /// The host is shutting down.
    #[error("shutting down")]
    Closing,
    /// The host has as many entities as it may have.
    #[error("too many entities")]
    Crowded,
}

impl Refused {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Stopped => "stopped",
            Self::NotOwner => "not_owner",
            Self::Closing => "closing",
            Self::Crowded => "crowded",
        }
    }
}

/// The permits of one actor.
#[derive(Debug)]
pub(crate) struct Admission {
    used: AtomicU32,
    limit: u32,
    /// Permits in use of all actors of the kind.
    depth: Gauge,
}

impl Admission {
    pub(crate) fn new(limit: u32, depth: Gauge) -> Arc<Self> {
        Arc::new(Self { used: AtomicU32::new(0), limit, depth })
    }

    /// One permit, if there is one left.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let take = |used: u32| (used < self.limit).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        self.depth.inc();
        Some(Permit(Arc::clone(self)))
    }

    /// Whether nothing is waiting or under way.
    pub(crate) fn idle(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }
}

/// Held by a message from its admission until the decisions it led to are committed.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Admission>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::AcqRel);
        self.0.depth.dec();
    }
}

/// A message with its permit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Admitted<M> {
    pub(crate) message: M,
    pub(crate) permit: Permit,
}

/// Sends to one actor, within its permits. It does not keep up with re-activations: after [`Refused::Stopped`] deliver
/// through the host.
pub struct Handle<M: Send + 'static> {
    recipient: Recipient<Admitted<M>>,
    admission: Arc<Admission>,
}

impl<M: Send + 'static> Handle<M> {
    pub(crate) fn new(recipient: Recipient<Admitted<M>>, admission: Arc<Admission>) -> Self {
        Self { recipient, admission }
    }

    /// Puts a message into the actor's mailbox.
    ///
    /// # Errors
    /// [`Refused::Full`] when its permits are used up, [`Refused::Stopped`] when it has ended.
    pub fn try_send(&self, message: M) -> Result<(), Refused> {
        if !self.recipient.connected() {
            return Err(Refused::Stopped);
        }
        let permit = self.admission.admit().ok_or(Refused::Full)?;
        // The permit is the bound; `do_send` is what never blocks and has no capacity of its own.
        #[allow(clippy::disallowed_methods)]
        self.recipient.do_send(Admitted { message, permit });
        Ok(())
    }
}

impl<M: Send + 'static> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { recipient: self.recipient.clone(), admission: Arc::clone(&self.admission) }
    }
}

impl<M: Send + 'static> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("admission", &self.admission).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_and_come_back() {
        let depth = Gauge::default();
        let admission = Admission::new(2, depth.clone());
        let (a, b) = (admission.admit(), admission.admit());
        assert!(a.is_some() && b.is_some() && admission.admit().is_none());
        assert_eq!(depth.get(), 2);
        drop(a);
        assert!(!admission.idle() && admission.admit().is_some());
        drop(b);
        assert!(admission.idle());
        assert_eq!(depth.get(), 0);
    }
}
