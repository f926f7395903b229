//! The agents of a call: the one who has the caller, and the one who is being consulted.

use trunkline_types::{LegId, OfferId};

use crate::{agent::AgentPart, call::Call};

impl Call {
    /// All of them; whoever has the caller is the first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &AgentPart> {
        self.agent.as_deref().into_iter().chain(self.consulted.as_deref())
    }

    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut AgentPart> {
        self.agent.as_deref_mut().into_iter().chain(self.consulted.as_deref_mut())
    }

    pub(crate) fn part(&self, leg: LegId) -> Option<&AgentPart> {
        self.parts().find(|part| part.leg == leg)
    }

    pub(crate) fn part_mut(&mut self, leg: LegId) -> Option<&mut AgentPart> {
        self.parts_mut().find(|part| part.leg == leg)
    }

    pub(crate) fn part_of(&self, offer: &OfferId) -> Option<&AgentPart> {
        self.parts().find(|part| part.offer == *offer)
    }

    /// The legs of all of them.
    pub(crate) fn agent_legs(&self) -> Vec<LegId> {
        self.parts().map(|part| part.leg).collect()
    }

    /// The agent of this leg is being consulted, and has not (yet) got the caller.
    pub(crate) fn is_consulted(&self, leg: LegId) -> bool {
        self.consulted.as_deref().is_some_and(|part| part.leg == leg)
    }

    /// An agent has picked up and audio is being set up.
    pub(crate) fn connecting(&self) -> Option<&AgentPart> {
        self.parts().find(|part| part.bridged.is_none())
    }

    /// The agent who has the caller waits for, or talks to, another one.
    pub(crate) fn consulting(&self) -> bool {
        let talks = self.agent.as_deref().is_some_and(|part| part.bridged.is_some());
        talks && (self.consulted.is_some() || self.stay.is_some())
    }
}
