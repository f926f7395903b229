//! The media node with real UDP sockets: what the parties hear, what is recorded, what is reported.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod support;

use std::time::Duration;

use support::*;
use trunkline_media_core::codec::Codec;
use trunkline_media_core::rtp;
use trunkline_proto::media::v1::{
    self as pb, media_command::Command, media_event::Event, media_failure::Kind, playback_finished::Outcome,
    program,
};

#[tokio::test]
async fn music_is_heard_until_the_bridge_and_then_only_the_other_party() {
    let bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench.program("alice", music()).await;
    let music = alice.samples(50).await;
    assert!(level(&music) > 100.0, "music is audible: {}", level(&music));

    let bob = bench.phone("bob", Codec::Pcma).await;
    alice.tone(440);
    bob.tone(1_000);
    alice.clear();
    bench.ok(bridge("alice", "bob")).await;
    // Different laws: both ways are transcoded.
    tokio::join!(alice.hears(1_000), bob.hears(440));
    let (at_alice, at_bob) = tokio::join!(alice.samples(25), bob.samples(25));
    assert!(share(&at_alice, 440) < 0.01 && share(&at_bob, 1_000) < 0.01, "nobody hears himself");

    // From the bridge to music and back: one stream.
    alice.clear();
    bench.program("alice", support::music()).await;
    until("music again", || alice.heard.lock().len() > 25).await;
    bench.program("alice", program::Kind::PeerOf("bob".into())).await;
    until("bob again", || alice.heard.lock().len() > 60).await;
    assert_continuous(&alice.heard.lock());
    alice.hears(1_000).await;

    bench.ok(Command::SetMuted(pb::SetMuted { endpoint: "bob".into(), muted: true })).await;
    alice.samples(5).await;
    assert!(level(&alice.samples(10).await) < 10.0, "a muted party sends silence");
    bob.hears(440).await;
    bench.ok(Command::CloseEndpoint(pb::CloseEndpoint { endpoint: "bob".into() })).await;
    assert!(level(&alice.samples(10).await) < 10.0, "who heard a party that is gone hears silence");
}

#[tokio::test]
async fn another_source_gets_nothing_in_and_nothing_out() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bob.silent(true);
    bench.ok(bridge("alice", "bob")).await;
    bob.hears(440).await;
    let mallory = Phone::new("127.0.0.2", Codec::Pcmu).await;
    mallory.tone(2_000);
    let answer = bench.ok(Command::RenegotiateRtp(pb::RenegotiateRtp {
        endpoint: "alice".into(),
        sdp: alice.sdp("").into_bytes().into(),
    }));
    mallory.answer(&answer.await.sdp);
    let heard = bob.samples(50).await;
    assert!(share(&heard, 440) > 0.9 && share(&heard, 2_000) < 0.001);
    assert!(mallory.heard.lock().is_empty());
    bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    let quality = bench
        .event("final quality of alice", |e| match e {
            Event::Quality(q) if q.endpoint == "alice" && q.r#final => Some(q.clone()),
            _ => None,
        })
        .await;
    assert!(quality.refused_packets >= 40, "{quality:?}");
    assert!(quality.lost_packets == 0 && quality.mos > 4.0 && quality.received_packets > 50, "{quality:?}");
}

/// Two parties hear a tone for more than two seconds: one speaks, one never does. A third only listens, and says so.
#[tokio::test]
async fn audio_that_went_one_way_only_is_told_at_the_end() {
    let mut bench = Bench::start();
    let mut phones = Vec::new();
    for (name, more) in [("alice", ""), ("bob", ""), ("carol", "a=recvonly\r\n")] {
        let phone = Phone::new("127.0.0.1", Codec::Pcmu).await;
        phone.silent(name != "alice");
        let create = pb::CreateRtpEndpoint {
            endpoint: name.into(),
            sdp: phone.sdp(more).into_bytes().into(),
            signalling_ip: "127.0.0.1".into(),
            ..Default::default()
        };
        let ok = bench.ok(Command::CreateRtp(create)).await;
        bench.program(name, program::Kind::Tone(pb::Tone { hz: 600 })).await;
        phone.answer(&ok.sdp);
        phones.push(phone);
    }
    until("all have heard enough", || phones.iter().all(|phone| phone.heard.lock().len() > 120)).await;
    bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    for (name, missing) in [
        ("alice", pb::Missing::Unspecified),
        ("bob", pb::Missing::Received),
        ("carol", pb::Missing::Unspecified),
    ] {
        let last = |e: &Event| match e {
            Event::Quality(q) if q.endpoint == name && q.r#final => Some(q.clone()),
            _ => None,
        };
        let quality = bench.event("final quality", last).await;
        assert_eq!(quality.missing(), missing, "{quality:?}");
        assert!(
            quality.sent_packets > 120 && (quality.received_packets > 0) == (name == "alice"),
            "{quality:?}"
        );
    }
}

