//! Proves that `trunkline doctor` finds what is wrong, says why it matters and what to do, and leaves a running cluster in
//! peace.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use serde_json::Value;
use tokio::task::JoinHandle;
use trunkline_faults::world::CLIENTS;
use trunkline_operations_tests::lab::{self, Done, Lab, on_network};
use trunkline_system_tests::{s, until};

const NODES: [(&str, &str); 2] = [("c1", "call,acd"), ("e1", "edge,media,records,console")];
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The findings of an area whose subject or text contains something.
fn findings<'a>(report: &'a Value, area: &str, containing: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let contains = |finding: &Value| {
        let text = format!(
            "{}: {}",
            finding["subject"].as_str().unwrap_or_default(),
            finding["found"].as_str().unwrap_or_default()
        );
        finding["area"] == area && text.contains(containing)
    };
    all.iter().filter(|finding| contains(finding)).collect()
}

/// There is such a finding of this level; what is not well has a reason and a remedy.
fn expect(report: &Value, area: &str, containing: &str, level: &str, remedy: &str) -> Result<()> {
    let found = findings(report, area, containing);
    let wanted = found.iter().find(|finding| finding["level"] == level);
    let wanted = wanted.with_context(|| format!("no {level} in {area} about {containing:?}: {report:#}"))?;
    let text = |key: &str| wanted[key].as_str().unwrap_or_default();
    ensure!(text("remedy").contains(remedy), "the remedy does not tell {remedy:?}: {wanted}");
    ensure!(
        level == "ok" || (!text("why").is_empty() && !text("remedy").is_empty()),
        "no reason or remedy: {wanted}"
    );
    Ok(())
}

fn exit_code(report: &Value) -> Option<i32> {
    Some(match report["level"].as_str()? {
        "ok" => 0,
        "warn" => 1,
        _ => 2,
    })
}

async fn doctor(lab: &Lab, host: &str, config: &Path, more: &[&str]) -> Result<Value> {
    let config = config.display().to_string();
    let mut arguments = vec!["doctor", "--json", "--config", &config];
    arguments.extend_from_slice(more);
    read(&lab.run(host, &arguments).await?)
}

fn read(done: &Done) -> Result<Value> {
    let report = done.json()?;
    ensure!(done.code == exit_code(&report), "exit {:?} for level {}", done.code, report["level"]);
    Ok(report)
}

