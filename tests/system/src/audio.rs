//! Tones: making them, and finding them in what a party received.

use std::{f32::consts::TAU, io::Cursor, path::Path};

use anyhow::{Context, Result, ensure};
use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

/// A tone that is louder than this (of full scale) is heard.
const HEARD: f32 = 0.02;
/// A tone that is this much fainter than another is not there: 26 dB.
const FAINTER: f32 = 0.05;

/// Samples of one channel, −1 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// Samples.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate_hz: u32,
}

impl Sound {
    /// Peak amplitude of a tone over the whole length (Goertzel), 0 to 1.
    pub fn tone(&self, hz: f32) -> f32 {
        if self.samples.is_empty() {
            return 0.0;
        }
        let n = self.samples.len() as f32;
        let omega = TAU * hz / self.rate_hz as f32;
        let (sin, cos) = omega.sin_cos();
        let (mut one, mut two) = (0.0_f64, 0.0_f64);
        for sample in &self.samples {
            let next = f64::from(*sample) + 2.0 * f64::from(cos) * one - two;
            two = one;
            one = next;
        }
        let (real, imaginary) = (one - two * f64::from(cos), two * f64::from(sin));
        (2.0 * real.hypot(imaginary) / f64::from(n)) as f32
    }

    /// The loudest that a tone is in any tenth of a second.
    pub fn loudest(&self, hz: f32) -> f32 {
        self.windows().map(|window| window.tone(hz)).fold(0.0, f32::max)
    }

    /// Share of the tenths of a second in which a tone is heard.
    pub fn share(&self, hz: f32) -> f32 {
        let (heard, all) = self.windows().fold((0_u32, 0_u32), |(heard, all), window| {
            (heard + u32::from(window.tone(hz) > HEARD), all + 1)
        });
        if all == 0 { 0.0 } else { heard as f32 / all as f32 }
    }

    /// Root mean square.
    pub fn rms(&self) -> f32 {
        let sum: f64 = self.samples.iter().map(|s| f64::from(*s) * f64::from(*s)).sum();
        (sum / self.samples.len().max(1) as f64).sqrt() as f32
    }

    /// Fails unless `own` is heard and `other` is not.
    pub fn only(&self, own: f32, other: f32) -> Result<()> {
        let (heard, crosstalk) = (self.tone(own), self.tone(other));
        ensure!(
            heard > HEARD,
            "{own} Hz is not heard: {heard:.4} ({other} Hz: {crosstalk:.4}, RMS {:.4})",
            self.rms()
        );
        ensure!(
            crosstalk < heard * FAINTER,
            "crosstalk: {other} Hz at {crosstalk:.4} beside {own} Hz at {heard:.4}"
        );
        Ok(())
    }

    /// Fails when any of the tones is heard.
    pub fn none_of(&self, tones: &[f32]) -> Result<()> {
        for hz in tones {
            let level = self.tone(*hz);
            ensure!(level < HEARD * 0.25, "{hz} Hz is heard: {level:.4} (RMS {:.4})", self.rms());
        }
        Ok(())
    }

    /// Whether a tone is heard.
    pub fn has(&self, hz: f32) -> bool {
        self.tone(hz) > HEARD
    }

    /// Seconds.
    pub fn seconds(&self) -> f32 {
        self.samples.len() as f32 / self.rate_hz as f32
    }

    /// The part between two instants, in seconds.
    pub fn part(&self, from: f32, to: f32) -> Self {
        let at = |seconds: f32| ((seconds.max(0.0) * self.rate_hz as f32) as usize).min(self.samples.len());
        Self { samples: self.samples[at(from)..at(to).max(at(from))].to_vec(), rate_hz: self.rate_hz }
    }

    fn windows(&self) -> impl Iterator<Item = Self> + '_ {
        let size = (self.rate_hz / 10).max(1) as usize;
        self.samples.chunks_exact(size).map(|chunk| Self { samples: chunk.to_vec(), rate_hz: self.rate_hz })
    }
}

/// The channels of a WAV file.
pub fn read_wav(bytes: &[u8]) -> Result<Vec<Sound>> {
    let reader = WavReader::new(Cursor::new(bytes)).context("not a WAV file")?;
    let spec = reader.spec();
    ensure!(spec.sample_format == SampleFormat::Int && spec.bits_per_sample == 16, "not 16 bit: {spec:?}");
    let mut channels = vec![Vec::new(); usize::from(spec.channels)];
    for (n, sample) in reader.into_samples::<i16>().enumerate() {
        channels[n % usize::from(spec.channels)].push(f32::from(sample?) / 32_768.0);
    }
    Ok(channels.into_iter().map(|samples| Sound { samples, rate_hz: spec.sample_rate }).collect())
}

/// Samples as they lie in a WAV file: 16 bit, little endian.
pub fn from_pcm(bytes: &[u8], rate_hz: u32) -> Sound {
    let samples =
        bytes.as_chunks::<2>().0.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect();
    Sound { samples, rate_hz }
}

/// Writes a mono WAV file with a tone of half amplitude; a whole number of periods, so that it can be repeated.
pub fn write_tone(path: &Path, hz: f32, seconds: f32, rate_hz: u32) -> Result<()> {
    let spec =
        WavSpec { channels: 1, sample_rate: rate_hz, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut writer = WavWriter::create(path, spec).with_context(|| format!("{}", path.display()))?;
    let periods = (seconds * hz).round();
    let samples = (periods * rate_hz as f32 / hz).round() as u32;
    for n in 0..samples {
        let phase = f64::from(n) * f64::from(hz) / f64::from(rate_hz);
        writer.write_sample((16_384.0 * (phase.fract() * std::f64::consts::TAU).sin()) as i16)?;
    }
    Ok(writer.finalize()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_tone_is_found_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tone.wav");
        write_tone(&path, 440.0, 1.0, 8_000).unwrap();
        let sound = read_wav(&std::fs::read(&path).unwrap()).unwrap().remove(0);
        assert!((sound.tone(440.0) - 0.5).abs() < 0.01, "{}", sound.tone(440.0));
        sound.only(440.0, 1_000.0).unwrap();
        assert!(sound.only(1_000.0, 440.0).is_err() && sound.none_of(&[440.0]).is_err());
        assert!(sound.share(440.0) > 0.99 && sound.loudest(1_000.0) < 0.02);
        assert!((sound.part(0.25, 0.75).seconds() - 0.5).abs() < 0.001);
    }
}
