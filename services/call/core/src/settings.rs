//! Time limits of a call, and what it looks up in the configuration.

use std::{sync::Arc, time::Duration};

use trunkline_types::{CallId, Feature, FlowId, NodeId, QueueId, TenantId};

use crate::flow::Flow;

/// Time limits. The defaults suit a telephone network and a cluster in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// SIP T1: the first interval of a repeated 2xx (RFC 3261 section 17.1.1.1). 500 ms.
    pub t1: Duration,
    /// SIP T2: the longest interval of a repeated 2xx. 4 s.
    pub t2: Duration,
    /// A media command is sent again this long after the last time. 500 ms.
    pub media_resend: Duration,
    /// A media command without an answer has failed after this long. 8 s: it leaves only when the journal's disk has
    /// taken what is before it, so more than a stalled disk or a pause of the node, less than the agent's patience.
    pub media_deadline: Duration,
    /// A media node that was asked for an endpoint, or by a new owner for what is left, and does not answer for this long
    /// is left for another one, when there is another. 2 s.
    pub media_try: Duration,
    /// Looking for a media node that takes the call over lasts this long, and so long at the longest do both ends stay on
    /// a node that is left as planned. 10 s.
    pub media_search: Duration,
    /// After the loss of a media node the caller hears silence this long before music, while the agent's page makes its
    /// new connection; and in a planned move the agent comes first for this long. 2 s.
    pub move_patience: Duration,
    /// First interval of what queues and agents have to acknowledge; doubles up to `resend_max`. 500 ms.
    pub resend_first: Duration,
    /// Longest interval of the same. 4 s.
    pub resend_max: Duration,
    /// A queue that did not answer `Enqueue` for this long counts as refusing. 60 s: longer than it takes to find its new
    /// owner, and to get a word to it through a network that loses some; the caller hears music meanwhile, and may have a
    /// place there already.
    pub enqueue_deadline: Duration,
    /// While waiting the place is confirmed this often (up to 250 ms earlier, together with other calls), so that a lost place is
    /// found. 30 s; a queue asks calls that it has not heard of for 60 s.
    pub place_check: Duration,
    /// What has not been acknowledged for this long is given up; queue and agent have checks of their own. 120 s.
    pub debt_deadline: Duration,
    /// An agent without audio (a reload, a lost connection) keeps the call this long. 60 s.
    pub agent_reconnect: Duration,
    /// After the media node reported no RTP from the caller, the call is kept this long. 15 s.
    pub silence_grace: Duration,
    /// The longest that one announcement may take. 120 s.
    pub play_limit: Duration,
    /// After the end: how long a recording, its transcript and the last measurements may take to come in. 60 s.
    pub settle_deadline: Duration,
    /// The same for measurements alone, when nothing was recorded. 2 s.
    pub quality_deadline: Duration,
    /// A paused recording goes on by itself after this long. 300 s.
    pub pause_limit: Duration,
    /// A conversation that must be recorded and cannot be on any media node ends after this long. 10 s.
    pub unrecorded_limit: Duration,
    /// A session timer below this is refused with 422 (RFC 4028 section 5). 90 s.
    pub min_session: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            media_resend: Duration::from_millis(500),
            media_deadline: Duration::from_secs(8),
            media_try: Duration::from_secs(2),
            media_search: Duration::from_secs(10),
            move_patience: Duration::from_secs(2),
            resend_first: Duration::from_millis(500),
            resend_max: Duration::from_secs(4),
            enqueue_deadline: Duration::from_secs(60),
            place_check: Duration::from_secs(30),
            debt_deadline: Duration::from_secs(120),
            agent_reconnect: Duration::from_secs(60),
            silence_grace: Duration::from_secs(15),
            play_limit: Duration::from_secs(120),
            settle_deadline: Duration::from_secs(60),
            quality_deadline: Duration::from_secs(2),
            pause_limit: Duration::from_secs(300),
            unrecorded_limit: Duration::from_secs(10),
            min_session: Duration::from_secs(90),
        }
    }
}

impl Settings {
    /// How long a 2xx waits for its ACK, and a request of ours for its answer: 64*T1.
    pub fn sip_patience(&self) -> Duration {
        self.t1 * 64
    }
}

/// What a call looks up: flows by version, and how a queue treats its callers. Answers may change between calls, but
/// a version of a flow never does.
pub trait Library: Send + Sync {
    /// The flow that is in force now.
    fn flow(&self, tenant: &TenantId, id: &FlowId) -> Option<Arc<Flow>>;
    /// One immutable version, for a call that began it before.
    fn flow_version(&self, tenant: &TenantId, id: &FlowId, version: u64) -> Option<Arc<Flow>>;
    /// How a queue treats its callers; the default for an unknown one.
    fn treatment(&self, tenant: &TenantId, id: &QueueId) -> Arc<Treatment>;
    /// Whether there is such a queue.
    fn has_queue(&self, _tenant: &TenantId, _id: &QueueId) -> bool {
        true
    }
    /// The media node to which a call goes whose own is lost, drains or has no room: near the edge of its caller, and
    /// none of `avoid`. `None` = there is none; a library that knows no nodes never has one.
    fn media_node(&self, _call: CallId, _near: &NodeId, _avoid: &[NodeId]) -> Option<NodeId> {
        None
    }
    /// Whether every node of the cluster can read this, so that it may be written.
    fn may_write(&self, _feature: Feature) -> bool {
        true
    }
    /// Whether this media node is a member of the cluster, as far as is known. One that is none is not waited for.
    fn has_media_node(&self, _node: &NodeId) -> bool {
        true
    }
}

/// How a queue treats its callers and conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// Music while waiting and on hold; empty = the node's own.
    pub music: String,
    /// Played over the music from time to time while waiting.
    pub announcement: Option<Announcement>,
    /// Played when the queue gives no place; empty = nothing.
    pub refused_prompts: Vec<String>,
    /// Played when the longest wait is over; empty = nothing.
    pub timed_out_prompts: Vec<String>,
    /// Hand recorded conversations to the recogniser. (Whether a queue's calls are recorded is told by the queue.)
    pub transcribe: bool,
    /// BCP 47, for the recogniser; empty = its default.
    pub language: String,
    /// Words and phrases that are expected, for the recogniser.
    pub phrases: Vec<String>,
}

impl Default for Treatment {
    fn default() -> Self {
        Self {
            music: String::new(),
            announcement: Some(Announcement {
                prompts: vec!["queue-wait".into()],
                first: Duration::from_secs(20),
                every: Duration::from_secs(45),
            }),
            refused_prompts: vec!["queue-full".into()],
            timed_out_prompts: vec!["goodbye".into()],
            transcribe: true,
            language: String::new(),
            phrases: Vec::new(),
        }
    }
}

/// A comfort announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Names of prompts, at least one.
    pub prompts: Vec<String>,
    /// After this long in the queue for the first time.
    pub first: Duration,
    /// And this long after the last time; at least 5 s.
    pub every: Duration,
}
