//! The tests of the workspace: all are built once, with the same features, and then run folder by folder.
//!
//! `cargo test --package …` would build what a package depends on anew whenever that package wants other features of it
//! than the whole workspace does: minutes for nothing, and another binary than the one that the stage before has tested.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process::Step, root, target};

/// No program of ours needs as much; one that hangs ends here.
const LIMIT: Duration = Duration::from_secs(15 * 60);
const POLL: Duration = Duration::from_millis(10);
/// `$0` with its arguments on a host of its own: loopback, and an interface with a way out that leads nowhere, without which
/// Chromium and kube-apiserver find no address of theirs.
const ON_HOST: &str = "ip link set lo up && ip link add eth0 type veth peer name nowhere && ip link set nowhere up \
                       && ip link set eth0 up && ip addr add 192.0.2.1/24 dev eth0 \
                       && ip route add default via 192.0.2.2 && exec \"$0\" \"$@\"";

/// Test programs that are built.
pub struct Suite(Vec<Test>);

/// In which order the programs of a stage run.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// So many beside each other, each in a network namespace of its own, so that they do not meet at a port. That needs root:
    /// without, it is one.
    pub lanes: usize,
    /// Begun first, the longest first.
    pub long: &'a [&'a str],
    /// Those that nothing runs beside, because they judge what a busy machine spoils.
    pub alone: &'a [&'a str],
}

impl Order<'_> {
    /// One after the other.
    pub const PLAIN: Self = Self { lanes: 1, long: &[], alone: &[] };

    /// Programs in the order in which they are begun: those that run beside each other, and those that run alone.
    fn of<'t>(&self, tests: Vec<&'t Test>) -> Result<(VecDeque<&'t Test>, Vec<&'t Test>)> {
        let absent = |name: &&&str| !tests.iter().any(|test| test.name == **name);
        if let Some(unknown) = self.long.iter().chain(self.alone).find(absent) {
            bail!("there is no test program {unknown}, which the order names");
        }
        let place = |test: &&Test| self.long.iter().position(|name| *name == test.name);
        let (alone, mut beside): (Vec<_>, Vec<_>) =
            tests.into_iter().partition(|test| self.alone.contains(&&*test.name));
        beside.sort_by_key(|test| place(test).unwrap_or(usize::MAX));
        Ok((beside.into(), alone))
    }

    /// Has each of them run, and told whether it is on a host of its own; what failed, the first one first.
    fn go(self, tests: Vec<&Test>, run: impl Fn(&Test, bool) -> Result<()> + Sync) -> Result<Vec<String>> {
        let (beside, alone) = self.of(tests)?;
        let failed = Mutex::new(Vec::new());
        let run = |test: &Test, own_host| {
            if let Err(error) = run(test, own_host) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            }
        };
        let waiting = Mutex::new(beside);
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for _ in 0..self.lanes {
                scope.spawn(|| {
                    while let Some(test) = next() {
                        run(test, self.lanes > 1);
                    }
                });
            }
        });
        alone.into_iter().for_each(|test| run(test, false));
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone)]
struct Test {
    /// Of its package, from the top.
    folder: PathBuf,
    name: String,
    program: PathBuf,
}

impl Suite {
    /// Builds everything: programs, tests, benches, examples.
    pub fn build() -> Result<Self> {
        Step::cargo("build").args(["build", "--workspace", "--all-targets", "--quiet"]).run()?;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json-render-diagnostics"])
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = cargo.spawn().context("cargo could not be started")?;
        let told = child.stdout.take().context("cargo has no output")?;
        let mut tests = Vec::new();
        for line in BufReader::new(told).lines() {
            tests.extend(test(&line?, &root()));
        }
        let ended = child.wait()?;
        if !ended.success() {
            bail!("the tests could not be built ({ended})");
        }
        tests.sort_by(|one, other| (&one.folder, &one.name).cmp(&(&other.folder, &other.name)));
        Ok(Self(tests))
    }

