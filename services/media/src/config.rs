//! Configuration of the media role: raw, then validated.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Everything the media role can be told. Unknown keys are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address on which media sockets listen. Default `127.0.0.1`.
    pub bind: IpAddr,
    /// Address that SDP and ICE candidates name. Default: `bind`. Needed when `bind` is `0.0.0.0` or behind NAT.
    pub advertised: Option<IpAddr>,
    /// UDP ports for RTP and RTCP, an even one and the next for each endpoint. Default `40000-40999`.
    pub rtp: PortRange,
    /// UDP port for browsers; worker n has this plus n. 0 (default): the system chooses.
    pub webrtc_port: u16,
    /// Worker threads, 1 to 64. Default: half of the processors, at least 1.
    pub workers: usize,
    /// Most sessions on this node; beyond it commands that would make one get OVERLOAD. Default 5,000.
    pub max_sessions: usize,
    /// How plain RTP sources are learnt. Default `symmetric`.
    pub latch: LatchPolicy,
    /// A party that should speak is reported silent after this. Default 20,000.
    pub no_rtp_timeout_ms: u64,
    /// A browser without STUN for this long is reported gone. Default 8,000.
    pub webrtc_stun_timeout_ms: u64,
    /// A browser whose RTP pauses for this long (while STUN goes on) is reported paused. Default 1,500.
    pub webrtc_rtp_pause_ms: u64,
    /// A session without command and audio for this long is ended. Its call is asked before, at half of it. Default
    /// 300,000.
    pub orphan_timeout_ms: u64,
    /// Folder with `music/*.wav` and `prompts/*.wav` (8 kHz, mono, 16 bit) beside the built-in ones, which they replace
    /// when they have the same name.
    pub sounds: Option<PathBuf>,
    /// Recordings.
    pub recording: RecordingConfig,
    /// The recogniser; none: transcripts say so.
    pub transcription: Option<TranscriptionConfig>,
}

/// How plain RTP sources are learnt (`trunkline_media_core::latch`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatchPolicy {
    /// The SDP's address, or a plausible one after a probation.
    Symmetric,
    /// Only the SDP's address.
    Strict,
}

/// Recordings: where they are written and where they are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordingConfig {
    /// Folder for recordings that are being written, and for those that could not be stored yet.
    pub spool: PathBuf,
    /// Where finished ones go.
    pub store: StoreConfig,
    /// What is being recorded is copied to the store in parts of this length, so that the loss of this node and its disk
    /// costs two seconds of a recording. In S3 each part is a request. 0: not before the end. Default 1,000; 0 for a node
    /// that is alone and has spool and store on one disk, where the copy would be lost with what it is a copy of.
    pub segment_ms: u64,
    /// Finished recordings that are put into the store at once; others wait in the spool. Each holds up to 8 MiB of memory
    /// on its way to S3, where a media node puts about `uploads` ÷ seconds of one request. 1 to 256, default 16.
    pub uploads: usize,
}

/// An object store.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub enum StoreConfig {
    /// A local folder.
    Folder {
        /// Its path; made when missing.
        path: PathBuf,
    },
    /// S3 or a relative of it.
    S3 {
        /// Bucket.
        bucket: String,
        /// Put before every key, without slashes at the ends.
        #[serde(default)]
        prefix: String,
        /// Region. Default `us-east-1`.
        #[serde(default = "default_region")]
        region: String,
        /// Address of a relative of S3; none: AWS.
        #[serde(default)]
        endpoint: Option<String>,
        /// Access key; none: the role of the pod's service account (EKS: web identity or Pod Identity), of the ECS task
        /// or of the machine (EC2), whichever the environment names first.
        #[serde(default)]
        access_key_id: Option<String>,
        /// Its secret.
        #[serde(default, skip_serializing)]
        secret_access_key: Option<String>,
        /// Plain HTTP to the endpoint.
        #[serde(default)]
        allow_http: bool,
    },
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path } => f.debug_struct("Folder").field("path", path).finish(),
            Self::S3 { bucket, prefix, region, endpoint, .. } => f
                .debug_struct("S3")
                .field("bucket", bucket)
                .field("prefix", prefix)
                .field("region", region)
                .field("endpoint", endpoint)
                .finish_non_exhaustive(),
        }
    }
}

