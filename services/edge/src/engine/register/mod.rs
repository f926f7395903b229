//! REGISTER (RFC 3261 section 10.3): who asks is checked here, what is bound is decided by the account's actor, wherever
//! that lives. Nothing of it is this edge's: any other one would do the same with the same request.
//!
//! A trunk may have its peers acknowledged instead, for those that will not call before they are registered; nothing is
//! kept of that.

mod authenticate;
mod throttle;
mod waiting;

use rand::Rng;
use trunkline_actors::now;
use trunkline_proto::{
    common::v1::{Envelope, Role, envelope::Payload},
    registrar::v1::{
        BoundContact, Refusal, Register, RegistrarAnswer, TelephoneMessage, refusal::Reason,
        registrar_answer, telephone_message,
    },
};
use trunkline_rpc::{Refused, entity};
use trunkline_sip::{HeaderName, NameAddr, Request, Response, TransactionId, Uri};
use trunkline_types::{EntityAddress, Feature, Timestamp};

use self::waiting::{Due, Waiting};
pub(super) use self::{
    authenticate::{Authenticator, Purpose, Verdict},
    waiting::Registrations,
};
use super::{Engine, admission::Passed, inbound::without_credentials};
use crate::{config::Registrations as Policy, transport::Path};

/// An acknowledgement that nothing stands behind is for so long at most.
const ACKNOWLEDGED_S: u32 = 3_600;
/// Who cannot be served now comes again after one of these: all of them in one instant would not be served then either.
const LATER_S: std::ops::RangeInclusive<u32> = 5..=30;
/// As long as failures are counted against somebody.
const LOCKED_S: u32 = 60;

impl Engine {
    /// The realm in which a request is asked who it comes from: its domain, when that is one.
    pub(super) fn realm(&self, request: &Request) -> String {
        let domain = match &request.uri {
            Uri::Sip(uri) => uri.host().to_ascii_lowercase(),
            _ => String::new(),
        };
        if self.parts.accounts.has_realm(&domain) {
            return domain;
        }
        self.parts.settings.config.telephones.realm.to_ascii_lowercase()
    }

    /// The answer to a REGISTER that needs no account, and hence no transaction. `None`: the transaction layer takes it.
    pub(super) fn judge_register(&mut self, request: &Request, path: Path) -> Option<Response> {
        let tag = self.layer.to_tag(request);
        if self.registrations.knows(&tag) {
            return None;
        }
        let (response, result) = match self.judge(request, path, &tag) {
            Ok(passed) => {
                self.passed = Some((tag, passed));
                return None;
            }
            Err(refused) => refused,
        };
        self.parts.metrics.registration(result);
        Some(response)
    }

    fn judge(
        &mut self,
        request: &Request,
        path: Path,
        tag: &str,
    ) -> Result<Passed, (Response, &'static str)> {
        let source = path.peer().ip();
        let policy = self.parts.settings.trunk_of(source).map_or(Policy::Challenge, |t| t.registrations);
        if policy == Policy::Acknowledge && !request.headers.contains(&HeaderName::Authorization) {
            return Err((acknowledge(request, tag), "acknowledged"));
        }
        if now() < self.overloaded_until || self.registrations.is_full() {
            return Err((later(request, tag), "overload"));
        }
        let (realm, accounts) = (self.realm(request), &*self.parts.accounts);
        match self.authenticator.verify(now(), request, Purpose::Register, source, &realm, accounts) {
            Verdict::Is { account, nonce, count } => {
                let to = request.headers.to().ok().and_then(|to| to.uri.user());
                // Nobody registers for somebody else.
                if to.as_deref() != Some(account.name.as_str()) {
                    return Err((Response::to(request, 403).with_to_tag(tag), "forbidden"));
                }
                if !self.parts.placement.may_write(Feature::Telephones) {
                    return Err((later(request, tag), "not_upgraded"));
                }
                Ok(Passed::Register { account, nonce, count })
            }
            Verdict::Challenge { stale, why } => {
                let (asks, purpose) = (&self.authenticator, Purpose::Register);
                Err((asks.challenge(now(), request, purpose, &realm, stale, tag), why))
            }
            Verdict::Locked => {
                let response = Response::to(request, 403).with_to_tag(tag).with_reason("Too Many Attempts");
                Err((response.with_header(HeaderName::RetryAfter, LOCKED_S.to_string()), "locked"))
            }
        }
    }

    /// A REGISTER that may go to its account.
    pub(super) fn register(&mut self, id: TransactionId, request: Request, path: Path) {
        let Some(Passed::Register { account, nonce, count }) = self.take_passed(&request) else {
            return self.refuse(id, &request, 500, "internal");
        };
        let config = &self.parts.settings.config.telephones;
        let call_id = request.headers.call_id().unwrap_or_default();
        let cseq = request.headers.cseq().map(|cseq| cseq.number).unwrap_or_default();
        let (tenant, name) = (account.tenant.as_str(), account.name.as_str());
        let of_request = [tenant.as_bytes(), name.as_bytes(), call_id.as_bytes(), &cseq.to_be_bytes()];
        let message = Register {
            edge: self.parts.bus.node().to_string(),
            transaction: String::new(),
            message: without_credentials(&request),
            source: path.peer().to_string(),
            transport: path.name().to_owned(),
            draw: self.authenticator.draw(&of_request),
            min_expires_s: config.min_expires_s,
            default_expires_s: config.default_expires_s,
            max_expires_s: config.max_expires_s,
            max_contacts: account.max_contacts,
            nonce,
            nonce_count: count,
        };
        let address = EntityAddress::telephone(&account.tenant, &account.name);
        let (tag, realm) = (self.layer.to_tag(&request), self.realm(&request));
        let asked = (request, realm);
        let message = self.registrations.begin(id, tag, asked, (address.clone(), message), now());
        // Refused: it is asked again.
        let _ = self.to_account(&address, message);
    }

