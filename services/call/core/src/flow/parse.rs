//! From text to [`Flow`], with all mistakes found at once.

use std::{collections::BTreeMap, fmt};

use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;
use trunkline_types::{FlowId, QueueId};

use super::{
    check,
    model::{Branch, Collect, Enqueue, Flow, Hangup, Menu, Node, NodeId, NodeKind, Play, Set},
    raw::{
        Check, RawBranch, RawCollect, RawEnqueue, RawFlow, RawHangup, RawMenu, RawPlay, RawSet, Scalar, Span,
    },
    value::{MAX_ATTRIBUTES, Text, is_name},
};

/// The longest text of a flow, bytes.
const MAX_TEXT_BYTES: usize = 256 * 1024;
const MAX_NODES: usize = 500;
const KINDS: [&str; 7] = ["play", "menu", "collect", "branch", "set", "enqueue", "hangup"];

/// A flow cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FlowError {
    /// All mistakes that were found, at least one.
    pub problems: Vec<FlowProblem>,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowProblem {
    /// The node; empty for the flow as a whole.
    pub node: String,
    /// The field within it, `menu.choices.1`; empty when the node as a whole is meant.
    pub field: String,
    /// What is wrong and what to do about it.
    pub problem: String,
}

impl fmt::Display for FlowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.node.as_str(), self.field.as_str()) {
            ("", "") => write!(f, "flow: {}", self.problem),
            ("", field) => write!(f, "{field}: {}", self.problem),
            (node, "") => write!(f, "nodes.{node}: {}", self.problem),
            (node, field) => write!(f, "nodes.{node}.{field}: {}", self.problem),
        }
    }
}

impl Flow {
    /// Reads and checks a flow. `version` is counted by whoever publishes it.
    ///
    /// # Errors
    /// Every mistake with its node and field.
    pub fn parse(text: &str, version: u64) -> Result<Self, FlowError> {
        let whole = |problem: String| FlowError {
            problems: vec![FlowProblem { node: String::new(), field: String::new(), problem }],
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(whole(format!("longer than {MAX_TEXT_BYTES} bytes")));
        }
        let raw: RawFlow = serde_yaml_ng::from_str(text).map_err(|error| whole(error.to_string()))?;
        let mut reader = Reader::new(&raw);
        let id = raw.flow.parse::<FlowId>();
        if let Err(error) = &id {
            reader.problem("", "flow", format!("{error}"));
        }
        if raw.nodes.is_empty() || raw.nodes.len() > MAX_NODES {
            reader.problem("", "nodes", format!("has {} nodes: use 1 to {MAX_NODES}", raw.nodes.len()));
        }
        let start = reader.node("", "start", &raw.start);
        let nodes: Vec<Option<Node>> = raw
            .nodes
            .iter()
            .map(|(name, value)| reader.read_node(name, value).map(|kind| Node { name: name.clone(), kind }))
            .collect();
        let nodes: Option<Vec<Node>> = nodes.into_iter().collect();
        match (id, start, nodes) {
            (Ok(id), Some(start), Some(nodes)) if reader.problems.is_empty() => {
                let flow = Self { id, version, start, nodes };
                let problems = check::shape(&flow);
                if problems.is_empty() { Ok(flow) } else { Err(FlowError { problems }) }
            }
            _ => Err(FlowError { problems: reader.problems }),
        }
    }
}

struct Reader<'a> {
    names: BTreeMap<&'a str, NodeId>,
    problems: Vec<FlowProblem>,
}

impl<'a> Reader<'a> {
    fn new(raw: &'a RawFlow) -> Self {
        let names =
            raw.nodes.keys().take(MAX_NODES).zip(0..).map(|(name, n)| (name.as_str(), NodeId(n))).collect();
        Self { names, problems: Vec::new() }
    }

    fn problem(&mut self, node: &str, field: &str, problem: impl Into<String>) {
        self.problems.push(FlowProblem { node: node.into(), field: field.into(), problem: problem.into() });
    }

    /// A reference to a node.
    fn node(&mut self, node: &str, field: &str, target: &str) -> Option<NodeId> {
        let found = self.names.get(target).copied();
        if found.is_none() {
            self.problem(node, field, format!("there is no node {target:?}"));
        }
        found
    }

    fn body<T: DeserializeOwned>(&mut self, node: &str, kind: &str, value: &Value) -> Option<T> {
        match serde_yaml_ng::from_value::<T>(value.clone()) {
            Ok(body) => Some(body),
            Err(error) => {
                self.problem(node, kind, error.to_string());
                None
            }
        }
    }