#[test]
fn a_healthy_cluster_is_found_healthy_and_is_not_disturbed() {
    on_network("doctor-healthy", |network, folder| async move {
        let mut lab = Lab::start(network, &folder, &NODES, 2).await?;
        let mut stage = lab.stage(2).await?;
        let who = stage.talk(2, s(30)).await?;
        let moves = lab.metric("trunkline_cluster_moves_total", "").await;
        for host in ["c1", "e1"] {
            let config = lab.config(host);
            let report = doctor(&lab, host, &config, &["--cluster"]).await?;
            let failed: Vec<&Value> = report["findings"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|f| f["level"] == "fail")
                .collect();
            ensure!(failed.is_empty(), "{host}: {failed:#?}");
            for (area, containing) in [
                ("ports", "cluster.listen TCP"),
                ("ports", "held by trunkline (pid "),
                ("etcd", "3 members, 1 may be lost"),
                ("etcd", "a read by quorum takes"),
                ("postgresql", "schema: version"),
                ("postgresql", "commit: "),
                ("clock", "against PostgreSQL"),
                ("certificates", "signed by cluster.tls.ca"),
                ("certificates", "names this node"),
                ("cluster", "c1: answers"),
                ("cluster", "e1 certificate: ends in"),
                ("cluster", "call shards: 3072 of 3072 active"),
                ("cluster", "coordinator: "),
            ] {
                expect(&report, area, containing, "ok", "")?;
            }
            // This machine may give less than the defaults of an edge want; whose limit it is counts.
            ensure!(!findings(&report, "limits", "the running node (pid ").is_empty(), "{report:#}");
        }
        expect(
            &doctor(&lab, "e1", &lab.config("e1"), &[]).await?,
            "storage",
            "written, read and removed",
            "ok",
            "",
        )?;
        ensure!(stage.crowd.present().len() == who.len(), "the doctor ended a call");
        ensure!(lab.metric("trunkline_cluster_moves_total", "").await == moves, "the doctor moved shards");
        stage.desk.order(|orders| {
            orders.hang_up += 1;
            orders.talk = Some(Duration::ZERO);
        });
        stage.crowd.over(who, s(30)).await?;
        // What it tried in the recordings' store is gone.
        let left = fs::read_dir(lab.recordings()?)?
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains("doctor"));
        ensure!(left.count() == 0, "a probe object is left");
        // For people the same, in words.
        let config = lab.config("c1").display().to_string();
        let text = lab.run("c1", &["doctor", "--config", &config]).await?.stdout;
        ensure!(text.contains("ports\n  ok    ") && text.contains(" fine, "), "{text}");
        stage.measured.clear();
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_is_wrong_with_a_machine_is_found_with_its_remedy() {
    on_network("doctor-machine", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES, 0).await?;
        let (c1, e1) = (lab.config("c1"), lab.config("e1"));
        let report = doctor(&lab, "e1", &e1, &[]).await?;
        expect(&report, "ports", "sip.listen UDP 0.0.0.0:5060: free", "ok", "")?;
        expect(&report, "postgresql", "not made yet; the first node makes it", "ok", "")?;
        expect(&report, "ports", "media.rtp 40000-43999: 2000 callers", "warn", "lower media.max_sessions to 2000")?;

        // A port that another program holds: this test, on its own host.
        let held = UdpSocket::bind("0.0.0.0:5060")?;
        let report = doctor(&lab, CLIENTS, &e1, &[]).await?;
        expect(&report, "ports", "sip.listen UDP 0.0.0.0:5060: held by", "fail", "or give sip.listen another port")?;
        drop(held);

        // Addresses that nobody can reach or that are nobody's.
        let wrong = variant(&e1, "advertised", &[("advertised: \"10.77.200.1:5060\"", "advertised: \"127.0.0.1:5060\"")])?;
        expect(&doctor(&lab, "e1", &wrong, &[]).await?, "addresses", "127.0.0.1 (loopback)", "fail", "set sip.advertised")?;
        let wrong = variant(&e1, "trunk", &[("sources: [\"10.77.0.0/16\"]", "sources: [\"198.51.100.0/24\"]")])?;
        expect(&doctor(&lab, "e1", &wrong, &[]).await?, "addresses", "198.51.100.0/24 is public", "warn", "public address")?;
        let address = lab.network.address("e1")?.to_string();
        let wrong = variant(&e1, "bind", &[(&format!("console: {{ listen: \"{address}:8080\""), "console: { listen: \"203.0.113.5:8080\"")])?;
        expect(&doctor(&lab, "e1", &wrong, &[]).await?, "ports", "no interface of this machine", "fail", "an address of this machine")?;

        // Limits of the kernel, of the process and of the store. What this machine grants is known from outside.
        for (setting, what) in [("rmem_max", "received"), ("wmem_max", "sent")] {
            let most: u64 = fs::read_to_string(format!("/proc/sys/net/core/{setting}"))?.trim().parse()?;
            let (level, remedy) = if 2 * most < 8 << 20 { ("warn", "sysctl -w net.core.") } else { ("ok", "") };
            let found = format!("{} bytes for what is {what}", 2 * most.min(8 << 20));
            expect(&doctor(&lab, "e1", &e1, &[]).await?, "limits", &found, level, remedy)?;
        }
        let mut limited = lab.network.command("e1", "prlimit")?;
        limited.args(["--nofile=256:256"]).arg(trunkline_system_tests::system::binary()?);
        limited.args(["doctor", "--json", "--config"]).arg(&e1);
        expect(&read(&lab::run(limited).await?)?, "limits", "descriptors: 256", "warn", "LimitNOFILE=")?;
        let recordings = format!("store: {{ kind: folder, path: \"{}\" }}", lab.recordings()?.display());
        let nowhere = "store: { kind: s3, bucket: b, endpoint: \"http://10.77.0.1:9\", allow_http: true, access_key_id: k, secret_access_key: s }";
        let wrong = variant(&e1, "s3", &[(&recordings, nowhere)])?;
        expect(&doctor(&lab, "e1", &wrong, &[]).await?, "storage", "S3 bucket b at http://10.77.0.1:9", "fail", "rights to put, get and delete")?;

        // A clock that is an hour ahead.
        ensure!(Path::new(LIBFAKETIME).exists(), "{LIBFAKETIME} is missing: install faketime");
        let mut ahead = lab.trunkline("c1", &["doctor", "--json", "--config"])?;
        ahead.arg(&c1).env("LD_PRELOAD", LIBFAKETIME).env("FAKETIME", "+3600").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        expect(&read(&lab::run(ahead).await?)?, "clock", "against PostgreSQL: -3600", "fail", "NTP")?;

        // A configuration that cannot be read.
        let wrong = variant(&c1, "typo", &[("lease_ttl:", "lease_tll:")])?;
        expect(&doctor(&lab, "c1", &wrong, &[]).await?, "configuration", "lease_tll", "fail", "config check")
    })
    .unwrap();
}

