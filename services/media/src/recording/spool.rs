//! The file of a recording that is being written, on a disk that may be full for a while.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use trunkline_media_core::{SAMPLE_RATE_HZ, wav};

use super::files;

/// Samples are written when this much waits, whatever the clock says.
const BUFFER_BYTES: usize = 64 * 1024;
const HEADER: u64 = wav::HEADER_BYTES as u64;

/// What a spool file needs of a disk.
pub(super) trait Disk: Sized {
    /// Makes the file.
    fn create(path: &std::path::Path) -> io::Result<Self>;
    /// Writes all of `bytes` at `offset`; a hole in front reads as zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or stretches it.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

impl Disk for File {
    fn create(path: &std::path::Path) -> io::Result<Self> {
        files::create(path)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        files::write_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        files::set_len(self, bytes)
    }
}

/// How a flush went.
#[derive(Debug)]
pub(super) enum Flushed {
    /// Everything taken so far is in the file.
    Written,
    /// It is not, for the first time.
    Trouble(io::Error),
    /// It is still not.
    StillTrouble,
    /// It is again: these bytes of audio, from and to, are missing and read as silence.
    Over {
        /// First missing byte.
        from: u64,
        /// First byte that is there again.
        to: u64,
    },
}

/// Stereo samples on their way into a WAV file. What cannot be written is left out; the places stay right.
#[derive(Debug)]
pub(super) struct SpoolFile<D = File> {
    path: PathBuf,
    disk: Option<Arc<D>>,
    /// Bytes of audio that were taken and are not in the buffer.
    passed: u64,
    /// Bytes of audio up to the last one that is in the file.
    reached: u64,
    buffer: Vec<u8>,
    /// Where the missing audio begins, while it cannot be written.
    missing: Option<u64>,
}

impl<D: Disk> SpoolFile<D> {
    /// The file is made by the first flush.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, disk: None, passed: 0, reached: 0, buffer: Vec::new(), missing: None }
    }

    /// Takes a run of the time line.
    pub(super) fn push(&mut self, run: &[[i16; 2]]) {
        for moment in run {
            let ([a, b], [c, d]) = (moment[0].to_le_bytes(), moment[1].to_le_bytes());
            self.buffer.extend_from_slice(&[a, b, c, d]);
        }
    }

    /// Whether it should be flushed before its time.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Whether audio is missing at present.
    pub(super) fn in_trouble(&self) -> bool {
        self.missing.is_some()
    }

    /// Bytes of audio that are in the file without a hole that may still be filled.
    pub(super) fn written(&self) -> u64 {
        self.missing.unwrap_or(self.passed)
    }

    /// The file, once it is made.
    pub(super) fn disk(&self) -> Option<&Arc<D>> {
        self.disk.as_ref()
    }

