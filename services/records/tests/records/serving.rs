//! The service: pages, filters, streams, recordings.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic::Code;
use trunkline_proto::records::v1::{
    GetContactRequest, GetIntervalsRequest, ListContactsRequest, ReadRecordingRequest, WatchLiveRequest,
};

use crate::{
    history::{MIDNIGHT, S, history},
    support::*,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_hold_each_contact_once_newest_first_whatever_the_filter() {
    let history = history(51, 150);
    let place = Place::new(&history);
    place.tape.show_all();
    let mut running = place.start().await;
    let all = running.list(ListContactsRequest { page_size: 200, ..Default::default() }).await;
    assert_eq!(all.len(), 150);
    let key = |c: &trunkline_proto::records::v1::Contact| (c.started_us, c.call_id.clone());
    assert!(all.windows(2).all(|pair| key(&pair[0]) > key(&pair[1])));
    assert!(all.iter().all(|c| c.timeline.is_empty() && c.transcript.is_empty() && c.decisions.is_empty()));
    for page_size in [1, 7, 50] {
        let paged = running.list(ListContactsRequest { page_size, ..Default::default() }).await;
        assert_eq!(paged, all, "pages of {page_size}");
    }
    let caller = all[17].caller_number[5..9].to_owned();
    let filters = [
        ListContactsRequest { queue_id: "sales".into(), ..Default::default() },
        ListContactsRequest { agent_id: "bob".into(), ..Default::default() },
        ListContactsRequest { outcome: "abandoned".into(), ..Default::default() },
        ListContactsRequest { caller: caller.clone(), ..Default::default() },
        ListContactsRequest { caller: "ZOË".to_lowercase(), ..Default::default() },
        ListContactsRequest { from_us: MIDNIGHT, to_us: MIDNIGHT + 1_800 * S, ..Default::default() },
        ListContactsRequest { queue_id: "sales".into(), outcome: "answered".into(), ..Default::default() },
    ];
    for filter in filters {
        let holds = |c: &&trunkline_proto::records::v1::Contact| {
            (filter.queue_id.is_empty() || c.queue_id == filter.queue_id)
                && (filter.agent_id.is_empty() || c.agent_id == filter.agent_id)
                && (filter.outcome.is_empty() || c.outcome == filter.outcome)
                && format!("{} {}", c.caller_number, c.caller_name.to_lowercase()).contains(&filter.caller)
                && c.started_us >= filter.from_us
                && (filter.to_us == 0 || c.started_us <= filter.to_us)
        };
        let expected: Vec<_> = all.iter().filter(holds).cloned().collect();
        assert!(!expected.is_empty(), "{filter:?} finds something");
        let got = running.list(ListContactsRequest { page_size: 3, ..filter.clone() }).await;
        assert_eq!(got, expected, "{filter:?}");
    }
    let bad = ListContactsRequest { tenant: "default".into(), cursor: "x".into(), ..Default::default() };
    assert_eq!(running.client.list_contacts(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let other = ListContactsRequest { tenant: "other".into(), ..Default::default() };
    assert!(running.client.list_contacts(other).await.unwrap().into_inner().contacts.is_empty());
    let foreign = GetContactRequest { tenant: "other".into(), call_id: history.calls[0].clone() };
    assert_eq!(running.client.get_contact(foreign).await.unwrap_err().code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_up_is_shown_as_it_is_and_its_row_follows() {
    let history = history(53, 30);
    let place = Place::new(&history);
    let mut running = place.start().await;
    place.tape.show_all();
    running.live_at(history.events.len()).await;
    let mut now = Vec::new();
    for call in &history.calls {
        now.push(running.contact(call).await.unwrap());
    }
    running.stop().await;
    let mut running = place.start().await;
    for (call, before) in history.calls.iter().zip(now) {
        assert_eq!(running.contact(call).await.unwrap(), before);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_numbers_come_at_changes_at_most_four_times_a_second_and_end_with_their_reader() {
    let history = history(55, 60);
    let place = Place::new(&history);
    let mut running = place.start().await;
    let request = WatchLiveRequest { tenant: "default".into() };
    let mut stream = running.client.watch_live(request).await.unwrap().into_inner();
    let first = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.position, 0, "at once");
    let quiet = timeout(Duration::from_millis(600), stream.next()).await;
    assert!(quiet.is_err(), "nothing has changed");
    let (began, mut snapshots, mut last) = (Instant::now(), 0, 0);
    for shown in 1..=60 {
        place.tape.show(shown * history.events.len() / 60);
        if let Ok(Some(Ok(snapshot))) = timeout(Duration::from_millis(20), stream.next()).await {
            assert!(snapshot.position > last);
            (snapshots, last) = (snapshots + 1, snapshot.position);
        }
    }
    while last < history.events.len() as u64 {
        last = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap().position;
        snapshots += 1;
    }
    let most = 2 + began.elapsed().as_millis() / 240;
    assert!(snapshots <= most, "{snapshots} snapshots, {most} are allowed");
    assert_eq!(running.metric("live_watchers"), 1.0);
    drop(stream);
    let deadline = Instant::now() + SOON;
    while running.metric("live_watchers") > 0.0 {
        assert!(Instant::now() < deadline, "the stream ends with its reader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unknown = WatchLiveRequest { tenant: "not a tenant".into() };
    assert_eq!(running.client.watch_live(unknown).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_role_reads_nothing() {
    let history = history(56, 10);
    let place = Place::new(&history);
    place.tape.show_all();
    let running = place.start().await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let reads = place.tape.reads.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(place.tape.reads.load(Ordering::Relaxed), reads);
    running.stop().await;
}

async fn read(running: &mut Running, id: &str, offset: i64, length: i64) -> Result<(Vec<u8>, i64), Code> {
    let request =
        ReadRecordingRequest { tenant: "default".into(), recording_id: id.to_owned(), offset, length };
    let mut stream = running.client.read_recording(request).await.map_err(|s| s.code())?.into_inner();
    let (mut bytes, mut total) = (Vec::new(), -1);
    while let Some(chunk) = timeout(SOON, stream.next()).await.unwrap() {
        let chunk = chunk.map_err(|s| s.code())?;
        assert!(chunk.data.len() <= 64 * 1024);
        bytes.extend_from_slice(&chunk.data);
        total = chunk.total_bytes;
    }
    Ok((bytes, total))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_are_read_in_ranges() {
    let history = history(57, 30);
    let place = Place::new(&history);
    place.tape.show_all();
    let mut running = place.start().await;
    let contacts =
        running.list(ListContactsRequest { outcome: "answered".into(), ..Default::default() }).await;
    let recording = &contacts[0].recordings[0];
    let id = recording.recording_id.clone();
    assert_eq!(read(&mut running, &id, 0, 0).await, Err(Code::NotFound), "its file is not there");
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(place.dir.path().join(&recording.detail), &bytes).unwrap();
    for (offset, length) in [(0, 0), (0, 10), (65_530, 20), (199_990, 100), (0, 200_000), (100_000, 0)] {
        let end = if length == 0 { bytes.len() } else { (offset + length).min(bytes.len()) };
        let got = read(&mut running, &id, offset as i64, length as i64).await.unwrap();
        assert_eq!(got, (bytes[offset..end].to_vec(), 200_000), "{offset}+{length}");
    }
    assert_eq!(read(&mut running, &id, 300_000, 5).await.unwrap(), (Vec::new(), 200_000));
    assert_eq!(read(&mut running, &id, -5, -5).await.unwrap().0, bytes);
    assert_eq!(read(&mut running, "x", 0, 0).await, Err(Code::InvalidArgument));
    let other = format!("{}-r7", contacts[0].call_id);
    assert_eq!(read(&mut running, &other, 0, 0).await, Err(Code::NotFound));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_name_what_is_wrong_with_a_request() {
    let place = Place::new(&history(59, 5));
    let mut running = place.start().await;
    let good = GetIntervalsRequest {
        tenant: "default".into(),
        queue_id: "support".into(),
        from_us: MIDNIGHT,
        to_us: MIDNIGHT + 3_600 * S,
        interval_s: 900,
    };
    assert!(running.client.get_intervals(good.clone()).await.is_ok());
    for (bad, word, code) in [
        (GetIntervalsRequest { interval_s: 7, ..good.clone() }, "interval_s", Code::InvalidArgument),
        (GetIntervalsRequest { to_us: MIDNIGHT, ..good.clone() }, "from, to", Code::InvalidArgument),
        (GetIntervalsRequest { to_us: i64::MAX, ..good.clone() }, "from, to", Code::InvalidArgument),
        (GetIntervalsRequest { queue_id: "x".into(), ..good.clone() }, "queue", Code::NotFound),
        (GetIntervalsRequest { tenant: "?".into(), ..good }, "tenant", Code::InvalidArgument),
    ] {
        let status = running.client.get_intervals(bad).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(word), "{}", status.message());
    }
    running.stop().await;
}
