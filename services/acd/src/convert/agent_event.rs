//! An agent's events as the journal keeps them.

use trunkline_acd_core::{
    AgentEvent, SessionId,
    agent::{NextStatus, Notes, WrapUpEnd},
};
use trunkline_proto::acd::v1::{self as pb, agent_event::Event};
use trunkline_types::{CallId, Epoch, OfferId};

use super::{
    Malformed, Parsed, at, at_some, cause, micros_some, outcome, outcome_to, parse,
    queue_message::{commit, offer_card},
};

/// The name under which the journal keeps it.
pub(crate) fn kind(event: &AgentEvent) -> &'static str {
    match event {
        AgentEvent::SignedIn { .. } => "agent.signed_in",
        AgentEvent::SignedOut { .. } => "agent.signed_out",
        AgentEvent::Ready { .. } => "agent.ready",
        AgentEvent::NotReady { .. } => "agent.not_ready",
        AgentEvent::Offered { .. } => "agent.offered",
        AgentEvent::Accepted { .. } => "agent.accepted",
        AgentEvent::OfferEnded { .. } => "agent.offer_ended",
        AgentEvent::Connected { .. } => "agent.connected",
        AgentEvent::HoldChanged { .. } => "agent.hold",
        AgentEvent::CallEnded { .. } => "agent.call_ended",
        AgentEvent::WrapUpExtended { .. } => "agent.wrap_up_extended",
        AgentEvent::NotesSaved { .. } => "agent.notes",
        AgentEvent::WrapUpEnded { .. } => "agent.wrap_up_ended",
        AgentEvent::NextStatusSet { .. } => "agent.next",
        AgentEvent::OutcomeSeen { .. } => "agent.outcome_seen",
    }
}

fn offer_of(event: &AgentEvent) -> Option<&OfferId> {
    match event {
        AgentEvent::Offered { offer, .. }
        | AgentEvent::Accepted { offer, .. }
        | AgentEvent::OfferEnded { offer, .. }
        | AgentEvent::Connected { offer, .. }
        | AgentEvent::HoldChanged { offer, .. }
        | AgentEvent::CallEnded { offer, .. }
        | AgentEvent::WrapUpExtended { offer, .. }
        | AgentEvent::NotesSaved { offer, .. }
        | AgentEvent::WrapUpEnded { offer, .. }
        | AgentEvent::OutcomeSeen { offer, .. } => Some(offer),
        _ => None,
    }
}

pub(crate) fn encode(event: &AgentEvent) -> pb::AgentEvent {
    let offer_id = offer_of(event).map(ToString::to_string).unwrap_or_default();
    let body = match event {
        AgentEvent::SignedIn { session, .. } => {
            Event::SignedIn(pb::AgentSignedIn { session: session.0.clone() })
        }
        AgentEvent::SignedOut { reason, .. } => {
            Event::SignedOut(pb::AgentSignedOut { reason: reason.clone() })
        }
        AgentEvent::Ready { idle_since, .. } => {
            Event::Ready(pb::AgentReady { idle_since_us: idle_since.as_micros() })
        }
        AgentEvent::NotReady { reason, .. } => Event::NotReady(pb::AgentNotReady { reason: reason.clone() }),
        AgentEvent::Offered { card, ring_until, .. } => Event::Offered(pb::AgentOffered {
            commit: Some(commit(&offer_id, Epoch(0), card)),
            until_us: ring_until.as_micros(),
        }),
        AgentEvent::Accepted { session, sdp_offer, connect_until, .. } => {
            Event::Accepted(pb::AgentAccepted {
                session: session.0.clone(),
                sdp_offer: sdp_offer.clone(),
                until_us: connect_until.as_micros(),
            })
        }
        AgentEvent::OfferEnded { outcome, .. } => {
            Event::OfferEnded(pb::AgentOfferEnded { outcome: outcome_to(*outcome).into() })
        }
        AgentEvent::Connected { .. } => Event::Connected(pb::AgentTalking {}),
        AgentEvent::HoldChanged { held, .. } => Event::Hold(pb::AgentHoldChanged { on_hold: *held }),
        AgentEvent::CallEnded { cause, wrap_up_until, .. } => Event::CallEnded(pb::AgentCallOver {
            cause: cause.as_str().to_owned(),
            wrap_up_until_us: micros_some(*wrap_up_until),
        }),
        AgentEvent::WrapUpExtended { until, .. } => {
            Event::WrapUpExtended(pb::AgentWrapUpExtended { until_us: until.as_micros() })
        }
        AgentEvent::NotesSaved { notes, .. } => Event::Notes(notes_to(notes)),
        AgentEvent::WrapUpEnded { end, notes, .. } => Event::WrapUpEnded(pb::AgentWrapUpEnded {
            end: end_to(*end).into(),
            notes: Some(notes_to(notes)),
        }),
        AgentEvent::NextStatusSet { next, .. } => Event::Next(next_to(next.as_ref())),
        AgentEvent::OutcomeSeen { .. } => Event::OutcomeSeen(pb::AgentOutcomeSeen {}),
    };
    let call_id = event.call().map(|call| call.to_string()).unwrap_or_default();
    pb::AgentEvent { at_us: event.at().as_micros(), offer_id, call_id, event: Some(body) }
}