    fn to_account(&self, account: &EntityAddress, register: Register) -> Result<(), Refused> {
        let message = telephone_message::Message::Register(register);
        self.parts.bus.send(Envelope {
            to: Some(entity(account)),
            from: Some(self.parts.bus.own(Role::Edge)),
            payload: Some(Payload::Telephone(TelephoneMessage { message: Some(message) })),
            ..Envelope::default()
        })
    }

    /// Accounts that have not answered are asked again, and in the end not any more.
    pub(super) fn ask_again(&mut self, now: Timestamp) {
        while let Some(due) = self.registrations.due(now) {
            match due {
                Due::Again(account, message) => {
                    self.parts.metrics.given_again.inc();
                    // One that cannot be had now is asked the next time.
                    let _ = self.to_account(&account, *message);
                }
                Due::Over(id) => {
                    let Some(waiting) = self.registrations.over(id) else { continue };
                    self.parts.metrics.registration("unanswered");
                    let response = later(&waiting.request, &self.layer.to_tag(&waiting.request));
                    self.answer(id, response);
                }
            }
        }
    }

    pub(super) fn registrar_answered(&mut self, answer: RegistrarAnswer) {
        // Answered before, by another asking.
        let Some((id, waiting)) = self.registrations.answered(&answer.transaction) else {
            return self.parts.metrics.drop("late_registration");
        };
        let tag = self.layer.to_tag(&waiting.request);
        let (response, result) = match answer.result {
            Some(registrar_answer::Result::Bindings(list)) => {
                (registered(&waiting.request, &list.contacts, &tag), "done")
            }
            Some(registrar_answer::Result::Refusal(refusal)) if refusal.reason() == Reason::Replayed => {
                let (asks, purpose, Waiting { request, realm, .. }) =
                    (&self.authenticator, Purpose::Register, &*waiting);
                (asks.challenge(now(), request, purpose, realm, true, &tag), "replayed")
            }
            Some(registrar_answer::Result::Refusal(refusal)) => {
                (refused(&waiting.request, &refusal, &tag), "refused")
            }
            None => (later(&waiting.request, &tag), "unanswered"),
        };
        self.parts.metrics.registration(result);
        self.answer(id, response);
    }
}

/// 200 with everything that is bound (RFC 3261 section 10.3 step 8), and the proxies between (RFC 3327 section 5.3).
fn registered(request: &Request, contacts: &[BoundContact], tag: &str) -> Response {
    let mut response = Response::to(request, 200).with_to_tag(tag);
    for path in request.headers.all(&HeaderName::Path) {
        response.headers.push(HeaderName::Path, path.clone());
    }
    for contact in contacts {
        // What the account has kept was read as a URI before.
        let Ok(uri) = Uri::parse(contact.uri.as_bytes()) else { continue };
        let mut value = NameAddr::new(uri);
        value.params.set("expires", Some(&contact.expires_s.to_string()));
        if let Some(q) = contact.q {
            value.params.set("q", Some(&format!("{}.{:03}", q / 1_000, q % 1_000)));
        }
        if !contact.instance.is_empty() {
            value.params.set("+sip.instance", Some(&contact.instance));
        }
        if contact.reg_id > 0 {
            value.params.set("reg-id", Some(&contact.reg_id.to_string()));
        }
        response.headers.push(HeaderName::Contact, value.to_value());
    }
    response
}

fn refused(request: &Request, refusal: &Refusal, tag: &str) -> Response {
    let answer = |status| Response::to(request, status).with_to_tag(tag);
    match refusal.reason() {
        Reason::Malformed => answer(400).with_reason(&refusal.text),
        Reason::IntervalTooBrief => {
            answer(423).with_header(HeaderName::MinExpires, refusal.value.to_string())
        }
        Reason::TooManyContacts => answer(403).with_reason(&format!("At Most {} Contacts", refusal.value)),
        Reason::OutOfOrder => answer(500).with_reason("CSeq Out Of Order"),
        Reason::Unknown => answer(403),
        Reason::Replayed | Reason::Unspecified => answer(500),
    }
}

/// 503: not now.
fn later(request: &Request, tag: &str) -> Response {
    let seconds = rand::rng().random_range(LATER_S);
    Response::to(request, 503).with_to_tag(tag).with_header(HeaderName::RetryAfter, seconds.to_string())
}

/// 200 with the contacts as they were given, for at most an hour; malformed ones are 400.
fn acknowledge(request: &Request, to_tag: &str) -> Response {
    let (Ok(_), Ok(expires)) = (request.headers.contacts(), request.headers.expires()) else {
        return Response::to(request, 400).with_to_tag(to_tag);
    };
    let mut response = Response::to(request, 200).with_to_tag(to_tag);
    for contact in request.headers.all(&HeaderName::Contact) {
        response.headers.push(HeaderName::Contact, contact.clone());
    }
    let seconds = expires.unwrap_or(ACKNOWLEDGED_S).min(ACKNOWLEDGED_S);
    response.with_header(HeaderName::Expires, seconds.to_string())
}