    /// Runs the tests of the packages in the folders that are wanted, one after the other.
    pub fn run(
        &self,
        step: &str,
        wanted: impl Fn(&Path) -> bool,
        arguments: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Result<()> {
        self.run_in(Order::PLAIN, step, wanted, arguments, environment)
    }

    /// Runs them in an order, each to its end; what fails first hides nothing. What a program writes is shown when it ends.
    pub fn run_in(
        &self,
        order: Order<'_>,
        step: &str,
        wanted: impl Fn(&Path) -> bool,
        arguments: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Result<()> {
        println!("── {step}");
        let begun = Instant::now();
        let tests: Vec<&Test> = self.0.iter().filter(|test| wanted(&test.folder)).collect();
        let ran = tests.len();
        if ran == 0 {
            bail!("{step}: there is no test");
        }
        let lanes = if order.lanes > 1 && apart() { order.lanes } else { 1 };
        if lanes < order.lanes {
            println!("   one program after the other: network namespaces cannot be made here");
        }
        let order = Order { lanes, ..order };
        let run = |test: &Test, own_host| test.run(arguments, environment, own_host);
        let failed = order.go(tests, run).with_context(|| step.to_owned())?;
        if !failed.is_empty() {
            bail!("{step} failed, {} of {ran} programs:\n   {}", failed.len(), failed.join("\n   "));
        }
        println!("── {step} ok, {ran} programs, {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Test {
    /// Runs it to its end, shows what it wrote, and tells how it failed.
    fn run(&self, arguments: &[&str], environment: &[(&str, PathBuf)], own_host: bool) -> Result<()> {
        let (begun, title) = (Instant::now(), format!("{} {}", self.folder.display(), self.name));
        println!("   … {title}");
        let kept = target().join("tests").join(&self.folder);
        fs::create_dir_all(&kept).with_context(|| format!("{}", kept.display()))?;
        let path = kept.join(format!("{}.log", self.name));
        let log = fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
        let folder = root().join(&self.folder);
        let mut command = if own_host {
            let mut command = Command::new("unshare");
            command.args(["--net", "sh", "-c", ON_HOST]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        let child = command
            .args(arguments)
            .current_dir(&folder)
            .env("CARGO_MANIFEST_DIR", &folder)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().with_context(|| title.clone())?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        let ended = end(child, LIMIT);
        let seconds = begun.elapsed().as_secs_f64();
        // One write: two that end together do not mix.
        let wrote = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        let shown = [format!("   {title}, {seconds:.1} s\n").as_bytes(), &wrote].concat();
        io::stdout().lock().write_all(&shown).context("standard output")?;
        match ended.with_context(|| title.clone())? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{title} ({status})"),
            None => bail!("{title} (not done within {} s, killed)", LIMIT.as_secs()),
        }
    }
}

/// Whether programs can be on hosts of their own.
fn apart() -> bool {
    let mut trial = Command::new("unshare");
    trial.args(["--net", "sh", "-c", ON_HOST, "true"]).stdin(Stdio::null()).stderr(Stdio::null());
    trial.status().is_ok_and(|status| status.success())
}

/// Waits for its end; none when it had to be killed, with what it had started.
fn end(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            let all = descendants(child.id());
            child.kill()?;
            child.wait()?;
            for pid in all {
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
            }
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Processes that descend from one.
fn descendants(of: u32) -> Vec<u32> {
    let (mut all, mut next) = (Vec::new(), vec![of]);
    while let Some(pid) = next.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            next.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        all.extend(&next);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The test program of a line that cargo writes.
fn test(line: &str, top: &Path) -> Option<Test> {
    let told: Value = serde_json::from_str(line).ok()?;
    let built = told["reason"] == "compiler-artifact" && told["profile"]["test"] == true;
    let program = told["executable"].as_str().filter(|_| built)?;
    let manifest = Path::new(told["manifest_path"].as_str()?);
    Some(Test {
        folder: manifest.parent()?.strip_prefix(top).ok()?.to_owned(),
        name: told["target"]["name"].as_str()?.to_owned(),
        program: program.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    fn programs(names: &[&str], program: &str) -> Vec<Test> {
        let test = |name: &&str| Test {
            folder: "deploy/xtask".into(),
            name: (*name).to_owned(),
            program: program.into(),
        };
        names.iter().map(test).collect()
    }

    /// The long ones first, as many at once as there are lanes, and nothing beside one that is alone.
    #[test]
    fn programs_run_beside_each_other_in_their_order() {
        let tests = programs(&["a", "b", "busy", "long", "longer"], "true");
        let order = Order { lanes: 2, long: &["longer", "long"], alone: &["busy"] };
        let (begun, running) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let failed = order.go(tests.iter().collect(), |test, own_host| {
            running.fetch_add(1, SeqCst);
            let place = {
                let mut begun = begun.lock().unwrap();
                begun.push(test.name.clone());
                begun.len()
            };
            if test.name == "busy" {
                assert_eq!((running.load(SeqCst), own_host), (1, false));
            } else {
                let deadline = Instant::now() + Duration::from_secs(20);
                while begun.lock().unwrap().len() < place.next_multiple_of(2) {
                    assert!(Instant::now() < deadline, "{} has nothing beside it", test.name);
                    thread::sleep(POLL);
                }
                assert!(own_host);
            }
            running.fetch_sub(1, SeqCst);
            if test.name == "b" { bail!("b is wrong") } else { Ok(()) }
        });
        assert_eq!(failed.unwrap(), ["b is wrong"]);
        let mut begun = begun.into_inner().unwrap();
        begun[..2].sort();
        begun[2..4].sort();
        assert_eq!(begun, ["long", "longer", "a", "b", "busy"]);
        let unknown = Order { long: &["gone"], ..Order::PLAIN };
        let refused = unknown.go(tests.iter().collect(), |_, _| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("gone"), "{refused}");
    }

    #[test]
    fn every_program_that_fails_is_named() {
        let tests = [programs(&["fine"], "true"), programs(&["one", "two"], "false")].concat();
        let failed = Suite(tests).run("trial", |_| true, &[], &[]).unwrap_err().to_string();
        for part in ["trial failed, 2 of 3", "deploy/xtask one (exit status: 1)", "deploy/xtask two"] {
            assert!(failed.contains(part), "{failed}");
        }
        assert!(!failed.contains("fine"), "{failed}");
    }

    /// One that hangs is ended with what it started.
    #[test]
    fn a_program_that_hangs_leaves_nothing_behind() {
        let started = tempfile();
        let hangs = Command::new("sh").args(["-c", "sleep 60 & echo $! >\"$0\"; wait"]).arg(&started).spawn();
        let begun = Instant::now();
        let hangs = hangs.unwrap();
        let pid = loop {
            let pid = fs::read_to_string(&started).unwrap_or_default();
            if pid.ends_with('\n') {
                break pid.trim().to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it has started nothing");
            thread::sleep(POLL);
        };
        assert!(end(hangs, Duration::from_millis(50)).unwrap().is_none());
        // Gone, or a zombie that its new parent has not fetched.
        let alive =
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{pid} lives on");
            thread::sleep(POLL);
        }
        fs::remove_file(started).unwrap();
    }

    fn tempfile() -> PathBuf {
        std::env::temp_dir().join(format!("trunkline-suite-{}", std::process::id()))
    }

    #[test]
    fn a_test_program_is_told_from_the_rest() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/top/tests/faults/Cargo.toml",
            "target":{"name":"trunkline_faults","kind":["lib"]},"profile":{"test":true},"executable":"/t/faults-1"}"#
            .replace('\n', "");
        let found = test(&line, Path::new("/top")).unwrap();
        assert_eq!((found.folder.as_path(), &*found.name), (Path::new("tests/faults"), "trunkline_faults"));
        let library = line.replace(r#""test":true"#, r#""test":false"#);
        assert!(test(&library, Path::new("/top")).is_none());
        assert!(test(r#"{"reason":"build-finished","success":true}"#, Path::new("/top")).is_none());
        assert!(test("no JSON", Path::new("/top")).is_none());
    }
}
