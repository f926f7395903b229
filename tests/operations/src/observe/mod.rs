//! What an operator sees: metrics, dashboards, traces.
