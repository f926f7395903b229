//! Memory under a flood, in a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, missing_docs)]

#[path = "../edge/support.rs"]
mod support;

use crate::support::*;

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let pages: u64 =
        std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_no_call_leaves_nothing_behind() {
    let mut node = Node::start(config()).await;
    let (phone, stranger) = (Phone::new(&node).await, Phone::at("127.0.0.3", &node).await);
    phone.flood(400, |n| Draft::new("INVITE", "nobody", &format!("w{n}")).bytes()).await;
    let before = resident();
    let unknown = phone.flood(20_000, |n| Draft::new("INVITE", "nobody", &format!("u{n}")).bytes()).await;
    let registers = phone.flood(5_000, |n| Draft::new("REGISTER", "alice", &format!("r{n}")).bytes()).await;
    let foreign = stranger.flood(5_000, |n| Draft::invite(&format!("s{n}")).bytes()).await;
    let cancels = stranger
        .flood(5_000, |n| Draft { method: "CANCEL", ..Draft::invite(&format!("c{n}")) }.bytes())
        .await;
    let forged = stranger
        .flood(5_000, |n| Draft::within("BYE", "sip:support@127.0.0.1", &format!("b{n}")).bytes())
        .await;
    // Each was answered once and at once.
    assert_eq!([unknown, registers, foreign, cancels, forged], [20_000, 5_000, 5_000, 5_000, 5_000]);
    assert_eq!(node.metric("transactions"), 0.0);
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more are resident");
    call_up(&mut node, &phone, "after").await;
}
