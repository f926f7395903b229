use serde::{Deserialize, Serialize};
use trunkline_console::Role;
use trunkline_types::{AgentId, FlowId, QueueId};

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
