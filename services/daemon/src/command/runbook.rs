//! `trunkline runbook`: the pages that alerts lead to, out of the program itself.

use std::process::ExitCode;

use anyhow::{Result, bail};
use trunkline_console::runbooks;

use crate::cli::RunbookArgs;

/// Prints a page, or what there is.
pub fn run(args: &RunbookArgs) -> Result<ExitCode> {
    let Some(name) = &args.name else {
        for (name, summary) in runbooks::all() {
            println!("{name:<34} {summary}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    match runbooks::page(name) {
        Some(text) => print!("{text}"),
        None => match runbooks::nearest(name) {
            Some(nearest) => bail!("there is no page for {name}; did you mean {nearest}?"),
            None => bail!("there is no page for {name}; `trunkline runbook` lists them"),
        },
    }
    Ok(ExitCode::SUCCESS)
}
