//! What the doctor says: findings with a level, the reason why they matter, and a remedy.

use std::process::ExitCode;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub area: &'static str,
    /// The key of the configuration, or what was looked at.
    pub subject: String,
    pub level: Level,
    pub found: String,
    /// Why it matters; empty when all is well.
    pub why: String,
    /// What to do, one sentence; empty when all is well.
    pub remedy: String,
}

/// The findings of one area.
#[derive(Debug)]
pub struct Area {
    name: &'static str,
    findings: Vec<Finding>,
}

impl Area {
    pub const fn new(name: &'static str) -> Self {
        Self { name, findings: Vec::new() }
    }

    pub fn ok(&mut self, subject: impl Into<String>, found: impl Into<String>) {
        self.add(Level::Ok, subject.into(), found.into(), "", "");
    }

    pub fn warn(&mut self, subject: impl Into<String>, found: impl Into<String>, why: &str, remedy: &str) {
        self.add(Level::Warn, subject.into(), found.into(), why, remedy);
    }

    pub fn fail(&mut self, subject: impl Into<String>, found: impl Into<String>, why: &str, remedy: &str) {
        self.add(Level::Fail, subject.into(), found.into(), why, remedy);
    }

    /// With a level that was decided elsewhere; what is well needs no reason and no remedy.
    pub fn at(&mut self, level: Level, subject: impl Into<String>, found: String, why: &str, remedy: &str) {
        let (why, remedy) = if level == Level::Ok { ("", "") } else { (why, remedy) };
        self.add(level, subject.into(), found, why, remedy);
    }

    fn add(&mut self, level: Level, subject: String, found: String, why: &str, remedy: &str) {
        let (why, remedy) = (why.to_owned(), remedy.to_owned());
        self.findings.push(Finding { area: self.name, subject, level, found, why, remedy });
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn take(&mut self, area: Area) {
        self.findings.extend(area.findings);
    }

    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// 0, 1 for warnings, 2 for failures.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.worst() {
            Level::Ok => 0,
            Level::Warn => 1,
            Level::Fail => 2,
        })
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut area = "";
        for finding in &self.findings {
            if finding.area != area {
                area = finding.area;
                text += &format!("{area}\n");
            }
            let mark = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "WARN",
                Level::Fail => "FAIL",
            };
            text += &format!("  {mark}  {}: {}\n", finding.subject, finding.found);
            if !finding.why.is_empty() {
                text += &format!("        why     {}\n", finding.why);
            }
            if !finding.remedy.is_empty() {
                text += &format!("        remedy  {}\n", finding.remedy);
            }
        }
        let (ok, warn, fail) = (self.count(Level::Ok), self.count(Level::Warn), self.count(Level::Fail));
        text + &format!("\n{ok} fine, {warn} to look at, {fail} failed\n")
    }

    pub fn json(&self, node: &str) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|f| {
                json!({
                    "area": f.area, "subject": f.subject, "level": f.level.as_str(), "found": f.found,
                    "why": f.why, "remedy": f.remedy,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"), "node": node, "level": self.worst().as_str(),
            "ok": self.count(Level::Ok), "warn": self.count(Level::Warn), "fail": self.count(Level::Fail),
            "findings": findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_carries_its_remedy() {
        let mut report = Report::default();
        let mut area = Area::new("ports");
        area.ok("sip.listen", "free");
        area.at(Level::Ok, "x", "y".into(), "not told", "not told");
        report.take(area);
        assert_eq!(report.worst(), Level::Ok);
        let mut area = Area::new("etcd");
        area.fail("cluster.etcd", "no quorum", "nobody may join", "start the members");
        report.take(area);
        assert_eq!(report.worst(), Level::Fail);
        let text = report.text();
        assert!(text.contains("FAIL  cluster.etcd: no quorum") && text.contains("remedy  start the members"));
        assert!(text.ends_with("2 fine, 0 to look at, 1 failed\n") && !text.contains("not told"));
        let json = report.json("n1");
        assert_eq!((&json["level"], &json["findings"][2]["area"]), (&json!("fail"), &json!("etcd")));
    }
}