#[tokio::test]
async fn a_caller_behind_nat_is_learnt_from_where_the_signalling_comes() {
    let bench = Bench::start();
    let alice = Phone::new("127.0.0.3", Codec::Pcmu).await;
    let private = alice.sdp("").replace("127.0.0.3", "10.9.8.7");
    let ok = bench
        .ok(Command::CreateRtp(pb::CreateRtpEndpoint {
            endpoint: "alice".into(),
            sdp: private.into_bytes().into(),
            signalling_ip: "127.0.0.3".into(),
            ..Default::default()
        }))
        .await;
    bench.program("alice", program::Kind::Tone(pb::Tone { hz: 600 })).await;
    alice.answer(&ok.sdp);
    alice.hears(600).await;
}

#[tokio::test]
async fn a_prompt_is_interrupted_by_one_digit_that_is_reported_once() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench
        .event("connected", |e| matches!(e, Event::Connected(c) if c.endpoint == "alice").then_some(()))
        .await;
    let play = |prompts: &[&str], token: &str, interruptible| {
        program::Kind::Play(Box::new(pb::Play {
            prompts: prompts.iter().map(ToString::to_string).collect(),
            then: Some(Box::new(pb::Program { kind: Some(program::Kind::Tone(pb::Tone { hz: 900 })) })),
            token: token.into(),
            interruptible,
            over_music: false,
        }))
    };
    bench.program("alice", play(&["greeting", "menu"], "menu-1", true)).await;
    assert!(level(&alice.samples(50).await) > 50.0, "the prompt is audible");
    alice.press(5, 1_000_000).await;
    let digit = bench
        .event("digit", |e| match e {
            Event::Digit(d) => Some(d.clone()),
            _ => None,
        })
        .await;
    assert_eq!((digit.digit.as_str(), digit.endpoint.as_str()), ("5", "alice"));
    let finished = |e: &Event| match e {
        Event::PlaybackFinished(f) => Some((f.token.clone(), f.outcome())),
        _ => None,
    };
    assert_eq!(bench.event("end", finished).await, ("menu-1".into(), Outcome::Interrupted));
    alice.hears(900).await;

    bench.program("alice", play(&["goodbye"], "bye", false)).await;
    alice.press(1, 2_000_000).await;
    assert_eq!(bench.event("end", finished).await, ("bye".into(), Outcome::Completed));
    bench.program("alice", play(&["goodbye"], "again", false)).await;
    bench.program("alice", program::Kind::Silence(pb::Silence {})).await;
    assert_eq!(bench.event("end", finished).await, ("again".into(), Outcome::Replaced));
    let digits = bench.others().into_iter().filter(|e| matches!(e.event, Some(Event::Digit(_)))).count();
    assert_eq!(digits, 1, "the second key, once");
    assert_eq!(bench.refused(set_program("alice", play(&["nothing"], "", true))).await, Kind::UnknownPrompt);
}

