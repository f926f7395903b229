//! What happens to packets between two addresses, as scripts for nft.
//!
//! Packets are dropped on the switch, where no host notices: a packet that is dropped on its sender's own way out is
//! reported to the sender. Duplicates are made where they are sent.

use std::{fmt::Write, net::Ipv4Addr};

/// Of a thousand packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// All packets.
    pub const ALL: Self = Self(1_000);

    /// So many of a hundred; more than 100 is 100.
    pub fn percent(percent: u16) -> Self {
        Self(percent.min(100) * 10)
    }
}

/// What happens to the packets of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Sender.
    pub from: Ipv4Addr,
    /// Receiver.
    pub to: Ipv4Addr,
    /// How many are lost.
    pub lost: Share,
    /// How many come twice.
    pub doubled: Share,
}

impl Rule {
    /// Everything is lost.
    pub fn cut(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self { from, to, lost: Share::ALL, doubled: Share(0) }
    }

    /// A bad line.
    pub fn bad(from: Ipv4Addr, to: Ipv4Addr, lost: Share, doubled: Share) -> Self {
        Self { from, to, lost, doubled }
    }
}

/// Rules for both directions between each of one group and each of the other.
pub fn between(one: &[Ipv4Addr], other: &[Ipv4Addr], rule: impl Fn(Ipv4Addr, Ipv4Addr) -> Rule) -> Vec<Rule> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
    pairs.flat_map(|(a, b)| [rule(a, b), rule(b, a)]).collect()
}

/// The switch's script: replaces what it had.
pub(super) fn drops(rules: &[Rule]) -> String {
    let mut text = String::from(
        "add table bridge faults\ndelete table bridge faults\ntable bridge faults {\n chain forward {\n  \
         type filter hook forward priority 0;\n",
    );
    for rule in rules.iter().filter(|rule| rule.lost > Share(0)) {
        let _ = write!(text, "  ip saddr {} ip daddr {} ", rule.from, rule.to);
        match rule.lost {
            Share::ALL => text.push_str("drop\n"),
            Share(lost) => {
                let _ = writeln!(text, "numgen random mod 1000 < {lost} drop");
            }
        }
    }
    text.push_str(" }\n}\n");
    text
}

/// The script of the host with this address.
pub(super) fn duplicates(rules: &[Rule], host: Ipv4Addr) -> String {
    let own: Vec<&Rule> = rules.iter().filter(|rule| rule.from == host).collect();
    let mut text = String::from(
        "add table ip faults\ndelete table ip faults\ntable ip faults {\n chain out {\n  \
         type filter hook postrouting priority 0;\n",
    );
    for Rule { to, doubled: Share(doubled), .. } in own.into_iter().filter(|rule| rule.doubled > Share(0)) {
        // Random numbers go to 999: all is one less.
        let below = doubled.min(&999);
        let _ = writeln!(text, "  ip daddr {to} numgen random mod 1000 < {below} dup to {to}");
    }
    text.push_str(" }\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const C: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

    #[test]
    fn a_partition_is_cut_both_ways_and_nowhere_else() {
        let script = drops(&between(&[A], &[B, C], Rule::cut));
        for (from, to, cut) in [(A, B, true), (B, A, true), (A, C, true), (C, A, true), (B, C, false)] {
            assert_eq!(script.contains(&format!("ip saddr {from} ip daddr {to} drop")), cut, "{script}");
        }
    }

    #[test]
    fn a_bad_line_loses_and_doubles_its_share_in_one_direction() {
        let rules = [Rule::bad(A, B, Share::percent(10), Share::percent(2))];
        assert!(
            drops(&rules).contains("ip saddr 10.0.0.1 ip daddr 10.0.0.2 numgen random mod 1000 < 100 drop")
        );
        assert!(duplicates(&rules, A).contains("ip daddr 10.0.0.2 numgen random mod 1000 < 20 dup"));
        assert!(!duplicates(&rules, B).contains("numgen"));
    }
}
