//! What the rooms say to each other: the generated code of `trunkline/**.proto`, one module a package.
//!
//! Owns the wire forms and nothing else: no conversions, no defaults, no decisions. Shells turn these into the typed
//! inputs of their cores and back; cores never see them.

#![allow(missing_docs, clippy::all, reason = "generated code; the documentation is in the .proto files")]

macro_rules! package {
    ($($room:ident),* $(,)?) => {
        $(
            #[doc = concat!("`trunkline.", stringify!($room), ".v1`")]
            pub mod $room {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/trunkline.", stringify!($room), ".v1.rs"));
                }
            }
        )*
    };
}

package!(acd, call, cluster, common, console, edge, media, records, registrar, transcription);
