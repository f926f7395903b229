//! Reads a scenario: closed schema, and errors that say where.

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use super::{ALL, Event, MOST_AGENTS, MOST_AT_ONCE, MOST_RATE, Media, Scenario};

/// What a trend needs, and a little more: samples do not begin and end with the phases.
const LEAST_COUNTED: Duration = Duration::from_secs(120);

/// Why a scenario cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// The file.
    pub file: String,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
    /// The key, with all above it.
    pub key: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() && self.key != "." {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ReadError {}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<(Self, String), ReadError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ReadError {
            file: file.clone(),
            at: None,
            key: String::new(),
            reason: format!("cannot be read: {error}"),
        })?;
        Ok((Self::parse(&file, &text)?, text))
    }

    /// Reads a text; `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ReadError> {
        let deserializer = serde_yaml_ng::Deserializer::from_str(text);
        let mut scenario: Self = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let at = inner.location().map(|at| (at.line(), at.column()));
            let reason = inner.to_string();
            // The place is told apart, and serde_yaml repeats the path.
            let reason = reason.split(" at line ").next().unwrap_or(&reason);
            let reason = without_path(&path, reason);
            let (key, reason) = unknown(&path, reason);
            ReadError { file: file.to_owned(), at, key, reason }
        })?;
        scenario.check().map_err(|(key, reason)| ReadError {
            file: file.to_owned(),
            at: line_of(text, &key).map(|line| (line, 1)),
            key,
            reason,
        })?;
        scenario.expand();
        Ok(scenario)
    }

    /// Whether a scenario that was read and then changed (`--agents`, `--time-factor` …) is still one.
    pub fn check_changed(&self, file: &str) -> Result<(), ReadError> {
        self.check().map_err(|(key, reason)| ReadError {
            file: file.to_owned(),
            at: None,
            key,
            reason: format!("{reason} (with what the command line changes)"),
        })
    }

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, reason: String| Err((key.to_owned(), reason));
        let callers = &self.callers;
        if callers.phases.is_empty() || callers.phases.len() > 1_000 {
            return wrong("callers.phases", "from 1 to 1,000 are needed".into());
        }
        for (n, phase) in callers.phases.iter().enumerate() {
            let key = format!("callers.phases[{n}]");
            for rate in [Some(phase.rate), phase.to_rate].into_iter().flatten() {
                if !(0.0..=MOST_RATE).contains(&rate) {
                    return wrong(&key, format!("{rate} calls/s is outside 0 to {MOST_RATE}"));
                }
            }
            if phase.length.0.is_zero() {
                return wrong(&key, "for: must be longer than 0s".into());
            }
        }
        if !(1..=MOST_AT_ONCE * 99).contains(&callers.at_once) {
            return wrong(
                "callers.at_once",
                format!("{} is outside 1 to {}", callers.at_once, MOST_AT_ONCE * 99),
            );
        }
        for (n, keys) in callers.keys.iter().enumerate() {
            let key = format!("callers.keys[{n}]");
            let known = |c: char| c.is_ascii_digit() || "*#ABCD".contains(c);
            if keys.press.is_empty() || keys.press.len() > 32 || !keys.press.chars().all(known) {
                return wrong(&key, format!("press: {:?} is not 1 to 32 of 0–9, *, # and A–D", keys.press));
            }
            if callers.media == Media::None {
                return wrong(&key, "keys are RTP (RFC 4733): they need callers.media tone or listen".into());
            }
        }
        if self.agents.count > MOST_AGENTS {
            return wrong("agents.count", format!("{} is above {MOST_AGENTS}", self.agents.count));
        }
        if self.warm_up.0 >= self.length() {
            return wrong("warm_up", format!("{} is not shorter than the phases together", self.warm_up));
        }
        let growth = self.expect.growth().filter(|_| self.length() - self.warm_up.0 < LEAST_COUNTED);
        if let Some(name) = growth {
            let (least, warm_up) = (LEAST_COUNTED.as_secs(), self.warm_up);
            let reason = format!(
                "growth takes {least} s to tell: the phases together must last so much longer than warm_up ({warm_up})"
            );
            return wrong(&format!("expect.{name}"), reason);
        }
        self.check_events()
    }

    fn check_events(&self) -> Result<(), (String, String)> {
        let wrong = |key: String, reason: String| Err((key, reason));
        let mut names = BTreeSet::new();
        if let Some(system) = &self.system {
            let what = (system.dev.is_some(), !system.nodes.is_empty());
            if what == (true, true) || what == (false, false) && system.watch.is_empty() {
                return wrong("system".into(), "either dev or nodes is needed".into());
            }
            names.extend(system.dev.iter().map(|_| "dev".to_owned()));
            for (n, node) in system.nodes.iter().enumerate() {
                if node.name == ALL || !names.insert(node.name.clone()) {
                    let reason = match node.name.as_str() {
                        ALL => "all is no name: it stands for every node".into(),
                        name => format!("{name} is there twice"),
                    };
                    return wrong(format!("system.nodes[{n}]"), reason);
                }
            }
            for (n, wanted) in system.ready_when.iter().enumerate() {
                let (key, pages) = (format!("system.ready_when[{n}]"), self.target.metrics.len());
                if wanted.is.is_some() == wanted.least.is_some() {
                    return wrong(key, "needs exactly one of is and least".into());
                }
                if system.dev.is_none() && wanted.pages > pages {
                    return wrong(key, format!("reads target.metrics, and {pages} pages are given"));
                }
            }
        }
        let all = self.system.as_ref().is_some_and(|system| !system.nodes.is_empty());
        for (n, event) in self.events.iter().enumerate() {
            let key = format!("events[{n}]");
            let things = [
                event.run.is_some(),
                event.signal.is_some(),
                event.kill.is_some(),
                event.restart.is_some(),
                event.start.is_some(),
            ];
            if things.into_iter().filter(|thing| *thing).count() != 1 {
                return wrong(key, "needs exactly one of run, signal, kill, restart and start".into());
            }
            if all && event.restart.as_ref().is_some_and(|restart| restart.process == ALL) {
                continue;
            }
            if event.run.as_ref().is_some_and(Vec::is_empty) {
                return wrong(key, "run: needs a command".into());
            }
            if let Some(process) = event.process().filter(|process| !names.contains(*process)) {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let known =
                    if known.is_empty() { "none, as there is no system".into() } else { known.join(", ") };
                return wrong(
                    key,
                    format!("process {process} is not started by this scenario; started are: {known}"),
                );
            }
        }
        Ok(())
    }
}

