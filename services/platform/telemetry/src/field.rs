//! The names of log and span fields, so that one query finds everything about a call. As span attributes those without a
//! dot are exported with the prefix `trunkline.`.

/// The call, end to end.
pub const CALL_ID: &str = "call_id";
/// A leg of a call.
pub const LEG_ID: &str = "leg_id";
/// The Call-ID header of a dialog (RFC 3261 section 20.8).
pub const SIP_CALL_ID: &str = "sip_call_id";
/// The trace of a call.
pub const TRACE_ID: &str = "trace_id";
/// A tenant.
pub const TENANT: &str = "tenant";
/// A queue.
pub const QUEUE: &str = "queue";
/// A human agent.
pub const AGENT: &str = "agent";
/// An offer of a call to an agent.
pub const OFFER_ID: &str = "offer_id";
/// A shard.
pub const SHARD: &str = "shard";
/// A node.
pub const NODE: &str = "node";
/// What went wrong.
pub const ERROR: &str = "error";
