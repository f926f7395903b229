//! SDP offers and answers of a plain RTP/AVP endpoint (RFC 8866, 3264, 3605, 5761, 4733).
//!
//! One audio stream is taken: the first `m=audio` over RTP/AVP (or RTP/AVPF, answered without feedback) with G.711. All
//! other media are answered with port 0 in their places. A single audio codec is answered, so that nobody changes it in
//! mid-stream; an offer of ours names both. Payload numbers are kept by side.

mod negotiation;
mod remote;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use negotiation::{Local, Negotiation};
pub use remote::{MAX_BYTES, MAX_MEDIA};

use crate::codec::Codec;

/// Direction of the audio as seen from us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// We send only.
    SendOnly,
    /// We receive only: the party holds us.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// From the two ways.
    pub const fn new(send: bool, receive: bool) -> Self {
        match (send, receive) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }

    /// Whether we send.
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether we receive.
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same seen from the other side.
    pub const fn reversed(self) -> Self {
        Self::new(self.receives(), self.sends())
    }

    const fn attribute(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }
}

/// Payload types by which a side sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadTypes {
    /// G.711 µ-law.
    pub pcmu: Option<u8>,
    /// G.711 A-law.
    pub pcma: Option<u8>,
    /// Telephone events at 8 kHz.
    pub event: Option<u8>,
}

impl PayloadTypes {
    /// The number of a codec.
    pub fn audio(&self, codec: Codec) -> Option<u8> {
        match codec {
            Codec::Pcmu => self.pcmu,
            Codec::Pcma => self.pcma,
        }
    }

    /// The codec of a number.
    #[inline]
    pub fn codec(&self, payload_type: u8) -> Option<Codec> {
        if self.pcmu == Some(payload_type) {
            Some(Codec::Pcmu)
        } else if self.pcma == Some(payload_type) {
            Some(Codec::Pcma)
        } else {
            None
        }
    }
}

/// What an offer and its answer agreed upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The codec we send.
    pub codec: Codec,
    /// Numbers we send with.
    pub send: PayloadTypes,
    /// Numbers the party sends with.
    pub receive: PayloadTypes,
    /// Where the party wants its RTP; `None` for `0.0.0.0` or port 9 placeholders: send nothing.
    pub remote: Option<SocketAddr>,
    /// Where it wants its RTCP; the RTP port itself when multiplexed.
    pub remote_rtcp: Option<SocketAddr>,
    /// RTP and RTCP share the port.
    pub rtcp_mux: bool,
    /// As seen from us.
    pub direction: Direction,
    /// Packet duration the party asks for; `None`: it did not say (20 ms).
    pub ptime_ms: Option<u32>,
}

/// Why there is no agreement. Nothing has changed when one of these is returned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    /// Not SDP, or out of bounds.
    #[error("the SDP is malformed: {0}")]
    Malformed(String),
    /// Audio, but neither PCMU nor PCMA.
    #[error("the SDP has no common audio codec: PCMU/8000 and PCMA/8000 are spoken here, it has {0}")]
    NoCommonCodec(String),
    /// No audio over RTP/AVP at all.
    #[error("the SDP has no audio over RTP/AVP: {0}")]
    Unsupported(String),
    /// An answer that does not fit the offer, or comes without one.
    #[error("the answer does not fit: {0}")]
    Mismatch(String),
}

/// G.711 codecs in the first `m=audio` of a browser's offer, in its order; the rest of it is another stack's business.
///
/// # Errors
/// [`SdpError`] when it is no SDP, has no audio, or none of the two codecs.
pub fn offered_codecs(sdp: &[u8]) -> Result<Vec<Codec>, SdpError> {
    remote::offered_codecs(sdp)
}
