//! Who may call and where it leads, and what is answered without a call.

use std::sync::Arc;

use trunkline_actors::now;
use trunkline_proto::edge::v1::{NewCall, new_call};
use trunkline_sip::{HeaderName, Method, Request, Response, Uri, uas};
use trunkline_types::{CallId, DialString, TenantId, mask_number};

use super::{Engine, mint};
use crate::{
    Destination,
    config::{Registrations, Trunk},
    transport::Path,
};

/// A new call that may come in.
pub(super) struct Admitted {
    pub trunk: Arc<Trunk>,
    pub dialled: DialString,
    pub destination: Destination,
}

impl Engine {
    /// What needs no call needs no transaction either (RFC 3261 section 8.2.7): whoever can forge a source gets one
    /// answer for one request out of us, and nothing is kept. The answer to a retransmission is the same again. `None`:
    /// the transaction layer takes the request.
    pub(super) fn answer_at_once(&mut self, request: &Request, path: Path) -> Option<Response> {
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
                if self.calls.knows_invite(&self.layer.to_tag(request)) {
                    return None;
                }
                match self.admit(request, path) {
                    Ok(_) => return None,
                    Err(refusal) => refusal,
                }
            }
            // By this load balancers and trunks learn to go elsewhere. Overload alone is no reason: it passes.
            Method::Options if self.drains() => (503, "draining"),
            Method::Options if !mint::is_possible(&*self.parts.placement) => (503, "no_shard"),
            Method::Options => {
                return Some(uas::options_answer(request, &self.capabilities, &self.layer.to_tag(request)));
            }
            Method::Register => {
                let trunk = self.parts.settings.trunk_of(path.peer().ip());
                let policy = trunk.map_or(Registrations::Challenge, |trunk| trunk.registrations);
                return Some(self.registrar.answer(now(), request, policy, &self.layer.to_tag(request)));
            }
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
    pub(super) fn admit(&mut self, request: &Request, path: Path) -> Result<Admitted, (u16, &'static str)> {
        let trunk = self.parts.settings.trunk_of(path.peer().ip()).cloned();
        let trunk = trunk.ok_or((403, "unknown_source"))?;
        if self.overloaded() {
            return Err((503, "overload"));
        }
        let dialled = dialled(request).ok_or((404, "unknown_number"))?;
        let Some(destination) = self.parts.dial_plan.resolve(&trunk.tenant, &dialled) else {
            if self.may_log_refusal() {
                tracing::info!(dialled = %mask_number(dialled.as_str()), trunk = %trunk.name, "nobody has this number");
            }
            return Err((404, "unknown_number"));
        };
        Ok(Admitted { trunk, dialled, destination })
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

/// What peers say of themselves is shown to people: without control characters, without those that change the direction
/// of what stands beside them, and not without end.
fn presentable(text: &str) -> String {
    let misleading = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars().filter(|c| !c.is_control() && !misleading(*c)).take(128).collect()
}

pub(super) fn describe(
    request: &Request,
    trunk: &Trunk,
    dialled: DialString,
    to: Destination,
    contact_uri: String,
) -> NewCall {
    let asserted = if trunk.trust_identity { request.headers.asserted_identities().ok() } else { None };
    let identity = asserted.and_then(|list| list.into_iter().next()).or_else(|| request.headers.from().ok());
    let private = request.headers.privacy().iter().any(|v| v == "id" || v == "user");
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
    NewCall {
        tenant: trunk.tenant.as_str().to_owned(),
        dialled: dialled.as_str().to_owned(),
        destination: Some(match to {
            Destination::Queue(queue) => new_call::Destination::Queue(queue.as_str().to_owned()),
            Destination::Flow(flow) => new_call::Destination::Flow(flow.as_str().to_owned()),
        }),
        caller_number: presentable(&caller_number),
        caller_name: presentable(&caller_name),
        contact_uri,
        trunk: trunk.name.to_string(),
    }
}
