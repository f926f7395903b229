//! What the coordinator wants: sticky, even, in bounded steps. Pure arithmetic over the map.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_types::{NodeId, ShardGroup, ShardId};

use crate::NodeIdentity;

/// How the planner has to treat an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Serves.
    Serving,
    /// Gives its shards away a few at a time.
    Draining,
    /// Vanished, and not judged yet: it keeps its shards.
    Missing,
    /// Gone for good: its shards move at once.
    Dead,
}

/// A node that may own shards of the group that is planned, or does.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which life of which node.
    pub identity: NodeIdentity,
    /// How it stands.
    pub standing: Standing,
    /// Whether it has the role for this group.
    pub eligible: bool,
    /// Its share in relation to the others'.
    pub weight: u32,
}

/// A shard as the planner sees it.
#[derive(Debug, Clone)]
pub struct Placed<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Its owner.
    pub owner: Option<&'a NodeIdentity>,
    /// The owner has not opened it yet, and who had it before.
    pub moving_from: Option<Option<&'a NodeIdentity>>,
}

/// How much may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Moves of all kinds but losses.
    pub moving: usize,
    /// From one draining node.
    pub moving_from: usize,
    /// Whether shards may be evened out now, and given out for the first time.
    pub settled: bool,
}

/// Why a shard moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It had no owner.
    Start,
    /// Its owner is dead.
    Loss,
    /// Its owner drains.
    Drain,
    /// To even out, as after a join.
    Balance,
}

impl Reason {
    /// The name on pages and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Loss => "loss",
            Self::Drain => "drain",
            Self::Balance => "balance",
        }
    }
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The shard.
    pub shard: ShardId,
    /// Its new owner.
    pub to: NodeIdentity,
    /// Why.
    pub reason: Reason,
}

struct Book<'a> {
    candidates: &'a [Candidate],
    /// By candidate: shards it has, and may have at most.
    load: Vec<usize>,
    cap: Vec<usize>,
    floor: Vec<usize>,
    /// Shards beyond everybody's floor.
    extras: usize,
    open: Vec<bool>,
}

/// Plans one group.
pub fn plan(group: ShardGroup, placed: &[Placed], candidates: &[Candidate], limits: Limits) -> Vec<Change> {
    let at: BTreeMap<&NodeIdentity, usize> =
        candidates.iter().enumerate().map(|(at, candidate)| (&candidate.identity, at)).collect();
    let owner = |placed: &Placed| placed.owner.and_then(|owner| at.get(owner).copied());
    let mut book = Book::open(usize::from(group.range().1), candidates);
    let (mut orphans, mut drained, mut settled) = (Vec::new(), Vec::new(), Vec::new());
    let mut moving = 0;
    let mut leaving = vec![0usize; candidates.len()];
    for shard in placed {
        let owner_at = owner(shard);
        if let (Some(from), Some(to)) = (shard.moving_from, owner_at) {
            moving += usize::from(candidates[to].standing == Standing::Serving);
            if let Some(at) = from.and_then(|from| at.get(from)) {
                leaving[*at] += 1;
            }
        }
        match owner_at.map(|at| (at, &candidates[at])) {
            Some((_, node)) if node.standing == Standing::Dead || !node.eligible => {
                orphans.push((shard, Reason::Loss))
            }
            None if shard.owner.is_some() => orphans.push((shard, Reason::Loss)),
            None if limits.settled => orphans.push((shard, Reason::Start)),
            None => {}
            Some((at, node)) => {
                book.load[at] += 1;
                if shard.moving_from.is_none() {
                    match node.standing {
                        Standing::Draining => drained.push((shard, at)),
                        Standing::Serving => settled.push((shard, at)),
                        _ => {}
                    }
                }
            }
        }
    }
    let mut changes = Vec::new();
    for (shard, reason) in orphans {
        changes.extend(book.place(shard.shard, reason));
    }
    let drains = !drained.is_empty();
    for (shard, from) in drained {
        if moving >= limits.moving {
            break;
        }
        if leaving[from] < limits.moving_from
            && let Some(change) = book.place_elsewhere(shard.shard, from, Reason::Drain)
        {
            (moving, leaving[from]) = (moving + 1, leaving[from] + 1);
            changes.push(change);
        }
    }
    let missing = candidates.iter().any(|candidate| candidate.standing == Standing::Missing);
    if limits.settled && !missing && !drains && changes.is_empty() {
        changes = book.balance(&settled, limits.moving.saturating_sub(moving));
    }
    changes
}

