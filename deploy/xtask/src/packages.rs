//! Debian packages that the tests need, installed when this may be done.

use anyhow::{Context, Result, bail};

use crate::process::{Step, is_here};

/// A program and the package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("sipp", "sip-tester"),
    ("baresip", "baresip"),
    ("sipsak", "sipsak"),
    ("chromium", "chromium"),
    ("sox", "sox"),
    ("cmake", "cmake"),
    ("ip", "iproute2"),
    ("promtool", "prometheus"),
    ("etcd", "etcd-server"),
    ("nft", "nftables"),
    ("faketime", "faketime"),
    ("buildah", "buildah"),
    (POSTGRES, "postgresql-15"),
];

/// What `trunkline-load peers` measures as yardsticks.
const PEERS: &[(&str, &str)] = &[("kamailio", "kamailio"), ("rtpengine", "rtpengine-daemon")];

/// Debian keeps the server's programs out of the path.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";
/// Read when the package is installed: the tests make clusters of their own.
const NO_MAIN_CLUSTER: (&str, &str) =
    ("/etc/postgresql-common/createcluster.d/trunkline.conf", "create_main_cluster = false\n");

/// Makes sure that every program that the tests start is here.
pub fn for_tests() -> Result<()> {
    install(PROGRAMS)
}

/// Makes sure that the yardsticks are here.
pub fn for_peers() -> Result<()> {
    install(PEERS)
}

fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<(&str, &str)> =
        programs.iter().copied().filter(|(program, _)| !is_here(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !is_here("apt-get") || !is_root() {
        bail!(
            "these programs are missing: install the packages {} (apt-get install {})",
            names.join(", "),
            names.join(" ")
        );
    }
    if missing.iter().any(|(program, _)| *program == POSTGRES) {
        no_main_cluster()?;
    }
    Step::new("package lists", "apt-get").args(["update", "-qq"]).run()?;
    Step::new(format!("packages {}", names.join(", ")), "apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // No service of a package is started: as in single-user mode.
        .env("RUNLEVEL", "1")
        .run()?;
    let still: Vec<&str> = missing.iter().filter(|(p, _)| !is_here(p)).map(|(p, _)| *p).collect();
    if still.is_empty() {
        Ok(())
    } else {
        bail!("still missing after the installation: {}", still.join(", "))
    }
}

fn no_main_cluster() -> Result<()> {
    let (path, text) = NO_MAIN_CLUSTER;
    let path = std::path::Path::new(path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

/// Node with npm builds the web clients.
pub fn node() -> Result<()> {
    if is_here("npm") && is_here("node") {
        Ok(())
    } else {
        bail!("Node 20 with npm is missing: it builds the web clients; install it and run this again")
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
