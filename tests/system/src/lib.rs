//! trunkline-system-tests
