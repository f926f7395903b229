//! Which console sessions the agents of this node have. A console renews its sessions every 10 s. A session of which
//! nothing was heard for 30 s is detached, and so is one whose console node has left the cluster or lives another life:
//! the death of a console node leaves nobody signed in for ever, and nobody's phone ringing at an empty desk.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use trunkline_acd_core::agent::{Attached, Console, DetachReason};
use trunkline_cluster::Placement;
use trunkline_types::{EntityAddress, NodeId};

/// How long sessions live.
#[derive(Debug, Clone, Copy)]
pub struct SessionTimes {
    /// Detached this long after the last sign of life.
    pub life: Duration,
    /// How often expired sessions are looked for. A console that was no member for two looks in a row is lost.
    pub sweep: Duration,
}

impl Default for SessionTimes {
    /// 30 s and 1 s.
    fn default() -> Self {
        Self { life: Duration::from_secs(30), sweep: Duration::from_secs(1) }
    }
}

/// An agent and one of its sessions.
type Key = (EntityAddress, String);

#[derive(Debug, Clone)]
struct Life {
    console: Console,
    seen: Instant,
    lost: bool,
}

/// A session that is over, for its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    pub session: String,
    pub console: Console,
    pub reason: DetachReason,
}

#[derive(Default)]
struct Inner {
    lives: Mutex<HashMap<Key, Life>>,
    /// Consoles that were missing at the last look.
    missing: Mutex<BTreeMap<Console, Instant>>,
    /// There is something to detach now.
    lost: Notify,
}

#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Inner>);

impl Sessions {
    /// A sign of life of a session that is attached at `console`.
    pub fn touch(&self, agent: &EntityAddress, session: &str, console: &Console) {
        let mut lives = self.0.lives.lock();
        if let Some(life) = lives.get_mut(&(agent.clone(), session.to_owned()))
            && life.console.is(console)
        {
            life.seen = Instant::now();
        }
    }

    /// The sessions of an agent that became active here, or that changed. What is known and unchanged keeps its time.
    pub fn set(&self, agent: &EntityAddress, before: &[Attached], attached: &[Attached]) {
        if before == attached {
            return;
        }
        let mut lives = self.0.lives.lock();
        for gone in before.iter().filter(|b| attached.iter().all(|a| a.session != b.session)) {
            lives.remove(&(agent.clone(), gone.session.0.clone()));
        }
        for now in attached {
            let key = (agent.clone(), now.session.0.clone());
            let known = lives.get(&key).is_some_and(|life| life.console == now.console && !life.lost);
            if !known {
                lives.insert(key, Life { console: now.console.clone(), seen: Instant::now(), lost: false });
            }
        }
    }

    /// A console node has left the cluster, or began another life.
    pub fn console_lost(&self, node: &NodeId, current: Option<u64>) -> usize {
        let mut count = 0;
        for life in self.0.lives.lock().values_mut().filter(|life| life.console.node == *node) {
            // Of the life that is there now; one that did not tell its life is looked at by its signs of life.
            let lives =
                current.is_some_and(|now| life.console.incarnation == now || life.console.incarnation == 0);
            if !lives && !life.lost {
                life.lost = true;
                count += 1;
            }
        }
        if count > 0 {
            self.0.lost.notify_one();
        }
        count
    }

    /// Returns when there are sessions of lost consoles.
    pub async fn losses(&self) {
        self.0.lost.notified().await;
    }

