//! The node's certificate, as server and as client, from files that are read again when they change.
//!
//! Both ends of a connection between nodes show a certificate, and each wants the other's to chain to the cluster's
//! authority. Names in certificates are not looked at: whoever holds a certificate of the authority is a node, so the
//! authority must sign for nothing else. TLS 1.3 only, without resumption: each connection proves itself anew.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::metrics::TlsMetrics;

/// How often the files are compared with what is loaded.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A certificate file is not larger.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Files of the certificates between nodes (PEM). They may be replaced while the node runs: new connections use the new
/// ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The authority (or several, while one replaces another) that signs the nodes' certificates and nothing else.
    pub ca: PathBuf,
    /// This node's certificate, and intermediate ones behind it.
    pub cert: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

impl From<trunkline_cluster::TlsFiles> for TlsConfig {
    fn from(files: trunkline_cluster::TlsFiles) -> Self {
        Self { ca: files.ca, cert: files.cert, key: files.key }
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("tls.{field}: {}: {reason}; check the path and that this user may read it", path.display())]
    Read {
        /// Which of the configured files.
        field: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A file does not contain what it should.
    #[error("tls.{field}: {}: {reason}", path.display())]
    Content {
        /// Which of the configured files.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and what should be there.
        reason: String,
    },
    /// The files do not fit together.
    #[error("tls: {0}")]
    Mismatch(String),
}

/// A node's certificates in use. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    config: TlsConfig,
    loaded: RwLock<Loaded>,
    metrics: TlsMetrics,
}

#[derive(Clone)]
struct Loaded {
    files: [Vec<u8>; 3],
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file and what to do.
    pub fn load(config: TlsConfig, metrics: TlsMetrics) -> Result<Self, TlsError> {
        let loaded = Loaded::read(&config, &metrics)?;
        Ok(Self(Arc::new(Inner { config, loaded: RwLock::new(loaded), metrics })))
    }

    /// Follows the files until the task is aborted: new connections use what is there then. Files that do not fit are
    /// logged and counted, and the former ones stay in use.
    pub fn follow(&self) -> JoinHandle<()> {
        self.follow_every(LOOK_EVERY)
    }

    /// The same with another interval.
    pub fn follow_every(&self, interval: Duration) -> JoinHandle<()> {
        let tls = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let looking = tls.clone();
                if tokio::task::spawn_blocking(move || looking.look()).await.is_err() {
                    tracing::error!("the watch over the cluster's certificates has ended");
                    return;
                }
            }
        })
    }

    /// Takes changed files into use. True = they had changed.
    fn look(&self) -> bool {
        let Inner { config, loaded, metrics } = &*self.0;
        let found = match read_all(config) {
            Ok(files) if files == loaded.read().files => return false,
            Ok(files) => Loaded::from_files(config, files, metrics),
            Err(error) => Err(error),
        };
        match found {
            Ok(fresh) => {
                *loaded.write() = fresh;
                metrics.reloaded("ok");
                tracing::info!(cert = %config.cert.display(), "certificates were read again; new connections use them");
                true
            }
            Err(error) => {
                metrics.reloaded("failed");
                tracing::error!(%error, "changed certificates cannot be used; the former ones stay in use");
                false
            }
        }
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.0.loaded.read().server.clone()
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.0.loaded.read().client.clone()
    }

    pub(crate) fn metrics(&self) -> &TlsMetrics {
        &self.0.metrics
    }
}

fn read_all(config: &TlsConfig) -> Result<[Vec<u8>; 3], TlsError> {
    let read = |field, path: &PathBuf| {
        let failed = |reason| TlsError::Read { field, path: path.clone(), reason };
        let size = fs::metadata(path).map_err(failed)?.len();
        if size > LARGEST_FILE {
            let reason = format!("{size} bytes are too many for a certificate; is it another file?");
            return Err(TlsError::Content { field, path: path.clone(), reason });
        }
        fs::read(path).map_err(failed)
    };
    Ok([read("ca", &config.ca)?, read("cert", &config.cert)?, read("key", &config.key)?])
}

impl Loaded {
    fn read(config: &TlsConfig, metrics: &TlsMetrics) -> Result<Self, TlsError> {
        Self::from_files(config, read_all(config)?, metrics)
    }

    fn from_files(config: &TlsConfig, files: [Vec<u8>; 3], metrics: &TlsMetrics) -> Result<Self, TlsError> {
        let [ca, cert, key] = &files;
        let authorities = certificates("ca", &config.ca, ca)?;
        let chain = certificates("cert", &config.cert, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Content {
            field: "key",
            path: config.key.clone(),
            reason: format!("no private key in PEM form ({error})"),
        })?;
        let expiry = |field, path: &PathBuf, chain: &[CertificateDer<'_>]| {
            earliest_end(chain).map_err(|reason| TlsError::Content { field, path: path.clone(), reason })
        };
        let ends = (expiry("cert", &config.cert, &chain[..1])?, expiry("ca", &config.ca, &authorities)?);
        let loaded = configs(config, authorities, chain, key).map(|(server, client)| Self {
            files,
            server: Arc::new(server),
            client: Arc::new(client),
        })?;
        metrics.ends(ends.0, ends.1);
        Ok(loaded)
    }
}

fn certificates(
    field: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |reason: String| TlsError::Content { field, path: path.to_owned(), reason };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(format!("not PEM ({error})")))?;
    if found.is_empty() {
        return Err(bad(
            "no certificate in it; expected one between BEGIN CERTIFICATE and END CERTIFICATE".into()
        ));
    }
    Ok(found)
}

/// The first instant (seconds since 1970) at which one of them ends.
fn earliest_end(chain: &[CertificateDer<'_>]) -> Result<i64, String> {
    let end = |der: &CertificateDer<'_>| {
        x509_parser::parse_x509_certificate(der)
            .map(|(_, certificate)| certificate.validity().not_after.timestamp())
            .map_err(|error| format!("not an X.509 certificate ({error})"))
    };
    chain.iter().map(end).try_fold(i64::MAX, |least, end| Ok(least.min(end?)))
}

fn configs(
    config: &TlsConfig,
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(ServerConfig, ClientConfig), TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| TlsError::Content {
            field: "ca",
            path: config.ca.clone(),
            reason: format!("not a certificate of an authority ({error})"),
        })?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let only_13 = &[&rustls::version::TLS13];
    let mismatch = |error: Error| {
        TlsError::Mismatch(format!(
            "{} and {} cannot be used together ({error}); the key must be the certificate's own",
            config.cert.display(),
            config.key.display()
        ))
    };
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| TlsError::Mismatch(format!("{}: {error}", config.ca.display())))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(only_13)
        .map_err(mismatch)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(mismatch)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(only_13)
        .map_err(mismatch)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfTheCluster { roots, provider }))
        .with_client_auth_cert(chain, key)
        .map_err(mismatch)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    Ok((server, client))
}

/// Takes a server whose certificate chains to the cluster's authority, whatever its name.
#[derive(Debug)]
struct OfTheCluster {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfTheCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken between nodes".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
