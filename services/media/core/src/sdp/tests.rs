use proptest::prelude::*;

use super::*;

const SIPP: &str = "v=0\r\no=user1 53655765 2353687637 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-11,16\r\n";

fn negotiation() -> Negotiation {
    Negotiation::new(Local { address: "192.0.2.10:40000".parse().unwrap(), session_id: 77 }, Vec::new())
}

fn offer(media: &str) -> Vec<u8> {
    format!("v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\n{media}")
        .into_bytes()
}

fn text(sdp: &[u8]) -> String {
    String::from_utf8(sdp.to_vec()).unwrap()
}

#[test]
fn sipps_offer_is_answered_with_its_codec_and_its_numbers() {
    let (sdp, agreed) = negotiation().answer(SIPP.as_bytes()).unwrap();
    assert_eq!((agreed.codec, agreed.send.event, agreed.receive.pcma), (Codec::Pcma, Some(101), Some(8)));
    assert_eq!(agreed.remote, Some("127.0.0.1:6000".parse().unwrap()));
    assert_eq!(agreed.remote_rtcp, Some("127.0.0.1:6001".parse().unwrap()));
    let sdp = text(&sdp);
    assert!(sdp.contains("m=audio 40000 RTP/AVP 8 101\r\n"), "{sdp}");
    assert!(
        sdp.contains("a=sendrecv\r\n") && sdp.contains("a=rtcp:40001\r\n") && !sdp.contains("rtcp-mux"),
        "{sdp}"
    );
    assert!(
        sdp.contains("c=IN IP4 192.0.2.10\r\n") && sdp.starts_with("v=0\r\no=- 77 0 IN IP4 192.0.2.10\r\n"),
        "{sdp}"
    );
}

#[test]
fn other_media_are_refused_in_their_places() {
    let (sdp, _) = negotiation()
        .answer(&offer(
            "m=video 9000 RTP/AVP 96 97\r\na=rtpmap:96 H264/90000\r\nm=audio 9002 RTP/SAVP 0\r\nm=audio 9004 RTP/AVP 18 0\r\nm=image 9006 udptl t38\r\n",
        ))
        .unwrap();
    let lines: Vec<_> = text(&sdp).lines().filter(|l| l.starts_with("m=")).map(str::to_owned).collect();
    assert_eq!(
        lines,
        ["m=video 0 RTP/AVP 96", "m=audio 0 RTP/SAVP 0", "m=audio 40000 RTP/AVP 0", "m=image 0 udptl t38"]
    );
}

#[test]
fn another_node_goes_on_in_the_dialog_with_the_same_origin_lines_and_numbers() {
    let media = "m=video 9000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 9002 RTP/AVP 8 110\r\n\
                 a=rtpmap:110 telephone-event/8000\r\n";
    let (former, _) = negotiation().answer(&offer(media)).unwrap();
    let local = Local { address: "192.0.2.99:50000".parse().unwrap(), session_id: 1_234 };
    let mut second = Negotiation::continuing(local, Vec::new(), &former).unwrap();
    let first_offer = text(&second.offer());
    assert!(first_offer.starts_with("v=0\r\no=- 77 1 IN IP4 192.0.2.10\r\n"), "{first_offer}");
    assert!(first_offer.contains("c=IN IP4 192.0.2.99\r\n"), "the audio goes to the new node: {first_offer}");
    let lines: Vec<_> = first_offer.lines().filter(|l| l.starts_with("m=")).collect();
    assert_eq!(lines, ["m=video 0 RTP/AVP 96", "m=audio 50000 RTP/AVP 0 8 110"]);
    // A recovered call does not know whether the offer went out.
    assert_eq!(text(&second.offer()), first_offer);
    let answer =
        "m=video 0 RTP/AVP 96\r\nm=audio 9004 RTP/AVP 8 110\r\na=rtpmap:110 telephone-event/8000\r\n";
    let agreed = second.accept(&offer(answer)).unwrap();
    assert_eq!((agreed.codec, agreed.send.event), (Codec::Pcma, Some(110)));
    // The party's own re-INVITE afterwards: still the same origin.
    let (sdp, _) = second.answer(&offer(media)).unwrap();
    assert!(text(&sdp).starts_with("v=0\r\no=- 77 2 IN IP4 192.0.2.10\r\n"), "{}", text(&sdp));
    assert!(Negotiation::continuing(local, Vec::new(), b"rubbish").is_err());
}

#[test]
fn what_cannot_be_agreed_says_why_and_changes_nothing() {
    let mut n = negotiation();
    let (before, _) = n.answer(SIPP.as_bytes()).unwrap();
    assert!(
        matches!(n.answer(&offer("m=audio 9 RTP/AVP 9 18\r\n")), Err(SdpError::NoCommonCodec(names)) if names.contains("G722"))
    );
    assert!(matches!(n.answer(&offer("m=audio 9000 RTP/SAVP 0\r\n")), Err(SdpError::Unsupported(_))));
    assert!(matches!(n.answer(&offer("m=image 9000 udptl t38\r\n")), Err(SdpError::Unsupported(_))));
    assert!(matches!(n.answer(&offer("m=audio 0 RTP/AVP 0\r\n")), Err(SdpError::Unsupported(_))));
    assert!(matches!(n.answer(b"hello"), Err(SdpError::Malformed(_))));
    assert!(matches!(
        n.answer(&offer(&"m=audio 9000 RTP/AVP 0\r\n".repeat(33))),
        Err(SdpError::Malformed(_))
    ));
    assert!(matches!(n.answer(&offer("m=audio 9000 RTP/AVP 900\r\n")), Err(SdpError::Malformed(_))));
    assert!(matches!(
        n.answer(b"v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"),
        Err(SdpError::Malformed(_))
    ));
    assert_eq!(n.last_sdp(), before);
}

