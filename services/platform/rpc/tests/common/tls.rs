//! Certificates for tests.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use trunkline_rpc::TlsConfig;

/// An authority of a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes certificate and key of a node, and the authority's certificate, into `dir`.
    pub fn issue(&self, dir: &Path, node: &str) -> TlsConfig {
        self.issue_until(dir, node, 2999)
    }

    /// The same, with the year in which the certificate ends.
    pub fn issue_until(&self, dir: &Path, node: &str, year: i32) -> TlsConfig {
        let mut params = CertificateParams::new(vec![node.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let file = |what: &str, text: &str| -> PathBuf {
            let path = dir.join(format!("{node}-{what}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsConfig {
            ca: file("ca", &self.pem),
            cert: file("cert", &cert.pem()),
            key: file("key", &key.serialize_pem()),
        }
    }
}
