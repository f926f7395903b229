//! trunkline-records
