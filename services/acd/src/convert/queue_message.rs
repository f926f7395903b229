//! To and from queues.

use trunkline_acd_core::{
    AgentToQueue, CallToQueue, Enqueue, LeaveCause, OfferCard, QueueInput, QueueToAgent, QueueToCall,
    RefuseReason, Stamp, queue::Position,
};
use trunkline_proto::{
    acd::v1::{self as pb, agent_message, queue_message::Message},
    call::v1::{QueueToCall as CallPb, QueuedAt, queue_to_call},
};
use trunkline_types::{Epoch, QueueId};

use super::{Malformed, Parsed, at, at_some, card, micros, outcome, parse, span};

/// What a queue is told.
pub(crate) fn input(message: pb::QueueMessage) -> Parsed<QueueInput> {
    match message.message.ok_or(Malformed("message"))? {
        Message::Enqueue(m) => from_call(&m.call_id, CallToQueue::Enqueue(Box::new(enqueue(&m)))),
        Message::Leave(m) => {
            let cause = leave_cause(m.cause()).ok_or(Malformed("leave.cause"))?;
            from_call(&m.call_id, CallToQueue::Leave { entry: m.entry, cause })
        }
        Message::Answered(m) => {
            let offer = parse("answered.offer_id", &m.offer_id)?;
            from_call(&m.call_id, CallToQueue::Answered { entry: m.entry, offer, at: at(m.at_us) })
        }
        Message::Alive(m) => from_call(&m.call_id, CallToQueue::Alive { entry: m.entry }),
        Message::Gone(m) => from_call(&m.call_id, CallToQueue::Gone { entry: m.entry }),
        // Answered by the shell: the agent's Ended(failed) is what counts.
        Message::ConnectFailed(_) => Err(Malformed("connect_failed")),
        other => from_agent(other),
    }
}

fn from_call(call: &str, message: CallToQueue) -> Parsed<QueueInput> {
    Ok(QueueInput::FromCall { call: parse("call_id", call)?, message })
}

fn from_agent(message: Message) -> Parsed<QueueInput> {
    let (agent, message) = match message {
        Message::AgentAvailable(m) => {
            let message = AgentToQueue::Available {
                stamp: Stamp { epoch: Epoch(m.agent_epoch), seq: m.sequence },
                idle_since: at(m.idle_since_us),
                skills: m.skills.into_iter().map(|(k, v)| (k, u8::try_from(v).unwrap_or(5).min(5))).collect(),
                validity: span(m.valid_us),
            };
            (m.agent_id, message)
        }
        Message::AgentUnavailable(m) => {
            let stamp = Stamp { epoch: Epoch(m.agent_epoch), seq: m.sequence };
            (m.agent_id, AgentToQueue::Unavailable { stamp })
        }
        Message::Granted(m) => {
            (m.agent_id, AgentToQueue::Granted { offer: parse("granted.offer_id", &m.offer_id)? })
        }
        Message::Refused(m) => {
            let message = AgentToQueue::Refused {
                offer: parse("refused.offer_id", &m.offer_id)?,
                reason: refuse_reason(&m.reason),
                stamp: Stamp { epoch: Epoch(m.agent_epoch), seq: m.sequence },
            };
            (m.agent_id, message)
        }
        Message::Accepted(m) => {
            (m.agent_id, AgentToQueue::Accepted { offer: parse("accepted.offer_id", &m.offer_id)? })
        }
        Message::Rejected(m) => {
            (m.agent_id, AgentToQueue::Rejected { offer: parse("rejected.offer_id", &m.offer_id)? })
        }
        Message::Ended(m) => {
            let message = AgentToQueue::Ended {
                offer: parse("ended.offer_id", &m.offer_id)?,
                outcome: outcome(m.outcome()).ok_or(Malformed("ended.outcome"))?,
                at: at(m.at_us),
            };
            (m.agent_id, message)
        }
        _ => return Err(Malformed("message")),
    };
    Ok(QueueInput::FromAgent { agent: parse("agent_id", &agent)?, message })
}

fn refuse_reason(name: &str) -> RefuseReason {
    match name {
        "stale_epoch" => RefuseReason::StaleEpoch,
        "offer_over" => RefuseReason::OfferOver,
        "not_ready" => RefuseReason::NotReady,
        _ => RefuseReason::Busy,
    }
}

