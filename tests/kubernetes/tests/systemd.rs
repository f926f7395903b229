//! Machines without Kubernetes: the page of deploy/systemd is gone through line by line under a root of its own, and what it
//! installs fits together. (What the unit's sandbox lets a node do is tried in tests/operations.)

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use trunkline_kubernetes_tests::{helm::read_values, root};
use trunkline_system_tests::system;

const UNIT: &str = "deploy/systemd/trunkline@.service";
const NODE: &str = "deploy/systemd/n1.yaml";
/// The folders of a machine that the page writes to.
const PLACES: [&str; 3] = ["/etc/", "/usr/", "/var/"];

/// A machine that has nothing yet, in a folder.
struct Machine {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Machine {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for place in ["etc/systemd/system", "etc/sysusers.d", "etc/sysctl.d", "usr/bin"] {
            fs::create_dir_all(folder.path().join(place))?;
        }
        // Stands for the program that was built, which is large.
        let program = folder.path().join("built");
        fs::write(&program, format!("#!/bin/sh\nexec '{}' \"$@\"\n", system::binary()?.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { folder, program })
    }

    /// Where a path of the machine is here.
    fn at(&self, path: &str) -> String {
        if PLACES.iter().any(|place| path.starts_with(place)) {
            format!("{}{path}", self.folder.path().display())
        } else {
            path.to_owned()
        }
    }

    /// Types a command of the page.
    fn types(&self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (program, arguments) = words.split_first().context("an empty line")?;
        match *program {
            // Built by the stage before; what changes this machine's kernel is read by another test.
            "cargo" | "sysctl" => Ok(()),
            "install" => self.installs(arguments),
            "trunkline" => self.runs(arguments),
            "systemd-sysusers" => self.offline(program, &[]),
            "systemctl" if arguments == ["daemon-reload"] => Ok(()),
            "systemctl" => {
                let arguments: Vec<&str> =
                    arguments.iter().copied().filter(|word| *word != "--now").collect();
                self.offline(program, &arguments)
            }
            _ => bail!("nobody knows how to try this line"),
        }
    }

    /// The group is on the machine that the page is about.
    fn installs(&self, arguments: &[&str]) -> Result<()> {
        let group = arguments.iter().position(|word| *word == "-g").map(|at| at..at + 2);
        let kept =
            arguments.iter().enumerate().filter(|(at, _)| !group.as_ref().is_some_and(|g| g.contains(at)));
        let words = kept.map(|(_, word)| match *word {
            "target/release/trunkline" => self.program.display().to_string(),
            word => self.at(word),
        });
        success(&Command::new("install").args(words).current_dir(root()).output()?)?;
        if arguments.contains(&NODE) { self.completes_the_node() } else { Ok(()) }
    }

    /// Puts what the file names beside it, as the page says.
    fn completes_the_node(&self) -> Result<()> {
        let place = PathBuf::from(self.at("/etc/trunkline"));
        let file = place.join("n1.yaml");
        let text = fs::read_to_string(&file)?.replace("/etc/trunkline", &place.display().to_string());
        fs::write(&file, text)?;
        fs::write(place.join("postgres-url"), "postgres://trunkline:secret@10.0.0.9/trunkline")?;
        let authority = trunkline_faults::world::Authority::new("test")?;
        authority.write("n1", std::net::Ipv4Addr::new(10, 0, 0, 1), &place)?;
        for end in ["pem", "key"] {
            fs::rename(place.join(format!("node.{end}")), place.join(format!("n1.{end}")))?;
        }
        Ok(())
    }

    /// `trunkline …` with nothing but the file, as a shell has it; without a network, so that nothing is asked of strangers.
    fn runs(&self, arguments: &[&str]) -> Result<()> {
        let output = self.trunkline(arguments, &[])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if arguments.first() == Some(&"doctor") {
            // It has findings here; that of the configuration is not among them.
            ensure!(said.contains("  ok    node: n1 with "), "{said}");
            return Ok(());
        }
        success(&output)
    }

    fn trunkline(&self, arguments: &[&str], environment: &[(String, String)]) -> Result<Output> {
        Command::new("unshare")
            .args(["--net", "timeout", "100"])
            .arg(self.at("/usr/bin/trunkline"))
            .args(arguments.iter().map(|word| self.at(word)))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(environment.iter().cloned())
            .output()
            .context("unshare (util-linux)")
    }

    /// A program of systemd's, which can work on another root than that of the running system.
    fn offline(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let output = Command::new(program)
            .arg(format!("--root={}", self.folder.path().display()))
            .args(arguments)
            .output()
            .with_context(|| format!("{program} is missing: install Debian's package systemd"))?;
        success(&output)
    }
}

fn success(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The commands of the page, in order.
fn page() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("deploy/systemd/README.md"))?;
    let block = text.split("```").nth(1).context("the page has no command lines")?;
    let lines = block.lines().map(|line| line.split('#').next().unwrap_or_default());
    let commands = lines.flat_map(|line| line.split("&&")).map(str::trim).filter(|line| !line.is_empty());
    Ok(commands.map(str::to_owned).collect())
}

