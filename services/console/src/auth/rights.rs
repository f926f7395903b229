use crate::ports::Role;

/// What can be allowed or not. One row of [`RIGHTS`] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    /// To see and end the own session.
    OwnSession,
    /// To open the agent's WebSocket.
    AgentDesk,
    /// To list and read contacts: the own ones.
    ReadContacts,
    /// With [`Right::ReadContacts`] and [`Right::PlayRecordings`]: everybody's.
    ReadAllContacts,
    /// To hear recordings of the contacts that can be read.
    PlayRecordings,
    /// Live numbers of queues and agents.
    ReadLive,
    /// Numbers by interval.
    ReadIntervals,
    /// The list of queues.
    ListQueues,
    /// The list of agents.
    ListAgents,
    /// To see the cluster: nodes, shards, moves.
    ReadCluster,
    /// To drain nodes.
    DrainNodes,
}

/// The whole table of rights.
pub(crate) const RIGHTS: &[(Right, &[Role])] = {
    use Role::{Admin, Agent, Supervisor};
    &[
        (Right::OwnSession, &[Agent, Supervisor, Admin]),
        (Right::AgentDesk, &[Agent]),
        (Right::ReadContacts, &[Agent, Supervisor, Admin]),
        (Right::ReadAllContacts, &[Supervisor, Admin]),
        (Right::PlayRecordings, &[Agent, Supervisor, Admin]),
        (Right::ReadLive, &[Supervisor, Admin]),
        (Right::ReadIntervals, &[Supervisor, Admin]),
        (Right::ListQueues, &[Agent, Supervisor, Admin]),
        (Right::ListAgents, &[Supervisor, Admin]),
        (Right::ReadCluster, &[Supervisor, Admin]),
        (Right::DrainNodes, &[Admin]),
    ]
};

impl Right {
    /// Roles that have it.
    pub(crate) fn roles(self) -> &'static [Role] {
        RIGHTS.iter().find(|(right, _)| *right == self).map_or(&[], |(_, roles)| roles)
    }

    /// Whether one of these roles has it.
    pub(crate) fn is_held_by(self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.roles().contains(role))
    }
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Public,
    /// Whoever is signed in and has the right.
    With(Right),
    /// As [`Access::With`], but who is not signed in is let through to be told on the WebSocket (close code 4401),
    /// since browsers do not show a page the status of a refused upgrade.
    Socket(Right),
}

impl Access {
    /// The right that is asked for.
    pub(crate) fn right(self) -> Option<Right> {
        match self {
            Self::Public => None,
            Self::With(right) | Self::Socket(right) => Some(right),
        }
    }
}
