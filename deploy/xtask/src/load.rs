//! `cargo xtask load`: an optimised system under the load generator, with what a command needs installed first.

use anyhow::Result;

use crate::{packages, process::Step, target, web};

/// These commands work without a system, or with one on another machine.
const WITHOUT: &[&str] = &["check", "scenarios", "worker", "relay", "help", "--help", "-h", "--version"];

/// These measure our relay with two telephones that are bridged without an agent. No call of the product is that, so that
/// the media node is measured by itself, in a process of its own.
const RELAYS: &[&str] = &["relay", "peers"];

/// Not of the generator: a cluster with one role a node, made and measured by the operator's tests.
const ROLES: &str = "roles";

/// Builds both sides and runs the generator.
pub fn run(arguments: &[String]) -> Result<()> {
    let command = arguments.first().map(String::as_str).unwrap_or("--help");
    if command == ROLES {
        return roles(arguments.get(1..).unwrap_or_default());
    }
    if command == "peers" {
        packages::for_peers()?;
    }
    let alone = WITHOUT.contains(&command) || names_a_system(arguments);
    let mut build =
        Step::cargo("the load generator").args(["build", "--release", "--package", "trunkline-loadtest"]);
    if !alone {
        web::build()?;
        build = build.args(["--package", "trunkline"]);
    }
    build.run()?;
    if RELAYS.contains(&command) {
        Step::cargo("the media node by itself")
            .args(["build", "--release", "--package", "trunkline-media", "--example", "media-node"])
            .run()?;
    }
    let bin = target().join("release");
    let mut step = Step::new(format!("trunkline-load {command}"), bin.join("trunkline-load"));
    step = if arguments.is_empty() { step.args(["--help"]) } else { step.args(arguments) };
    if !alone {
        step = step.args(["--spawn"]).args([bin.join("trunkline")]);
    }
    step.run()
}

/// What calls cost in each role. Needs root: the nodes are in network namespaces.
fn roles(arguments: &[String]) -> Result<()> {
    packages::for_tests()?;
    web::build()?;
    Step::cargo("an optimised system").args(["build", "--release", "--package", "trunkline"]).run()?;
    Step::cargo("processor time by role")
        .args(["bench", "--package", "trunkline-operations-tests", "--bench", ROLES, "--"])
        .args(arguments)
        .env("TRUNKLINE_BIN", target().join("release/trunkline"))
        .run()
}

/// Whether the arguments name a system that runs already, or another binary.
fn names_a_system(arguments: &[String]) -> bool {
    ["--sip", "--http", "--spawn", "--program"]
        .iter()
        .any(|option| arguments.iter().any(|a| a == option || a.starts_with(&format!("{option}="))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_system_is_not_started_again() {
        let arguments = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names_a_system(&arguments("run steady --sip=10.0.0.1:5060")));
        assert!(names_a_system(&arguments("queued --spawn x")));
        assert!(!names_a_system(&arguments("run steady --html x.html")));
    }
}
