//! Proves, with baresip as the caller and a store that speaks S3: what was recorded is in the bucket and nowhere else, and
//! the console plays it back, whole and by ranges, as a player that seeks asks for them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    agent::Agent,
    audio::{read_wav, write_tone},
    baresip::Baresip,
    here, http, s,
    s3::S3,
    system::Setup,
    until,
};

const CALLER: &str = "4930510";
const CALLER_HZ: f32 = 440.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_in_s3_is_played_back_by_ranges() -> Result<()> {
    let store = S3::start(Ipv4Addr::LOCALHOST.into()).await?;
    let config = format!("media:\n  recording:\n    store: {}\n", store.config());
    let system = Setup::new("storage")?.config(&config)?.data_dir().start().await?;
    let (api, folder) = (system.supervisor().await?, system.folder().to_owned());

    let microphone = folder.join("caller.wav");
    write_tone(&microphone, CALLER_HZ, 60.0, 8_000)?;
    let phone = Baresip::start(&folder, CALLER, &microphone).await?;
    let agent = Agent::sign_in(system.http(), "alice").await?;
    agent.ready().await?;
    phone.dial(&format!("sip:support@{}", system.sip())).await?;
    let ring = agent.next_ring(0, s(15)).await.with_context(|| phone.log())?;
    let offer = std::fs::read_to_string(here().join("fixtures/offer.sdp"))?;
    agent.accept(&ring.offer_id, &offer).await?;
    // Copies of what is being recorded are there while it is.
    until("parts of the recording are in the bucket", s(20), || {
        std::future::ready(Ok(
            (store.keys().iter().filter(|key| key.ends_with(".pcm")).count() >= 2).then_some(())
        ))
    })
    .await?;
    agent.hang_up().await?;

    let stored = |contact: &Value| contact["recordings"][0]["state"] == "available";
    let contact = api.until_contact(CALLER, "the recording is stored", s(30), stored).await?;
    let recording = &contact["recordings"][0];
    let id = recording["recording_id"].as_str().context("no recording")?;
    until("the bucket has the recording and nothing beside it", s(15), || {
        let keys = store.keys();
        std::future::ready(Ok(
            (keys.len() == 1 && keys[0].contains(id) && keys[0].ends_with(".wav")).then_some(())
        ))
    })
    .await
    .with_context(|| format!("{:?}", store.keys()))?;

    let whole = api.recording(id).await?;
    let channels = read_wav(&whole)?;
    ensure!(channels.len() == 2, "{} channels", channels.len());
    let caller = channels[0].part(0.5, channels[0].seconds() - 0.2);
    ensure!(
        caller.share(CALLER_HZ) > 0.9,
        "the caller is on {:.2} of the recording",
        caller.share(CALLER_HZ)
    );
    let (path, total) = (format!("/api/v1/recordings/{id}/audio"), whole.len());
    for (range, first, last) in [
        ("bytes=0-43".to_owned(), 0, 43),
        ("bytes=1000-5999".to_owned(), 1_000, 5_999),
        (format!("bytes={}-", total - 100), total - 100, total - 1),
        ("bytes=-256".to_owned(), total - 256, total - 1),
    ] {
        let part = api.get(&path, &[("Range", &range)]).await?.expect(206)?;
        let told = part.headers.get("content-range");
        ensure!(
            told.is_some_and(|told| *told == format!("bytes {first}-{last}/{total}")),
            "{range}: {told:?}"
        );
        ensure!(part.body == whole[first..=last], "{range} is something else than that part");
    }
    let beyond = api.get(&path, &[("Range", &format!("bytes={total}-"))]).await?;
    ensure!(beyond.status == 416, "a range behind the end: {}", beyond.status);
    let stranger = http::get(system.http(), &path).await?;
    ensure!(stranger.status == 401, "without a sign-in: {}", stranger.status);

    // What the store has is asked for anew each time: with the store gone there is an answer, and none that is wrong.
    drop(store);
    let gone = api.get(&path, &[]).await;
    ensure!(
        gone.as_ref().map_or(true, |answer| answer.status != 200 || answer.body != whole),
        "played from nowhere"
    );
    system.stop().await?;
    Ok(())
}
