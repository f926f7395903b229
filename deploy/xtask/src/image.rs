//! `cargo xtask image`: the container image, built without a registry on an empty base, and proved by running in it.
//!
//! The layout is that of deploy/image/Dockerfile: the program, the shared libraries that it names, the authorities for
//! TLS, a user without rights, and the list of what it is made of (CycloneDX). Debian's buildah makes it; nothing is
//! pulled, no daemon runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    process::{Step, is_here},
    root, target,
};

const NAME: &str = "localhost/trunkline:built";
const USER: &str = "65532:65532";
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const CYCLONEDX: &str = "0.5.9";
/// A program with its libraries; more is something that does not belong there. A build for tests is larger.
const LARGEST_MIB: u64 = 120;
const LARGEST_DEBUG_MIB: u64 = 150;
/// From its start until a node in the image serves; a build for tests on a busy machine takes some seconds.
const SERVES_WITHIN: Duration = Duration::from_secs(90);
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Builds the image from an optimised build and proves it.
pub fn run(debug: bool) -> Result<()> {
    if debug {
        return stage();
    }
    Step::cargo("trunkline, optimised").args(["build", "--package", "trunkline", "--release"]).run()?;
    make("release", LARGEST_MIB)?;
    println!(
        "── to a registry: buildah {} push {NAME} docker://REGISTRY/trunkline:VERSION",
        store().join(" ")
    );
    Ok(())
}

/// The stage of `cargo xtask test`: the same image around the debug build, which is there already.
pub fn stage() -> Result<()> {
    make("debug", LARGEST_DEBUG_MIB)
}

/// Builds and proves the image around a profile's binary.
fn make(profile: &str, largest_mib: u64) -> Result<()> {
    ensure!(
        is_here("buildah"),
        "buildah is missing: it builds the image; install Debian's packages buildah and crun"
    );
    let layout = target().join("image/root");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("{}", layout.display()))?;
    }
    lay_out(&target().join(profile).join("trunkline"), &layout)?;
    as_the_dockerfile_does(&layout)?;
    let size = size_of(&layout)? >> 20;
    ensure!(size <= largest_mib, "the image has {size} MiB; {largest_mib} are enough");
    build(&layout)?;
    let container = said(buildah().args(["from", "--pull-never", NAME]))?;
    let proved = prove(&container);
    let removed = said(buildah().args(["rm", &container]));
    proved.and_then(|version| removed.map(|_| println!("── {NAME}: {version}, {size} MiB, user {USER}")))
}

/// The image's files.
fn lay_out(binary: &Path, layout: &Path) -> Result<()> {
    place(layout, "trunkline", binary)?;
    let program = layout.join("trunkline");
    Step::new("the program without its debug symbols", "strip")
        .args(["--strip-debug"])
        .args([&program])
        .run()?;
    for library in libraries(binary)? {
        place(layout, library.trim_start_matches('/'), Path::new(&library))?;
    }
    for (from, to) in
        [("passwd", "etc/passwd"), ("group", "etc/group"), ("nsswitch.conf", "etc/nsswitch.conf")]
    {
        place(layout, to, &root().join("deploy/image").join(from))?;
    }
    place(layout, "etc/ssl/certs/ca-certificates.crt", Path::new(AUTHORITIES))
        .context("install Debian's package ca-certificates")?;
    place(layout, "usr/share/trunkline/sbom.cdx.json", &bill_of_materials()?)
}

fn place(layout: &Path, to: &str, from: &Path) -> Result<()> {
    let to = layout.join(to);
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    fs::copy(from, &to).with_context(|| format!("{} for the image", from.display())).map(drop)
}

/// The shared libraries that the program names, and the loader.
fn libraries(binary: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new("ldd").arg(binary).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("not found"), "{}: {text}", binary.display());
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}

/// Runs the lines by which deploy/image/Dockerfile lays its image out: they make the same files.
fn as_the_dockerfile_does(layout: &Path) -> Result<()> {
    let text = fs::read_to_string(root().join("deploy/image/Dockerfile")).context("the Dockerfile")?;
    let lines = layout_lines(&text).context("the Dockerfile does not say how it lays the image out")?;
    // Stands for the root of the build's file system: the program, and the sources with the bill of materials.
    let top = target().join("image/docker");
    if top.exists() {
        fs::remove_dir_all(&top).with_context(|| format!("{}", top.display()))?;
    }
    place(&top, "trunkline", &layout.join("trunkline"))?;
    for part in ["passwd", "group", "nsswitch.conf"].map(|name| format!("deploy/image/{name}")) {
        place(&top.join("src"), &part, &root().join(&part))?;
    }
    place(&top.join("src"), "services/daemon/trunkline.cdx.json", &target().join("image/sbom.cdx.json"))?;
    Step::new("the Dockerfile's layout", "sh")
        .args(["-ec", &beneath(&lines, &top)])
        .directory(top.join("src"))
        .run()?;
    let (theirs, ours) = (files(&top.join("image"))?, files(layout)?);
    ensure!(theirs == ours, "the Dockerfile's image has {theirs:#?}, that of `cargo xtask image` {ours:#?}");
    fs::remove_dir_all(&top).with_context(|| format!("{}", top.display()))
}

