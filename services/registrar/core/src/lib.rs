//! A telephone's account: where it can be reached, and since which request.
//!
//! Owns the rules of RFC 3261 section 10.3 (steps 6 to 8): order of requests by Call-ID and CSeq, expiries of each contact
//! and of the header, removal by `*`, the shortest interval (423), queries; the place of `+sip.instance` (RFC 5626 section
//! 4.1: a telephone that comes back under another address replaces its older contact); `Path` (RFC 3327) is kept and
//! returned. Refuses to know passwords: whoever asks has been checked by an edge. No I/O, no clock, no randomness: where in
//! its range an expiry is granted is drawn by the edge and comes with the request.
//!
//! Called by `trunkline-registrar`. What it adds to the RFCs:
//! - **A request that comes again is answered again.** The same Call-ID and CSeq for a contact are a retransmission whose
//!   first answer went down with an edge; nothing changes and nothing is journalled.
//! - **A nonce count is good once in the whole cluster.** Edges remember counts for themselves; a request that was captured
//!   and is played to another edge is known here, by what the journal holds.
//! - **A refresh is one event**, and a small one when only the expiry is new.
//!
//! Not here: GRUU (RFC 5627), several flows of one telephone as alternatives (RFC 5626 section 5), forking.

#![forbid(unsafe_code)]

mod event;
mod request;
mod telephone;
#[cfg(test)]
mod tests;

pub use event::{Binding, Changed, Event, NonceUse, Refreshed};
pub use request::{Malformed, Request, Wanted, WantedContact};
pub use telephone::{Bound, Effect, Input, Limits, Outcome, Refusal, Register, Snapshot, Telephone};
