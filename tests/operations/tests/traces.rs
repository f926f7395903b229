//! Proves that one call can be followed through a cluster by its id: its trace goes through the nodes that had a part in
//! it and can be seen while it goes on, its log lines are found on all of them, and its record leads to trace, log lines and
//! dashboard, holds the decisions, and plays the recording.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trunkline_operations_tests::observe::{
    dashboards::{self, Source},
    lab::{self, AGENTS, Lab},
    loki,
    prometheus::JOB,
};
use trunkline_system_tests::{api::Api, otlp::Span, s, until};

/// No span of a call may last longer: who looks at a call that goes on has to see it.
const SHORT: Duration = Duration::from_secs(3);
/// How long they talk.
const TALK: Duration = Duration::from_secs(8);
/// Longer than it takes to find a new owner.
const LONG_TALK: Duration = Duration::from_secs(15);
/// What can be seen while they talk.
const EARLY: [&str; 7] =
    ["sip.invite", "call.setup", "call.queue", "acd.offer", "acd.ring", "call.connect", "media.command"];
/// What comes when they have ended.
const LATE: [&str; 3] = ["call.talk", "call.settle", "records.contact"];

#[test]
fn one_call_can_be_followed_through_the_cluster_by_its_id() -> Result<()> {
    lab::inside(async |network| {
        let folder = trunkline_system_tests::folder("operations-traces")?;
        let mut lab = Lab::start(network, &folder).await?;
        let who = one_comes(&lab, TALK).await?;
        lab.stage.desk.until("they talk", s(20), &["talking"], 1).await?;
        let talking = Instant::now();

        let call_id = until("the spans of the set-up are there", s(10), || {
            std::future::ready(Ok(whose(&lab.collector.spans())))
        })
        .await?;
        ensure!(lab.stage.desk.in_state(&["talking"]) == 1, "the call was over before its spans came");
        ensure!(talking.elapsed() < TALK, "the spans came after {:?}", talking.elapsed());
        lab.stage.crowd.over(who, s(30)).await?;

        let api = lab.world.api().await?;
        let contact = closed(&api, &call_id).await?;
        let spans = until("the spans of the end are there", s(20), || {
            let spans = of_call(&lab.collector.spans(), &call_id);
            let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
            let whole = LATE.iter().all(|name| names.contains(name));
            std::future::ready(Ok(whole.then_some(spans)))
        })
        .await?;
        one_trace(&spans, &contact)?;
        the_nodes_hand_it_on(&spans)?;
        log_lines_name_it(&mut lab, &call_id, &contact)?;
        the_record_leads_everywhere(&api, &contact).await?;

        let other = another(&lab, &call_id).await?;
        its_dashboard_finds_the_spans(&lab.collector.spans(), [&call_id, &other], &contact)?;
        its_dashboard_finds_the_lines(&mut lab, &folder, [&call_id, &other]).await
    })
}

/// `kill -9` of the owner while they talk: who takes over goes on in the same trace, and the record names it.
#[test]
fn a_call_stays_in_its_trace_when_its_owner_dies() -> Result<()> {
    lab::inside(async |network| {
        let folder = trunkline_system_tests::folder("operations-traces-moved")?;
        let mut lab = Lab::start(network, &folder).await?;
        let who = one_comes(&lab, LONG_TALK).await?;
        let call_id = until("the spans of the set-up are there", s(20), || {
            std::future::ready(Ok(whose(&lab.collector.spans())))
        })
        .await?;
        let before = of_call(&lab.collector.spans(), &call_id);
        let owner =
            before.iter().find(|span| span.name == "call.setup").context("no call.setup")?.node.clone();
        lab.world.node(&owner)?.kill()?;
        ensure!(lab.stage.desk.in_state(&["talking"]) == 1, "the call was over before its owner was killed");
        lab.stage.crowd.over(who, s(60)).await?;

        let contact = closed(&lab.world.api().await?, &call_id).await?;
        let trace = contact["trace_id"].as_str().context("the record names no trace")?;
        let spans = until("the new owner's spans are there", s(20), || {
            let spans = of_call(&lab.collector.spans(), &call_id);
            let moved = spans.iter().any(|span| span.name == "call.talk" && span.node != owner);
            std::future::ready(Ok(moved.then_some(spans)))
        })
        .await?;
        let other = spans.iter().find(|span| span.trace != trace);
        ensure!(other.is_none(), "the call is in the trace {trace}, but: {other:?}");
        Ok(())
    })
}

/// One call for agents who are all ready, and talk that long.
async fn one_comes(lab: &Lab, talk: Duration) -> Result<Range<usize>> {
    lab.stage.desk.order(|orders| {
        orders.open = AGENTS;
        orders.talk = Some(talk);
    });
    lab.stage.desk.until("agents are ready", s(30), &["ready"], AGENTS).await?;
    lab.stage.crowd.come(1, 1.0).await
}

