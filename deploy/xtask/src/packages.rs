//! Debian packages that the tests need, installed when this may be done.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

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
    ("jq", "jq"),
    ("openssl", "openssl"),
    ("buildah", "buildah"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    (POSTGRES, "postgresql-15"),
];

/// What `trunkline-load peers` measures as yardsticks.
const PEERS: &[(&str, &str)] = &[("kamailio", "kamailio"), ("rtpengine", "rtpengine-daemon")];

/// Debian keeps the server's programs out of the path.
const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";
/// Read when the package is installed: the tests make clusters of their own.
const NO_MAIN_CLUSTER: (&str, &str) =
    ("/etc/postgresql-common/createcluster.d/trunkline.conf", "create_main_cluster = false\n");

/// Makes sure that every program that the tests start is here, the yardsticks among them.
pub fn for_tests() -> Result<()> {
    install(&[PROGRAMS, PEERS].concat())
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
    let _quiet = NoServices::at(Path::new(POLICY))?;
    Step::new("package lists", "apt-get").args(["update", "-qq"]).run()?;
    Step::new(format!("packages {}", names.join(", ")), "apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
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
    let path = Path::new(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

/// Packages ask this program whether they may start their services (etcd, Prometheus, Kamailio, rtpengine), with systemd and
/// without.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// How ours begins.
const OURS: &str = "#!/bin/sh\n# Written by `cargo xtask`";

/// While this is there, no service of a package is started. A machine with a policy of its own keeps that.
struct NoServices<'a>(Option<&'a Path>);

impl<'a> NoServices<'a> {
    fn at(path: &'a Path) -> Result<Self> {
        if fs::read_to_string(path).is_ok_and(|text| !text.starts_with(OURS)) {
            return Ok(Self(None));
        }
        // 101: forbidden. Left over when this process was killed, it forbids nothing and goes away.
        let text = format!(
            "{OURS} while it installs packages.\n[ -d /proc/{} ] && exit 101\nrm -f \"$0\"\n",
            std::process::id()
        );
        let quiet = Self(Some(path));
        fs::write(path, text).with_context(|| format!("{}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(quiet)
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // An error here would hide that of the installation.
            let _ = fs::remove_file(path);
        }
    }
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
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Whoever asks may not start anything, as long as the packages are installed; a machine's own policy stays as it was.
    #[test]
    fn packages_start_no_service_while_they_are_installed() {
        let path = std::env::temp_dir().join(format!("trunkline-policy-{}", std::process::id()));
        let asked = || Command::new(&path).args(["kamailio", "start"]).status().unwrap().code();
        drop(NoServices::at(&path).unwrap());
        assert!(!path.exists());
        let quiet = NoServices::at(&path).unwrap();
        assert_eq!(asked(), Some(101));
        // Of a process that was killed.
        let left =
            fs::read_to_string(&path).unwrap().replace(&format!("/proc/{} ", std::process::id()), "/proc/0 ");
        fs::write(&path, left).unwrap();
        assert_eq!((asked(), path.exists()), (Some(0), false));
        drop(quiet);
        fs::write(&path, "#!/bin/sh\nexit 104\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let kept = NoServices::at(&path).unwrap();
        assert_eq!(asked(), Some(104));
        drop(kept);
        assert_eq!(asked(), Some(104));
        fs::remove_file(&path).unwrap();
    }
}
