//! SIP without sockets: messages, parser, transactions, dialogs, digest.
//!
//! **Owns** the lossless message model ([`Request`], [`Response`], [`Headers`], [`Uri`]); the parser of datagrams
//! ([`parse_datagram`]) and streams ([`StreamFramer`]); what a user agent server refuses and how ([`uas`]); the four
//! transaction machines and the table that holds them ([`TransactionLayer`]); dialogs ([`Dialog`]) and offer/answer
//! bookkeeping ([`OfferAnswer`]); digest authentication ([`digest`]).
//!
//! **Refuses** I/O, clocks and randomness: time is passed in, entropy is passed in, bytes come out. SDP is not looked
//! at. Nothing here panics on what the network sends, takes more than linear time in it, or grows without a limit.
//!
//! **Called by** `edge` (transports, transactions, authentication) and `call/core` (dialogs).
//!
//! RFC 3261, 6026 (Accepted state), 3581 (rport), 3264 (who owes an answer), 3326 (Reason), 3325 and 3323
//! (identity and privacy headers), 4028 (session timer headers), 3966 (tel), 7616, 2617 and 8760 (digest), 4475 (torture).
//!
//! **Deviations**, all on purpose: lines must end in CR LF, a lone CR or LF is refused (smuggling); Content-Length must
//! not be repeated even with equal values; a message on a stream must have one; CSeq must be below 2^31; bytes beyond
//! ASCII are accepted in display names, parameters and URIs (in URIs they become escapes); compact header names are
//! written in full; the transaction layer retransmits our own 2xx until the ACK and repeats our ACK for a repeated
//! 2xx, which RFC 3261 section 13 gives to the user agent core; INVITE transactions in Proceeding have an end.

#![forbid(unsafe_code)]

mod access;
mod address;
mod dialog;
pub mod digest;
mod framer;
mod header;
mod message;
mod method;
mod offer;
mod params;
mod parse;
mod reject;
mod text;
pub mod token;
mod transaction;
pub mod uas;
mod uri;
mod values;
mod via;

pub use address::NameAddr;
pub use dialog::{Dialog, DialogError, MAX_ROUTES, Order, Role};
pub use framer::{Frame, StreamFramer};
pub use header::{HeaderName, Headers};
pub use message::{Message, Request, Response, default_reason};
pub use method::Method;
pub use offer::{OfferAnswer, OfferError, Side};
pub use params::Params;
pub use parse::{MAX_HEADERS, MAX_MESSAGE_BYTES, MAX_VIAS, parse_datagram};
pub use reject::{DropReason, Rejection, Unacceptable};
pub use transaction::{Output, TransactionConfig, TransactionError, TransactionId, TransactionLayer};
pub use uri::{SipUri, TelUri, Uri, UriError};
pub use values::{CSeq, Contacts, HeaderError, MediaType, Reason, Refresher, SessionExpires};
pub use via::{BRANCH_COOKIE, Via, response_destination, stamp_source};
