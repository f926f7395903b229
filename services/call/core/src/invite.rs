//! INVITE, the first and later ones, and UPDATE: early and late offer.

use bytes::Bytes;
use trunkline_sip::{Dialog, HeaderName, Method, Request, Response, Uri, token};
use trunkline_types::{CallId, ReleaseCause};

use crate::{
    call::{Call, Cx},
    event::{EndedBy, EventBody, LegKind, LegParty, MoveReason, Started},
    input::{Destination, Incoming, NewCall},
    leg::{MAX_UNACKED, PendingInvite, PendingUpdate},
    media::{MediaBody, MediaFailureKind, MediaOk, Then},
    sdp::{self, BodyError},
    session_timer::{self, Wish},
};

/// Our tag in the caller's dialog: the token of our Contact, by which any edge finds the call of a peer that ignores
/// Contact and sends to the address it first called (RFC 3261 section 12.2.1.1 forbids it; sipp and old gateways do).
/// Without a token it follows from the call's id, whose entropy is random, so that a replay finds it.
pub(crate) fn local_tag(call: CallId, contact_uri: &str) -> String {
    let is_token =
        |user: &String| user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b));
    if let Ok(Uri::Sip(contact)) = contact_uri.parse()
        && let Some(user) = contact.user().filter(is_token).filter(|user| !user.is_empty())
    {
        return user;
    }
    let hash = call.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    token::tag(hash)
}

/// The status of a final answer to an INVITE that is refused.
pub(crate) const fn refusal_status(cause: ReleaseCause) -> u16 {
    match cause {
        ReleaseCause::NoCommonCodec => 488,
        ReleaseCause::BadRequest => 400,
        ReleaseCause::CallerCancel | ReleaseCause::CallerHangup => 487,
        ReleaseCause::UnknownNumber => 404,
        ReleaseCause::Overload | ReleaseCause::Shutdown => 503,
        ReleaseCause::Busy => 486,
        ReleaseCause::Declined => 603,
        ReleaseCause::MediaLost | ReleaseCause::NodeLost | ReleaseCause::Internal => 500,
        _ => 480,
    }
}

/// `Q.850;cause=16;text="..."` (RFC 3326).
pub(crate) fn reason_header(cause: ReleaseCause) -> String {
    format!("Q.850;cause={};text=\"{}\"", cause.q850(), cause.as_str())
}

impl Call {
    /// The INVITE that makes the call.
    pub(crate) fn start(&mut self, cx: &mut Cx<'_>, incoming: Incoming, new_call: NewCall) {
        let Incoming { transaction, request, route, .. } = incoming;
        let Some(media_node) = self.library.media_node(self.id, &route.edge, &[]) else {
            // Nothing is journalled: the edge, or the network, may try again.
            self.rejected = true;
            let response = self.tagged(Response::to(&request, refusal_status(ReleaseCause::Overload)));
            return self.respond(cx, &route, &transaction, response);
        };
        let dialog = match Dialog::from_request(&request, &local_tag(self.id, &new_call.contact_uri)) {
            Ok(dialog) => dialog,
            Err(error) => {
                let response = Response::to(&request, error.status()).with_reason(&error.to_string());
                self.rejected = true;
                self.respond(cx, &route, &transaction, response);
                return;
            }
        };
        let started = Started {
            caller_number: new_call.caller_number,
            caller_name: new_call.caller_name,
            dialled: new_call.dialled,
            trunk: new_call.trunk,
            sip_call_id: dialog.call_id,
            route: route.clone(),
            destination: new_call.destination,
            transaction: transaction.clone(),
            invite: request.clone(),
            contact_uri: new_call.contact_uri,
        };
        self.emit(cx, EventBody::Started(Box::new(started)));
        let leg = self.new_leg();
        self.emit(cx, EventBody::LegAdded { leg, kind: LegKind::Sip, party: LegParty::Caller });
        if let Wish::TooSmall = session_timer::wish(&request, self.settings.min_session) {
            self.refuse_with(cx, self.session_too_small(&request), ReleaseCause::BadRequest);
            return;
        }
        if let Some(Destination::Flow(flow)) = &self.destination()
            && self.library.flow(&self.tenant, flow).is_none()
        {
            self.end(cx, ReleaseCause::UnknownNumber, EndedBy::System);
            return;
        }
        let offer = match sdp::of(&request) {
            Ok(offer) => offer,
            Err(error) => {
                self.refuse_with(cx, body_refusal(&request, error), ReleaseCause::BadRequest);
                return;
            }
        };
        self.emit(cx, EventBody::MediaSession { node: media_node });
        let ringing = self.with_contact(Response::to(&request, 180));
        self.respond(cx, &route, &transaction, ringing);
        self.create_caller_endpoint(cx, offer);
    }

