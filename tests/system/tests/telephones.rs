//! Proves that telephones register: with digest by SHA-256 (one of ours), by MD5 (sipp over UDP and TCP, baresip), that
//! whoever was answered 200 is still bound after a kill -9, and that what is wrong is refused by its rule.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use trunkline_system_tests::{
    audio::write_tone,
    baresip::Baresip,
    http, s,
    sipp::Sipp,
    system::{Setup, System},
    telephone::Telephone,
    until,
};

const LIMIT: Duration = s(10);
/// As a cluster offers it; `dev` by itself offers what every telephone knows.
const OFFERS_BOTH: &str = "sip: { telephones: { algorithms: [sha-256, md5] } }";

async fn telephone(system: &System, name: &str, password: &str) -> Result<Telephone> {
    Telephone::new(Ipv4Addr::LOCALHOST.into(), system.sip(), name, password).await
}

/// Waits until so many contacts are bound.
async fn bound(system: &System, wanted: &str) -> Result<()> {
    let line = format!("trunkline_registrar_bindings {wanted}");
    until(&line, LIMIT, || async {
        let text = http::get(system.metrics(), "/metrics").await?.expect(200)?.text();
        Ok(text.lines().any(|found| found == line).then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_was_answered_outlives_a_kill() -> Result<()> {
    let system = Setup::new("telephones")?.config(OFFERS_BOTH)?.data_dir().start().await?;
    let mut desk = telephone(&system, "1001", "1001-dev").await?;
    let contact = desk.contact()?;
    let answer = desk.register(600, LIMIT).await?;
    ensure!((answer.status, answer.challenges) == (200, 1), "{answer:?}");
    let granted = answer.granted(&contact).context("a contact of ours")?;
    ensure!((s(450)..=s(600)).contains(&granted), "{granted:?}");
    // A refresh needs no further challenge, and what is asked for changes nothing.
    let answer = desk.register(600, LIMIT).await?;
    ensure!((answer.status, answer.challenges) == (200, 0), "{answer:?}");
    let granted = answer.granted(&contact).context("a contact of ours")?;
    let (setup, _) = system.kill()?;
    let system = setup.start().await?;
    let answer = desk.query(s(20)).await?;
    ensure!(answer.status == 200 && answer.challenges <= 1, "{answer:?}");
    ensure!(answer.granted(&contact).is_some_and(|left| left <= granted), "{answer:?}");
    bound(&system, "1").await?;
    let answer = desk.ask("Contact: *\r\nExpires: 0\r\n", LIMIT).await?;
    ensure!(answer.status == 200 && answer.contacts().is_empty(), "{answer:?}");
    bound(&system, "0").await?;
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_its_rule() -> Result<()> {
    let system = Setup::new("telephones-refused")?.config(OFFERS_BOTH)?.start().await?;
    let mut desk = telephone(&system, "1002", "1002-dev").await?;
    let brief = desk.register(1, LIMIT).await?;
    ensure!((brief.status, brief.header("min-expires")) == (423, Some("60")), "{brief:?}");
    ensure!(desk.register(300, LIMIT).await?.status == 200);
    // The same credentials for something else: the count is used up.
    let replayed = desk.replay("Contact: <sip:thief@127.0.0.1>\r\n", LIMIT).await?;
    let stale = replayed.header("www-authenticate").is_some_and(|challenge| challenge.contains("stale=true"));
    ensure!(replayed.status == 401 && stale, "{replayed:?}");
    ensure!(desk.ask("Contact: *\r\n", LIMIT).await?.status == 400);
    ensure!(desk.query(LIMIT).await?.contacts().len() == 1);
    for more in 0..4 {
        let contact = format!("Contact: <sip:1002@127.0.0.1:{}>\r\n", 7_000 + more);
        ensure!(desk.ask(&contact, LIMIT).await?.status == 200);
    }
    let many = desk.ask("Contact: <sip:1002@127.0.0.1:7999>\r\n", LIMIT).await?;
    ensure!(many.status == 403 && many.contacts().is_empty(), "{many:?}");
    // A wrong password and a user who is not there look alike.
    let mut shapes = Vec::new();
    for (name, password) in [("1001", "wrong"), ("1009", "1009-dev")] {
        let answer = telephone(&system, name, password).await?.register(300, LIMIT).await?;
        let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
        let shape = challenge.split("nonce=").next().unwrap_or_default().to_owned();
        shapes.push((answer.status, answer.challenges, shape, challenge.len()));
    }
    ensure!(shapes[0] == shapes[1] && shapes[0].0 == 401, "{shapes:?}");
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn telephones_of_other_makes_register() -> Result<()> {
    let system = System::start("telephones-peers").await?;
    let folder = system.folder().to_owned();
    let register = || {
        let register = Sipp::own("register", system.sip()).service("1001").calls(3, 10);
        register.argument("-au").argument("1001").argument("-ap").argument("1001-dev")
    };
    register().run(&folder).await?;
    register().tcp().run(&folder).await?;
    bound(&system, "0").await?;
    let caller = folder.join("caller.wav");
    write_tone(&caller, 500.0, 10.0, 8_000)?;
    let phone = Baresip::registered(&folder, "1002", &caller, system.sip(), "1002-dev").await?;
    bound(&system, "1").await.with_context(|| phone.log())?;
    system.stop().await?;
    Ok(())
}
