//! Proves that the sandbox of deploy/systemd lets a node work: a node of a real cluster goes through a call with an agent, its
//! audio, its recording and its drain, without a capability and with every system call written down (strace). What the unit
//! would refuse of them is a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use trunkline_operations_tests::lab::{Lab, on_network};
use trunkline_system_tests::{root, s, system, until};

const NODES: [(&str, &str); 1] = [("n1", "edge,call,acd,media,records,console")];

/// The unit's settings by key.
struct Unit(BTreeMap<String, String>);

impl Unit {
    fn read() -> Result<Self> {
        let text = fs::read_to_string(root().join("deploy/systemd/trunkline@.service"))?;
        let lines =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Ok(Self(lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    fn list(&self, key: &str) -> Result<Vec<&str>> {
        let value = self.0.get(key).with_context(|| format!("the unit does not set {key}"))?;
        Ok(value.split_whitespace().collect())
    }

    fn is_set(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| value == "yes")
    }

    /// System calls that it allows, as systemd resolves its sets.
    fn allowed(&self) -> Result<BTreeSet<String>> {
        let output = Command::new("systemd-analyze")
            .args(["syscall-filter", "--no-pager"])
            .output()
            .context("systemd-analyze is missing: install Debian's package systemd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (mut sets, mut set) = (BTreeMap::<&str, Vec<&str>>::new(), "");
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
            match line.strip_prefix("    ").map(str::trim_end) {
                Some(member) if !member.is_empty() => sets.entry(set).or_default().push(member),
                Some(_) => {}
                None => set = line.trim(),
            }
        }
        let mut wanted = self.list("SystemCallFilter")?;
        let mut allowed = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if name.starts_with('@') {
                wanted.extend(sets.get(name).with_context(|| format!("systemd knows no set {name}"))?);
            } else {
                allowed.insert(name.to_owned());
            }
        }
        // Always allowed.
        allowed.extend(
            sets.get("@default").context("systemd lists no @default")?.iter().map(|name| (*name).to_owned()),
        );
        Ok(allowed)
    }
}

/// A system call that succeeded, or was under way when the node ended.
struct Done {
    name: String,
    line: String,
}

/// Of a file that strace has written; lines that another thread's interrupted are put together.
fn done(trace: &str) -> Vec<Done> {
    let (mut all, mut begun) = (Vec::new(), BTreeMap::<&str, &str>::new());
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(first) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, first);
            continue;
        }
        let whole = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => begun.remove(thread).unwrap_or_default().to_owned() + end,
            None => rest.to_owned(),
        };
        all.push(whole);
    }
    all.extend(begun.into_values().map(str::to_owned));
    let name = |line: &str| line.split_once('(').map(|(name, _)| name.to_owned());
    let named = all.into_iter().filter_map(|line| Some(Done { name: name(&line)?, line }));
    named.filter(|done| !done.line.contains(" = -1 E")).collect()
}

/// What the unit would have refused of what was done, each with an example; `writable`: the folders in which it lets the node
/// write.
fn refused(unit: &Unit, all: &[Done], writable: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    let (allowed, families) = (unit.allowed()?, unit.list("RestrictAddressFamilies")?);
    let mut refused = BTreeMap::new();
    for Done { name, line } in all {
        let family = || line.split(['(', ',']).nth(1).unwrap_or_default();
        let has = |word: &str| {
            line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|found| found == word)
        };
        let executable = match name.as_str() {
            "mmap" => has("PROT_WRITE") && has("PROT_EXEC"),
            "mprotect" | "pkey_mprotect" => has("PROT_EXEC"),
            _ => false,
        };
        let namespace =
            matches!(name.as_str(), "clone" | "clone3" | "unshare" | "setns") && line.contains("CLONE_NEW");
        let realtime = name.starts_with("sched_set")
            && ["SCHED_FIFO", "SCHED_RR", "SCHED_DEADLINE"].into_iter().any(has);
        for (why, is) in [
            ("SystemCallFilter", !allowed.contains(name)),
            ("RestrictAddressFamilies", name == "socket" && !families.contains(&family())),
            ("MemoryDenyWriteExecute", unit.is_set("MemoryDenyWriteExecute") && executable),
            ("RestrictNamespaces", unit.is_set("RestrictNamespaces") && namespace),
            ("RestrictRealtime", unit.is_set("RestrictRealtime") && realtime),
            (
                "ProtectSystem",
                writes(name, line).any(|path| !writable.iter().any(|folder| path.starts_with(folder))),
            ),
        ] {
            if is {
                refused.entry(format!("{why}: {name}")).or_insert_with(|| line.clone());
            }
        }
    }
    Ok(refused)
}

