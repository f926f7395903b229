//! trunkline-acd
