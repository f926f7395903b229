//! An agent's events as the journal keeps them.

use trunkline_acd_core::{
    AgentEvent, AgentToCall, SessionId,
    agent::{
        Answer, CommandError, CommandRef, CommandReply, Console, DetachReason, NextStatus, Notes, WrapUpEnd,
    },
};
use trunkline_proto::acd::v1::{self as pb, agent_command_begun::Request, agent_event::Event};
use trunkline_types::{CallId, Epoch, OfferId};

use super::{
    Malformed, Parsed,
    agent_message::{action, control_of},
    at, at_some, cause, micros_some, outcome, outcome_to, parse,
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
        AgentEvent::SessionAttached { .. } => "agent.session_attached",
        AgentEvent::SessionDetached { .. } => "agent.session_detached",
        AgentEvent::CommandBegun { .. } => "agent.command_begun",
        AgentEvent::CommandEnded { .. } => "agent.command_ended",
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
        AgentEvent::CommandBegun { request, .. } => match &**request {
            AgentToCall::Control { offer, .. } | AgentToCall::RemakeMedia { offer, .. } => Some(offer),
            _ => None,
        },
        AgentEvent::CommandEnded { answer, .. } => match &**answer {
            Ok(CommandReply::Media { offer, .. }) => Some(offer),
            _ => None,
        },
        _ => None,
    }
}

fn by_of(event: &AgentEvent) -> Option<&CommandRef> {
    match event {
        AgentEvent::OfferEnded { by, .. }
        | AgentEvent::WrapUpExtended { by, .. }
        | AgentEvent::WrapUpEnded { by, .. } => by.as_ref(),
        AgentEvent::CommandBegun { by, .. } | AgentEvent::CommandEnded { by, .. } => Some(by),
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
        AgentEvent::SessionAttached { session, console, connection, .. } => {
            Event::SessionAttached(pb::AgentSessionAttached {
                session: session.0.clone(),
                console: console.node.to_string(),
                console_incarnation: console.incarnation,
                connection: *connection,
            })
        }
        AgentEvent::SessionDetached { session, reason, .. } => {
            let (session, reason) = (session.0.clone(), reason.as_str().to_owned());
            Event::SessionDetached(pb::AgentSessionDetached { session, reason })
        }
        AgentEvent::CommandBegun { control, request, .. } => {
            Event::CommandBegun(pb::AgentCommandBegun { control: *control, request: request_to(request) })
        }
        AgentEvent::CommandEnded { control, answer, .. } => Event::CommandEnded(answer_to(*control, answer)),
    };
    let call_id = event.call().map(|call| call.to_string()).unwrap_or_default();
    let by = by_of(event).map(|by| pb::AgentCommandRef { session: by.session.0.clone(), id: by.id.clone() });
    pb::AgentEvent { at_us: event.at().as_micros(), offer_id, call_id, event: Some(body), by }
}

fn request_to(request: &AgentToCall) -> Option<Request> {
    match request {
        AgentToCall::Control { action, .. } => Some(Request::Call(control_of(action))),
        AgentToCall::RemakeMedia { sdp_offer, .. } => {
            Some(Request::Media(pb::ResumeMedia { sdp_offer: sdp_offer.clone(), take_over: false }))
        }
        // Nothing else is journalled as begun.
        _ => None,
    }
}

fn request(m: pb::AgentCommandBegun, offer: OfferId, session: &SessionId) -> Parsed<AgentToCall> {
    let control = m.control;
    Ok(match m.request.ok_or(Malformed("command_begun.request"))? {
        Request::Call(call) => {
            let action = action(call.control.ok_or(Malformed("command_begun.control"))?)?;
            AgentToCall::Control { offer, control, action }
        }
        Request::Media(media) => {
            let (session, sdp_offer) = (session.clone(), media.sdp_offer);
            AgentToCall::RemakeMedia { offer, control, session, sdp_offer }
        }
    })
}

/// Only these answers end a request to the call; see `agent::conversation` in the core.
fn answer_to(control: u64, answer: &Answer) -> pb::AgentCommandEnded {
    let mut ended = pb::AgentCommandEnded { control, ..Default::default() };
    match answer {
        Ok(CommandReply::Done) => {}
        Ok(CommandReply::Media { sdp_answer, .. }) => ended.sdp_answer.clone_from(sdp_answer),
        Err(CommandError::Call { reason }) => {
            (ended.error, ended.reason) = ("call".to_owned(), reason.clone());
        }
        Err(CommandError::CallEnded) => ended.error = "call_ended".to_owned(),
        Err(other) => (ended.error, ended.reason) = ("call".to_owned(), other.to_string()),
    }
    ended
}

fn answer(m: pb::AgentCommandEnded, offer_id: &str) -> Parsed<Answer> {
    Ok(match m.error.as_str() {
        "" if offer_id.is_empty() => Ok(CommandReply::Done),
        "" => {
            let offer = parse("offer_id", offer_id)?;
            Ok(CommandReply::Media { offer, sdp_answer: m.sdp_answer })
        }
        "call_ended" => Err(CommandError::CallEnded),
        _ => Err(CommandError::Call { reason: m.reason }),
    })
}

pub(crate) fn decode(event: pb::AgentEvent) -> Parsed<AgentEvent> {
    let when = at(event.at_us);
    let offer = || parse::<OfferId>("offer_id", &event.offer_id);
    let call = || parse::<CallId>("call_id", &event.call_id);
    let by = event.by.clone().map(|by| CommandRef { session: SessionId(by.session), id: by.id });
    let by_whom = || by.clone().ok_or(Malformed("by"));
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
            by,
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
            AgentEvent::WrapUpExtended { at: when, offer: offer()?, until: at(m.until_us), by }
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
            by,
        },
        Event::Next(m) => AgentEvent::NextStatusSet { at: when, next: next(&m) },
        Event::OutcomeSeen(_) => AgentEvent::OutcomeSeen { at: when, offer: offer()? },
        Event::SessionAttached(m) => {
            let node = parse("session_attached.console", &m.console)?;
            let console = Console { node, incarnation: m.console_incarnation };
            let (session, connection) = (SessionId(m.session), m.connection);
            AgentEvent::SessionAttached { at: when, session, console, connection }
        }
        Event::SessionDetached(m) => {
            // Reasons are additive.
            let reason = DetachReason::parse(&m.reason).unwrap_or(DetachReason::Closed);
            AgentEvent::SessionDetached { at: when, session: SessionId(m.session), reason }
        }
        Event::CommandBegun(m) => {
            let (by, control) = (by_whom()?, m.control);
            let request = Box::new(request(m, offer()?, &by.session)?);
            AgentEvent::CommandBegun { at: when, by, control, request }
        }
        Event::CommandEnded(m) => AgentEvent::CommandEnded {
            at: when,
            by: by_whom()?,
            control: m.control,
            answer: Box::new(answer(m, &event.offer_id)?),
        },
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
