//! Mutated RFC 4475 messages: whatever comes, nothing panics, everything takes little time, and what is written can be
//! read again. The seed is printed; set `SIP_MUTATIONS` for more rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use trunkline_sip::{
    Dialog, HeaderName, Message, StreamFramer, TransactionConfig, TransactionLayer, Unacceptable,
    parse_datagram,
    uas::{Capabilities, check_request, check_response},
};
use trunkline_types::Timestamp;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rfc4475");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "dat"));
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

const SPICE: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\"",
    b"<",
    b">",
    b";",
    b",",
    b"%",
    b"%00",
    b"\\",
    b" ",
    b"\t",
    b":",
    b"@",
    b"?",
    b"[",
    b"]",
    b"=",
    b"\xff",
    b"z9hG4bK",
    b"tag=",
    b"sip:",
    b"tel:",
    b"Content-Length: 5\r\n",
    b"\r\n x",
    b"*",
    b"Via: ",
];

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut message = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(message.len() + 1);
        match random.below(6) {
            0 if at < message.len() => message[at] = random.next() as u8,
            1 => drop(message.splice(at..at, SPICE[random.below(SPICE.len())].iter().copied())),
            2 => message.truncate(at),
            3 if at < message.len() => drop(message.drain(at..(at + random.below(20)).min(message.len()))),
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(80)).min(other.len())].to_vec();
                message.splice(at..at, piece);
            }
            _ => {
                let piece = message[at..(at + random.below(40)).min(message.len())].to_vec();
                for _ in 0..random.below(30) {
                    message.splice(at..at, piece.iter().copied());
                }
            }
        }
    }
    message
}

fn touch_everything(message: &Message) {
    let headers = message.headers();
    let _ =
        (headers.accept(), headers.allow(), headers.supported(), headers.date(), headers.session_expires());
    let _ = (
        headers.reasons(),
        headers.privacy(),
        headers.retry_after(),
        headers.asserted_identities(),
        headers.min_se(),
    );
    let _ =
        (headers.challenges(&HeaderName::WwwAuthenticate), headers.credentials(&HeaderName::Authorization));
    match message {
        Message::Request(request) => {
            if let Err(rejection) = check_request(request, &Capabilities::default()) {
                let _ = rejection.to_response("t").to_bytes();
            }
            if let Ok(mut dialog) = Dialog::from_request(request, "t") {
                let _ = dialog.receive_request(request);
                let _ = dialog.next_hop();
            }
        }
        Message::Response(response) => drop(check_response(response)),
    }
}

#[test]
fn nothing_panics_and_nothing_takes_long() {
    let rounds: u64 = std::env::var("SIP_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let (seed, corpus) = (0x5eed_4475, corpus());
    println!("seed {seed:#x}, {rounds} rounds");
    let mut random = Random(seed);
    let mut layer: TransactionLayer<u8> = TransactionLayer::new(TransactionConfig {
        max_transactions: 1_000,
        reserved: 100,
        ..TransactionConfig::default()
    });
    let (mut accepted, mut rejected, mut dropped, mut worst) = (0, 0, 0, Duration::ZERO);
    for round in 0..rounds {
        let now = Timestamp::from_millis(round as i64);
        let bytes = Bytes::from(mutate(&mut random, &corpus));
        let started = Instant::now();
        match parse_datagram(&bytes) {
            Ok(message) => {
                accepted += 1;
                touch_everything(&message);
                let written = message.to_bytes();
                let again = parse_datagram(&written);
                assert!(
                    again.is_ok(),
                    "round {round}: {again:?} from {:?}",
                    String::from_utf8_lossy(&written)
                );
                match message {
                    Message::Request(request) => drop(layer.on_request(now, request, 0, round % 2 == 0)),
                    Message::Response(response) => drop(layer.on_response(now, response)),
                }
            }
            Err(Unacceptable::Reject(rejection)) => {
                rejected += 1;
                let answer = rejection.to_response("t").to_bytes();
                // The copied values are single lines: the answer has exactly one head.
                assert!(answer.ends_with(b"\r\n\r\n"), "round {round}");
                assert_eq!(answer.windows(4).filter(|w| *w == b"\r\n\r\n").count(), 1, "round {round}");
            }
            Err(Unacceptable::Drop(_)) => dropped += 1,
        }
        let mut framer = StreamFramer::new();
        framer.push(&bytes);
        while framer.next_frame().is_some() {}
        let _ = framer.end();
        drop(layer.advance(now));
        worst = worst.max(started.elapsed());
        assert!(layer.len() <= 1_000);
    }
    println!("accepted {accepted}, rejected {rejected}, dropped {dropped}, slowest {worst:?}");
    assert!(accepted > rounds / 50 && rejected > rounds / 50 && dropped > rounds / 100);
    // Generous for a busy machine; a typical message takes tens of microseconds.
    assert!(worst < Duration::from_millis(250), "{worst:?}");
}
