use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the line where that is known.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: Option<usize>,
    },
    /// An environment variable.
    Variable(String),
    /// A flag on the command line.
    Flag(String),
    /// Nowhere: it is missing.
    Absent,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Absent => f.write_str("configuration"),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is not YAML (or JSON, which is YAML).
    #[error("{origin}: not valid YAML: {reason}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong.
        reason: String,
    },
    /// A key that nobody knows.
    #[error("{origin}: unknown key {key}{}", suggest(nearest.as_deref(), known))]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// The whole path of the key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
        /// What is known there.
        known: Vec<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// Where.
        origin: Origin,
        /// The whole path of the key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn suggest(nearest: Option<&str>, known: &[String]) -> String {
    match (nearest, known) {
        (Some(nearest), _) => format!("; did you mean {nearest}?"),
        (None, []) => String::new(),
        (None, known) => format!("; known here: {}", known.join(", ")),
    }
}

/// The known key that is most like a mistaken one: at most a third of it differs (Damerau-Levenshtein without crossed
/// transpositions), separators count little.
pub(crate) fn nearest(mistaken: &str, known: &[String]) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let mistaken = plain(mistaken);
    let scored = known.iter().map(|key| (distance(&mistaken, &plain(key)), key));
    let (score, key) = scored.min_by_key(|(score, _)| *score)?;
    (score * 3 <= mistaken.chars().count().max(3)).then(|| key.clone())
}

fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(80).collect(), b.chars().take(80).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known: Vec<String> = ["listen", "rtp_ports", "data_dir", "log"].map(String::from).to_vec();
        for (slip, meant) in [
            ("listne", "listen"),
            ("rtp-ports", "rtp_ports"),
            ("rtp_port", "rtp_ports"),
            ("DataDir", "data_dir"),
            ("lgo", "log"),
        ] {
            assert_eq!(nearest(slip, &known).as_deref(), Some(meant), "{slip}");
        }
        assert_eq!(nearest("password", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
