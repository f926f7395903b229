//! DTLS for browsers' legs, with what every session has in common made once.
//!
//! str0m's own provider builds a configuration for each session, which proves the cryptography anew each time (key
//! exchanges and signatures on every curve): a tenth of what a queued call cost. And it makes a certificate for each
//! session, though a self-signed one proves nothing but that the fingerprint in the SDP is its own (RFC 8122 section 5):
//! here a process has one, and another each day.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use str0m::{
    RtcConfig,
    config::{CryptoProvider, DtlsCert, DtlsVersion},
    crypto::{
        CryptoError,
        dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion},
        from_feature_flags,
    },
};

/// A certificate is used for this long.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// Packet sizes that a process has configurations for at once; it asks for one, its own.
const MOST_CONFIGS: usize = 8;

static PROVIDER: Provider = Provider { configs: Mutex::new(Vec::new()), certificate: Mutex::new(None) };

/// Has sessions of this configuration share what can be shared.
pub(crate) fn shared(config: RtcConfig, now: Instant) -> RtcConfig {
    static CRYPTO: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let crypto =
        CRYPTO.get_or_init(|| Arc::new(CryptoProvider { dtls_provider: &PROVIDER, ..from_feature_flags() }));
    let config = config.set_crypto_provider(Arc::clone(crypto));
    match PROVIDER.certificate(now) {
        Some(certificate) => config.set_dtls_cert(certificate),
        // str0m asks for one itself, and fails with a reason when there is none.
        None => config,
    }
}

#[derive(Debug)]
struct Provider {
    /// By the packet size that sessions ask for (str0m always asks for one). Proved when they were built.
    configs: Mutex<Vec<(Option<usize>, Arc<dimpl::Config>)>>,
    certificate: Mutex<Option<(Instant, DtlsCert)>>,
}

impl Provider {
    /// The process's certificate.
    fn certificate(&self, now: Instant) -> Option<DtlsCert> {
        let mut held = self.certificate.lock();
        if held.as_ref().is_none_or(|(made, _)| now.saturating_duration_since(*made) >= CERTIFICATE_LIFE) {
            *held = self.generate_certificate().map(|certificate| (now, certificate));
        }
        held.as_ref().map(|(_, certificate)| certificate.clone())
    }

    fn config(&self, mtu: Option<usize>) -> Result<Arc<dimpl::Config>, CryptoError> {
        let mut configs = self.configs.lock();
        if let Some((_, config)) = configs.iter().find(|(of, _)| *of == mtu) {
            return Ok(Arc::clone(config));
        }
        let config = build(mtu)?;
        if configs.len() < MOST_CONFIGS {
            configs.push((mtu, Arc::clone(&config)));
        }
        Ok(config)
    }
}

fn build(mtu: Option<usize>) -> Result<Arc<dimpl::Config>, CryptoError> {
    // ICE has proved that the browser receives at its address: the server's cookie would prove it again.
    let mut builder = dimpl::Config::builder().use_server_cookie(false);
    if let Some(mtu) = mtu {
        builder = builder.mtu(mtu);
    }
    builder.build().map(Arc::new).map_err(|error| CryptoError::Other(format!("DTLS configuration: {error}")))
}

impl DtlsProvider for Provider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        dimpl::certificate::generate_self_signed_certificate().ok()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        dtls_version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let (config, cert) = (self.config(mtu)?, cert.clone());
        let dtls = match dtls_version {
            DtlsVersion::Dtls12 => dimpl::Dtls::new_12(config, cert, now),
            DtlsVersion::Dtls13 => dimpl::Dtls::new_13(config, cert, now),
            DtlsVersion::Auto => dimpl::Dtls::new_auto(config, cert, now),
            other => return Err(CryptoError::Other(format!("DTLS version {other} is not known"))),
        };
        Ok(Box::new(Instance(dtls)))
    }
}

/// One session's DTLS.
struct Instance(dimpl::Dtls);

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dtls").finish_non_exhaustive()
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buf)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_share_a_certificate_for_a_day() {
        let now = Instant::now();
        let of = |at: Instant| PROVIDER.certificate(at).unwrap().certificate;
        let first = of(now);
        assert_eq!(first, of(now + CERTIFICATE_LIFE / 2));
        assert_ne!(first, of(now + CERTIFICATE_LIFE));
    }

    #[test]
    fn sessions_share_a_proved_configuration() {
        let of = |mtu| PROVIDER.config(mtu).unwrap();
        assert!(Arc::ptr_eq(&of(Some(1_150)), &of(Some(1_150))));
        assert!(!Arc::ptr_eq(&of(Some(1_150)), &of(Some(1_200))));
        assert!(Arc::ptr_eq(&of(None), &of(None)));
    }

    /// As str0m asks for it, whatever packet size it has in mind.
    #[test]
    fn a_session_proves_nothing_that_one_before_has_proved() {
        let session = || shared(RtcConfig::new(), Instant::now()).build(Instant::now());
        drop(session());
        let known = PROVIDER.configs.lock().clone();
        drop(session());
        let after = PROVIDER.configs.lock().clone();
        assert!(!known.is_empty());
        assert!(
            known
                .iter()
                .all(|(mtu, config)| after.iter().any(|(of, one)| of == mtu && Arc::ptr_eq(one, config)))
        );
    }
}
