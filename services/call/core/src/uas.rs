//! Requests within the caller's dialog, and answers to our own.

use trunkline_sip::{HeaderName, Method, Request, Response, Via, uas};
use trunkline_types::{ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx, Timer},
    dtmf::{self, InfoBody},
    effect::EdgeCommand,
    event::{DigitsHow, EndedBy},
    input::{Incoming, TransactionFailure},
    invite::{body_refusal, reason_header},
    leg::{Bye, InfoInFlight, MAX_INFO_KEYS},
    sdp::BodyError,
};

impl Call {
    pub(crate) fn on_request(&mut self, cx: &mut Cx<'_>, mut incoming: Incoming) {
        if let Some(new_call) = incoming.new_call.take() {
            if self.origin.is_none() {
                return self.start(cx, incoming, *new_call);
            }
            if !self.answered_again(cx, &incoming) {
                self.invite_again(cx, &incoming);
            }
            return;
        }
        if incoming.request.method == Method::Ack {
            return self.on_ack(cx, &incoming.request);
        }
        let ours =
            self.caller.as_deref().is_some_and(|caller| caller.dialog.matches_request(&incoming.request));
        if ours && self.answered_again(cx, &incoming) {
            return;
        }
        let status = match self.caller.as_deref_mut() {
            Some(caller) => {
                let before = caller.dialog.remote_cseq;
                match caller.dialog.receive_request(&incoming.request) {
                    Ok(_) => {
                        let repeated = before == caller.dialog.remote_cseq;
                        caller.route = incoming.route.clone();
                        if repeated && incoming.request.method == Method::Invite { Some(500) } else { None }
                    }
                    Err(error) => Some(error.status()),
                }
            }
            None => Some(481),
        };
        // A call that is over knows only the BYE that crosses ours.
        let over = self.ended.is_some() && incoming.request.method != Method::Bye;
        match status.or(over.then_some(481)) {
            Some(status) => {
                let response = Response::to(&incoming.request, status);
                self.respond(cx, &incoming.route, &incoming.transaction, response);
            }
            None => self.in_dialog(cx, incoming),
        }
    }

    /// Edges give a request to the call until it is answered, and a caller whose edge died sends it through another one:
    /// what was answered is answered again, through the transaction that asks now; what is being dealt with will be.
    fn answered_again(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) -> bool {
        let Incoming { transaction, request, route, .. } = incoming;
        let Ok(cseq) = request.headers.cseq() else { return false };
        let Some(caller) = self.caller.as_deref_mut() else { return false };
        let same = |other: &Request| other.headers.cseq().is_ok_and(|other| other == cseq);
        if let Some(invite) = caller.invite.as_deref_mut().filter(|invite| same(&invite.request)) {
            (invite.transaction, invite.route) = (transaction.clone(), route.clone());
            caller.route = route.clone();
            if invite.initial {
                let ringing = self.with_contact(Response::to(request, 180));
                self.send_response(cx, route, transaction, ringing);
            }
            return true;
        }
        if let Some(update) = caller.update.as_deref_mut().filter(|update| same(&update.request)) {
            (update.transaction, update.route) = (transaction.clone(), route.clone());
            caller.route = route.clone();
            return true;
        }
        let unacked = caller.unacked.iter_mut().find(|answer| answer.cseq == cseq.number);
        if let Some(answer) = unacked.filter(|_| cseq.method == Method::Invite) {
            (answer.transaction, answer.route) = (transaction.clone(), route.clone());
            caller.route = route.clone();
            let response = (*answer.response).clone();
            self.send_response(cx, route, transaction, response);
            return true;
        }
        let given =
            caller.given.iter().find(|given| given.cseq == cseq.number && given.method == cseq.method);
        let Some(response) = given.map(|given| (*given.response).clone()) else { return false };
        self.send_response(cx, route, transaction, response);
        true
    }

    /// The INVITE that made the call, whose answer has been acknowledged or is not known any more.
    fn invite_again(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) {
        // 481 lets the edge make another call of it; a live call's INVITE is a straggler (RFC 3261 section 8.2.2.2).
        let status = if self.ended.is_some() { 481 } else { 482 };
        let response = Response::to(&incoming.request, status);
        self.send_response(cx, &incoming.route, &incoming.transaction, response);
    }

    fn in_dialog(&mut self, cx: &mut Cx<'_>, incoming: Incoming) {
        let can = uas::Capabilities::default();
        match incoming.request.method {
            Method::Invite => self.on_reinvite(cx, incoming),
            Method::Update => self.on_update(cx, incoming),
            Method::Bye => self.on_bye(cx, &incoming),
            Method::Info => self.on_info(cx, &incoming),
            Method::Options => {
                let tag = self.caller.as_deref().map_or_else(String::new, |c| c.dialog.local_tag.clone());
                let response = uas::options_answer(&incoming.request, &can, &tag);
                self.respond(cx, &incoming.route, &incoming.transaction, response);
            }
            // RFC 3262 section 3: it matches no reliable provisional response of ours.
            Method::Prack => {
                self.respond(
                    cx,
                    &incoming.route,
                    &incoming.transaction,
                    Response::to(&incoming.request, 481),
                );
            }
            ref method => {
                let status = if matches!(method, Method::Other(_)) { 501 } else { 405 };
                let response =
                    Response::to(&incoming.request, status).with_header(HeaderName::Allow, can.allow());
                self.respond(cx, &incoming.route, &incoming.transaction, response);
            }
        }
    }

