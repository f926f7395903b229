//! What one packet costs besides the system calls: parse, judge the source, count, place, rewrite, transcode.

#![allow(clippy::expect_used, missing_docs, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use trunkline_media_core::{
    clip::Clip,
    codec::Codec,
    latch::Latch,
    outbound::Outbound,
    program::{Bed, Player},
    rtp::{self, Header},
    stats::ReceiveStats,
};
use trunkline_types::Timestamp;

fn relay(c: &mut Criterion) {
    let source = "198.51.100.1:4000".parse().expect("address");
    let mut latch = Latch::new(false, None);
    latch.signal(Some(source));
    let mut stats = ReceiveStats::default();
    let mut outbound = Outbound::new(7);
    let mut packet = [0u8; 172];
    let mut n = 0u16;
    for (name, transcode) in [("relay one packet", false), ("relay one packet, transcoded", true)] {
        c.bench_function(name, |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                let now = Timestamp::from_millis(i64::from(n) * 20);
                rtp::write_header(
                    packet.first_chunk_mut().expect("12 bytes"),
                    0,
                    false,
                    n,
                    u32::from(n) * 160,
                    5,
                );
                let header = Header::read(&packet).expect("RTP");
                latch.judge(now, source, header.ssrc, header.sequence);
                stats.packet(now, header.ssrc, header.sequence, Some(header.timestamp));
                if transcode {
                    Codec::Pcmu.transcode(Codec::Pcma, &mut packet[12..]);
                }
                let placed =
                    outbound.relay(now, header.ssrc, header.sequence, header.timestamp, header.payload_len);
                let placed = placed.expect("in order");
                let (sequence, ssrc) = (placed.sequence as u16, outbound.ssrc());
                rtp::rewrite(&mut packet, &header, 8, placed.marker, sequence, placed.timestamp, ssrc)
                    .map(<[u8]>::len)
            });
        });
    }
}

fn music(c: &mut Criterion) {
    let clip =
        std::sync::Arc::new(Clip::new((0..80_000).map(|n| (n % 2_000) as i16).collect()).expect("clip"));
    let mut player = Player::<u8>::default();
    player.set(Bed::Music("hold".into(), clip));
    let mut out = [0u8; 160];
    c.bench_function("music, one frame", |b| b.iter(|| player.frame(Codec::Pcmu, &mut out).0));
}

criterion_group!(benches, relay, music);
criterion_main!(benches);
