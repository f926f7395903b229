use std::{net::IpAddr, sync::Arc};

use axum::{Extension, Json, extract::State, response::IntoResponse};
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::ApiJson;
use crate::{
    auth::Caller,
    ports::Account,
    problem::Problem,
    server::{ClientAddress, Shared},
    ws::protocol::User,
};

const MAX_NAME_CHARS: usize = 128;
/// Argon2 takes any length; nobody types more.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// A sign-in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    /// Sign-in name.
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// Password.
    #[schemars(length(min = 1, max = 1024))]
    password: String,
}

/// A session begun.
#[derive(Serialize, JsonSchema)]
pub(super) struct SessionBegun {
    /// For `Authorization: Bearer`; browsers use the cookie instead.
    token: String,
    /// When the session ends, milliseconds since the Unix epoch.
    expires_ms: i64,
    /// Who signed in.
    user: User,
}

/// The caller as the API shows it.
pub(crate) fn user(caller: &Caller) -> User {
    User {
        name: caller.name.clone(),
        display_name: caller.display_name.clone(),
        roles: caller.roles.clone(),
        tenant: caller.tenant.to_string(),
        agent_id: caller.agent.as_ref().map(ToString::to_string),
    }
}

fn account_user(account: Account) -> User {
    User {
        name: account.name,
        display_name: account.display_name,
        roles: account.roles,
        tenant: account.tenant.to_string(),
        agent_id: account.agent.as_ref().map(ToString::to_string),
    }
}

/// `POST /session`
pub(super) async fn begin(
    State(shared): State<Arc<Shared>>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    ApiJson(credentials): ApiJson<Credentials>,
) -> Result<impl IntoResponse, Problem> {
    let name = credentials.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(Problem::field("name", format!("Give 1 to {MAX_NAME_CHARS} characters.")));
    }
    if credentials.password.is_empty() || credentials.password.len() > MAX_PASSWORD_BYTES {
        return Err(Problem::field("password", format!("Give 1 to {MAX_PASSWORD_BYTES} bytes.")));
    }
    let peer = address.map_or(IpAddr::from([0, 0, 0, 0]), |Extension(ClientAddress(peer))| peer);
    let from = forwarded(&shared, peer, &headers);
    let signed_in = shared.auth.sign_in(name, credentials.password, from).await?;
    let cookie = shared.auth.cookie(Some(&signed_in.token)).ok_or_else(Problem::internal)?;
    let body = SessionBegun {
        token: signed_in.token,
        expires_ms: signed_in.expires_ms,
        user: account_user(signed_in.account),
    };
    Ok(([(header::SET_COOKIE, cookie)], Json(body)))
}

/// The client's address: the peer, or what a trusted proxy says last.
fn forwarded(shared: &Shared, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !shared.config.trusted_proxies.contains(&peer.to_canonical()) {
        return peer;
    }
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    last.and_then(|value| value.to_str().ok())
        .and_then(|text| text.rsplit(',').next())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(peer)
}

/// `GET /session`
pub(super) async fn read(Extension(caller): Extension<Caller>) -> Json<User> {
    Json(user(&caller))
}

/// `DELETE /session`
pub(super) async fn end(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
) -> Result<impl IntoResponse, Problem> {
    shared.auth.sign_out(&caller);
    let cookie = shared.auth.cookie(None).ok_or_else(Problem::internal)?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]))
}