impl Event {
    fn process(&self) -> Option<&str> {
        let signal = self.signal.as_ref().map(|signal| signal.process.as_str());
        let restart = self.restart.as_ref().map(|restart| restart.process.as_str());
        signal.or(restart).or(self.kill.as_deref()).or(self.start.as_deref())
    }
}

/// The reason without the path in front of it, which may end above the key.
fn without_path<'a>(path: &str, reason: &'a str) -> &'a str {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    let above = ends.filter_map(|end| path.get(..end));
    above.filter_map(|above| reason.strip_prefix(above)?.strip_prefix(": ")).next_back().unwrap_or(reason)
}

/// An unknown key is told with the nearest known one.
fn unknown(path: &str, reason: &str) -> (String, String) {
    let quoted: Vec<&str> = reason.split('`').skip(1).step_by(2).collect();
    let Some((name, known)) = quoted.split_first().filter(|_| reason.starts_with("unknown ")) else {
        return (path.to_owned(), reason.to_owned());
    };
    let what = if reason.starts_with("unknown field") { "unknown key" } else { "unknown value" };
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| distance * 3 <= name.len().max(3));
    let known = known.join(", ");
    let reason = match nearest {
        Some((_, nearest)) => format!("{what} {name}; did you mean {nearest}?"),
        None => format!("{what} {name}; known here: {known}"),
    };
    let path = path.strip_suffix(&format!(".{name}")).unwrap_or(path);
    (if path == *name { String::new() } else { path.to_owned() }, reason)
}

