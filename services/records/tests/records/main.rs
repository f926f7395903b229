//! The records role over a journal on a tape, asked through its gRPC service.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod agreement;
mod history;
mod restarts;
mod serving;
mod support;