#[test]
fn what_the_world_sees_is_compared_with_what_is_advertised() {
    on_network("doctor-nat", |network, folder| async move {
        let here = network.address(CLIENTS)?;
        let lab = Lab::ground(network, &folder, &NODES, 0).await?;
        let seen = Ipv4Addr::new(203, 0, 113, 9);
        // Together they are a NAT that gives every peer another port.
        let (one, other) = (stun_server(seen, 40_000).await?, stun_server(seen, 40_001).await?);
        let server = |port: u16| format!("{here}:{port}");
        let ports = [one.port, other.port];
        let e1 = lab.config("e1");
        let report = doctor(&lab, "e1", &e1, &["--stun", &server(ports[0])]).await?;
        expect(
            &report,
            "nat",
            "the world sees 203.0.113.9",
            "warn",
            "sip.advertised: \"203.0.113.9:5060\" and media.advertised: 203.0.113.9",
        )?;
        let report =
            doctor(&lab, "e1", &e1, &["--stun", &server(ports[0]), "--stun", &server(ports[1])]).await?;
        expect(&report, "nat", "mapping", "warn", "one to one")?;
        let right = variant(
            &e1,
            "public",
            &[
                ("advertised: \"10.77.200.1:5060\"", "advertised: \"203.0.113.9:5060\""),
                ("  rtp: ", "  advertised: 203.0.113.9\n  rtp: "),
            ],
        )?;
        let report = doctor(&lab, "e1", &right, &["--stun", &server(ports[0])]).await?;
        expect(&report, "nat", "203.0.113.9 is what is advertised", "ok", "")?;
        expect(&report, "addresses", "no interface here has it, so something in front translates", "ok", "")?;
        let silent = format!("{here}:9");
        expect(
            &doctor(&lab, "e1", &e1, &["--stun", &silent]).await?,
            "nat",
            &silent,
            "warn",
            "let UDP through",
        )?;
        Ok(())
    })
    .unwrap();
}

