//! What configuration values are written in.

use std::{
    fmt, fs,
    net::SocketAddr,
    ops::{Deref, RangeInclusive},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a value of its type; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

macro_rules! text_value {
    ($name:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Visitor)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

/// A secret: shown as `[redacted]` wherever it is printed or serialised. Written as a text, or as `{file: PATH}` for one
/// that is mounted as a file (a final line break is not part of it).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T = String>(T);

impl<T> Secret<T> {
    /// Wraps a secret.
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret itself: to be used, never to be printed.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret<String> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Secret<String>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or {file: PATH}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Secret(text.to_owned()))
            }
            // serde's own message would print the value.
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
                Err(E::custom("write the secret in quotes"))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Err(E::custom("write the secret in quotes"))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Err(E::custom("write the secret in quotes"))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let only = "a secret from elsewhere is written {file: PATH}";
                let Some((key, path)) = map.next_entry::<String, String>()? else {
                    return Err(de::Error::custom(only));
                };
                if key != "file" || map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom(only));
                }
                let text = fs::read_to_string(&path).map_err(|error| {
                    de::Error::custom(format!("cannot read the secret file {path}: {error}"))
                })?;
                let text = text
                    .strip_suffix('\n')
                    .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
                if text.is_empty() {
                    return Err(de::Error::custom(format!("the secret file {path} is empty")));
                }
                Ok(Secret(text.to_owned()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// A length of time, written with units: `20s`, `500ms`, `1m30s`, `4h`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Deref for Span {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || {
            ValueError(format!("{} is not a length of time: write 500ms, 20s, 1m30s, 4h or 7d", shown(text)))
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total = 0_u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let number: u64 = number.parse().map_err(|_| bad())?;
            let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
            total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
            rest = tail;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in UNITS.iter().rev() {
            if millis >= *size {
                write!(f, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

text_value!(Span, "a length of time with a unit, such as 20s or 500ms");

/// Ports from the first to the last, both included: `40000-40999`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PortRange(RangeInclusive<u16>);

impl PortRange {
    /// `None` when the first is 0 or above the last.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self(first..=last))
    }

    /// The ports.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.0.clone()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromStr for PortRange {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parts =
            text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        parts.and_then(|(first, last)| Self::new(first, last)).ok_or_else(|| {
            ValueError(format!(
                "{} is not a range of ports: write first-last, such as 40000-40999",
                shown(text)
            ))
        })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

text_value!(PortRange, "a range of ports, such as 40000-40999");

/// How a listener is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
    /// SIP over WebSocket (RFC 7118).
    Ws,
    /// SIP over WebSocket under TLS.
    Wss,
}

impl Transport {
    const ALL: [(Self, &'static str); 5] =
        [(Self::Udp, "udp"), (Self::Tcp, "tcp"), (Self::Tls, "tls"), (Self::Ws, "ws"), (Self::Wss, "wss")];

    /// Its name before `://`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(transport, _)| *transport == self).map_or("", |(_, name)| name)
    }
}

/// An address to listen at: `127.0.0.1:5060`, `[::]:5060`, and with a transport where one is chosen: `udp://0.0.0.0:5060`.
/// Port 0 lets the system choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Listen {
    /// The transport, where the text names one.
    pub transport: Option<Transport>,
    /// Address and port.
    pub addr: SocketAddr,
}

impl FromStr for Listen {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = |why: &str| ValueError(format!("{} is not an address to listen at: {why}", shown(text)));
        let (transport, addr) = match text.split_once("://") {
            None => (None, text),
            Some((name, addr)) => {
                let found = Transport::ALL.iter().find(|(_, known)| *known == name);
                let found = found.ok_or_else(|| bad("the transport is udp, tcp, tls, ws or wss"))?;
                (Some(found.0), addr)
            }
        };
        let addr = addr
            .parse()
            .map_err(|_| bad("write an IP address and a port, such as 127.0.0.1:5060 or [::]:5060"))?;
        Ok(Self { transport, addr })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Some(transport) => write!(f, "{}://{}", transport.as_str(), self.addr),
            None => write!(f, "{}", self.addr),
        }
    }
}

text_value!(Listen, "an address and port, such as 127.0.0.1:5060");

/// A peer by name or address, with its port: `recogniser.example:50051`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || {
            ValueError(format!(
                "{} is not a host and port: write name:port, such as db.example:5432",
                shown(text)
            ))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

text_value!(HostPort, "a host and port, such as db.example:5432");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_need_units_and_read_back() {
        for (text, millis) in
            [("20s", 20_000), ("500ms", 500), ("1m30s", 90_000), ("4h", 14_400_000), ("7d", 604_800_000)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string().as_str()), (millis, text));
        }
        for bad in ["", "20", "s", "1.5s", "20 s", "-1s", "20S", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_and_addresses_are_strict() {
        assert_eq!("40000-40999".parse::<PortRange>().unwrap().count(), 1_000);
        for bad in ["0-5", "5-4", "40000", "1-65536", "a-b"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
        for text in ["127.0.0.1:5060", "[::]:0", "udp://0.0.0.0:5060", "wss://[::1]:443"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for bad in ["5060", "localhost:5060", "sctp://0.0.0.0:1", "127.0.0.1"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
        for text in ["db.example:5432", "[::1]:80", "10.0.0.1:1"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for bad in ["db", "db:0", ":80", "a b:80", "http://x:80"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(
            (format!("{secret:?}"), serde_json::to_string(&secret).unwrap()),
            ("[redacted]".into(), "\"[redacted]\"".into())
        );
    }
}
