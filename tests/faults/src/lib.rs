//! Fault injection against a real cluster, in the manner of Jepsen.
//!
//! Every node is a real process in a network namespace of its own, beside a real etcd of three members and a real
//! PostgreSQL. Callers speak SIP and RTP, agents the real WebSocket and WebRTC. While faults are injected, what callers
//! and agents see goes into a history; a checker that knows only the promises reads it afterwards.
//!
//! Owns: [`net`] (namespaces, partitions, loss), [`world`] (the processes, their certificates and configuration, and what
//! can be done to them), [`agent`], [`people`] and [`phones`] (those who use the system), [`history`] and [`checker`], and one
//! [`scenario`] for each row of the table of promises. Imports nothing of `services`: what is seen here is what a customer
//! sees.
//!
//! Refuses: to skip a fault because a program is missing, to judge by logs, and to wait without a bound. Seeds decide
//! whom a fault hits and when, and are printed.
//!
//! Needs root on Linux with network namespaces, nftables, Debian's etcd and PostgreSQL. Nothing leaves the namespaces:
//! the switch that connects them has no way out.

pub mod agent;
pub mod checker;
pub mod history;
pub mod net;
pub mod people;
pub mod phones;
pub mod report;
pub mod scenario;
pub mod world;
