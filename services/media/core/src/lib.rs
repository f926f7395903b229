//! trunkline-media-core
