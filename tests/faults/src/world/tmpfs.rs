//! A small file system, to be filled.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

const FILLER: &str = "filler";

/// Mounted on a folder until dropped.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of this size.
    pub fn mount(path: &Path, kib: u32) -> Result<Self> {
        fs::create_dir_all(path)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(path)
            .output()
            .context("mount")?;
        ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { path: path.to_owned() })
    }

    /// Leaves no room in the file system at `path`.
    pub fn fill(path: &Path) -> Result<()> {
        let mut file = File::create(path.join(FILLER))?;
        let block = [0_u8; 4_096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).with_context(|| format!("filling {}", path.display())),
            }
        }
    }

    /// Gives the room back.
    pub fn empty(path: &Path) -> Result<()> {
        fs::remove_file(path.join(FILLER)).with_context(|| format!("{}", path.display()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    // Lazily: a process that still has a file open there must not keep it for ever.
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
}

/// Unmounts what a dead run left under a folder.
pub(super) fn unmount_under(folder: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    points.filter(|point| point.starts_with(folder)).for_each(unmount);
}
