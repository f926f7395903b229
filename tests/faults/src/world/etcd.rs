//! A real etcd of three members, each on a host of its own.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;
use trunkline_system_tests::{http, process::Program, s, until};

use crate::net::Network;

const READY_WITHIN: Duration = s(30);

/// Three members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    address: Ipv4Addr,
    program: Program,
}

impl Etcd {
    /// Starts the members on the hosts `etcd1` to `etcd3` and waits until they have a leader. Their data and what they
    /// write goes under `folder`.
    pub async fn start(network: &mut Network, data: &Path, logs: &Path) -> Result<Self> {
        let names = ["etcd1", "etcd2", "etcd3"];
        let addresses = names.iter().map(|name| network.host(name)).collect::<Result<Vec<_>>>()?;
        let peers: Vec<String> =
            names.iter().zip(&addresses).map(|(name, at)| format!("{name}=http://{at}:2380")).collect();
        let peers = peers.join(",");
        let mut members = Vec::new();
        for (name, address) in names.into_iter().zip(addresses) {
            let mut command = network.command(name, "etcd")?;
            command.args(["--name", name, "--initial-cluster", &peers, "--initial-cluster-state", "new"]);
            command.arg("--data-dir").arg(data.join(name));
            command.args(["--listen-client-urls", &format!("http://{address}:2379")]);
            command.args(["--advertise-client-urls", &format!("http://{address}:2379")]);
            command.args(["--listen-peer-urls", &format!("http://{address}:2380")]);
            command.args(["--initial-advertise-peer-urls", &format!("http://{address}:2380")]);
            command.args(["--log-level", "warn"]);
            let program = Program::start(name, logs, &mut command).context("install etcd-server")?;
            members.push(Member { name: name.to_owned(), address, program });
        }
        let etcd = Self { members };
        etcd.healthy(READY_WITHIN).await?;
        Ok(etcd)
    }

    /// What clients are configured with.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://{}:2379", member.address)).collect()
    }

    /// Waits until every member says that it has a leader.
    pub async fn healthy(&self, limit: Duration) -> Result<()> {
        for member in &self.members {
            let address = (member.address, 2379).into();
            until(&format!("{} is healthy", member.name), limit, || async {
                let answer = http::get(address, "/health").await;
                Ok(answer.is_ok_and(|answer| answer.text().contains("true")).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes what the nodes' versions have agreed on: the key `/faults/gate`, of which the gateway takes base64.
    pub async fn forget_gate(&self) -> Result<()> {
        let address = self.members.first().context("no member")?.address;
        let key = json!({ "key": "L2ZhdWx0cy9nYXRl" });
        let done =
            http::request((address, 2379).into(), "POST", "/v3/kv/deleterange", &[], Some(&key)).await?;
        done.expect(200).map(|_| ())
    }

    /// SIGSTOP to so many members.
    pub fn pause(&mut self, members: usize) -> Result<()> {
        self.signal(members, "-STOP")
    }

    /// SIGCONT to all.
    pub fn go_on(&mut self) -> Result<()> {
        self.signal(self.members.len(), "-CONT")
    }

    fn signal(&mut self, members: usize, signal: &str) -> Result<()> {
        self.members.iter_mut().take(members).try_for_each(|member| member.program.signal(signal))
    }

    /// Process ids of the members.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.program.pid()).collect()
    }

    /// Hosts of the members.
    pub fn hosts(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }
}