    fn destination(&self) -> Option<Destination> {
        self.origin.as_deref().map(|origin| origin.destination.clone())
    }

    fn create_caller_endpoint(&mut self, cx: &mut Cx<'_>, offer: Option<Bytes>) {
        let body = self.caller_endpoint(offer.unwrap_or_default());
        self.media(cx, body, Then::Caller);
    }

    /// The caller's endpoint on a node; without SDP the node makes the offer.
    pub(crate) fn caller_endpoint(&self, sdp: Bytes) -> MediaBody {
        let caller = self.caller.as_deref();
        let source = caller.and_then(|caller| caller.route.source.parse::<std::net::SocketAddr>().ok());
        MediaBody::CreateRtp {
            leg: self.caller_leg(),
            sdp,
            signalling_ip: source.map(|source| source.ip().to_string()).unwrap_or_default(),
            former_sdp: caller.map(|caller| caller.local_sdp.clone()).unwrap_or_default(),
            sip_call_id: caller.map(|caller| caller.dialog.call_id.clone()).unwrap_or_default(),
        }
    }

    /// Nothing of the caller's audio is there after a recovery before the answer: once more.
    pub(crate) fn recreate_caller_endpoint(&mut self, cx: &mut Cx<'_>) {
        let Some(invite) = self.caller.as_deref().and_then(|caller| caller.invite.as_deref()) else { return };
        let offer = sdp::of(&invite.request).ok().flatten();
        self.create_caller_endpoint(cx, offer);
    }

    /// The media node has answered the first offer (or made ours): the call is answered.
    pub(crate) fn caller_media_ready(&mut self, cx: &mut Cx<'_>, ok: &MediaOk) {
        let Some(invite) = self.take_invite() else { return };
        let leg = self.caller_leg();
        self.unmeasured.push(leg);
        self.answer_invite(cx, *invite, &ok.sdp, Some((leg, ok.codec)));
        self.note_direction(cx, ok);
        self.proceed(cx);
    }

    /// Where the caller wanted to go.
    pub(crate) fn proceed(&mut self, cx: &mut Cx<'_>) {
        match self.destination() {
            Some(Destination::Queue(queue)) => self.enter_queue(cx, queue, 0, cx.now),
            Some(Destination::Flow(flow)) => self.enter_flow(cx, &flow),
            None => {}
        }
    }

    /// The first offer came to nothing.
    pub(crate) fn caller_media_failed(&mut self, cx: &mut Cx<'_>, kind: Option<MediaFailureKind>) {
        use MediaFailureKind::{Conflict, Internal, Invalid, Overload, ShuttingDown, UnknownSession};
        let elsewhere = matches!(
            kind,
            None | Some(Overload | ShuttingDown | Internal | Conflict | UnknownSession | Invalid)
        );
        if elsewhere && self.next_node(cx) {
            return;
        }
        if kind.is_none() && !std::mem::replace(&mut self.moving.sought_again, true) {
            // Nobody else at present, and perhaps it was the way there: once more, also where it failed.
            return self.media_lost(cx, true);
        }
        let cause = match kind {
            Some(MediaFailureKind::NoCommonCodec | MediaFailureKind::UnsupportedTransport) => {
                ReleaseCause::NoCommonCodec
            }
            Some(MediaFailureKind::MalformedSdp) => ReleaseCause::BadRequest,
            Some(MediaFailureKind::Overload | MediaFailureKind::ShuttingDown) => ReleaseCause::Overload,
            _ => ReleaseCause::MediaLost,
        };
        let by = if matches!(cause, ReleaseCause::NoCommonCodec | ReleaseCause::BadRequest) {
            EndedBy::Caller
        } else {
            EndedBy::System
        };
        self.end(cx, cause, by);
    }