#[tokio::test]
async fn digits_are_sent_as_events_and_do_not_break_the_stream() {
    let mut bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    bench.program("alice", program::Kind::Tone(pb::Tone { hz: 700 })).await;
    alice.hears(700).await;
    alice.clear();
    let send = pb::SendDigits { endpoint: "alice".into(), digits: "12#".into(), duration_ms: 60, gap_ms: 40 };
    bench.ok(Command::SendDigits(send)).await;
    bench.event("digits sent", |e| matches!(e, Event::DigitsSent(_)).then_some(())).await;
    let heard = alice.heard.lock().clone();
    let mut receiver = trunkline_media_core::dtmf::Receiver::default();
    let digits: String = heard
        .iter()
        .filter(|(h, _)| h.payload_type == 101)
        .filter_map(|(h, p)| receiver.packet(h.ssrc, h.timestamp, p).map(|p| p.digit.as_char()))
        .collect();
    assert_eq!(digits, "12#");
    let jump = heard.windows(2).find(|w| w[1].0.sequence != w[0].0.sequence.wrapping_add(1));
    assert!(jump.is_none(), "{jump:?}");
    let bad = pb::SendDigits { endpoint: "alice".into(), digits: "1x".into(), ..Default::default() };
    assert_eq!(bench.refused(Command::SendDigits(bad)).await, Kind::Invalid);
}

#[tokio::test]
async fn a_late_offer_a_hold_and_the_way_back() {
    let bench = Bench::start();
    let alice = Phone::new("127.0.0.1", Codec::Pcma).await;
    let ours = bench.ok(create("alice", "")).await;
    assert_eq!(ours.codec(), pb::Codec::Unspecified);
    let set = |sdp: String| {
        Command::SetRemote(pb::SetRemote { endpoint: "alice".into(), sdp: sdp.into_bytes().into() })
    };
    let agreed = bench.ok(set(alice.sdp("a=rtcp-mux\r\n"))).await;
    assert_eq!((agreed.codec(), agreed.telephone_event), (pb::Codec::Pcma, true));
    alice.answer(&ours.sdp);
    bench.program("alice", program::Kind::Tone(pb::Tone { hz: 500 })).await;
    alice.hears(500).await;

    let renegotiate = |sdp: String| {
        Command::RenegotiateRtp(pb::RenegotiateRtp { endpoint: "alice".into(), sdp: sdp.into_bytes().into() })
    };
    let held = bench.ok(renegotiate(alice.sdp("a=sendonly\r\n"))).await;
    assert_eq!(held.direction(), pb::Direction::Recvonly);
    let settled = std::time::Instant::now();
    until("packets under way to arrive", || settled.elapsed() > Duration::from_millis(60)).await;
    alice.clear();
    until("a while", || settled.elapsed() > Duration::from_millis(360)).await;
    assert!(alice.heard.lock().is_empty(), "nothing is sent to a party that holds us");
    let back = bench.ok(renegotiate(alice.sdp("a=sendrecv\r\n"))).await;
    assert_eq!(back.direction(), pb::Direction::Sendrecv);
    alice.hears(500).await;
    assert_eq!(bench.refused(renegotiate("v=0 nonsense".into())).await, Kind::MalformedSdp);
    let other = alice.sdp("").replace("RTP/AVP 8 101", "RTP/AVP 18").replace("a=rtpmap:8 PCMA/8000\r\n", "");
    assert_eq!(bench.refused(renegotiate(other)).await, Kind::NoCommonCodec);
    alice.hears(500).await;
}

#[tokio::test]
async fn packets_of_the_duration_that_the_party_asks_for() {
    let bench = Bench::start();
    let alice = Phone::new("127.0.0.1", Codec::Pcmu).await;
    let ok = bench.ok(create("alice", &alice.sdp("a=ptime:30\r\n"))).await;
    alice.answer(&ok.sdp);
    bench.program("alice", program::Kind::Tone(pb::Tone { hz: 500 })).await;
    assert!(alice.listen_for(10).await.iter().all(|(_, p)| p.len() == 240));
    let bob = bench.phone("bob", Codec::Pcma).await;
    bob.tone(1_200);
    bench.ok(bridge("alice", "bob")).await;
    alice.hears(1_200).await;
    assert!(alice.listen_for(10).await.iter().all(|(_, p)| p.len() == 240));
}