fn refuse_name(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::StaleEpoch => "stale_epoch",
        RefuseReason::OfferOver => "offer_over",
        RefuseReason::NotReady => "not_ready",
        RefuseReason::Busy => "busy",
    }
}

pub(crate) fn leave_cause(cause: pb::LeaveCause) -> Option<LeaveCause> {
    Some(match cause {
        pb::LeaveCause::Abandoned => LeaveCause::Abandoned,
        pb::LeaveCause::Flow => LeaveCause::FlowOut,
        pb::LeaveCause::Lost => LeaveCause::Lost,
        pb::LeaveCause::TimedOut => LeaveCause::Timeout,
        pb::LeaveCause::Unspecified => return None,
    })
}

pub(crate) fn leave_cause_to(cause: LeaveCause) -> pb::LeaveCause {
    match cause {
        LeaveCause::Abandoned => pb::LeaveCause::Abandoned,
        LeaveCause::FlowOut => pb::LeaveCause::Flow,
        LeaveCause::Lost => pb::LeaveCause::Lost,
        LeaveCause::Timeout => pb::LeaveCause::TimedOut,
    }
}

fn enqueue(m: &pb::Enqueue) -> Enqueue {
    let card = m.card.clone().unwrap_or_default();
    Enqueue {
        entry: m.entry,
        // 0 is what a call without a wish of its own has: the queue's default.
        priority: (m.priority != 0).then(|| m.priority.clamp(-100, 100) as i16),
        caller: card.caller_number,
        caller_name: card.caller_name,
        dialled: card.dialled,
        attributes: card.attributes.into_iter().collect(),
        consulted_by: card.consulted_by,
        // A call's first stay begins when the queue says so: clocks of nodes disagree.
        entered_at: at_some(m.entered_us).filter(|_| m.entry > 0),
    }
}

/// What a queue says to a call.
pub(crate) fn to_call(queue: &QueueId, message: QueueToCall) -> CallPb {
    use queue_to_call::Event;
    let (entry, event) = match message {
        QueueToCall::Queued { entry, enqueued_at, position, expected_wait, recording } => (
            entry,
            Event::Queued(QueuedAt {
                position: match position {
                    Position::Exactly(place) | Position::Beyond(place) => place,
                },
                entered_us: enqueued_at.as_micros(),
                expected_wait_us: expected_wait.map_or(0, micros),
                recording,
            }),
        ),
        QueueToCall::Refused { entry, cause } => (entry, Event::Refused(cause.as_str().to_owned())),
        QueueToCall::Release { entry, .. } => (entry, Event::TimedOut(true)),
        QueueToCall::LeaveSeen { entry } => (entry, Event::Left(true)),
        QueueToCall::AnsweredSeen { entry, offer } => (entry, Event::AcknowledgedOffer(offer.to_string())),
        QueueToCall::Ask { entry } => (entry, Event::Ask(true)),
    };
    CallPb { queue_id: queue.to_string(), entry, event: Some(event) }
}

/// What a queue says to an agent.
pub(crate) fn to_agent(queue: &QueueId, message: QueueToAgent) -> pb::AgentMessage {
    use agent_message::Message;
    let message = match message {
        QueueToAgent::Reserve { offer, agent_epoch } => Message::Reserve(pb::Reserve {
            offer_id: offer.to_string(),
            queue_id: queue.to_string(),
            agent_epoch: agent_epoch.0,
        }),
        QueueToAgent::Commit { offer, agent_epoch, card } => {
            Message::Commit(commit(&offer.to_string(), agent_epoch, &card))
        }
        QueueToAgent::Cancel { offer } => {
            Message::Cancel(pb::Cancel { offer_id: offer.to_string(), reason: String::new() })
        }
        QueueToAgent::EndedSeen { offer } => Message::EndedAck(pb::EndedAck { offer_id: offer.to_string() }),
        QueueToAgent::AnnouncementSeen { stamp } => Message::AnnouncementSeen(pb::AnnouncementSeen {
            queue_id: queue.to_string(),
            agent_epoch: stamp.epoch.0,
            sequence: stamp.seq,
        }),
        QueueToAgent::AskAnnounce => {
            Message::AskAvailability(pb::AskAvailability { queue_id: queue.to_string() })
        }
    };
    pb::AgentMessage { message: Some(message) }
}

