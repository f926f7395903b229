//! Whole runs against a callee in this process: no system is needed for them.

use std::net::Ipv4Addr;

use super::*;
use crate::{args::WorkerArgs, callee::Callee, report::Report};

fn text(phases: &str, more: &str) -> String {
    format!(
        "name: test\nseed: 3\nsettle: 1s\ncallers:\n  to: callee\n  arrivals: constant\n  phases: {phases}\n  {more}\n"
    )
}

async fn run(text: &str, callee: &Callee, workers: Vec<std::net::SocketAddr>) -> Report {
    let server = ServerArgs { sip: vec![callee.at], ..ServerArgs::default() };
    let args =
        PlayArgs { bind: "127.0.0.1".into(), worker: workers, secret: "s".into(), ..PlayArgs::default() };
    let played = Box::pin(play(text, "test.yaml", Path::new("."), &args, &server)).await.unwrap();
    Report::of(played)
}

fn callee() -> Callee {
    Callee::start(Ipv4Addr::LOCALHOST.into()).unwrap()
}

/// The generator keeps its rate while the system stalls, and the stall is in the percentiles with its full length: with
/// 100 calls/s and a stall of 1 s, 100 calls waited, half of them longer than half a second. A generator that waits for
/// the system, or that counts from when it could send, would report one slow call.
#[tokio::test(flavor = "multi_thread")]
async fn a_stall_shows_up_in_the_percentiles() {
    let callee = Arc::new(callee());
    let stalling = Arc::clone(&callee);
    let stall = tokio::spawn(async move {
        // The load begins two seconds after the play, and lasts four.
        tokio::time::sleep(HEAD_START + Duration::from_millis(1_500)).await;
        stalling.stall(Duration::from_secs(1));
    });
    let report = run(&text("[ { for: 4s, rate: 100 } ]", "patience: 100ms"), &callee, Vec::new()).await;
    stall.await.unwrap();
    assert_eq!((report.counts.due, report.counts.not_started), (400, 0), "the load is not slowed down");
    let setup = &report.times["INVITE to 200"];
    assert!(setup.count >= 395, "{}", setup.count);
    let (p90, max) = (setup.get("p90").unwrap(), setup.get("max").unwrap());
    assert!(
        p90 > 400.0,
        "a quarter of the calls met the stall, 15 % of all longer than 400 ms; p90 = {p90} ms"
    );
    assert!((850.0..4_000.0).contains(&max), "{max}");
    assert!(setup.get("p50").unwrap() < 200.0, "the others did not: {:?}", setup.quantiles_ms);
    let due: Vec<u64> = report.seconds.iter().take(4).map(|second| second.due).collect();
    assert!(due.iter().all(|due| (60..=140).contains(due)), "{due:?}");
}

/// What cannot be started is counted, not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn calls_above_the_limit_are_counted_and_not_made_up_for() {
    let callee = callee();
    let report = run(&text("[ { for: 2s, rate: 50 } ]", "at_once: 10"), &callee, Vec::new()).await;
    let counts = &report.counts;
    assert_eq!((counts.due, counts.not_started), (100, 90), "nobody hangs up, so only ten fit");
    assert_eq!(counts.answered, 10);
    assert!(report.counts.failed() > 0.8);
}

/// Two workers over TCP offer one load: all calls, half each, with one set of percentiles and numbers of their own.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_a_run() {
    let callee = callee();
    let mut workers = Vec::new();
    let mut served = Vec::new();
    for _ in 0..2 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        workers.push(listener.local_addr().unwrap());
        let args = WorkerArgs { listen: workers[0], secret: "s".into(), bind: None, once: true };
        served.push(tokio::spawn(async move { serve_at(listener, &args).await }));
    }
    let report = run(&text("[ { for: 2s, rate: 60 } ]", "patience: 300ms"), &callee, workers).await;
    for worker in served {
        worker.await.unwrap().unwrap();
    }
    let counts = &report.counts;
    assert_eq!(
        (counts.due, counts.answered, counts.over, counts.gave_up),
        (120, 120, 120, 120),
        "{:?}",
        report.notes
    );
    assert_eq!(report.times["INVITE to 200"].count, 120);
    assert_eq!(report.workers.len(), 2);
    assert!(report.workers.iter().all(|worker| worker.clock.within_us < 100_000));
}