/// The call whose early spans are all there.
fn whose(spans: &[Span]) -> Option<String> {
    let calls: BTreeSet<&str> = spans.iter().filter_map(|span| span.attribute("trunkline.call_id")).collect();
    let whole = |call: &&str| {
        EARLY.iter().all(|name| spans.iter().any(|span| span.of_call(call) && span.name == *name))
    };
    calls.into_iter().find(whole).map(str::to_owned)
}

/// A second call, from its beginning to its end.
async fn another(lab: &Lab, first: &str) -> Result<String> {
    let who = one_comes(lab, TALK).await?;
    lab.stage.crowd.over(who, s(30)).await?;
    until("the other call's spans are there", s(20), || {
        let spans = lab.collector.spans();
        let others: Vec<Span> = spans.into_iter().filter(|span| !span.of_call(first)).collect();
        std::future::ready(Ok(whose(&others)))
    })
    .await
}

fn of_call(spans: &[Span], call_id: &str) -> Vec<Span> {
    spans.iter().filter(|span| span.of_call(call_id)).cloned().collect()
}

async fn closed(api: &Api, call_id: &str) -> Result<Value> {
    until("the record is closed and its recording stored", s(30), async || {
        let contact = api.contact(call_id).await?;
        let stored = contact["recordings"][0]["state"] == "available";
        Ok((stored && contact["ended_ms"].is_i64()).then_some(contact))
    })
    .await
}

fn one_trace(spans: &[Span], contact: &Value) -> Result<()> {
    let trace = contact["trace_id"].as_str().context("the record names no trace")?;
    let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let mut outside = BTreeSet::new();
    for span in spans {
        ensure!(span.trace == trace, "{} is in the trace {}, not {trace}", span.name, span.trace);
        let took = Duration::from_nanos(span.end_ns.saturating_sub(span.start_ns));
        ensure!(took < SHORT, "{} lasted {took:?}", span.name);
        if !known.contains(span.parent.as_str()) {
            outside.insert(span.parent.as_str());
        }
    }
    // The one that stands for the call as a whole, and is never sent itself.
    ensure!(outside.len() == 1 && !outside.contains(""), "parents outside of the trace: {outside:?}");
    Ok(())
}

/// Each part was done where its role runs, and a child may be on another node than its parent.
fn the_nodes_hand_it_on(spans: &[Span]) -> Result<()> {
    for (name, nodes) in [
        ("sip.invite", &["e1"][..]),
        ("call.setup", &["c1", "c2"]),
        ("acd.ring", &["c1", "c2"]),
        ("media.command", &["m1", "m2"]),
        ("records.contact", &["e1"]),
    ] {
        let wrong = spans.iter().find(|span| span.name == name && !nodes.contains(&span.node.as_str()));
        ensure!(wrong.is_none(), "{name} was done elsewhere: {wrong:?}");
        ensure!(spans.iter().any(|span| span.name == name), "no {name}");
    }
    let crosses = spans
        .iter()
        .any(|span| spans.iter().any(|parent| parent.id == span.parent && parent.node != span.node));
    ensure!(crosses, "no span has its parent on another node");
    Ok(())
}

/// What the dashboard `one call` asks Loki for is in the lines.
fn log_lines_name_it(lab: &mut Lab, call_id: &str, contact: &Value) -> Result<()> {
    let mut found = BTreeSet::new();
    for name in lab.world.all() {
        let log = lab.world.node(&name)?.program()?.stderr();
        for line in log.lines().filter(|line| line.contains(call_id)) {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let names = line["call_id"] == call_id || line["span"]["call_id"] == call_id;
            // Other fields may name it too, such as an entity's address.
            if names {
                found.insert(name.clone());
                let trace = [&line["trace_id"], &line["span"]["trace_id"]];
                let traced = trace.iter().any(|trace| **trace == contact["trace_id"]);
                ensure!(traced, "a line names the call and not its trace: {line}");
            }
        }
    }
    ensure!(found.contains("e1"), "the edge has no line about the call: {found:?}");
    ensure!(found.contains("c1") || found.contains("c2"), "its owner has no line about the call: {found:?}");
    Ok(())
}

/// The only query of the dashboard `one call` to that source, for a call of some installations.
fn asked(source: Source, call_id: &str, job: &str) -> Result<String> {
    let all = dashboards::all();
    let call = all.iter().find(|dashboard| dashboard.uid == "call").context("no dashboard of one call")?;
    let mut queries = call.queries().filter(|(_, query)| query.source == source);
    let (_, query) = queries.next().context("the dashboard asks no query")?;
    ensure!(queries.next().is_none(), "the dashboard has another query for {source:?}");
    Ok(query.text.replace("$call_id", call_id).replace("$job", job))
}

