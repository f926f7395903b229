//! Proves that the house stands as ARCHITECTURE.md says.

use std::{collections::BTreeSet, fs};

use trunkline_tidy::{Crates, code_lines, files, functions, root};

/// What a crate in a folder may depend on, besides `types`.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    const PLATFORM: &[&str] = &[
        "trunkline-proto",
        "trunkline-actors",
        "trunkline-cluster",
        "trunkline-cluster-core",
        "trunkline-config",
        "trunkline-journal",
        "trunkline-rpc",
        "trunkline-telemetry",
    ];
    Some(match name {
        "trunkline-types" | "trunkline-proto" => &[],
        "trunkline-sip" | "trunkline-acd-core" | "trunkline-media-core" | "trunkline-cluster-core" => &[],
        "trunkline-call-core" | "trunkline-registrar-core" => &["trunkline-sip"],
        "trunkline-actors"
        | "trunkline-cluster"
        | "trunkline-config"
        | "trunkline-journal"
        | "trunkline-rpc"
        | "trunkline-telemetry" => PLATFORM,
        "trunkline-edge" => SHELL_WITH_SIP,
        "trunkline-call" => &CALL,
        "trunkline-acd" => &ACD,
        "trunkline-registrar" => &REGISTRAR,
        "trunkline-media" => &MEDIA,
        "trunkline-records" | "trunkline-console" => PLATFORM,
        _ => return None,
    })
}

const SHELL_WITH_SIP: &[&str] = &[
    "trunkline-sip",
    "trunkline-proto",
    "trunkline-actors",
    "trunkline-cluster",
    "trunkline-config",
    "trunkline-rpc",
    "trunkline-telemetry",
];
const CALL: [&str; 9] = [
    "trunkline-call-core",
    "trunkline-sip",
    "trunkline-proto",
    "trunkline-actors",
    "trunkline-cluster",
    "trunkline-config",
    "trunkline-journal",
    "trunkline-rpc",
    "trunkline-telemetry",
];
const REGISTRAR: [&str; 9] = [
    "trunkline-registrar-core",
    "trunkline-sip",
    "trunkline-proto",
    "trunkline-actors",
    "trunkline-cluster",
    "trunkline-config",
    "trunkline-journal",
    "trunkline-rpc",
    "trunkline-telemetry",
];
const ACD: [&str; 8] = [
    "trunkline-acd-core",
    "trunkline-proto",
    "trunkline-actors",
    "trunkline-cluster",
    "trunkline-config",
    "trunkline-journal",
    "trunkline-rpc",
    "trunkline-telemetry",
];
const MEDIA: [&str; 6] = [
    "trunkline-media-core",
    "trunkline-proto",
    "trunkline-cluster",
    "trunkline-config",
    "trunkline-rpc",
    "trunkline-telemetry",
];

#[test]
fn arrows_point_the_right_way() {
    let mut wrong = Vec::new();
    for (name, (_, dependencies)) in &Crates::read().unwrap().0 {
        let Some(allowed) = allowed(name) else { continue };
        for dependency in dependencies {
            if dependency != "trunkline-types" && !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{name} must not see {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_load_generator_imports_nothing_of_the_services() {
    let crates = Crates::read().unwrap().0;
    let (_, dependencies) = &crates["trunkline-loadtest"];
    assert_eq!(dependencies, &BTreeSet::new());
}

#[test]
fn cores_have_no_clock_no_runtime_and_no_randomness() {
    let mut wrong = Vec::new();
    for file in files().unwrap() {
        let core = [
            "services/types/src/",
            "services/sip/src/",
            "services/acd/core/src/",
            "services/call/core/src/",
            "services/media/core/src/",
            "services/registrar/core/src/",
            "services/platform/cluster/core/src/",
        ]
        .iter()
        .any(|folder| file.starts_with(folder));
        if !core || !file.ends_with(".rs") {
            continue;
        }
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        for forbidden in [
            "Instant::now",
            "SystemTime::now",
            "tokio::",
            "actix::",
            "tonic::",
            "rand::",
            "std::net::UdpSocket",
            "std::thread",
        ] {
            for (number, line) in code.lines().enumerate() {
                if line.contains(forbidden) && !line.trim_start().starts_with("//") {
                    wrong.push(format!("{file}:{}: {forbidden} has no place in a core", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_crate_knows_actix() {
    for file in files().unwrap() {
        if file.ends_with("Cargo.toml")
            && file != "Cargo.toml"
            && file != "services/platform/actors/Cargo.toml"
        {
            let text = fs::read_to_string(root().join(&file)).unwrap();
            assert!(!text.contains("actix"), "{file}: actix belongs to services/platform/actors alone");
        }
    }
}

#[test]
fn rooms_are_small() {
    const FILE_LINES: usize = 500;
    const FUNCTION_LINES: usize = 80;
    let mut wrong = Vec::new();
    for file in files()
        .unwrap()
        .iter()
        .filter(|f| f.ends_with(".rs") && !f.contains("/tests/") && !f.ends_with("/tests.rs"))
    {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let lines = code_lines(&text);
        if lines > FILE_LINES {
            wrong.push(format!("{file}: {lines} lines without tests, more than {FILE_LINES}: two ideas?"));
        }
        for (name, length) in functions(&text) {
            if length > FUNCTION_LINES {
                wrong.push(format!("{file}: fn {name} has {length} lines, more than {FUNCTION_LINES}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_else_stands_at_the_top() {
    let known: BTreeSet<&str> = [
        ".cargo",
        ".ci",
        ".gitignore",
        "ARCHITECTURE.md",
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "LICENSE",
        "clippy.toml",
        ".dockerignore",
        "deny.toml",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "deploy",
        "helm",
        "loadtest",
        "proto",
        "services",
        "tests",
    ]
    .into();
    let found: BTreeSet<String> =
        files().unwrap().iter().map(|f| f.split('/').next().unwrap().to_owned()).collect();
    let strange: Vec<&String> = found.iter().filter(|f| !known.contains(f.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?} has no place at the top");
}

#[test]
fn display_names_never_become_markup() {
    for file in files()
        .unwrap()
        .iter()
        .filter(|f| f.starts_with("services/web/") && (f.ends_with(".svelte") || f.ends_with(".ts")))
    {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for forbidden in ["{@html", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"] {
            assert!(!text.contains(forbidden), "{file}: {forbidden} turns text into markup");
        }
    }
}

#[test]
fn every_folder_of_the_house_is_on_the_plan() {
    let plan = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (name, (folder, _)) in &Crates::read().unwrap().0 {
        let last = folder.rsplit("services/").next().unwrap();
        assert!(plan.contains(last), "{name}: ARCHITECTURE.md does not mention {folder}");
    }
}
