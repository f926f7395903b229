//! Proves what an operator is promised: one trace a call, of short spans that arrive while the call goes on; metrics that
//! Prometheus takes and that do not grow with the calls; logs that find a call and give nobody away.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use trunkline_system_tests::{
    agent::Agent,
    here, http, metrics,
    otlp::{Collector, Span},
    s,
    sipp::{Calling, Sipp},
    system::{Setup, System},
    until,
};

/// In a trace of a call that an agent took, besides those for media commands.
const SPANS: [&str; 10] = [
    "sip.invite",
    "call.setup",
    "call.queue",
    "acd.offer",
    "acd.ring",
    "call.connect",
    "call.talk",
    "call.settle",
    "acd.wrap_up",
    "records.contact",
];
/// Longer than any span of a call may be.
const TALK: Duration = Duration::from_secs(3);

fn offer() -> Result<String> {
    Ok(std::fs::read_to_string(here().join("fixtures/offer.sdp"))?)
}

fn caller(system: &System, number: &str) -> Result<Calling> {
    Sipp::own("wait", system.sip()).key("caller", number).start(system.folder())
}

#[tokio::test]
async fn a_call_is_one_trace_of_short_spans() -> Result<()> {
    const NUMBER: &str = "493012345678";
    let collector = Collector::start().await?;
    let system = Setup::new("telemetry-trace")?
        .flag("--otlp", format!("http://{}", collector.address))
        .start()
        .await?;
    let alice = Agent::sign_in(system.http(), "alice").await?;
    let calling = caller(&system, NUMBER)?;
    alice.ready().await?;
    let ring = alice.next_ring(0, s(15)).await?;
    alice.accept(&ring.offer_id, &offer()?).await?;
    alice.until_state("talking", s(10)).await?;
    let talking = std::time::Instant::now();
    let ours =
        || collector.spans().into_iter().filter(|span| span.of_call(&ring.call_id)).collect::<Vec<_>>();

    let early =
        ["sip.invite", "call.setup", "call.queue", "acd.offer", "acd.ring", "call.connect", "media.command"];
    until("the spans of the set-up arrive while they talk", s(10), || {
        let names: BTreeSet<String> = ours().into_iter().map(|span| span.name).collect();
        async move { Ok(early.iter().all(|name| names.contains(*name)).then_some(())) }
    })
    .await?;
    ensure!(alice.seen().snapshot["state"] == "talking", "the call was over before its spans came");
    until("they have talked for long enough", TALK * 2, || async {
        Ok((talking.elapsed() > TALK).then_some(()))
    })
    .await?;
    let hung_up = std::time::Instant::now();
    alice.hang_up().await?;
    calling.succeed().await?;
    alice.until_state("wrap_up", s(10)).await?;
    alice.wrap_up("resolved", &[]).await?;

    let result = until("every span of the call", s(15), || {
        let names: BTreeSet<String> = ours().into_iter().map(|span| span.name).collect();
        async move { Ok(SPANS.iter().all(|name| names.contains(*name)).then_some(())) }
    })
    .await;
    let spans = ours();
    result.with_context(|| format!("{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()))?;

    let contact = system.supervisor().await?.contact(&ring.call_id).await?;
    let trace = contact["trace_id"].as_str().context("the record names no trace")?;
    for span in &spans {
        ensure!(span.trace == trace, "{} is in the trace {}, not {trace}", span.name, span.trace);
        let took = Duration::from_nanos(span.end_ns - span.start_ns);
        ensure!(took < TALK, "{} lasted {took:?}", span.name);
        for (key, value) in &span.attributes {
            ensure!(!value.contains(&NUMBER[4..]), "{}: {key} = {value} names the caller", span.name);
            ensure!(key.contains('.'), "{}: {key} has no namespace", span.name);
        }
    }
    hangs_together(&spans)?;
    let before = spans.iter().filter(|span| span.arrived < hung_up).count();
    ensure!(before >= early.len(), "only {before} spans came before the end of the call");
    let talk = spans.iter().find(|span| span.name == "call.talk").context("call.talk")?;
    let ms: u64 = talk.attribute("trunkline.duration_ms").context("no duration")?.parse()?;
    ensure!(u128::from(ms) >= TALK.as_millis(), "the talk is said to have lasted {ms} ms");
    reading_a_record_is_a_remote_call(&collector).await?;
    system.stop().await.map(drop)
}

/// Every parent is a span of the trace, or the one that stands for the call.
fn hangs_together(spans: &[Span]) -> Result<()> {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let outside: BTreeSet<&str> =
        spans.iter().map(|span| span.parent.as_str()).filter(|parent| !by_id.contains_key(parent)).collect();
    ensure!(outside.len() == 1 && !outside.contains(""), "parents outside of the trace: {outside:?}");
    let parent_of = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.and_then(|span| by_id.get(span.parent.as_str())).map(|parent| parent.name.as_str())
    };
    for (child, parent) in [
        ("sip.invite", None),
        ("call.setup", Some("sip.invite")),
        ("acd.ring", Some("acd.offer")),
        ("call.connect", Some("acd.ring")),
    ] {
        ensure!(parent_of(child) == parent, "{child} is under {:?}, not {parent:?}", parent_of(child));
    }
    let under = |name: &str, kind: &str| {
        spans.iter().any(|span| {
            span.name == "media.command"
                && span.attribute("trunkline.kind") == Some(kind)
                && by_id.get(span.parent.as_str()).is_some_and(|parent| parent.name == name)
        })
    };
    ensure!(under("call.setup", "create_rtp"), "the caller's endpoint is not made in the set-up");
    ensure!(under("call.connect", "create_webrtc"), "the agent's endpoint is not made in the connection");
    Ok(())
}

/// Conventions for RPC: the console's call and the record role's part of it.
async fn reading_a_record_is_a_remote_call(collector: &Collector) -> Result<()> {
    const METHOD: &str = "trunkline.records.v1.Records/GetContact";
    until("client and server span of GetContact", s(10), || async {
        let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.name == METHOD).collect();
        let client = spans.iter().find(|span| span.kind == SpanKind::Client);
        let server = spans.iter().find(|span| span.kind == SpanKind::Server);
        let (Some(client), Some(server)) = (client, server) else { return Ok(None) };
        ensure!(server.parent == client.id && server.trace == client.trace, "the server's span is elsewhere");
        ensure!(client.attribute("rpc.system.name") == Some("grpc"), "{client:?}");
        ensure!(client.attribute("rpc.method") == Some(METHOD), "{client:?}");
        ensure!(client.attribute("rpc.response.status_code") == Some("OK"), "{client:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn metrics_are_sound_and_do_not_grow_with_calls() -> Result<()> {
    let collector = Collector::start().await?;
    let system = Setup::new("telemetry-metrics")?
        .config("node:\n  otlp_ratio: 0\n")?
        .flag("--otlp", format!("http://{}", collector.address))
        .start()
        .await?;
    let api = system.supervisor().await?;
    // One call of each kind first: what it takes to have every series.
    let alice = Agent::sign_in(system.http(), "alice").await?;
    let calling = caller(&system, "4930600")?;
    alice.ready().await?;
    let ring = alice.next_ring(0, s(15)).await?;
    alice.accept(&ring.offer_id, &offer()?).await?;
    alice.until_state("talking", s(10)).await?;
    alice.hang_up().await?;
    calling.succeed().await?;
    alice.until_state("wrap_up", s(10)).await?;
    alice.wrap_up("resolved", &[]).await?;
    alice.done("not_ready", serde_json::json!({ "reason": "break" })).await?;
    abandon(&system, "warm", "4930601", 2).await?;
    api.until_queue("support", "nobody waits", s(20), |q| q["waiting"] == 0).await?;

    let first = scrape(&system).await?;
    for seed in 0..5 {
        let number = 1_000_000_000 + u64::from(rand::random::<u32>());
        println!("callers {number}0 and up");
        abandon(&system, &format!("random-{seed}"), &number.to_string(), 10).await?;
    }
    api.until_queue("support", "nobody waits", s(20), |q| q["waiting"] == 0).await?;
    let second = scrape(&system).await?;

    let (before, after) = (metrics::series(&first), metrics::series(&second));
    let grown: Vec<&String> = after.difference(&before).collect();
    ensure!(grown.is_empty(), "fifty calls of fifty callers made new series: {grown:?}");
    metrics::sound(&second)?;
    operators_find(&second)?;
    open_metrics_is_served_to_who_asks(&system).await?;
    system.stop().await?;
    let exported: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    ensure!(exported.is_empty(), "nothing is sampled, and still there were {exported:?}");
    Ok(())
}

async fn abandon(system: &System, name: &str, number: &str, calls: u32) -> Result<()> {
    let sipp = Sipp::own("abandon", system.sip()).named(name).key("caller", number).calls(calls, 10);
    sipp.argument("-d").argument("300").run(system.folder()).await.map(drop)
}

async fn scrape(system: &System) -> Result<String> {
    let answer = http::get(system.metrics(), "/metrics").await?.expect(200)?;
    let kind = answer.headers.get("content-type").context("no type")?;
    ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    Ok(answer.text())
}

/// What dashboards and alerts are made of.
fn operators_find(text: &str) -> Result<()> {
    for needed in [
        "trunkline_sip_messages_total{",
        "trunkline_sip_setup_seconds_bucket{ answer=\"ringing\"",
        "trunkline_sip_setup_seconds_bucket{ answer=\"answered\"",
        "trunkline_media_sessions ",
        "trunkline_media_sessions_capacity ",
        "trunkline_media_packets_lost_total ",
        "trunkline_media_jitter_seconds_bucket{",
        "trunkline_media_mos_bucket{",
        "trunkline_media_one_way_audio_total{",
        "trunkline_media_upload_lag_seconds_bucket{",
        "trunkline_call_leg_packets_lost_total{ trunk=\"local\"",
        "trunkline_call_legs_measured_total{ trunk=\"local\"",
        "trunkline_call_legs_one_way_total{ missing=\"received\"",
        "trunkline_call_legs_one_way_total{ missing=\"sent\"",
        "trunkline_call_capacity ",
        "trunkline_node_ready 1",
        "trunkline_node_draining 0",
        "trunkline_process_resident_memory_bytes ",
        "trunkline_media_epochs_refused_total ",
        "trunkline_media_upload_lag_seconds_bucket{",
        "trunkline_acd_queue_depth{",
        "trunkline_acd_queue_oldest_enqueued_timestamp_seconds{",
        "trunkline_acd_queue_offered_total{",
        "trunkline_acd_queue_answered_in_target_total{",
        "trunkline_acd_agents{ state=\"not_ready\" } 1",
        "trunkline_acd_agents{ state=\"talking\" } 0",
        "trunkline_actors_mailbox_depth{",
        "trunkline_journal_commit_seconds_bucket{",
        "# TYPE trunkline_actors_admission_refusals_total counter",
        "# TYPE trunkline_journal_refused_total counter",
    ] {
        // Labels stand in any order.
        let mut parts = needed.split("{ ");
        let (family, labels) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (label, value) = labels.split_once(" }").unwrap_or((labels, ""));
        let found = text
            .lines()
            .any(|line| line.starts_with(family) && line.contains(label) && line.ends_with(value));
        ensure!(found, "no {needed}\n{text}");
    }
    let abandoned = "trunkline_acd_queue_outcomes_total{tenant=\"default\",queue=\"support\",outcome=";
    let ends: u64 = text
        .lines()
        .filter(|line| line.starts_with(abandoned) && line.contains("abandoned"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    ensure!(ends == 52, "{ends} of 52 callers gave up");
    Ok(())
}

async fn open_metrics_is_served_to_who_asks(system: &System) -> Result<()> {
    let accept = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let answer = http::request(system.metrics(), "GET", "/metrics", &accept, None).await?.expect(200)?;
    ensure!(answer.headers["content-type"].starts_with("application/openmetrics-text"));
    ensure!(answer.text().ends_with("# EOF\n"));
    Ok(())
}

#[tokio::test]
async fn logs_find_the_call_and_give_nobody_away() -> Result<()> {
    const NUMBER: &str = "493098765432";
    let mut system = Setup::new("telemetry-logs")?
        .config("node:\n  log_format: json\n")?
        .flag("--log", "debug,trunkline=trace")
        .start()
        .await?;
    let api = system.supervisor().await?;
    let alice = Agent::sign_in(system.http(), "alice").await?;
    let calling = caller(&system, NUMBER)?;
    alice.ready().await?;
    let ring = alice.next_ring(0, s(15)).await?;
    let offer = offer()?;
    let answer = alice.accept(&ring.offer_id, &offer).await?;
    alice.until_state("talking", s(10)).await?;
    alice.hang_up().await?;
    calling.succeed().await?;
    let contact = api
        .until_contact(&format!("{NUMBER}1"), "the record is closed", s(15), |c| c["ended_ms"].is_i64())
        .await?;

    // The last line of the call is there, so all before it are.
    let log = until("the log tells the end of the call", s(10), || {
        let log = system.program().stderr();
        async move { Ok(log.contains("\"call ended\"").then_some(log)) }
    })
    .await?;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let new =
        lines.iter().find(|line| line["message"] == "new call").context("no line tells of the new call")?;
    ensure!(new["call_id"] == ring.call_id.as_str() && new["trace_id"] == contact["trace_id"], "{new}");
    ensure!(new["sip_call_id"].as_str().is_some_and(|id| id.contains("@127.0.0.1")), "{new}");
    ensure!(new["caller"].as_str().is_some_and(|number| number.contains("***")), "{new}");

    let mut secrets =
        vec![NUMBER.to_owned(), "alice-dev".to_owned(), "sue-dev".to_owned(), api.token.clone()];
    for sdp in [&offer, &answer] {
        for secret in ["a=ice-pwd:", "a=fingerprint:sha-256 "] {
            let found = sdp.lines().find_map(|line| line.trim().strip_prefix(secret));
            secrets.extend(found.map(ToOwned::to_owned));
        }
    }
    ensure!(secrets.len() == 8, "not all of the secrets to look for are known: {secrets:?}");
    for secret in &secrets {
        let told = log.lines().find(|line| line.contains(secret));
        ensure!(told.is_none(), "{secret} stands in the log: {told:?}");
    }
    system.stop().await.map(drop)
}
