//! What an operator sees: metrics, rules, dashboards, runbooks, traces.

pub mod dashboards;
pub mod lab;
pub mod loki;
pub mod prometheus;
pub mod promql;
pub mod rules;
pub mod runbooks;
pub mod trouble;
