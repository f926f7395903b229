//! trunkline-tidy