    fn on_bye(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) {
        self.respond(cx, &incoming.route, &incoming.transaction, Response::to(&incoming.request, 200));
        let answered = self.caller.as_deref().is_some_and(|caller| caller.answered);
        if let Some(caller) = self.caller.as_deref_mut() {
            // Nothing that we sent in this dialog matters any more, not even the ACK.
            caller.unacked.clear();
            caller.bye = Bye::Done;
        }
        let cause = if answered { ReleaseCause::CallerHangup } else { ReleaseCause::CallerCancel };
        self.end(cx, cause, EndedBy::Caller);
    }

    fn on_info(&mut self, cx: &mut Cx<'_>, incoming: &Incoming) {
        let response = match dtmf::read(&incoming.request) {
            InfoBody::Key(_) | InfoBody::Empty => Response::to(&incoming.request, 200),
            InfoBody::Malformed => {
                Response::to(&incoming.request, 400).with_reason("Signal is not one of 0-9 * # A-D")
            }
            InfoBody::Unsupported => body_refusal(&incoming.request, BodyError::Unsupported),
        };
        self.respond(cx, &incoming.route, &incoming.transaction, response);
        if let InfoBody::Key(key) = dtmf::read(&incoming.request) {
            self.on_key(cx, key, DigitsHow::SipInfo);
        }
    }

    /// A key of the caller, by either way.
    pub(crate) fn on_key(&mut self, cx: &mut Cx<'_>, key: char, how: DigitsHow) {
        if self.ended.is_none() && self.flow.is_some() && self.stay.is_none() && self.agent.is_none() {
            self.flow_key(cx, key, how);
        }
    }

    /// Sends the wanted BYE as soon as the dialog allows it.
    pub(crate) fn try_bye(&mut self, cx: &mut Cx<'_>) {
        let patience = self.settings.sip_patience() + self.settings.t2;
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let Bye::Wanted(cause) = caller.bye else { return };
        // The ACK of a 2xx from before a recovery has most likely come: nobody may wait for its repetition.
        caller.unacked.retain(|answer| !answer.recovered);
        if caller.invite_open() {
            return;
        }
        let Some(mut request) =
            placeholder_via().and_then(|via| caller.dialog.request(Method::Bye, &via, None).ok())
        else {
            caller.bye = Bye::Done;
            return;
        };
        request.headers.remove(&HeaderName::Via);
        request.headers.push(HeaderName::Reason, reason_header(cause));
        let transaction = format!("bye-{}", caller.dialog.local_cseq);
        caller.bye =
            Bye::Sent { transaction, request: Box::new(request), next: cx.now, until: cx.now.plus(patience) };
        self.keep_cseq(cx);
        self.bye_timer(cx);
    }

    /// Gives the BYE to the edge, now and again until it is answered or its time is over.
    pub(crate) fn bye_timer(&mut self, cx: &mut Cx<'_>) {
        let every = self.settings.t2;
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let Bye::Sent { transaction, request, next, until } = &mut caller.bye else { return };
        if cx.now >= *until {
            caller.bye = Bye::Done;
            return;
        }
        *next = cx.now.plus(every);
        let command =
            EdgeCommand::Request { client_transaction: transaction.clone(), request: request.clone() };
        let route = caller.route.clone();
        self.edge(cx, &route, command);
    }

