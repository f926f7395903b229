//! Proves that a caller who is sent audio and is never heard is counted for the trunk, named in the log, and shown in the
//! record; and that one who speaks is not.

use anyhow::{Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    audio::write_tone,
    baresip::Baresip,
    http, s,
    sipp::Sipp,
    system::{Setup, System},
    until,
};

const SILENT: &str = "4930520";
const SPEAKS: &str = "4930530";

/// Callers' legs that have ended by the dev system's trunk: all that had audio, those of which nothing came, those whom
/// nothing reached.
async fn legs(system: &System) -> Result<[f64; 3]> {
    let page = http::get(system.metrics(), "/metrics").await?.expect(200)?.text();
    let value = |name: &str, label: &str| {
        let wanted = ["party=\"caller\"", "trunk=\"local\"", label];
        let fits = |line: &&str| line.starts_with(name) && wanted.iter().all(|part| line.contains(part));
        let line = page.lines().find(fits);
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    };
    Ok([
        value("trunkline_call_legs_measured_total{", ""),
        value("trunkline_call_legs_one_way_total{", "missing=\"received\""),
        value("trunkline_call_legs_one_way_total{", "missing=\"sent\""),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_is_never_heard_is_counted_for_the_trunk() -> Result<()> {
    let mut system = Setup::new("one-way")?.start().await?;
    let (api, folder) = (system.supervisor().await?, system.folder().to_owned());
    // This caller hears music for four seconds and sends nothing.
    let silent = Sipp::own("abandon", system.sip()).key("caller", SILENT).argument("-d").argument("4000");
    silent.run(&folder).await?;
    until("the silent caller is counted", s(15), || async {
        Ok((legs(&system).await? == [1.0, 1.0, 0.0]).then_some(()))
    })
    .await?;

    let microphone = folder.join("caller.wav");
    write_tone(&microphone, 440.0, 60.0, 8_000)?;
    let phone = Baresip::start(&folder, SPEAKS, &microphone).await?;
    phone.dial(&format!("sip:support@{}", system.sip())).await?;
    phone.hear(s(4)).await?;
    phone.hang_up().await?;
    until("the caller who speaks is measured", s(15), || async {
        Ok((legs(&system).await?[0] == 2.0).then_some(()))
    })
    .await?;
    ensure!(legs(&system).await? == [2.0, 1.0, 0.0], "{:?}", legs(&system).await?);

    let whole = |contact: &Value| !contact["quality"][0].is_null();
    for (caller, missing) in [(SILENT, "received"), (SPEAKS, "")] {
        let contact = api.until_contact(caller, "the record has the quality", s(15), whole).await?;
        let quality = &contact["quality"][0];
        ensure!(quality["missing"] == missing, "{caller}: {quality}");
        ensure!(quality["packets_sent"].as_u64().is_some_and(|sent| sent > 150), "{caller}: {quality}");
        let id = contact["call_id"].as_str().unwrap_or_default().to_owned();
        let told = system.program().stderr();
        let line = |line: &&str| line.contains("went one way only") && line.contains(&id);
        ensure!(told.lines().filter(line).count() == usize::from(!missing.is_empty()), "{caller}: {told}");
    }
    system.stop().await?;
    Ok(())
}
