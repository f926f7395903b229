use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Failures by name that cost nothing.
const FREE_BY_NAME: u32 = 5;
/// Failures by address that cost nothing; offices share one.
const FREE_BY_ADDRESS: u32 = 30;
/// Longest wait between attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// Failures are forgotten this long after the last one.
const FORGET: Duration = Duration::from_secs(900);
/// Names and addresses remembered, each.
const REMEMBERED: usize = 10_000;

/// Slows down guessing of passwords, by name and by address. After some free failures each further one doubles the
/// wait until the next attempt. An attempt counts as failed from its beginning, so that many at once gain nothing; a
/// success takes it back. Names are slowed whether or not they exist.
#[derive(Default)]
pub(super) struct Throttle {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    names: HashMap<String, Failures>,
    addresses: HashMap<IpAddr, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// One sign-in under way.
pub(super) struct Attempt {
    name: String,
    address: IpAddr,
}

impl Throttle {
    /// Lets an attempt begin, or says how long to wait.
    pub(super) fn begin(&self, name: &str, from: IpAddr) -> Result<Attempt, Duration> {
        self.begin_at(Instant::now(), name, from)
    }

    fn begin_at(&self, now: Instant, name: &str, from: IpAddr) -> Result<Attempt, Duration> {
        let attempt = Attempt { name: name.chars().take(128).collect(), address: prefix(from) };
        let mut inner = self.inner.lock();
        let wait = wait(&inner.names, &attempt.name, FREE_BY_NAME, now).max(wait(
            &inner.addresses,
            &attempt.address,
            FREE_BY_ADDRESS,
            now,
        ));
        if !wait.is_zero() {
            return Err(wait);
        }
        count(&mut inner.names, attempt.name.clone(), now);
        count(&mut inner.addresses, attempt.address, now);
        Ok(attempt)
    }

    /// The password was right: the name starts afresh, the address gets its attempt back.
    pub(super) fn succeeded(&self, attempt: Attempt) {
        let mut inner = self.inner.lock();
        inner.names.remove(&attempt.name);
        give_back(&mut inner.addresses, &attempt.address);
    }

    /// Nothing was verified.
    pub(super) fn withdrawn(&self, attempt: Attempt) {
        let mut inner = self.inner.lock();
        give_back(&mut inner.names, &attempt.name);
        give_back(&mut inner.addresses, &attempt.address);
    }
}

/// An IPv6 subscriber has a /64.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

fn wait<K: Eq + Hash>(map: &HashMap<K, Failures>, key: &K, free: u32, now: Instant) -> Duration {
    let Some(failures) = map.get(key) else { return Duration::ZERO };
    let passed = now.saturating_duration_since(failures.last);
    if failures.count < free || passed >= FORGET {
        return Duration::ZERO;
    }
    let doubled = Duration::from_secs(1 << (failures.count - free).min(10));
    doubled.min(LONGEST).saturating_sub(passed)
}

fn count<K: Eq + Hash + Clone>(map: &mut HashMap<K, Failures>, key: K, now: Instant) {
    if map.len() >= REMEMBERED && !map.contains_key(&key) {
        map.retain(|_, failures| now.saturating_duration_since(failures.last) < FORGET);
        if map.len() >= REMEMBERED {
            let oldest = map.iter().min_by_key(|(_, failures)| (failures.count, failures.last));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                map.remove(&oldest);
            }
        }
    }
    let failures = map.entry(key).or_insert(Failures { count: 0, last: now });
    if now.saturating_duration_since(failures.last) >= FORGET {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last = now;
}

fn give_back<K: Eq + Hash>(map: &mut HashMap<K, Failures>, key: &K) {
    if let Some(failures) = map.get_mut(key) {
        failures.count = failures.count.saturating_sub(1);
        if failures.count == 0 {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn waits_double_and_end() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..FREE_BY_NAME {
            assert!(throttle.begin_at(start, "alice", HOME).is_ok());
        }
        assert_eq!(throttle.begin_at(start, "alice", HOME).err(), Some(Duration::from_secs(1)));
        assert!(throttle.begin_at(start, "bob", HOME).is_ok(), "another name is not slowed");
        let second = start + Duration::from_secs(1);
        assert!(throttle.begin_at(second, "alice", HOME).is_ok());
        assert_eq!(throttle.begin_at(second, "alice", HOME).err(), Some(Duration::from_secs(2)));
        assert!(throttle.begin_at(second + FORGET, "alice", HOME).is_ok());
    }

    #[test]
    fn a_success_starts_afresh() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..100 {
            let attempt = throttle.begin_at(now, "alice", HOME).unwrap();
            throttle.succeeded(attempt);
        }
    }

    #[test]
    fn many_names_from_one_address_are_slowed_and_memory_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..FREE_BY_ADDRESS {
            assert!(throttle.begin_at(now, &format!("n{n}"), HOME).is_ok());
        }
        assert!(throttle.begin_at(now, "other", HOME).is_err());
        for n in 0..REMEMBERED as u32 + 50 {
            let _ = throttle.begin_at(now, &format!("m{n}"), IpAddr::V4((0x0a00_0000 + n).into()));
        }
        let inner = throttle.inner.lock();
        assert!(inner.names.len() <= REMEMBERED && inner.addresses.len() <= REMEMBERED);
    }

    #[test]
    fn an_ipv6_subscriber_is_one_address() {
        assert_eq!(
            prefix("2001:db8:1:2:3::4".parse().unwrap()),
            prefix("2001:db8:1:2:ffff::1".parse().unwrap())
        );
        assert_eq!(prefix("::ffff:127.0.0.1".parse().unwrap()), HOME);
    }
}
