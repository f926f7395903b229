use super::support::{World, audio, recording_id};

/// The whole, parts, suffixes, what lies outside, HEAD, conditional requests: as players and downloaders ask.
#[tokio::test(flavor = "multi_thread")]
async fn audio_comes_whole_and_in_parts() {
    let world = World::start().await;
    let bearer = format!("Bearer {}", world.token("alice").await);
    let path = format!("/api/v1/recordings/{}/audio", recording_id(1));
    let all = audio();
    let whole = world.send("GET", &path, &[("authorization", &bearer)], "").await;
    assert_eq!((whole.status, whole.header("content-type")), (200, "audio/wav"));
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert!(whole.body == all, "all bytes");
    let tag = whole.header("etag").to_owned();
    for (range, status, expected) in [
        ("bytes=0-0", 206, 0..1),
        ("bytes=100-199", 206, 100..200),
        ("bytes=65530-131080", 206, 65_530..131_081),
        ("bytes=299990-", 206, 299_990..300_000),
        ("bytes=-44", 206, 299_956..300_000),
        ("bytes=5-1", 200, 0..300_000),
    ] {
        let part = world.send("GET", &path, &[("authorization", &bearer), ("range", range)], "").await;
        assert_eq!(part.status, status, "{range}");
        assert!(part.body == all.slice(expected.clone()), "{range}");
        if status == 206 {
            let content = format!("bytes {}-{}/300000", expected.start, expected.end - 1);
            assert_eq!(part.header("content-range"), content);
        }
    }
    let outside =
        world.send("GET", &path, &[("authorization", &bearer), ("range", "bytes=300000-")], "").await;
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */300000"));
    let head = world.send("HEAD", &path, &[("authorization", &bearer)], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "300000", 0));
    let same = [("authorization", bearer.as_str()), ("if-none-match", tag.as_str())];
    assert_eq!(world.send("GET", &path, &same, "").await.status, 304);
    let resume = [("authorization", bearer.as_str()), ("range", "bytes=1-2"), ("if-range", "\"other\"")];
    assert_eq!(world.send("GET", &path, &resume, "").await.status, 200);
    let resume = [("authorization", bearer.as_str()), ("range", "bytes=1-2"), ("if-range", tag.as_str())];
    assert_eq!(world.send("GET", &path, &resume, "").await.status, 206);
}

/// A recording that breaks off is noticed by the client: the connection is cut, not ended well.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_cut() {
    let world = World::start().await;
    let token = world.token("alice").await;
    *world.records.cut.lock() = Some(100_000);
    let answer = world.get(&format!("/api/v1/recordings/{}/audio", recording_id(1)), &token).await;
    assert!(answer.cut && answer.body.len() <= 100_000, "{} bytes", answer.body.len());
}