fn default_region() -> String {
    "us-east-1".into()
}

/// The recogniser.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscriptionConfig {
    /// Address, `http://host:port`.
    pub endpoint: String,
    /// For the connection and for the recogniser's acceptance. Default 3,000.
    #[serde(default = "default_connect")]
    pub connect_timeout_ms: u64,
    /// How long the recogniser may take after the end of a call. Default 30,000.
    #[serde(default = "default_drain")]
    pub drain_timeout_ms: u64,
    /// Tries in a row before it is given up for a call. Default 10.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
}

fn default_connect() -> u64 {
    3_000
}

fn default_drain() -> u64 {
    30_000
}

fn default_attempts() -> u32 {
    10
}

impl Default for RecordingConfig {
    fn default() -> Self {
        let store = StoreConfig::Folder { path: "data/recordings".into() };
        Self { spool: "data/spool".into(), store, segment_ms: 1_000, uploads: 16 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            advertised: None,
            rtp: PortRange { first: 40_000, last: 40_999 },
            webrtc_port: 0,
            workers: std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1)),
            max_sessions: 5_000,
            latch: LatchPolicy::Symmetric,
            no_rtp_timeout_ms: 20_000,
            webrtc_stun_timeout_ms: 8_000,
            webrtc_rtp_pause_ms: 1_500,
            orphan_timeout_ms: 300_000,
            sounds: None,
            recording: RecordingConfig::default(),
            transcription: None,
        }
    }
}

/// A range of UDP ports, both ends included, as text `first-last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Even ports in the range that have their odd neighbour in it too.
    pub(crate) fn pairs(self) -> impl Iterator<Item = u16> + Clone {
        let first = u32::from(self.first).next_multiple_of(2);
        (first..u32::from(self.last)).step_by(2).filter_map(|port| u16::try_from(port).ok())
    }
}

