//! trunkline-console
