//! Network namespaces: one a host, one for the switch between them; no way out.
//!
//! Names carry the process id, so that runs do not meet and what a dead run left is found and removed by the next one.

mod rules;

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

pub use rules::{Rule, Share, between};

const PREFIX: &str = "tlf-";
const BRIDGE: &str = "switch";
/// The network that all hosts share.
pub const SUBNET: &str = "10.77.0.0/16";
const PREFIX_LENGTH: u8 = 16;

/// Hosts on one switch. Dropped, everything is removed.
#[derive(Debug)]
pub struct Network {
    run: String,
    given: u8,
    hosts: BTreeMap<String, Ipv4Addr>,
    rules: BTreeMap<String, Vec<Rule>>,
}

impl Network {
    /// An empty switch, after what dead runs left has been removed.
    pub fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run `cargo xtask faults` as root"
        );
        remove_stale()?;
        let run = format!("{PREFIX}{}-{:x}", std::process::id(), rand::random::<u16>());
        let network = Self { run, given: 0, hosts: BTreeMap::new(), rules: BTreeMap::new() };
        let switch = network.namespace(BRIDGE);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// A new host; its address is the next free one.
    pub fn host(&mut self, name: &str) -> Result<Ipv4Addr> {
        ensure!(
            !name.is_empty() && name.len() <= 12 && name.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{name:?} is no name for a host: 1 to 12 letters and digits"
        );
        ensure!(name != BRIDGE && !self.hosts.contains_key(name), "there is a host {name} already");
        self.given = self.given.checked_add(1).context("255 hosts at most in one run")?;
        let address = Ipv4Addr::new(10, 77, 0, self.given);
        let (switch, space) = (self.namespace(BRIDGE), self.namespace(name));
        ip(&["netns", "add", &space])?;
        // Known from here on, so that it is removed whatever fails below.
        self.hosts.insert(name.to_owned(), address);
        ip(&[
            "-n", &switch, "link", "add", "name", name, "type", "veth", "peer", "name", "eth0", "netns",
            &space,
        ])?;
        ip(&["-n", &switch, "link", "set", "dev", name, "master", BRIDGE, "up"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        self.add_address(name, address)?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        Ok(address)
    }

    /// Removes all hosts but one, and all rules.
    pub fn clear(&mut self, kept: &str) -> Result<()> {
        let gone: Vec<String> = self.hosts.keys().filter(|host| *host != kept).cloned().collect();
        for host in gone {
            // The kernel removes a namespace's links when it comes to it; the name is wanted again at once.
            let _ = quiet(&["-n", &self.namespace(BRIDGE), "link", "del", "dev", &host]);
            remove(&self.namespace(&host));
            self.hosts.remove(&host);
        }
        self.heal()
    }

    /// A host's own address.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        self.hosts.get(host).copied().with_context(|| format!("no host {host}"))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.hosts.iter().map(|(name, address)| (name.as_str(), *address))
    }

    /// Gives a host one more address.
    pub fn add_address(&self, host: &str, address: Ipv4Addr) -> Result<()> {
        let with_length = format!("{address}/{PREFIX_LENGTH}");
        ip(&["-n", &self.namespace(host), "addr", "add", &with_length, "dev", "eth0"])
    }

    /// Moves a shared address to a host, as a load balancer or VRRP does: taken from whoever has it, and everybody is
    /// told the new hardware address.
    pub fn take_address(&self, host: &str, address: Ipv4Addr) -> Result<()> {
        self.address(host)?;
        let with_length = format!("{address}/{PREFIX_LENGTH}");
        for other in self.hosts.keys() {
            let space = self.namespace(other);
            if other != host && has_address(&space, address)? {
                ip(&["-n", &space, "addr", "del", &with_length, "dev", "eth0"])?;
            }
        }
        if !has_address(&self.namespace(host), address)? {
            self.add_address(host, address)?;
        }
        // In place of a gratuitous ARP: whoever knew the old place forgets it and asks.
        for other in self.hosts.keys() {
            let space = self.namespace(other);
            // It may know nothing about the address.
            let _ = quiet(&["-n", &space, "neigh", "del", &address.to_string(), "dev", "eth0"]);
        }
        Ok(())
    }

    /// What [`Network::take_address`] does, as lines for a shell: for somebody else to do it later.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn take_address_lines(&self, host: &str, address: Ipv4Addr) -> Result<String> {
        self.address(host)?;
        let (own, with_length) = (self.namespace(host), format!("{address}/{PREFIX_LENGTH}"));
        let spaces = || self.hosts.keys().map(|other| self.namespace(other));
        let mut lines = String::new();
        for space in spaces().filter(|space| *space != own) {
            lines += &format!("ip -n {space} addr del {with_length} dev eth0 2>/dev/null || true\n");
        }
        lines += &format!("ip -n {own} addr replace {with_length} dev eth0\n");
        for space in spaces() {
            lines += &format!("ip -n {space} neigh del {address} dev eth0 2>/dev/null || true\n");
        }
        Ok(lines)
    }

    /// A command that runs `program` on a host and ends with this process.
    pub fn command(&self, host: &str, program: impl AsRef<Path>) -> Result<Command> {
        self.address(host)?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host), "setpriv", "--pdeathsig", "KILL"])
            .arg(program.as_ref());
        Ok(command)
    }

    /// Puts this thread, and every thread and process that it starts from now on, on a host.
    pub fn enter(&self, host: &str) -> Result<()> {
        self.address(host)?;
        let path = format!("/var/run/netns/{}", self.namespace(host));
        let file = File::open(&path).with_context(|| path.clone())?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).with_context(|| path)
    }

    /// Makes these the rules under a name, in place of those it had.
    pub fn set_rules(&mut self, name: &str, rules: Vec<Rule>) -> Result<()> {
        self.rules.insert(name.to_owned(), rules);
        self.apply()
    }

    /// Takes the rules under a name away.
    pub fn clear_rules(&mut self, name: &str) -> Result<()> {
        if self.rules.remove(name).is_some() { self.apply() } else { Ok(()) }
    }

    /// Takes all rules away.
    pub fn heal(&mut self) -> Result<()> {
        self.rules.clear();
        self.apply()
    }

    /// Cuts a group of hosts off from `others`, both ways.
    pub fn partition(&mut self, name: &str, group: &[&str], others: &[&str]) -> Result<()> {
        let address = |hosts: &[&str]| hosts.iter().map(|h| self.address(h)).collect::<Result<Vec<_>>>();
        let rules = between(&address(group)?, &address(others)?, Rule::cut);
        self.set_rules(name, rules)
    }

    fn apply(&self) -> Result<()> {
        let all: Vec<Rule> = self.rules.values().flatten().copied().collect();
        nft(&self.namespace(BRIDGE), &rules::drops(&all))?;
        for (host, address) in &self.hosts {
            nft(&self.namespace(host), &rules::duplicates(&all, *address))?;
        }
        Ok(())
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.run)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Whatever is still running there ends first: a namespace lives as long as a process in it.
        let names = self.hosts.keys().map(String::as_str).chain([BRIDGE]);
        for name in names {
            remove(&self.namespace(name));
        }
    }
}

/// Removes the namespaces of runs whose process is gone.
fn remove_stale() -> Result<()> {
    for name in namespaces()? {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
    Ok(())
}

fn namespaces() -> Result<Vec<String>> {
    let output = Command::new("ip").args(["netns", "list"]).output().context("ip: is iproute2 installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect())
}

/// Ends what runs in a namespace of ours (except this process) and removes it. Errors are of no use here.
fn remove(namespace: &str) {
    let own = std::process::id().to_string();
    if let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).lines().filter(|pid| *pid != own) {
            let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
        }
    }
    let _ = quiet(&["netns", "del", namespace]);
}

fn has_address(namespace: &str, address: Ipv4Addr) -> Result<bool> {
    let output = Command::new("ip").args(["-n", namespace, "-o", "addr", "show", "dev", "eth0"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(&format!(" {address}/")))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip: is iproute2 installed?")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn quiet(arguments: &[&str]) -> Result<()> {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status()?;
    Ok(())
}

fn nft(namespace: &str, script: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft: is nftables installed?")?;
    child.stdin.take().context("no input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{script}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
