//! trunkline-telemetry
