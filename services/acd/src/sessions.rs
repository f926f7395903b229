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

/// How long sessions live.
#[derive(Debug, Clone, Copy)]
pub struct SessionTimes {
    /// Detached this long after the last sign of life.
    pub life: Duration,
    /// How often expired sessions are looked for.
    pub sweep: Duration,
}

impl Default for SessionTimes {
    /// 30 s and 5 s.
    fn default() -> Self {
        Self { life: Duration::from_secs(30), sweep: Duration::from_secs(5) }
    }
}

/// An agent and one of its sessions.
type Key = (EntityAddress, String);

#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<Key, Instant>>>);

impl Sessions {
    /// A sign of life.
    pub fn touch(&self, agent: &EntityAddress, session: &str) {
        self.0.lock().insert((agent.clone(), session.to_owned()), Instant::now());
    }

    pub fn remove(&self, agent: &EntityAddress, session: &str) {
        self.0.lock().remove(&(agent.clone(), session.to_owned()));
    }

    /// Tells `detach` of each session that has shown no life, with the message for its agent. When that could not be
    /// delivered now (`false`) the session stays and is told again at the next sweep.
    pub fn expire(
        &self,
        now: Instant,
        life: Duration,
        mut detach: impl FnMut(&EntityAddress, pb::AgentMessage) -> bool,
    ) {
        let dead: Vec<(Key, Instant)> = {
            let sessions = self.0.lock();
            let silent = |seen: Instant| now.saturating_duration_since(seen) > life;
            sessions.iter().filter(|(_, seen)| silent(**seen)).map(|(key, at)| (key.clone(), *at)).collect()
        };
        for (key, seen) in dead {
            if detach(&key.0, detachment(&key.1)) {
                let mut sessions = self.0.lock();
                // It may have shown life meanwhile; then its console attaches it again.
                if sessions.get(&key) == Some(&seen) {
                    sessions.remove(&key);
                }
            }
        }
    }
}

fn detachment(session: &str) -> pb::AgentMessage {
    let command = pb::AgentCommand {
        session: session.to_owned(),
        command: Some(pb::agent_command::Command::Detach(pb::Detach {})),
        ..pb::AgentCommand::default()
    };
    pb::AgentMessage { message: Some(pb::agent_message::Message::Command(command)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_is_detached_once_and_only_when_its_agent_takes_it() {
        let (sessions, life) = (Sessions::default(), Duration::from_secs(30));
        let agent = EntityAddress::agent(&"default".parse().unwrap(), &"alice".parse().unwrap());
        let start = Instant::now();
        sessions.touch(&agent, "one");
        sessions.touch(&agent, "two");
        let told = |at: Instant, taken: bool| {
            let mut told = 0;
            sessions.expire(at, life, |to, _| {
                assert_eq!(*to, agent);
                told += 1;
                taken
            });
            told
        };
        assert_eq!(told(start + Duration::from_secs(29), true), 0);
        sessions.remove(&agent, "two");
        let late = Instant::now() + Duration::from_secs(31);
        assert_eq!(told(late, false), 1, "its agent has no room for the message");
        assert_eq!(told(late, true), 1, "told again");
        assert_eq!(told(late, true), 0);
    }
}
