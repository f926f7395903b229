//! The interpreter: where a call is in its flow, what it waits for there, and what keys do.

use std::{collections::BTreeMap, sync::Arc};

use trunkline_types::{FlowId, ReleaseCause, Timestamp};

use super::{
    model::{Collect, Enqueue, Flow, Menu, NodeId, NodeKind},
    value::{MAX_ATTRIBUTES, Text},
};
use crate::{
    call::{Call, Cx},
    event::{DigitsHow, EndedBy, EventBody, FlowOutcome},
};

/// Keys that may be typed ahead.
const MAX_KEYS: usize = 32;
/// Steps of one call in flows; a caller who goes round more often is let go.
const MAX_STEPS: u32 = 1_000;

/// A call in its flow.
#[derive(Debug)]
pub(crate) struct FlowRun {
    flow: Option<Arc<Flow>>,
    node: Option<NodeId>,
    steps: u32,
    // Volatile.
    variables: BTreeMap<String, String>,
    wait: Wait,
    tries: u8,
    keys: String,
}

/// What the flow waits for.
#[derive(Clone, Debug, PartialEq)]
enum Wait {
    /// Nothing (a queue, an agent).
    Nothing,
    /// The end of prompts.
    Prompt { token: String, until: Timestamp },
    /// Keys.
    Keys { until: Timestamp },
}

impl FlowRun {
    pub fn new(flow: Option<Arc<Flow>>) -> Self {
        Self {
            flow,
            node: None,
            steps: 0,
            variables: BTreeMap::new(),
            wait: Wait::Nothing,
            tries: 0,
            keys: String::new(),
        }
    }

    /// Replays a step.
    pub fn entered(&mut self, node: &str) {
        self.steps = self.steps.saturating_add(1);
        self.node = self.flow.as_deref().and_then(|flow| flow.find(node));
        self.tries = 0;
        self.wait = Wait::Nothing;
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        match &self.wait {
            Wait::Nothing => None,
            Wait::Prompt { until, .. } | Wait::Keys { until } => Some(*until),
        }
    }

    fn here(&self) -> Option<(Arc<Flow>, NodeId)> {
        Some((self.flow.clone()?, self.node?))
    }
}

impl Call {
    pub(crate) fn enter_flow(&mut self, cx: &mut Cx<'_>, id: &FlowId) {
        let Some(flow) = self.library.flow(&self.tenant, id) else {
            return self.end(cx, ReleaseCause::UnknownNumber, EndedBy::System);
        };
        self.emit(cx, EventBody::FlowEntered { flow: id.clone(), version: flow.version() });
        if let Some(run) = self.flow.as_deref_mut() {
            // The library need not keep a version that only just came into force.
            run.flow = Some(flow.clone());
        }
        self.flow_go(cx, flow.start());
    }

    /// After a recovery: the node once more, from its beginning.
    pub(crate) fn flow_resume(&mut self, cx: &mut Cx<'_>) {
        let Some(run) = self.flow.as_deref() else { return };
        match (run.here(), &run.flow) {
            (Some((_, node)), _) => self.flow_go(cx, node),
            (None, Some(flow)) if run.steps == 0 => {
                let start = flow.start();
                self.flow_go(cx, start);
            }
            _ => self.flow_broken(cx, "this version of the flow is not there any more"),
        }
    }

