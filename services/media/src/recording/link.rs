//! The finished file of the spool, on its way to the store: first safe on this disk, then, where the store is a folder on
//! the same file system, stored by a second name for it. Nothing is copied, and the name is there or not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files;
use super::store::Stored;

/// Read at once for the digest.
const READ_BYTES: usize = 256 * 1024;

/// What came of it.
#[derive(Debug)]
pub(super) enum Linked {
    /// Stored by this, and known to the disk.
    Stored(Stored),
    /// The store has had an object of this name before.
    Taken,
    /// It has to be copied: the store is no folder, or one on another file system.
    Copy(Arc<File>),
}

/// Why not.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The spool's file is gone, or not safe on the disk and never will be: what the system could not write it forgets, so
    /// that trying again proves nothing.
    Never(String),
    /// It can be tried again.
    Later(String),
}

/// `file`: the one at `path`, when it is still open. Waits for the disk.
pub(super) fn link(path: &Path, file: Option<Arc<File>>, target: Option<PathBuf>) -> Result<Linked, Trouble> {
    let why = |error: io::Error| format!("{}: {error}", path.display());
    let file = match file.map_or_else(|| File::open(path).map(Arc::new), Ok) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Trouble::Never(why(error))),
        Err(error) => return Err(Trouble::Later(why(error))),
    };
    files::sync(&file).map_err(|error| Trouble::Never(why(error)))?;
    let Some(target) = target else { return Ok(Linked::Copy(file)) };
    let store = |error: io::Error| Trouble::Later(format!("{}: {error}", target.display()));
    let linked = match files::link(path, &target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_parent(&target).map_err(store)?;
            files::link(path, &target)
        }
        linked => linked,
    };
    let is_ours = match linked {
        Ok(()) => true,
        // Perhaps also by this node, which died before the name was safe.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        // Another file system, or one without second names. Whatever else it is, the copy finds out.
        Err(_) => return Ok(Linked::Copy(file)),
    };
    if let Some(folder) = target.parent() {
        files::sync_folder(folder).map_err(store)?;
    }
    if !is_ours {
        return Ok(Linked::Taken);
    }
    digest(&file).map(Linked::Stored).map_err(|error| Trouble::Later(why(error)))
}

/// Folders that are missing, known to the disk.
fn make_parent(target: &Path) -> io::Result<()> {
    let Some(parent) = target.parent() else { return Ok(()) };
    let missing = parent.ancestors().take_while(|folder| !folder.exists()).count();
    files::folder(parent)?;
    for folder in parent.ancestors().skip(1).take(missing) {
        files::sync_folder(folder)?;
    }
    Ok(())
}

fn digest(file: &File) -> io::Result<Stored> {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let length = file.metadata()?.len();
    let mut buffer = vec![0; usize::try_from(length).map_or(READ_BYTES, |length| length.min(READ_BYTES))];
    while bytes < length {
        match file.read_at(&mut buffer, bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Stored { bytes, sha256: hash.finalize().into() })
}
