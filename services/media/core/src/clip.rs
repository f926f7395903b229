//! Prompts and music, kept in memory in both laws so that playing is copying.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::Codec;

/// Longest clip taken: 30 min.
pub const MAX_SAMPLES: usize = 30 * 60 * crate::SAMPLE_RATE_HZ as usize;

/// A piece of audio, 8 kHz mono. Never empty.
#[derive(Debug)]
pub struct Clip {
    linear: Box<[i16]>,
    ulaw: Box<[u8]>,
    alaw: Box<[u8]>,
}

/// Why audio is no clip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClipError {
    /// Nothing in it.
    #[error("the audio is empty")]
    Empty,
    /// Longer than [`MAX_SAMPLES`].
    #[error("the audio is longer than 30 minutes")]
    TooLong,
}

impl Clip {
    /// From linear samples at 8 kHz.
    ///
    /// # Errors
    /// [`ClipError`] when there is nothing or too much.
    pub fn new(linear: Vec<i16>) -> Result<Self, ClipError> {
        if linear.is_empty() {
            return Err(ClipError::Empty);
        }
        if linear.len() > MAX_SAMPLES {
            return Err(ClipError::TooLong);
        }
        let law = |codec: Codec| linear.iter().map(|s| codec.encode(*s)).collect();
        Ok(Self { ulaw: law(Codec::Pcmu), alaw: law(Codec::Pcma), linear: linear.into() })
    }

    /// Length in samples.
    pub fn len(&self) -> usize {
        self.linear.len()
    }

    /// Never true; here for completeness.
    pub fn is_empty(&self) -> bool {
        self.linear.is_empty()
    }

    /// The samples of a law.
    pub fn law(&self, codec: Codec) -> &[u8] {
        match codec {
            Codec::Pcmu => &self.ulaw,
            Codec::Pcma => &self.alaw,
        }
    }

    /// The linear samples.
    pub fn linear(&self) -> &[i16] {
        &self.linear
    }
}

/// Clips by name.
#[derive(Clone, Debug, Default)]
pub struct Library {
    prompts: BTreeMap<String, Arc<Clip>>,
    music: BTreeMap<String, Arc<Clip>>,
}

impl Library {
    /// Adds or replaces a prompt.
    pub fn add_prompt(&mut self, name: &str, clip: Clip) {
        self.prompts.insert(name.to_owned(), Arc::new(clip));
    }

    /// Adds or replaces a piece of music.
    pub fn add_music(&mut self, name: &str, clip: Clip) {
        self.music.insert(name.to_owned(), Arc::new(clip));
    }

    /// A prompt.
    pub fn prompt(&self, name: &str) -> Option<&Arc<Clip>> {
        self.prompts.get(name)
    }

    /// A piece of music; the empty name is `hold`.
    pub fn music(&self, name: &str) -> Option<&Arc<Clip>> {
        self.music.get(if name.is_empty() { "hold" } else { name })
    }

    /// Names of prompts and of music, for error texts.
    pub fn names(&self) -> (Vec<&str>, Vec<&str>) {
        (self.prompts.keys().map(String::as_str).collect(), self.music.keys().map(String::as_str).collect())
    }
}