impl<'a> Book<'a> {
    fn open(total: usize, candidates: &'a [Candidate]) -> Self {
        let serving = |node: &Candidate| node.eligible && node.standing == Standing::Serving;
        let counts = |node: &Candidate| serving(node) || node.eligible && node.standing == Standing::Missing;
        let any = candidates.iter().any(serving);
        // When everybody drains, draining nodes take over what would be nobody's.
        let open: Vec<bool> = candidates
            .iter()
            .map(|node| serving(node) || !any && node.eligible && node.standing == Standing::Draining)
            .collect();
        let weight = |at: usize| u64::from(candidates[at].weight.max(1));
        let share: Vec<usize> =
            (0..candidates.len()).filter(|at| open[*at] || counts(&candidates[*at])).collect();
        let weights: u64 = share.iter().map(|at| weight(*at)).sum();
        let (mut cap, mut floor) = (vec![0; candidates.len()], vec![0; candidates.len()]);
        for at in share {
            let exact = total as u64 * weight(at);
            cap[at] = exact.div_ceil(weights) as usize;
            floor[at] = (exact / weights) as usize;
        }
        let extras = total - floor.iter().sum::<usize>();
        Self { candidates, load: vec![0; candidates.len()], cap, floor, extras, open }
    }

    /// The node that rendezvous hashing prefers among those with room.
    fn place(&mut self, shard: ShardId, reason: Reason) -> Option<Change> {
        // So many may have one more than the floor.
        let spare =
            self.extras > self.each_open(|book, at| book.load[at].saturating_sub(book.floor[at])).sum();
        let best = self
            .best(shard, |book, at| book.load[at] < book.floor[at] || spare && book.load[at] < book.cap[at])
            .or_else(|| self.best(shard, |book, at| book.load[at] < book.cap[at]))
            .or_else(|| self.best(shard, |_, _| true))?;
        self.load[best] += 1;
        Some(Change { shard, to: self.candidates[best].identity.clone(), reason })
    }

    fn place_elsewhere(&mut self, shard: ShardId, from: usize, reason: Reason) -> Option<Change> {
        if self.open[from] {
            return None;
        }
        let change = self.place(shard, reason)?;
        self.load[from] -= 1;
        Some(change)
    }

    fn best(&self, shard: ShardId, room: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        (0..self.candidates.len()).filter(|at| self.open[*at] && room(self, *at)).max_by(|a, b| {
            let score = |at: &usize| {
                let node = &self.candidates[*at];
                score(&node.identity.id, node.weight, shard)
            };
            score(a).total_cmp(&score(b))
        })
    }

    /// Moves from those above their share, or those with one more than the floor, to those below theirs: as few as make it
    /// even. Of a giver's shards those go first that prefer the taker.
    fn balance(&mut self, settled: &[(&Placed, usize)], most: usize) -> Vec<Change> {
        let mut takers: Vec<(usize, usize)> = Vec::new();
        let over: usize = self.each_open(|book, at| book.load[at].saturating_sub(book.cap[at])).sum();
        let under: usize = self.each_open(|book, at| book.floor[at].saturating_sub(book.load[at])).sum();
        let needed = over.max(under).min(most);
        let mut room = needed;
        // First up to the floor, then up to the cap.
        for limit in [&self.floor, &self.cap] {
            for at in (0..self.candidates.len()).filter(|at| self.open[*at]) {
                let has =
                    self.load[at] + takers.iter().filter(|(to, _)| *to == at).map(|(_, n)| n).sum::<usize>();
                let takes = limit[at].saturating_sub(has).min(room);
                if takes > 0 {
                    room -= takes;
                    takers.push((at, takes));
                }
            }
        }
        let mut gives = self.givers(needed - room);
        let (mut changes, mut chosen) = (Vec::new(), BTreeSet::new());
        for (to, count) in takers {
            let node = &self.candidates[to];
            let mut offers: Vec<_> = settled
                .iter()
                .filter(|(shard, from)| gives[*from] > 0 && !chosen.contains(&shard.shard))
                .map(|(shard, from)| (score(&node.identity.id, node.weight, shard.shard), shard.shard, *from))
                .collect();
            offers.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut left = count;
            for (_, shard, from) in offers {
                if left == 0 {
                    break;
                }
                if gives[from] > 0 {
                    gives[from] -= 1;
                    left -= 1;
                    chosen.insert(shard);
                    changes.push(Change { shard, to: node.identity.clone(), reason: Reason::Balance });
                }
            }
        }
        changes
    }

    fn each_open<'b>(&'b self, f: impl Fn(&Self, usize) -> usize + 'b) -> impl Iterator<Item = usize> + 'b {
        (0..self.candidates.len()).filter(|at| self.open[*at]).map(move |at| f(self, at))
    }

    /// How many each gives so that `count` go: first what is above the cap, then what is above the floor.
    fn givers(&self, mut count: usize) -> Vec<usize> {
        let mut gives = vec![0; self.candidates.len()];
        for limit in [&self.cap, &self.floor] {
            for at in (0..self.candidates.len()).filter(|at| self.open[*at]) {
                let more = (self.load[at] - gives[at]).saturating_sub(limit[at]).min(count);
                gives[at] += more;
                count -= more;
            }
        }
        gives
    }
}

