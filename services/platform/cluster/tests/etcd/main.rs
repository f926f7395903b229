//! Proves placement against real etcd: three members as processes of their own.

mod contract;
mod faults;
mod life;
mod nodes;
