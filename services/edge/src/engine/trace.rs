//! What the edge adds to a call's trace and log: the INVITE on its way to the call.

use trunkline_proto::edge::v1::NewCall;
use trunkline_sip::{HeaderName, Request};
use trunkline_telemetry::{
    call_span, trace_id_of,
    tracing::{self, Span, field::Empty},
};
use trunkline_types::{CallId, mask_number};

use crate::{config::Trunk, transport::Path};

/// From the INVITE's being understood until the call has it.
pub(super) fn new_call_span(call: CallId, request: &Request, trunk: &Trunk, path: Path) -> Span {
    call_span!(
        "sip.invite",
        call,
        sip_call_id = %sip_call_id(request),
        trunk = %trunk.name,
        transport = path.name(),
        otel.status_code = Empty
    )
}

/// The one line by which a Call-ID of a peer's log leads to our call.
pub(super) fn tell(call: CallId, request: &Request, new: &NewCall) {
    tracing::info!(
        call_id = %call,
        trace_id = %trace_id_of(call),
        sip_call_id = %sip_call_id(request),
        trunk = new.trunk,
        dialled = %mask_number(&new.dialled),
        caller = %mask_number(&new.caller_number),
        "new call"
    );
}

/// The Call-ID, cut to what a log line bears.
fn sip_call_id(request: &Request) -> String {
    let id = request.headers.get_str(&HeaderName::CallId).unwrap_or_default();
    id.chars().take(128).collect()
}