/// A worker that goes away in the middle is told, and what it was to do is missing; the run comes to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_a_worker_does_not_hold() {
    let callee = callee();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let args = WorkerArgs { listen: at, secret: "s".into(), bind: None, once: true };
    let worker = tokio::spawn(async move { serve_at(listener, &args).await });
    let abort = worker.abort_handle();
    tokio::spawn(async move {
        tokio::time::sleep(HEAD_START + Duration::from_millis(500)).await;
        abort.abort();
    });
    let report = run(&text("[ { for: 3s, rate: 20 } ]", "patience: 300ms"), &callee, vec![at]).await;
    let [broken] = report.broken.as_slice() else { panic!("{:?}", report.broken) };
    assert!(broken.contains(&format!("worker {at}: ")), "{broken}");
    assert!(broken.ends_with("; its share of the load is missing"), "{broken}");
    assert!(report.text().contains(broken) && !report.holds());
    assert!(report.counts.due < 60);
    assert!(worker.await.unwrap_err().is_cancelled());
}

/// A ramp ends where the limit is: the callee stalls for good at some moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_stops_at_the_limit_and_tells_the_rate() {
    let callee = Arc::new(callee());
    let stalling = Arc::clone(&callee);
    tokio::spawn(async move {
        tokio::time::sleep(HEAD_START + Duration::from_millis(3_000)).await;
        stalling.stall(Duration::from_secs(3));
    });
    let text = text("[ { for: 30s, rate: 10, to_rate: 310 } ]", "patience: 100ms")
        + "stop_when: { over: 2s, setup_p99: 500ms }\n";
    let report = run(&text, &callee, Vec::new()).await;
    let stopped = report.stopped.expect("the stall is beyond the limit");
    assert!(stopped.why.contains("INVITE to 200"), "{}", stopped.why);
    assert!(stopped.rate > 20.0 && stopped.rate < 120.0, "{}", stopped.rate);
    assert!(report.offered_s < 15.0, "no further calls after that: {}", report.offered_s);
}

/// Events happen when they are due, and what went wrong makes the run fail.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_performed_and_their_failures_are_told() {
    let callee = callee();
    let text = text("[ { for: 2s, rate: 5 } ]", "patience: 100ms")
        + "events:\n  - { at: 1s, name: wrong, run: [\"false\"] }\n  - { at: 500ms, run: [\"true\"] }\n";
    let report = run(&text, &callee, Vec::new()).await;
    let titles: Vec<&str> = report.events.iter().map(|event| event.title.as_str()).collect();
    assert_eq!(titles, ["true", "wrong"]);
    assert!((0.4..1.5).contains(&report.events[0].from_s), "{:?}", report.events);
    assert!(!report.holds() && report.broken[0].contains("event wrong"), "{:?}", report.broken);
    let page = report.html();
    assert!(
        page.contains("Not held")
            && page.contains("<svg")
            && !page.contains("<script")
            && !page.contains("http")
    );
    assert!(report.text().contains("NOT HELD"));
}

/// A backlog that grows by one event a second, where ten come in a second, falls behind by 360 s an hour: that is judged, and
/// told in all reports. What came in the warm-up does not count.
#[test]
fn a_backlog_is_judged_by_the_time_it_is_behind() {
    let text = text("[ { for: 400s, rate: 1 } ]", "")
        + "warm_up: 100s\nexpect: { lag_growth: 359s, memory_growth: 40 }\n";
    let seconds = || (0..=400).step_by(5).map(f64::from);
    let mut sampler = Sampler::default();
    sampler.appended = seconds().map(|at| (at, if at < 100.0 { 0.0 } else { 5_000.0 + at * 10.0 })).collect();
    sampler.metrics.insert(JOURNAL_LAG, seconds().map(|at| (at, at)).collect());
    let report = Report::of(Played {
        scenario: Scenario::parse("test.yaml", &text).unwrap(),
        tally: Tally::new(Duration::from_secs(100), false, false),
        sampler,
        events: Vec::new(),
        workers: Vec::new(),
        stopped: None,
        offered: Duration::from_secs(400),
    });
    let behind = report.metrics[0].behind.unwrap();
    assert!((behind.slope - 360.0).abs() < 0.01, "{behind:?}");
    let [memory, lag] = report.broken.as_slice() else { panic!("{:?}", report.broken) };
    assert!(memory.starts_with("expect.memory_growth: nothing was measured; the processes"), "{memory}");
    assert!(lag.starts_with("journal lag grows by 360000.0 ms an hour of what comes"), "{lag}");
    assert!(report.text().contains("which is +360000 ms of what comes (95 %: +360000 to +360000)"));
    let page = report.html();
    assert!(
        page.contains(">journal lag</th><td>400</td>")
            && page.contains("<td>+360000.0 (+360000.0 to +360000.0)</td>")
    );
}
