//! trunkline-edge
