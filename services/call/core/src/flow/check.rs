//! Checks of a flow's shape: what is never reached, and circles in which a call would never wait.

use super::{
    model::{Flow, NodeId, NodeKind},
    parse::FlowProblem,
};

/// Problems of the whole, with the node where they show.
pub(super) fn shape(flow: &Flow) -> Vec<FlowProblem> {
    let mut problems = Vec::new();
    let reached = reach(flow);
    for (node, reached) in flow.nodes().iter().zip(&reached) {
        if !reached {
            problems.push(FlowProblem {
                node: node.name.clone(),
                field: String::new(),
                problem: "no way leads here from the start: remove it or refer to it".into(),
            });
        }
    }
    if let Some(at) = circle(flow) {
        problems.push(FlowProblem {
            node: flow.node(at).map(|node| node.name.clone()).unwrap_or_default(),
            field: String::new(),
            problem: "a circle of branch and set nodes in which the call would never wait".into(),
        });
    }
    problems
}

/// Where a node may lead.
fn ways(kind: &NodeKind) -> Vec<NodeId> {
    match kind {
        NodeKind::Play(play) => vec![play.next],
        NodeKind::Menu(menu) => {
            menu.choices.values().copied().chain([menu.on_invalid, menu.on_timeout]).collect()
        }
        NodeKind::Collect(collect) => vec![collect.next, collect.on_invalid, collect.on_timeout],
        NodeKind::Branch(branch) => {
            branch.cases.values().chain(branch.prefixes.values()).copied().chain([branch.otherwise]).collect()
        }
        NodeKind::Set(set) => vec![set.next],
        NodeKind::Enqueue(enqueue) => enqueue.on_refused.into_iter().chain(enqueue.on_timeout).collect(),
        NodeKind::Hangup(_) => Vec::new(),
    }
}

fn reach(flow: &Flow) -> Vec<bool> {
    let mut reached = vec![false; flow.nodes().len()];
    let mut open = vec![flow.start()];
    while let Some(id) = open.pop() {
        let Some(node) = flow.node(id) else { continue };
        if std::mem::replace(&mut reached[usize::from(id.0)], true) {
            continue;
        }
        open.extend(ways(&node.kind));
    }
    reached
}

/// Depth-first over the nodes that do not wait.
fn circle(flow: &Flow) -> Option<NodeId> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let passes = |id: NodeId| {
        flow.node(id).is_some_and(|node| matches!(node.kind, NodeKind::Branch(_) | NodeKind::Set(_)))
    };
    let mut marks = vec![Mark::New; flow.nodes().len()];
    for first in (0..flow.nodes().len()).filter_map(|n| u16::try_from(n).ok()).map(NodeId) {
        if !passes(first) || marks[usize::from(first.0)] != Mark::New {
            continue;
        }
        // (node, true = leaving it)
        let mut stack = vec![(first, false)];
        while let Some((id, leaving)) = stack.pop() {
            let mark = &mut marks[usize::from(id.0)];
            match (leaving, *mark) {
                (true, _) => *mark = Mark::Done,
                (false, Mark::Done) => {}
                (false, Mark::Open) => return Some(id),
                (false, Mark::New) => {
                    *mark = Mark::Open;
                    stack.push((id, true));
                    let next = flow.node(id).map(|node| ways(&node.kind)).unwrap_or_default();
                    for way in next.into_iter().filter(|way| passes(*way)) {
                        if marks[usize::from(way.0)] == Mark::Open {
                            return Some(way);
                        }
                        stack.push((way, false));
                    }
                }
            }
        }
    }
    None
}
