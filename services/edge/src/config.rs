use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use trunkline_sip::digest::Algorithm;
use trunkline_types::TenantId;

use crate::metrics::{NO_TRUNK, TELEPHONES};

/// Why a configuration of the edge is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A source that is not an address or a network.
    #[error("sip.trunks.{trunk}.sources: {text:?} is not an address or a network such as 192.0.2.0/24")]
    Source {
        /// The trunk.
        trunk: String,
        /// What was given.
        text: String,
    },
    /// Peers cannot be told where to answer.
    #[error(
        "sip.advertised: required when sip.listen is {listen}: give the address that peers reach this node at"
    )]
    Advertised {
        /// The wildcard address.
        listen: SocketAddr,
    },
    /// Nobody can be asked who they are.
    #[error("sip.telephones.realm: it is empty: leave it out, or write the realm of the accounts")]
    Realm,
    /// Nobody could answer.
    #[error("sip.telephones.algorithms: it is empty: leave it out, or write sha-256, md5 or both")]
    Algorithms,
    /// A number outside its bounds.
    #[error("sip.{field}: {value} is outside {bounds}")]
    Bounds {
        /// The key.
        field: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        bounds: &'static str,
    },
}

/// The edge role's configuration, section `sip`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address for UDP and TCP. Default 127.0.0.1:5060.
    pub listen: SocketAddr,
    /// Host that peers are told (Contact, Via) when it differs from the listening address. Default: `listen`.
    pub advertised: Option<SocketAddr>,
    /// SIP transactions at once at most; more are answered 503. Default 100,000.
    pub max_transactions: usize,
    /// TCP connections at once at most, and from one address. Defaults 4,096 and 1,024.
    pub max_connections: usize,
    /// See `max_connections`.
    pub max_connections_per_peer: usize,
    /// A TCP peer has this long for its first message, for each message once begun, and to take what is written to it.
    /// Default 20 s.
    pub message_timeout_ms: u64,
    /// A TCP connection without any message is closed after this. Default 600 s.
    pub idle_timeout_ms: u64,
    /// RFC 3261 timers T1 and T2. Defaults 500 ms and 4 s.
    pub t1_ms: u64,
    /// See `t1_ms`.
    pub t2_ms: u64,
    /// Who may send calls. Default: one trunk `local` for the loopback network.
    pub trunks: Vec<TrunkConfig>,
    /// Telephones with accounts of their own.
    pub telephones: TelephonesConfig,
}

/// How telephones register (section `sip.telephones`); their accounts are documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelephonesConfig {
    /// The realm in which those are asked who they are that register for a domain which is no account's realm. Default:
    /// `default`, which is the realm of the tenant of that name.
    pub realm: String,
    /// By what telephones may prove who they are, the preferred one first (RFC 8760). Many telephones of before 2020 know
    /// MD5, and look at the first challenge alone or give up when one is unknown to them: for those, `[md5, sha-256]` or
    /// `[md5]`. Default `[sha-256, md5]`; `dev` has `[md5]`.
    pub algorithms: Option<Vec<DigestAlgorithm>>,
    /// Shorter intervals are refused (423). Default 60 s.
    pub min_expires_s: u32,
    /// For telephones that want none. Default 600 s.
    pub default_expires_s: u32,
    /// Longer intervals are cut. Default 3,600 s. Between three quarters and all of an interval are granted, so that
    /// telephones that came together do not stay together.
    pub max_expires_s: u32,
}

/// A hash of digest authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DigestAlgorithm {
    /// RFC 7616.
    #[serde(rename = "sha-256")]
    Sha256,
    /// RFC 2617.
    #[serde(rename = "md5")]
    Md5,
}

impl From<DigestAlgorithm> for Algorithm {
    fn from(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256,
            DigestAlgorithm::Md5 => Self::Md5,
        }
    }
}

impl TelephonesConfig {
    /// By what telephones may prove who they are, in the order in which it is offered.
    pub(crate) fn offered(&self) -> Vec<Algorithm> {
        match &self.algorithms {
            Some(algorithms) => algorithms.iter().copied().map(Algorithm::from).collect(),
            None => vec![Algorithm::Sha256, Algorithm::Md5],
        }
    }
}

impl Default for TelephonesConfig {
    fn default() -> Self {
        Self {
            realm: "default".to_owned(),
            algorithms: None,
            min_expires_s: 60,
            default_expires_s: 600,
            max_expires_s: 3_600,
        }
    }
}

/// Peers that may send calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkConfig {
    /// Name in records and metrics.
    pub name: String,
    /// The tenant its calls belong to.
    pub tenant: TenantId,
    /// Addresses and networks (`192.0.2.0/24`) that its requests come from.
    pub sources: Vec<String>,
    /// P-Asserted-Identity of this trunk is believed (RFC 3325 trust domain).
    #[serde(default)]
    pub trust_identity: bool,
    /// What becomes of REGISTER. Default `challenge`.
    #[serde(default)]
    pub registrations: Registrations,
}

/// What a trunk's peers are answered to REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registrations {
    /// 401, and those with an account get in.
    #[default]
    Challenge,
    /// 200 for peers that will not call before they are registered. Nothing is kept and nothing is called there; who
    /// brings credentials is a telephone all the same.
    Acknowledge,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
            advertised: None,
            max_transactions: 100_000,
            max_connections: 4_096,
            max_connections_per_peer: 1_024,
            message_timeout_ms: 20_000,
            idle_timeout_ms: 600_000,
            t1_ms: 500,
            t2_ms: 4_000,
            trunks: vec![TrunkConfig {
                name: "local".to_owned(),
                tenant: "default".parse().unwrap_or_else(|_| unreachable!("a valid name")),
                sources: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
                trust_identity: true,
                registrations: Registrations::Challenge,
            }],
            telephones: TelephonesConfig::default(),
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub config: Config,
    pub trunks: Vec<Arc<Trunk>>,
    no_trunk: Arc<String>,
    pub message_timeout: Duration,
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Trunk {
    pub name: Arc<String>,
    pub tenant: TenantId,
    pub trust_identity: bool,
    pub registrations: Registrations,
    sources: Vec<Network>,
}

