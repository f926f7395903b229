//! trunkline-acd-core
