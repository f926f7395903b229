//! Merge patches (RFC 7396) of typed data: only what differs is written as JSON, and only that is looked at closely.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Data that a client has a copy of.
pub(crate) trait Patch {
    /// The merge patch that makes this of `old`; `None` when nothing changed. Null and absent are the same on both sides,
    /// since a merge patch cannot tell them apart.
    fn patch(&self, old: &Self) -> Option<Value>;
}

/// A value without fields of its own, or one whose fields come all or none: replaced as a whole.
macro_rules! as_a_whole {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::ws::merge_patch::Patch for $type {
            fn patch(&self, old: &Self) -> Option<serde_json::Value> {
                (self != old).then(|| serde_json::json!(self))
            }
        }
    )*};
}
pub(crate) use as_a_whole;

as_a_whole!(bool, i64, u32, String, Vec<String>, Option<i64>, Option<String>);

/// Of a structure: those fields that changed. All fields have to be named; they are called in JSON as in Rust.
macro_rules! by_fields {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::ws::merge_patch::Patch for $type {
            fn patch(&self, old: &Self) -> Option<serde_json::Value> {
                let mut patch = serde_json::Map::new();
                let Self { $($field),* } = self;
                $(
                    if let Some(change) = $crate::ws::merge_patch::Patch::patch($field, &old.$field) {
                        patch.insert(stringify!($field).to_owned(), change);
                    }
                )*
                (!patch.is_empty()).then_some(serde_json::Value::Object(patch))
            }
        }

        impl $crate::ws::merge_patch::Patch for Option<$type> {
            fn patch(&self, old: &Self) -> Option<serde_json::Value> {
                match (old, self) {
                    (None, None) => None,
                    (Some(old), Some(new)) => new.patch(old),
                    (_, new) => Some(serde_json::json!(new)),
                }
            }
        }
    };
}
pub(crate) use by_fields;

impl Patch for BTreeMap<String, String> {
    fn patch(&self, old: &Self) -> Option<Value> {
        let changed = self.iter().filter(|(key, value)| old.get(*key) != Some(value));
        let mut patch: Map<_, _> =
            changed.map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
        let gone = old.keys().filter(|key| !self.contains_key(*key));
        patch.extend(gone.map(|key| (key.clone(), Value::Null)));
        (!patch.is_empty()).then_some(Value::Object(patch))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::super::protocol::{
        AgentState, CallView, ConsultationState, ConsultationView, NextView, RecordingState, Snapshot,
    };
    use super::*;

    /// RFC 7396 section 2, as written there.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = if let Value::Object(target) = target { target } else { Map::new() };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let before = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), apply(before, value));
            }
        }
        Value::Object(target)
    }

    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(
                map.iter()
                    .filter(|(_, v)| !v.is_null())
                    .map(|(k, v)| (k.clone(), without_nulls(v)))
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    fn text(rng: &mut StdRng) -> String {
        ["", "a", "b"][rng.random_range(0..3)].to_owned()
    }

    fn some<T>(rng: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        rng.random_bool(0.6).then(|| make(rng))
    }

    fn texts(rng: &mut StdRng) -> Vec<String> {
        (0..rng.random_range(0..3)).map(|_| text(rng)).collect()
    }

    fn call(rng: &mut StdRng) -> CallView {
        CallView {
            call_id: text(rng),
            offer_id: text(rng),
            queue_id: text(rng),
            queue_name: text(rng),
            caller_number: text(rng),
            caller_name: text(rng),
            dialled: text(rng),
            attributes: (0..rng.random_range(0..4)).map(|_| (text(rng), text(rng))).collect(),
            entered_ms: rng.random_range(0..2),
            connected_ms: some(rng, |rng| rng.random_range(0..2)),
            on_hold: rng.random_bool(0.5),
            muted: rng.random_bool(0.5),
            recording: [RecordingState::Off, RecordingState::On, RecordingState::Paused]
                [rng.random_range(0..3)],
            caller_held: rng.random_bool(0.5),
            notes: text(rng),
            disposition_required: rng.random_bool(0.5),
            dispositions: texts(rng),
            consulted_by: some(rng, text),
            consultation: some(rng, |rng| ConsultationView {
                state: [ConsultationState::Waiting, ConsultationState::With][rng.random_range(0..2)],
                party: text(rng),
            }),
            media_generation: rng.random_range(0..2),
        }
    }

    fn snapshot(rng: &mut StdRng) -> Snapshot {
        Snapshot {
            server_ms: rng.random_range(0..2),
            state: [AgentState::Ready, AgentState::Talking][rng.random_range(0..2)],
            reason: text(rng),
            since_ms: rng.random_range(0..2),
            until_ms: some(rng, |rng| rng.random_range(0..2)),
            call: some(rng, call),
            next: some(rng, |rng| NextView { ready: rng.random_bool(0.5), reason: text(rng) }),
            microphone: some(rng, text),
            sessions: texts(rng),
            queues: texts(rng),
        }
    }

    /// The fields of `patch` that say nothing new, at any depth.
    fn said_already(old: &Value, patch: &Value) -> bool {
        match (old, patch) {
            (Value::Object(old), Value::Object(patch)) => patch.iter().any(|(key, value)| {
                let before = old.get(key).unwrap_or(&Value::Null);
                // What comes all or none is said whole.
                !["next", "consultation"].contains(&key.as_str()) && said_already(before, value)
            }),
            (old, patch) => old == patch,
        }
    }

    /// Patches made here, applied as the RFC says, give the new state (null = absent), and tell no more than that.
    #[test]
    fn patches_lead_to_the_new_state() {
        let mut rng = StdRng::seed_from_u64(7396);
        for round in 0..20_000 {
            let old = snapshot(&mut rng);
            let mut new = snapshot(&mut rng);
            if rng.random_bool(0.5) {
                // Most changes are small.
                let change = std::mem::replace(&mut new, old.clone());
                match round % 5 {
                    0 => new.until_ms = change.until_ms,
                    1 => new.call = change.call,
                    2 => new.sessions = change.sessions,
                    3 => new.next = change.next,
                    _ => {
                        if let (Some(new), Some(change)) = (&mut new.call, change.call) {
                            new.attributes = change.attributes;
                            new.consultation = change.consultation;
                        }
                    }
                }
            }
            let (before, after) = (json!(old), json!(new));
            let patch = new.patch(&old);
            assert_eq!(patch.is_none(), old == new, "{before} -> {after}");
            let patched = patch.as_ref().map_or_else(|| before.clone(), |p| apply(before.clone(), p));
            assert_eq!(without_nulls(&patched), without_nulls(&after), "{before} -> {after}: {patch:?}");
            // A call that comes into an empty state is told with all its fields.
            if let Some(patch) = patch.filter(|_| old.call.is_some() || new.call.is_none()) {
                assert!(!said_already(&before, &patch), "{before} -> {after}: {patch}");
            }
        }
    }
}
