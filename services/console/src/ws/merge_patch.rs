use serde_json::{Map, Value};

/// The JSON merge patch (RFC 7396) that makes `new` of `old`; `None` when nothing changed. Null and absent are the
/// same on both sides, since a merge patch cannot tell them apart.
pub(crate) fn diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                if let Some(change) = diff(old.get(key).unwrap_or(&Value::Null), value) {
                    patch.insert(key.clone(), change);
                }
            }
            for (key, value) in old {
                if !value.is_null() && !new.contains_key(key) {
                    patch.insert(key.clone(), Value::Null);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (old, new) if old == new => None,
        (_, new) => Some(new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use serde_json::json;

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

    fn random(rng: &mut StdRng, depth: u32) -> Value {
        match rng.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => json!(rng.random_range(0..3)),
            2 => json!(rng.random_bool(0.5)),
            3 => json!([rng.random_range(0..2)]),
            _ => Value::Object(
                (0..rng.random_range(0..4))
                    .map(|_| (format!("k{}", rng.random_range(0..4)), random(rng, depth - 1)))
                    .collect(),
            ),
        }
    }

    /// Patches made here, applied as the RFC says, give the new document (null = absent).
    #[test]
    fn patches_lead_to_the_new_document() {
        for seed in 0..20_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let object =
                |rng: &mut StdRng| json!({"a": random(rng, 3), "b": random(rng, 2), "c": random(rng, 1)});
            let (old, new) = (object(&mut rng), object(&mut rng));
            let patched = diff(&old, &new).map_or_else(|| without_nulls(&old), |p| apply(old.clone(), &p));
            assert_eq!(without_nulls(&patched), without_nulls(&new), "seed {seed}: {old} -> {new}");
        }
    }

    #[test]
    fn what_did_not_change_is_not_sent() {
        let old = json!({"a": 1, "call": {"x": 1, "y": null}, "n": null});
        assert_eq!(diff(&old, &json!({"a": 1, "call": {"x": 1}})), None);
        assert_eq!(diff(&old, &json!({"a": 1, "call": {"x": 2}})), Some(json!({"call": {"x": 2}})));
        assert_eq!(diff(&old, &json!({"a": 1, "call": null})), Some(json!({"call": null})));
    }
}
