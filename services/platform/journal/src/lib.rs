//! trunkline-journal
