//! The form of blocks and holdings in the store: a version byte, then variable-length integers (LEB128).
//!
//! Block: nodes (count; each length, id, incarnation), then for each shard the owner's and the predecessor's place in that
//! list plus one (0 = none) and the turn. About 3 bytes a shard. Holdings: count, then for each shard the distance to the
//! one before, turn, epoch.

use trunkline_types::{Epoch, NodeId, ShardId};

use crate::{
    Incarnation, NodeIdentity,
    table::{Assignment, BLOCK_SHARDS, Block, HeldShard, Holdings},
};

const VERSION: u8 = 1;

/// Why a value of the store cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A newer version wrote it.
    #[error("format {0} is newer than this program (it knows {VERSION}): upgrade this node")]
    Newer(u8),
    /// It ends too early, goes on too long, or has a number out of range.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, CodecError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some((version, _)) if *version > VERSION => Err(CodecError::Newer(*version)),
            _ => Err(CodecError::Malformed("no version")),
        }
    }

    fn number(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(CodecError::Malformed("cut off"))?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Malformed("number too large"))
    }

    fn node(&mut self) -> Result<NodeIdentity, CodecError> {
        let length = self.number()? as usize;
        let text = self.0.get(..length).ok_or(CodecError::Malformed("cut off"))?;
        self.0 = &self.0[length..];
        let id: NodeId = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(CodecError::Malformed("not a node's id"))?;
        Ok(NodeIdentity { id, incarnation: Incarnation(self.number()?) })
    }

    fn end(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Malformed("goes on after its end")) }
    }
}

impl Block {
    /// To the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut nodes: Vec<&NodeIdentity> =
            self.0.iter().flat_map(|entry| [&entry.owner, &entry.previous]).flatten().collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut out = vec![VERSION];
        put(&mut out, nodes.len() as u64);
        for node in &nodes {
            put(&mut out, node.id.as_str().len() as u64);
            out.extend_from_slice(node.id.as_str().as_bytes());
            put(&mut out, node.incarnation.0);
        }
        let place = |node: &Option<NodeIdentity>| {
            let at = node.as_ref().and_then(|node| nodes.binary_search(&node).ok());
            at.map_or(0, |at| at as u64 + 1)
        };
        for entry in &self.0 {
            put(&mut out, place(&entry.owner));
            put(&mut out, place(&entry.previous));
            put(&mut out, entry.turn);
        }
        out
    }

    /// From the store.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::open(bytes)?;
        let count = reader.number()?;
        if count > 2 * BLOCK_SHARDS as u64 {
            return Err(CodecError::Malformed("too many nodes"));
        }
        let nodes = (0..count).map(|_| reader.node()).collect::<Result<Vec<_>, _>>()?;
        let at = |place: u64| match place {
            0 => Ok(None),
            n => nodes.get(n as usize - 1).cloned().map(Some).ok_or(CodecError::Malformed("no such node")),
        };
        let mut entries = Vec::with_capacity(BLOCK_SHARDS);
        for _ in 0..BLOCK_SHARDS {
            let (owner, previous) = (at(reader.number()?)?, at(reader.number()?)?);
            entries.push(Assignment { owner, previous, turn: reader.number()? });
        }
        reader.end()?;
        Ok(Self(entries))
    }
}

impl Holdings {
    /// To the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put(&mut out, self.0.len() as u64);
        let mut before = 0;
        for held in &self.0 {
            put(&mut out, u64::from(held.shard.index()) - before);
            before = u64::from(held.shard.index());
            put(&mut out, held.turn);
            put(&mut out, held.epoch.0);
        }
        out
    }

    /// From the store.
    ///
    /// # Errors
    /// See [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::open(bytes)?;
        let count = reader.number()?;
        if count > u64::from(trunkline_types::SHARD_COUNT) {
            return Err(CodecError::Malformed("too many shards"));
        }
        let (mut held, mut index) = (Vec::with_capacity(count as usize), 0u64);
        for n in 0..count {
            let distance = reader.number()?;
            if n > 0 && distance == 0 {
                return Err(CodecError::Malformed("a shard twice"));
            }
            index = index.saturating_add(distance);
            let shard = u16::try_from(index)
                .ok()
                .and_then(ShardId::new)
                .ok_or(CodecError::Malformed("no such shard"))?;
            held.push(HeldShard { shard, turn: reader.number()?, epoch: Epoch(reader.number()?) });
        }
        reader.end()?;
        Ok(Self(held))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn node(n: u64) -> NodeIdentity {
        NodeIdentity { id: format!("node-{n}").parse().unwrap(), incarnation: Incarnation(n << 40) }
    }

    #[test]
    fn what_is_written_is_read_and_small() {
        let seed = 11;
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for nodes in [1u64, 3, 300] {
            let mut block = Block::default();
            assert_eq!(Block::decode(&block.encode()), Ok(block.clone()));
            for entry in &mut block.0 {
                entry.owner = Some(node(random.random_range(0..nodes)));
                entry.previous = random.random::<bool>().then(|| node(random.random_range(0..nodes)));
                entry.turn = random.random_range(0..100);
            }
            let bytes = block.encode();
            assert_eq!(Block::decode(&bytes), Ok(block));
            assert!(bytes.len() < 220 + 20 * 128, "{} bytes", bytes.len());
        }
        let held = ShardId::all().step_by(3).map(|shard| HeldShard { shard, turn: 2, epoch: Epoch(1 << 40) });
        let holdings = Holdings(held.collect());
        assert_eq!(Holdings::decode(&holdings.encode()), Ok(holdings));
    }

    #[test]
    fn damaged_values_are_refused_without_a_panic() {
        let block = Block(vec![
            Assignment { owner: Some(node(1)), previous: Some(node(2)), turn: 300 };
            BLOCK_SHARDS
        ]);
        let held = Holdings(vec![HeldShard { shard: ShardId::new(9).unwrap(), turn: 1, epoch: Epoch(5) }]);
        type Decodes = fn(&[u8]) -> bool;
        let block_is: Decodes = |bytes| Block::decode(bytes).is_ok();
        let held_is: Decodes = |bytes| Holdings::decode(bytes).is_ok();
        for (bytes, decodes) in [(block.encode(), block_is), (held.encode(), held_is)] {
            assert!(decodes(&bytes));
            assert!((0..bytes.len()).all(|cut| !decodes(&bytes[..cut])), "cut off");
            assert!(!decodes(&[bytes.as_slice(), &[0]].concat()), "goes on");
        }
        assert_eq!(Block::decode(&[2, 0]), Err(CodecError::Newer(2)));
        assert!(Holdings::decode(&[1, 2, 5, 1, 1, 0, 1, 1]).is_err(), "a shard twice");
        let seed = 12;
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut bytes = block.encode();
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            let _ = Block::decode(&bytes);
            let _ = Holdings::decode(&bytes);
        }
    }
}
