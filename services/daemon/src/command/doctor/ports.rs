//! The addresses that the node listens at: held by it, free, held by somebody else, or impossible.

use std::{fs, net::SocketAddr, net::UdpSocket};

use trunkline_cluster::Role;

use super::{
    Subject,
    finding::Area,
    sockets::{Protocol, Sockets},
};

/// The name of our processes.
const OURS: &str = "trunkline";

/// Looks at every one.
pub fn check(subject: &Subject) -> Area {
    let mut area = Area::new("ports");
    let config = &subject.config;
    let sockets = Sockets::read();
    let mut wanted: Vec<(&str, Protocol, SocketAddr)> = Vec::new();
    if config.has(Role::Edge) {
        wanted.push(("sip.listen", Protocol::Udp, config.sip.listen));
        wanted.push(("sip.listen", Protocol::Tcp, config.sip.listen));
    }
    if config.has(Role::Console) {
        wanted.push(("console.listen", Protocol::Tcp, config.console.listen));
    }
    wanted.push(("metrics.listen", Protocol::Tcp, config.metrics.listen));
    if let Some(cluster) = &config.cluster {
        wanted.push(("cluster.listen", Protocol::Tcp, cluster.listen.addr));
    }
    if config.has(Role::Media) && config.media.webrtc_port != 0 {
        for worker in 0..config.media.workers {
            let port = u16::try_from(worker).ok().and_then(|n| config.media.webrtc_port.checked_add(n));
            if let Some(port) = port {
                wanted.push(("media.webrtc_port", Protocol::Udp, SocketAddr::new(config.media.bind, port)));
            }
        }
    }
    for (key, protocol, address) in wanted {
        listener(&mut area, subject, &sockets, key, (protocol, address));
    }
    if config.has(Role::Media) {
        rtp(&mut area, subject, &sockets);
    }
    area
}

fn listener(
    area: &mut Area,
    subject: &Subject,
    sockets: &Sockets,
    key: &str,
    (protocol, address): (Protocol, SocketAddr),
) {
    let what = format!("{key} {} {address}", protocol.as_str());
    if address.port() == 0 {
        return area.ok(what, "the system chooses a port");
    }
    match sockets.holder(protocol, address) {
        Some(Some(holder)) if holder.name == OURS => {
            area.ok(what, format!("held by {OURS} (pid {})", holder.pid));
        }
        Some(Some(holder)) => area.fail(
            what,
            format!("held by {} (pid {})", holder.name, holder.pid),
            "the node cannot start while another program has its address",
            &format!("stop {}, or give {key} another port", holder.name),
        ),
        Some(None) if subject.alive => area.ok(what, "held, and a node answers at metrics.listen"),
        Some(None) => area.warn(
            what,
            "held by a process of another user",
            "the node cannot start when it is not its own",
            "run the doctor as root or as the node's user to see who it is",
        ),
        None => free(area, what, key, protocol, address),
    }
}

/// Nobody has it: whether it could be had is tried for an instant.
fn free(area: &mut Area, what: String, key: &str, protocol: Protocol, address: SocketAddr) {
    let tried = match protocol {
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Tcp => bind_tcp(address),
    };
    let Err(error) = tried else { return area.ok(what, "free") };
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => area.fail(
            what,
            "no interface of this machine has the address",
            "the node cannot start",
            &format!("give {key} an address of this machine, or 0.0.0.0 and the advertised one besides"),
        ),
        std::io::ErrorKind::PermissionDenied => area.fail(
            what,
            "this user may not have the port",
            "ports below 1024 are for root and for those who were given them",
            &format!("give the process CAP_NET_BIND_SERVICE, or {key} a port above 1023"),
        ),
        _ => area.fail(what, error.to_string(), "the node cannot start", &format!("correct {key}")),
    }
}

/// Bound, but not listening: nobody can connect to it meanwhile.
fn bind_tcp(address: SocketAddr) -> std::io::Result<()> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn rtp(area: &mut Area, subject: &Subject, sockets: &Sockets) {
    let media = &subject.config.media;
    let (first, last) = (media.rtp.first, media.rtp.last);
    let pairs = usize::from(last - first).div_ceil(2);
    let what = format!("media.rtp {}", media.rtp);
    if pairs < media.max_sessions {
        area.warn(
            &what,
            format!("{pairs} callers, and media.max_sessions is {}", media.max_sessions),
            "a caller needs a pair of ports: calls beyond that fail although the node says that it has room",
            &format!(
                "widen media.rtp to {} ports, or lower media.max_sessions to {pairs}",
                2 * media.max_sessions
            ),
        );
    } else {
        area.ok(&what, format!("{pairs} callers, for media.max_sessions {}", media.max_sessions));
    }
    let others = sockets.udp_between(first, last, OURS);
    if let Some((port, name)) = others.first() {
        area.warn(
            &what,
            format!("{} of the ports are held by others, port {port} by {name}", others.len()),
            "the node goes round them, so it has room for fewer callers",
            "move the range away from theirs",
        );
    }
    ephemeral(area, &what, first, last);
}

/// Ports that the kernel gives to whoever asks for any.
fn ephemeral(area: &mut Area, what: &str, first: u16, last: u16) {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let range: Vec<u16> =
        read("ip_local_port_range").split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [low, high] = range[..] else { return };
    let reserved = reserved(&read("ip_local_reserved_ports"));
    let open =
        (first.max(low)..=last.min(high)).filter(|port| !reserved.iter().any(|r| r.contains(port))).count();
    if open > 0 {
        area.warn(
            what,
            format!(
                "{open} of the ports are within the kernel's range for outgoing connections ({low}-{high})"
            ),
            "any program's socket may take one in the moment in which a call needs it",
            &format!("sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}"),
        );
    }
}

/// `8080,9148-9150`
fn reserved(text: &str) -> Vec<std::ops::RangeInclusive<u16>> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.trim().split(',').filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_read() {
        assert_eq!(reserved("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert!(reserved("\n").is_empty());
    }
}