    /// Tries to write what was taken.
    pub(super) fn flush(&mut self) -> Flushed {
        let result = self.write();
        let from = self.passed;
        self.passed += self.buffer.len() as u64;
        self.buffer.clear();
        match (result, self.missing) {
            (Ok(()), None) => Flushed::Written,
            (Ok(()), Some(missing)) => {
                self.missing = None;
                Flushed::Over { from: missing, to: from }
            }
            (Err(error), None) => {
                self.missing = Some(from);
                Flushed::Trouble(error)
            }
            (Err(_), Some(_)) => Flushed::StillTrouble,
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let disk = match &self.disk {
            Some(disk) => disk,
            None => {
                let disk = D::create(&self.path)?;
                let disk = self.disk.insert(Arc::new(disk));
                disk.write_at(&wav::header(2, SAMPLE_RATE_HZ, 0), 0)?;
                disk
            }
        };
        if !self.buffer.is_empty() {
            disk.write_at(&self.buffer, HEADER + self.passed)?;
            self.reached = self.passed + self.buffer.len() as u64;
        }
        Ok(())
    }

    /// Writes the last of it. Gives the bytes of audio and what is missing of it since the last flush that told.
    ///
    /// # Errors
    /// Nothing could ever be written.
    pub(super) fn end(&mut self) -> io::Result<(u64, Option<(u64, u64)>)> {
        let missing = match self.flush() {
            Flushed::Trouble(error) if self.disk.is_none() => return Err(error),
            Flushed::Over { from, to } => Some((from, to)),
            _ => self.missing.map(|from| (from, self.passed)),
        };
        if self.disk.is_none() {
            return Err(io::Error::other("the file could not be made"));
        }
        Ok((self.passed, missing))
    }

    /// Writes the header that tells the length: whoever finds it knows that the file is whole. Gives the file, which need not
    /// be on the disk yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn seal(&mut self) -> io::Result<Arc<D>> {
        let Some(disk) = &self.disk else { return Err(io::Error::other("the file could not be made")) };
        if self.reached != self.passed {
            // A hole takes no room; the header's place has been there from the beginning.
            disk.set_len(HEADER + self.passed)?;
        }
        disk.write_at(&wav::header(2, SAMPLE_RATE_HZ, self.passed), 0)?;
        Ok(disk.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    thread_local! {
        static FULL: RefCell<bool> = const { RefCell::new(false) };
        static LAST: RefCell<Option<Rc<RefCell<Vec<u8>>>>> = const { RefCell::new(None) };
    }

    /// A disk in memory that can be full.
    #[derive(Debug)]
    struct Memory(Rc<RefCell<Vec<u8>>>);

    impl Disk for Memory {
        fn create(_: &std::path::Path) -> io::Result<Self> {
            room()?;
            let bytes = Rc::new(RefCell::new(Vec::new()));
            LAST.set(Some(bytes.clone()));
            Ok(Self(bytes))
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let (mut all, offset) = (self.0.borrow_mut(), offset as usize);
            if all.len() < offset + bytes.len() {
                room()?;
                all.resize(offset + bytes.len(), 0);
            }
            all[offset..offset + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.0.borrow_mut().resize(bytes as usize, 0);
            Ok(())
        }
    }

    fn room() -> io::Result<()> {
        if FULL.with_borrow(|full| *full) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn file() -> SpoolFile<Memory> {
        SpoolFile::new(PathBuf::from("x"))
    }

    fn finish(file: &mut SpoolFile<Memory>) -> (u64, Option<(u64, u64)>) {
        let end = file.end().unwrap();
        file.seal().unwrap();
        end
    }

    fn samples() -> Vec<i16> {
        let bytes = LAST.with_borrow(|last| last.as_ref().unwrap().borrow().clone());
        let mut reader = hound::WavReader::new(&bytes[..]).unwrap();
        reader.samples::<i16>().map(Result::unwrap).step_by(2).collect()
    }

    #[test]
    fn a_disk_that_is_full_for_a_while_leaves_a_silent_gap_and_the_rest_in_its_place() {
        let mut file = file();
        for n in 1..=6i16 {
            FULL.set(n == 3 || n == 4);
            file.push(&[[n, n]; 800]);
            let flushed = file.flush();
            match n {
                3 => assert!(matches!(flushed, Flushed::Trouble(_)), "{flushed:?}"),
                4 => assert!(matches!(flushed, Flushed::StillTrouble), "{flushed:?}"),
                5 => assert!(matches!(flushed, Flushed::Over { from: 6_400, to: 12_800 }), "{flushed:?}"),
                _ => assert!(matches!(flushed, Flushed::Written), "{flushed:?}"),
            }
            assert_eq!(file.in_trouble(), n == 3 || n == 4);
        }
        assert_eq!(finish(&mut file), (19_200, None));
        let expected = [1, 2, 0, 0, 5, 6].into_iter().flat_map(|n| [n; 800]).collect::<Vec<i16>>();
        assert_eq!(samples(), expected);
    }

    #[test]
    fn a_disk_that_stays_full_costs_the_end_and_not_what_was_there() {
        let mut file = file();
        file.push(&[[1, 1]; 800]);
        file.flush();
        FULL.set(true);
        file.push(&[[2, 2]; 800]);
        assert_eq!(finish(&mut file), (6_400, Some((3_200, 6_400))));
        assert_eq!(samples(), [[1; 800], [0; 800]].concat());
    }

    #[test]
    fn a_file_that_can_be_made_later_has_its_audio_in_the_right_place() {
        let mut file = file();
        FULL.set(true);
        file.push(&[[1, 1]; 800]);
        assert!(matches!(file.flush(), Flushed::Trouble(_)));
        assert_eq!(file.written(), 0);
        FULL.set(false);
        file.push(&[[2, 2]; 800]);
        assert!(matches!(file.flush(), Flushed::Over { from: 0, to: 3_200 }));
        assert_eq!(finish(&mut file), (6_400, None));
        assert_eq!(samples(), [[0; 800], [2; 800]].concat());
        FULL.set(true);
        let mut never = self::file();
        never.push(&[[1, 1]; 8]);
        assert!(never.end().is_err());
    }
}
