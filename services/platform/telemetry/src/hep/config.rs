use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};
use trunkline_config::{HostPort, Secret};

/// Longest key of the collector, in bytes.
const KEY_BYTES: usize = 1_024;

/// Where captures go, section `hep`; without the section nothing is captured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HepConfig {
    /// The collector: Homer, heplify-server, or another that reads HEP3; `homer.example:9060`.
    pub target: HostPort,
    /// `udp` or `tcp`. Default `udp`.
    #[serde(default)]
    pub transport: HepTransport,
    /// The number by which the collector knows this node. Default 2001.
    #[serde(default = "capture_id")]
    pub capture_id: u32,
    /// A file with the key that the collector wants, read at the start; a final line break is not part of it.
    /// Default: none.
    #[serde(default)]
    pub auth_key_file: Option<PathBuf>,
    /// Every SIP message, in and out. Default true.
    #[serde(default = "yes")]
    pub sip: bool,
    /// The RTCP of plain RTP, received and sent, as JSON. Default true.
    #[serde(default = "yes")]
    pub rtcp: bool,
}

/// How captures travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HepTransport {
    /// A datagram for each message: what gets lost is lost.
    #[default]
    Udp,
    /// A connection.
    Tcp,
}

const fn capture_id() -> u32 {
    2_001
}

const fn yes() -> bool {
    true
}

/// Why captures cannot be sent as configured.
#[derive(Debug, thiserror::Error)]
pub enum HepError {
    /// Nothing would be sent.
    #[error("hep: sip and rtcp are both false; leave the section out to capture nothing")]
    Nothing,
    /// The file of the key cannot be read.
    #[error("hep.auth_key_file: cannot read {path}: {source}", path = path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key in it cannot be used.
    #[error("hep.auth_key_file: {path} has {bytes} bytes; a key has 1 to 1024", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// How long its content is.
        bytes: usize,
    },
}

impl HepConfig {
    /// Checks what types cannot say, and reads the key.
    ///
    /// # Errors
    /// [`HepError`], naming the key of the configuration.
    pub fn auth_key(&self) -> Result<Option<Secret>, HepError> {
        if !self.sip && !self.rtcp {
            return Err(HepError::Nothing);
        }
        let Some(path) = &self.auth_key_file else { return Ok(None) };
        let key =
            fs::read_to_string(path).map_err(|source| HepError::KeyFile { path: path.clone(), source })?;
        let key = key.strip_suffix('\n').unwrap_or(&key);
        let key = key.strip_suffix('\r').unwrap_or(key);
        if !(1..=KEY_BYTES).contains(&key.len()) {
            return Err(HepError::Key { path: path.clone(), bytes: key.len() });
        }
        Ok(Some(Secret::new(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_is_enough_and_unknown_keys_are_refused() {
        let config: HepConfig = serde_json::from_value(json!({ "target": "homer:9060" })).unwrap();
        assert_eq!((config.transport, config.capture_id), (HepTransport::Udp, 2_001));
        assert!(config.sip && config.rtcp && config.auth_key().unwrap().is_none());
        for wrong in [
            json!({}),
            json!({ "target": "homer" }),
            json!({ "target": "homer:9060", "transport": "tls" }),
            json!({ "target": "homer:9060", "capture-id": 1 }),
        ] {
            assert!(serde_json::from_value::<HepConfig>(wrong.clone()).is_err(), "{wrong}");
        }
        let nothing = HepConfig { sip: false, rtcp: false, ..config };
        assert!(matches!(nothing.auth_key(), Err(HepError::Nothing)));
    }

    #[test]
    fn the_key_comes_from_its_file_and_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut config: HepConfig = serde_json::from_value(json!({ "target": "homer:9060" })).unwrap();
        config.auth_key_file = Some(path.clone());
        let missing = config.auth_key().unwrap_err().to_string();
        assert!(missing.contains("hep.auth_key_file") && missing.contains("cannot read"), "{missing}");
        fs::write(&path, "\n").unwrap();
        assert!(matches!(config.auth_key(), Err(HepError::Key { bytes: 0, .. })));
        fs::write(&path, "hunter22\r\n").unwrap();
        let key = config.auth_key().unwrap().unwrap();
        assert_eq!((key.expose().as_str(), format!("{key:?}").as_str()), ("hunter22", "[redacted]"));
    }
}
