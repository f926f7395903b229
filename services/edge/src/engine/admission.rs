//! Who may call and where it leads, and what is answered without a call.

use std::sync::Arc;

use trunkline_actors::now;
use trunkline_proto::edge::v1::{NewCall, new_call};
use trunkline_sip::{HeaderName, Method, Request, Response, Uri, uas};
use trunkline_types::{CallId, DialString, TenantId, mask_number};

use super::{
    Engine, mint,
    register::{Purpose, Verdict},
};
use crate::{Destination, TelephoneAccount, config::Trunk, transport::Path};

/// A new call that may come in.
pub(super) struct Admitted {
    pub trunk: Arc<Trunk>,
    pub dialled: DialString,
    pub destination: Destination,
    /// The telephone that calls; `None` = it comes over a trunk.
    pub telephone: Option<Arc<TelephoneAccount>>,
}

/// What a request was found to be before it got its transaction.
pub(super) enum Passed {
    /// A call that may come in.
    Call(Box<Admitted>),
    /// A REGISTER of this account, with the nonce that it has used up.
    Register { account: Arc<TelephoneAccount>, nonce: u64, count: u32 },
}

/// Why a call may not come in.
pub(super) enum NotAdmitted {
    /// With this status, for this reason.
    Refused(u16, &'static str),
    /// It has to say who it is: 407, in this realm.
    Challenge { realm: String, stale: bool },
}

impl Engine {
    /// What needs no call needs no transaction either (RFC 3261 section 8.2.7): whoever can forge a source gets one
    /// answer for one request out of us, and nothing is kept. The answer to a retransmission is the same again. `None`:
    /// the transaction layer takes the request.
    pub(super) fn answer_at_once(&mut self, request: &Request, path: Path) -> Option<Response> {
        self.passed = None;
        let status = match request.method {
            Method::Ack => return None,
            Method::Cancel => {
                // RFC 3261 section 9.2: 481 unless its INVITE is with a call.
                let invite = Request { method: Method::Invite, ..request.clone() };
                if self.calls.knows_invite(&self.layer.to_tag(&invite)) {
                    return None;
                }
                (481, "no_dialog")
            }
            _ if request.is_in_dialog() => {
                if self.token_call(request).is_some() {
                    return None;
                }
                (481, "no_dialog")
            }
            Method::Invite => {
                let tag = self.layer.to_tag(request);
                if self.calls.knows_invite(&tag) {
                    return None;
                }
                match self.admit(request, path) {
                    Ok(admitted) => {
                        self.passed = Some((tag, Passed::Call(Box::new(admitted))));
                        return None;
                    }
                    Err(NotAdmitted::Challenge { realm, stale }) => {
                        let (asks, purpose) = (&self.authenticator, Purpose::Call);
                        return Some(asks.challenge(now(), request, purpose, &realm, stale, &tag));
                    }
                    Err(NotAdmitted::Refused(status, reason)) => (status, reason),
                }
            }
            // By this load balancers and trunks learn to go elsewhere. Overload alone is no reason: it passes.
            Method::Options if self.drains() => (503, "draining"),
            Method::Options if !mint::is_possible(&*self.parts.placement) => (503, "no_shard"),
            Method::Options => {
                return Some(uas::options_answer(request, &self.capabilities, &self.layer.to_tag(request)));
            }
            Method::Register => return self.judge_register(request, path),
            // RFC 3261 section 12.2.2: outside a dialog these mean nothing.
            Method::Bye | Method::Update | Method::Info => (481, "no_dialog"),
            _ => (405, "method"),
        };
        self.parts.metrics.reject(status.1);
        let mut response = Response::to(request, status.0).with_to_tag(&self.layer.to_tag(request));
        if status.0 == 405 {
            response = response.with_header(HeaderName::Allow, self.capabilities.allow());
        }
        Some(response)
    }

    /// Whether a new call may come in, and where it leads; else status and reason.
    fn admit(&mut self, request: &Request, path: Path) -> Result<Admitted, NotAdmitted> {
        let trunk = self.parts.settings.trunk_of(path.peer().ip()).cloned();
        if trunk.is_none() && !self.parts.accounts.any() {
            return Err(NotAdmitted::Refused(403, "unknown_source"));
        }
        if self.overloaded() {
            return Err(NotAdmitted::Refused(503, "overload"));
        }
        let telephone = match &trunk {
            Some(_) => None,
            None => Some(self.calling_telephone(request, path)?),
        };
        let of_telephones = |account: &Arc<TelephoneAccount>| Arc::new(Trunk::of_telephones(&account.tenant));
        let Some(trunk) = trunk.or_else(|| telephone.as_ref().map(of_telephones)) else {
            return Err(NotAdmitted::Refused(403, "unknown_source"));
        };
        let dialled = dialled(request).ok_or(NotAdmitted::Refused(404, "unknown_number"))?;
        if telephone.as_ref().is_some_and(|account| !may_dial(account, &dialled)) {
            return Err(NotAdmitted::Refused(403, "may_not_dial"));
        }
        let Some(destination) = self.parts.dial_plan.resolve(&trunk.tenant, &dialled) else {
            if self.may_log_refusal() {
                tracing::info!(dialled = %mask_number(dialled.as_str()), trunk = %trunk.name, "nobody has this number");
            }
            return Err(NotAdmitted::Refused(404, "unknown_number"));
        };
        Ok(Admitted { trunk, dialled, destination, telephone })
    }

