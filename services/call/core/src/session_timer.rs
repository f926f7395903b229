//! RFC 4028, the least of it: when the peer offers to refresh, we accept and watch; otherwise there is no timer.

use std::time::Duration;

use trunkline_sip::{HeaderName, Refresher, Request, Response};
use trunkline_types::Timestamp;

/// What a request says about the session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// No timer.
    None,
    /// The peer refreshes each so many seconds.
    Peer(u32),
    /// Below our minimum: 422.
    TooSmall,
}

/// Reads Session-Expires of an INVITE or UPDATE.
pub(crate) fn wish(request: &Request, min: Duration) -> Wish {
    let Ok(Some(expires)) = request.headers.session_expires() else { return Wish::None };
    let timer = |tags: Vec<String>| tags.iter().any(|tag| tag.eq_ignore_ascii_case("timer"));
    let supported =
        request.headers.supported().is_ok_and(timer) || request.headers.require().is_ok_and(timer);
    if !supported {
        return Wish::None;
    }
    if u64::from(expires.seconds) < min.as_secs() {
        return Wish::TooSmall;
    }
    match expires.refresher {
        // Asked to refresh ourselves we do without a timer, which section 9 leaves to the server.
        Some(Refresher::Uas) => Wish::None,
        Some(Refresher::Uac) | None => Wish::Peer(expires.seconds),
    }
}

/// Puts what was agreed into a 2xx.
pub(crate) fn put(response: &mut Response, session_s: Option<u32>) {
    if let Some(seconds) = session_s {
        response.headers.push(HeaderName::SessionExpires, format!("{seconds};refresher=uac"));
        response.headers.push(HeaderName::Require, "timer");
    }
}

/// Asks for the same timer in a request of ours: the peer goes on refreshing.
pub(crate) fn ask(request: &mut Request, session_s: Option<u32>, min: Duration) {
    if let Some(seconds) = session_s {
        request.headers.push(HeaderName::SessionExpires, format!("{seconds};refresher=uas"));
        request.headers.push(HeaderName::MinSe, min.as_secs().to_string());
    }
}

/// What the peer agreed to in its 2xx: only a timer that it refreshes itself is one for us.
pub(crate) fn agreed(response: &Response) -> Option<u32> {
    let expires = response.headers.session_expires().ok().flatten()?;
    (expires.refresher == Some(Refresher::Uas)).then_some(expires.seconds)
}

/// When a session that was refreshed at `now` counts as lost. Section 10: the side that does not refresh sends BYE
/// shortly before the expiration, at the latest min(32, a third) seconds before it.
pub(crate) fn expiry(now: Timestamp, session_s: u32) -> Timestamp {
    let margin = 32.min(session_s / 3);
    now.plus(Duration::from_secs(u64::from(session_s - margin)))
}
