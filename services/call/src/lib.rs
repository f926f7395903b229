//! trunkline-call