    fn read_node(&mut self, name: &str, value: &Value) -> Option<NodeKind> {
        let is_node_name = (1..=64).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_'));
        if !is_node_name {
            self.problem(name, "", "a node's name is 1 to 64 of a-z, A-Z, 0-9, '-' and '_'");
        }
        let single = value.as_mapping().filter(|mapping| mapping.len() == 1);
        let Some((Some(kind), body)) = single.and_then(|m| m.iter().next()).map(|(k, v)| (k.as_str(), v))
        else {
            self.problem(name, "", format!("a node is exactly one of {}", KINDS.join(", ")));
            return None;
        };
        match kind {
            "play" => self.play(name, body),
            "menu" => self.menu(name, body),
            "collect" => self.collect(name, body),
            "branch" => self.branch(name, body),
            "set" => self.set(name, body),
            "enqueue" => self.enqueue(name, body),
            "hangup" => {
                let raw: RawHangup = self.body(name, kind, body)?;
                self.prompts(name, "hangup.prompts", &raw.prompts, 0);
                Some(NodeKind::Hangup(Hangup { prompts: raw.prompts }))
            }
            _ => {
                self.problem(name, kind, format!("unknown kind of node: use one of {}", KINDS.join(", ")));
                None
            }
        }
    }

    fn play(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawPlay = self.body(name, "play", body)?;
        self.prompts(name, "play.prompts", &raw.prompts, 1);
        let next = self.node(name, "play.next", &raw.next)?;
        Some(NodeKind::Play(Play { prompts: raw.prompts, interruptible: raw.interruptible, next }))
    }

    fn menu(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawMenu = self.body(name, "menu", body)?;
        self.prompts(name, "menu.prompts", &raw.prompts, 1);
        self.prompts(name, "menu.invalid", &raw.invalid, 0);
        self.prompts(name, "menu.no_input", &raw.no_input, 0);
        self.wait(name, "menu.timeout", raw.timeout);
        self.tries(name, "menu.tries", raw.tries);
        if raw.choices.is_empty() {
            self.problem(name, "menu.choices", "a menu needs at least one choice");
        }
        let mut choices = BTreeMap::new();
        for (key, target) in &raw.choices {
            if let Some(node) = self.node(name, &format!("menu.choices.{}", key.0), target) {
                choices.insert(key.0, node);
            }
        }
        let on_invalid = self.node(name, "menu.on_invalid", &raw.on_invalid);
        let on_timeout = self.node(name, "menu.on_timeout", &raw.on_timeout);
        Some(NodeKind::Menu(Menu {
            prompts: raw.prompts,
            choices,
            timeout: raw.timeout.0,
            tries: raw.tries,
            invalid: raw.invalid,
            no_input: raw.no_input,
            on_invalid: on_invalid?,
            on_timeout: on_timeout?,
        }))
    }

    fn collect(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawCollect = self.body(name, "collect", body)?;
        self.prompts(name, "collect.prompts", &raw.prompts, 1);
        self.prompts(name, "collect.invalid", &raw.invalid, 0);
        self.prompts(name, "collect.no_input", &raw.no_input, 0);
        self.wait(name, "collect.timeout", raw.timeout);
        self.wait(name, "collect.digit_timeout", raw.digit_timeout);
        self.tries(name, "collect.tries", raw.tries);
        if raw.min == 0 || raw.max < raw.min || raw.max > 32 {
            self.problem(name, "collect.max", "use 1 <= min <= max <= 32");
        }
        if !is_name(&raw.into) {
            self.problem(name, "collect.into", "a variable is 1 to 64 of a-z, 0-9 and '_'");
        }
        if raw
            .starts_with
            .iter()
            .any(|start| start.0.is_empty() || !start.0.bytes().all(|b| b.is_ascii_digit()))
        {
            self.problem(name, "collect.starts_with", "only digits can be typed");
        }
        let next = self.node(name, "collect.next", &raw.next);
        let on_invalid = self.node(name, "collect.on_invalid", &raw.on_invalid);
        let on_timeout = self.node(name, "collect.on_timeout", &raw.on_timeout);
        Some(NodeKind::Collect(Collect {
            prompts: raw.prompts,
            into: raw.into,
            min: raw.min,
            max: raw.max,
            terminator: raw.terminator.map(|key| key.0),
            luhn: raw.check == Check::Luhn,
            starts_with: raw.starts_with.into_iter().map(|start| start.0).collect(),
            timeout: raw.timeout.0,
            digit_timeout: raw.digit_timeout.0,
            tries: raw.tries,
            invalid: raw.invalid,
            no_input: raw.no_input,
            next: next?,
            on_invalid: on_invalid?,
            on_timeout: on_timeout?,
        }))
    }

