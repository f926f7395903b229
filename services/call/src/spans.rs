//! The spans of a call's trace: short ones. What may last for minutes (a wait, a conversation) is one span at its end
//! that carries how long it was, so that no span lives as long as a call.

use tracing::Span;
use trunkline_call_core::{Call, Phase};
use trunkline_telemetry::{TraceParent, call_span};
use trunkline_types::{CallId, Timestamp};

/// A call's open span, and since when it is in its phase.
pub(crate) struct Spans {
    call: CallId,
    open: Option<Span>,
    since: Timestamp,
}

impl Spans {
    pub fn new(call: CallId) -> Self {
        Self { call, open: None, since: Timestamp::ZERO }
    }

    /// The call moved on. `cause` is the traceparent of the message in hand; the answer is that of what follows.
    pub fn moved(&mut self, from: Phase, to: Phase, cause: &str, core: &Call, now: Timestamp) -> String {
        let call = self.call;
        let ms = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        let queue = core.queue().map(ToString::to_string).unwrap_or_default();
        match from {
            Phase::Queued => drop(call_span!("call.queue", call, under = cause, queue, duration_ms = ms)),
            Phase::Talking => drop(call_span!("call.talk", call, duration_ms = ms)),
            _ => {}
        }
        self.since = now;
        // Replacing it ends and exports the one before.
        self.open = match to {
            Phase::SettingUp => Some(call_span!("call.setup", call, under = cause)),
            Phase::Flow => Some(call_span!("call.flow", call)),
            Phase::Connecting => Some(call_span!("call.connect", call, under = cause, queue)),
            Phase::Ended => {
                let cause = core.cause().map_or("", |cause| cause.as_str());
                Some(call_span!("call.settle", call, cause))
            }
            Phase::New | Phase::Queued | Phase::Talking => None,
        };
        let parent = self.open.as_ref().and_then(TraceParent::of_span);
        TraceParent::header(parent.or_else(|| TraceParent::of_message("", call)))
    }
}
