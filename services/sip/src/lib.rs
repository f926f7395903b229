//! trunkline-sip
