//! trunkline-loadtest
