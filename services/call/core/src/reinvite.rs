//! Our own INVITE in the caller's dialog, with the offer of another media node (RFC 3261 section 14.1).

use std::time::Duration;

use bytes::Bytes;
use trunkline_sip::{HeaderName, Method, Request, Response, Uri, uas::Capabilities};
use trunkline_types::{ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx, Timer},
    effect::EdgeCommand,
    event::EndedBy,
    input::TransactionFailure,
    leg::Bye,
    media::{MediaBody, MediaFailureKind, MediaOk, Then},
    sdp, session_timer,
    uas::placeholder_via,
};

/// INVITEs for one move. Each refusal that allows another try has its pause.
const MAX_TRIES: u8 = 10;
/// The longest pause that a Retry-After gets.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// An offer of ours on its way to the caller. Volatile: a recovered call makes it anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reoffer {
    /// The node has been asked for the offer.
    pub making: bool,
    /// The offer, to be sent as soon as no other INVITE is open and this instant is over.
    ready: Option<Bytes>,
    from: Timestamp,
    /// An INVITE of a former owner of the call may be open until then: a second one beside it is not allowed (section 14.1).
    hush: Option<Timestamp>,
    /// Looked at again then, in case that what it waited for ended unnoticed.
    look: Timestamp,
    sent: Option<Box<Sent>>,
    /// The answer is with the node.
    answering: bool,
    tries: u8,
    /// The caller has followed by then, or the call ends.
    land_by: Option<Timestamp>,
}

/// An INVITE without a final response.
#[derive(Clone, Debug)]
struct Sent {
    transaction: String,
    cseq: u32,
    request: Box<Request>,
    /// Given to the edge again then, since the command itself may be lost.
    next: Timestamp,
    until: Timestamp,
    /// The call has moved on since: its offer is of no use any more.
    stale: bool,
}

impl Reoffer {
    /// A move begins.
    pub fn begin(&mut self, from: Timestamp, land_by: Timestamp) {
        if let Some(sent) = &mut self.sent {
            sent.stale = true;
        }
        let sent = self.sent.take();
        *self = Self { from, land_by: Some(land_by), sent, hush: self.hush, ..Self::default() };
    }

    /// A former owner was about to make its offer: its answer may be on the way, sent again by the peer until it is
    /// acknowledged.
    pub fn hush(&mut self, until: Timestamp) {
        self.hush = Some(until);
    }

    /// The move is over.
    pub fn done(&mut self) {
        let sent = self.sent.take();
        *self = Self { sent, ..Self::default() };
    }

    /// An offer of ours is with the peer, or is being made: theirs has to wait (RFC 3261 section 14.2, RFC 3311).
    pub fn open(&self) -> bool {
        self.making || self.answering || self.sent.is_some()
    }

    /// There is or will be one.
    pub fn has_offer(&self) -> bool {
        self.ready.is_some() || self.open()
    }

    pub fn timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        match &self.sent {
            Some(sent) => visit(sent.next.min(sent.until), Timer::Reoffer),
            None if self.ready.is_some() => {
                visit(self.from.max(self.look).max(self.hush.unwrap_or(self.from)), Timer::Reoffer);
            }
            None => {}
        }
        if let Some(at) = self.land_by {
            visit(at, Timer::Landing);
        }
    }
}

impl Call {
    /// The new node has made its offer.
    pub(crate) fn offer_made(&mut self, cx: &mut Cx<'_>, result: Result<MediaOk, Option<MediaFailureKind>>) {
        let Some(caller) = self.caller.as_deref_mut() else { return };
        caller.reoffer.making = false;
        match result {
            Ok(ok) => {
                caller.reoffer.ready = Some(ok.sdp);
                self.try_offer(cx);
            }
            Err(_) => {
                if !self.next_node(cx) {
                    self.media_lost(cx, true);
                }
            }
        }
    }

    /// The agent is there, or there is nothing to wait for: the caller may follow.
    pub(crate) fn offer_now(&mut self, cx: &mut Cx<'_>) {
        if let Some(caller) = self.caller.as_deref_mut()
            && caller.reoffer.ready.is_some()
            && caller.reoffer.tries == 0
        {
            caller.reoffer.from = cx.now;
        }
        self.try_offer(cx);
    }