    fn branch(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawBranch = self.body(name, "branch", body)?;
        if !is_name(&raw.variable) {
            self.problem(name, "branch.variable", "a variable is 1 to 64 of a-z, 0-9 and '_'");
        }
        if raw.cases.is_empty() && raw.prefixes.is_empty() {
            self.problem(name, "branch.cases", "a branch needs at least one of cases or prefixes");
        }
        let cases = self.ways(name, "branch.cases", &raw.cases);
        let prefixes = self.ways(name, "branch.prefixes", &raw.prefixes);
        let otherwise = self.node(name, "branch.otherwise", &raw.otherwise)?;
        Some(NodeKind::Branch(Branch { variable: raw.variable, cases, prefixes, otherwise }))
    }

    fn ways(&mut self, name: &str, field: &str, raw: &BTreeMap<Scalar, String>) -> BTreeMap<String, NodeId> {
        let mut ways = BTreeMap::new();
        for (value, target) in raw {
            if let Some(node) = self.node(name, &format!("{field}.{}", value.0), target) {
                ways.insert(value.0.clone(), node);
            }
        }
        ways
    }

    fn set(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawSet = self.body(name, "set", body)?;
        let attributes = self.attributes(name, "set.attributes", &raw.attributes);
        let next = self.node(name, "set.next", &raw.next)?;
        Some(NodeKind::Set(Set { attributes, next }))
    }

    fn enqueue(&mut self, name: &str, body: &Value) -> Option<NodeKind> {
        let raw: RawEnqueue = self.body(name, "enqueue", body)?;
        let queue = raw.queue.parse::<QueueId>();
        if let Err(error) = &queue {
            self.problem(name, "enqueue.queue", error.to_string());
        }
        if !(-100..=100).contains(&raw.priority) {
            self.problem(name, "enqueue.priority", "use -100 to 100");
        }
        let attributes = self.attributes(name, "enqueue.attributes", &raw.attributes);
        let on_refused =
            raw.on_refused.as_deref().map(|target| self.node(name, "enqueue.on_refused", target));
        let on_timeout =
            raw.on_timeout.as_deref().map(|target| self.node(name, "enqueue.on_timeout", target));
        Some(NodeKind::Enqueue(Enqueue {
            queue: queue.ok()?,
            priority: raw.priority,
            attributes,
            on_refused: on_refused.flatten(),
            on_timeout: on_timeout.flatten(),
        }))
    }

    fn attributes(
        &mut self,
        name: &str,
        field: &str,
        raw: &BTreeMap<String, Scalar>,
    ) -> BTreeMap<String, Text> {
        if raw.len() > MAX_ATTRIBUTES {
            self.problem(name, field, format!("more than {MAX_ATTRIBUTES} attributes"));
        }
        let mut attributes = BTreeMap::new();
        for (attribute, value) in raw {
            let at = format!("{field}.{attribute}");
            if !is_name(attribute) {
                self.problem(name, &at, "an attribute's name is 1 to 64 of a-z, 0-9 and '_'");
            }
            match Text::parse(&value.0) {
                Ok(text) => {
                    attributes.insert(attribute.clone(), text);
                }
                Err(problem) => self.problem(name, &at, problem),
            }
        }
        attributes
    }

    fn prompts(&mut self, name: &str, field: &str, prompts: &[String], at_least: usize) {
        if prompts.len() < at_least || prompts.len() > 16 {
            self.problem(name, field, format!("use {at_least} to 16 prompts"));
        }
        for prompt in prompts {
            let fine = (1..=64).contains(&prompt.len())
                && prompt.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/'))
                && !prompt.contains("..");
            if !fine {
                self.problem(name, field, format!("{prompt:?} is not the name of a prompt"));
            }
        }
    }

    fn wait(&mut self, name: &str, field: &str, span: Span) {
        if !(500..=120_000).contains(&span.0.as_millis()) {
            self.problem(name, field, "use 500ms to 120s");
        }
    }

    fn tries(&mut self, name: &str, field: &str, tries: u8) {
        if !(1..=10).contains(&tries) {
            self.problem(name, field, "use 1 to 10");
        }
    }
}
