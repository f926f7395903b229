//! A queue's events as the journal keeps them.

use trunkline_acd_core::{
    Enqueue, Outcome, QueueEvent, Strategy,
    queue::{Candidate, Decision, Exclusion, ExclusionReason, OfferOutcome},
};
use trunkline_proto::acd::v1::{self as pb, queue_event::Event};
use trunkline_types::Epoch;

use super::{
    Malformed, Parsed, at, at_some, card, cause, micros_some, outcome, outcome_to, parse, parse_some,
    queue_message::{leave_cause, leave_cause_to},
};

/// The name under which the journal keeps it.
pub(crate) fn kind(event: &QueueEvent) -> &'static str {
    match event {
        QueueEvent::Enqueued { .. } => "queue.enqueued",
        QueueEvent::Refused { .. } => "queue.refused",
        QueueEvent::NeverQueued { .. } => "queue.never_queued",
        QueueEvent::Committed { .. } => "queue.committed",
        QueueEvent::OfferEnded { .. } => "queue.offer_ended",
        QueueEvent::Answered { .. } => "queue.answered",
        QueueEvent::Left { .. } => "queue.left",
    }
}

pub(crate) fn encode(event: &QueueEvent) -> pb::QueueEvent {
    let body = match event {
        QueueEvent::Enqueued {
            at,
            entered_at,
            seq,
            priority,
            rank_at,
            expires_at,
            target_at,
            short_until,
            enqueue,
            ..
        } => Event::Enqueued(pb::QueueEnqueued {
            entry: enqueue.entry,
            priority: i32::from(*priority),
            rank_us: rank_at.as_micros(),
            seq: *seq,
            expires_us: micros_some(*expires_at),
            target_us: target_at.as_micros(),
            short_until_us: short_until.as_micros(),
            card: Some(card(
                &enqueue.caller,
                &enqueue.caller_name,
                &enqueue.dialled,
                &enqueue.attributes,
                &enqueue.consulted_by,
            )),
            requested_priority: enqueue.priority.map(i32::from),
            entered_us: if entered_at == at { 0 } else { entered_at.as_micros() },
        }),
        QueueEvent::Refused { entry, cause, .. } => {
            Event::Refused(pb::QueueRefused { entry: *entry, cause: cause.as_str().to_owned() })
        }
        QueueEvent::NeverQueued { entry, cause, .. } => {
            Event::NeverQueued(pb::QueueNever { entry: *entry, cause: leave_cause_to(*cause).into() })
        }
        QueueEvent::Committed { offer, agent, agent_epoch, decision, .. } => {
            Event::Committed(pb::OfferCommitted {
                offer_id: offer.to_string(),
                agent_id: agent.to_string(),
                agent_epoch: agent_epoch.0,
                explanation: Some(explanation(decision)),
            })
        }
        QueueEvent::OfferEnded { offer, agent, outcome, ended_at, avoid_until, .. } => {
            Event::OfferEnded(pb::OfferEnded {
                offer_id: offer.to_string(),
                agent_id: agent.to_string(),
                outcome: offer_outcome_to(*outcome).into(),
                ended_us: ended_at.as_micros(),
                avoid_until_us: micros_some(*avoid_until),
            })
        }
        QueueEvent::Answered { offer, agent, enqueued_at, within_target, .. } => {
            Event::Answered(pb::QueueAnswered {
                offer_id: offer.to_string(),
                agent_id: agent.to_string(),
                entered_us: enqueued_at.as_micros(),
                within_target: *within_target,
            })
        }
        QueueEvent::Left { entry, cause, enqueued_at, short, ringing_at, .. } => Event::Left(pb::QueueLeft {
            entry: *entry,
            cause: leave_cause_to(*cause).into(),
            entered_us: enqueued_at.as_micros(),
            short_abandon: *short,
            ringing_at: ringing_at.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
    };
    pb::QueueEvent { at_us: event.at().as_micros(), call_id: event.call().to_string(), event: Some(body) }
}

pub(crate) fn decode(event: pb::QueueEvent) -> Parsed<QueueEvent> {
    let (call, when) = (parse("call_id", &event.call_id)?, at(event.at_us));
    Ok(match event.event.ok_or(Malformed("event"))? {
        Event::Enqueued(m) => {
            let card = m.card.unwrap_or_default();
            QueueEvent::Enqueued {
                at: when,
                entered_at: at_some(m.entered_us).unwrap_or(when),
                call,
                seq: m.seq,
                priority: priority(m.priority),
                rank_at: at(m.rank_us),
                expires_at: at_some(m.expires_us),
                target_at: at(m.target_us),
                short_until: at(m.short_until_us),
                enqueue: Box::new(Enqueue {
                    entry: m.entry,
                    priority: m.requested_priority.map(priority),
                    caller: card.caller_number,
                    caller_name: card.caller_name,
                    dialled: card.dialled,
                    attributes: card.attributes.into_iter().collect(),
                    consulted_by: card.consulted_by,
                    entered_at: None,
                }),
            }
        }
        Event::Refused(m) => QueueEvent::Refused { at: when, call, entry: m.entry, cause: cause(&m.cause) },
        Event::NeverQueued(m) => QueueEvent::NeverQueued {
            at: when,
            call,
            entry: m.entry,
            cause: leave_cause(m.cause()).ok_or(Malformed("cause"))?,
        },
        Event::Committed(m) => QueueEvent::Committed {
            at: when,
            offer: parse("offer_id", &m.offer_id)?,
            call,
            agent: parse("agent_id", &m.agent_id)?,
            agent_epoch: Epoch(m.agent_epoch),
            decision: Box::new(decision(m.explanation.ok_or(Malformed("explanation"))?)?),
        },
        Event::OfferEnded(m) => QueueEvent::OfferEnded {
            at: when,
            offer: parse("offer_id", &m.offer_id)?,
            call,
            agent: parse("agent_id", &m.agent_id)?,
            outcome: offer_outcome(m.outcome())?,
            ended_at: at(m.ended_us),
            avoid_until: at_some(m.avoid_until_us),
        },
        Event::Answered(m) => QueueEvent::Answered {
            at: when,
            offer: parse("offer_id", &m.offer_id)?,
            call,
            agent: parse("agent_id", &m.agent_id)?,
            enqueued_at: at(m.entered_us),
            within_target: m.within_target,
        },
        Event::Left(m) => QueueEvent::Left {
            at: when,
            call,
            entry: m.entry,
            cause: leave_cause(m.cause()).ok_or(Malformed("cause"))?,
            enqueued_at: at(m.entered_us),
            short: m.short_abandon,
            ringing_at: parse_some("ringing_at", &m.ringing_at)?,
        },
    })
}

fn priority(wire: i32) -> i16 {
    wire.clamp(-100, 100) as i16
}

fn offer_outcome(wire: pb::OfferOutcome) -> Parsed<OfferOutcome> {
    if wire == pb::OfferOutcome::Rejected {
        return Ok(OfferOutcome::Rejected);
    }
    outcome(wire).map(OfferOutcome::Agent).ok_or(Malformed("outcome"))
}

fn offer_outcome_to(outcome: OfferOutcome) -> pb::OfferOutcome {
    match outcome {
        OfferOutcome::Rejected => pb::OfferOutcome::Rejected,
        OfferOutcome::Agent(outcome) => outcome_to(outcome),
    }
}

fn explanation(d: &Decision) -> pb::Explanation {
    pb::Explanation {
        strategy: strategy_name(d.strategy).to_owned(),
        configuration_version: d.config_version,
        position: d.position,
        waiting: d.waiting,
        candidates_total: d.candidate_count,
        candidates: d
            .candidates
            .iter()
            .map(|c| pb::Candidate {
                agent_id: c.agent.to_string(),
                idle_since_us: c.idle_since.as_micros(),
                skill_level: u32::from(c.skill_level),
                score: c.score,
            })
            .collect(),
        excluded_total: d.excluded_count,
        exclusions: d.excluded.iter().map(exclusion_to).collect(),
        chosen_us: d.chosen_at.as_micros(),
    }
}

fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::LongestIdle => "longest_idle",
        _ => "unknown",
    }
}