    /// Sends the INVITE, unless another one is open in either direction (section 14.1).
    pub(crate) fn try_offer(&mut self, cx: &mut Cx<'_>) {
        let patience = self.settings.sip_patience();
        let min_session = self.settings.min_session;
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let waits = caller.invite.is_some()
            || caller.update.is_some()
            || caller.reoffer.sent.is_some()
            || caller.unacked.iter().any(|answer| !answer.recovered)
            || cx.now < caller.reoffer.from
            || caller.reoffer.hush.is_some_and(|until| cx.now < until);
        if waits || self.ended.is_some() {
            return;
        }
        let Some(offer) = caller.reoffer.ready.take() else { return };
        if caller.reoffer.tries >= MAX_TRIES {
            return self.end(cx, ReleaseCause::MediaLost, EndedBy::Network);
        }
        caller.reoffer.tries += 1;
        let contact = caller.contact.parse::<Uri>().ok();
        let built = placeholder_via()
            .and_then(|via| caller.dialog.request(Method::Invite, &via, contact.as_ref()).ok());
        let Some(mut request) = built else {
            return self.end(cx, ReleaseCause::Internal, EndedBy::System);
        };
        let can = Capabilities::default();
        request.headers.remove(&HeaderName::Via);
        request.headers.push(HeaderName::Allow, can.allow());
        request.headers.push(HeaderName::Supported, can.supported());
        session_timer::ask(&mut request, caller.session_s, min_session);
        let request = Box::new(request.with_body("application/sdp", offer.clone()));
        caller.local_sdp = offer;
        let cseq = caller.dialog.local_cseq;
        let transaction = format!("invite-{cseq}");
        let until = cx.now.plus(patience);
        caller.reoffer.sent =
            Some(Box::new(Sent { transaction, cseq, request, next: cx.now, until, stale: false }));
        self.keep_cseq(cx);
        self.reoffer_timer(cx);
    }

    /// A pause is over, the command is given to the edge again, or the peer has not answered.
    pub(crate) fn reoffer_timer(&mut self, cx: &mut Cx<'_>) {
        let every = self.settings.t2;
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let Some(sent) = caller.reoffer.sent.as_deref_mut() else {
            caller.reoffer.look = cx.now.plus(self.settings.t1);
            return self.try_offer(cx);
        };
        if cx.now >= sent.until {
            caller.reoffer.sent = None;
            return self.offer_refused(cx, 408, None);
        }
        sent.next = cx.now.plus(every);
        let command = EdgeCommand::Request {
            client_transaction: sent.transaction.clone(),
            request: sent.request.clone(),
        };
        let route = caller.route.clone();
        self.edge(cx, &route, command);
    }

    pub(crate) fn is_our_invite(&self, name: &str) -> bool {
        let sent = self.caller.as_deref().and_then(|caller| caller.reoffer.sent.as_deref());
        sent.is_some_and(|sent| sent.transaction == name)
    }

    /// A final response to an INVITE of ours, of this life or a former one. A 2xx is acknowledged whoever asked for it
    /// and as often as it comes (section 13.2.2.4).
    pub(crate) fn on_invite_response(&mut self, cx: &mut Cx<'_>, transaction: &str, response: &Response) {
        let Ok(cseq) = response.headers.cseq() else { return };
        if response.is_success() && !self.acknowledge(cx, transaction, cseq.number, response) {
            return;
        }
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let ours =
            caller.reoffer.sent.take_if(|sent| sent.cseq == cseq.number && sent.transaction == transaction);
        let Some(sent) = ours else {
            // A former owner's: it is settled now, and this one's may go out.
            caller.reoffer.hush = None;
            return self.try_offer(cx);
        };
        if self.ended.is_some() {
            return;
        }
        if sent.stale {
            return self.try_offer(cx);
        }
        if response.is_success() {
            return self.offer_answered(cx, response);
        }
        let after = response.headers.retry_after().ok().flatten();
        if response.status == 422 {
            let least = response.headers.min_se().ok().flatten();
            caller.session_s = least.filter(|_| caller.session_s.is_some());
        }
        caller.reoffer.ready = Some(sent.request.body.clone());
        self.offer_refused(cx, response.status, after.map(|seconds| Duration::from_secs(seconds.into())));
    }