/// A server that sees every client at the same address and port.
struct Stun {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Stun {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stun_server(seen: Ipv4Addr, seen_port: u16) -> Result<Stun> {
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
    let port = socket.local_addr()?.port();
    let task = tokio::spawn(async move {
        let mut request = [0; 100];
        while let Ok((length, peer)) = socket.recv_from(&mut request).await {
            if length < 20 || request[..2] != [0, 1] {
                continue;
            }
            let mut answer = vec![0x01, 0x01, 0x00, 0x0c];
            answer.extend_from_slice(&request[4..20]);
            answer.extend_from_slice(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01]);
            answer.extend_from_slice(&(seen_port ^ 0x2112).to_be_bytes());
            answer.extend(seen.octets().iter().zip([0x21, 0x12, 0xa4, 0x42]).map(|(byte, mask)| byte ^ mask));
            // A client that has gone asks nothing any more.
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    Ok(Stun { port, task })
}

#[test]
fn certificates_that_others_would_refuse_are_found() {
    on_network("doctor-certificates", |network, folder| async move {
        let lab = Lab::ground(network, &folder, &NODES[..1], 0).await?;
        let (config, own) = (lab.config("c1"), lab.folder_of("c1"));
        let good = |file: &str| fs::read_to_string(own.join(file));
        let (ca, cert, key) = (good("ca.pem")?, good("node.pem")?, good("node.key")?);
        let restore = || -> Result<()> {
            fs::write(own.join("ca.pem"), &ca)?;
            fs::write(own.join("node.pem"), &cert)?;
            Ok(fs::write(own.join("node.key"), &key)?)
        };
        let authority = Signer::new()?;
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cases = [
            (
                "ended",
                authority.sign("c1", 2020, 2021, both.clone())?,
                "ended",
                "fail",
                "put a new certificate in its place",
            ),
            (
                "not yet",
                authority.sign("c1", 2090, 2091, both.clone())?,
                "not valid before",
                "fail",
                "new certificate",
            ),
            (
                "no client",
                authority.sign("c1", 2020, 2090, vec![ExtendedKeyUsagePurpose::ServerAuth])?,
                "another node would refuse it",
                "fail",
                "serverAuth and clientAuth",
            ),
            (
                "another's",
                authority.sign("c9", 2020, 2090, both.clone())?,
                "names c9, neither c1 nor",
                "warn",
                "the node's name",
            ),
        ];
        for (what, (cert, key), containing, level, remedy) in cases {
            fs::write(own.join("ca.pem"), authority.issuer.pem())?;
            fs::write(own.join("node.pem"), cert)?;
            fs::write(own.join("node.key"), key)?;
            let report = doctor(&lab, "c1", &config, &[]).await?;
            expect(&report, "certificates", containing, level, remedy).with_context(|| what)?;
        }
        restore()?;
        fs::write(own.join("ca.pem"), authority.issuer.pem())?;
        let report = doctor(&lab, "c1", &config, &[]).await?;
        expect(
            &report,
            "certificates",
            "another node would refuse it",
            "fail",
            "sign it with cluster.tls.ca",
        )?;
        restore()?;
        fs::write(own.join("node.key"), KeyPair::generate()?.serialize_pem())?;
        let report = doctor(&lab, "c1", &config, &[]).await?;
        expect(
            &report,
            "certificates",
            "the key must be the certificate's own",
            "fail",
            "replace the files",
        )?;
        restore()?;
        let report = doctor(&lab, "c1", &config, &[]).await?;
        ensure!(
            report["findings"]
                .as_array()
                .into_iter()
                .flatten()
                .all(|f| f["area"] != "certificates" || f["level"] == "ok"),
            "{report:#}"
        );
        Ok(())
    })
    .unwrap();
}

/// An authority of this test.
struct Signer {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Signer {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Certificate and key.
    fn sign(
        &self,
        name: &str,
        from: i32,
        to: i32,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<(String, String)> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        params.extended_key_usages = usages;
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

#[test]
fn a_cluster_that_loses_its_parts_says_which() {
    on_network("doctor-losses", |network, folder| async move {
        let mut lab = Lab::start(network, &folder, &NODES, 0).await?;
        let e1 = lab.config("e1");

        lab.node("c1")?.kill()?;
        let lost = until("the loss of the only control node is told", s(30), || async {
            let report = doctor(&lab, "e1", &e1, &["--cluster"]).await?;
            let told = findings(&report, "cluster", "call shards: 3072 of 3072 have no owner");
            Ok((!told.is_empty()).then_some(report))
        });
        let report = lost.await?;
        expect(
            &report,
            "cluster",
            "role acd: no member serves it",
            "fail",
            "start a node with the role acd",
        )?;
        expect(
            &report,
            "cluster",
            "3072 of 3072 have no owner",
            "fail",
            "start a node with the roles call and acd",
        )?;

        lab.start_nodes().await?;
        lab.etcd.pause(2)?;
        let report = doctor(&lab, "e1", &e1, &[]).await?;
        expect(&report, "etcd", "quorum: ", "fail", "until more than half of them run")?;
        lab.etcd.go_on()?;
        lab.etcd.healthy(s(30)).await?;

        lab.postgres.kill()?;
        let report = doctor(&lab, "e1", &e1, &["--cluster"]).await?;
        expect(
            &report,
            "postgresql",
            "journal.postgres: cannot use PostgreSQL at",
            "fail",
            "start the server",
        )?;
        until("the members tell that the journal is away", s(20), || async {
            let report = doctor(&lab, "e1", &e1, &["--cluster"]).await?;
            Ok((!findings(&report, "cluster", "the journal's database does not answer").is_empty())
                .then_some(()))
        })
        .await?;
        lab.postgres.start_again(&lab.network).await?;

        // Too few connections for the nodes, found before a node cannot start.
        let crowded = variant(&e1, "crowded", &[("postgres: {", "postgres: { connections: 500,")])?;
        let report = doctor(&lab, "e1", &crowded, &[]).await?;
        expect(&report, "postgresql", "connections: ", "fail", "raise max_connections")?;
        Ok(())
    })
    .unwrap();
}

/// A copy of a configuration with something else in it.
fn variant(config: &Path, name: &str, changes: &[(&str, &str)]) -> Result<PathBuf> {
    let mut text = fs::read_to_string(config)?;
    for (from, to) in changes {
        ensure!(text.contains(from), "the configuration has no {from:?}:\n{text}");
        text = text.replace(from, to);
    }
    let path = config.with_file_name(format!("{name}.yaml"));
    fs::write(&path, text)?;
    Ok(path)
}
