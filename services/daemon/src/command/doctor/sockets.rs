//! Which sockets are bound on this machine, and by whom, read from `/proc`: nothing is bound to find it out.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Sockets that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// A program that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
}

#[derive(Debug)]
struct Bound {
    protocol: Protocol,
    address: SocketAddr,
    inode: u64,
}

/// The bound sockets.
#[derive(Debug)]
pub struct Sockets {
    bound: Vec<Bound>,
    holders: HashMap<u64, Holder>,
}

impl Sockets {
    /// As they are now. Holders are known as far as this user may see them.
    pub fn read() -> Self {
        let mut bound = Vec::new();
        for (file, protocol) in [
            ("/proc/net/udp", Protocol::Udp),
            ("/proc/net/udp6", Protocol::Udp),
            ("/proc/net/tcp", Protocol::Tcp),
            ("/proc/net/tcp6", Protocol::Tcp),
        ] {
            // A kernel without IPv6 has no such file.
            let text = fs::read_to_string(file).unwrap_or_default();
            bound.extend(text.lines().skip(1).filter_map(|line| parse(line, protocol)));
        }
        Self { bound, holders: holders() }
    }

    /// Whether somebody holds this address, or all addresses, at this port. The inner value is `None` when this user may not
    /// see who.
    pub fn holder(&self, protocol: Protocol, address: SocketAddr) -> Option<Option<&Holder>> {
        let found =
            self.bound.iter().find(|bound| bound.protocol == protocol && meets(bound.address, address))?;
        Some(self.holders.get(&found.inode))
    }

    /// UDP ports between two, both included, that somebody other than `except` holds, with the holders' names.
    pub fn udp_between(&self, first: u16, last: u16, except: &str) -> Vec<(u16, String)> {
        let inside = |bound: &&Bound| {
            bound.protocol == Protocol::Udp && (first..=last).contains(&bound.address.port())
        };
        let named = |bound: &Bound| {
            let name = self.holders.get(&bound.inode).map_or("another user's process", |h| h.name.as_str());
            (bound.address.port(), name.to_owned())
        };
        self.bound.iter().filter(inside).map(named).filter(|(_, name)| name != except).collect()
    }
}

/// Whether two sockets cannot both have these addresses.
fn meets(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (one, other) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    let both = one == other || one.is_unspecified() || other.is_unspecified();
    // Every IPv6 address stands for every IPv4 address too, unless the socket asked not to.
    let same_family =
        one.is_ipv4() == other.is_ipv4() || matches!(one, IpAddr::V6(v6) if v6.is_unspecified());
    held.port() == wanted.port() && both && same_family
}

/// A line of `/proc/net/udp` and its relatives. Of TCP sockets only those that listen.
fn parse(line: &str, protocol: Protocol) -> Option<Bound> {
    let mut fields = line.split_whitespace();
    let address = address(fields.nth(1)?)?;
    let state = fields.nth(1)?;
    if protocol == Protocol::Tcp && state != "0A" {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Bound { protocol, address, inode })
}

/// `0100007F:13C4`: words in the machine's byte order, the port in the network's.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Sockets by inode of all processes that this user may look into.
fn holders() -> HashMap<u64, Holder> {
    let mut holders = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let name = || fs::read_to_string(process.path().join("comm")).map(|n| n.trim().to_owned());
        for open in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(open.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if let (Some(inode), Ok(name)) = (inode, name()) {
                holders.entry(inode).or_insert(Holder { pid, name });
            }
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_bound_socket_is_found_with_its_holder() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = Sockets::read();
        for (protocol, address) in
            [(Protocol::Udp, udp.local_addr().unwrap()), (Protocol::Tcp, tcp.local_addr().unwrap())]
        {
            let holder = sockets.holder(protocol, address).unwrap().unwrap();
            assert_eq!(holder.pid, std::process::id());
            let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
            assert!(sockets.holder(protocol, everywhere).is_some(), "a wildcard would meet it");
            let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
            assert!(sockets.holder(protocol, elsewhere).is_none());
        }
        let port = udp.local_addr().unwrap().port();
        assert_eq!(sockets.udp_between(port, port, "nobody").len(), 1);
        drop(udp);
        assert!(Sockets::read().holder(Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port))).is_none());
    }

    #[test]
    fn lines_of_proc_are_read() {
        let line =
            "  0: 0100007F:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 4711 2 0 0";
        let bound = parse(line, Protocol::Udp).unwrap();
        assert_eq!((bound.address, bound.inode), ("127.0.0.1:5060".parse().unwrap(), 4711));
        let established = line.replace(" 07 ", " 01 ");
        assert!(parse(&established, Protocol::Tcp).is_none() && parse("nonsense", Protocol::Udp).is_none());
    }
}