/// The line of a key such as `callers.phases[2]` in block style; best effort.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut found = None;
    let mut lines = text.lines().enumerate().peekable();
    for step in key.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        found = Some(
            lines
                .find(|(_, line)| {
                    line.trim_start().trim_start_matches("- ").starts_with(&format!("{name}:"))
                })?
                .0
                + 1,
        );
        if let Some(index) = index {
            let indent = lines.peek().map(|(_, line)| line.len() - line.trim_start().len())?;
            let item = |line: &str| {
                line.len() - line.trim_start().len() == indent && line.trim_start().starts_with('-')
            };
            let Some((line, _)) = lines.by_ref().filter(|(_, line)| item(line)).nth(index) else {
                return found;
            };
            found = Some(line + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ReadyWhen;

    const SOUND: &str = "name: x\ncallers:\n  phases:\n    - { for: 10s, rate: 5 }\n    - { for: 5s, rate: 5, to_rate: 20 }\n";

    fn error(text: &str) -> String {
        Scenario::parse("x.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_scenario_has_sensible_defaults() {
        let scenario = Scenario::parse("x.yaml", SOUND).unwrap();
        assert_eq!((scenario.length().as_secs(), scenario.agents.count), (15, 0));
        assert_eq!(scenario.callers.to, "support");
        assert_eq!(scenario.phases()[1].to, 20.0);
    }

    #[test]
    fn a_restart_of_all_is_one_of_each_in_the_order_of_the_file() {
        let text = format!(
            "{SOUND}system:\n  nodes: [ {{ name: b, config: x }}, {{ name: a, config: y }} ]\n\
             events:\n  - {{ at: 1s, restart: {{ process: all, program: next, within: 7s }} }}\n  - {{ at: 2s, kill: a }}\n"
        );
        let events = Scenario::parse("x.yaml", &text).unwrap().events;
        let titles: Vec<String> = events.iter().map(Event::title).collect();
        assert_eq!(titles, ["restart of b", "restart of a", "kill -9 of a"]);
        let restart = events[1].restart.as_ref().unwrap();
        assert!(restart.program.is_some() && restart.within.0.as_secs() == 7 && events[1].at == events[0].at);
    }

    #[test]
    fn nodes_are_ready_together_by_the_sum_or_by_their_shares() {
        let wanted = |is, least, pages| ReadyWhen { metric: "x".into(), is, least, pages };
        assert!(wanted(Some(4.0), None, 1).holds(&[1.0, 3.0, 0.0]));
        assert!(!wanted(Some(4.0), None, 1).holds(&[1.0, 2.0]));
        assert!(wanted(None, Some(2.0), 2).holds(&[2.0, 0.0, 3.0]));
        assert!(!wanted(None, Some(2.0), 2).holds(&[0.0, 4.0, 0.0]), "one has all");
    }

    #[test]
    fn a_mistake_is_told_with_line_key_and_nearest() {
        for (text, expected) in [
            (
                "name: x\ncallers:\n  patiense: 3s\n  phases: []\n",
                "x.yaml:3:3: callers: unknown key patiense; did you mean patience?",
            ),
            ("name: x\ncolour: red\n", "x.yaml:2:1: unknown key colour; known here: "),
            ("name: x\ncallers:\n  media: tones\n", "callers.media: unknown value tones; did you mean tone?"),
            (
                "name: x\ncallers:\n  phases:\n    - { for: 10, rate: 1 }\n",
                "x.yaml:4:14: callers.phases[0].for: 10 has no unit",
            ),
            (
                "name: x\ncallers:\n  phases:\n    - { for: 10s, rate: fast }\n",
                "callers.phases[0].rate: invalid type",
            ),
            (
                "name: x\ncallers:\n  patience: { kind: exponential }\n",
                "callers.patience: kind exponential needs the key mean",
            ),
            ("name: x\n", "missing field `callers`"),
            ("name: \"x\n", "x.yaml:"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}\n{error}\n{expected}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_line() {
        for (text, expected) in [
            ("name: x\ncallers:\n  phases: []\n".to_owned(), "x.yaml:3:1: callers.phases: from 1"),
            (SOUND.replace("rate: 5 }", "rate: -5 }"), "x.yaml:4:1: callers.phases[0]: -5 calls/s"),
            (
                SOUND.replace("to_rate: 20", "to_rate: 1e9"),
                "x.yaml:5:1: callers.phases[1]: 1000000000 calls/s",
            ),
            (format!("{SOUND}  keys:\n    - {{ after: 1s, press: \"1x\" }}\n"), "callers.keys[0]: press"),
            (format!("{SOUND}  keys:\n    - {{ after: 1s, press: \"1\" }}\n"), "they need callers.media"),
            (format!("{SOUND}warm_up: 15s\n"), "x.yaml:6:1: warm_up: 15s is not shorter"),
            (
                format!("{SOUND}expect: {{ lag_growth: 1s }}\n"),
                "expect.lag_growth: growth takes 120 s to tell: the phases together must last so much longer than warm_up (0s)",
            ),
            (format!("{SOUND}events:\n  - at: 1s\n"), "x.yaml:7:1: events[0]: needs exactly one"),
            (
                format!("{SOUND}events:\n  - {{ at: 1s, start: n1 }}\n"),
                "process n1 is not started by this scenario; started are: none",
            ),
            (format!("{SOUND}system: {{}}\n"), "system: either dev or nodes"),
            (
                format!("{SOUND}system:\n  nodes:\n    - {{ name: all, config: x }}\n"),
                "system.nodes[0]: all is no name",
            ),
            (
                format!(
                    "{SOUND}system:\n  dev: {{}}\nevents:\n  - {{ at: 1s, restart: {{ process: all }} }}\n"
                ),
                "process all is not started by this scenario; started are: dev",
            ),
            (
                format!(
                    "{SOUND}system:\n  ready_when: [ {{ metric: x, is: 1 }} ]\n  nodes: [ {{ name: a, config: x }} ]\n"
                ),
                "system.ready_when[0]: reads target.metrics, and 0 pages are given",
            ),
            (
                format!("{SOUND}system:\n  dev: {{}}\n  ready_when: [ {{ metric: x, is: 1, least: 2 }} ]\n"),
                "system.ready_when[0]: needs exactly one of is and least",
            ),
        ] {
            let error = error(&text);
            assert!(error.contains(expected), "{text}\n{error}\n{expected}");
        }
    }
}
