/// What a program of an older version cannot read. A node writes it only after the cluster's gate says that every node
/// can, so that two versions work side by side and an upgrade can be taken back until the gate is raised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Feature {
    /// Events that a recording cannot be written (`call.recording_trouble`), and the release cause `recording_failed`.
    RecordingPolicy = 2,
    /// Transfer and consultation: an agent's requests for them, two agents in a call, the release causes `transferred` and
    /// `consult_ended`.
    Transfer = 3,
    /// Telephones' accounts as entities of their own (`EntityKind::Telephone`), their events and messages.
    Telephones = 4,
}

impl Feature {
    /// What a program can that does not say what it can.
    pub const FIRST: u32 = 1;
    /// What this program can.
    pub const LATEST: u32 = Self::Telephones.level();

    /// The least gate at which it may be written.
    pub const fn level(self) -> u32 {
        self as u32
    }
}