/// The instruction that makes `/image`.
fn layout_lines(dockerfile: &str) -> Option<String> {
    let run = dockerfile.split("\nRUN ").find(|text| text.contains("/image/trunkline"))?;
    let mut lines = String::new();
    for line in run.lines() {
        let (line, goes_on) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        lines += line;
        if !goes_on {
            return Some(lines);
        }
    }
    None
}

/// The same with what it names at the root of the file system in a folder.
fn beneath(lines: &str, top: &Path) -> String {
    let moved = |word: &str| {
        let ours = word == "/trunkline" || word == "/image" || word.starts_with("/image/");
        if ours { format!("{}{word}", top.display()) } else { word.to_owned() }
    };
    lines.split(' ').map(moved).collect::<Vec<_>>().join(" ")
}

/// Every file of a folder with its size.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            if meta.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder)?.to_owned(), meta.len());
            }
        }
    }
    Ok(found)
}

/// What the program is made of: every crate with version and licence.
fn bill_of_materials() -> Result<PathBuf> {
    let tools = target().join("tools");
    let tool = tools.join("bin/cargo-cyclonedx");
    if !tool.is_file() {
        Step::cargo("cargo-cyclonedx (built once)")
            .args(["install", "--locked", "--quiet", "--version", CYCLONEDX, "cargo-cyclonedx", "--root"])
            .args([&tools])
            .env("CARGO_TARGET_DIR", tools.join("build"))
            .run()?;
        // Its objects are of no further use.
        let _ = fs::remove_dir_all(tools.join("build"));
    }
    let made = root().join("services/daemon/trunkline.cdx.json");
    Step::new("bill of materials (CycloneDX)", tool)
        .args(["cyclonedx", "--format", "json", "--all", "--override-filename", "trunkline.cdx"])
        .args(["--manifest-path", "services/daemon/Cargo.toml"])
        .run()?;
    let kept = target().join("image/sbom.cdx.json");
    fs::rename(&made, &kept).with_context(|| format!("{}", made.display()))?;
    // The tool leaves one beside every crate.
    sweep(&root(), "trunkline.cdx.json")?;
    let text = fs::read_to_string(&kept)?;
    for part in ["\"CycloneDX\"", "pkg:cargo/tokio@", "pkg:cargo/rustls@"] {
        ensure!(text.contains(part), "the bill of materials lacks {part}");
    }
    Ok(kept)
}

