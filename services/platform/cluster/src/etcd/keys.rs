//! The keys of a cluster in etcd, and what their values mean.

use etcd_client::KeyValue;
use trunkline_cluster_core::{Block, Holdings, Incarnation, NodeIdentity, NodeRecord, Seen};
use trunkline_types::{Feature, NodeId};

/// Names the keys below `/{cluster}/`.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("/{cluster}/") }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The form of the keys and the number of shards; written once.
    pub fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    pub fn node(&self, node: &NodeIdentity) -> String {
        format!("{}node/{}/{}", self.prefix, node.id, node.incarnation.0)
    }

    pub fn held(&self, node: &NodeIdentity) -> String {
        format!("{}held/{}/{}", self.prefix, node.id, node.incarnation.0)
    }

    pub fn block(&self, index: usize) -> String {
        format!("{}assign/{index:02x}", self.prefix)
    }

    pub fn leader(&self) -> String {
        format!("{}coord/leader", self.prefix)
    }

    /// Up to which feature every node can read.
    pub fn gate(&self) -> String {
        format!("{}gate", self.prefix)
    }

    pub fn drain(&self, node: &NodeId) -> String {
        format!("{}drain/{node}", self.prefix)
    }

    pub fn suspicion(&self, suspect: &NodeIdentity, observer: &NodeId) -> String {
        format!("{}suspect/{}/{}/{observer}", self.prefix, suspect.id, suspect.incarnation.0)
    }

    /// What a key and its value mean. `None` = a key of a newer version, or the meta key. A value that cannot be read is
    /// told in the log and taken for absent.
    pub fn read(&self, pair: &KeyValue) -> Option<Seen> {
        let (key, value) = (std::str::from_utf8(pair.key()).ok()?, pair.value());
        let revision = u64::try_from(pair.mod_revision()).ok()?;
        let read = match self.parts(key)? {
            Key::Node(node) => parsed(value).map(|record: NodeRecord| Seen::Node(node, Some(record))),
            Key::Held(node) => {
                Holdings::decode(value).map(|held| Seen::Held(node, Some(held))).map_err(|e| e.to_string())
            }
            Key::Block(index) => Block::decode(value)
                .map(|block| Seen::Block(index, revision, block))
                .map_err(|e| e.to_string()),
            Key::Leader => parsed(value).map(|node: NodeIdentity| {
                Seen::Leader(Some((node, u64::try_from(pair.create_revision()).unwrap_or(0))))
            }),
            Key::Gate => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .map(Seen::Gate)
                .ok_or_else(|| "not a number".to_owned()),
            Key::Drain(node) => Ok(Seen::Drain(node, true)),
            Key::Suspicion(suspect, observer) => Ok(Seen::Suspicion { suspect, observer, stands: true }),
        };
        read.inspect_err(|error| tracing::error!(key, error, "a key of the cluster cannot be read")).ok()
    }

    /// What the end of a key means.
    pub fn gone(&self, key: &[u8]) -> Option<Seen> {
        Some(match self.parts(std::str::from_utf8(key).ok()?)? {
            Key::Node(node) => Seen::Node(node, None),
            Key::Held(node) => Seen::Held(node, None),
            Key::Block(index) => Seen::Block(index, 0, Block::default()),
            Key::Leader => Seen::Leader(None),
            Key::Gate => Seen::Gate(Feature::FIRST),
            Key::Drain(node) => Seen::Drain(node, false),
            Key::Suspicion(suspect, observer) => Seen::Suspicion { suspect, observer, stands: false },
        })
    }

    fn parts(&self, key: &str) -> Option<Key> {
        let mut parts = key.strip_prefix(&self.prefix)?.split('/');
        let identity = |id: &str, incarnation: &str| {
            Some(NodeIdentity { id: id.parse().ok()?, incarnation: Incarnation(incarnation.parse().ok()?) })
        };
        let key = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("node", Some(id), Some(incarnation), None) => Key::Node(identity(id, incarnation)?),
            ("held", Some(id), Some(incarnation), None) => Key::Held(identity(id, incarnation)?),
            ("assign", Some(index), None, None) => {
                Key::Block(usize::from_str_radix(index, 16).ok().filter(|i| *i < 64)?)
            }
            ("coord", Some("leader"), None, None) => Key::Leader,
            ("gate", None, None, None) => Key::Gate,
            ("drain", Some(id), None, None) => Key::Drain(id.parse().ok()?),
            ("suspect", Some(id), Some(incarnation), Some(observer)) => {
                Key::Suspicion(identity(id, incarnation)?, observer.parse().ok()?)
            }
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}

enum Key {
    Node(NodeIdentity),
    Held(NodeIdentity),
    Block(usize),
    Leader,
    Gate,
    Drain(NodeId),
    Suspicion(NodeIdentity, NodeId),
}

fn parsed<'a, T: serde::Deserialize<'a>>(value: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let keys = Keys::new("c1");
        let node = NodeIdentity { id: "n-1".parse().unwrap(), incarnation: Incarnation(7) };
        assert_eq!(keys.gone(keys.node(&node).as_bytes()), Some(Seen::Node(node.clone(), None)));
        assert_eq!(keys.gone(keys.held(&node).as_bytes()), Some(Seen::Held(node.clone(), None)));
        assert_eq!(keys.gone(keys.leader().as_bytes()), Some(Seen::Leader(None)));
        assert_eq!(keys.gone(keys.drain(&node.id).as_bytes()), Some(Seen::Drain(node.id.clone(), false)));
        assert_eq!(keys.gone(keys.gate().as_bytes()), Some(Seen::Gate(Feature::FIRST)));
        assert!(matches!(keys.gone(keys.block(63).as_bytes()), Some(Seen::Block(63, 0, _))));
        let suspicion = Seen::Suspicion { suspect: node.clone(), observer: node.id.clone(), stands: false };
        assert_eq!(keys.gone(keys.suspicion(&node, &node.id).as_bytes()), Some(suspicion));
        for other in [
            "/c1/assign/40",
            "/c1/assign/zz",
            "/c1/meta",
            "/c2/coord/leader",
            "/c1/node/n-1",
            "/c1/node/A!/1",
            "",
        ] {
            assert_eq!(keys.gone(other.as_bytes()), None, "{other}");
        }
    }
}