/// The card of an offer, on the wire inside the commit.
pub(crate) fn commit(offer: &str, agent_epoch: Epoch, c: &OfferCard) -> pb::Commit {
    pb::Commit {
        offer_id: offer.to_owned(),
        queue_id: c.queue.to_string(),
        agent_epoch: agent_epoch.0,
        call_id: c.call.to_string(),
        card: Some(card(&c.caller, &c.caller_name, &c.dialled, &c.attributes, &c.consulted_by)),
        queue_name: c.queue_name.clone(),
        entered_us: c.enqueued_at.as_micros(),
        ring_timeout_us: micros(c.ring_timeout),
        wrap_up_us: micros(c.wrap_up),
        disposition_required: c.disposition_required,
        dispositions: c.dispositions.clone(),
        entry: c.entry,
        recording: c.recording,
        recording_required: c.recording_required,
    }
}

/// The inverse of [`commit`].
pub(crate) fn offer_card(m: &pb::Commit) -> Parsed<OfferCard> {
    let card = m.card.clone().unwrap_or_default();
    Ok(OfferCard {
        call: parse("commit.call_id", &m.call_id)?,
        entry: m.entry,
        queue: parse("commit.queue_id", &m.queue_id)?,
        queue_name: m.queue_name.clone(),
        caller: card.caller_number,
        caller_name: card.caller_name,
        dialled: card.dialled,
        attributes: card.attributes.into_iter().collect(),
        consulted_by: card.consulted_by,
        enqueued_at: at(m.entered_us),
        ring_timeout: span(m.ring_timeout_us),
        wrap_up: span(m.wrap_up_us),
        recording: m.recording,
        recording_required: m.recording_required,
        disposition_required: m.disposition_required,
        dispositions: m.dispositions.clone(),
    })
}

/// What an agent says to a queue.
pub(crate) fn from_agent_to(agent: &str, message: AgentToQueue) -> pb::QueueMessage {
    let agent_id = agent.to_owned();
    let message = match message {
        AgentToQueue::Available { stamp, idle_since, skills, validity } => {
            Message::AgentAvailable(pb::AgentAvailable {
                agent_id,
                agent_epoch: stamp.epoch.0,
                sequence: stamp.seq,
                idle_since_us: idle_since.as_micros(),
                skills: skills.into_iter().map(|(k, v)| (k, u32::from(v))).collect(),
                valid_us: micros(validity),
            })
        }
        AgentToQueue::Unavailable { stamp } => Message::AgentUnavailable(pb::AgentUnavailable {
            agent_id,
            agent_epoch: stamp.epoch.0,
            sequence: stamp.seq,
        }),
        AgentToQueue::Granted { offer } => {
            Message::Granted(pb::Granted { offer_id: offer.to_string(), agent_id, agent_epoch: 0 })
        }
        AgentToQueue::Refused { offer, reason, stamp } => Message::Refused(pb::Refused {
            offer_id: offer.to_string(),
            agent_id,
            agent_epoch: stamp.epoch.0,
            reason: refuse_name(reason).to_owned(),
            sequence: stamp.seq,
        }),
        AgentToQueue::Accepted { offer } => {
            Message::Accepted(pb::Accepted { offer_id: offer.to_string(), agent_id })
        }
        AgentToQueue::Rejected { offer } => {
            Message::Rejected(pb::Rejected { offer_id: offer.to_string(), agent_id, reason: String::new() })
        }
        AgentToQueue::Ended { offer, outcome, at } => Message::Ended(pb::Ended {
            offer_id: offer.to_string(),
            agent_id,
            outcome: super::outcome_to(outcome).into(),
            at_us: at.as_micros(),
        }),
    };
    pb::QueueMessage { message: Some(message) }
}

/// The cause of a refusal, for a queue that does not exist.
pub(crate) fn unknown_queue(queue: &str, entry: u32) -> CallPb {
    CallPb {
        queue_id: queue.to_owned(),
        entry,
        event: Some(queue_to_call::Event::Refused("unknown_queue".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_message_without_a_call_names_the_field() {
        let message = Message::Leave(pb::Leave { call_id: "x".to_owned(), cause: 1, ..Default::default() });
        assert_eq!(input(pb::QueueMessage { message: Some(message) }), Err(Malformed("call_id")));
    }
}
