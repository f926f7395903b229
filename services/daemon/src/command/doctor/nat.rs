//! What stands between this machine and the world, asked of a STUN server (RFC 8489): a Binding request to each server, no
//! credentials.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use trunkline_cluster::Role;

use super::{Subject, addresses::outward, finding::Area};
use crate::stun;

/// Asks the servers and compares with what is advertised.
pub async fn check(subject: &Subject, servers: &[String]) -> Area {
    let mut area = Area::new("nat");
    let configured = subject.config.node.advertise.as_ref().map(|advertise| advertise.stun.as_slice());
    let servers = if servers.is_empty() { configured.unwrap_or_default() } else { servers };
    if servers.is_empty() {
        area.ok("STUN", "not asked: --stun HOST:PORT or node.advertise.stun names a server");
        return area;
    }
    // The same port towards all of them shows whether the translation looks at who is spoken to.
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let local = UdpSocket::bind(everywhere).and_then(|socket| socket.local_addr()).unwrap_or(everywhere);
    let mut mapped = Vec::new();
    for server in servers {
        match stun::mapped(server, local).await {
            Ok(address) => mapped.push((server, address)),
            Err(error) => area.warn(
                format!("STUN {server}"),
                format!("{error:#}"),
                "what the world sees of this machine is not known",
                "name another server, or let UDP through to it and back",
            ),
        }
    }
    let Some((server, seen)) = mapped.first() else { return area };
    if let Some((other, different)) = mapped.iter().find(|(_, address)| address.port() != seen.port()) {
        area.warn(
            "mapping",
            format!("{server} sees port {}, {other} sees port {}", seen.port(), different.port()),
            "the translation gives each peer another port: audio that is learnt from one cannot be used for another",
            "forward media.rtp and sip.listen one to one, or give this machine a public address",
        );
    }
    compare(&mut area, subject, seen.ip());
    area
}

fn compare(area: &mut Area, subject: &Subject, seen: IpAddr) {
    let config = &subject.config;
    let here = outward();
    if here == Some(seen) {
        return area.ok("STUN", format!("the world sees {seen}, this machine's own address"));
    }
    let here = here.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
    let mut wrong = Vec::new();
    if config.has(Role::Edge) && config.sip.advertised.unwrap_or(config.sip.listen).ip() != seen {
        wrong.push(format!("sip.advertised: \"{seen}:{}\"", config.sip.listen.port()));
    }
    if config.has(Role::Media) && config.media.advertised() != seen {
        wrong.push(format!("media.advertised: {seen}"));
    }
    let found = format!("the world sees {seen}, this machine is {here}");
    if wrong.is_empty() {
        return area.ok("STUN", format!("{found}, and {seen} is what is advertised"));
    }
    area.warn(
        "STUN",
        found,
        "peers outside are told an address that they cannot reach: calls are set up and stay silent",
        &format!("for callers from outside set {}", wrong.join(" and ")),
    );
}