/// A setting of the unit for the node `n1`; those that may be there several times, all of them.
fn settings(key: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join(UNIT))?;
    let found = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(found.map(|value| value.replace("%i", "n1")).collect())
}

fn node() -> Result<Value> {
    read_values(&root().join(NODE))
}

/// Typed as it is there, the page ends with a node whose file the program takes, with and without the unit's environment.
#[test]
fn the_page_works_as_it_is_typed() -> Result<()> {
    let machine = Machine::new()?;
    let commands = page()?;
    let at = |wanted: &str| {
        commands.iter().position(|line| line.contains(wanted)).with_context(|| wanted.to_owned())
    };
    let order =
        [at("cargo xtask web")?, at("cargo build --release -p trunkline")?, at("target/release/trunkline")?];
    ensure!(order.is_sorted(), "the program is built before its pages, or installed before it is built");
    for line in &commands {
        machine.types(line).with_context(|| line.clone())?;
    }
    for path in ["/usr/bin/trunkline", "/etc/systemd/system/multi-user.target.wants/trunkline@n1.service"] {
        ensure!(Path::new(&machine.at(path)).symlink_metadata().is_ok(), "the page leaves no {path}");
    }
    let passwd = fs::read_to_string(machine.at("/etc/passwd"))?;
    ensure!(passwd.contains("trunkline:"), "no user trunkline:\n{passwd}");

    let check = ["config", "check", "--config", "/etc/trunkline/n1.yaml"];
    let environment: Vec<(String, String)> = settings("Environment")?
        .iter()
        .flat_map(|line| line.split_whitespace())
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let (bare, unit) = (machine.trunkline(&check, &[])?, machine.trunkline(&check, &environment)?);
    success(&bare)?;
    success(&unit)?;
    ensure!(bare.stdout == unit.stdout, "the unit runs another node than the file is checked for");
    Ok(())
}

/// What the unit grants is what its node's file asks for.
#[test]
fn the_unit_and_its_node_s_file_fit() -> Result<()> {
    let node = node()?;
    ensure!(node["node"]["name"] == "n1", "the file is that of trunkline@n1");
    let state: Vec<String> =
        settings("StateDirectory")?.iter().map(|name| format!("/var/lib/{name}")).collect();
    ensure!(
        state == [node["node"]["data_dir"].as_str().unwrap_or_default()],
        "{state:?} is what it can write to"
    );
    let stop = settings("TimeoutStopSec")?;
    let stop =
        stop.first().and_then(|text| text.strip_suffix('h')?.parse::<u64>().ok()).context("hours")? * 3_600;
    let drain = node["node"]["drain_s"].as_u64().context("drain_s")?;
    ensure!(
        2 * drain + 60 <= stop,
        "{drain} s of drain, and as much for the shards, do not fit into {stop} s"
    );

    let sysctl = fs::read_to_string(root().join("deploy/systemd/trunkline.sysctl"))?;
    let lines = sysctl.lines().filter(|line| !line.starts_with('#'));
    let pairs: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(" = ")).collect();
    for (key, _) in &pairs {
        let file = Path::new("/proc/sys").join(key.replace('.', "/"));
        // A namespace of its own shows the reserved ports only.
        ensure!(file.exists() || key.starts_with("net.core"), "the kernel knows no {key}");
    }
    let ports = node["media"]["rtp"].as_str().context("media.rtp")?;
    ensure!(
        pairs.contains(&("net.ipv4.ip_local_reserved_ports", ports)),
        "other programs may take ports of {ports}: {pairs:?}"
    );
    Ok(())
}

/// systemd itself reads the unit.
#[test]
fn systemd_takes_the_unit() -> Result<()> {
    let text = fs::read_to_string(root().join(UNIT))?;
    let folder = tempfile::tempdir()?;
    // The program need not be installed for this.
    fs::write(folder.path().join("trunkline@.service"), text.replace("/usr/bin/trunkline", "/bin/true"))?;
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(folder.path().join("trunkline@n1.service").as_path())
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .context("systemd-analyze is missing: install Debian's package systemd")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("trunkline")).collect();
    ensure!(output.status.success() && ours.is_empty(), "systemd refuses the unit:\n{said}");
    for wanted in ["KillSignal=SIGTERM", "NoNewPrivileges=yes", "ProtectSystem=strict", "User=trunkline"] {
        ensure!(text.contains(wanted), "the unit lacks {wanted}");
    }
    Ok(())
}

/// Whoever builds the program before its pages is told so, and only then.
#[test]
fn a_build_without_pages_warns() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (script, console) = (folder.path().join("build"), folder.path().join("console"));
    fs::create_dir_all(&console)?;
    fs::create_dir_all(folder.path().join("web"))?;
    let built = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(root().join("services/console/build.rs"))
        .output()
        .context("rustc")?;
    success(&built)?;
    let said = || -> Result<String> {
        let output = Command::new(&script).current_dir(&console).output()?;
        success(&output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let empty = said()?;
    ensure!(empty.contains("cargo:warning=") && empty.contains("cargo xtask web"), "no warning:\n{empty}");
    fs::write(folder.path().join("web/dist/agent.html"), "")?;
    let full = said()?;
    ensure!(!full.contains("cargo:warning="), "a warning although the pages are there:\n{full}");
    Ok(())
}
