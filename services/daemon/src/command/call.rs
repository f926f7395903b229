//! `trunkline call`: one call to a running system, which has to be heard.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser};

use crate::dev_call::{self, DevCallArgs, Outcome};

/// Music and speech are louder; comfort noise and silence are not.
const AUDIBLE_DBFS: f64 = -50.0;
/// Of the packets that the time holds, so many have to come.
const ENOUGH: f64 = 0.8;
const PACKETS_PER_SECOND: f64 = 50.0;

/// `trunkline call`
#[derive(Args, Clone, Debug)]
pub struct CallArgs {
    /// Where the system takes SIP calls (UDP): a name or an address
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,

    /// Whom to call: a queue, a flow, a number, or a whole `sip:` URI; something that answers with sound
    #[arg(long, default_value = "support", value_name = "NAME")]
    pub to: String,

    /// Listen this long after the answer
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub listen: u32,

    /// All of it has to be over by then
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(2..=3_600))]
    pub within: u32,

    /// The caller's number
    #[arg(long, value_name = "NUMBER")]
    pub from: Option<String>,

    /// What to say when the call is refused because it comes from no trunk (401, 403, 407): the remedy that whoever starts
    /// this knows
    #[arg(long, value_name = "TEXT")]
    pub refused_hint: Option<String>,
}

/// Places the call; the exit code is 0 only when sound was heard.
pub async fn run(args: CallArgs) -> Result<ExitCode> {
    let outcomes = dev_call::place(telephone(&args)?).await?;
    let outcome = outcomes.first().context("no call was placed")?;
    match verdict(outcome, args.listen) {
        Ok(heard) => {
            println!("{heard}");
            Ok(ExitCode::SUCCESS)
        }
        Err(problem) => {
            eprintln!("trunkline call: {problem}");
            if let Some(remedy) = remedy(outcome, &args) {
                eprintln!("trunkline call: {remedy}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The telephone of `trunkline dev call`, with its defaults where nothing else is said.
fn telephone(args: &CallArgs) -> Result<DevCallArgs> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DevCallArgs,
    }
    let line = Line::try_parse_from(["call"]).context("the telephone's defaults")?;
    Ok(DevCallArgs {
        to: args.to.clone(),
        sip: args.target.clone(),
        from: args.from.clone(),
        talk: Some(Duration::from_secs(args.listen.into())),
        max_seconds: Duration::from_secs(args.within.into()),
        ..line.args
    })
}

/// What was heard, or why that is not enough.
fn verdict(outcome: &Outcome, listen: u32) -> Result<String, String> {
    if let Some(failure) = &outcome.failure {
        return Err(format!("the call failed: {failure}"));
    }
    if outcome.answered.is_none() {
        return Err("the call was not answered in time".to_owned());
    }
    let (heard, level) = (&outcome.heard, outcome.heard.level_dbfs());
    let wanted = (f64::from(listen) * PACKETS_PER_SECOND * ENOUGH) as u64;
    if heard.received < wanted {
        return Err(format!(
            "answered, but {} audio packets came in {listen} s, {wanted} were expected: does the media node's advertised \
             address reach this telephone, and do its RTP ports let packets through?",
            heard.received
        ));
    }
    if level < AUDIBLE_DBFS {
        return Err(format!("answered, but what came is silence ({level:.0} dBFS)"));
    }
    Ok(format!("heard {} audio packets, {} lost, level {level:.0} dBFS", heard.received, heard.lost))
}

/// What to do about a refusal, where its status tells.
fn remedy(outcome: &Outcome, args: &CallArgs) -> Option<String> {
    let refusal = outcome.failure.as_deref()?.strip_prefix("refused: ")?;
    match refusal.get(..3)? {
        // 407 where telephones have accounts: this might be one.
        "401" | "403" | "407" => args.refused_hint.clone(),
        "404" => Some(format!(
            "there is no number `{}`: apply a document of kind `number` with this id (`trunkline documents apply`), or call \
             another (`--to`, in the chart `test.to`)",
            args.to
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(to: &str) -> CallArgs {
        CallArgs {
            target: "edge:5060".into(),
            to: to.into(),
            listen: 3,
            within: 20,
            from: None,
            refused_hint: Some("set test.podCidrs".into()),
        }
    }

    #[test]
    fn the_telephone_takes_what_was_asked_and_defaults_else() {
        let telephone = telephone(&args("menu")).unwrap();
        assert_eq!(
            (telephone.sip.as_str(), telephone.to.as_str(), telephone.count),
            ("edge:5060", "menu", 1)
        );
        assert_eq!(telephone.talk, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_refusal_has_the_remedy_of_its_status() {
        let told = |failure: &str| {
            let outcome = Outcome { failure: Some(failure.into()), ..Outcome::new() };
            remedy(&outcome, &args("sales"))
        };
        for stranger in ["403 Forbidden", "407 Proxy Authentication Required (it asks for credentials)"] {
            assert_eq!(told(&format!("refused: {stranger}")).unwrap(), "set test.podCidrs");
        }
        let nobody = told("refused: 404 Not Found (nobody by this name)").unwrap();
        assert!(nobody.contains("`sales`") && nobody.contains("documents apply"), "{nobody}");
        assert!(!nobody.contains("podCidrs"), "{nobody}");
        assert_eq!(told("refused: 503 Service Unavailable"), None);
        assert_eq!(told("no ACK for a re-INVITE"), None);
    }

    #[test]
    fn an_unanswered_refused_or_deaf_call_is_none() {
        let refused = Outcome { failure: Some("403 Forbidden".into()), ..Outcome::new() };
        assert!(verdict(&refused, 3).unwrap_err().contains("403"));
        assert!(verdict(&Outcome::new(), 3).unwrap_err().contains("not answered"));
        let deaf = Outcome { answered: Some(std::time::Instant::now()), ..Outcome::new() };
        assert!(verdict(&deaf, 3).unwrap_err().contains("0 audio packets"));
        let mut silent = deaf;
        silent.heard.received = 150;
        assert!(verdict(&silent, 3).unwrap_err().contains("silence"));
    }
}
