//! The three kinds of core behind one face.

use trunkline_acd_core::{
    Agent, AgentEffect, AgentEvent, AgentInput, Queue, QueueEffect, QueueEvent, QueueInput,
};
use trunkline_call_core::{Call, Effect as CallEffect, Event as CallEvent, EventBody, Input as CallInput};
use trunkline_types::{Machine, Outbox, Output, Timestamp};

/// An entity of the simulation, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entity {
    Queue(usize),
    Agent(usize),
    Call(usize),
}

/// An event.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    Queue(QueueEvent),
    Agent(AgentEvent),
    Call(Box<CallEvent>),
}

/// An effect.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Queue(QueueEffect),
    Agent(AgentEffect),
    Call(Box<CallEffect>),
}

/// An input.
#[derive(Debug, Clone)]
pub(super) enum Word {
    Queue(Box<QueueInput>),
    Agent(Box<AgentInput>),
    Call(Box<CallInput>),
}

/// What a core is to do.
pub(super) enum Work {
    Hear(Word),
    Advance,
    TakeOver,
}

pub(super) enum Core {
    Queue(Box<Queue>),
    Agent(Box<Agent>),
    Call(Box<Call>),
}

type Outputs = Vec<Output<Fact, Deed>>;

fn gather<Ev, Ef>(mut out: Outbox<Ev, Ef>, fact: impl Fn(Ev) -> Fact, deed: impl Fn(Ef) -> Deed) -> Outputs {
    out.drain()
        .map(|output| match output {
            Output::Event(event) => Output::Event(fact(event)),
            Output::Effect(effect) => Output::Effect(deed(effect)),
        })
        .collect()
}

fn work<M: Machine>(
    machine: &mut M,
    now: Timestamp,
    hear: Option<M::Input>,
    take_over: bool,
) -> Outbox<M::Event, M::Effect> {
    let mut out = Outbox::new();
    if take_over {
        machine.recovered(now, &mut out);
    } else {
        machine.advance(now, &mut out);
    }
    if let Some(input) = hear {
        machine.handle(now, input, &mut out);
    }
    out
}

impl Core {
    pub(super) fn apply(&mut self, fact: &Fact) {
        match (self, fact) {
            (Self::Queue(queue), Fact::Queue(event)) => queue.apply(event),
            (Self::Agent(agent), Fact::Agent(event)) => agent.apply(event),
            (Self::Call(call), Fact::Call(event)) => call.apply(event),
            _ => unreachable!("a history of another kind"),
        }
    }

    pub(super) fn work(&mut self, now: Timestamp, what: Work) -> Outputs {
        let take_over = matches!(what, Work::TakeOver);
        let word = match what {
            Work::Hear(word) => Some(word),
            _ => None,
        };
        match self {
            Self::Queue(queue) => {
                let input = word.map(|word| match word {
                    Word::Queue(input) => *input,
                    other => unreachable!("to a queue: {other:?}"),
                });
                gather(work(&mut **queue, now, input, take_over), Fact::Queue, Deed::Queue)
            }
            Self::Agent(agent) => {
                let input = word.map(|word| match word {
                    Word::Agent(input) => *input,
                    other => unreachable!("to an agent: {other:?}"),
                });
                gather(work(&mut **agent, now, input, take_over), Fact::Agent, Deed::Agent)
            }
            Self::Call(call) => {
                let input = word.map(|word| match word {
                    Word::Call(input) => *input,
                    other => unreachable!("to a call: {other:?}"),
                });
                let out = work(&mut **call, now, input, take_over);
                gather(out, |event| Fact::Call(Box::new(event)), |effect| Deed::Call(Box::new(effect)))
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Queue(queue) => queue.next_deadline(),
            Self::Agent(agent) => agent.next_deadline(),
            Self::Call(call) => call.next_deadline(),
        }
    }

    /// It has come to its durable end.
    pub(super) fn finished(&self) -> bool {
        matches!(self, Self::Call(call) if call.finished())
    }
}

impl Fact {
    /// Whether effects after it wait for its commit: as in the shells.
    pub(super) fn commits_first(&self) -> bool {
        let Self::Call(event) = self else { return true };
        !matches!(
            event.body,
            EventBody::FlowStep { .. }
                | EventBody::DigitsReceived { .. }
                | EventBody::TranscriptStatus { .. }
                | EventBody::TranscriptSegment(_)
                | EventBody::LegQuality { .. }
                | EventBody::LegMoved { .. }
                | EventBody::MuteChanged { .. }
                | EventBody::LegReleased { .. }
                | EventBody::Ended { .. }
        )
    }
}
