//! trunkline-media
