//! The project's chores: `cargo xtask dev` runs the system, `cargo xtask test` proves it.
//!
//! Owns what has to be on a machine before (packages, web clients, tools under `target/tools`) and the order of the
//! checks. Refuses to pass when something could not be tested: a missing tool fails with a sentence that names it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod checks;
mod dev;
mod faults;
mod fresh;
mod image;
mod kubernetes;
mod load;
mod operations;
mod packages;
mod process;
mod recogniser;
mod seed;
mod suite;
mod web;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Trunkline's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and start every role on loopback; arguments go to `trunkline dev`.
    Dev {
        /// An optimised build (slower to build, faster to run).
        #[arg(long)]
        release: bool,
        /// Options of `trunkline dev` (see `trunkline dev --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run all checks and tests; installs what they need when it may.
    Test {
        /// Only these stages, separated by commas: lint, unit, web, system, faults, operations, kubernetes, fresh.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Formatting, clippy and cargo-deny.
    Lint,
    /// Build the web clients into services/web/dist.
    Web,
    /// Start the reference recogniser on an address (sets it up under target/ first).
    Recogniser {
        /// Where it listens.
        #[arg(long, default_value = "127.0.0.1:9300")]
        listen: String,
    },
    /// Inject faults into a real cluster of many nodes and check that it keeps its promises (needs root).
    Faults(faults::Options),
    /// Build an optimised system and offer load to it: `trunkline-load` with these arguments, for example `run steady
    /// --html steady.html`, `growth`, `soak`, or `peers` (installs Kamailio and rtpengine when it may); `roles` measures a
    /// cluster with one role a node (needs root).
    Load {
        /// Arguments of `trunkline-load` (see `cargo xtask load -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The chart against helm 3 and 4, a real API server and pods as processes; the image (needs Go).
    Kubernetes(kubernetes::Options),
    /// Build the container image from an optimised build, without a registry (needs buildah).
    Image {
        /// Around the debug build that is there, as the tests do.
        #[arg(long)]
        debug: bool,
    },
    /// Clone the working tree's HEAD into an empty folder and run the README's first command there.
    Fresh,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Dev { release, arguments } => dev::run(release, &arguments),
        Command::Test { only } => checks::test(&only),
        Command::Lint => checks::format().and_then(|()| checks::lint()),
        Command::Web => web::build(),
        Command::Recogniser { listen } => recogniser::run(&listen),
        Command::Faults(options) => faults::run(&options),
        Command::Load { arguments } => load::run(&arguments),
        Command::Kubernetes(options) => kubernetes::run(&options),
        Command::Image { debug } => image::run(debug),
        Command::Fresh => fresh::run(None),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap_or_else(|_| PathBuf::from("."))
}

/// Where builds and tools go.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
