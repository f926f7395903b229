use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not `+` and 2 to 15 digits.
    #[error("{0:?} is not an E.164 number: write '+' and 2 to 15 digits, the first not 0")]
    NotE164(String),
    /// Nothing in it that could be dialled.
    #[error("{0:?} cannot be dialled: it has no letter, digit, '*' or '#'")]
    NotDialable(String),
}

/// A number in the international public numbering plan (ITU-T E.164): `+` and up to 15 digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct E164(String);

impl E164 {
    /// With the leading `+`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for E164 {
    type Err = NumberError;
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let digits = text.strip_prefix('+').unwrap_or("");
        let ok = (2..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(NumberError::NotE164(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for E164 {
    type Error = NumberError;
    fn try_from(text: String) -> Result<Self, NumberError> {
        text.parse()
    }
}

impl From<E164> for String {
    fn from(number: E164) -> Self {
        number.0
    }
}

impl fmt::Display for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was dialled or presented: a number in any plan or a name (`support`), at most 128 characters, visual
/// separators of RFC 3966 section 5.1.1 removed from numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DialString(String);

impl DialString {
    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DialString {
    type Err = NumberError;
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let text: String = text.chars().take(128).collect();
        let looks_like_number = text.chars().all(|c| c.is_ascii_digit() || "+-.() *#".contains(c))
            && text.chars().any(|c| c.is_ascii_digit());
        let text = if looks_like_number { text.replace(['-', '.', '(', ')', ' '], "") } else { text };
        if text.chars().any(|c| c.is_alphanumeric() || c == '*' || c == '#') {
            Ok(Self(text))
        } else {
            Err(NumberError::NotDialable(text))
        }
    }
}

impl fmt::Display for DialString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number or user part as it may stand in a log: the last two digits stay, the others become `*`; what has fewer than
/// five digits (an extension, a name) is kept.
pub fn mask_number(text: &str) -> String {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    if digits < 5 {
        return text.to_owned();
    }
    let mut seen = 0;
    text.chars()
        .map(|c| {
            if c.is_ascii_digit() {
                seen += 1;
                if seen <= digits - 2 { '*' } else { c }
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e164_is_strict() {
        assert!("+493012345".parse::<E164>().is_ok());
        for bad in ["493012345", "+0123", "+1234567890123456", "+", "+12a"] {
            assert!(bad.parse::<E164>().is_err(), "{bad}");
        }
    }

    #[test]
    fn dial_strings_lose_separators_only_when_they_are_numbers() {
        assert_eq!("+1 (555) 010-99".parse::<DialString>().unwrap().as_str(), "+155501099");
        assert_eq!("sales.team-1".parse::<DialString>().unwrap().as_str(), "sales.team-1");
        assert!("".parse::<DialString>().is_err());
    }

    #[test]
    fn logs_show_two_digits() {
        assert_eq!(mask_number("+493012345"), "+*******45");
        assert_eq!(mask_number("support"), "support");
        assert_eq!(mask_number("sip:+15551234@x"), "sip:+******34@x");
    }
}
