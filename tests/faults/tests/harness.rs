//! Proves that the harness does what it says before the system is judged by it: packets are cut and doubled where they
//! should be, an address moves, etcd loses its quorum and finds it again, PostgreSQL survives a kill, namespaces go away.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use trunkline_faults::{
    net::{Network, Rule, Share, between},
    world::{Etcd, Postgres, Tmpfs},
};
use trunkline_system_tests::{http, s, until};

const PORT: u16 = 4_000;
const PACKETS: usize = 200;

/// Runs on a thread of its own: only threads have a namespace.
fn on<T: Send>(network: &Network, host: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            network.enter(host)?;
            work()
        });
        inside.join().map_err(|_| anyhow::anyhow!("the thread on {host} panicked"))?
    })
}

/// How many of the packets that one host sends reach another.
fn arrive(network: &Network, from: &str, to: &str, at: Ipv4Addr) -> Result<usize> {
    let (listening, listens) = sync_channel(1);
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            on(network, to, || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                listening.send(())?;
                let mut buffer = [0; 16];
                let mut count = 0;
                while socket.recv(&mut buffer).is_ok() {
                    count += 1;
                }
                Ok(count)
            })
        });
        listens.recv()?;
        on(network, from, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for _ in 0..PACKETS {
                socket.send_to(b"packet", SocketAddr::from((at, PORT)))?;
                // The receiver's buffer is small.
                thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        })?;
        receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
    })
}

#[test]
fn packets_are_cut_lost_and_doubled_in_the_direction_that_was_asked_for() -> Result<()> {
    let mut network = Network::new()?;
    let (a, b) = (network.host("a")?, network.host("b")?);
    network.host("c")?;
    ensure!(arrive(&network, "a", "b", b)? == PACKETS, "all arrive");

    network.set_rules("one-way", vec![Rule::cut(a, b)])?;
    ensure!(arrive(&network, "a", "b", b)? == 0, "cut");
    ensure!(arrive(&network, "b", "a", a)? == PACKETS, "one way only");
    ensure!(arrive(&network, "c", "b", b)? == PACKETS, "nobody else");

    network.partition("one-way", &["b"], &["c"])?;
    ensure!(arrive(&network, "a", "b", b)? == PACKETS, "rules are replaced");
    ensure!(arrive(&network, "c", "b", b)? == 0, "a partition");
    network.heal()?;

    let half = Share::percent(50);
    network.set_rules("bad", between(&[a], &[b], |from, to| Rule::bad(from, to, half, Share::percent(0))))?;
    let some = arrive(&network, "a", "b", b)?;
    ensure!((PACKETS / 5..PACKETS * 4 / 5).contains(&some), "half is lost: {some}");
    network.set_rules("bad", vec![Rule::bad(a, b, Share::percent(0), half)])?;
    let more = arrive(&network, "a", "b", b)?;
    ensure!((PACKETS * 6 / 5..PACKETS * 9 / 5).contains(&more), "half comes twice: {more}");
    Ok(())
}

#[test]
fn a_shared_address_moves_and_namespaces_go_away() -> Result<()> {
    let mut network = Network::new()?;
    network.host("a")?;
    network.host("b")?;
    network.host("c")?;
    let shared = Ipv4Addr::new(10, 77, 200, 1);
    network.take_address("a", shared)?;
    ensure!(arrive(&network, "c", "a", shared)? == PACKETS, "at the first");
    network.take_address("b", shared)?;
    ensure!(
        arrive(&network, "c", "b", shared)? == PACKETS,
        "at the second, although it was known to be elsewhere"
    );
    let namespaces = || -> Result<usize> {
        let listed = std::process::Command::new("ip").args(["netns", "list"]).output()?;
        let own = format!("tlf-{}-", std::process::id());
        Ok(String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.starts_with(&own)).count())
    };
    let before = namespaces()?;
    for _ in 0..5 {
        network.clear("c")?;
        network.host("a")?;
        network.host("b")?;
    }
    drop(network);
    ensure!(namespaces()? <= before.saturating_sub(4), "nothing is left");
    Ok(())
}

/// A test with its own runtime, on a host of its own.
fn inside(name: &str, work: impl AsyncFnOnce(Network, TempDir) -> Result<()> + Send) -> Result<()> {
    let mut network = Network::new()?;
    network.host(name)?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            network.enter(name)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let folder = tempfile::Builder::new().prefix("trunkline-faults-test-").tempdir()?;
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(folder.path(), open)?;
            runtime.block_on(work(network, folder))
        });
        inside.join().map_err(|_| anyhow::anyhow!("the test's thread panicked"))?
    })
}

#[test]
fn etcd_loses_its_quorum_and_finds_it_again() -> Result<()> {
    inside("clients", async |mut network, folder| {
        let mut etcd = Etcd::start(&mut network, folder.path(), folder.path()).await?;
        let third: SocketAddr =
            etcd.endpoints().pop().context("three")?.trim_start_matches("http://").parse()?;
        etcd.pause(2)?;
        until("the third has no leader", s(20), || async {
            let answer = http::get(third, "/health").await;
            Ok(answer.map_or(true, |answer| answer.text().contains("false")).then_some(()))
        })
        .await?;
        etcd.go_on()?;
        etcd.healthy(s(20)).await
    })
}

#[test]
fn postgres_survives_a_kill() -> Result<()> {
    inside("clients", async |mut network, folder| {
        let mut postgres = Postgres::start(&mut network, folder.path(), folder.path()).await?;
        postgres.psql(&network, "trunkline", "create table kept (n int); insert into kept values (1)")?;
        postgres.kill()?;
        ensure!(postgres.psql(&network, "trunkline", "select 1").is_err(), "it is gone");
        postgres.start_again(&network).await?;
        postgres.psql(&network, "trunkline", "insert into kept select n + 1 from kept")
    })
}

#[test]
fn a_small_disk_is_full_and_empty_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = Tmpfs::mount(folder.path(), 256)?;
    std::fs::write(folder.path().join("before"), [0; 4_096])?;
    Tmpfs::fill(folder.path())?;
    ensure!(std::fs::write(folder.path().join("more"), [0; 4_096]).is_err(), "full");
    Tmpfs::empty(folder.path())?;
    std::fs::write(folder.path().join("more"), [0; 4_096])?;
    drop(disk);
    ensure!(!folder.path().join("before").exists(), "unmounted");
    Ok(())
}
