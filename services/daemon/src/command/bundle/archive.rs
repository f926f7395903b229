//! The bundle's file: a compressed archive with a bound.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};

/// One file within the bundle; what is longer keeps its end.
pub const LARGEST: usize = 16 << 20;
/// All files together, before compression.
const WHOLE: usize = 128 << 20;

/// Where it goes.
enum Sink {
    File(File),
    /// Standard output, at the end: half a bundle is of no use to who reads it.
    Output(Vec<u8>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Output(held) => held.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Output(_) => Ok(()),
        }
    }
}

/// A bundle that is being written.
pub struct Archive {
    tar: tar::Builder<GzEncoder<Sink>>,
    left: usize,
    time_s: u64,
    /// What is in it, and what is not.
    pub notes: Vec<String>,
}

impl Archive {
    /// On standard output.
    pub fn output(time_s: u64) -> Result<Self> {
        ensure!(!io::stdout().is_terminal(), "--out -: a bundle is no text: put `> bundle.tar.gz` behind it");
        Ok(Self::to(Sink::Output(Vec::new()), time_s))
    }

    fn to(sink: Sink, time_s: u64) -> Self {
        let tar = tar::Builder::new(GzEncoder::new(sink, Compression::default()));
        Self { tar, left: WHOLE, time_s, notes: Vec::new() }
    }

    /// A new file, for this user alone. One that is there stays.
    pub fn create(path: &Path, time_s: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).with_context(|| {
            format!("--out {}: it cannot be made (a file that is there is not replaced)", path.display())
        })?;
        Ok(Self::to(Sink::File(file), time_s))
    }

    /// Adds a text. What does not fit is left out and noted.
    pub fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let whole = text.len();
        let text = end(text, LARGEST.min(self.left));
        if text.len() < whole {
            self.notes.push(format!("{name}: the last {} of {whole} bytes", text.len()));
        } else {
            self.notes.push(format!("{name}: {whole} bytes"));
        }
        self.left -= text.len();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time_s);
        let path = format!("trunkline-support/{name}");
        self.tar.append_data(&mut header, &path, text.as_bytes()).with_context(|| path.clone())
    }

    /// Notes that something is not in it, and why.
    pub fn without(&mut self, name: &str, why: &str) {
        self.notes.push(format!("{name}: not here: {why}"));
    }

    /// Writes the rest.
    pub fn finish(self) -> Result<u64> {
        match self.tar.into_inner()?.finish()? {
            Sink::File(file) => {
                file.sync_all()?;
                Ok(file.metadata()?.len())
            }
            Sink::Output(held) => {
                let mut out = io::stdout().lock();
                out.write_all(&held).and_then(|()| out.flush()).context("--out -")?;
                Ok(held.len() as u64)
            }
        }
    }
}

/// The end of a text, from the beginning of a line on.
pub fn end(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut from = text.len() - most;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let rest = &text[from..];
    rest.split_once('\n').map_or(rest, |(_, lines)| lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text_begins_with_a_line() {
        assert_eq!(end("one\ntwo\nthree\n", 8), "three\n");
        assert_eq!((end("ä\nü", 2), end("short", 9)), ("ü", "short"));
    }
}
