//! trunkline-simulation
