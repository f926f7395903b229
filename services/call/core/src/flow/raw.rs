//! A flow as it is written, before the checks.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFlow {
    pub flow: String,
    #[serde(default)]
    #[allow(dead_code, reason = "for people")]
    pub description: Option<String>,
    pub start: String,
    /// Read one by one, so that each mistake is told with its node.
    pub nodes: BTreeMap<String, serde_yaml_ng::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlay {
    pub prompts: Vec<String>,
    #[serde(default = "yes")]
    pub interruptible: bool,
    pub next: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMenu {
    pub prompts: Vec<String>,
    pub choices: BTreeMap<Key, String>,
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    #[serde(default = "three")]
    pub tries: u8,
    #[serde(default)]
    pub invalid: Vec<String>,
    #[serde(default)]
    pub no_input: Vec<String>,
    pub on_invalid: String,
    pub on_timeout: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCollect {
    pub prompts: Vec<String>,
    pub into: String,
    #[serde(default = "one")]
    pub min: u8,
    pub max: u8,
    #[serde(default)]
    pub terminator: Option<Key>,
    #[serde(default)]
    pub check: Check,
    #[serde(default)]
    pub starts_with: Vec<Scalar>,
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    #[serde(default = "three_seconds")]
    pub digit_timeout: Span,
    #[serde(default = "three")]
    pub tries: u8,
    #[serde(default)]
    pub invalid: Vec<String>,
    #[serde(default)]
    pub no_input: Vec<String>,
    pub next: String,
    pub on_invalid: String,
    pub on_timeout: String,
}

#[derive(Deserialize, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Check {
    #[default]
    None,
    Luhn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBranch {
    pub variable: String,
    #[serde(default)]
    pub cases: BTreeMap<Scalar, String>,
    #[serde(default)]
    pub prefixes: BTreeMap<Scalar, String>,
    pub otherwise: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSet {
    pub attributes: BTreeMap<String, Scalar>,
    pub next: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEnqueue {
    pub queue: String,
    #[serde(default)]
    pub priority: i32,
    #[serde(default)]
    pub attributes: BTreeMap<String, Scalar>,
    #[serde(default)]
    pub on_refused: Option<String>,
    #[serde(default)]
    pub on_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHangup {
    #[serde(default)]
    pub prompts: Vec<String>,
}

const fn yes() -> bool {
    true
}
const fn one() -> u8 {
    1
}
const fn three() -> u8 {
    3
}
const fn five_seconds() -> Span {
    Span(Duration::from_secs(5))
}
const fn three_seconds() -> Span {
    Span(Duration::from_secs(3))
}

/// A text, also when YAML takes it for a number or a truth value (`1`, `yes`).
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
pub(super) struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_yaml_ng::Value::deserialize(deserializer)? {
            serde_yaml_ng::Value::String(text) => Ok(Self(text)),
            serde_yaml_ng::Value::Number(number) => Ok(Self(number.to_string())),
            serde_yaml_ng::Value::Bool(truth) => Ok(Self(truth.to_string())),
            _ => Err(D::Error::custom("expected a text")),
        }
    }
}

/// One key of a telephone.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(super) struct Key(pub char);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(deserializer)?.0;
        let mut signs = text.chars();
        match (signs.next(), signs.next()) {
            (Some(key), None) if crate::dtmf::is_key(key) => Ok(Self(key)),
            _ => Err(D::Error::custom(format!("{text:?} is not a key: use one of 0-9, \"*\", \"#\", A-D"))),
        }
    }
}

/// `5s`, `500ms`, `1m`, or seconds as a number.
#[derive(Clone, Copy)]
pub(super) struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(deserializer)?.0;
        let digits = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
        let unit = match &text[digits..] {
            "ms" => 1,
            "s" | "" => 1_000,
            "m" => 60_000,
            _ => 0,
        };
        match text[..digits].parse::<u64>() {
            Ok(number) if unit > 0 && number <= 3_600_000 => Ok(Self(Duration::from_millis(number * unit))),
            _ => Err(D::Error::custom(format!("{text:?} is not a time: write \"5s\", \"500ms\" or \"1m\""))),
        }
    }
}