fn exclusion_to(e: &Exclusion) -> pb::Exclusion {
    let mut wire = pb::Exclusion { agent_id: e.agent.to_string(), ..Default::default() };
    let reason = match e.reason {
        ExclusionReason::Skill { has, needs } => {
            (wire.has_level, wire.needs_level) = (u32::from(has), u32::from(needs));
            "skill"
        }
        ExclusionReason::Reserving => "reserving",
        ExclusionReason::Unresponsive => "unresponsive",
        ExclusionReason::Avoided { after } => {
            wire.after = offer_outcome_to(after).into();
            "avoided"
        }
        ExclusionReason::Unavailable => "unavailable",
    };
    wire.reason = reason.to_owned();
    wire
}

fn exclusion(e: pb::Exclusion) -> Parsed<Exclusion> {
    let level = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
    let reason = match e.reason.as_str() {
        "skill" => ExclusionReason::Skill { has: level(e.has_level), needs: level(e.needs_level) },
        "reserving" => ExclusionReason::Reserving,
        "unresponsive" => ExclusionReason::Unresponsive,
        "avoided" => {
            let after = offer_outcome(e.after()).unwrap_or(OfferOutcome::Agent(Outcome::Missed));
            ExclusionReason::Avoided { after }
        }
        _ => ExclusionReason::Unavailable,
    };
    Ok(Exclusion { agent: parse("exclusion.agent_id", &e.agent_id)?, reason })
}

fn decision(e: pb::Explanation) -> Parsed<Decision> {
    let candidates = e
        .candidates
        .into_iter()
        .map(|c| {
            Ok(Candidate {
                agent: parse("candidate.agent_id", &c.agent_id)?,
                idle_since: at(c.idle_since_us),
                skill_level: u8::try_from(c.skill_level).unwrap_or(5),
                score: c.score,
            })
        })
        .collect::<Parsed<_>>()?;
    Ok(Decision {
        // The only one there is.
        strategy: Strategy::LongestIdle,
        config_version: e.configuration_version,
        chosen_at: at(e.chosen_us),
        position: e.position,
        waiting: e.waiting,
        candidate_count: e.candidates_total,
        candidates,
        excluded_count: e.excluded_total,
        excluded: e.exclusions.into_iter().map(exclusion).collect::<Parsed<_>>()?,
    })
}
