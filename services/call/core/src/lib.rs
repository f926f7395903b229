//! One call from INVITE to record: a back-to-back user agent as a state machine without I/O.
//!
//! **Owns** the [`Call`]: the caller's SIP leg with its dialog ([`trunkline_sip::Dialog`]), the agent's WebRTC leg (two
//! of them while an agent consults another one), the bridge between them, transfer, the way from one media node to another, the flow interpreter ([`flow`]), the stay in a queue,
//! recordings, and the obligations that are left when any of these ends.
//!
//! **Refuses** I/O, clocks, randomness, SDP (media nodes negotiate, this crate carries bodies) and every decision about
//! who should answer (`acd/core`) or which media node is best (the [`Library`] picks). It never holds more than one command to its media node open: the next one goes out
//! when the last is answered, so that loss and repetition cannot change their order.
//!
//! **Called by** the shell `services/call`, which turns protos into [`Input`]s, journals [`Event`]s and sends
//! [`Effect`]s; and by the simulator.
//!
//! RFC 3261 sections 12 to 15 as user agent server, with 13.3.1.4 (the 2xx is repeated here until its ACK, so that
//! a dialog outlives the edge that began it), section 14.1 as user agent client (our re-INVITE when the media move), 3264 (late offer included), 3311 (UPDATE), 3326 (Reason),
//! 4028 (the peer refreshes; we only watch), 4733 and INFO with `application/dtmf-relay` and `application/dtmf`.
//!
//! **Decisions worth knowing**
//! - 180 goes out with the first commit. The 200 follows as soon as the media node has answered the offer: callers
//!   hear flows and music, so a call is answered (and billed) before it waits in a queue.
//! - A BYE waits for the ACK of our 200 or for 64*T1 (section 15).
//! - An agent whose audio is lost keeps the call for [`Settings::agent_reconnect`] while the caller hears music.
//!   After that the agent's part is over and the caller waits again with the first entry's time and
//!   [`RETURN_PRIORITY`]: in front of everybody who does not come back as well.
//! - A transfer is a stay in another queue while the agent still has the caller (see `transfer`): who is refused there, or
//!   finds nobody, has lost nothing. A call has one agent; a second one is there only as the first one's consultation.
//! - Recovery asks the media node first. A session that is there goes on as it was, without a word to the caller; one
//!   that is gone begins anew on another node, or on the same one after its restart.
//! - A media node that is lost, full or drained is left: the new node makes an offer (with the origin of the former
//!   SDP), the caller gets it by re-INVITE, the agent's page is told to make an offer of its own. Each leg follows by
//!   itself. A caller who does not follow (488, 408, silence for 64*T1) is lost, and the call ends as
//!   [`ReleaseCause::MediaLost`]. A drained node is left agent first, since the page keeps its old connection until the
//!   new one stands; the old session is ended when both legs have followed.
//! - The recording ends with the node and another one begins. What a lost node had stored is put together by any other
//!   ([`MediaBody::Salvage`]); the gap up to the next recording is marked in it.
//! - Requests may come any number of times through any edge (edges give them again until they are answered, callers
//!   retransmit to another edge when one dies): each is done once and answered again through the transaction that asks.
//!
//! **Deviations**: no reliable provisional responses (RFC 3262), no session refresh of our own; a re-INVITE that was
//! cancelled keeps what the media node had answered; a repeated INFO whose first copy went to an owner that died is taken
//! for a new key.
//!
//! [`ReleaseCause::MediaLost`]: trunkline_types::ReleaseCause::MediaLost

mod agent;
mod agent_media;
mod answer;
mod apply;
mod call;
mod control;
mod debt;
mod dtmf;
mod effect;
mod event;
pub mod flow;
mod input;
mod invite;
mod leg;
mod leg_quality;
mod media;
mod moving;
mod parts;
mod queueing;
mod recording;
mod recovery;
mod reinvite;
mod release;
mod sdp;
mod session_timer;
mod settings;
mod transfer;
mod uas;

#[cfg(test)]
mod tests;

pub use call::{Call, Phase};
pub use effect::{
    AgentNotice, Card, Consultation, ConversationState, EdgeCommand, Effect, Enqueue, LeaveCause,
    QueueRequest, TranscriptLine,
};
pub use event::{
    Answer, DialogState, DigitsHow, EndedBy, Event, EventBody, FlowOutcome, HoldBy, LegKind, LegParty,
    Missing, MoveReason, Quality, QueueOutcome, RecordingFinished, Span, Speaker, Started, TranscriptSegment,
    TranscriptState,
};
pub use input::{
    AgentRequest, Control, Destination, Incoming, Input, NewCall, QueueSignal, RefusedReason, Route,
    TransactionFailure,
};
pub use media::{
    Codec, Direction, Disconnect, EndpointInfo, MediaBody, MediaCommand, MediaEvent, MediaFailure,
    MediaFailureKind, MediaOk, MediaReply, Play, Program, RecordedObject, SessionInfo,
};
pub use queueing::RETURN_PRIORITY;
pub use settings::{Announcement, Library, Settings, Treatment};
pub use transfer::TRANSFER_PRIORITY;