    /// True when it belongs to the dialog.
    fn acknowledge(&mut self, cx: &mut Cx<'_>, transaction: &str, cseq: u32, response: &Response) -> bool {
        let Some(caller) = self.caller.as_deref_mut() else { return false };
        let before = caller.dialog.remote_target.clone();
        if caller.dialog.receive_response(response).is_err() {
            return false;
        }
        let changed = caller.dialog.remote_target != before;
        let Some(ack) = placeholder_via().and_then(|via| caller.dialog.ack(cseq, &via, None).ok()) else {
            return false;
        };
        let mut ack = ack;
        ack.headers.remove(&HeaderName::Via);
        let (route, session_s) = (caller.route.clone(), caller.session_s);
        let command = EdgeCommand::Ack { client_transaction: transaction.to_owned(), request: Box::new(ack) };
        self.edge(cx, &route, command);
        if changed && self.ended.is_none() {
            self.dialog_changed(cx, &route, session_s, None);
        }
        true
    }

    fn offer_answered(&mut self, cx: &mut Cx<'_>, response: &Response) {
        let leg = self.caller_leg();
        let Some(caller) = self.caller.as_deref_mut() else { return };
        caller.session_s = session_timer::agreed(response);
        caller.session_until = caller.session_s.map(|seconds| session_timer::expiry(cx.now, seconds));
        match sdp::in_response(response) {
            Some(sdp) => {
                caller.reoffer.answering = true;
                self.media(cx, MediaBody::SetRemote { leg, sdp }, Then::MoveAnswer);
            }
            None => self.end(cx, ReleaseCause::MediaLost, EndedBy::Caller),
        }
    }

    /// The new node has the caller's answer.
    pub(crate) fn offer_settled(
        &mut self,
        cx: &mut Cx<'_>,
        result: Result<MediaOk, Option<MediaFailureKind>>,
    ) {
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.reoffer.answering = false;
        }
        match result {
            Ok(ok) => {
                self.caller_landed(cx, ok.codec);
                self.note_direction(cx, &ok);
            }
            Err(Some(
                MediaFailureKind::NoCommonCodec
                | MediaFailureKind::UnsupportedTransport
                | MediaFailureKind::MalformedSdp
                | MediaFailureKind::Invalid,
            )) => self.end(cx, ReleaseCause::MediaLost, EndedBy::Caller),
            Err(_) => self.media_lost(cx, true),
        }
    }

    /// Another try after a pause, where that makes sense; otherwise there is no audio any more, and no call.
    fn offer_refused(&mut self, cx: &mut Cx<'_>, status: u16, after: Option<Duration>) {
        let pause = match status {
            491 => self.glare_pause(),
            500 | 503 => after.unwrap_or(self.settings.t1 * 2).min(MAX_PAUSE),
            422 if after.is_none() => Duration::ZERO,
            // The peer does not know the dialog (any more): a BYE would find nobody, and its own, which crosses our INVITE,
            // may be lost. It is the caller who has gone, not the audio.
            481 => {
                if let Some(caller) = self.caller.as_deref_mut() {
                    caller.bye = Bye::Done;
                }
                return self.end(cx, ReleaseCause::CallerHangup, EndedBy::Caller);
            }
            _ => return self.end(cx, ReleaseCause::MediaLost, EndedBy::Network),
        };
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.reoffer.from = cx.now.plus(pause);
        }
        self.try_offer(cx);
    }

    /// Section 14.1: 0 to 2 s in steps of 10 ms for the side that does not own the Call-ID. Drawn from the call's id and
    /// the number of the try, since a core has no randomness.
    fn glare_pause(&self) -> Duration {
        let tries = self.caller.as_deref().map_or(0, |caller| caller.reoffer.tries);
        let hash =
            self.id.to_string().bytes().chain([tries]).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Duration::from_millis((hash >> 32) % 200 * 10 + 10)
    }

    /// The edge could not have it answered.
    pub(crate) fn invite_failed(&mut self, cx: &mut Cx<'_>, failure: TransactionFailure) {
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let Some(sent) = caller.reoffer.sent.take() else { return };
        if self.ended.is_some() {
            return;
        }
        if !sent.stale {
            caller.reoffer.ready = Some(sent.request.body.clone());
        }
        match failure {
            // Another edge may reach the peer.
            TransactionFailure::Transport => self.offer_refused(cx, 503, None),
            TransactionFailure::Timeout | TransactionFailure::NoAck => self.offer_refused(cx, 408, None),
        }
    }
}
