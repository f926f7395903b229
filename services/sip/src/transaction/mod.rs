//! Transactions (RFC 3261 section 17 with RFC 6026): four machines and the table that holds them.
//!
//! A machine knows states and timers only. The table ([`TransactionLayer`]) owns keys, bytes and paths, hands new
//! requests and responses to its user (the TU), answers CANCEL, acknowledges failures, and retransmits. Merged requests
//! (482, section 8.2.2.2) are not looked for: behind a load balancer two edges could each see one of them.

mod answers;
mod client;
mod incoming;
mod key;
mod layer;
mod server;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
pub use layer::TransactionLayer;

use crate::{
    message::{Request, Response},
    values::HeaderError,
};

/// Times and limits.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// Estimate of the round trip; first retransmission interval. 500 ms by RFC 3261.
    pub t1: Duration,
    /// Longest retransmission interval for non-INVITE requests and INVITE responses. 4 s by RFC 3261.
    pub t2: Duration,
    /// Longest life of a message in the network. 5 s by RFC 3261.
    pub t4: Duration,
    /// How long an INVITE transaction may stay in Proceeding without a new provisional response, before it times
    /// out. RFC 3261 gives proxies more than 3 minutes (Timer C) and user agents no limit; every wait here has one.
    pub proceeding_limit: Duration,
    /// Most transactions of all kinds. Each may have one 2xx waiting for its ACK and one CANCEL beside it.
    pub max_transactions: usize,
    /// How many of them are kept for what is not a new INVITE (requests within dialogs, CANCEL, our own requests).
    pub reserved: usize,
    /// Key for To tags that the user of a transaction leaves to the layer; from a random source, secret.
    pub tag_secret: [u8; 32],
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            proceeding_limit: Duration::from_secs(900),
            max_transactions: 100_000,
            reserved: 10_000,
            tag_secret: [0; 32],
        }
    }
}

/// The three base times, never below 1 ms so that a timer always moves on.
#[derive(Clone, Copy, Debug)]
struct Times {
    t1: Duration,
    t2: Duration,
    t4: Duration,
    proceeding: Duration,
}

impl Times {
    fn of(config: &TransactionConfig) -> Self {
        let floor = Duration::from_millis(1);
        Self {
            t1: config.t1.max(floor),
            t2: config.t2.max(floor),
            t4: config.t4.max(floor),
            proceeding: config.proceeding_limit.max(floor),
        }
    }

    /// 64·T1: the life of a transaction without an answer.
    fn life(&self) -> Duration {
        self.t1 * 64
    }
}

/// A transaction of one layer. Never used again within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransactionId(pub u64);

/// Why an order to the layer cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// No such transaction (any more).
    #[error("transaction has ended or never was")]
    Unknown,
    /// The order fits another kind of transaction.
    #[error("order does not fit this kind of transaction")]
    WrongKind,
    /// A final response was given already.
    #[error("transaction has its final response")]
    AlreadyFinal,
    /// A transaction with this branch and method is under way.
    #[error("branch is in use: mint a new one for each request")]
    BranchInUse,
    /// As many transactions as configured.
    #[error("as many transactions as allowed ({0})")]
    Overloaded(usize),
    /// The message lacks a header that a transaction needs.
    #[error("message cannot have a transaction: {0}")]
    Header(#[from] HeaderError),
}

/// What the layer wants done, in order.
#[derive(Clone, Debug)]
pub enum Output<P> {
    /// Send these bytes. `id` is what to name in [`TransactionLayer::transport_failed`].
    Send {
        /// The transaction; `None` for what has none (ACK of a 2xx, stateless answers).
        id: Option<TransactionId>,
        /// Where to.
        path: P,
        /// What.
        bytes: Bytes,
    },
    /// A new request, never ACK or CANCEL. For an INVITE a 100 has been sent.
    Request {
        /// Answer by [`TransactionLayer::respond`] with this.
        id: TransactionId,
        /// The request.
        request: Request,
        /// The path given with it.
        path: P,
    },
    /// The ACK of a 2xx.
    Ack {
        /// The INVITE transaction that it acknowledges, if this layer sent the 2xx.
        id: Option<TransactionId>,
        /// The ACK.
        request: Request,
    },
    /// The caller wants INVITE `id` ended, which has no final response: answer it with 487. The CANCEL is answered.
    Cancel {
        /// The INVITE.
        id: TransactionId,
        /// The CANCEL, with its Reason.
        request: Request,
    },
    /// A response to a request that the user sent. After a 2xx to an INVITE further ones of other forks may follow;
    /// a repeated 2xx comes again until [`TransactionLayer::send_ack`].
    Response {
        /// The transaction.
        id: TransactionId,
        /// The response.
        response: Response,
    },
    /// A response without a transaction: a late one, or to a request of another edge. Find its dialog or drop it.
    StrayResponse {
        /// The response.
        response: Response,
    },
    /// No room for this request: answer 503 without a transaction, or not at all.
    Overloaded {
        /// The request.
        request: Request,
        /// The path given with it.
        path: P,
    },
    /// No ACK for our 2xx within 64·T1: end the dialog with BYE (RFC 3261 section 13.3.1.4).
    AckTimeout {
        /// The INVITE.
        id: TransactionId,
    },
    /// Client: no final response in time. Server: no ACK for a failure, or the user never answered.
    Timeout {
        /// The transaction.
        id: TransactionId,
    },
    /// The transport failed for this transaction.
    TransportError {
        /// The transaction.
        id: TransactionId,
    },
    /// The transaction is gone. The last output that names it.
    Terminated {
        /// The transaction.
        id: TransactionId,
    },
}

/// What a machine asks of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Effects {
    /// Send the kept bytes (request, or last response).
    resend: bool,
    /// Acknowledge a failure response.
    acknowledge: bool,
    /// Hand the message to the user.
    deliver: bool,
    /// Tell the user of a time-out.
    timeout: bool,
    /// Tell the user of a transport error.
    transport_error: bool,
    /// Remove the transaction.
    terminate: bool,
}

/// A class of response, as machines see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Provisional,
    Success,
    Failure,
}

impl Class {
    fn of(status: u16) -> Self {
        match status {
            0..200 => Self::Provisional,
            200..300 => Self::Success,
            _ => Self::Failure,
        }
    }
}
