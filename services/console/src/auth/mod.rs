//! Sign-in, sessions of people, and rights.

mod csrf;
mod password;
mod rights;
mod throttle;
mod token;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use trunkline_types::{AgentId, TenantId};

pub(crate) use csrf::{check_origin, same_host};
pub use password::{HashError, hash_password, password_fits};
pub(crate) use rights::{Access, Right};
pub use token::{KeyError, SigningKeys};

use self::{
    password::{Verdict, Verifier},
    throttle::Throttle,
    token::{Claims, Revocations},
};
use crate::{
    clock,
    config::ConsoleConfig,
    metrics::ConsoleMetrics,
    ports::{Account, Directory, Role},
    problem::Problem,
};

/// Name of the session cookie.
pub(crate) const COOKIE: &str = "trunkline_session";

/// How a request showed who it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// The browser sent the cookie by itself: state changes need proof of the same origin.
    Cookie,
    /// A token that a script put there on purpose.
    Bearer,
}

/// Who asks, and what they may do; looked up at each request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) display_name: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) tenant: TenantId,
    pub(crate) agent: Option<AgentId>,
    pub(crate) token_id: String,
    pub(crate) expires_ms: i64,
    fingerprint: String,
    pub(crate) via: Via,
}

impl Caller {
    /// Whether one of the roles has this right.
    pub(crate) fn may(&self, right: Right) -> bool {
        right.is_held_by(&self.roles) && (right != Right::AgentDesk || self.agent.is_some())
    }
}

/// Whose a session of an agent's page is.
fn session_owner(caller: &Caller) -> String {
    let agent = caller.agent.as_ref().map(AgentId::as_str).unwrap_or_default();
    format!("{}\n{agent}\n{}", caller.tenant, caller.name)
}

/// A session just begun.
pub(crate) struct SignedIn {
    pub(crate) account: Account,
    pub(crate) token: String,
    pub(crate) expires_ms: i64,
}

/// Everything about who is who.
pub(crate) struct Auth {
    keys: SigningKeys,
    directory: Arc<dyn Directory>,
    revoked: Revocations,
    throttle: Throttle,
    verifier: Verifier,
    lifetime: Duration,
    secure: bool,
    metrics: ConsoleMetrics,
}

impl Auth {
    pub(crate) fn new(
        config: &ConsoleConfig,
        keys: SigningKeys,
        directory: Arc<dyn Directory>,
        metrics: ConsoleMetrics,
    ) -> Result<Self, HashError> {
        Ok(Self {
            keys,
            directory,
            revoked: Revocations::default(),
            throttle: Throttle::default(),
            verifier: Verifier::new(config.sign_ins_at_once, config.password_cost)?,
            lifetime: config.timings.token,
            secure: config.cookies_are_secure(),
            metrics,
        })
    }

    /// A new name for a session of an agent's page, marked for its account.
    pub(crate) fn name_session(&self, caller: &Caller) -> String {
        self.keys.name_session(&session_owner(caller))
    }

    /// Whether a node with these keys gave this name to a session of this account.
    pub(crate) fn is_session_of(&self, caller: &Caller, name: &str) -> bool {
        self.keys.is_session_of(&session_owner(caller), name)
    }

