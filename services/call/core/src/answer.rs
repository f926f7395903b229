//! Answers in the caller's dialog: the 2xx to an INVITE until its ACK, and what is said again to a request that comes
//! again.

use bytes::Bytes;
use trunkline_sip::{HeaderName, Method, Request, Response, uas::Capabilities};
use trunkline_types::{LegId, ReleaseCause};

use crate::{
    call::{Call, Cx},
    effect::EdgeCommand,
    event::{Answer, DialogState, EndedBy, EventBody},
    input::Route,
    invite::local_tag,
    leg::{Given, MAX_GIVEN, PendingInvite},
    media::{Codec, MediaBody, Then},
    sdp,
    session_timer::{self, Wish},
};

impl Call {
    /// 200 to an INVITE, and its repetition from now on.
    pub(crate) fn answer_invite(
        &mut self,
        cx: &mut Cx<'_>,
        invite: PendingInvite,
        sdp: &Bytes,
        answered: Option<(LegId, Option<Codec>)>,
    ) {
        let session_s = self.session_after(&invite.request);
        let mut response = self.with_contact(Response::to(&invite.request, 200));
        let can = Capabilities::default();
        response.headers.push(HeaderName::Allow, can.allow());
        response.headers.push(HeaderName::Supported, can.supported());
        session_timer::put(&mut response, session_s);
        let response = response.with_body("application/sdp", sdp.clone());
        let answer = Answer {
            transaction: invite.transaction.clone(),
            cseq: invite.request.headers.cseq().map_or(0, |cseq| cseq.number),
            response: response.clone(),
            offered: invite.late,
        };
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.dialog.confirmed = true;
        }
        self.dialog_changed(cx, &invite.route, session_s, Some(answer));
        if let Some((leg, codec)) = answered {
            self.emit(cx, EventBody::LegAnswered { leg, codec });
        }
        self.respond(cx, &invite.route, &invite.transaction, response);
    }

    /// A request of ours has been made: its number is committed before it goes out, when another owner's came before.
    pub(crate) fn keep_cseq(&mut self, cx: &mut Cx<'_>) {
        let Some(caller) = self.caller.as_deref_mut() else { return };
        if std::mem::take(&mut caller.jumped) {
            let (route, session_s) = (caller.route.clone(), caller.session_s);
            self.dialog_changed(cx, &route, session_s, None);
        }
    }

    pub(crate) fn dialog_changed(
        &mut self,
        cx: &mut Cx<'_>,
        route: &Route,
        session_s: Option<u32>,
        answer: Option<Answer>,
    ) {
        let Some(caller) = self.caller.as_deref() else { return };
        let (leg, dialog) = (caller.id, caller.dialog.clone());
        let state = DialogState { dialog, route: route.clone(), session_s, answer };
        self.emit(cx, EventBody::DialogChanged { leg, state: Box::new(state) });
    }

    pub(crate) fn session_after(&self, request: &Request) -> Option<u32> {
        match session_timer::wish(request, self.settings.min_session) {
            Wish::Peer(seconds) => Some(seconds),
            Wish::None | Wish::TooSmall => None,
        }
    }

    pub(crate) fn session_too_small(&self, request: &Request) -> Response {
        self.tagged(Response::to(request, 422))
            .with_header(HeaderName::MinSe, self.settings.min_session.as_secs().to_string())
    }

    /// The ACK of a 2xx.
    pub(crate) fn on_ack(&mut self, cx: &mut Cx<'_>, request: &Request) {
        let Ok(cseq) = request.headers.cseq() else { return };
        let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.dialog.matches_request(request))
        else {
            return;
        };
        let Some(at) = caller.unacked.iter().position(|answer| answer.cseq == cseq.number) else { return };
        let answer = caller.unacked.remove(at);
        caller.unacked.shrink_to_fit();
        if answer.offered && self.ended.is_none() {
            match sdp::of(request) {
                Ok(Some(sdp)) => {
                    let leg = self.caller_leg();
                    self.media(cx, MediaBody::SetRemote { leg, sdp }, Then::LateAnswer);
                }
                // A recovered call may see the ACK a second time; without an answer there is no audio to wait for.
                _ if answer.recovered => {}
                _ => self.end(cx, ReleaseCause::BadRequest, EndedBy::Caller),
            }
        }
        self.try_bye(cx);
        self.try_offer(cx);
    }

    /// RFC 3261 section 13.3.1.4: T1, doubling up to T2, until the ACK or 64*T1.
    pub(crate) fn repeat_answer(&mut self, cx: &mut Cx<'_>, n: usize) {
        let t2 = self.settings.t2;
        let Some(answer) = self.caller.as_deref_mut().and_then(|caller| caller.unacked.get_mut(n)) else {
            return;
        };
        if cx.now >= answer.give_up {
            let recovered = answer.recovered;
            if let Some(caller) = self.caller.as_deref_mut() {
                caller.unacked.remove(n);
            }
            if !recovered {
                self.end(cx, ReleaseCause::PeerTimeout, EndedBy::Network);
            }
            self.try_bye(cx);
            self.try_offer(cx);
            return;
        }
        answer.interval = (answer.interval * 2).min(t2);
        answer.next = cx.now.plus(answer.interval);
        let command = EdgeCommand::Respond {
            transaction: answer.transaction.clone(),
            response: answer.response.clone(),
            retransmission: true,
        };
        let route = answer.route.clone();
        self.edge(cx, &route, command);
    }

    /// Answers, and remembers the answer for a request that comes again. (A 2xx to an INVITE is kept until its ACK.)
    pub(crate) fn respond(&mut self, cx: &mut Cx<'_>, route: &Route, transaction: &str, response: Response) {
        if let (Some(caller), Ok(cseq)) = (self.caller.as_deref_mut(), response.headers.cseq())
            && response.status >= 200
            && !(cseq.method == Method::Invite && response.is_success())
        {
            if caller.given.len() >= MAX_GIVEN {
                caller.given.pop_front();
            }
            let response = Box::new(response.clone());
            caller.given.push_back(Given { cseq: cseq.number, method: cseq.method, response });
        }
        self.send_response(cx, route, transaction, response);
    }

    pub(crate) fn send_response(
        &self,
        cx: &mut Cx<'_>,
        route: &Route,
        transaction: &str,
        response: Response,
    ) {
        let command = EdgeCommand::Respond {
            transaction: transaction.to_owned(),
            response: Box::new(response),
            retransmission: false,
        };
        self.edge(cx, route, command);
    }

    pub(crate) fn tagged(&self, response: Response) -> Response {
        match self.caller.as_deref() {
            Some(caller) => response.with_to_tag(&caller.dialog.local_tag),
            None => response.with_to_tag(&local_tag(self.id, "")),
        }
    }

    pub(crate) fn with_contact(&self, response: Response) -> Response {
        let contact = self.caller.as_deref().map(|caller| caller.contact.clone()).unwrap_or_default();
        self.tagged(response).with_header(HeaderName::Contact, format!("<{contact}>"))
    }
}
