//! Guessing passwords has to be slow: who fails often is not listened to for a while.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use trunkline_types::Timestamp;

/// Failures within [`WINDOW`] before a source, or a user, is not listened to for [`LOCKED`]. An office behind one address
/// has a telephone or two with an old password; a user has one.
const MOST_OF_A_SOURCE: u32 = 30;
const MOST_OF_A_USER: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
const LOCKED: Duration = Duration::from_secs(60);
/// A telephone that was let in is listened to for so long whatever others do in its name or from its address...
const KNOWN: Duration = Duration::from_secs(4 * 3_600);
/// ...unless it fails so often in a row.
const MOST_OF_A_KNOWN: u32 = 5;
const MAX_ENTRIES: usize = 50_000;
/// A full table is gone through at most this often.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Source(IpAddr),
    /// By a hash of realm and name; there is one for every name that was tried.
    User(u64),
    /// A user who was let in from a source.
    Known(IpAddr, u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    /// When it means nothing any more.
    until: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Throttle {
    entries: HashMap<Key, Entry>,
    swept: Timestamp,
}

/// Whoever has one IPv6 address has 2^64 of them.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        ip => ip.to_canonical(),
    }
}

impl Throttle {
    fn live(&self, now: Timestamp, key: Key) -> Option<&Entry> {
        self.entries.get(&key).filter(|entry| entry.until > now)
    }

    /// Whether credentials of this user from here are not to be looked at now.
    pub fn is_locked(&self, now: Timestamp, ip: IpAddr, user: u64) -> bool {
        let ip = source(ip);
        if let Some(known) = self.live(now, Key::Known(ip, user)) {
            return known.failures >= MOST_OF_A_KNOWN;
        }
        let over = |key, most| self.live(now, key).is_some_and(|entry| entry.failures >= most);
        over(Key::Source(ip), MOST_OF_A_SOURCE) || over(Key::User(user), MOST_OF_A_USER)
    }

    pub fn failed(&mut self, now: Timestamp, ip: IpAddr, user: u64) {
        let ip = source(ip);
        let known = Key::Known(ip, user);
        if self.live(now, known).is_some() {
            return self.count(now, known, MOST_OF_A_KNOWN);
        }
        self.count(now, Key::Source(ip), MOST_OF_A_SOURCE);
        self.count(now, Key::User(user), MOST_OF_A_USER);
    }

    pub fn succeeded(&mut self, now: Timestamp, ip: IpAddr, user: u64) {
        self.room(now);
        self.entries.insert(Key::Known(source(ip), user), Entry { failures: 0, until: now.plus(KNOWN) });
    }

    fn count(&mut self, now: Timestamp, key: Key, most: u32) {
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.until > now) {
            entry.failures += 1;
            if entry.failures >= most {
                entry.until = now.plus(LOCKED);
            }
            return;
        }
        self.room(now);
        self.entries.insert(key, Entry { failures: 1, until: now.plus(WINDOW) });
    }

    /// Makes room for one more: what is over goes, else anything.
    fn room(&mut self, now: Timestamp) {
        if self.entries.len() < MAX_ENTRIES {
            return;
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            self.entries.retain(|_, entry| entry.until > now);
        }
        if self.entries.len() >= MAX_ENTRIES
            && let Some(key) = self.entries.keys().next().copied()
        {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn a_user_who_fails_often_waits_and_others_do_not() {
        let mut throttle = Throttle::default();
        for n in 0..MOST_OF_A_USER {
            assert!(!throttle.is_locked(at(0), ip(1), 7), "attempt {n}");
            throttle.failed(at(0), ip(u8::try_from(n).unwrap()), 7);
        }
        assert!(throttle.is_locked(at(0), ip(200), 7), "from anywhere");
        assert!(!throttle.is_locked(at(0), ip(200), 8));
        assert!(throttle.is_locked(at(59), ip(200), 7));
        assert!(!throttle.is_locked(at(60), ip(200), 7), "for a while");
        // Failures far apart are nobody's guessing.
        for n in 0..100 {
            throttle.failed(at(100 + 61 * n), ip(1), 9);
            assert!(!throttle.is_locked(at(100 + 61 * n), ip(1), 9));
        }
    }

    #[test]
    fn a_source_that_tries_many_users_waits() {
        let mut throttle = Throttle::default();
        for user in 0..u64::from(MOST_OF_A_SOURCE) {
            throttle.failed(at(0), ip(1), user);
        }
        assert!(throttle.is_locked(at(1), ip(1), 999) && !throttle.is_locked(at(1), ip(2), 999));
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        for user in 0..u64::from(MOST_OF_A_SOURCE) {
            throttle.failed(at(0), six(&format!("2001:db8::{user}")), 1_000 + user);
        }
        assert!(
            throttle.is_locked(at(1), six("2001:db8::ffff"), 5_000),
            "one customer's addresses are one source"
        );
    }

    #[test]
    fn nobody_locks_a_telephone_out_that_was_let_in() {
        let mut throttle = Throttle::default();
        throttle.succeeded(at(0), ip(1), 7);
        for n in 0..100 {
            throttle.failed(at(1), ip(2), 7);
            throttle.failed(at(1), ip(1), 1_000 + n);
        }
        assert!(throttle.is_locked(at(2), ip(2), 7) && !throttle.is_locked(at(2), ip(1), 7));
        for _ in 0..MOST_OF_A_KNOWN {
            throttle.failed(at(2), ip(1), 7);
        }
        assert!(throttle.is_locked(at(2), ip(1), 7), "its password was changed, or somebody sits beside it");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut throttle = Throttle::default();
        for user in 0..2 * MAX_ENTRIES as u64 {
            throttle.failed(at(0), ip(1), user);
        }
        assert_eq!(throttle.entries.len(), MAX_ENTRIES);
    }
}
