//! trunkline-actors