    /// Who sends these headers; `None` without a valid session. A bearer token that is there but wrong is not
    /// replaced by a cookie.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let (token, via) = match headers.get(header::AUTHORIZATION) {
            Some(value) => (bearer(value)?, Via::Bearer),
            None => (cookie(headers)?, Via::Cookie),
        };
        let claims = self.keys.open(token, clock::now_ms())?;
        self.admit(claims, via)
    }

    /// What opens the agents' WebSocket of another console for this caller, for as long as the sign-in holds.
    pub(crate) fn ticket(&self, caller: &Caller) -> String {
        self.keys.ticket(&Claims {
            id: caller.token_id.clone(),
            name: caller.name.clone(),
            tenant: caller.tenant.to_string(),
            expires_ms: caller.expires_ms,
            fingerprint: caller.fingerprint.clone(),
        })
    }

    /// Who holds a ticket.
    pub(crate) fn ticket_holder(&self, ticket: &str) -> Option<Caller> {
        let claims = self.keys.open_ticket(ticket, clock::now_ms())?;
        self.admit(claims, Via::Bearer)
    }

    fn admit(&self, claims: Claims, via: Via) -> Option<Caller> {
        if self.revoked.contains(&claims.id) {
            return None;
        }
        let account = self.directory.account(&claims.name)?;
        let unchanged = account.tenant.as_str() == claims.tenant
            && token::fingerprint(&account.password_hash) == claims.fingerprint;
        unchanged.then_some(Caller {
            name: account.name,
            display_name: account.display_name,
            roles: account.roles,
            tenant: account.tenant,
            agent: account.agent,
            token_id: claims.id,
            expires_ms: claims.expires_ms,
            fingerprint: claims.fingerprint,
            via,
        })
    }

    /// Whether a caller admitted before still is: not expired, not signed out, password unchanged, right still there.
    pub(crate) fn still_holds(&self, caller: &Caller, right: Right) -> bool {
        if caller.expires_ms <= clock::now_ms() || self.revoked.contains(&caller.token_id) {
            return false;
        }
        self.directory.account(&caller.name).is_some_and(|account| {
            token::fingerprint(&account.password_hash) == caller.fingerprint
                && account.agent == caller.agent
                && account.tenant == caller.tenant
                && right.is_held_by(&account.roles)
        })
    }

    /// Verifies a name and a password. Unknown names take as long and give the same answer as wrong passwords.
    pub(crate) async fn sign_in(
        &self,
        name: &str,
        password: String,
        from: IpAddr,
    ) -> Result<SignedIn, Problem> {
        let account = self.directory.account(name);
        // What is typed here by mistake may be a password: only names that exist are logged.
        let logged = account.as_ref().map_or("(unknown)", |account| account.name.as_str()).to_owned();
        let attempt = self.throttle.begin(name, from).map_err(|wait| {
            self.metrics.sign_in("throttled");
            tracing::warn!(target: "audit", action = "sign_in", outcome = "throttled", name = logged, %from, "sign-in");
            Problem::too_many("Too many failed sign-ins: wait before the next one.", wait)
        })?;
        let hash = account.as_ref().map(|account| account.password_hash.clone());
        match (self.verifier.verify(hash, password).await, account) {
            (Verdict::Right, Some(account)) => {
                self.throttle.succeeded(attempt);
                self.metrics.sign_in("ok");
                tracing::info!(target: "audit", action = "sign_in", outcome = "ok", name = logged, %from,
                    tenant = %account.tenant, "sign-in");
                let now = clock::now_ms();
                let (token, expires_ms) = self.keys.issue(&account, now, self.lifetime);
                Ok(SignedIn { account, token, expires_ms })
            }
            (Verdict::Busy, _) => {
                self.throttle.withdrawn(attempt);
                self.metrics.sign_in("busy");
                Err(Problem::busy("Too many sign-ins at once: try again in a moment."))
            }
            _ => {
                self.metrics.sign_in("wrong");
                tracing::warn!(target: "audit", action = "sign_in", outcome = "wrong", name = logged, %from, "sign-in");
                Err(Problem::wrong_credentials())
            }
        }
    }

    /// Ends a session: its token is refused from now on.
    pub(crate) fn sign_out(&self, caller: &Caller) {
        tracing::info!(target: "audit", action = "sign_out", name = caller.name, tenant = %caller.tenant, "sign-out");
        self.revoked.add(&caller.token_id, caller.expires_ms, clock::now_ms());
    }

    /// `Set-Cookie` for a token, or to remove it.
    pub(crate) fn cookie(&self, token: Option<&str>) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        let (value, age) = token.map_or(("", 0), |token| (token, self.lifetime.as_secs()));
        let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
        HeaderValue::from_str(&text).ok()
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; trunkline_sessions=x".parse().unwrap());
        headers.append(header::COOKIE, "b=2;trunkline_session=tok.en; c".parse().unwrap());
        assert_eq!(cookie(&headers), Some("tok.en"));
    }

    #[test]
    fn the_scheme_of_a_token_is_case_insensitive() {
        assert_eq!(bearer(&HeaderValue::from_static("bEaReR abc")), Some("abc"));
        assert_eq!(bearer(&HeaderValue::from_static("Basic abc")), None);
    }
}
