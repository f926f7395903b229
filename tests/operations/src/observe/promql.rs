//! Queries as a test can ask them: windows of minutes and hours are shortened, and Grafana's variables replaced.

use super::prometheus::JOB;

/// What stands for every rate window: a test is over in a minute, and Prometheus scrapes every second.
pub const WINDOW: &str = "15s";

/// How long an alert waits before it fires, in tests.
pub const WAIT: &str = "5s";
/// Windows of rules and dashboards.
const WINDOWS: [&str; 8] = ["1m", "5m", "15m", "30m", "1h", "2h", "6h", "1d"];

/// A text of PromQL with [`WINDOW`] in place of every window.
pub fn shorten(text: &str) -> String {
    WINDOWS
        .iter()
        .fold(text.to_owned(), |text, window| text.replace(&format!("[{window}]"), &format!("[{WINDOW}]")))
}

/// A file of rules with [`WINDOW`] in place of every window and [`WAIT`] in place of every `for`.
pub fn shorten_rules(text: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: {WAIT}\n"),
        _ => format!("{line}\n"),
    };
    shorten(text).lines().map(line).collect()
}

/// A dashboard's query, as Grafana would send it with everything chosen.
pub fn with_everything_chosen(text: &str) -> String {
    let text = text.replace("$__rate_interval", WINDOW).replace("$job", JOB);
    shorten(&text.replace("$trunk", ".*").replace("$queue", ".*"))
}

/// The names of Trunkline's metrics and recording rules in a text.
pub fn metrics_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("trunkline_") || word.contains(":trunkline_"))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// The labels that a legend names: `{{trunk}} p95`.
pub fn labels_in(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}").map(|(label, _)| label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_variables_are_replaced_and_names_found() {
        let asked = "rate(trunkline_x_total{job=~\"$job\",trunk=~\"$trunk\"}[$__rate_interval]) / job:trunkline_y:ratio_rate5m";
        let text = with_everything_chosen(asked);
        assert_eq!(
            text,
            "rate(trunkline_x_total{job=~\"trunkline\",trunk=~\".*\"}[15s]) / job:trunkline_y:ratio_rate5m"
        );
        assert_eq!(shorten("increase(a[1h]) + b[5m]"), "increase(a[15s]) + b[15s]");
        assert_eq!(
            shorten_rules("- alert: x\n  expr: a[1h]\n  for: 10m"),
            "- alert: x\n  expr: a[15s]\n  for: 5s\n"
        );
        assert_eq!(metrics_in(&text), ["trunkline_x_total", "job:trunkline_y:ratio_rate5m"]);
        assert_eq!(labels_in("{{kind}}: {{reason}} p95"), ["kind", "reason"]);
    }
}
