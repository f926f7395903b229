//! The media room: RTP and WebRTC termination, relay, music and prompts, DTMF, recording and the tap to transcription.
//!
//! Owns the media sockets and the threads that serve them, the sessions on this node, the recordings until they are
//! stored and the streams to the recogniser. Sessions outlive the control node that set them up: nothing here ends
//! because its owner vanished, only by command, or when nobody has commanded or spoken for the orphan time. What happened
//! while no owner was there is told again until one acknowledges it.
//!
//! Refuses: decisions about calls (it is told what each party hears), SRTP by SDES, codecs other than G.711, commands of
//! an owner whose epoch is not the highest seen for the shard.
//!
//! Called by the daemon ([`MediaNode::start`]); [`MediaPort`] carries `trunkline.media.v1` commands from the bus to
//! [`MediaNode::command`], and replies and events to the calls.
//!
//! # Threads
//!
//! Each worker thread has an epoll set of its own; a session lives on one of them, chosen by its call id. Commands reach
//! it through a bounded queue with an eventfd. For each packet nothing is allocated, locked, logged or awaited on plain
//! RTP; on a browser's leg str0m allocates inside. Recordings and transcriptions leave a worker through wait-free
//! single-producer rings: a ring that is full becomes a marked gap, never a wait. One writer thread serves all files.
//!
//! # Recordings
//!
//! A recording is written to the spool, a local disk, and copied to the store in parts of a second while it is made; at its
//! end it goes there whole (where the store is a folder on the same file system, by a second name for the spool's file) and
//! the parts are removed; a recording that ends before its first part leaves no other trace there. The spool keeps it until
//! its call has taken that it is stored. A node that comes back after a crash repairs and stores what its spool
//! has; of a node that does not, any other makes a recording of the parts by `SalvageRecording`. A full disk makes a gap, a
//! store that refuses makes parts longer and uploads later; neither is felt in the talk. What the disk or the store refuse
//! shows in `trunkline_media_recording_failing`.
//!
//! # Protocols
//!
//! RFC 3550, 3551, 3264, 4733, 5761, 3605 (see `trunkline-media-core`); WebRTC by str0m in RTP mode, ICE-lite (RFC
//! 8445), one UDP socket a worker for all browsers: STUN is routed by its user name, everything else by the source
//! address that a session has accepted before.
//!
//! # Deviations
//!
//! RTCP is sent every 5 s from each endpoint without the scaling of RFC 3550 section 6.2 (two-party sessions only).
//! Linux only (epoll, eventfd; io_uring where it is permitted).

mod assets;
mod clock;
mod config;
mod events;
mod failure;
mod metrics;
mod node;
mod owners;
mod port;
mod recording;
mod slab;
mod tap;
mod transcription;
mod worker;

pub use config::{
    Config, ConfigError, LatchPolicy, PortRange, RecordingConfig, StoreConfig, TranscriptionConfig,
};
pub use metrics::Metrics;
pub use node::{MediaNode, StartError};
pub use port::MediaPort;
pub use recording::credentials_remedy;
