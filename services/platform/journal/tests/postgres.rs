//! The journal in PostgreSQL against the contract, on a real server that the test starts, and what only a server can do
//! to a journal.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod postgres {
    mod contract;
    mod support;
}
