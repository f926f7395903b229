//! What recordings change on this node's disk and in a store that is a folder: each step of it passes here, one call of the
//! system at a time, so that a test can look at what a crash between any two would leave.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

#[cfg(not(test))]
struct Step;
#[cfg(not(test))]
fn step(_: &'static str) -> Step {
    Step
}
#[cfg(test)]
use super::tests::step;

/// A file that is written once; one that is there already is refused.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let _step = step("create");
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let _step = step("write");
    file.write_all_at(bytes, offset)
}

pub(super) fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    let _step = step("set length");
    file.set_len(bytes)
}

/// Until it is on the disk.
pub(super) fn sync(file: &File) -> io::Result<()> {
    let _step = step("sync");
    file.sync_all()
}

/// Until what was made, named or removed in it is on the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A small file whose first content this is; a crash may leave it empty.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = {
        let _step = step("create a note");
        File::create(path)?
    };
    let _step = step("write a note");
    file.write_all_at(bytes, 0)
}

/// A small file, written anew and renamed: after a crash it is the old or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    write(&fresh, bytes)?;
    let _step = step("rename");
    std::fs::rename(fresh, path)
}

/// Opened for one write and closed: on a network's file system others see it when it is closed.
pub(super) fn extend(path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    let file = {
        let _step = step("open a part");
        OpenOptions::new().create(true).truncate(false).write(true).open(path)?
    };
    write_at(&file, bytes, offset)
}

/// A folder and those above it.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    let _step = step("make a folder");
    std::fs::create_dir_all(path)
}

/// A second name for a file; one that is taken is refused.
pub(super) fn link(file: &Path, name: &Path) -> io::Result<()> {
    let _step = step("link");
    #[cfg(test)]
    super::tests::may_link()?;
    std::fs::hard_link(file, name)
}

/// One that is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let _step = step("remove");
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An empty one.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    let _step = step("remove a folder");
    std::fs::remove_dir(path)
}