    /// The telephone that calls, by its credentials.
    fn calling_telephone(
        &mut self,
        request: &Request,
        path: Path,
    ) -> Result<Arc<TelephoneAccount>, NotAdmitted> {
        let (realm, source) = (self.realm(request), path.peer().ip());
        let accounts = &*self.parts.accounts;
        match self.authenticator.verify(now(), request, Purpose::Call, source, &realm, accounts) {
            Verdict::Is { account, .. } => Ok(account),
            Verdict::Challenge { stale, .. } => Err(NotAdmitted::Challenge { realm, stale }),
            Verdict::Locked => Err(NotAdmitted::Refused(403, "locked")),
        }
    }

    /// What the request in hand was found to be; `None` for another one.
    pub(super) fn take_passed(&mut self, request: &Request) -> Option<Passed> {
        let (tag, passed) = self.passed.take()?;
        (tag == self.layer.to_tag(request)).then_some(passed)
    }

    /// `transport` as in [`Path::name`].
    pub(super) fn contact_uri(&self, tenant: &TenantId, call: CallId, transport: &str) -> String {
        let user = self.parts.key.user(tenant, call);
        match transport {
            "tcp" => format!("sip:{user}@{};transport=tcp", self.parts.advertised),
            _ => format!("sip:{user}@{}", self.parts.advertised),
        }
    }
}

/// The user part of the Request-URI (RFC 3261 section 8.2.2.1), or the number of a tel URI.
fn dialled(request: &Request) -> Option<DialString> {
    match &request.uri {
        Uri::Sip(uri) => uri.user()?.parse().ok(),
        Uri::Tel(uri) => uri.number().parse().ok(),
        Uri::Other(_) => None,
    }
}

fn may_dial(account: &TelephoneAccount, dialled: &DialString) -> bool {
    let is_it = |number: &String| number.eq_ignore_ascii_case(dialled.as_str());
    account.may_dial.is_empty() || account.may_dial.iter().any(is_it)
}

/// What peers say of themselves is shown to people: without control characters, without those that change the direction
/// of what stands beside them, and not without end.
fn presentable(text: &str) -> String {
    let misleading = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars().filter(|c| !c.is_control() && !misleading(*c)).take(128).collect()
}

/// Number and name of the caller as asserted or claimed; empty = anonymous.
fn claimed(request: &Request, trunk: &Trunk) -> (String, String) {
    let asserted = if trunk.trust_identity { request.headers.asserted_identities().ok() } else { None };
    let identity = asserted.and_then(|list| list.into_iter().next()).or_else(|| request.headers.from().ok());
    let private = is_private(request);
    let (mut caller_number, mut caller_name) = (String::new(), String::new());
    if let Some(identity) = identity.filter(|_| !private) {
        caller_number = match &identity.uri {
            Uri::Sip(uri) => uri.user().unwrap_or_default(),
            Uri::Tel(uri) => uri.number().to_owned(),
            Uri::Other(_) => String::new(),
        };
        caller_name = identity.display_text().map(|text| text.to_string()).unwrap_or_default();
        // Without the separators that some write between digits.
        if let Ok(number) = caller_number.parse::<DialString>() {
            caller_number = number.as_str().to_owned();
        }
        if caller_number.eq_ignore_ascii_case("anonymous") {
            caller_number.clear();
            caller_name.clear();
        }
    }
    (caller_number, caller_name)
}

fn is_private(request: &Request) -> bool {
    request.headers.privacy().iter().any(|v| v == "id" || v == "user")
}

pub(super) fn describe(request: &Request, admitted: &Admitted, contact_uri: String) -> NewCall {
    let Admitted { trunk, dialled, destination, telephone } = admitted;
    let (caller_number, caller_name) = match telephone {
        Some(_) if is_private(request) => (String::new(), String::new()),
        Some(account) => (account.caller_number.clone(), account.caller_name.clone()),
        None => claimed(request, trunk),
    };
    NewCall {
        tenant: trunk.tenant.as_str().to_owned(),
        dialled: dialled.as_str().to_owned(),
        destination: Some(match destination {
            Destination::Queue(queue) => new_call::Destination::Queue(queue.as_str().to_owned()),
            Destination::Flow(flow) => new_call::Destination::Flow(flow.as_str().to_owned()),
        }),
        caller_number: presentable(&caller_number),
        caller_name: presentable(&caller_name),
        contact_uri,
        trunk: trunk.name.to_string(),
    }
}
