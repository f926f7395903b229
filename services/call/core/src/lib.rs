//! trunkline-call-core
