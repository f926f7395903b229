//! How a leg sounded, as its media node measured it.

/// Measured quality of a leg's received stream.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Quality {
    /// Packets.
    pub packets_received: u64,
    /// Packets.
    pub packets_lost: u64,
    /// RFC 3550 interarrival jitter, ms.
    pub jitter_ms: f32,
    /// By RTCP, ms; negative = unknown.
    pub round_trip_ms: f32,
    /// E-model (ITU-T G.107), 1 to 4.5.
    pub mos: f32,
    /// Packets.
    pub packets_sent: u64,
    /// Audio that was to go both ways and went one way only.
    pub missing: Option<Missing>,
}

/// What was missing of a leg's audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It was sent audio, and nothing came from it.
    Received,
    /// Audio came from it, and nothing reached it.
    Sent,
}

impl Missing {
    /// As journals and labels have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }

    /// The reverse; `None`: nothing was missing, or a newer version knows what.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Received, Self::Sent].into_iter().find(|missing| missing.as_str() == text)
    }
}