#[derive(Debug, Clone, Copy)]
struct Network {
    base: u128,
    mask: u128,
}

impl Settings {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        bounds("max_transactions", config.max_transactions as u64, 10, 10_000_000, "10 to 10,000,000")?;
        bounds("max_connections", config.max_connections as u64, 1, 1_000_000, "1 to 1,000,000")?;
        let per_peer = config.max_connections_per_peer as u64;
        bounds("max_connections_per_peer", per_peer, 1, 1_000_000, "1 to 1,000,000")?;
        if config.listen.ip().is_unspecified() && config.advertised.is_none() {
            return Err(ConfigError::Advertised { listen: config.listen });
        }
        bounds("message_timeout_ms", config.message_timeout_ms, 100, 60_000, "100 to 60,000")?;
        bounds("idle_timeout_ms", config.idle_timeout_ms, 1_000, 86_400_000, "1,000 to 86,400,000")?;
        bounds("t1_ms", config.t1_ms, 10, 5_000, "10 to 5,000")?;
        bounds("t2_ms", config.t2_ms, config.t1_ms, 60_000, "t1_ms to 60,000")?;
        let TelephonesConfig { min_expires_s, default_expires_s, max_expires_s, .. } = config.telephones;
        bounds("telephones.min_expires_s", min_expires_s.into(), 1, 3_600, "1 to 3,600")?;
        let (least, most) = (min_expires_s.into(), max_expires_s.into());
        bounds("telephones.max_expires_s", most, least, 86_400, "min_expires_s to 86,400")?;
        let default = default_expires_s.into();
        bounds("telephones.default_expires_s", default, least, most, "min_expires_s to max_expires_s")?;
        if config.telephones.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::Algorithms);
        }
        if config.telephones.realm.is_empty() {
            return Err(ConfigError::Realm);
        }
        let trunks =
            config.trunks.iter().map(|raw| Trunk::new(raw).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self {
            message_timeout: Duration::from_millis(config.message_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
            trunks,
            no_trunk: Arc::new(NO_TRUNK.to_owned()),
            config,
        })
    }

    /// The name under which messages from and to a peer are counted.
    pub fn trunk_name(&self, peer: IpAddr) -> Arc<String> {
        self.trunk_of(peer).map_or_else(|| self.no_trunk.clone(), |trunk| trunk.name.clone())
    }

    pub fn trunk_of(&self, source: IpAddr) -> Option<&Arc<Trunk>> {
        self.trunks.iter().find(|trunk| trunk.sources.iter().any(|network| network.contains(source)))
    }
}

fn bounds(
    field: &'static str,
    value: u64,
    low: u64,
    high: u64,
    bounds: &'static str,
) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(ConfigError::Bounds { field, value, bounds }) }
}

impl Trunk {
    /// What the calls of a tenant's telephones come over.
    pub fn of_telephones(tenant: &TenantId) -> Self {
        Self {
            name: Arc::new(TELEPHONES.to_owned()),
            tenant: tenant.clone(),
            trust_identity: false,
            registrations: Registrations::Challenge,
            sources: Vec::new(),
        }
    }

    fn new(raw: &TrunkConfig) -> Result<Self, ConfigError> {
        let sources = raw
            .sources
            .iter()
            .map(|text| {
                Network::parse(text)
                    .ok_or_else(|| ConfigError::Source { trunk: raw.name.clone(), text: text.clone() })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: Arc::new(raw.name.clone()),
            tenant: raw.tenant.clone(),
            trust_identity: raw.trust_identity,
            registrations: raw.registrations,
            sources,
        })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (offset, width) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let length = length.unwrap_or(width);
        if length > width {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - (offset + length)).unwrap_or(0);
        Some(Self { base: bits(address) & mask, mask })
    }

    fn contains(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_they_name() {
        let network = Network::parse("192.0.2.0/24").unwrap();
        assert!(network.contains("192.0.2.7".parse().unwrap()));
        assert!(!network.contains("192.0.3.7".parse().unwrap()));
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("203.0.113.9".parse().unwrap()));
        assert!(Network::parse("::1").unwrap().contains("::1".parse().unwrap()));
        for bad in ["192.0.2.0/33", "x", "192.0.2.0/", ""] {
            assert!(Network::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_address_needs_one_that_peers_can_reach() {
        let listen = "0.0.0.0:5060".parse().unwrap();
        let error = Settings::new(Config { listen, ..Config::default() }).unwrap_err().to_string();
        assert!(error.starts_with("sip.advertised"), "{error}");
        let advertised = Some("192.0.2.1:5060".parse().unwrap());
        assert!(Settings::new(Config { listen, advertised, ..Config::default() }).is_ok());
        let error = Settings::new(Config { max_connections_per_peer: 0, ..Config::default() }).unwrap_err();
        assert!(error.to_string().starts_with("sip.max_connections_per_peer: 0"), "{error}");
    }

    #[test]
    fn a_bad_source_is_named() {
        let mut config = Config::default();
        config.trunks[0].sources = vec!["127.0.0.1/99".to_owned()];
        let error = Settings::new(config).unwrap_err().to_string();
        assert!(error.contains("local") && error.contains("127.0.0.1/99"), "{error}");
    }
}
