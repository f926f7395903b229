//! Between `trunkline.registrar.v1` and the core.

use std::time::Duration;

use trunkline_proto::registrar::v1::{self as pb, refusal::Reason, registrar_answer, telephone_event};
use trunkline_registrar_core::{
    Binding, Bound, Changed, Event, Limits, Malformed, NonceUse, Outcome, Refreshed, Refusal, Register,
    Request, Snapshot,
};
use trunkline_sip::{Message, Uri, parse_datagram};
use trunkline_types::Timestamp;

pub(crate) const CHANGED: &str = "telephone.bindings_changed";
pub(crate) const EXPIRED: &str = "telephone.bindings_expired";
pub(crate) const WITHDRAWN: &str = "telephone.bindings_withdrawn";

/// The name under which the journal keeps it.
pub(crate) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Changed { .. } => CHANGED,
        Event::Expired { .. } => EXPIRED,
        Event::Withdrawn { .. } => WITHDRAWN,
    }
}

pub(crate) fn register(register: pb::Register) -> Result<Register, Malformed> {
    let Ok(Message::Request(request)) = parse_datagram(&register.message) else {
        return Err(Malformed("Bad Request"));
    };
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let count = register.nonce_count;
    Ok(Register {
        request: Request::read(&request)?,
        edge: register.edge,
        transaction: register.transaction,
        source: register.source,
        transport: register.transport,
        draw: register.draw,
        nonce: (count > 0).then_some(NonceUse { nonce: register.nonce, count }),
        limits: Limits {
            min_expires: seconds(register.min_expires_s),
            default_expires: seconds(register.default_expires_s),
            max_expires: seconds(register.max_expires_s),
            max_contacts: register.max_contacts as usize,
        },
    })
}

/// The answer, and its name in metrics.
pub(crate) fn outcome(outcome: Outcome, changed: bool) -> (registrar_answer::Result, &'static str) {
    match outcome {
        Outcome::Bound(bound) => {
            let contacts = bound.into_iter().map(bound_contact).collect();
            let result = registrar_answer::Result::Bindings(pb::BindingList { contacts });
            (result, if changed { "changed" } else { "unchanged" })
        }
        Outcome::Refused(refusal) => {
            let (reason, value, name) = match refusal {
                Refusal::IntervalTooBrief(least) => {
                    let least = u32::try_from(least.as_secs()).unwrap_or(u32::MAX);
                    (Reason::IntervalTooBrief, least, "interval_too_brief")
                }
                Refusal::TooManyContacts(most) => {
                    (Reason::TooManyContacts, u32::try_from(most).unwrap_or(u32::MAX), "too_many_contacts")
                }
                Refusal::OutOfOrder => (Reason::OutOfOrder, 0, "out_of_order"),
                Refusal::Replayed => (Reason::Replayed, 0, "replayed"),
            };
            let refusal = pb::Refusal { reason: reason.into(), value, text: String::new() };
            (registrar_answer::Result::Refusal(refusal), name)
        }
    }
}

fn bound_contact(bound: Bound) -> pb::BoundContact {
    pb::BoundContact {
        uri: bound.contact.to_string(),
        expires_s: bound.expires_s,
        q: bound.q.map(u32::from),
        instance: bound.instance,
        reg_id: bound.reg_id,
    }
}

pub(crate) fn binding(binding: &Binding) -> pb::Binding {
    pb::Binding {
        id: binding.id,
        contact: binding.contact.to_string(),
        call_id: binding.call_id.clone(),
        cseq: binding.cseq,
        expires_us: binding.expires_at.as_micros(),
        since_us: binding.since.as_micros(),
        q: binding.q.map(u32::from),
        instance: binding.instance.clone(),
        reg_id: binding.reg_id,
        source: binding.source.clone(),
        transport: binding.transport.clone(),
        edge: binding.edge.clone(),
        path: binding.path.clone(),
        user_agent: binding.user_agent.clone(),
    }
}

fn binding_to(binding: pb::Binding) -> Result<Binding, Malformed> {
    Ok(Binding {
        id: binding.id,
        contact: Uri::parse(binding.contact.as_bytes()).map_err(|_| Malformed("contact"))?,
        call_id: binding.call_id,
        cseq: binding.cseq,
        expires_at: Timestamp::from_micros(binding.expires_us),
        since: Timestamp::from_micros(binding.since_us),
        q: binding.q.and_then(|q| u16::try_from(q).ok()),
        instance: binding.instance,
        reg_id: binding.reg_id,
        source: binding.source,
        transport: binding.transport,
        edge: binding.edge,
        path: binding.path,
        user_agent: binding.user_agent,
    })
}

pub(crate) fn encode(event: &Event) -> pb::TelephoneEvent {
    let body = match event {
        Event::Changed { changed, .. } => telephone_event::Event::Changed(pb::BindingsChanged {
            set: changed.set.iter().map(binding).collect(),
            refreshed: changed
                .refreshed
                .iter()
                .map(|one| pb::BindingRefreshed {
                    id: one.id,
                    expires_us: one.expires_at.as_micros(),
                    cseq: one.cseq,
                })
                .collect(),
            removed: changed.removed.clone(),
            nonce: changed.nonce.map_or(0, |nonce| nonce.nonce),
            nonce_count: changed.nonce.map_or(0, |nonce| nonce.count),
        }),
        Event::Expired { removed, .. } => {
            telephone_event::Event::Expired(pb::BindingsExpired { removed: removed.clone() })
        }
        Event::Withdrawn { .. } => telephone_event::Event::Withdrawn(pb::BindingsWithdrawn {}),
    };
    pb::TelephoneEvent { at_us: event.at().as_micros(), event: Some(body) }
}

pub(crate) fn decode(event: pb::TelephoneEvent) -> Result<Event, Malformed> {
    let at = Timestamp::from_micros(event.at_us);
    Ok(match event.event.ok_or(Malformed("event"))? {
        telephone_event::Event::Changed(changed) => {
            let refreshed = |one: pb::BindingRefreshed| Refreshed {
                id: one.id,
                expires_at: Timestamp::from_micros(one.expires_us),
                cseq: one.cseq,
            };
            let (nonce, count) = (changed.nonce, changed.nonce_count);
            let changed = Changed {
                set: changed.set.into_iter().map(binding_to).collect::<Result<_, _>>()?,
                refreshed: changed.refreshed.into_iter().map(refreshed).collect(),
                removed: changed.removed,
                nonce: (count > 0).then_some(NonceUse { nonce, count }),
            };
            Event::Changed { at, changed }
        }
        telephone_event::Event::Expired(expired) => Event::Expired { at, removed: expired.removed },
        telephone_event::Event::Withdrawn(_) => Event::Withdrawn { at },
    })
}

pub(crate) fn snapshot(snapshot: &Snapshot) -> pb::TelephoneSnapshot {
    let nonce = |used: &NonceUse| pb::NonceUse { nonce: used.nonce, count: used.count };
    pb::TelephoneSnapshot {
        bindings: snapshot.bindings.iter().map(binding).collect(),
        next: snapshot.next,
        nonces: snapshot.nonces.iter().map(nonce).collect(),
    }
}

pub(crate) fn snapshot_to(snapshot: pb::TelephoneSnapshot) -> Result<Snapshot, Malformed> {
    let nonce = |used: pb::NonceUse| NonceUse { nonce: used.nonce, count: used.count };
    Ok(Snapshot {
        bindings: snapshot.bindings.into_iter().map(binding_to).collect::<Result<_, _>>()?,
        next: snapshot.next,
        nonces: snapshot.nonces.into_iter().map(nonce).collect(),
    })
}
