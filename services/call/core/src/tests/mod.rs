//! The call driven by real SIP messages and by hand-made answers of its media node, queue and agent.

mod bed;
mod conversation;
mod flow;
mod moving;
mod queue;
mod recorded;
mod recovery;
mod simulation;
mod sip;
mod transfer;