pub(crate) fn decode(event: pb::AgentEvent) -> Parsed<AgentEvent> {
    let when = at(event.at_us);
    let offer = || parse::<OfferId>("offer_id", &event.offer_id);
    let call = || parse::<CallId>("call_id", &event.call_id);
    Ok(match event.event.ok_or(Malformed("event"))? {
        Event::SignedIn(m) => AgentEvent::SignedIn { at: when, session: SessionId(m.session) },
        Event::SignedOut(m) => AgentEvent::SignedOut { at: when, reason: m.reason },
        Event::Ready(m) => AgentEvent::Ready { at: when, idle_since: at(m.idle_since_us) },
        Event::NotReady(m) => AgentEvent::NotReady { at: when, reason: m.reason },
        Event::Offered(m) => AgentEvent::Offered {
            at: when,
            offer: offer()?,
            card: Box::new(offer_card(&m.commit.ok_or(Malformed("commit"))?)?),
            ring_until: at(m.until_us),
        },
        Event::Accepted(m) => AgentEvent::Accepted {
            at: when,
            offer: offer()?,
            session: SessionId(m.session),
            sdp_offer: m.sdp_offer,
            connect_until: at(m.until_us),
        },
        Event::OfferEnded(m) => AgentEvent::OfferEnded {
            at: when,
            offer: offer()?,
            call: call()?,
            outcome: outcome(m.outcome()).ok_or(Malformed("outcome"))?,
        },
        Event::Connected(_) => AgentEvent::Connected { at: when, offer: offer()?, call: call()? },
        Event::Hold(m) => AgentEvent::HoldChanged { at: when, offer: offer()?, held: m.on_hold },
        Event::CallEnded(m) => AgentEvent::CallEnded {
            at: when,
            offer: offer()?,
            call: call()?,
            cause: cause(&m.cause),
            wrap_up_until: at_some(m.wrap_up_until_us),
        },
        Event::WrapUpExtended(m) => {
            AgentEvent::WrapUpExtended { at: when, offer: offer()?, until: at(m.until_us) }
        }
        Event::Notes(m) => {
            AgentEvent::NotesSaved { at: when, offer: offer()?, call: call()?, notes: Box::new(notes(m)) }
        }
        Event::WrapUpEnded(m) => AgentEvent::WrapUpEnded {
            at: when,
            offer: offer()?,
            call: call()?,
            end: end(m.end())?,
            notes: Box::new(notes(m.notes.unwrap_or_default())),
        },
        Event::Next(m) => AgentEvent::NextStatusSet { at: when, next: next(&m) },
        Event::OutcomeSeen(_) => AgentEvent::OutcomeSeen { at: when, offer: offer()? },
    })
}

pub(crate) fn notes_to(notes: &Notes) -> pb::AgentNotes {
    pb::AgentNotes {
        disposition: notes.disposition.clone(),
        tags: notes.tags.clone(),
        text: notes.text.clone(),
    }
}

fn notes(wire: pb::AgentNotes) -> Notes {
    Notes { disposition: wire.disposition, tags: wire.tags, text: wire.text }
}

fn end_to(end: WrapUpEnd) -> pb::agent_wrap_up_ended::End {
    use pb::agent_wrap_up_ended::End;
    match end {
        WrapUpEnd::ByAgent => End::ByAgent,
        WrapUpEnd::TimedOut => End::TimedOut,
        WrapUpEnd::None => End::None,
    }
}

fn end(wire: pb::agent_wrap_up_ended::End) -> Parsed<WrapUpEnd> {
    use pb::agent_wrap_up_ended::End;
    Ok(match wire {
        End::ByAgent => WrapUpEnd::ByAgent,
        End::TimedOut => WrapUpEnd::TimedOut,
        End::None => WrapUpEnd::None,
        End::Unspecified => return Err(Malformed("end")),
    })
}

fn next_to(next: Option<&NextStatus>) -> pb::AgentNextSet {
    use pb::agent_next_set::Next;
    match next {
        None => pb::AgentNextSet { next: Next::Ready.into(), reason: String::new() },
        Some(NextStatus::NotReady { reason }) => {
            pb::AgentNextSet { next: Next::NotReady.into(), reason: reason.clone() }
        }
        Some(NextStatus::SignedOut) => {
            pb::AgentNextSet { next: Next::SignedOut.into(), reason: String::new() }
        }
    }
}

fn next(wire: &pb::AgentNextSet) -> Option<NextStatus> {
    use pb::agent_next_set::Next;
    match wire.next() {
        Next::Ready | Next::Unspecified => None,
        Next::NotReady => Some(NextStatus::NotReady { reason: wire.reason.clone() }),
        Next::SignedOut => Some(NextStatus::SignedOut),
    }
}
