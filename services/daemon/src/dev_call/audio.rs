//! G.711 and WAV files, as a telephone has them.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail, ensure};

/// What a caller says when no file is given.
const SAMPLE: &[u8] = include_bytes!("../../../../deploy/samples/caller-billing.wav");
/// The longest file that is read, in samples: ten minutes.
const MAX_SAMPLES: u32 = 600 * 8_000;

/// The companding law of G.711.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Law {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
}

impl Law {
    /// Static payload type (RFC 3551).
    pub fn payload_type(self) -> u8 {
        match self {
            Self::Mu => 0,
            Self::A => 8,
        }
    }

    /// Name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mu => "PCMU",
            Self::A => "PCMA",
        }
    }

    /// The law with this static payload type.
    pub fn of_payload_type(payload_type: u8) -> Option<Self> {
        [Self::Mu, Self::A].into_iter().find(|law| law.payload_type() == payload_type)
    }

    /// One sample to one octet.
    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => {
                let (sign, magnitude) =
                    if sample < 0 { (0x80u8, -i32::from(sample)) } else { (0, i32::from(sample)) };
                let value = magnitude.min(32_635) + 0x84;
                let exponent = (31 - value.leading_zeros() as i32) - 7;
                !(sign | (exponent << 4) as u8 | ((value >> (exponent + 3)) & 0x0f) as u8)
            }
            Self::A => {
                let (sign, magnitude) =
                    if sample < 0 { (0u8, !i32::from(sample)) } else { (0x80, i32::from(sample)) };
                let value = magnitude >> 3;
                let code = if value < 32 {
                    value >> 1
                } else {
                    let exponent = 31 - value.leading_zeros() as i32 - 4;
                    (exponent << 4) | ((value >> exponent) & 0x0f)
                };
                (sign | code as u8) ^ 0x55
            }
        }
    }

    /// One octet to one sample.
    pub fn decode(self, octet: u8) -> i16 {
        match self {
            Self::Mu => {
                let code = !octet;
                let magnitude = (((i32::from(code & 0x0f) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84;
                (if code & 0x80 == 0 { magnitude } else { -magnitude }) as i16
            }
            Self::A => {
                let code = octet ^ 0x55;
                let (exponent, low) = ((code >> 4) & 7, i32::from(code & 0x0f));
                let magnitude =
                    if exponent == 0 { (low << 4) + 8 } else { ((low << 4) + 0x108) << (exponent - 1) };
                (if code & 0x80 == 0 { -magnitude } else { magnitude }) as i16
            }
        }
    }
}

/// What one caller says.
#[derive(Clone, Debug)]
pub struct Speech {
    /// File name, for the progress line.
    pub name: String,
    /// 8,000 samples a second.
    pub samples: Arc<[i16]>,
}

impl Speech {
    /// The embedded sample.
    ///
    /// # Errors
    /// Never for the sample as it is in the repository.
    pub fn sample() -> anyhow::Result<Self> {
        Self::read("caller-billing.wav".into(), SAMPLE)
    }

    /// From a file.
    ///
    /// # Errors
    /// The file is missing or is not mono, 16 bit, 8,000 Hz; the message names the remedy.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("--wav {}: cannot be read", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::read(name, &bytes).with_context(|| format!("--wav {}", path.display()))
    }

    fn read(name: String, bytes: &[u8]) -> anyhow::Result<Self> {
        let mut reader = hound::WavReader::new(bytes).context("not a WAV file")?;
        let spec = reader.spec();
        let (rate, bits) = (spec.sample_rate, spec.bits_per_sample);
        if spec.channels != 1 || rate != 8_000 || bits != 16 || spec.sample_format != hound::SampleFormat::Int
        {
            bail!(
                "mono with 16 bit and 8,000 Hz is needed, this has {} channel(s), {bits} bit, {rate} Hz; convert it \
                 with: sox IN.wav -r 8000 -b 16 -c 1 OUT.wav",
                spec.channels
            );
        }
        ensure!(reader.len() > 0, "the file has no samples");
        ensure!(reader.len() <= MAX_SAMPLES, "the file is longer than ten minutes");
        let samples: Result<Vec<i16>, _> = reader.samples::<i16>().collect();
        Ok(Self { name, samples: samples.context("the file is cut off")?.into() })
    }
}

/// The level of a sum of squares over `count` samples, in dB relative to full scale; silence is −96.
pub fn level_dbfs(squares: f64, count: u64) -> f64 {
    if count == 0 || squares <= 0.0 {
        return -96.0;
    }
    (10.0 * (squares / count as f64 / (32_768.0 * 32_768.0)).log10()).max(-96.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every octet survives decoding and encoding, except that µ-law has two zeros.
    #[test]
    fn g711_round_trips() {
        for octet in 0..=255u8 {
            assert_eq!(Law::A.encode(Law::A.decode(octet)), octet);
            let back = Law::Mu.encode(Law::Mu.decode(octet));
            assert!(back == octet || (octet == 0x7f && back == 0xff), "{octet:#x} became {back:#x}");
        }
    }

    /// Points of the tables in ITU-T G.711.
    #[test]
    fn g711_has_the_known_values() {
        assert_eq!((Law::Mu.decode(0x00), Law::Mu.decode(0x80), Law::Mu.decode(0xff)), (-32_124, 32_124, 0));
        assert_eq!((Law::A.decode(0xd5), Law::A.decode(0x2a), Law::A.decode(0xaa)), (8, -32_256, 32_256));
        assert_eq!((Law::Mu.encode(i16::MIN), Law::A.encode(i16::MIN)), (0x00, 0x2a));
    }

    #[test]
    fn the_embedded_sample_is_speech() {
        let speech = Speech::sample().unwrap();
        let squares = speech.samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        let level = level_dbfs(squares, speech.samples.len() as u64);
        assert!(speech.samples.len() > 8_000 && (-40.0..-5.0).contains(&level), "{level} dBFS");
    }

    #[test]
    fn a_wrong_format_is_named_with_the_remedy() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 44_100,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        hound::WavWriter::new(&mut bytes, spec).unwrap().finalize().unwrap();
        let error = Speech::read("x".into(), bytes.get_ref()).unwrap_err().to_string();
        assert!(error.contains("2 channel(s), 16 bit, 44100 Hz") && error.contains("sox"), "{error}");
    }
}
