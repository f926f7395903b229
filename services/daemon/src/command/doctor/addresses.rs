//! The addresses that peers are told: whether they can lead back here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use trunkline_cluster::Role;

use super::{Subject, finding::Area};

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Loopback,
    /// RFC 1918, RFC 6598, RFC 4193, link-local.
    Private,
    Public,
}

impl Scope {
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() || shared(v4) => Self::Private,
            IpAddr::V6(v6) if v6.is_unique_local() || v6.is_unicast_link_local() => Self::Private,
            _ => Self::Public,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// Carriers' own (RFC 6598).
fn shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1])
}

/// Whether an interface of this machine has it.
pub fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The address from which this machine reaches the world; nothing is sent to find it out.
pub fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Looks at what telephones, browsers and nodes are told.
pub async fn check(subject: &Subject) -> Area {
    let mut area = Area::new("addresses");
    let config = &subject.config;
    if let Some(why) = &subject.nowhere {
        let remedy = "set sip.advertised and media.advertised, or mend what node.advertise names";
        area.fail("node.advertise", why.clone(), "the node waits for it and is not ready", remedy);
    }
    match outward() {
        Some(ip) => area.ok("this machine", format!("{ip} ({}) towards the world", Scope::of(ip).as_str())),
        None => area.ok("this machine", "no route out"),
    }
    if config.has(Role::Edge) {
        let listen = config.sip.listen;
        told(
            &mut area,
            subject,
            ("sip.advertised", "sip.listen"),
            listen.ip(),
            config.sip.advertised.unwrap_or(listen).ip(),
        );
        trunks(&mut area, subject);
    }
    if config.has(Role::Media) {
        let media = &config.media;
        told(&mut area, subject, ("media.advertised", "media.bind"), media.bind, media.advertised());
    }
    if config.has(Role::Edge) && config.has(Role::Media) {
        same_way(&mut area, subject);
    }
    if config.cluster.is_some() {
        cluster(&mut area, subject).await;
    }
    area
}

fn told(area: &mut Area, subject: &Subject, (key, listen_key): (&str, &str), listen: IpAddr, told: IpAddr) {
    let scope = Scope::of(told);
    let found = format!("{told} ({}), listening at {listen}", scope.as_str());
    if scope == Scope::Loopback && !listen.is_loopback() {
        area.fail(
            key,
            found,
            "whoever is told a loopback address sends to itself",
            &format!("set {key} to the address at which peers reach this machine"),
        );
    } else if scope == Scope::Loopback && subject.config.cluster.is_some() {
        area.warn(
            key,
            found,
            "nobody on another machine reaches this node",
            &format!("set {listen_key} to an address of the network that peers are in"),
        );
    } else if told != listen && !is_ours(told) {
        let found = format!("{found}: no interface here has it, so something in front translates");
        if Scope::of(listen) == Scope::Loopback {
            let why = "what comes from outside to that address never arrives at a loopback address";
            area.fail(
                key,
                found,
                why,
                &format!("set {listen_key} to an address of this machine or to 0.0.0.0"),
            );
        } else {
            area.ok(key, found);
        }
    } else {
        area.ok(key, found);
    }
}

/// A trunk whose networks are public cannot be told a private address.
fn trunks(area: &mut Area, subject: &Subject) {
    let sip = &subject.config.sip;
    let told = sip.advertised.unwrap_or(sip.listen).ip();
    if Scope::of(told) == Scope::Public {
        return;
    }
    for trunk in &sip.trunks {
        let address = |source: &String| source.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        let public = trunk.sources.iter().find(|source| {
            address(source).is_some_and(|ip| Scope::of(ip) == Scope::Public && !ip.is_unspecified())
        });
        if let Some(public) = public {
            area.warn(
                format!("sip.trunks.{}", trunk.name),
                format!("{public} is public, and it is told {told} ({})", Scope::of(told).as_str()),
                "its requests within a call, BYE among them, go to an address that it cannot reach",
                "set sip.advertised to the public address that is forwarded to this node",
            );
        }
    }
}

/// Signalling and audio take the same way in.
fn same_way(area: &mut Area, subject: &Subject) {
    let (sip, media) = (&subject.config.sip, &subject.config.media);
    let (sip, media) = (sip.advertised.unwrap_or(sip.listen).ip(), media.advertised());
    if Scope::of(sip) != Scope::of(media) {
        area.warn(
            "sip.advertised and media.advertised",
            format!("{sip} is {}, {media} is {}", Scope::of(sip).as_str(), Scope::of(media).as_str()),
            "a caller who reaches the one does not reach the other: calls are set up and stay silent",
            "advertise addresses of the same network for both",
        );
    }
}

async fn cluster(area: &mut Area, subject: &Subject) {
    let Some(cluster) = &subject.config.cluster else { return };
    let advertised = cluster.advertised();
    let key = "cluster.advertise";
    let resolved: Vec<SocketAddr> = match tokio::net::lookup_host(&advertised).await {
        Ok(found) => found.collect(),
        Err(error) => {
            return area.fail(
                key,
                format!("{advertised}: {error}"),
                "the other nodes look this name up to reach this node",
                "advertise an address, or a name that every node's resolver knows",
            );
        }
    };
    let beyond = cluster
        .etcd
        .endpoints
        .iter()
        .any(|endpoint| !endpoint.contains("127.0.0.1") && !endpoint.contains("localhost"));
    if resolved.iter().all(|address| address.ip().is_loopback()) && beyond {
        area.fail(
            key,
            format!("{advertised} is a loopback address, and etcd is on another machine"),
            "the other nodes would look for this node on their own machines",
            "set cluster.advertise to host:port at which they reach this one",
        );
    } else if !resolved.iter().any(|address| is_ours(address.ip())) {
        area.warn(
            key,
            format!("{advertised} is no address of this machine"),
            "links between nodes are one to one: a load balancer in between would mix nodes up",
            "advertise this machine's own address, unless one-to-one translation stands in front of it",
        );
    } else {
        area.ok(key, advertised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_told_apart() {
        for (text, scope) in [
            ("127.0.0.1", Scope::Loopback),
            ("::1", Scope::Loopback),
            ("10.1.2.3", Scope::Private),
            ("100.64.0.1", Scope::Private),
            ("169.254.1.1", Scope::Private),
            ("fd00::1", Scope::Private),
            ("::ffff:192.168.0.1", Scope::Private),
            ("100.128.0.1", Scope::Public),
            ("203.0.113.9", Scope::Public),
        ] {
            assert_eq!(Scope::of(text.parse().unwrap()), scope, "{text}");
        }
    }
}