/// Files that a call writes, makes, moves or removes.
fn writes<'a>(name: &str, line: &'a str) -> impl Iterator<Item = &'a Path> {
    let opens = matches!(name, "open" | "openat" | "openat2" | "creat")
        && ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
    let changes = [
        "mkdir", "rename", "unlink", "rmdir", "symlink", "link", "chmod", "fchmodat", "chown", "truncate",
        "mknod",
    ];
    let changes = changes.iter().any(|change| name.starts_with(change));
    let paths = line.split('"').skip(1).step_by(2).map(Path::new);
    paths.filter(move |_| opens || changes).filter(|path| *path != Path::new("/dev/null"))
}

#[test]
fn the_unit_s_sandbox_lets_a_node_take_a_call() {
    let unit = Unit::read().unwrap();
    on_network("sandbox", |network, folder| async move {
        let mut lab = Lab::ground(network, &folder, &NODES, 1).await?;
        let (trace, wrapper) = (folder.join("n1.strace"), folder.join("traced"));
        // strace stands aside (-D): the node has the process id that is waited for and that gets the signals.
        let lines = format!(
            "#!/bin/sh\nexec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \\\n  \
             strace -D -f -q -s 0 -o '{}' '{}' \"$@\"\n",
            trace.display(),
            system::binary()?.display()
        );
        fs::write(&wrapper, lines)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        lab.node("n1")?.binary = wrapper;
        lab.start_nodes().await.context("strace and setpriv (util-linux) are needed")?;

        let stage = lab.stage(1).await?;
        let caller = stage.talk(1, s(30)).await?;
        until("the caller has heard the agent", s(20), || {
            let heard = stage.crowd.heard(caller.start).tone.is_some();
            std::future::ready(Ok(heard.then_some(())))
        })
        .await?;
        stage.desk.order(|orders| orders.hang_up += 1);
        stage.crowd.over(caller, s(20)).await?;
        let api = lab.api().await?;
        until("the recording is there", s(60), async || {
            let Some(id) =
                api.contacts("").await?.first().and_then(|one| one["call_id"].as_str().map(str::to_owned))
            else {
                return Ok(None);
            };
            let state = api.contact(&id).await?["recordings"][0]["state"].clone();
            Ok((state == "available").then_some(()))
        })
        .await?;
        let pid = lab.node("n1")?.program()?.pid();
        lab.node("n1")?.stop(s(60)).await?;
        let text = until("the trace is whole", s(20), || {
            let text = fs::read_to_string(&trace);
            let whole = |text: String| {
                let ended = |line: &str| {
                    line.split_once(' ').is_some_and(|(thread, rest)| {
                        thread == pid.to_string() && rest.trim_start() == "+++ exited with 0 +++"
                    })
                };
                text.lines().any(ended).then_some(text)
            };
            std::future::ready(text.map(whole).map_err(Into::into))
        })
        .await?;

        let all = done(&text);
        for seen in ["socket", "sendto", "fdatasync", "io_uring_enter"] {
            ensure!(
                all.iter().any(|done| done.name.starts_with(seen)),
                "no {seen}: what was traced is no call"
            );
        }
        // The unit's data folder and its own /tmp, and where this cluster keeps its recordings.
        let writable = [lab.folder_of("n1"), lab.recordings()?.to_owned()];
        let refused = refused(&unit, &all, &writable)?;
        ensure!(refused.is_empty(), "the unit would refuse: {refused:#?}");
        Ok(())
    })
    .unwrap();
}
