//! The certificates between nodes and towards etcd.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use trunkline_rpc::{Tls, TlsMetrics};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
};

use super::{
    Subject,
    finding::{Area, Level},
};
use crate::config::tls_files;

/// Certificates that end sooner are told.
const SOON_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;

/// Looks at every configured file; `None` when there is none.
pub fn check(subject: &Subject) -> Option<Area> {
    let cluster = subject.config.cluster.as_ref()?;
    let mut area = Area::new("certificates");
    match &cluster.tls {
        Some(files) => {
            // As the node reads them: the key must be the certificate's own.
            if let Err(error) = Tls::load(tls_files(files), TlsMetrics::default()) {
                area.fail(
                    "cluster.tls",
                    error.to_string(),
                    "the node cannot start",
                    "replace the files that are named",
                );
            } else {
                area.ok("cluster.tls.key", "belongs to the certificate");
            }
            ends(&mut area, "cluster.tls.ca", &files.ca);
            ends(&mut area, "cluster.tls.cert", &files.cert);
            chain(&mut area, "cluster.tls.cert", &files.cert, &files.ca);
            names(&mut area, subject, &files.cert);
        }
        None if cluster.listen.addr.ip().is_loopback() => {
            area.ok("cluster.tls", "none: the nodes are on one machine");
        }
        None => area.warn(
            "cluster.tls",
            "none (cluster.insecure)",
            "whoever reaches the port commands the node and reads what it sends",
            "give every node a certificate of an authority that signs for nothing else",
        ),
    }
    if let Some(tls) = &cluster.etcd.tls {
        ends(&mut area, "cluster.etcd.tls.ca", &tls.ca);
        if let Some(cert) = &tls.cert {
            ends(&mut area, "cluster.etcd.tls.cert", cert);
        }
    }
    Some(area)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| format!("{}: not PEM ({error})", path.display()))?;
    if found.is_empty() { Err(format!("{}: no certificate in it", path.display())) } else { Ok(found) }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    x509_parser::parse_x509_certificate(der)
        .map(|(_, parsed)| parsed)
        .map_err(|error| format!("not X.509 ({error})"))
}

/// Begin and end of every certificate in a file; the end that comes first is told.
fn ends(area: &mut Area, key: &str, path: &Path) {
    let judged = read(path).and_then(|chain| {
        let mut least: Option<(i64, i64)> = None;
        for der in &chain {
            let validity = parse(der)?.validity().clone();
            let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            if least.is_none_or(|(_, end)| to < end) {
                least = Some((from, to));
            }
        }
        least.ok_or_else(|| "no certificate".to_owned())
    });
    match judged {
        Ok((from, to)) => {
            let (level, found, why) = judge(from, to, now_s());
            area.at(
                level,
                key,
                format!("{}: {found}", path.display()),
                why,
                "put a new certificate in its place: running nodes take it within seconds",
            );
        }
        Err(error) => area.fail(
            key,
            error,
            "connections that need it cannot be made",
            "put the right file there, readable by the node's user",
        ),
    }
}

/// What a validity means now.
pub fn judge(from_s: i64, to_s: i64, now_s: i64) -> (Level, String, &'static str) {
    let why = "a node whose certificate has ended is refused by all others: its shards and calls go to them, and with an authority's end all links end";
    if from_s > now_s {
        return (Level::Fail, format!("not valid before {} h from now", (from_s - now_s) / 3_600 + 1), why);
    }
    match (to_s - now_s) / DAY_S {
        _ if to_s <= now_s => (Level::Fail, format!("ended {} days ago", (now_s - to_s) / DAY_S), why),
        days if days < SOON_DAYS => (Level::Warn, format!("ends in {days} days"), why),
        days => (Level::Ok, format!("ends in {days} days"), ""),
    }
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    trunkline_actors::now().as_micros() / 1_000_000
}

/// As another node checks it: signed by the authority, and meant for clients as well as for servers.
fn chain(area: &mut Area, key: &str, cert: &Path, ca: &Path) {
    let (Ok(chain), Ok(authorities)) = (read(cert), read(ca)) else { return };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        if let Err(error) = roots.add(authority) {
            return area.fail(
                "cluster.tls.ca",
                error.to_string(),
                "no other node can be trusted",
                "put the authority's own certificate there",
            );
        }
    }
    let Some((own, between)) = chain.split_first() else { return };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone()).build();
    let as_client = verifier.map_err(|error| error.to_string()).and_then(|v| {
        v.verify_client_cert(own, between, UnixTime::now()).map(drop).map_err(|error| error.to_string())
    });
    let algorithms = provider.signature_verification_algorithms.all;
    let as_server = rustls::server::ParsedCertificate::try_from(own).and_then(|parsed| {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            between,
            UnixTime::now(),
            algorithms,
        )
    });
    match (as_client, as_server) {
        (Ok(()), Ok(())) => area.ok(key, "signed by cluster.tls.ca, for servers and clients"),
        (Err(error), _) => refused(area, key, &error),
        (_, Err(error)) => refused(area, key, &error.to_string()),
    }
}

fn refused(area: &mut Area, key: &str, error: &str) {
    area.fail(
        key,
        format!("another node would refuse it: {error}"),
        "no link to this node can be made",
        "sign it with cluster.tls.ca, with the extended key usages serverAuth and clientAuth",
    );
}

/// Trunkline does not look at names; people and other tools do.
fn names(area: &mut Area, subject: &Subject, cert: &Path) {
    let Ok(chain) = read(cert) else { return };
    let Some(Ok(parsed)) = chain.first().map(parse) else { return };
    let mut names: Vec<String> = Vec::new();
    for extension in parsed.extensions() {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else { continue };
        for name in &san.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress([a, b, c, d]) => names.push(format!("{a}.{b}.{c}.{d}")),
                GeneralName::IPAddress(bytes) => {
                    names.extend(
                        <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
                    );
                }
                _ => {}
            }
        }
    }
    let node = subject.config.node.name.as_str();
    let host = subject.config.cluster.as_ref().map(|cluster| cluster.advertised()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host.trim_matches(['[', ']']));
    if names.iter().any(|name| name == node || name == host) {
        area.ok("cluster.tls.cert", format!("names this node ({})", names.join(", ")));
    } else {
        area.warn(
            "cluster.tls.cert",
            format!("names {}, neither {node} nor {host}", if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }),
            "nodes trust it all the same, but nobody can tell whose it is, and it may be another node's by mistake",
            "issue it with the node's name among its subject alternative names",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        let now = 1_000 * DAY_S;
        assert_eq!(judge(0, now + 31 * DAY_S, now).0, Level::Ok);
        assert_eq!(judge(0, now + 29 * DAY_S, now).0, Level::Warn);
        assert_eq!(judge(0, now - 1, now).0, Level::Fail);
        assert_eq!(judge(now + 60, now + 90 * DAY_S, now).0, Level::Fail);
    }
}
