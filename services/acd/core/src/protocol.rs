//! The times of the reservation protocol, and (for the simulator only) which of its rules are left out.

use std::time::Duration;

/// How long an agent holds the slot for a queue that has not committed yet.
pub const HOLD: Duration = Duration::from_secs(2);
/// How long a queue waits for the answer to a reservation before it abandons it. Below [`HOLD`], so that a grant that
/// the queue still believes is a hold that still lives, but for the commit's own way.
pub const RESERVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an agent that did not answer a reservation is left alone.
pub const UNRESPONSIVE_PAUSE: Duration = Duration::from_secs(2);
/// How long a queue believes that an agent is available. A wrong belief (a lost "unavailable") ends then at the latest,
/// and costs a refused reservation before.
pub const AVAILABLE_VALIDITY: Duration = Duration::from_secs(60);
/// How often an available agent announces itself anew: a queue that missed an announcement learns it within this.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(20);
/// First and longest pause before something unanswered is sent again.
pub const RESEND_FIRST: Duration = Duration::from_millis(250);
/// See [`RESEND_FIRST`].
pub const RESEND_MOST: Duration = Duration::from_secs(2);
/// How often a queue asks again about an offer that the agent has accepted.
pub const OFFER_CHECK_EVERY: Duration = Duration::from_secs(10);
/// A waiting call that has said nothing for this long is asked whether it still waits. Longer than the period in which calls
/// ask for their places.
pub const CALL_CHECK_EVERY: Duration = Duration::from_secs(60);
/// How often it asks again when there was no answer.
pub const CALL_CHECK_AGAIN: Duration = Duration::from_secs(5);
/// How long a queue goes on telling a call that it is released.
pub const RELEASE_FOR: Duration = Duration::from_secs(120);
/// How far back the time of a caller who comes back may lie; an older one is taken for a wrong clock.
pub const RETURNS_WITHIN: Duration = Duration::from_secs(24 * 3_600);
/// How long after its recovery a queue asks those of its agents again who have not announced themselves.
pub const ASK_AGENTS_AGAIN: Duration = Duration::from_secs(2);
/// How long an agent waits for the call's answer to `Connect` before it gives up (and waits for the answer to that).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an agent in conversation asks the call whether it goes on.
pub const TALK_CHECK_EVERY: Duration = Duration::from_secs(30);
/// How often it asks again when there was no answer.
pub const TALK_CHECK_AGAIN: Duration = Duration::from_secs(5);
/// How long it rings on without any console attached (a page that is being reloaded comes back within this).
pub const RING_ALONE: Duration = Duration::from_secs(5);
/// How long ended offers and departed calls are remembered to recognise late duplicates. No message lives longer than
/// a quarter of it: requests carry deadlines of at most 30 s.
pub const REMEMBER: Duration = Duration::from_secs(120);

/// From where what is numbered within an epoch (offers, announcements, requests, views) counts after a recovery: above
/// everything that a former activation of the same epoch can have used. There is one when an entity is rebuilt because
/// the journal left open whether it had taken an append. Within an epoch the clock is that of one process, and nothing is
/// numbered more than once a microsecond.
pub(crate) fn counts_from(now: trunkline_types::Timestamp) -> u64 {
    u64::try_from(now.as_micros()).unwrap_or(0)
}

/// Which rules of the protocol are in force: all, unless the simulator leaves one out (feature `mutations`).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Protocol {
    #[cfg(feature = "mutations")]
    pub(crate) mutations: Mutations,
}

/// Rules to leave out; only for the simulator's proof that it would notice.
#[cfg(feature = "mutations")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mutations {
    /// The agent takes reservations and commits of any epoch.
    pub no_epoch_check: bool,
    /// The agent forgets which offers are over.
    pub no_tombstones: bool,
    /// The queue offers a call to somebody else when the answer to the commit is late.
    pub reoffer_after_commit: bool,
}

#[cfg(feature = "mutations")]
impl Protocol {
    pub(crate) fn checks_epochs(self) -> bool {
        !self.mutations.no_epoch_check
    }

    pub(crate) fn keeps_tombstones(self) -> bool {
        !self.mutations.no_tombstones
    }

    pub(crate) fn reoffers_after_commit(self) -> bool {
        self.mutations.reoffer_after_commit
    }
}

#[cfg(not(feature = "mutations"))]
impl Protocol {
    pub(crate) fn checks_epochs(self) -> bool {
        true
    }

    pub(crate) fn keeps_tombstones(self) -> bool {
        true
    }

    pub(crate) fn reoffers_after_commit(self) -> bool {
        false
    }
}
