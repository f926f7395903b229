use trunkline_proto::{
    acd::v1::{agent_message, call_to_agent},
    cluster::v1 as pb,
    common::v1::{Envelope, envelope::Payload},
    console::v1::console_message,
};

/// Traffic that does not wait behind other traffic: each lane of each pair of nodes is a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Between actors and roles.
    Control,
    /// What moves with shards: envelopes that a former owner passes on.
    HandOff,
    /// What may wait and may be dropped: lines of live transcripts. (Media's events are not among them: they are numbered
    /// for each call, and must not overtake each other.)
    Bulk,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Control, Self::HandOff, Self::Bulk];

    /// The lane of an envelope that begins its way here.
    pub(crate) fn of(envelope: &Envelope) -> Self {
        let bulk = match &envelope.payload {
            Some(Payload::Console(message)) => {
                matches!(message.message, Some(console_message::Message::Transcript(_)))
            }
            Some(Payload::Agent(message)) => matches!(
                &message.message,
                Some(agent_message::Message::Call(call))
                    if matches!(call.event, Some(call_to_agent::Event::Transcript(_)))
            ),
            _ => false,
        };
        if bulk { Self::Bulk } else { Self::Control }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::HandOff => "hand_off",
            Self::Bulk => "bulk",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub(crate) const fn wire(self) -> pb::Lane {
        match self {
            Self::Control => pb::Lane::Control,
            Self::HandOff => pb::Lane::HandOff,
            Self::Bulk => pb::Lane::Bulk,
        }
    }

    pub(crate) const fn from_wire(lane: pb::Lane) -> Option<Self> {
        match lane {
            pb::Lane::Control => Some(Self::Control),
            pb::Lane::HandOff => Some(Self::HandOff),
            pb::Lane::Bulk => Some(Self::Bulk),
            pb::Lane::Unspecified => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::console::v1::{ConsoleMessage, Ring, TranscriptLine};

    use super::*;

    #[test]
    fn transcripts_do_not_travel_with_what_rings() {
        let lane = |message| {
            let message = ConsoleMessage { message: Some(message), ..Default::default() };
            Lane::of(&Envelope { payload: Some(Payload::Console(message)), ..Envelope::default() })
        };
        assert_eq!(lane(console_message::Message::Transcript(TranscriptLine::default())), Lane::Bulk);
        assert_eq!(lane(console_message::Message::Ring(Ring::default())), Lane::Control);
        assert!(Lane::ALL.iter().all(|lane| Lane::from_wire(lane.wire()) == Some(*lane)));
    }
}