    /// Goes to a node, and on while nothing has to be waited for. A flow has no circle of such nodes.
    fn flow_go(&mut self, cx: &mut Cx<'_>, to: NodeId) {
        let mut next = Some(to);
        while let Some(id) = next {
            let Some(run) = self.flow.as_deref() else { return };
            if run.steps >= MAX_STEPS {
                return self.flow_broken(cx, "too many steps");
            }
            let Some(flow) = run.flow.clone() else { return };
            let Some(node) = flow.node(id) else { return };
            self.flow_event(cx, id, FlowOutcome::Entered);
            next = match &node.kind {
                NodeKind::Play(play) => {
                    self.flow_play(cx, play.prompts.clone(), play.interruptible);
                    None
                }
                NodeKind::Menu(menu) => self.ask(cx, &menu.prompts, |call, cx| call.menu_keys(cx, menu)),
                NodeKind::Collect(collect) => {
                    self.ask(cx, &collect.prompts, |call, cx| call.collect_keys(cx, collect))
                }
                NodeKind::Branch(branch) => {
                    let value = self.variable(&branch.variable).unwrap_or_default();
                    Some(branch.choose(value))
                }
                NodeKind::Set(set) => {
                    self.set_attributes(cx, id, &set.attributes);
                    Some(set.next)
                }
                NodeKind::Enqueue(enqueue) => {
                    self.flow_enqueue(cx, id, enqueue);
                    None
                }
                NodeKind::Hangup(hangup) => {
                    self.say_goodbye(cx, hangup.prompts.clone(), ReleaseCause::FlowEnd, EndedBy::Flow);
                    None
                }
            };
        }
    }

    /// Plays a question, unless what was typed ahead answers it. Returns where to go at once.
    fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        prompts: &[String],
        typed: impl FnOnce(&mut Self, &mut Cx<'_>) -> Option<NodeId>,
    ) -> Option<NodeId> {
        let typed_ahead = self.flow.as_deref().is_some_and(|run| !run.keys.is_empty());
        if typed_ahead {
            return typed(self, cx);
        }
        self.flow_play(cx, prompts.to_vec(), true);
        None
    }

    fn flow_play(&mut self, cx: &mut Cx<'_>, prompts: Vec<String>, interruptible: bool) {
        let token = self.media.mint(cx.now).to_string();
        let until = cx.now.plus(self.settings.play_limit);
        if let Some(run) = self.flow.as_deref_mut() {
            run.wait = Wait::Prompt { token: token.clone(), until };
        }
        self.play(cx, prompts, token, interruptible);
    }

    /// A prompt ended.
    pub(crate) fn flow_played(&mut self, cx: &mut Cx<'_>, token: &str) {
        let awaited = match self.flow.as_deref().map(|run| &run.wait) {
            Some(Wait::Prompt { token: awaited, .. }) => awaited == token,
            _ => false,
        };
        if awaited {
            self.flow_after_prompt(cx);
        }
    }

    fn flow_after_prompt(&mut self, cx: &mut Cx<'_>) {
        let Some((flow, id)) = self.flow.as_deref().and_then(FlowRun::here) else { return };
        let Some(node) = flow.node(id) else { return };
        let timeout = match &node.kind {
            NodeKind::Play(play) => return self.flow_go(cx, play.next),
            NodeKind::Menu(menu) => menu.timeout,
            NodeKind::Collect(collect) => collect.timeout,
            _ => return,
        };
        if let Some(run) = self.flow.as_deref_mut() {
            run.wait = Wait::Keys { until: cx.now.plus(timeout) };
        }
    }

    /// A key.
    pub(crate) fn flow_key(&mut self, cx: &mut Cx<'_>, key: char, how: DigitsHow) {
        let Some(run) = self.flow.as_deref_mut() else { return };
        if run.keys.len() >= MAX_KEYS {
            return;
        }
        run.keys.push(key);
        let Some((flow, id)) = run.here() else { return };
        let Some(node) = flow.node(id) else { return };
        let next = match &node.kind {
            NodeKind::Menu(menu) => {
                self.digits_event(cx, 1, how);
                self.menu_keys(cx, menu)
            }
            NodeKind::Collect(collect) => self.collect_keys(cx, collect),
            // Typed ahead.
            _ => None,
        };
        if let Some(next) = next {
            self.flow_go(cx, next);
        }
    }

