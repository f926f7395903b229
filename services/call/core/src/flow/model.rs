//! A checked flow: every reference points at a node, every number is within its bounds.

use std::{collections::BTreeMap, time::Duration};

use trunkline_types::{FlowId, QueueId};

use super::value::Text;

/// Index of a node within its flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(super) u16);

/// One immutable version of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub(super) id: FlowId,
    pub(super) version: u64,
    pub(super) start: NodeId,
    pub(super) nodes: Vec<Node>,
}

impl Flow {
    /// Its id within the tenant.
    pub fn id(&self) -> &FlowId {
        &self.id
    }

    /// Counted by whoever publishes it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where a call begins.
    pub fn start(&self) -> NodeId {
        self.start
    }

    /// All nodes in order of their names.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::from(id.0))
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let at = self.nodes.binary_search_by(|node| node.name.as_str().cmp(name)).ok()?;
        u16::try_from(at).ok().map(NodeId)
    }

    /// Every queue that a call may enter from here, without repetition.
    pub fn queues(&self) -> Vec<&QueueId> {
        let mut queues: Vec<&QueueId> = self
            .nodes
            .iter()
            .filter_map(|node| match &node.kind {
                NodeKind::Enqueue(enqueue) => Some(&enqueue.queue),
                _ => None,
            })
            .collect();
        queues.sort();
        queues.dedup();
        queues
    }

    /// Every prompt that may be played, without repetition.
    pub fn prompts(&self) -> Vec<&str> {
        let mut prompts: Vec<&str> = self
            .nodes
            .iter()
            .flat_map(|node| match &node.kind {
                NodeKind::Play(play) => vec![&play.prompts],
                NodeKind::Menu(menu) => vec![&menu.prompts, &menu.invalid, &menu.no_input],
                NodeKind::Collect(collect) => vec![&collect.prompts, &collect.invalid, &collect.no_input],
                NodeKind::Hangup(hangup) => vec![&hangup.prompts],
                NodeKind::Branch(_) | NodeKind::Set(_) | NodeKind::Enqueue(_) => Vec::new(),
            })
            .flatten()
            .map(String::as_str)
            .collect();
        prompts.sort_unstable();
        prompts.dedup();
        prompts
    }
}

/// A step of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name in the text.
    pub name: String,
    /// What happens there.
    pub kind: NodeKind,
}

/// What happens at a node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Prompts are played.
    Play(Play),
    /// One key is a choice.
    Menu(Menu),
    /// Several keys are an input.
    Collect(Collect),
    /// The way depends on a variable.
    Branch(Branch),
    /// Attributes are set.
    Set(Set),
    /// The call waits for an agent.
    Enqueue(Enqueue),
    /// The call ends.
    Hangup(Hangup),
}

/// Plays prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Play {
    /// Names, at least one.
    pub prompts: Vec<String>,
    /// A key ends it, and counts as typed ahead for the next menu.
    pub interruptible: bool,
    /// Afterwards.
    pub next: NodeId,
}

/// A choice by one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Menu {
    /// Played first; a key may be pressed meanwhile.
    pub prompts: Vec<String>,
    /// Key → node.
    pub choices: BTreeMap<char, NodeId>,
    /// Silence after the prompts that counts as no input.
    pub timeout: Duration,
    /// How often the caller may try, the first time included.
    pub tries: u8,
    /// Played before the prompts again after a wrong key.
    pub invalid: Vec<String>,
    /// Played before the prompts again after silence.
    pub no_input: Vec<String>,
    /// After the last try, when it was a wrong key.
    pub on_invalid: NodeId,
    /// After the last try, when it was silence.
    pub on_timeout: NodeId,
}

/// An input of several keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Collect {
    /// Played first.
    pub prompts: Vec<String>,
    /// The variable that gets the digits. Kept in memory only; a `set` node makes an attribute of it.
    pub into: String,
    /// Fewest digits.
    pub min: u8,
    /// Most digits; complete then.
    pub max: u8,
    /// A key that says "complete".
    pub terminator: Option<char>,
    /// The number must satisfy the Luhn formula (ISO/IEC 7812-1).
    pub luhn: bool,
    /// The number must begin with one of these, unless there are none.
    pub starts_with: Vec<String>,
    /// Silence after the prompts that counts as no input.
    pub timeout: Duration,
    /// Silence between two keys that counts as complete.
    pub digit_timeout: Duration,
    /// How often the caller may try.
    pub tries: u8,
    /// Played after a wrong input.
    pub invalid: Vec<String>,
    /// Played after silence.
    pub no_input: Vec<String>,
    /// After a right input.
    pub next: NodeId,
    /// After the last try, when it was wrong.
    pub on_invalid: NodeId,
    /// After the last try, when it was silence.
    pub on_timeout: NodeId,
}

impl Collect {
    /// Is `digits` what was asked for?
    pub fn accepts(&self, digits: &str) -> bool {
        (usize::from(self.min)..=usize::from(self.max)).contains(&digits.len())
            && (self.starts_with.is_empty() || self.starts_with.iter().any(|start| digits.starts_with(start)))
            && (!self.luhn || luhn(digits))
    }
}

fn luhn(digits: &str) -> bool {
    let sum: Option<u32> = digits
        .chars()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = digit.to_digit(10)?;
            let doubled = if place % 2 == 1 { value * 2 } else { value };
            Some(if doubled > 9 { doubled - 9 } else { doubled })
        })
        .sum();
    sum.is_some_and(|sum| sum % 10 == 0)
}

/// A way by a variable's value.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// `caller_number`, `caller_name`, `dialled`, an attribute or a collected variable.
    pub variable: String,
    /// Exact value → node.
    pub cases: BTreeMap<String, NodeId>,
    /// Beginning of the value → node; the longest wins, after the exact ones.
    pub prefixes: BTreeMap<String, NodeId>,
    /// Otherwise; also when the variable is not set.
    pub otherwise: NodeId,
}

impl Branch {
    /// The way for a value.
    pub fn choose(&self, value: &str) -> NodeId {
        let prefix = || self.prefixes.iter().filter(|(start, _)| value.starts_with(start.as_str()));
        self.cases
            .get(value)
            .copied()
            .or_else(|| prefix().max_by_key(|(start, _)| start.len()).map(|(_, node)| *node))
            .unwrap_or(self.otherwise)
    }
}

/// Sets attributes: they reach the agent with the offer and stand in the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// Name → text with `${variable}`.
    pub attributes: BTreeMap<String, Text>,
    /// Afterwards.
    pub next: NodeId,
}

/// Into a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Enqueue {
    /// Which one.
    pub queue: QueueId,
    /// -100 to 100; higher is served first.
    pub priority: i32,
    /// Set before.
    pub attributes: BTreeMap<String, Text>,
    /// When the queue gives no place; otherwise its own message and the end.
    pub on_refused: Option<NodeId>,
    /// When the longest wait is over; otherwise the queue's own message and the end.
    pub on_timeout: Option<NodeId>,
}

/// The end.
#[derive(Clone, Debug, PartialEq)]
pub struct Hangup {
    /// Played before.
    pub prompts: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::luhn;

    #[test]
    fn luhn_knows_a_right_number_from_a_wrong_one() {
        assert!(luhn("79927398713") && luhn("4111111111111111"));
        assert!(!luhn("79927398710") && !luhn("12a"));
    }
}