#[tokio::test]
async fn commands_are_executed_once_and_old_owners_are_refused() {
    let bench = Bench::start();
    let alice = Phone::new("127.0.0.1", Codec::Pcmu).await;
    let command = create("alice", &alice.sdp(""));
    let first = bench.node.command(bench.message(900, 5, command.clone())).await;
    let again = bench.node.command(bench.message(900, 5, command.clone())).await;
    assert_eq!(first, again);
    assert_eq!(failure(&bench.node.command(bench.message(901, 5, command.clone())).await), Kind::Conflict);
    assert_eq!(failure(&bench.node.command(bench.message(902, 4, command.clone())).await), Kind::StaleEpoch);
    let list = |epoch| pb::MediaCommand {
        shard: 7,
        epoch,
        command_id: 1,
        command: Some(Command::ListSessions(pb::ListSessions { shard: 7 })),
        ..Default::default()
    };
    let Some(pb::media_reply::Result::Ok(ok)) = bench.node.command(list(6)).await.result else { panic!() };
    assert_eq!(ok.sessions.len(), 1);
    assert_eq!(
        (ok.sessions[0].call_id.clone(), ok.sessions[0].last_command_id),
        (bench.call.to_string(), 901)
    );
    assert_eq!(ok.sessions[0].endpoints[0].endpoint, "alice");
    assert_eq!(failure(&bench.node.command(bench.message(903, 5, command.clone())).await), Kind::StaleEpoch);
    let close = Command::CloseSession(pb::CloseSession {});
    let closed = bench.node.command(bench.message(904, 6, close.clone())).await;
    assert_eq!(bench.node.command(bench.message(904, 6, close)).await, closed);
    assert_eq!(bench.node.command(bench.message(900, 6, command)).await, first, "the dead are not raised");
    let Some(pb::media_reply::Result::Ok(ok)) = bench.node.command(list(6)).await.result else { panic!() };
    assert!(ok.sessions.is_empty());
    let unknown = Command::SetMuted(pb::SetMuted { endpoint: "alice".into(), muted: true });
    assert_eq!(failure(&bench.node.command(bench.message(905, 6, unknown)).await), Kind::UnknownSession);
}

#[tokio::test]
async fn a_node_that_is_full_says_so_and_ports_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = trunkline_media::Config { max_sessions: 1, ..config(&folder) };
    let mut bench = Bench::with(folder, config);
    let alice = Phone::new("127.0.0.1", Codec::Pcmu).await;
    for round in 0..60 {
        bench.ok(create("alice", &alice.sdp(""))).await;
        let one = bench.call;
        bench.call = trunkline_types::CallId::mint(one.shard(), one.minted_at(), rand::random());
        assert_eq!(bench.refused(create("alice", &alice.sdp(""))).await, Kind::Overload, "round {round}");
        bench.call = one;
        bench.ok(Command::CloseSession(pb::CloseSession {})).await;
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &bench.registry).unwrap();
    assert!(text.contains("trunkline_media_sessions 0"), "{text}");
}

#[tokio::test]
async fn silence_is_reported_and_so_is_the_return() {
    let folder = tempfile::tempdir().unwrap();
    let config = trunkline_media::Config { no_rtp_timeout_ms: 1_000, ..config(&folder) };
    let mut bench = Bench::with(folder, config);
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let connected = |e: &Event| matches!(e, Event::Connected(_)).then_some(());
    bench.event("connected", connected).await;
    alice.silent(true);
    let reason = bench
        .event("silence", |e| match e {
            Event::Disconnected(d) => Some(d.reason()),
            _ => None,
        })
        .await;
    assert_eq!(reason, pb::disconnected::Reason::NoRtp);
    alice.silent(false);
    bench.event("return", connected).await;
}

#[tokio::test]
async fn noise_on_the_port_harms_nothing() {
    let bench = Bench::start();
    let alice = bench.phone("alice", Codec::Pcmu).await;
    let bob = bench.phone("bob", Codec::Pcmu).await;
    bench.ok(bridge("alice", "bob")).await;
    bob.hears(440).await;
    for n in 0..500usize {
        let mut noise = vec![0u8; n * 3];
        rand::fill(&mut noise[..]);
        if n % 2 == 0 && !noise.is_empty() {
            noise[0] = 0x80 | (noise[0] & 0x3f);
        }
        alice.send(&noise).await;
    }
    let mut odd = [0u8; 12];
    rtp::write_header(&mut odd, 0, true, 9, 9, 9);
    alice.send(&odd).await;
    bob.hears(440).await;
}
