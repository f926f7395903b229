//! trunkline-config
