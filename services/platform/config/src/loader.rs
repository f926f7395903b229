use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    ConfigError, Origin,
    error::nearest,
    line::{Step, line_of},
};

/// Larger files are refused.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Merges the layers of configuration and gives sections out.
#[derive(Debug, Default, Clone)]
pub struct Loader {
    tree: Map<String, Value>,
    files: Vec<(PathBuf, String)>,
    /// Values from variables and flags by path, with their text: a type that wants a string gets that.
    texts: BTreeMap<String, (Origin, String)>,
}

impl Loader {
    /// Nothing configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a YAML or JSON file over what is there: mappings are merged, everything else is replaced.
    ///
    /// # Errors
    /// When it cannot be read or is not a mapping in YAML.
    pub fn file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
            return Err(read(std::io::Error::other("it is larger than 1 MiB")));
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let syntax = |line, reason| {
            let origin = Origin::File { path: path.to_owned(), line };
            ConfigError::Syntax { origin, reason }
        };
        // By way of YAML's own value, which refuses a key that is given twice.
        let parsed: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)
            .map_err(|error| syntax(error.location().map(|place| place.line()), error.to_string()))?;
        match serde_json::to_value(parsed).map_err(|error| syntax(None, error.to_string()))? {
            Value::Object(tree) => merge(&mut self.tree, tree),
            Value::Null => {}
            _ => return Err(syntax(Some(1), "the file must be a mapping of sections".to_owned())),
        }
        self.files.push((path.to_owned(), text));
        Ok(self)
    }

    /// Adds the environment variables that begin with `prefix` and have two underscores between the parts of the path.
    #[must_use]
    pub fn env(mut self, prefix: &str, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        for (name, value) in variables {
            let Some(rest) =
                name.strip_prefix(prefix).filter(|rest| rest.contains("__") || rest.starts_with('_'))
            else {
                continue;
            };
            let path = rest.trim_start_matches('_').to_lowercase().replace("__", ".");
            self.put(&path, &value, Origin::Variable(name));
        }
        self
    }

    /// Sets one value by its path, from a flag.
    #[must_use]
    pub fn set(mut self, path: &str, value: &str, flag: &str) -> Self {
        self.put(path, value, Origin::Flag(flag.to_owned()));
        self
    }

    fn put(&mut self, path: &str, text: &str, origin: Origin) {
        let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
        let Some((last, parents)) = parts.split_last() else { return };
        let parsed = serde_yaml_ng::from_str(text).ok().filter(|value: &Value| !value.is_null());
        let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
        let mut at = &mut self.tree;
        for parent in parents {
            let slot = at.entry(*parent).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            let Value::Object(inner) = slot else { return };
            at = inner;
        }
        at.insert((*last).to_owned(), value);
        self.texts.insert(parts.join("."), (origin, text.to_owned()));
    }

    /// The whole tree as one type.
    ///
    /// # Errors
    /// When a key is unknown or a value does not fit; the error tells where it came from.
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.read("", Value::Object(self.tree.clone()))
    }

    /// A section; one that is not there is read as empty, so that the type's defaults apply.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        let found = self.tree.get(name).filter(|value| !value.is_null());
        self.read(name, found.cloned().unwrap_or_else(|| Value::Object(Map::new())))
    }

    /// Whether a section is there, be it empty.
    pub fn has(&self, name: &str) -> bool {
        self.tree.contains_key(name)
    }

    /// Refuses top-level keys that are none of these.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] for the first.
    pub fn only(&self, sections: &[&str]) -> Result<(), ConfigError> {
        let known: Vec<String> = sections.iter().map(ToString::to_string).collect();
        match self.tree.keys().find(|key| !sections.contains(&key.as_str())) {
            Some(key) => Err(self.unknown(&[Step::Key(key.clone())], key, known)),
            None => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, section: &str, mut value: Value) -> Result<T, ConfigError> {
        let above: Vec<Step> =
            Some(section).filter(|s| !s.is_empty()).map(|s| Step::Key(s.to_owned())).into_iter().collect();
        // Each round turns one value from a variable or flag back into its text.
        for _ in 0..=self.texts.len() {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            let mut path = above.clone();
            path.extend(steps(error.path()));
            let reason = error.inner().to_string();
            if let Some((field, known)) = unknown_field(&reason) {
                if path.last() != Some(&Step::Key(field.clone())) {
                    path.push(Step::Key(field.clone()));
                }
                return Err(self.unknown(&path, &field, known));
            }
            let text = self.texts.get(&dotted(&path)).map(|(_, text)| text.clone());
            let slot = at_path(&mut value, &path[above.len()..]);
            match (text, slot) {
                (Some(text), Some(slot)) if !slot.is_string() && !slot.is_object() => {
                    *slot = Value::String(text)
                }
                _ => return Err(self.wrong(&path, &reason)),
            }
        }
        Err(self.wrong(&above, "its values cannot be read"))
    }

    fn unknown(&self, path: &[Step], field: &str, known: Vec<String>) -> ConfigError {
        ConfigError::UnknownKey {
            origin: self.origin(path),
            key: dotted(path),
            nearest: nearest(field, &known),
            known,
        }
    }

    fn wrong(&self, path: &[Step], reason: &str) -> ConfigError {
        let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        match missing {
            Some(field) => {
                let mut key = path.to_vec();
                key.push(Step::Key(field.to_owned()));
                let reason = "it is required, but missing".to_owned();
                ConfigError::Value { origin: self.origin(path), key: dotted(&key), reason }
            }
            None => {
                ConfigError::Value { origin: self.origin(path), key: dotted(path), reason: reason.to_owned() }
            }
        }
    }

    /// The layer that gave the value: the last that names the path or a part of it.
    fn origin(&self, path: &[Step]) -> Origin {
        let key = dotted(path);
        let within = |parent: &str| {
            key == parent || key.strip_prefix(parent).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if let Some((_, (origin, _))) = self.texts.iter().find(|(path, _)| within(path)) {
            return origin.clone();
        }
        let found = |(path_of, text): &(PathBuf, String)| {
            let line = line_of(text, path)?;
            Some(Origin::File { path: path_of.clone(), line: Some(line) })
        };
        let file = self.files.iter().rev().find_map(found);
        file.or_else(|| self.files.last().map(|(path, _)| Origin::File { path: path.clone(), line: None }))
            .unwrap_or(Origin::Absent)
    }
}

fn merge(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => _ = below.insert(key, value),
        }
    }
}

fn steps(path: &serde_path_to_error::Path) -> impl Iterator<Item = Step> {
    use serde_path_to_error::Segment;
    path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Unknown => None,
    })
}

fn dotted(path: &[Step]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        Step::Key(key) if text.is_empty() => key.clone(),
        Step::Key(key) => format!("{text}.{key}"),
        Step::Index(index) => format!("{text}[{index}]"),
    })
}

fn at_path<'v>(value: &'v mut Value, path: &[Step]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

/// Takes serde's message apart: "unknown field `x`, expected one of `a`, `b`". The form is serde's own constructor's, and a
/// test watches it.
fn unknown_field(reason: &str) -> Option<(String, Vec<String>)> {
    let rest = reason.strip_prefix("unknown field `")?;
    let (field, expected) = rest.split_once('`')?;
    let known = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((field.to_owned(), known))
}
