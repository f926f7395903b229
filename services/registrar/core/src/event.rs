use trunkline_sip::Uri;
use trunkline_types::Timestamp;

/// A contact that is bound to the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Named by the account; never used twice.
    pub id: u32,
    /// Where the telephone says that it is.
    pub contact: Uri,
    /// Of the last REGISTER for it, with its number.
    pub call_id: String,
    /// See `call_id`.
    pub cseq: u32,
    /// Until when it is bound.
    pub expires_at: Timestamp,
    /// When it was bound first.
    pub since: Timestamp,
    /// Preference, thousandths.
    pub q: Option<u16>,
    /// `+sip.instance` as given; empty = none.
    pub instance: String,
    /// `reg-id`; 0 = none.
    pub reg_id: u32,
    /// Where the last REGISTER came from.
    pub source: String,
    /// Over what: "udp", "tcp".
    pub transport: String,
    /// Through which edge: that one has the connection, if there is one.
    pub edge: String,
    /// Proxies between, in order (RFC 3327).
    pub path: Vec<String>,
    /// What the telephone calls itself.
    pub user_agent: String,
}

impl Binding {
    /// Whether `self` and `other` differ in nothing but the expiry and the place in the order of requests.
    pub(crate) fn is_refreshed_by(&self, other: &Self) -> bool {
        let Self { id, contact, call_id, cseq: _, expires_at: _, since, q, instance, reg_id, .. } = self;
        (id, contact, call_id, since) == (&other.id, &other.contact, &other.call_id, &other.since)
            && (q, instance, reg_id) == (&other.q, &other.instance, &other.reg_id)
            && (&self.source, &self.transport, &self.edge) == (&other.source, &other.transport, &other.edge)
            && (&self.path, &self.user_agent) == (&other.path, &other.user_agent)
    }
}

/// A nonce by its hash, and the highest count seen with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonceUse {
    /// Hash of the nonce.
    pub nonce: u64,
    /// Its count, from 1.
    pub count: u32,
}

/// A binding of which only this is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// Which.
    pub id: u32,
    /// Until when it is bound now.
    pub expires_at: Timestamp,
    /// Number of the request.
    pub cseq: u32,
}

/// What one request has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// New, or with other particulars than before.
    pub set: Vec<Binding>,
    /// Only kept for longer.
    pub refreshed: Vec<Refreshed>,
    /// Gone.
    pub removed: Vec<u32>,
    /// What the request's credentials used up.
    pub nonce: Option<NonceUse>,
}

/// What an account decides, for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request has changed bindings.
    Changed {
        /// When.
        at: Timestamp,
        /// What.
        changed: Changed,
    },
    /// Bindings ran out.
    Expired {
        /// When it was noticed.
        at: Timestamp,
        /// Which.
        removed: Vec<u32>,
    },
    /// The account is gone, and all its bindings with it.
    Withdrawn {
        /// When.
        at: Timestamp,
    },
}

impl Event {
    /// When it happened.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Changed { at, .. } | Self::Expired { at, .. } | Self::Withdrawn { at } => *at,
        }
    }
}