    /// Takes the first key that waits as the choice.
    fn menu_keys(&mut self, cx: &mut Cx<'_>, menu: &Menu) -> Option<NodeId> {
        let run = self.flow.as_deref_mut()?;
        let key = run.keys.chars().next()?;
        run.keys.remove(0);
        match menu.choices.get(&key) {
            Some(next) => {
                self.flow_here(cx, FlowOutcome::Digits(key.to_string()));
                Some(*next)
            }
            None => {
                self.flow_here(cx, FlowOutcome::Invalid);
                self.try_once_more(cx, menu.tries, &menu.invalid, &menu.prompts, menu.on_invalid)
            }
        }
    }

    /// Takes all keys that wait as input, if they are complete.
    fn collect_keys(&mut self, cx: &mut Cx<'_>, collect: &Collect) -> Option<NodeId> {
        let run = self.flow.as_deref_mut()?;
        let ended = collect.terminator.and_then(|end| run.keys.find(end));
        let full = run.keys.len() >= usize::from(collect.max);
        if ended.is_none() && !full {
            run.wait = Wait::Keys { until: cx.now.plus(collect.digit_timeout) };
            return None;
        }
        let taken = ended.unwrap_or(usize::from(collect.max)).min(usize::from(collect.max));
        let digits: String = run.keys.drain(..taken).collect();
        if ended == Some(taken) {
            run.keys.remove(0);
        }
        self.collected(cx, collect, digits)
    }

    fn collected(&mut self, cx: &mut Cx<'_>, collect: &Collect, digits: String) -> Option<NodeId> {
        let count = u32::try_from(digits.len()).unwrap_or(u32::MAX);
        self.digits_event(cx, count, DigitsHow::Rfc4733);
        if collect.accepts(&digits) {
            self.flow_here(cx, FlowOutcome::Digits(format!("{count} digits")));
            if let Some(run) = self.flow.as_deref_mut() {
                run.variables.insert(collect.into.clone(), digits);
            }
            return Some(collect.next);
        }
        self.flow_here(cx, FlowOutcome::Invalid);
        self.try_once_more(cx, collect.tries, &collect.invalid, &collect.prompts, collect.on_invalid)
    }

    /// Asks again, or goes on after the last try. What was typed ahead of a mistake is dropped with it.
    fn try_once_more(
        &mut self,
        cx: &mut Cx<'_>,
        tries: u8,
        lead: &[String],
        prompts: &[String],
        after: NodeId,
    ) -> Option<NodeId> {
        let run = self.flow.as_deref_mut()?;
        run.keys.clear();
        run.tries = run.tries.saturating_add(1);
        if run.tries >= tries {
            return Some(after);
        }
        self.flow_play(cx, [lead, prompts].concat(), true);
        None
    }

    /// Silence, or prompts whose end nobody reported.
    pub(crate) fn flow_timer(&mut self, cx: &mut Cx<'_>) {
        let Some(run) = self.flow.as_deref() else { return };
        if matches!(run.wait, Wait::Prompt { .. }) {
            self.flow_error(cx, "the end of a prompt was not reported".to_owned());
            return self.flow_after_prompt(cx);
        }
        let Some((flow, id)) = run.here() else { return };
        let Some(node) = flow.node(id) else { return };
        let next = match &node.kind {
            NodeKind::Menu(menu) => {
                self.flow_here(cx, FlowOutcome::NoInput);
                self.try_once_more(cx, menu.tries, &menu.no_input, &menu.prompts, menu.on_timeout)
            }
            NodeKind::Collect(collect) => {
                let digits =
                    self.flow.as_deref_mut().map(|run| std::mem::take(&mut run.keys)).unwrap_or_default();
                if digits.is_empty() {
                    self.flow_here(cx, FlowOutcome::NoInput);
                    self.try_once_more(
                        cx,
                        collect.tries,
                        &collect.no_input,
                        &collect.prompts,
                        collect.on_timeout,
                    )
                } else {
                    self.collected(cx, collect, digits)
                }
            }
            _ => {
                if let Some(run) = self.flow.as_deref_mut() {
                    run.wait = Wait::Nothing;
                }
                None
            }
        };
        if let Some(next) = next {
            self.flow_go(cx, next);
        }
    }