/// Tempo's engine is not here. Of TraceQL only `{ span.NAME = "VALUE" }` is read, and that attribute looked for in what the
/// nodes have sent.
fn its_dashboard_finds_the_spans(spans: &[Span], calls: [&str; 2], contact: &Value) -> Result<()> {
    let query = asked(Source::Tempo, calls[0], JOB)?;
    let inner = query.strip_prefix("{ span.").and_then(|rest| rest.strip_suffix("\" }"));
    let (name, value) = inner.and_then(|inner| inner.split_once(" = \"")).with_context(|| query.clone())?;
    let of = |value: &str| -> BTreeSet<&str> {
        let found = spans.iter().filter(|span| span.attribute(name) == Some(value));
        found.map(|span| span.trace.as_str()).collect()
    };
    let trace = contact["trace_id"].as_str().context("the record names no trace")?;
    ensure!(of(value) == BTreeSet::from([trace]), "{query} finds {:?}, not {trace}", of(value));
    let others = of(calls[1]);
    ensure!(others.len() == 1 && !others.contains(trace), "the other call is in {others:?}");
    Ok(())
}

/// Loki's own packages get every line of every node.
async fn its_dashboard_finds_the_lines(lab: &mut Lab, folder: &Path, calls: [&str; 2]) -> Result<()> {
    let [call_id, other] = calls;
    let mut lines = Vec::new();
    for name in lab.world.all() {
        let log = lab.world.node(&name)?.program()?.stderr();
        lines.extend(log.lines().map(|line| loki::Line::new(JOB, &name, line)));
    }
    let names = |line: &loki::Line, call: &str| {
        let read: Value = serde_json::from_str(&line.line).unwrap_or_default();
        read["call_id"] == call || read["span"]["call_id"] == call
    };
    ensure!(lines.iter().any(|line| names(line, other)), "no line is about the other call");
    // Within a span of the call, no JSON, about it in another field, and of another installation.
    for line in [
        format!("{{\"message\":\"x\",\"span\":{{\"call_id\":\"{call_id}\",\"name\":\"call\"}}}}"),
        format!("panicked at {call_id}"),
        format!("{{\"entity\":\"call/{call_id}\",\"near\":\"{call_id}\"}}"),
    ] {
        lines.push(loki::Line::new(JOB, "e1", &line));
    }
    let elsewhere = format!("{{\"call_id\":\"{call_id}\"}}");
    lines.push(loki::Line::new(&format!("{JOB}/other/{JOB}"), "e1", &elsewhere));

    for (job, installations) in [(JOB, 1), (".+", 2)] {
        let query = asked(Source::Loki, call_id, job)?;
        let found = loki::select(folder, &query, &lines).await?;
        let chosen = |line: &loki::Line| installations == 2 || line.labels["job"] == JOB;
        let wanted: Vec<&loki::Line> =
            lines.iter().filter(|line| chosen(line) && names(line, call_id)).collect();
        let nodes: BTreeSet<&String> = wanted.iter().map(|line| &line.labels["instance"]).collect();
        ensure!(nodes.len() >= 2, "only {nodes:?} have lines about the call");
        ensure!(found == wanted, "{query} finds {found:#?}, not {wanted:#?}");
    }
    Ok(())
}

/// One page: links, decisions, timeline, recording.
async fn the_record_leads_everywhere(api: &Api, contact: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (call, trace) = (text(&contact["call_id"]), text(&contact["trace_id"]));
    let links = &contact["links"];
    ensure!(text(&links["trace"]) == format!("http://traces.example/trace/{trace}"), "{links}");
    let started = contact["started_ms"].as_i64().context("no start")?;
    let ended = contact["ended_ms"].as_i64().context("no end")?;
    let logs = format!("http://logs.example/?call={call}&from={}&to={}", started - 60_000, ended + 60_000);
    ensure!(text(&links["logs"]) == logs, "{links}");
    ensure!(text(&links["dashboard"]).ends_with(&format!("var-call_id={call}")), "{links}");
    let decisions = contact["decisions"].as_array().context("no decisions")?;
    let considered =
        decisions.iter().filter_map(|d| d["explanation"]["candidates"].as_array()).flatten().count();
    ensure!(considered >= 1, "no decision names whom it considered: {decisions:?}");
    ensure!(contact["timeline"].as_array().is_some_and(|all| all.len() > 4), "{}", contact["timeline"]);
    let audio = text(&contact["recordings"][0]["url"]);
    let answer = api.get(&audio, &[("Range", "bytes=0-3")]).await?.expect(206)?;
    ensure!(answer.body == b"RIFF", "the recording begins with {:?}", answer.body);
    Ok(())
}