impl FromStr for PortRange {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError {
            field: "media.rtp",
            problem: format!("{text:?} is not a port range"),
            remedy: "write it as 40000-40999, first below last, both from 1024",
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if first < 1_024 || first >= last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The key.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError`] for the first key that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |field, problem: String, remedy| Err(ConfigError { field, problem, remedy });
        if !(1..=64).contains(&self.workers) {
            return wrong("media.workers", format!("{} threads", self.workers), "use 1 to 64");
        }
        if self.rtp.pairs().count() < self.workers {
            return wrong(
                "media.rtp",
                format!("{} has fewer port pairs than workers", self.rtp),
                "widen the range",
            );
        }
        if self.max_sessions == 0 {
            return wrong("media.max_sessions", "0 sessions".into(), "use at least 1");
        }
        let advertised = self.advertised();
        if advertised.is_unspecified() {
            return wrong(
                "media.advertised",
                format!("SDP would name {advertised}"),
                "set it to the address that callers and browsers reach",
            );
        }
        if advertised.is_ipv4() != self.bind.is_ipv4() {
            return wrong(
                "media.advertised",
                "its family is not that of media.bind".into(),
                "use the same family",
            );
        }
        for (field, value, least) in [
            ("media.no_rtp_timeout_ms", self.no_rtp_timeout_ms, 1_000),
            ("media.webrtc_stun_timeout_ms", self.webrtc_stun_timeout_ms, 3_000),
            ("media.webrtc_rtp_pause_ms", self.webrtc_rtp_pause_ms, 200),
            ("media.orphan_timeout_ms", self.orphan_timeout_ms, 1_000),
        ] {
            if !(least..=86_400_000).contains(&value) {
                return wrong(
                    field,
                    format!("{value} ms"),
                    "use at least a second (STUN three, pause 200 ms), at most a day",
                );
            }
        }
        let segment = self.recording.segment_ms;
        if segment != 0 && !(200..=60_000).contains(&segment) {
            return wrong(
                "media.recording.segment_ms",
                format!("{segment} ms"),
                "use 200 to 60000 (1000 keeps the loss of a node below two seconds), or 0 for no copies",
            );
        }
        let uploads = self.recording.uploads;
        if !(1..=256).contains(&uploads) {
            return wrong(
                "media.recording.uploads",
                uploads.to_string(),
                "use 1 to 256 (16 store 160 recordings a second at 100 ms each)",
            );
        }
        if let StoreConfig::S3 { access_key_id, secret_access_key, .. } = &self.recording.store
            && access_key_id.is_some() != secret_access_key.is_some()
        {
            return wrong(
                "media.recording.store",
                "of access_key_id and secret_access_key there is one".into(),
                "give both, or neither for the role of the service account or of the machine",
            );
        }
        self.validate_transcription()
    }

    fn validate_transcription(&self) -> Result<(), ConfigError> {
        let Some(transcription) = &self.transcription else { return Ok(()) };
        if tonic::transport::Endpoint::from_shared(transcription.endpoint.clone()).is_err()
            || !transcription.endpoint.starts_with("http")
        {
            return Err(ConfigError {
                field: "media.transcription.endpoint",
                problem: format!("{:?} is not an address", transcription.endpoint),
                remedy: "write it as http://host:port",
            });
        }
        Ok(())
    }

    /// The address told to others.
    pub fn advertised(&self) -> IpAddr {
        self.advertised.unwrap_or(self.bind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_unknown_keys_are_refused() {
        assert_eq!(Config::default().validate(), Ok(()));
        let text = serde_json::json!({ "rtp": "30000-30099", "wrokers": 2 }).to_string();
        assert!(serde_json::from_str::<Config>(&text).unwrap_err().to_string().contains("wrokers"));
        let config: Config = serde_json::from_value(serde_json::json!({ "rtp": "30001-30006" })).unwrap();
        assert_eq!(config.rtp.pairs().collect::<Vec<_>>(), [30_002, 30_004]);
        assert!(serde_json::from_value::<Config>(serde_json::json!({ "rtp": "9-1" })).is_err());
    }

    #[test]
    fn an_address_nobody_can_reach_is_refused_with_the_remedy() {
        let config = Config { bind: "0.0.0.0".parse().unwrap(), ..Config::default() };
        assert_eq!(config.validate().unwrap_err().field, "media.advertised");
    }

    #[test]
    fn as_many_uploads_at_once_as_memory_can_bear() {
        for (uploads, field) in
            [(0, Some("media.recording.uploads")), (256, None), (257, Some("media.recording.uploads"))]
        {
            let recording = RecordingConfig { uploads, ..RecordingConfig::default() };
            let config = Config { recording, ..Config::default() };
            assert_eq!(config.validate().err().map(|error| error.field), field);
        }
    }

    #[test]
    fn half_a_pair_of_keys_is_refused() {
        for (keys, field) in [
            (&[][..], None),
            (&["access_key_id", "secret_access_key"], None),
            (&["access_key_id"], Some("media.recording.store")),
            (&["secret_access_key"], Some("media.recording.store")),
        ] {
            let mut store = serde_json::json!({ "kind": "s3", "bucket": "b" });
            keys.iter().for_each(|key| store[key] = "x".into());
            let recording: RecordingConfig =
                serde_json::from_value(serde_json::json!({ "store": store })).unwrap();
            let config = Config { recording, ..Config::default() };
            assert_eq!(config.validate().err().map(|error| error.field), field, "{keys:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let store: StoreConfig = serde_json::from_value(
            serde_json::json!({ "kind": "s3", "bucket": "b", "secret_access_key": "hush" }),
        )
        .unwrap();
        assert!(!format!("{store:?}{}", serde_json::to_string(&store).unwrap()).contains("hush"));
    }
}
