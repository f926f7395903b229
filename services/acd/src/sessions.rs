//! Which console sessions an agent has. A console renews its sessions every 10 s; a session of which nothing was heard
//! for 30 s is detached, so that the death of a console node leaves nobody signed in for ever.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use trunkline_proto::acd::v1 as pb;
use trunkline_types::EntityAddress;

const LIFE: Duration = Duration::from_secs(30);
/// How often expired sessions are looked for.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<(EntityAddress, String), Instant>>>);

impl Sessions {
    /// A sign of life.
    pub fn touch(&self, agent: &EntityAddress, session: &str) {
        self.0.lock().insert((agent.clone(), session.to_owned()), Instant::now());
    }

    pub fn remove(&self, agent: &EntityAddress, session: &str) {
        self.0.lock().remove(&(agent.clone(), session.to_owned()));
    }

    /// Takes out the sessions that have shown no life, with the message that detaches each.
    pub fn expired(&self) -> Vec<(EntityAddress, pb::AgentMessage)> {
        let now = Instant::now();
        let mut sessions = self.0.lock();
        let gone: Vec<_> = sessions
            .iter()
            .filter(|(_, seen)| now.duration_since(**seen) > LIFE)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            sessions.remove(key);
        }
        gone.into_iter().map(|(agent, session)| (agent, detach(session))).collect()
    }
}

fn detach(session: String) -> pb::AgentMessage {
    let command = pb::AgentCommand {
        session,
        command: Some(pb::agent_command::Command::Detach(pb::Detach {})),
        ..pb::AgentCommand::default()
    };
    pb::AgentMessage { message: Some(pb::agent_message::Message::Command(command)) }
}