    /// Looks for consoles that are no members any more: lost when they were missing at two looks in a row. When all of
    /// several consoles are missing at once it is the view of the cluster that is wrong, and signs of life decide.
    pub fn look(&self, placement: &dyn Placement, now: Instant, least: Duration) {
        let consoles: std::collections::BTreeSet<Console> =
            self.0.lives.lock().values().map(|life| life.console.clone()).collect();
        let current = |console: &Console| placement.node(&console.node).map(|n| n.identity.incarnation.0);
        let is_missing = |console: &&Console| match current(console) {
            None => true,
            Some(life) => console.incarnation != 0 && console.incarnation != life,
        };
        let missing: Vec<&Console> = consoles.iter().filter(is_missing).collect();
        let mut before = self.0.missing.lock();
        if missing.len() > 1
            && missing.iter().all(|console| current(console).is_none())
            && missing.len() == consoles.len()
        {
            before.clear();
            return;
        }
        before.retain(|console, _| missing.contains(&console));
        let mut lost = Vec::new();
        for console in missing {
            let since = *before.entry(console.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= least {
                lost.push(console.clone());
            }
        }
        drop(before);
        for console in lost {
            let count = self.console_lost(&console.node, current(&console));
            if count > 0 {
                tracing::info!(%console, sessions = count, "a console is gone; its sessions are detached");
            }
        }
    }

    /// Tells `detach` of each session that has shown no life or whose console is lost. When that could not be delivered
    /// now (`false`) the session stays and is told again at the next sweep.
    pub fn expire(&self, now: Instant, life: Duration, mut detach: impl FnMut(&EntityAddress, Over) -> bool) {
        let dead: Vec<(Key, Life)> = {
            let lives = self.0.lives.lock();
            let over = |seen: &Life| seen.lost || now.saturating_duration_since(seen.seen) > life;
            lives.iter().filter(|(_, seen)| over(seen)).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for (key, seen) in dead {
            let reason = if seen.lost { DetachReason::ConsoleLost } else { DetachReason::Silent };
            let over = Over { session: key.1.clone(), console: seen.console.clone(), reason };
            if detach(&key.0, over) {
                let mut lives = self.0.lives.lock();
                // It may have shown life meanwhile; then its console attaches it again.
                if lives.get(&key).is_some_and(|now| now.seen == seen.seen && now.console == seen.console) {
                    lives.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_acd_core::SessionId;

    use super::*;

    fn alice() -> EntityAddress {
        EntityAddress::agent(&"default".parse().unwrap(), &"alice".parse().unwrap())
    }

    fn at(session: &str, node: &str, incarnation: u64) -> Attached {
        let console = Console { node: node.parse().unwrap(), incarnation };
        Attached { session: SessionId(session.to_owned()), console, connection: 1 }
    }

    fn told(sessions: &Sessions, now: Instant, taken: bool) -> Vec<(String, DetachReason)> {
        let mut told = Vec::new();
        sessions.expire(now, Duration::from_secs(30), |to, over| {
            assert_eq!(*to, alice());
            told.push((over.session, over.reason));
            taken
        });
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    }

    #[test]
    fn a_silent_session_is_detached_once_and_only_when_its_agent_takes_it() {
        let sessions = Sessions::default();
        let (one, two) = (at("one", "c1", 1), at("two", "c1", 1));
        sessions.set(&alice(), &[], &[one.clone(), two.clone()]);
        assert_eq!(told(&sessions, Instant::now() + Duration::from_secs(29), true), []);
        sessions.set(&alice(), &[one.clone(), two], &[one]);
        let late = Instant::now() + Duration::from_secs(31);
        let silent = [("one".to_owned(), DetachReason::Silent)];
        assert_eq!(told(&sessions, late, false), silent, "its agent has no room for the message");
        assert_eq!(told(&sessions, late, true), silent, "told again");
        assert_eq!(told(&sessions, late, true), []);
    }

    #[test]
    fn a_lost_console_takes_its_sessions_with_it_and_no_others() {
        let sessions = Sessions::default();
        let all = [at("a", "c1", 1), at("b", "c1", 2), at("c", "c2", 1), at("d", "c1", 0)];
        sessions.set(&alice(), &[], &all);
        assert_eq!(sessions.console_lost(&"c1".parse().unwrap(), Some(2)), 1);
        let lost = |name: &str| (name.to_owned(), DetachReason::ConsoleLost);
        assert_eq!(told(&sessions, Instant::now(), true), [lost("a")], "of its former life");
        assert_eq!(sessions.console_lost(&"c1".parse().unwrap(), None), 2);
        assert_eq!(told(&sessions, Instant::now(), true), [lost("b"), lost("d")]);
        // A session that comes back elsewhere is not touched by what was said of its former console.
        sessions.console_lost(&"c2".parse().unwrap(), None);
        sessions.set(&alice(), &all, &[at("c", "c3", 1)]);
        assert_eq!(told(&sessions, Instant::now(), true), []);
    }
}