#[test]
fn hold_in_its_three_forms_and_back_raises_the_version_each_time() {
    let mut n = negotiation();
    n.answer(SIPP.as_bytes()).unwrap();
    let held = |n: &mut Negotiation, sdp: String| {
        let (answer, agreed) = n.answer(sdp.as_bytes()).unwrap();
        (text(&answer).split(' ').nth(2).unwrap().to_owned(), agreed.direction, agreed.remote.is_some())
    };
    assert_eq!(held(&mut n, format!("{SIPP}a=sendonly\r\n")), ("1".into(), Direction::RecvOnly, true));
    assert_eq!(held(&mut n, SIPP.into()), ("2".into(), Direction::SendRecv, true));
    assert_eq!(
        held(&mut n, SIPP.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0")),
        ("3".into(), Direction::RecvOnly, false)
    );
    assert_eq!(held(&mut n, format!("{SIPP}a=inactive\r\n")), ("4".into(), Direction::Inactive, true));
    assert_eq!(
        held(&mut n, format!("{SIPP}a=inactive\r\n")),
        ("4".into(), Direction::Inactive, true),
        "a refresh changes nothing"
    );
}

#[test]
fn a_late_offer_keeps_the_numbers_of_each_side() {
    let mut n = negotiation();
    let ours = text(&n.offer());
    assert!(ours.contains("m=audio 40000 RTP/AVP 0 8 101\r\n") && ours.contains("a=rtcp-mux\r\n"), "{ours}");
    let answer = offer(
        "m=audio 7000 RTP/AVP 8 96\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:96 telephone-event/8000\r\na=ptime:30\r\na=rtcp-mux\r\n",
    );
    let agreed = n.accept(&answer).unwrap();
    assert_eq!((agreed.codec, agreed.send.event, agreed.receive.event), (Codec::Pcma, Some(96), Some(101)));
    assert_eq!((agreed.receive.pcmu, agreed.receive.pcma, agreed.ptime_ms), (Some(0), Some(8), Some(30)));
    assert_eq!((agreed.rtcp_mux, agreed.remote_rtcp), (true, agreed.remote));
    assert_eq!(n.accept(&answer).unwrap(), agreed, "the 200 after the 183");
    assert!(matches!(
        n.accept(&offer("m=audio 7000 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\n")),
        Err(SdpError::Mismatch(_))
    ));
    assert!(matches!(negotiation().accept(&answer), Err(SdpError::Mismatch(_))));
}

#[test]
fn our_preference_and_explicit_rtcp_are_honoured() {
    let mut n = Negotiation::new(
        Local { address: "192.0.2.10:40000".parse().unwrap(), session_id: 1 },
        vec![Codec::Pcma],
    );
    let (_, agreed) =
        n.answer(&offer("m=audio 7000 RTP/AVP 0 8\r\na=rtcp:7777 IN IP4 198.51.100.9\r\n")).unwrap();
    assert_eq!((agreed.codec, agreed.send.event), (Codec::Pcma, None));
    assert_eq!(agreed.remote_rtcp, Some("198.51.100.9:7777".parse().unwrap()));
    let ours = text(&n.offer());
    assert!(ours.contains("RTP/AVP 8 0 101") && ours.starts_with("v=0\r\no=- 1 1 "), "{ours}");
}

#[test]
fn telephone_event_at_another_clock_is_not_taken() {
    let (_, agreed) = negotiation()
        .answer(&offer("m=audio 7000 RTP/AVP 0 100 101\r\na=rtpmap:100 telephone-event/48000\r\na=rtpmap:101 telephone-event/8000\r\n"))
        .unwrap();
    assert_eq!(agreed.send.event, Some(101));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200, cut in 0usize..300) {
        let _ = negotiation().answer(&bytes);
        let mut mutated = SIPP.as_bytes().to_vec();
        let at = at % mutated.len();
        if let Some(b) = bytes.pop() { mutated[at] = b; }
        mutated.truncate(cut.max(1));
        let _ = negotiation().answer(&mutated);
        let mut n = negotiation();
        n.offer();
        let _ = n.accept(&mutated);
    }

    #[test]
    fn an_answer_is_always_readable_and_names_as_many_media(kinds in proptest::collection::vec(0u8..4, 0..31)) {
        let mut media: String = kinds.iter().map(|k| match k {
            0 => "m=video 9000 RTP/AVP 96\r\n",
            1 => "m=image 9000 udptl t38\r\n",
            2 => "m=audio 0 RTP/AVP 0\r\n",
            _ => "m=text 9000 RTP/AVP 98\r\n",
        }).collect();
        media.push_str("m=audio 9000 RTP/AVP 0\r\n");
        let (answer, _) = negotiation().answer(&offer(&media)).unwrap();
        let read = sdp_types::Session::parse(&answer).unwrap();
        prop_assert_eq!(read.medias.len(), kinds.len() + 1);
        prop_assert!(read.medias[..kinds.len()].iter().all(|m| m.port == 0));
    }
}
