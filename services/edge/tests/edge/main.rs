//! An edge with real sockets on the loopback network and a call end that the tests play.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod admission;
mod captures;
mod dialogs;
mod failover;
mod floods;
mod outbound;
mod registrations;
mod support;
mod tcp;