    fn flow_enqueue(&mut self, cx: &mut Cx<'_>, id: NodeId, enqueue: &Enqueue) {
        self.set_attributes(cx, id, &enqueue.attributes);
        if let Some(run) = self.flow.as_deref_mut() {
            run.wait = Wait::Nothing;
            run.keys.clear();
        }
        self.enter_queue(cx, enqueue.queue.clone(), enqueue.priority, cx.now);
    }

    fn enqueue_node(&self) -> Option<Enqueue> {
        let (flow, id) = self.flow.as_deref().and_then(FlowRun::here)?;
        match &flow.node(id)?.kind {
            NodeKind::Enqueue(enqueue) => Some(enqueue.clone()),
            _ => None,
        }
    }

    /// The queue gave no place: true when the flow knows what to do.
    pub(crate) fn flow_after_refusal(&mut self, cx: &mut Cx<'_>) -> bool {
        let next = self.enqueue_node().and_then(|enqueue| enqueue.on_refused);
        next.inspect(|next| self.flow_go(cx, *next)).is_some()
    }

    /// The longest wait is over: true when the flow knows what to do.
    pub(crate) fn flow_after_timeout(&mut self, cx: &mut Cx<'_>) -> bool {
        let next = self.enqueue_node().and_then(|enqueue| enqueue.on_timeout);
        next.inspect(|next| self.flow_go(cx, *next)).is_some()
    }

    fn set_attributes(&mut self, cx: &mut Cx<'_>, id: NodeId, attributes: &BTreeMap<String, Text>) {
        for (name, text) in attributes {
            if self.attributes.len() >= MAX_ATTRIBUTES && !self.attributes.contains_key(name) {
                self.flow_error(
                    cx,
                    format!("no room for attribute {name:?}: a call has at most {MAX_ATTRIBUTES}"),
                );
                continue;
            }
            let value = text.render(|name| self.variable(name));
            // A replay, or a node entered again, sets what is set.
            if self.attributes.get(name) != Some(&value) {
                self.flow_event(cx, id, FlowOutcome::Set { name: name.clone(), value });
            }
        }
    }

    /// Attributes first, then what was keyed, then what is known of the call.
    fn variable(&self, name: &str) -> Option<&str> {
        let collected = || self.flow.as_deref().and_then(|run| run.variables.get(name));
        if let Some(value) = self.attributes.get(name).or_else(collected) {
            return Some(value);
        }
        let origin = self.origin.as_deref()?;
        match name {
            "caller_number" => Some(&origin.caller_number),
            "caller_name" => Some(&origin.caller_name),
            "dialled" => Some(&origin.dialled),
            _ => None,
        }
    }

    fn flow_broken(&mut self, cx: &mut Cx<'_>, problem: &str) {
        self.flow_error(cx, problem.to_owned());
        self.end(cx, ReleaseCause::Internal, EndedBy::Flow);
    }

    /// Something in the flow did not work; the call goes on.
    pub(crate) fn flow_error(&mut self, cx: &mut Cx<'_>, problem: String) {
        if self.flow.is_some() {
            self.flow_here(cx, FlowOutcome::Error(problem));
        }
    }

    fn flow_here(&mut self, cx: &mut Cx<'_>, outcome: FlowOutcome) {
        if let Some((_, id)) = self.flow.as_deref().and_then(FlowRun::here) {
            self.flow_event(cx, id, outcome);
        }
    }

    fn flow_event(&mut self, cx: &mut Cx<'_>, id: NodeId, outcome: FlowOutcome) {
        let flow = self.flow.as_deref().and_then(|run| run.flow.clone());
        let name = flow.as_deref().and_then(|flow| flow.node(id)).map(|node| node.name.clone());
        self.emit(cx, EventBody::FlowStep { node: name.unwrap_or_default(), outcome });
    }

    fn digits_event(&mut self, cx: &mut Cx<'_>, count: u32, how: DigitsHow) {
        let leg = self.caller_leg();
        self.emit(cx, EventBody::DigitsReceived { leg, count, how });
    }
}
