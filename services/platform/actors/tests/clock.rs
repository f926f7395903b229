//! The process's clock is the journal's. Alone in its process: the clock is the process's.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::Fixture;
use trunkline_actors::{follow, now};

/// A machine whose clock is an hour behind goes by the journal's, to within the time of an answer, and never back from
/// there; following it once more changes nothing.
#[tokio::test]
async fn a_process_goes_by_the_journals_clock() {
    let f = Fixture::start().await;
    f.journal.ahead_us.store(3_600_000_000, Ordering::SeqCst);
    let machine = now();
    let behind = follow(&*f.journal).await.unwrap();
    assert!((behind - 3_600_000_000).abs() < 1_000_000, "{behind}");
    let shown = now();
    assert!(shown.since(machine) >= Duration::from_secs(3_599), "{machine:?} {shown:?}");
    assert!(shown.since(machine) <= Duration::from_secs(3_610), "{machine:?} {shown:?}");
    assert!(follow(&*f.journal).await.unwrap().abs() < 1_000_000);
    f.stop().await;
}
