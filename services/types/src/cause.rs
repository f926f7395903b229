use std::fmt;

use serde::{Deserialize, Serialize};

/// Who is at fault when a call ends as it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nobody: a normal end.
    None,
    /// The caller's side: an impossible number, unsupported media.
    Caller,
    /// The called side: busy, no answer, declined.
    Called,
    /// A network or a carrier between us and a party.
    Network,
    /// This system: overload, a lost node, a defect.
    System,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = ($name:literal, $q850:literal, $fault:ident),)*) => {
        /// Why a call or leg was released. (Agents choose *dispositions*; networks give *release causes*.)
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ReleaseCause {
            $($(#[$doc])* $variant,)*
        }

        impl ReleaseCause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in records, metrics and the API.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The ITU-T Q.850 cause value, as carried in a Reason header (RFC 3326).
            pub const fn q850(self) -> u8 {
                match self { $(Self::$variant => $q850,)* }
            }

            /// Who is at fault.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }

            /// The inverse of [`ReleaseCause::as_str`].
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|cause| cause.as_str() == name)
            }
        }
    };
}

causes! {
    /// The caller hung up.
    CallerHangup = ("caller_hangup", 16, None),
    /// The agent hung up.
    AgentHangup = ("agent_hangup", 16, None),
    /// The agent passed the caller on to somebody else.
    Transferred = ("transferred", 16, None),
    /// An agent's consultation of another one ended, and the caller stayed.
    ConsultEnded = ("consult_ended", 16, None),
    /// The flow ended the call.
    FlowEnd = ("flow_end", 16, None),
    /// The caller gave up before an answer (CANCEL).
    CallerCancel = ("caller_cancel", 16, None),
    /// The dialled number or user does not exist.
    UnknownNumber = ("unknown_number", 1, Caller),
    /// No codec in common.
    NoCommonCodec = ("no_common_codec", 88, Caller),
    /// The caller's request was malformed.
    BadRequest = ("bad_request", 95, Caller),
    /// The called party is busy.
    Busy = ("busy", 17, Called),
    /// The called party did not answer.
    NoAnswer = ("no_answer", 19, Called),
    /// The called party declined.
    Declined = ("declined", 21, Called),
    /// No RTP from the party for too long.
    MediaTimeout = ("media_timeout", 102, Network),
    /// The peer did not answer our request in time (no ACK, no response).
    PeerTimeout = ("peer_timeout", 102, Network),
    /// The peer could not be reached.
    PeerUnreachable = ("peer_unreachable", 27, Network),
    /// The queue was full.
    QueueFull = ("queue_full", 42, System),
    /// The caller waited longer than the queue allows.
    QueueTimeout = ("queue_timeout", 42, System),
    /// Refused for capacity.
    Overload = ("overload", 42, System),
    /// A media session could not be made or was lost.
    MediaLost = ("media_lost", 41, System),
    /// The queue's calls do not go on without being recorded, and no media node could.
    RecordingFailed = ("recording_failed", 41, System),
    /// The node with the call's media died; found at recovery.
    NodeLost = ("node_lost", 41, System),
    /// The system is shutting down.
    Shutdown = ("shutdown", 41, System),
    /// A defect: an invariant did not hold.
    Internal = ("internal", 41, System),
}

impl fmt::Display for ReleaseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_agree_with_serde() {
        for cause in ReleaseCause::ALL {
            assert_eq!(ReleaseCause::parse(cause.as_str()), Some(*cause));
        }
        assert_eq!(ReleaseCause::parse("nonsense"), None);
    }
}