    fn bye_done(&mut self) {
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.bye = Bye::Done;
        }
    }

    pub(crate) fn on_response(&mut self, cx: &mut Cx<'_>, transaction: &str, response: &Response) {
        if response.is_provisional() {
            return;
        }
        if response.headers.cseq().is_ok_and(|cseq| cseq.method == Method::Invite) {
            return self.on_invite_response(cx, transaction, response);
        }
        if self.is_our_bye(transaction) {
            self.bye_done();
        } else if self.is_our_info(transaction) {
            // 481 and 408 end the dialog (RFC 3261 section 12.2.1.2), for a B2BUA the call with it.
            if trunkline_sip::Dialog::ends_with(response.status) {
                if let Some(caller) = self.caller.as_deref_mut() {
                    caller.bye = Bye::Done;
                }
                return self.end(cx, ReleaseCause::PeerTimeout, EndedBy::Network);
            }
            self.info_done(cx, Some(transaction));
        }
    }

    pub(crate) fn on_transaction_failed(
        &mut self,
        cx: &mut Cx<'_>,
        transaction: &str,
        failure: TransactionFailure,
    ) {
        if self.is_our_bye(transaction) {
            return self.bye_done();
        }
        if self.is_our_info(transaction) {
            return self.info_done(cx, Some(transaction));
        }
        if self.is_our_invite(transaction) {
            return self.invite_failed(cx, failure);
        }
        let Some(caller) = self.caller.as_deref_mut() else { return };
        // An edge that watches the ACK itself tells us before our own timer does.
        if failure == TransactionFailure::NoAck
            && let Some(at) = caller.unacked.iter().position(|answer| answer.transaction == transaction)
        {
            caller.unacked.remove(at);
            self.end(cx, ReleaseCause::PeerTimeout, EndedBy::Network);
            return self.try_bye(cx);
        }
        let initial = caller.invite.as_deref().is_some_and(|invite| invite.transaction == transaction);
        if initial && failure != TransactionFailure::NoAck {
            self.end(cx, ReleaseCause::PeerUnreachable, EndedBy::Network);
        }
    }

    fn is_our_bye(&self, name: &str) -> bool {
        let bye = self.caller.as_deref().map(|caller| &caller.bye);
        matches!(bye, Some(Bye::Sent { transaction, .. }) if transaction == name)
    }

    fn is_our_info(&self, name: &str) -> bool {
        let info = self.caller.as_deref().and_then(|caller| caller.info.in_flight.as_ref());
        info.is_some_and(|info| info.transaction == name)
    }

    /// Keys for a caller whose RTP takes none: one INFO after the other.
    pub(crate) fn send_info(&mut self, cx: &mut Cx<'_>, digits: &str) {
        if let Some(caller) = self.caller.as_deref_mut() {
            let room = MAX_INFO_KEYS.saturating_sub(caller.info.waiting.len());
            caller.info.waiting.extend(digits.chars().filter(|key| dtmf::is_key(*key)).take(room));
        }
        self.next_info(cx);
    }

    pub(crate) fn info_done(&mut self, cx: &mut Cx<'_>, _transaction: Option<&str>) {
        if let Some(caller) = self.caller.as_deref_mut() {
            caller.info.in_flight = None;
        }
        self.next_info(cx);
    }

    fn next_info(&mut self, cx: &mut Cx<'_>) {
        let until = cx.now.plus(self.settings.sip_patience());
        if self.ended.is_some() {
            return;
        }
        let Some(caller) = self.caller.as_deref_mut().filter(|caller| caller.info.in_flight.is_none()) else {
            return;
        };
        let Some(key) = caller.info.waiting.pop_front() else { return };
        let Some(request) =
            placeholder_via().and_then(|via| caller.dialog.request(Method::Info, &via, None).ok())
        else {
            return;
        };
        let mut request = request.with_body("application/dtmf-relay", dtmf::relay_body(key));
        request.headers.remove(&HeaderName::Via);
        let transaction = format!("info-{}", caller.dialog.local_cseq);
        caller.info.in_flight =
            Some(InfoInFlight { transaction, request: Box::new(request), next: cx.now, until });
        self.keep_cseq(cx);
        self.info_timer(cx);
    }

    /// Gives the INFO to the edge, now and again until it is answered or its time is over.
    pub(crate) fn info_timer(&mut self, cx: &mut Cx<'_>) {
        let every = self.settings.t2;
        let Some(caller) = self.caller.as_deref_mut() else { return };
        let Some(info) = &mut caller.info.in_flight else { return };
        if cx.now >= info.until {
            return self.info_done(cx, None);
        }
        info.next = cx.now.plus(every);
        let command = EdgeCommand::Request {
            client_transaction: info.transaction.clone(),
            request: info.request.clone(),
        };
        let route = caller.route.clone();
        self.edge(cx, &route, command);
    }

    pub(crate) fn sip_timers(&self, visit: &mut dyn FnMut(Timestamp, Timer)) {
        let Some(caller) = self.caller.as_deref() else { return };
        for (n, answer) in caller.unacked.iter().enumerate() {
            visit(answer.next.min(answer.give_up), Timer::AnswerRepeat(n));
        }
        if let Bye::Sent { next, until, .. } = &caller.bye {
            visit(*next.min(until), Timer::Bye);
        }
        if self.ended.is_some() {
            return;
        }
        if let Some(info) = &caller.info.in_flight {
            visit(info.next.min(info.until), Timer::Info);
        }
        caller.reoffer.timers(visit);
        if let Some(until) = caller.session_until {
            visit(until, Timer::Session);
        }
        if let Some(until) = caller.silent_until {
            visit(until, Timer::Silence);
        }
    }
}

/// The edge puts its own Via in place of this one.
pub(crate) fn placeholder_via() -> Option<Via> {
    Via::new("UDP", "invalid.invalid", None, "z9hG4bK-edge")
}