/// Weighted rendezvous: the node with the highest score is preferred; losing a node changes only what it had.
pub fn score(node: &NodeId, weight: u32, shard: ShardId) -> f64 {
    let mut hash = node.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = mix(hash ^ (u64::from(shard.index()) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight.max(1)) / uniform.ln()
}

/// SplitMix64's finaliser.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::Incarnation;

    fn node(n: usize) -> NodeIdentity {
        NodeIdentity { id: format!("n{n}").parse().unwrap(), incarnation: Incarnation(1) }
    }

    fn candidate(n: usize, standing: Standing) -> Candidate {
        Candidate { identity: node(n), standing, eligible: true, weight: 1 }
    }

    /// The shards of a group and their owners.
    struct Table(Vec<(ShardId, Option<NodeIdentity>)>);

    impl Table {
        fn empty() -> Self {
            Self(ShardGroup::Acd.shards().map(|shard| (shard, None)).collect())
        }

        fn plan(&self, candidates: &[Candidate], limits: Limits) -> Vec<Change> {
            let placed: Vec<Placed> = self
                .0
                .iter()
                .map(|(shard, owner)| Placed { shard: *shard, owner: owner.as_ref(), moving_from: None })
                .collect();
            plan(ShardGroup::Acd, &placed, candidates, limits)
        }

        fn apply(&mut self, changes: &[Change]) {
            for change in changes {
                self.0[usize::from(change.shard.index())].1 = Some(change.to.clone());
            }
        }

        /// Plans and applies until nothing changes; gives the moves.
        fn settle(&mut self, candidates: &[Candidate]) -> usize {
            let mut moves = 0;
            for _ in 0..200 {
                let changes = self.plan(candidates, LIMITS);
                if changes.is_empty() {
                    return moves;
                }
                moves += changes.len();
                self.apply(&changes);
            }
            panic!("it never settles");
        }

        fn of(&self, n: usize) -> usize {
            self.0.iter().filter(|(_, owner)| *owner == Some(node(n))).count()
        }
    }

    const LIMITS: Limits = Limits { moving: 64, moving_from: 16, settled: true };

    #[test]
    fn shares_follow_weights_and_roles() {
        let mut table = Table::empty();
        let mut nodes: Vec<_> = (0..4).map(|n| candidate(n, Standing::Serving)).collect();
        nodes[1].weight = 3;
        nodes[3].eligible = false;
        assert_eq!(table.settle(&nodes), 1_024, "each shard is placed once");
        assert_eq!(table.of(3), 0);
        assert!((614..=615).contains(&table.of(1)) && (204..=205).contains(&table.of(0)), "{}", table.of(1));
        // One that loses the role loses its shards at once.
        nodes[0].eligible = false;
        let lost = table.of(0);
        let changes = table.plan(&nodes, LIMITS);
        assert_eq!(changes.len(), lost);
        assert!(changes.iter().all(|change| change.reason == Reason::Loss));
    }

    #[test]
    fn limits_hold_for_what_can_wait_and_not_for_losses() {
        let mut table = Table::empty();
        let mut nodes: Vec<_> = (0..4).map(|n| candidate(n, Standing::Serving)).collect();
        table.settle(&nodes[..3]);
        let balance = table.plan(&nodes, LIMITS);
        assert_eq!(balance.len(), 64);
        assert!(balance.iter().all(|change| change.to == node(3) && change.reason == Reason::Balance));
        assert!(table.plan(&nodes, Limits { settled: false, ..LIMITS }).is_empty());
        nodes[3].standing = Standing::Missing;
        assert!(table.plan(&nodes, LIMITS).is_empty(), "nothing is evened out while somebody is missing");
        nodes.truncate(3);
        nodes[0].standing = Standing::Draining;
        let drain = table.plan(&nodes, LIMITS);
        assert_eq!((drain.len(), drain[0].reason), (16, Reason::Drain));
        nodes[0].standing = Standing::Dead;
        let lost = table.of(0);
        assert_eq!(table.plan(&nodes, Limits { moving: 0, moving_from: 0, settled: false }).len(), lost);
        // Nobody else: a draining node keeps what it has, and nothing moves for ever.
        nodes[0].standing = Standing::Draining;
        assert!(table.plan(&nodes[..1], LIMITS).iter().all(|change| change.to == node(0)));
    }

    #[test]
    fn whatever_the_members_it_settles_evenly_with_as_few_moves_as_can_be() {
        let seed = 21;
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let (before, after) = (random.random_range(1..40), random.random_range(1..40));
            let mut table = Table::empty();
            let nodes: Vec<_> = (0..before).map(|n| candidate(n, Standing::Serving)).collect();
            table.settle(&nodes);
            // The first `after` stay or come; the rest are dead.
            let nodes: Vec<_> = (0..before.max(after))
                .map(|n| candidate(n, if n < after { Standing::Serving } else { Standing::Dead }))
                .collect();
            let floor = 1_024 / after;
            let lost: usize = (after..before).map(|n| table.of(n)).sum();
            let come: usize = (before..after).map(|_| floor + 1).sum();
            let moves = table.settle(&nodes);
            assert!(moves <= lost.max(come) + after, "{before} to {after} nodes: {moves} moves");
            for n in 0..after {
                assert!((floor..=floor + 1).contains(&table.of(n)), "{before} to {after}: {}", table.of(n));
            }
        }
    }
}
