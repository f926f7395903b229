//! What the command line asks for.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    args::{Cli, Command, PlayArgs, ServerArgs},
    measure,
    report::{self, Report},
    run,
    scenario::{BUILTIN, Scenario, builtin},
};

/// Exit code of a run that did not hold what it was to hold.
const NOT_HELD: u8 = 2;

/// Does it. A run that does not hold what its scenario expects ends with code 2.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    let server = &cli.server;
    match cli.command {
        Command::Run(args) => play(&args.scenario, &args.play, server).await,
        Command::Soak { minutes, mut run } => {
            if run.play.time_factor.is_none() {
                run.play.time_factor = Some(soak_factor(minutes)?);
            }
            play("soak", &run.play, server).await
        }
        Command::Check { scenario } => {
            let (text, file, _) = run::find(&scenario)?;
            let read = Scenario::parse(&file, &text)?;
            let (calls, seconds) = (crate::load::Schedule::expected(&read.phases()), read.length().as_secs());
            say(&format!(
                "{file}: sound; {calls:.0} calls in {seconds} s, {:.0} Erlang at most\n",
                read.erlangs()
            ))
        }
        Command::Scenarios { name: None } => {
            for (name, text) in BUILTIN {
                let about = Scenario::parse(name, text).map(|scenario| scenario.about)?;
                say(&format!("{name}\n    {}\n", about.trim()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Scenarios { name: Some(name) } => {
            let names = || BUILTIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            say(builtin(&name).with_context(|| format!("{name}: there are {}", names()))?)
        }
        Command::Worker(args) => run::serve(&args).await.map(|()| ExitCode::SUCCESS),
        Command::Growth(args) => measure::growth(&args, server).await.map(|()| ExitCode::SUCCESS),
        Command::Peers(args) => measure::peers(&args, server).await.map(|()| ExitCode::SUCCESS),
        Command::Relay(args) => measure::relay(&args, server).await.map(|()| ExitCode::SUCCESS),
        Command::BareRelay => measure::bare_relay().map(|()| ExitCode::SUCCESS),
        Command::Measure(measure) => measure::run(server, measure).await.map(|()| ExitCode::SUCCESS),
    }
}

/// What the scenario's length is multiplied by, so that so many minutes count.
fn soak_factor(minutes: u32) -> Result<f64> {
    let soak = Scenario::parse("soak", builtin("soak").context("no soak")?)?;
    let counted = f64::from(minutes) * 60.0;
    Ok((soak.warm_up.0.as_secs_f64() + counted) / soak.length().as_secs_f64())
}

async fn play(scenario: &str, args: &PlayArgs, server: &ServerArgs) -> Result<ExitCode> {
    let (text, file, folder) = run::find(scenario)?;
    let played = Box::pin(run::play(&text, &file, &folder, args, server)).await?;
    let report = Report::of(played);
    report::publish_run(&report, server.json.as_deref(), args.html.as_deref())?;
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) })
}

fn say(text: &str) -> Result<ExitCode> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half an hour counts when nobody says otherwise, and the warm-up comes on top of what counts.
    #[test]
    fn the_minutes_of_a_soak_are_those_that_count() {
        assert!((soak_factor(30).unwrap() - 1.0).abs() < 1e-9);
        let mut soak = Scenario::parse("soak", builtin("soak").unwrap()).unwrap();
        soak.stretch(soak_factor(5).unwrap());
        assert_eq!((soak.length() - soak.warm_up.0).as_secs(), 300);
    }
}
