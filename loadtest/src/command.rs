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
            let built_in = 30.0;
            run.play.time_factor.get_or_insert(f64::from(minutes.max(1)) / built_in);
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
        Command::Measure(measure) => measure::run(server, measure).await.map(|()| ExitCode::SUCCESS),
    }
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
