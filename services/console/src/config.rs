use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::links::LinkTemplates;

/// What can be configured of the console role. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Where to listen for HTTP. TLS ends in front of it (ingress, load balancer). Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `Secure` on the session cookie and HSTS; unset = unless `listen` is a loopback address.
    pub secure_cookies: Option<bool>,
    /// Addresses of proxies whose `X-Forwarded-For` is believed (its last entry). Default none.
    pub trusted_proxies: Vec<IpAddr>,
    /// Origins of all consoles of the cluster, such as `https://console-2.example.com`, where no load balancer stands in
    /// front of them: agents' pages connect to another one when theirs is gone. Default none.
    pub alternates: Vec<String>,
    /// Where a call's trace, logs and dashboard are, for the page of the call. Default none.
    pub links: LinkTemplates,
    /// Connections at once; more are closed at once. Default 10,000.
    pub max_connections: usize,
    /// Agent sessions (WebSockets, also those waiting for their client to come back) at once. Default 20,000.
    pub max_sessions: usize,
    /// Streams of live numbers at once. Default 1,000.
    pub max_live_streams: usize,
    /// Passwords verified at once; each takes a blocking thread and the memory of [`PasswordCost`]. Default 2.
    pub sign_ins_at_once: usize,
    /// Cost at which the stand-in for unknown names is verified; equal to the cost of the accounts' hashes, so that
    /// timing does not tell which names exist.
    pub password_cost: PasswordCost,
    /// Time-outs; not configurable from files, tests shorten them.
    #[serde(skip)]
    pub timings: Timings,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            secure_cookies: None,
            trusted_proxies: Vec::new(),
            alternates: Vec::new(),
            links: LinkTemplates::default(),
            max_connections: 10_000,
            max_sessions: 20_000,
            max_live_streams: 1_000,
            sign_ins_at_once: 2,
            password_cost: PasswordCost::default(),
            timings: Timings::default(),
        }
    }
}

impl ConsoleConfig {
    /// Whether cookies are `Secure`.
    pub fn cookies_are_secure(&self) -> bool {
        self.secure_cookies.unwrap_or(!self.listen.ip().is_loopback())
    }

    /// Checks ranges; the error names the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |key, value: usize, min, max| {
            let fits = (min..=max).contains(&value);
            if fits { Ok(()) } else { Err(ConfigError::Range { key, value, min, max }) }
        };
        within("alternates (how many)", self.alternates.len(), 0, MAX_ALTERNATES)?;
        if let Some(bad) = self.alternates.iter().find(|origin| socket_origin(origin).is_none()) {
            return Err(ConfigError::Origin { text: bad.chars().take(80).collect() });
        }
        self.links.validate()?;
        within("max_connections", self.max_connections, 1, 1_000_000)?;
        within("max_sessions", self.max_sessions, 1, 1_000_000)?;
        within("max_live_streams", self.max_live_streams, 1, 100_000)?;
        within("sign_ins_at_once", self.sign_ins_at_once, 1, 64)?;
        within("password_cost.memory_kib", self.password_cost.memory_kib as usize, 8, 1 << 20)?;
        within("password_cost.passes", self.password_cost.passes as usize, 1, 100)
    }
}

/// Most of [`ConsoleConfig::alternates`].
const MAX_ALTERNATES: usize = 16;

/// Why a configuration of the console is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value out of its range.
    #[error("console.{key} is {value}: give a number from {min} to {max}")]
    Range {
        /// The key below `console`.
        key: &'static str,
        /// What was given.
        value: usize,
        /// The least that works.
        min: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A link that cannot work.
    #[error("console.{key}: {reason}")]
    Link {
        /// The key below `console`.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An alternate that is no origin.
    #[error(
        "console.alternates: {text:?} is no origin: give scheme, host and port only, such as https://console-2.example.com:8443"
    )]
    Origin {
        /// What was given.
        text: String,
    },
}