/// Removes files of this name from the sources.
fn sweep(folder: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let other = ["target", "node_modules", ".git"].iter().any(|other| entry.file_name() == *other);
        if entry.file_type()?.is_dir() && !other {
            sweep(&entry.path(), name)?;
        } else if entry.file_name() == name {
            fs::remove_file(entry.path()).with_context(|| format!("{}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn size_of(folder: &Path) -> Result<u64> {
    Ok(files(folder)?.into_values().sum())
}

/// A store of its own: nothing of the machine's containers is touched.
fn store() -> [String; 6] {
    let store = target().join("image/store");
    let path = |folder: &str| store.join(folder).display().to_string();
    let [root, run] = [path("root"), path("run")];
    ["--root".to_owned(), root, "--runroot".to_owned(), run, "--storage-driver".to_owned(), "vfs".to_owned()]
}

fn buildah() -> Command {
    let mut command = Command::new("buildah");
    command.args(store()).env("BUILDAH_ISOLATION", "chroot").current_dir(root());
    command
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().context("buildah could not be started; is it installed?")?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn build(layout: &Path) -> Result<()> {
    println!("── image {NAME}");
    let container = said(buildah().args(["from", "scratch"]))?;
    let made = said(buildah().args(["copy", &container]).arg(layout).arg("/")).and_then(|_| {
        said(
            buildah()
                .args(["config", "--entrypoint", r#"["/trunkline"]"#, "--user", USER])
                .args(["--label", "org.opencontainers.image.title=trunkline"])
                .args(["--label", "org.opencontainers.image.licenses=Apache-2.0"])
                .args(["--stop-signal", "SIGTERM", &container]),
        )?;
        said(buildah().args(["commit", "--quiet", &container, NAME]))
    });
    let removed = said(buildah().args(["rm", &container]));
    made.and(removed).map(drop)
}

/// Runs the program in the image as the image's user: it starts, reads a configuration, may write nothing there, and serves.
/// Tells its version.
fn prove(container: &str) -> Result<String> {
    let user =
        said(buildah().args(["inspect", "--type", "image", "--format", "{{.OCIv1.Config.User}}", NAME]))?;
    ensure!(user == USER, "the image's user is {user:?}");
    let run =
        |arguments: &[&str]| said(buildah().args(["run", container, "--", "/trunkline"]).args(arguments));
    let version = run(&["--version"])?;
    ensure!(version.starts_with("trunkline "), "the program says {version:?}");
    let config = root().join("deploy/image/check.yaml");
    let mount = format!("{}:/etc/trunkline/node.yaml:ro", config.display());
    let check = ["/trunkline", "config", "check", "--config", "/etc/trunkline/node.yaml"];
    let fine = said(buildah().args(["run", "--volume", &mount, container, "--"]).args(check))?;
    ensure!(fine.contains("fine"), "config check says {fine:?}");
    // Whoever is root may make this folder.
    let refused = run(&["run", "--config", "/etc/trunkline/absent.yaml"]);
    ensure!(refused.is_err(), "a node runs without a configuration");
    let Err(denied) = said(
        buildah()
            .args(["run", "--volume", &mount, container, "--", "/trunkline", "run", "--config"])
            .args(["/etc/trunkline/node.yaml"]),
    ) else {
        bail!("the image's user may write to /root-only")
    };
    ensure!(format!("{denied:#}").contains("the folder cannot be made"), "{denied:#}");
    serve(container)?;
    Ok(version)
}

/// A node serves within the image as its user, with nothing of this machine but one folder; it is called from another run of
/// the image, by a name, and is heard.
fn serve(container: &str) -> Result<()> {
    let data = target().join("image/data");
    if data.exists() {
        fs::remove_dir_all(&data).with_context(|| format!("{}", data.display()))?;
    }
    fs::create_dir_all(&data).with_context(|| format!("{}", data.display()))?;
    let user = USER.split(':').next().and_then(|user| user.parse().ok());
    chown(&data, user, user).with_context(|| format!("{}", data.display()))?;
    let mut command = buildah();
    command
        .args(["run", "--volume", &format!("{}:/data", data.display()), container, "--", "/trunkline", "dev"])
        .args(["--data-dir", "/data/node", "--rtp", "46000-46199", "--log", "error"])
        .args(["--sip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    let mut node = command.spawn().context("buildah could not be started")?;
    let called = sip_of(&mut node).and_then(|port| {
        let target = format!("localhost:{port}");
        let call = ["run", container, "--", "/trunkline", "call", "--target", &target, "--to", "support"];
        said(buildah().args(call)).context("a call to the node in the image")
    });
    end(node).and(called).map(drop)
}

/// Waits until the node serves; its port for SIP.
fn sip_of(node: &mut Child) -> Result<u16> {
    let out = node.stdout.take().context("the node has no output")?;
    let (tell, told) = mpsc::sync_channel(1_000);
    std::thread::spawn(move || {
        // Read to the end, so that the node never waits for a reader.
        BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    let (begun, mut sip) = (Instant::now(), None);
    loop {
        let Ok(line) = told.recv_timeout(SERVES_WITHIN.saturating_sub(begun.elapsed())) else {
            bail!("the node in the image does not say `ready`");
        };
        if let Some(rest) = line.trim().strip_prefix("SIP ") {
            let address =
                rest.split_whitespace().next().and_then(|address| address.parse::<SocketAddr>().ok());
            sip = address.map(|address| address.port());
        }
        if line == "ready" {
            return sip.context("the node does not tell its address for SIP");
        }
    }
}

/// Ends the node in order: the signal is for the program, behind what buildah puts before it.
fn end(mut node: Child) -> Result<()> {
    let ids: Vec<String> = leaves(node.id()).iter().map(u32::to_string).collect();
    Step::new("the node in the image ends", "kill").args(["-TERM", "--"]).args(&ids).run()?;
    let begun = Instant::now();
    loop {
        if let Some(status) = node.try_wait()? {
            ensure!(status.success(), "the node in the image ended with {status}");
            return Ok(());
        }
        if begun.elapsed() > ENDS_WITHIN {
            let group = format!("-{}", node.id());
            Step::new("the node in the image is killed", "kill").args(["-KILL", "--", &group]).run()?;
            node.wait()?;
            bail!("the node in the image did not end within {} s", ENDS_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The processes that a process has started and that have started none.
fn leaves(pid: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let started: Vec<u32> = ids.filter(|id| parent(*id) == Some(pid)).collect();
    if started.is_empty() { vec![pid] } else { started.into_iter().flat_map(leaves).collect() }
}

/// proc_pid_stat(5): the fourth field, behind a name that may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
