//! G.711: µ-law and A-law to and from 16-bit linear, and directly into each other.

/// `DECODE[law byte]`, `ULAW_TO_ALAW`, …: all made at compile time from the definitions in ITU-T G.711.
const ULAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = decode_ulaw(i as u8);
        i += 1;
    }
    table
};
const ALAW_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = decode_alaw(i as u8);
        i += 1;
    }
    table
};
const ULAW_TO_ALAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = encode_alaw(decode_ulaw(i as u8));
        i += 1;
    }
    table
};
const ALAW_TO_ULAW: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = encode_ulaw(decode_alaw(i as u8));
        i += 1;
    }
    table
};

const ULAW_BIAS: i32 = 0x84;
const ULAW_CLIP: i32 = 32_635;

const fn decode_ulaw(byte: u8) -> i16 {
    let bits = !byte;
    let magnitude = ((((bits & 0x0f) as i32) << 3) + ULAW_BIAS) << ((bits & 0x70) >> 4);
    (if bits & 0x80 != 0 { ULAW_BIAS - magnitude } else { magnitude - ULAW_BIAS }) as i16
}

const fn encode_ulaw(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 { (0x80, -(sample as i32)) } else { (0, sample as i32) };
    let magnitude = (if magnitude > ULAW_CLIP { ULAW_CLIP } else { magnitude }) + ULAW_BIAS;
    let segment = 24 - (magnitude as u32).leading_zeros() as i32;
    let mantissa = (magnitude >> (segment + 3)) & 0x0f;
    !(sign | ((segment << 4) as u8) | mantissa as u8)
}

const fn decode_alaw(byte: u8) -> i16 {
    let bits = byte ^ 0x55;
    let low = ((bits & 0x0f) as i32) << 4;
    let segment = (bits & 0x70) >> 4;
    let magnitude = if segment == 0 { low + 8 } else { (low + 0x108) << (segment - 1) };
    (if bits & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

const fn encode_alaw(sample: i16) -> u8 {
    let (mask, magnitude) =
        if sample >= 0 { (0xd5, (sample >> 3) as i32) } else { (0x55, -((sample >> 3) as i32) - 1) };
    // The segment is the position of the highest bit above the lowest five.
    let segment = 27 - (if magnitude > 31 { magnitude as u32 } else { 16 }).leading_zeros() as i32;
    let mantissa = if segment < 2 { (magnitude >> 1) & 0x0f } else { (magnitude >> segment) & 0x0f };
    (((segment << 4) | mantissa) as u8) ^ mask
}

/// The two laws. Which one a party is sent is negotiated; both are always understood.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    /// G.711 µ-law, static payload type 0.
    Pcmu,
    /// G.711 A-law, static payload type 8.
    Pcma,
}

impl Codec {
    /// Both, in the order in which this room offers them.
    pub const ALL: [Self; 2] = [Self::Pcmu, Self::Pcma];

    /// Static payload type of RFC 3551.
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    /// Encoding name of RFC 3551.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
        }
    }

    /// The byte for silence.
    pub const fn silence(self) -> u8 {
        match self {
            Self::Pcmu => 0xff,
            Self::Pcma => 0xd5,
        }
    }

    /// One sample to linear.
    #[inline]
    pub const fn decode(self, byte: u8) -> i16 {
        match self {
            Self::Pcmu => ULAW_TO_LINEAR[byte as usize],
            Self::Pcma => ALAW_TO_LINEAR[byte as usize],
        }
    }

    /// One linear sample to a byte.
    #[inline]
    pub const fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Pcmu => encode_ulaw(sample),
            Self::Pcma => encode_alaw(sample),
        }
    }

    /// Decodes as many samples as fit both slices.
    pub fn decode_into(self, bytes: &[u8], samples: &mut [i16]) {
        let table = match self {
            Self::Pcmu => &ULAW_TO_LINEAR,
            Self::Pcma => &ALAW_TO_LINEAR,
        };
        for (sample, byte) in samples.iter_mut().zip(bytes) {
            *sample = table[usize::from(*byte)];
        }
    }

    /// Encodes as many samples as fit both slices.
    pub fn encode_into(self, samples: &[i16], bytes: &mut [u8]) {
        for (byte, sample) in bytes.iter_mut().zip(samples) {
            *byte = self.encode(*sample);
        }
    }

    /// Turns `bytes` of this law into `to`, in place. Nothing happens when they are the same.
    #[inline]
    pub fn transcode(self, to: Self, bytes: &mut [u8]) {
        let table = match (self, to) {
            (Self::Pcmu, Self::Pcma) => &ULAW_TO_ALAW,
            (Self::Pcma, Self::Pcmu) => &ALAW_TO_ULAW,
            _ => return,
        };
        for byte in bytes {
            *byte = table[usize::from(*byte)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reference_points_of_g711() {
        assert_eq!(
            (decode_ulaw(0xff), decode_ulaw(0x7f), decode_ulaw(0x00), decode_ulaw(0x80)),
            (0, 0, -32_124, 32_124)
        );
        assert_eq!(
            (decode_alaw(0xd5), decode_alaw(0x55), decode_alaw(0x2a), decode_alaw(0xaa)),
            (8, -8, -32_256, 32_256)
        );
        assert_eq!((encode_ulaw(0), encode_ulaw(i16::MAX), encode_ulaw(i16::MIN)), (0xff, 0x80, 0x00));
        assert_eq!((encode_alaw(0), encode_alaw(i16::MAX), encode_alaw(i16::MIN)), (0xd5, 0xaa, 0x2a));
        assert_eq!(Codec::Pcmu.decode(Codec::Pcmu.silence()), 0);
    }

    #[test]
    fn every_byte_survives_linear_and_back() {
        for byte in 0..=255u8 {
            assert_eq!(encode_alaw(decode_alaw(byte)), byte);
            // µ-law has two zeros; the encoder gives the positive one.
            assert_eq!(encode_ulaw(decode_ulaw(byte)), if byte == 0x7f { 0xff } else { byte });
        }
    }

    #[test]
    fn silence_stays_silent_when_transcoded() {
        let mut bytes = [Codec::Pcmu.silence(); 4];
        Codec::Pcmu.transcode(Codec::Pcma, &mut bytes);
        assert_eq!(bytes, [Codec::Pcma.silence(); 4]);
        Codec::Pcma.transcode(Codec::Pcmu, &mut bytes);
        assert!(bytes.iter().all(|b| Codec::Pcmu.decode(*b).abs() <= 8), "{bytes:?}");
    }

    proptest! {
        #[test]
        fn the_error_is_below_the_step_of_the_segment(sample in any::<i16>()) {
            for codec in Codec::ALL {
                let back = i32::from(codec.decode(codec.encode(sample)));
                let error = (back - i32::from(sample)).abs();
                // Half a step of a segment is at most 1/32 of the magnitude; both laws clip in the last 2 %.
                let bound = (i32::from(sample).abs() / 32).max(16) + 8 + if sample.unsigned_abs() > 32_000 { 700 } else { 0 };
                prop_assert!(error <= bound, "{codec:?} {sample} -> {back}");
            }
        }

        #[test]
        fn encoding_is_monotonic(a in any::<i16>(), b in any::<i16>()) {
            let (low, high) = (a.min(b), a.max(b));
            for codec in Codec::ALL {
                prop_assert!(codec.decode(codec.encode(low)) <= codec.decode(codec.encode(high)));
            }
        }
    }
}