    pub(crate) fn take_invite(&mut self) -> Option<Box<PendingInvite>> {
        self.caller.as_deref_mut().and_then(|caller| caller.invite.take())
    }

    /// A later INVITE in the dialog.
    pub(crate) fn on_reinvite(&mut self, cx: &mut Cx<'_>, incoming: Incoming) {
        let Incoming { transaction, request, route, .. } = incoming;
        let Some(caller) = self.caller.as_deref() else { return };
        let refusal = if caller.invite.is_some() || caller.unacked.len() >= MAX_UNACKED {
            // RFC 3261 section 14.2: the first one has no final answer yet.
            Some(retry_later(&request))
        } else if caller.update.is_some() || caller.offer_open() || caller.reoffer.open() {
            Some(Response::to(&request, 491))
        } else if let Wish::TooSmall = session_timer::wish(&request, self.settings.min_session) {
            Some(self.session_too_small(&request))
        } else {
            None
        };
        let offer = sdp::of(&request).map_err(|error| body_refusal(&request, error));
        let offer = match (refusal, offer) {
            (Some(refusal), _) | (None, Err(refusal)) => {
                return self.respond(cx, &route, &transaction, refusal);
            }
            (None, Ok(offer)) => offer,
        };
        let leg = self.caller_leg();
        let late = offer.is_none();
        if let Some(caller) = self.caller.as_deref_mut() {
            let invite = PendingInvite { transaction, request, route, initial: false, late };
            caller.invite = Some(Box::new(invite));
        }
        let body = match offer {
            Some(sdp) => MediaBody::Renegotiate { leg, sdp },
            None => MediaBody::CreateOffer { leg },
        };
        self.media(cx, body, Then::ReInvite);
    }

    /// The media node has answered a later offer.
    pub(crate) fn reinvite_ready(&mut self, cx: &mut Cx<'_>, ok: &MediaOk) {
        let Some(invite) = self.take_invite() else { return };
        let late = invite.late;
        self.answer_invite(cx, *invite, &ok.sdp, None);
        self.note_direction(cx, ok);
        if !late {
            self.caller_landed(cx, ok.codec);
        }
    }

    /// It could not: the session stays as it was.
    pub(crate) fn reinvite_failed(&mut self, cx: &mut Cx<'_>, kind: Option<MediaFailureKind>) {
        let Some(invite) = self.take_invite() else { return };
        let response = self.tagged(Response::to(&invite.request, renegotiation_status(kind)));
        self.respond(cx, &invite.route, &invite.transaction, response);
        self.offer_after_theirs(cx);
    }

    /// Their offer came to nothing, and with it the way to the new media node: ours.
    fn offer_after_theirs(&mut self, cx: &mut Cx<'_>) {
        if self.caller.as_deref().is_some_and(|caller| caller.adrift && !caller.reoffer.has_offer()) {
            self.caller_follows(cx, MoveReason::Lost);
        }
    }

    /// UPDATE (RFC 3311).
    pub(crate) fn on_update(&mut self, cx: &mut Cx<'_>, incoming: Incoming) {
        let Incoming { transaction, request, route, .. } = incoming;
        let Some(caller) = self.caller.as_deref() else { return };
        let offer = match sdp::of(&request) {
            Ok(offer) => offer,
            Err(error) => return self.respond(cx, &route, &transaction, body_refusal(&request, error)),
        };
        let unanswered = caller.invite.as_deref().is_some_and(|invite| !invite.late);
        let our_offer_open = caller.offer_open()
            || caller.reoffer.open()
            || caller.invite.as_deref().is_some_and(|invite| invite.late);
        let refusal = match session_timer::wish(&request, self.settings.min_session) {
            Wish::TooSmall => Some(self.session_too_small(&request)),
            // RFC 3311 section 5.2.
            _ if offer.is_some() && (unanswered || caller.update.is_some()) => Some(retry_later(&request)),
            _ if offer.is_some() && our_offer_open => Some(Response::to(&request, 491)),
            _ => None,
        };
        match (refusal, offer) {
            (Some(refusal), _) => self.respond(cx, &route, &transaction, refusal),
            (None, None) => self.answer_update(cx, PendingUpdate { transaction, request, route }, None),
            (None, Some(sdp)) => {
                let leg = self.caller_leg();
                if let Some(caller) = self.caller.as_deref_mut() {
                    caller.update = Some(Box::new(PendingUpdate { transaction, request, route }));
                }
                self.media(cx, MediaBody::Renegotiate { leg, sdp }, Then::Update);
            }
        }
    }