/// The origin of the WebSockets of a console, `wss://…` for `https://…`; `None` when it is no origin.
pub(crate) fn socket_origin(origin: &str) -> Option<String> {
    let (scheme, rest) = origin.split_once("://")?;
    let scheme = match scheme {
        "https" => "wss",
        "http" => "ws",
        _ => return None,
    };
    let authority: http::uri::Authority = rest.parse().ok()?;
    // It goes into a header of policy: nothing that would end it there.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    (!authority.host().is_empty() && rest.bytes().all(plain)).then(|| format!("{scheme}://{rest}"))
}

/// Parameters of Argon2id (RFC 9106), one lane. The defaults are the least that OWASP recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordCost {
    /// Memory, KiB. Default 19,456.
    pub memory_kib: u32,
    /// Passes over the memory. Default 2.
    pub passes: u32,
}

impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2 }
    }
}

/// Every wait of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// A request's head has to be there this long after the connection, or after the previous answer.
    pub header: Duration,
    /// A request's body has to be there this long after its head.
    pub body: Duration,
    /// A handler has to begin its answer within this.
    pub handler: Duration,
    /// A peer that takes nothing for this long is closed (HTTP and WebSocket).
    pub write_stall: Duration,
    /// One call to the records role.
    pub upstream: Duration,
    /// First frame of a WebSocket.
    pub hello: Duration,
    /// A WebSocket without any frame from the client.
    pub idle: Duration,
    /// A session without a WebSocket can be resumed for this long.
    pub resume: Duration,
    /// A session without a WebSocket is detached from its agent after this, so that no call rings where nobody sees it;
    /// a reload is quicker. A resumed one is attached again.
    pub detach: Duration,
    /// A command that the agent's actor does not answer fails.
    pub command: Duration,
    /// Until then it is sent again this often: the actor moves when its node dies.
    pub command_again: Duration,
    /// Sessions are renewed at the agent's actor.
    pub keepalive: Duration,
    /// Attach is sent again until the first snapshot comes.
    pub attach: Duration,
    /// Sessions are looked over for what is due.
    pub sweep: Duration,
    /// Tokens and cookies live this long.
    pub token: Duration,
    /// Least time between two events of a live stream.
    pub live: Duration,
    /// Comments that keep an event stream open.
    pub live_keepalive: Duration,
    /// The upstream of live numbers stays open this long after the last subscriber.
    pub live_linger: Duration,
    /// Open requests may end within this when the node drains.
    pub drain: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            header: s(15),
            body: s(10),
            handler: s(15),
            write_stall: s(20),
            upstream: s(8),
            hello: s(5),
            idle: s(45),
            resume: s(60),
            detach: s(3),
            command: s(10),
            command_again: Duration::from_millis(1_500),
            keepalive: s(10),
            attach: s(2),
            sweep: Duration::from_millis(500),
            token: s(12 * 3600),
            live: Duration::from_millis(250),
            live_keepalive: s(15),
            live_linger: s(10),
            drain: s(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_named_with_its_range() {
        let config = ConsoleConfig { sign_ins_at_once: 0, ..ConsoleConfig::default() };
        let text = config.validate().unwrap_err().to_string();
        assert_eq!(text, "console.sign_ins_at_once is 0: give a number from 1 to 64");
        let with =
            |origin: &str| ConsoleConfig { alternates: vec![origin.to_owned()], ..ConsoleConfig::default() };
        for good in ["https://console-2.example.com", "http://10.0.0.2:8080", "http://[::1]:8080"] {
            assert_eq!(with(good).validate(), Ok(()), "{good}");
        }
        for bad in
            ["console-2", "ws://x", "https://x/path", "https://", "https://x;script-src *", "https://a@b"]
        {
            let text = with(bad).validate().unwrap_err().to_string();
            assert!(text.contains("console.alternates") && text.contains(bad), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_loopback_needs_no_tls() {
        assert!(serde_json::from_str::<ConsoleConfig>(r#"{"lisen": "127.0.0.1:1"}"#).is_err());
        assert!(!ConsoleConfig::default().cookies_are_secure());
        let public = ConsoleConfig { listen: "0.0.0.0:80".parse().unwrap(), ..ConsoleConfig::default() };
        assert!(public.cookies_are_secure());
    }
}
