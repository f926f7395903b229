//! The caller's leg: dialog, the INVITE being answered, 2xx without ACK, our own requests.

use std::collections::VecDeque;

use bytes::Bytes;
use trunkline_sip::{Dialog, Method, Request, Response};
use trunkline_types::{LegId, ReleaseCause, Timestamp};

use crate::{input::Route, media::Codec, reinvite::Reoffer};

/// 2xx of ours that may wait for their ACK at a time; a further re-INVITE meanwhile is answered 500.
pub(crate) const MAX_UNACKED: usize = 4;
/// Answers that are remembered for requests that come again.
pub(crate) const MAX_GIVEN: usize = 4;
/// Keys that may wait to be sent by INFO.
pub(crate) const MAX_INFO_KEYS: usize = 64;

/// The caller's leg.
#[derive(Clone, Debug)]
pub(crate) struct CallerLeg {
    pub id: LegId,
    pub dialog: Dialog,
    pub route: Route,
    pub contact: String,
    pub answered: bool,
    pub codec: Option<Codec>,
    /// The caller holds us.
    pub holding: bool,
    /// Seconds of the session timer.
    pub session_s: Option<u32>,
    /// The call has moved to another media node, and this leg has not followed.
    pub adrift: bool,
    /// Our last SDP in this dialog.
    pub local_sdp: Bytes,
    // Volatile from here on.
    /// The INVITE that has no final answer.
    pub invite: Option<Box<PendingInvite>>,
    /// The UPDATE that waits for the media node.
    pub update: Option<Box<PendingUpdate>>,
    pub unacked: Vec<Unacked>,
    pub session_until: Option<Timestamp>,
    /// No RTP: released then.
    pub silent_until: Option<Timestamp>,
    pub bye: Bye,
    pub info: InfoKeys,
    /// The CSeq jumped at a recovery: journalled with the next request of ours, so that the next owner jumps beyond it.
    pub jumped: bool,
    /// Our INVITE, in a move.
    pub reoffer: Reoffer,
    /// Answers to in-dialog requests, for requests that come again.
    pub given: VecDeque<Given>,
}

/// A final answer to an in-dialog request.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub cseq: u32,
    pub method: Method,
    pub response: Box<Response>,
}

/// An INVITE without a final answer.
#[derive(Clone, Debug)]
pub(crate) struct PendingInvite {
    pub transaction: String,
    pub request: Request,
    pub route: Route,
    /// The INVITE that made the call.
    pub initial: bool,
    /// It has no offer: ours goes out in the 200.
    pub late: bool,
}

/// An UPDATE with an offer.
#[derive(Clone, Debug)]
pub(crate) struct PendingUpdate {
    pub transaction: String,
    pub request: Request,
    pub route: Route,
}

/// A 2xx that has not been acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Unacked {
    pub transaction: String,
    pub cseq: u32,
    pub response: Box<Response>,
    pub route: Route,
    /// The ACK brings the answer to our offer.
    pub offered: bool,
    pub interval: std::time::Duration,
    pub next: Timestamp,
    pub give_up: Timestamp,
    /// Found in the journal: the ACK may have come before the crash, so its absence proves nothing.
    pub recovered: bool,
}

/// Our BYE.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bye {
    /// Not wanted.
    No,
    /// As soon as the 2xx is acknowledged or given up.
    Wanted(ReleaseCause),
    /// On its way: given to the edge again at `next`, since the command itself may be lost (the edge knows which
    /// transactions it has).
    Sent { transaction: String, request: Box<Request>, next: Timestamp, until: Timestamp },
    /// Answered, given up, or the peer was first.
    Done,
}

/// Keys that go to the caller one INFO after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct InfoKeys {
    pub waiting: VecDeque<char>,
    pub in_flight: Option<InfoInFlight>,
}

/// An INFO of ours without an answer.
#[derive(Clone, Debug)]
pub(crate) struct InfoInFlight {
    pub transaction: String,
    pub request: Box<Request>,
    /// Given to the edge again then, since the command itself may be lost.
    pub next: Timestamp,
    pub until: Timestamp,
}

impl CallerLeg {
    /// True while a final answer to any INVITE, or the ACK of one, is outstanding.
    pub fn invite_open(&self) -> bool {
        self.invite.is_some() || !self.unacked.is_empty()
    }

    /// Nothing is left to do in SIP.
    pub fn quiet(&self) -> bool {
        !self.invite_open() && matches!(self.bye, Bye::No | Bye::Done)
    }

    /// An offer of ours waits for its answer in the ACK.
    pub fn offer_open(&self) -> bool {
        self.unacked.iter().any(|answer| answer.offered && !answer.recovered)
    }
}
