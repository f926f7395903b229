//! The 44-byte header of a 16-bit PCM WAV file, written before, during and after, and repaired after a crash.

/// Bytes before the first sample.
pub const HEADER_BYTES: usize = 44;
/// Bytes of one moment of a stereo recording.
pub const STEREO_FRAME_BYTES: u64 = 4;

/// The header for `data_bytes` of samples (cut at what the format can tell: 4 GiB).
pub fn header(channels: u16, rate_hz: u32, data_bytes: u64) -> [u8; HEADER_BYTES] {
    let data = u32::try_from(data_bytes).unwrap_or(u32::MAX - 36).min(u32::MAX - 36);
    let frame = channels * 2;
    let mut out = [0; HEADER_BYTES];
    out[0..4].copy_from_slice(b"RIFF");
    out[4..8].copy_from_slice(&(data + 36).to_le_bytes());
    out[8..16].copy_from_slice(b"WAVEfmt ");
    out[16..20].copy_from_slice(&16u32.to_le_bytes());
    out[20..22].copy_from_slice(&1u16.to_le_bytes());
    out[22..24].copy_from_slice(&channels.to_le_bytes());
    out[24..28].copy_from_slice(&rate_hz.to_le_bytes());
    out[28..32].copy_from_slice(&(rate_hz * u32::from(frame)).to_le_bytes());
    out[32..34].copy_from_slice(&frame.to_le_bytes());
    out[34..36].copy_from_slice(&16u16.to_le_bytes());
    out[36..40].copy_from_slice(b"data");
    out[40..44].copy_from_slice(&data.to_le_bytes());
    out
}

/// The right header for a stereo recording found with `file_bytes` on disk, and the number of bytes to keep (whole
/// moments only). `None`: not even one moment of audio is there.
pub fn repair(file_bytes: u64) -> Option<([u8; HEADER_BYTES], u64)> {
    let data = file_bytes.checked_sub(HEADER_BYTES as u64)?;
    let data = data - data % STEREO_FRAME_BYTES;
    (data > 0).then(|| (header(2, crate::SAMPLE_RATE_HZ, data), HEADER_BYTES as u64 + data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_where_players_look_for_them() {
        let h = header(2, 8_000, 1_000);
        assert_eq!(u32::from_le_bytes(h[4..8].try_into().unwrap()), 1_036);
        assert_eq!(u32::from_le_bytes(h[28..32].try_into().unwrap()), 32_000);
        assert_eq!(u32::from_le_bytes(h[40..44].try_into().unwrap()), 1_000);
        assert_eq!(header(2, 8_000, u64::MAX)[40..44], (u32::MAX - 36).to_le_bytes());
    }

    #[test]
    fn a_cut_file_is_repaired_to_whole_moments() {
        assert_eq!(repair(44), None);
        assert_eq!(repair(7), None);
        let (h, keep) = repair(44 + 10).unwrap();
        assert_eq!((keep, u32::from_le_bytes(h[40..44].try_into().unwrap())), (52, 8));
    }
}