    /// The media node has dealt with the UPDATE's offer.
    pub(crate) fn update_done(&mut self, cx: &mut Cx<'_>, result: Result<MediaOk, Option<MediaFailureKind>>) {
        let Some(update) = self.caller.as_deref_mut().and_then(|caller| caller.update.take()) else { return };
        match result {
            Ok(ok) => {
                self.answer_update(cx, *update, Some(ok.sdp.clone()));
                self.note_direction(cx, &ok);
                self.caller_landed(cx, ok.codec);
            }
            Err(kind) => {
                let response = Response::to(&update.request, renegotiation_status(kind));
                self.respond(cx, &update.route, &update.transaction, response);
                self.offer_after_theirs(cx);
            }
        }
    }

    fn answer_update(&mut self, cx: &mut Cx<'_>, update: PendingUpdate, sdp: Option<Bytes>) {
        let mut response = self.with_contact(Response::to(&update.request, 200));
        let session_s = self.session_after(&update.request);
        session_timer::put(&mut response, session_s);
        if let Some(sdp) = sdp {
            if let Some(caller) = self.caller.as_deref_mut() {
                caller.local_sdp = sdp.clone();
            }
            response = response.with_body("application/sdp", sdp);
        }
        self.dialog_changed(cx, &update.route, session_s, None);
        self.respond(cx, &update.route, &update.transaction, response);
    }

    /// The caller gave up (CANCEL). One that crosses our 200 finds the INVITE answered: the peer sends ACK and BYE.
    pub(crate) fn on_cancel(&mut self, cx: &mut Cx<'_>, transaction: &str) {
        let Some(caller) = self.caller.as_deref() else { return };
        // The INVITE that makes the call may have come through several edges, each with a transaction of its own.
        let is_meant = |invite: &&PendingInvite| invite.initial || invite.transaction == transaction;
        let Some(invite) = caller.invite.as_deref().filter(is_meant) else {
            return;
        };
        if invite.initial {
            self.end(cx, ReleaseCause::CallerCancel, EndedBy::Caller);
        } else if let Some(invite) = self.take_invite() {
            let response = self.tagged(Response::to(&invite.request, 487));
            self.respond(cx, &invite.route, &invite.transaction, response);
            self.offer_after_theirs(cx);
        }
    }

    /// A refusal that the cause alone does not give.
    fn refuse_with(&mut self, cx: &mut Cx<'_>, response: Response, cause: ReleaseCause) {
        if let Some(invite) = self.take_invite() {
            self.end(cx, cause, EndedBy::Caller);
            let response = self.tagged(response);
            self.respond(cx, &invite.route, &invite.transaction, response);
        }
    }
}

/// RFC 3261 section 14.2 and RFC 3311 section 5.2: 500 with a Retry-After of 0 to 10 s. Fixed here, since a core has no
/// randomness.
pub(crate) fn retry_later(request: &Request) -> Response {
    Response::to(request, 500).with_header(HeaderName::RetryAfter, "2")
}

/// What refuses a body.
pub(crate) fn body_refusal(request: &Request, error: BodyError) -> Response {
    match error {
        BodyError::Malformed(problem) => Response::to(request, 400).with_reason(problem),
        BodyError::Unsupported => {
            let accept = if request.method == Method::Info { crate::dtmf::ACCEPT } else { "application/sdp" };
            Response::to(request, 415).with_header(HeaderName::Accept, accept)
        }
    }
}

const fn renegotiation_status(kind: Option<MediaFailureKind>) -> u16 {
    match kind {
        Some(
            MediaFailureKind::NoCommonCodec
            | MediaFailureKind::UnsupportedTransport
            | MediaFailureKind::MalformedSdp
            | MediaFailureKind::Invalid,
        ) => 488,
        Some(MediaFailureKind::Overload) => 503,
        _ => 500,
    }
}
