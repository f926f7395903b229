use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

pub use opentelemetry::TraceId;
use opentelemetry::{
    Context, SpanId,
    trace::{SpanContext, TraceContextExt, TraceFlags, TraceState},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use trunkline_types::CallId;

/// Spans with a trace id whose low 63 bits are below this are sampled. 0 = traces are not exported.
static SAMPLED_BELOW: AtomicU64 = AtomicU64::new(0);

/// Sets which share of the traces is exported, 0 to 1.
pub(crate) fn set_sample_ratio(ratio: f64) {
    SAMPLED_BELOW.store((ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64, Ordering::Relaxed);
}

/// Whether this process exports traces at all. Spans that nobody will see should not be made.
pub fn exported() -> bool {
    SAMPLED_BELOW.load(Ordering::Relaxed) > 0
}

/// The trace of a call, the same on every node and at every time: two 64-bit FNV-1a hashes of the id's text form, each
/// passed through the finaliser of splitmix64 (samplers decide by the low bits).
pub fn trace_id_of(call: CallId) -> TraceId {
    let text = call.to_string();
    let hash = |basis: u64| {
        let fnv = text
            .bytes()
            .fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        mix(fnv)
    };
    let id = (u128::from(hash(0xcbf2_9ce4_8422_2325)) << 64) | u128::from(hash(0x6c62_272e_07bb_0142));
    // All zeros means "no trace".
    TraceId::from_bytes(id.max(1).to_be_bytes())
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A W3C trace context, as it goes with messages between nodes and in HTTP headers. Text form: `traceparent`, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that caused what follows.
    pub span_id: SpanId,
    /// Whether the trace is exported.
    pub sampled: bool,
}

impl TraceParent {
    /// The common parent of a call's spans. It is never exported itself: a call is too long for a span.
    pub fn of_call(call: CallId) -> Self {
        let trace_id = trace_id_of(call);
        let id = u128::from_be_bytes(trace_id.to_bytes());
        let span = mix(id as u64 ^ (id >> 64) as u64).max(1);
        let sampled = (id as u64 & (u64::MAX >> 1)) < SAMPLED_BELOW.load(Ordering::Relaxed);
        Self { trace_id, span_id: SpanId::from_bytes(span.to_be_bytes()), sampled }
    }

    /// What a span about `call` belongs under: the span named by a message's `traceparent` when it is one of this call's
    /// trace, else the common parent. `None` when the call's trace is not exported, which costs next to nothing to find out.
    pub fn of_message(traceparent: &str, call: CallId) -> Option<Self> {
        if !exported() {
            return None;
        }
        let common = Self::of_call(call);
        let named = traceparent.parse::<Self>().ok().filter(|named| named.trace_id == common.trace_id);
        Some(named.unwrap_or(common)).filter(|parent| parent.sampled)
    }

    /// That of a span, for the messages it causes; `None` when the span is not exported.
    pub fn of_span(span: &tracing::Span) -> Option<Self> {
        if span.is_disabled() || !exported() {
            return None;
        }
        let context = span.context();
        let found = context.span().span_context().clone();
        (found.is_valid() && found.is_sampled()).then(|| Self {
            trace_id: found.trace_id(),
            span_id: found.span_id(),
            sampled: true,
        })
    }

    /// The text for a message's `traceparent` field; empty when there is none.
    pub fn header(parent: Option<Self>) -> String {
        parent.map(|parent| parent.to_string()).unwrap_or_default()
    }

    /// That of the current span; `None` outside a span or when traces are not exported.
    pub fn current() -> Option<Self> {
        let context = tracing::Span::current().context();
        let span = context.span();
        let found = span.span_context();
        found.is_valid().then(|| Self {
            trace_id: found.trace_id(),
            span_id: found.span_id(),
            sampled: found.is_sampled(),
        })
    }

    /// Makes a span a child of this one. To be called before the span is entered.
    pub fn adopt(&self, span: &tracing::Span) {
        if exported() {
            // It fails only where the span is disabled or was entered before; then it stays where it is.
            let _ = span.set_parent(Context::new().with_remote_span_context(self.context()));
        }
    }

    fn context(&self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(self.trace_id, self.span_id, flags, true, TraceState::NONE)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// A text is not a traceparent of W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("traceparent {0:?} is malformed: expected 00-<32 hex>-<16 hex>-<2 hex>, ids not all zero")]
pub struct TraceParentError(String);

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Versions above 00 are read as far as 00 goes, as the recommendation asks; `ff` is refused.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let malformed = || TraceParentError(text.chars().take(80).collect());
        let hex = |part: Option<&str>, digits: usize| {
            let part = part
                .filter(|p| p.len() == digits && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))?;
            u128::from_str_radix(part, 16).ok()
        };
        let mut parts = text.trim().split('-');
        let version = hex(parts.next(), 2).filter(|version| *version != 0xff).ok_or_else(malformed)?;
        let trace = hex(parts.next(), 32).filter(|id| *id != 0).ok_or_else(malformed)?;
        let span = hex(parts.next(), 16).filter(|id| *id != 0).ok_or_else(malformed)?;
        let flags = hex(parts.next(), 2).ok_or_else(malformed)?;
        if version == 0 && parts.next().is_some() {
            return Err(malformed());
        }
        Ok(Self {
            trace_id: TraceId::from_bytes(trace.to_be_bytes()),
            span_id: SpanId::from_bytes((span as u64).to_be_bytes()),
            sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use trunkline_types::{ShardId, Timestamp};

    use super::*;

    fn call(n: u128) -> CallId {
        CallId::mint(ShardId::new(9).unwrap(), Timestamp::from_millis(1_795_000_000_000), n)
    }

    #[test]
    fn a_calls_trace_is_the_same_for_ever() {
        let first = trace_id_of(call(1));
        assert_eq!(first, trace_id_of(call(1)));
        assert_ne!(first, trace_id_of(call(2)));
        // Part of the protocol between versions: a change here splits the traces of live calls.
        assert_eq!(trace_id_of("0000000000000000000000000".parse().unwrap()).to_string(), PINNED);
    }

    const PINNED: &str = "bf88c2a463c972bd9fc73cdd1e4d0f30";

    #[test]
    fn traceparents_read_back_what_they_print() {
        let parent = TraceParent { sampled: true, ..TraceParent::of_call(call(3)) };
        assert_eq!(parent.to_string().parse(), Ok(parent));
        let example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(example.parse::<TraceParent>().unwrap().to_string(), example);
        let newer = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more";
        assert!(newer.parse::<TraceParent>().unwrap().sampled);
    }

    #[test]
    fn a_message_of_another_trace_does_not_adopt() {
        set_sample_ratio(1.0);
        let common = TraceParent::of_call(call(4));
        let other = TraceParent::of_call(call(5)).to_string();
        assert_eq!(TraceParent::of_message(&other, call(4)), Some(common));
        assert_eq!(TraceParent::of_message("", call(4)), Some(common));
        let inner = TraceParent { span_id: SpanId::from(7), ..common };
        assert_eq!(TraceParent::of_message(&inner.to_string(), call(4)), Some(inner));
    }

    #[test]
    fn malformed_traceparents_are_refused() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
