//! The spans of a call's trace: short ones. What may last for minutes (a wait, a conversation) is one span at its end
//! that carries how long it was, so that no span lives as long as a call.

use tracing::{Span, info_span};
use trunkline_call_core::{Call, Phase};
use trunkline_telemetry::TraceParent;
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

    /// The call moved on.
    pub fn moved(&mut self, from: Phase, to: Phase, core: &Call, now: Timestamp) {
        let call_id = tracing::field::display(self.call);
        let ms = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        let queue = core.queue().map(ToString::to_string).unwrap_or_default();
        match from {
            Phase::Queued => self.adopt(&info_span!("call.queue", %call_id, duration_ms = ms)),
            Phase::Talking => self.adopt(&info_span!("call.talk", %call_id, duration_ms = ms)),
            _ => {}
        }
        self.since = now;
        // Replacing it ends and exports the one before.
        self.open = match to {
            Phase::SettingUp => Some(info_span!("call.setup", %call_id)),
            Phase::Flow => Some(info_span!("call.flow", %call_id)),
            Phase::Connecting => Some(info_span!("call.ring", %call_id, queue)),
            Phase::Ended => {
                let cause = core.cause().map_or("", |cause| cause.as_str());
                Some(info_span!("call.wrap_up", %call_id, cause))
            }
            Phase::New | Phase::Queued | Phase::Talking => None,
        };
        if let Some(span) = &self.open {
            self.adopt(span);
        }
    }

    fn adopt(&self, span: &Span) {
        TraceParent::of_call(self.call).adopt(span);
    }
}
