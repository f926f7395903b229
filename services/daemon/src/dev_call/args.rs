//! What `trunkline dev call` can be asked for.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::audio::Law;

/// Places real telephone calls (SIP and RTP over UDP) to a running system and says what happens to each
///
/// Start the system first, in another terminal: `cargo xtask dev`. Then, for example:
///
///   trunkline dev call                          one caller for the queue `support`
///   trunkline dev call --to menu --digits ",,1" a caller who chooses 1 in the menu after two seconds
///   trunkline dev call --count 20 --rate 2 -q   twenty callers, two a second
///
/// A caller repeats what it says until the other side hangs up. Ctrl-C hangs up all calls.
/// The exit code is 0 when no call failed, 1 otherwise.
#[derive(Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct DevCallArgs {
    /// Whom to call: a queue or flow of the running system (`support`, `menu`), a number, or a whole `sip:` URI
    #[arg(long, default_value = "support", value_name = "NAME")]
    pub to: String,

    /// Where the system takes SIP calls
    #[arg(long, default_value = "127.0.0.1:5060", value_name = "HOST:PORT")]
    pub sip: String,

    /// What to say: mono 16-bit WAV of 8,000 Hz. Given several times, the callers take them in turn
    /// [default: a caller with a question about her bill]
    #[arg(long, value_name = "FILE")]
    pub wav: Vec<PathBuf>,

    /// Say it once, then be silent, instead of repeating it every two seconds
    #[arg(long)]
    pub once: bool,

    /// Hang up when everything is said (and every digit is sent)
    #[arg(long, alias = "hang-up-after-speech")]
    pub hang_up_after: bool,

    /// How many calls
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub count: u32,

    /// How many calls are begun in a second
    #[arg(long, default_value_t = 5.0, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: f64,

    /// Keys to press (RFC 4733), beginning when the call is answered: 0-9, *, #, A-D; a comma waits one second
    #[arg(long, default_value = "", value_name = "KEYS", value_parser = digits, hide_default_value = true)]
    pub digits: String,

    /// The caller's number [default: +1 212 555 0100 and up, one for each call]
    #[arg(long, value_name = "NUMBER")]
    pub from: Option<String>,

    /// The caller's name [default: Caller 1 and up]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Hang up this long after the answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub talk: Option<Duration>,

    /// Hang up this long after a call was placed, answered or not
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub max_seconds: Duration,

    /// Write what each call said (left) and heard (right) to call-001.wav and so on in this folder
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// The codec that is offered first; the other is offered second
    #[arg(long, value_enum, default_value_t = CodecName::Pcmu)]
    pub codec: CodecName,

    /// Only failures and totals
    #[arg(long, short)]
    pub quiet: bool,
}

/// A codec by its name in SDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CodecName {
    /// G.711 µ-law
    Pcmu,
    /// G.711 A-law
    Pcma,
}

impl CodecName {
    /// The codec offered first, then the other one.
    pub fn order(self) -> [Law; 2] {
        match self {
            Self::Pcmu => [Law::Mu, Law::A],
            Self::Pcma => [Law::A, Law::Mu],
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=500.0).contains(&rate) => Ok(rate),
        _ => Err("a number of calls per second from 0.01 to 500 is needed".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("a number of seconds from 0.1 to 86400 is needed".into()),
    }
}

fn digits(text: &str) -> Result<String, String> {
    if text.len() > 64 {
        return Err("at most 64 keys".into());
    }
    match text.chars().find(|key| *key != ',' && super::rtp::event_of(*key).is_none()) {
        Some(key) => {
            Err(format!("{key:?} is not a key: use 0-9, *, #, A-D, and a comma for a pause of one second"))
        }
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DevCallArgs,
    }

    fn parse(line: &str) -> Result<DevCallArgs, String> {
        let words = std::iter::once("call").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_call_the_support_queue_once() {
        let args = parse("").unwrap();
        assert_eq!((args.to.as_str(), args.count, args.sip.as_str()), ("support", 1, "127.0.0.1:5060"));
        assert_eq!(args.codec.order(), [Law::Mu, Law::A]);
    }

    #[test]
    fn wrong_values_are_refused_with_the_remedy() {
        for (line, part) in [
            ("--digits 1x", "is not a key"),
            ("--rate 0", "calls per second"),
            ("--talk never", "number of seconds"),
            ("--count 0", "1..=5000"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
