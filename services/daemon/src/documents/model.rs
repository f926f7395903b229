use serde::{Deserialize, Serialize};
use trunkline_console::Role;
use trunkline_sip::digest::{Algorithm, ha1};
use trunkline_types::{AgentId, FlowId, QueueId, TelephoneId, TenantId};

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantBody {
    /// What people read.
    pub display_name: String,
    /// Reasons offered with "not ready".
    pub not_ready_reasons: Vec<String>,
}

impl Default for TenantBody {
    fn default() -> Self {
        let reasons = ["break", "lunch", "training", "meeting", "back_office"];
        Self { display_name: String::new(), not_ready_reasons: reasons.map(str::to_owned).to_vec() }
    }
}

/// A local account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountBody {
    /// What people read.
    pub display_name: String,
    /// Argon2id, PHC form.
    pub password_hash: String,
    /// What the person may do.
    pub roles: Vec<Role>,
    /// The agent that the account acts as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
}

/// A telephone's account: its name is the user part of its address and the user name of its password.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelephoneBody {
    /// What its calls show, and what people read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// The realm that its password belongs to, in lower case; telephones of several tenants register at domains of these
    /// names. Default: the tenant's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// H(name:realm:password) by SHA-256, in hexadecimal.
    pub ha1_sha256: String,
    /// The same by MD5, for telephones that know nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ha1_md5: Option<String>,
    /// The agent whose telephone it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Number that its calls show. Default: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_number: Option<String>,
    /// Numbers and names that it may dial. Default: all that the tenant has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_dial: Vec<String>,
    /// Contacts that it may have bound at once. Default 5.
    #[serde(default = "max_contacts")]
    pub max_contacts: u32,
}

const fn max_contacts() -> u32 {
    5
}

impl TelephoneBody {
    /// Its realm, in lower case as it is looked for.
    pub fn realm(&self, tenant: &TenantId) -> String {
        self.realm.as_deref().unwrap_or(tenant.as_str()).to_ascii_lowercase()
    }

    /// What may be kept of a password, by SHA-256 and by MD5.
    pub fn hashes(name: &str, realm: &str, password: &str) -> (String, String) {
        let hash = |algorithm| ha1(algorithm, name, realm, password);
        (hash(Algorithm::Sha256), hash(Algorithm::Md5))
    }

    /// What is wrong with it, by field.
    ///
    /// # Errors
    /// A sentence that names the field and the remedy.
    pub fn validate(&self, _: &TelephoneId) -> Result<(), String> {
        let is_hash = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !is_hash(&self.ha1_sha256, 64) {
            return Err("ha1_sha256: 64 hexadecimal digits, or write `password` instead".to_owned());
        }
        if self.ha1_md5.as_ref().is_some_and(|hash| !is_hash(hash, 32)) {
            return Err("ha1_md5: 32 hexadecimal digits, or leave it out".to_owned());
        }
        let realm = self.realm.as_deref().unwrap_or("x");
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | ':');
        if realm.is_empty() || realm.len() > 128 || !realm.chars().all(fits) {
            return Err("realm: 1 to 128 letters, digits and signs, without colon and quotes".to_owned());
        }
        if !(1..=100).contains(&self.max_contacts) {
            return Err("max_contacts: 1 to 100".to_owned());
        }
        if self.may_dial.len() > 1_000 {
            return Err("may_dial: at most 1,000".to_owned());
        }
        Ok(())
    }
}

/// What a dialled number or name leads to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NumberBody {
    /// Straight into a queue.
    Queue(QueueId),
    /// To a flow.
    Flow(FlowId),
}

/// A flow as its author wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowBody {
    /// The text.
    pub yaml: String,
}
