//! The certificate that a member shows, looked at and not trusted: also one that has ended is told.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use trunkline_cluster::TlsFiles;

const PATIENCE: Duration = Duration::from_secs(3);

/// Begin and end of the certificate at an address, seconds since 1970.
pub async fn certificate(address: &str, files: &TlsFiles) -> Result<(i64, i64), String> {
    let config = Arc::new(config(files)?);
    let shaken = timeout(PATIENCE, async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("node.invalid").map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, tcp).await
    });
    let stream =
        shaken.await.map_err(|_| format!("no handshake within {PATIENCE:?}"))?.map_err(|e| e.to_string())?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or("it shows none")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(shown).map_err(|error| error.to_string())?;
    Ok((parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()))
}

fn config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.cert).map_err(|e| e.to_string())?.collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| error.to_string())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Any(provider)))
                .with_client_auth_cert(chain.map_err(|error| Error::General(error.to_string()))?, key)
        })
        .map_err(|error| error.to_string())
}

/// Takes any certificate whose holder has its key: nothing is sent over such a connection.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
