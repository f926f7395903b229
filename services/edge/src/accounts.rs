//! Telephones' accounts, as the daemon keeps them.

use std::{fmt, sync::Arc};

use trunkline_types::{TelephoneId, TenantId};

/// A telephone's account.
#[derive(Clone, PartialEq, Eq)]
pub struct TelephoneAccount {
    /// The tenant whose calls it makes.
    pub tenant: TenantId,
    /// User part of its address of record, and user name of its credentials.
    pub name: TelephoneId,
    /// H(name:realm:password) by SHA-256, in hexadecimal.
    pub ha1_sha256: String,
    /// The same by MD5, for telephones that know nothing else; `None` = they are not let in.
    pub ha1_md5: Option<String>,
    /// Number that its calls show.
    pub caller_number: String,
    /// Name that its calls show; may be empty.
    pub caller_name: String,
    /// Numbers and names that it may dial; empty = all that the tenant has.
    pub may_dial: Vec<String>,
    /// Contacts that it may have bound at once.
    pub max_contacts: u32,
}

impl fmt::Debug for TelephoneAccount {
    /// Without what lets somebody in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelephoneAccount")
            .field("tenant", &self.tenant)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Who has which account.
pub trait Accounts: Send + Sync {
    /// Whether there is any: without one, callers from unknown sources are not even asked who they are.
    fn any(&self) -> bool;
    /// Whether accounts are told apart by this realm.
    fn has_realm(&self, realm: &str) -> bool;
    /// `None`: there is none.
    fn telephone(&self, realm: &str, user: &str) -> Option<Arc<TelephoneAccount>>;
}
