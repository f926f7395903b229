//! Which tenant a call belongs to: media nodes know calls only, an address needs both.
//!
//! Calls are remembered for as long as anything is told to them or of them, and a while longer. Two generations: forgetting
//! costs nothing per use.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trunkline_types::CallId;

/// A generation is full.
const MOST: usize = 100_000;
/// What happened on a session that is gone is told for ten minutes (recordings, longer, but they know their tenant).
const LEAST: Duration = Duration::from_secs(15 * 60);

type Generation = HashMap<CallId, Arc<str>>;

#[derive(Debug)]
pub(super) struct Tenants {
    keep: Duration,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Each name once, however many calls are a tenant's.
    names: HashSet<Arc<str>>,
    young: Generation,
    old: Generation,
    since: Instant,
}

impl Tenants {
    /// `silence`: for how long a session may go on without a command or an event.
    pub(super) fn new(silence: Duration) -> Self {
        Self { keep: LEAST.max(silence), known: Mutex::new(Known::new()) }
    }

    pub(super) fn remember(&self, call: &str, tenant: &str) {
        let Ok(call) = call.parse() else { return };
        let mut known = self.known.lock();
        if known.find(call).is_none_or(|found| *found != *tenant) {
            known.put(call, tenant, self.keep);
        }
    }

    pub(super) fn of(&self, call: &str) -> Option<Arc<str>> {
        let call = call.parse().ok()?;
        self.known.lock().find(call)
    }
}

impl Known {
    fn new() -> Self {
        Self {
            names: HashSet::new(),
            young: Generation::new(),
            old: Generation::new(),
            since: Instant::now(),
        }
    }

    /// Who is asked for stays.
    fn find(&mut self, call: CallId) -> Option<Arc<str>> {
        if let Some(found) = self.young.get(&call) {
            return Some(found.clone());
        }
        let found = self.old.remove(&call)?;
        self.young.insert(call, found.clone());
        Some(found)
    }

    fn put(&mut self, call: CallId, tenant: &str, keep: Duration) {
        if self.young.len() >= MOST || self.since.elapsed() >= keep {
            self.old = mem::take(&mut self.young);
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.since = Instant::now();
        }
        let name = match self.names.get(tenant) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = tenant.into();
                self.names.insert(name.clone());
                name
            }
        };
        self.young.insert(call, name);
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{ShardId, Timestamp};

    use super::*;

    fn call(n: usize) -> String {
        let shard = ShardId::new(7).unwrap();
        CallId::mint(shard, Timestamp::from_millis(1_000), n as u128).to_string()
    }

    #[test]
    fn who_is_not_spoken_of_is_forgotten_after_two_generations() {
        let tenants = Tenants::new(Duration::ZERO);
        tenants.remember("no call", "default");
        assert_eq!(tenants.of("no call"), None);
        tenants.remember(&call(0), "default");
        tenants.remember(&call(1), "other");
        for n in 2..=2 * MOST {
            tenants.remember(&call(n), "default");
            if n % MOST == MOST / 2 {
                assert_eq!(tenants.of(&call(1)).as_deref(), Some("other"), "it is spoken of");
            }
        }
        assert_eq!(tenants.of(&call(0)), None);
        assert_eq!(tenants.of(&call(1)).as_deref(), Some("other"));
        assert_eq!(tenants.of(&call(2 * MOST)).as_deref(), Some("default"));
        let known = tenants.known.lock();
        assert!(known.young.len() <= MOST && known.old.len() <= MOST);
        assert_eq!(known.names.len(), 2, "one for each tenant that has calls");
    }
}
