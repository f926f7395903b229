//! What queues and agents add to a call's trace. Spans are short: one for an offer, from its commitment until it is known
//! what became of it, and one for its ringing. Wrap-up may last for minutes: it is one span at its end that says how long
//! it was.

use std::{cell::RefCell, collections::HashMap};

use trunkline_acd_core::{AgentEvent, Outcome, QueueEvent, agent::WrapUpEnd, queue::OfferOutcome};
use trunkline_telemetry::{
    TraceParent, call_span,
    tracing::{Span, field::Empty},
};
use trunkline_types::{AgentId, CallId, OfferId, QueueId, Timestamp};

/// The open offers of a queue: one an agent at most.
#[derive(Default)]
pub(crate) struct OfferSpans(RefCell<HashMap<OfferId, Span>>);

impl OfferSpans {
    /// An event was decided (not replayed).
    pub fn event(&self, queue: &QueueId, event: &QueueEvent) {
        match event {
            QueueEvent::Committed { offer, call, agent, .. } => {
                let span = call_span!("acd.offer", *call, %queue, %agent, offer_id = %offer, outcome = Empty);
                if !span.is_disabled() {
                    self.0.borrow_mut().insert(offer.clone(), span);
                }
            }
            QueueEvent::Answered { offer, .. } => self.end(offer, "answered"),
            QueueEvent::OfferEnded { offer, outcome, .. } => self.end(
                offer,
                match outcome {
                    OfferOutcome::Rejected => "rejected",
                    OfferOutcome::Agent(outcome) => name(*outcome),
                },
            ),
            _ => {}
        }
    }

    /// For messages about an offer; empty when there is no span.
    pub fn traceparent(&self, offer: &OfferId) -> String {
        TraceParent::header(self.0.borrow().get(offer).and_then(TraceParent::of_span))
    }

    fn end(&self, offer: &OfferId, outcome: &'static str) {
        if let Some(span) = self.0.borrow_mut().remove(offer) {
            span.record("outcome", outcome);
        }
    }
}

/// The call in an agent's slot.
#[derive(Default)]
struct Slot {
    ring: Option<Span>,
    /// Names the ring after it has ended: what the agent does next follows from it.
    rang: Option<(CallId, String)>,
    wrap_up_since: Option<Timestamp>,
}

/// The spans of an agent.
#[derive(Default)]
pub(crate) struct AgentSpans(RefCell<Slot>);

impl AgentSpans {
    /// An event was decided (not replayed). `cause` is the traceparent of the message in hand.
    pub fn event(&self, agent: &AgentId, cause: &str, event: &AgentEvent) {
        let mut slot = self.0.borrow_mut();
        match event {
            AgentEvent::Offered { offer, card, .. } => {
                let ring = call_span!("acd.ring", card.call, under = cause,
                    %agent, queue = %card.queue, offer_id = %offer, outcome = Empty);
                slot.rang = TraceParent::of_span(&ring).map(|parent| (card.call, parent.to_string()));
                slot.ring = Some(ring);
            }
            AgentEvent::Accepted { .. } => slot.end("accepted"),
            AgentEvent::OfferEnded { outcome, .. } => slot.end(name(*outcome)),
            AgentEvent::CallEnded { at, wrap_up_until, .. } => {
                slot.wrap_up_since = wrap_up_until.is_some().then_some(*at);
            }
            AgentEvent::WrapUpEnded { at, offer, call, end, .. } => {
                let Some(since) = slot.wrap_up_since.take() else { return };
                let by = match end {
                    WrapUpEnd::ByAgent => "agent",
                    WrapUpEnd::TimedOut => "timeout",
                    WrapUpEnd::None => return,
                };
                let ms = u64::try_from(at.since(since).as_millis()).unwrap_or(u64::MAX);
                drop(call_span!("acd.wrap_up", *call, %agent, offer_id = %offer, by, duration_ms = ms));
            }
            _ => {}
        }
    }

    /// For messages to a call; empty when it has not rung here.
    pub fn traceparent(&self, call: CallId) -> String {
        match &self.0.borrow().rang {
            Some((rang, traceparent)) if *rang == call => traceparent.clone(),
            _ => String::new(),
        }
    }
}

impl Slot {
    fn end(&mut self, outcome: &'static str) {
        if let Some(span) = self.ring.take() {
            span.record("outcome", outcome);
        }
    }
}

const fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Missed => "missed",
        Outcome::Declined => "declined",
        Outcome::Failed => "failed",
        Outcome::CallerGone => "caller_gone",
        Outcome::AgentGone => "agent_gone",
    }
}
