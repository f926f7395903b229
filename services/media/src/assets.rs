//! Prompts and music: built into the binary, and more from a folder.

use std::io::{Cursor, Read};
use std::path::Path;

use rust_embed::RustEmbed;
use trunkline_media_core::clip::{Clip, Library};

#[derive(RustEmbed)]
#[folder = "assets"]
struct BuiltIn;

/// Why sounds could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SoundError {
    /// A file is not what it should be.
    #[error("sound {name}: {problem}; it must be a WAV file, 8 kHz, mono, 16-bit PCM")]
    Format {
        /// File.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A folder or file cannot be read.
    #[error("sounds in {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Loads everything there is; files of `folder` replace built-in ones of the same name.
pub(crate) fn load(folder: Option<&Path>) -> Result<Library, SoundError> {
    let mut library = Library::default();
    for name in BuiltIn::iter() {
        if let Some(file) = BuiltIn::get(&name)
            && name.ends_with(".wav")
        {
            add(&mut library, &name, clip(&name, Cursor::new(file.data))?);
        }
    }
    for kind in ["music", "prompts"] {
        let Some(path) = folder.map(|f| f.join(kind)).filter(|p| p.is_dir()) else { continue };
        let io = |source| SoundError::Io { path: path.display().to_string(), source };
        for entry in std::fs::read_dir(&path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == "wav") {
                let name = format!("{kind}/{}", path.file_name().unwrap_or_default().to_string_lossy());
                let file = std::fs::File::open(&path).map_err(io)?;
                add(&mut library, &name, clip(&name, std::io::BufReader::new(file))?);
            }
        }
    }
    Ok(library)
}

fn add(library: &mut Library, name: &str, clip: Clip) {
    let plain = |rest: &str| rest.trim_end_matches(".wav").to_owned();
    match name.split_once('/') {
        Some(("music", rest)) => library.add_music(&plain(rest), clip),
        Some(("prompts", rest)) => library.add_prompt(&plain(rest), clip),
        _ => {}
    }
}

fn clip(name: &str, reader: impl Read) -> Result<Clip, SoundError> {
    let wrong = |problem: String| SoundError::Format { name: name.to_owned(), problem };
    let reader = hound::WavReader::new(reader).map_err(|e| wrong(e.to_string()))?;
    let spec = reader.spec();
    if (spec.sample_rate, spec.channels, spec.bits_per_sample) != (8_000, 1, 16)
        || spec.sample_format != hound::SampleFormat::Int
    {
        return Err(wrong(format!(
            "it has {} Hz, {} channels, {} bits",
            spec.sample_rate, spec.channels, spec.bits_per_sample
        )));
    }
    let samples =
        reader.into_samples::<i16>().collect::<Result<Vec<_>, _>>().map_err(|e| wrong(e.to_string()))?;
    Clip::new(samples).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_sounds_load_and_a_folder_adds_and_refuses() {
        let library = load(None).unwrap();
        assert!(library.music("").is_some() && library.prompt("greeting").is_some(), "{:?}", library.names());
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("prompts")).unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(folder.path().join("prompts/own.wav"), spec).unwrap();
        (0..80).for_each(|n| wav.write_sample(n).unwrap());
        wav.finalize().unwrap();
        assert_eq!(load(Some(folder.path())).unwrap().prompt("own").unwrap().len(), 80);
        std::fs::write(folder.path().join("prompts/bad.wav"), b"no").unwrap();
        assert!(load(Some(folder.path())).unwrap_err().to_string().contains("prompts/bad.wav"));
    }
}
