//! Proves that a pod's service account is enough for a bucket: credentials come from STS for the account's token (web
//! identity) or from the agent of EKS Pod Identity, come anew with the token that a kubelet renews amid a recording, and where
//! they do not, the log and the doctor tell the way and the remedy, and no secret.

use std::{net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_system_tests::{
    agent::Agent,
    audio::{read_wav, write_tone},
    baresip::Baresip,
    here,
    identity::{Identity, Way},
    s,
    s3::S3,
    system::{self, Setup},
    until,
};

const CALLER_HZ: f32 = 440.0;

fn config(store: &S3) -> String {
    format!("media:\n  recording:\n    store: {}\n", store.config_without_keys())
}

/// What the log and the doctor say of a way.
fn said(way: Way) -> &'static str {
    match way {
        Way::WebIdentity => "web identity: role arn:aws:iam::123456789012:role/recordings, token of ",
        Way::PodIdentity => "the container's agent at 127.0.0.1:",
    }
}

/// A token, a session or a secret that the servers of this test know.
fn tells_a_secret(text: &str) -> bool {
    ["eyJ-token", "session-", "secret of"].iter().any(|secret| text.contains(secret))
}

async fn recorded(name: &str, caller: &str, way: Way) -> Result<()> {
    let setup = Setup::new(name)?;
    let identity = Identity::start(setup.folder()).await?;
    let store = S3::for_sessions(Ipv4Addr::LOCALHOST.into(), &identity.sessions).await?;
    let setup = setup.config(&config(&store))?.data_dir().environment(identity.environment(way));
    let mut system = setup.start().await?;
    let (api, folder) = (system.supervisor().await?, system.folder().to_owned());

    let microphone = folder.join("caller.wav");
    write_tone(&microphone, CALLER_HZ, 60.0, 8_000)?;
    let phone = Baresip::start(&folder, caller, &microphone).await?;
    let agent = Agent::sign_in(system.http(), "alice").await?;
    agent.ready().await?;
    phone.dial(&format!("sip:support@{}", system.sip())).await?;
    let ring = agent.next_ring(0, s(15)).await.with_context(|| phone.log())?;
    let offer = std::fs::read_to_string(here().join("fixtures/offer.sdp"))?;
    agent.accept(&ring.offer_id, &offer).await?;
    let parts = || store.keys().iter().filter(|key| key.ends_with(".pcm")).count();
    until("parts of the recording are in the bucket", s(20), || {
        std::future::ready(Ok((parts() >= 2).then_some(())))
    })
    .await?;
    ensure!(identity.given() > 0, "nobody asked for credentials");

    // The credentials so far end soon, and the token for which they were given gets none any more.
    identity.renew()?;
    let before = parts();
    until("parts are stored with credentials for the renewed token", s(20), || {
        std::future::ready(Ok((identity.given() > 2 && parts() >= before + 5).then_some(())))
    })
    .await?;
    agent.hang_up().await?;
    let stored = |contact: &Value| contact["recordings"][0]["state"] == "available";
    let contact = api.until_contact(caller, "the recording is stored", s(30), stored).await?;
    let id = contact["recordings"][0]["recording_id"].as_str().context("no recording")?;
    ensure!(store.keys().iter().any(|key| key.contains(id) && key.ends_with(".wav")), "{:?}", store.keys());
    let channels = read_wav(&api.recording(id).await?)?;
    let caller = channels[0].part(0.5, channels[0].seconds() - 0.2);
    ensure!(caller.seconds() > 5.0 && caller.share(CALLER_HZ) > 0.9, "{:.1} s", caller.seconds());

    let log = system.program().stdout() + &system.program().stderr();
    ensure!(log.contains(said(way)), "the log does not tell the way:\n{log}");
    ensure!(!tells_a_secret(&log), "a secret is in the log:\n{log}");
    system.stop().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_stored_by_web_identity_across_a_renewed_token() -> Result<()> {
    recorded("web-identity", "4930520", Way::WebIdentity).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_stored_by_pod_identity_across_a_renewed_token() -> Result<()> {
    recorded("pod-identity", "4930521", Way::PodIdentity).await
}

/// What the doctor finds of the store.
async fn doctor(config: &Path, environment: Vec<(&'static str, String)>) -> Result<Value> {
    let mut command = Command::new(system::binary()?);
    command.args(["doctor", "--json", "--config"]).arg(config).envs(environment);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!tells_a_secret(&text), "a secret is told: {text}");
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let found = report["findings"].as_array().context("findings")?.iter();
    let mut found = found.filter(|finding| finding["subject"] == "media.recording.store");
    found.next().cloned().with_context(|| format!("nothing of the store: {report:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_tells_the_way_and_what_to_do_when_it_gives_none() -> Result<()> {
    let folder = trunkline_system_tests::folder("credentials-doctor")?;
    let identity = Identity::start(&folder).await?;
    let store = S3::for_sessions(Ipv4Addr::LOCALHOST.into(), &identity.sessions).await?;
    let file = folder.join("node.yaml");
    let config =
        format!("node: {{ name: n1, data_dir: {} }}\n{}", folder.join("data").display(), config(&store));
    std::fs::write(&file, &config)?;
    let both = [
        (Way::WebIdentity, "let the role's trust policy name the cluster's OIDC provider"),
        (Way::PodIdentity, "associate the service account with a role"),
    ];
    for (way, _) in both {
        let finding = doctor(&file, identity.environment(way)).await?;
        ensure!(finding["level"] == "ok", "{way:?}: {finding}");
        ensure!(finding["found"].to_string().contains(said(way)), "{way:?}: {finding}");
    }
    identity.spoil()?;
    for (way, remedy) in both {
        let finding = doctor(&file, identity.environment(way)).await?;
        ensure!(finding["level"] == "fail", "{way:?}: {finding}");
        ensure!(finding["remedy"].to_string().contains(remedy), "{way:?}: {finding}");
        let found = finding["found"].to_string();
        ensure!(found.contains("no credentials by ") && found.contains(said(way)), "{way:?}: {finding}");
    }
    ensure!(identity.refused() >= 2, "the token that is good nowhere was not shown");

    // A key of the configuration wins over the environment: these are the store's affair alone.
    let asked = (identity.refused(), identity.given());
    let keys = "access_key_id: k, secret_access_key: s }";
    std::fs::write(&file, config.replace("allow_http: true }", &format!("allow_http: true, {keys}")))?;
    let finding = doctor(&file, identity.environment(Way::WebIdentity)).await?;
    ensure!(finding["found"].to_string().contains("credentials by the configuration's keys"), "{finding}");
    ensure!(finding["level"] == "fail" && finding["remedy"].to_string().contains(BUCKET_RIGHTS), "{finding}");
    ensure!(asked == (identity.refused(), identity.given()), "the environment was asked");
    Ok(())
}

const BUCKET_RIGHTS: &str = "the rights to put, get and delete";
