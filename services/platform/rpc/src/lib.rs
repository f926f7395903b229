//! trunkline-rpc
