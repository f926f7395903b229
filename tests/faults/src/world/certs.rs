//! Certificates for mTLS between nodes: one authority a run, one certificate a node.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The name that every node's certificate carries beside its own.
const NODE_NAME: &str = "trunkline-node";

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Writes `ca.pem`, `node.pem` and `node.key` for a node into a folder.
    pub fn write(&self, node: &str, address: Ipv4Addr, folder: &Path) -> Result<()> {
        let mut params = CertificateParams::new(vec![node.to_owned(), NODE_NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.subject_alt_names.push(SanType::IpAddress(address.into()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        for (name, text) in [
            ("ca.pem", self.issuer.pem()),
            ("node.pem", certificate.pem()),
            ("node.key", key.serialize_pem()),
        ] {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
        }
        Ok(())
    }
}
