//! The program as people start it: what it prints, writes and returns.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output},
};

use trunkline_loadtest::callee::Callee;

const SCENARIO: &str = "name: small\nsettle: 1s\ncallers:\n  to: callee\n  phases: [ { for: 2s, rate: 20 } ]\n  \
    patience: 200ms\nexpect: { failed: 0, setup_p99: LIMIT }\n";

fn program(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline-load"));
    command.args(arguments).current_dir(folder).env_remove("TRUNKLINE_LOAD_SECRET");
    command.output().unwrap_or_else(|error| panic!("the program starts: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_mistake_in_a_scenario_is_told_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wrong.yaml"), "name: x\ncallers:\n  phasses: []\n").unwrap();
    for command in ["check", "run"] {
        let output = program(&[command, "wrong.yaml"], folder.path());
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(
            error.contains("wrong.yaml:3:3: callers: unknown key phasses; did you mean phases?"),
            "{error}"
        );
    }
    let output = program(&["run", "nowhere.yaml"], folder.path());
    assert!(text(&output.stderr).contains("neither a file nor a scenario of this program"));
}

/// What is listed can be printed, and what is printed can be checked.
#[test]
fn scenarios_of_the_program_are_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let listed = text(&program(&["scenarios"], folder.path()).stdout);
    let names: Vec<&str> = listed.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(names.len() >= 6, "{listed}");
    for name in names {
        let file = format!("{name}.copy.yaml");
        std::fs::write(folder.path().join(&file), program(&["scenarios", name], folder.path()).stdout)
            .unwrap();
        let checked = program(&["check", &file], folder.path());
        assert!(checked.status.success(), "{}", text(&checked.stderr));
    }
}

/// A run against a callee: the three reports agree, progress is shown, and the exit code tells whether everything held.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_reports_three_times_and_its_exit_code_judges() {
    let callee = Callee::start(Ipv4Addr::LOCALHOST.into()).unwrap();
    let at = callee.at.to_string();
    for (limit, code) in [("30s", 0), ("1us", 2)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("small.yaml"), SCENARIO.replace("LIMIT", limit)).unwrap();
        let (path, sip) = (folder.path().to_owned(), at.clone());
        let run = tokio::task::spawn_blocking(move || {
            let arguments =
                ["run", "small.yaml", "--sip", &sip, "--json", "r.json", "--html", "r.html", "--seed", "4"];
            program(&arguments, &path)
        });
        let output = run.await.unwrap();
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{told}{}", text(&output.stderr));
        let json = std::fs::read_to_string(folder.path().join("r.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let due = json["counts"]["due"].as_u64().unwrap();
        assert!((15..80).contains(&due) && json["counts"]["gave_up"] == due && json["seed"] == 4, "{json}");
        assert!(told.lines().any(|line| line.contains("calls due") && line.contains(&due.to_string())));
        let page = std::fs::read_to_string(folder.path().join("r.html")).unwrap();
        assert!(page.contains(&format!("<b>{due}</b><span>calls due")));
        assert_eq!(page.contains("Not held"), code == 2);
        let progress = text(&output.stderr);
        assert!(progress.lines().filter(|line| line.contains("calls/s")).count() >= 2, "{progress}");
    }
}
