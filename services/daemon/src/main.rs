//! The one binary `trunkline`: which roles run on a node, the configuration documents, and `dev`.
//!
//! Owns the wiring: every room is made here and gets what it asked for through its own traits. Decides nothing that a
//! caller or an agent would notice.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod cli;
mod command;
mod config;
mod dev;
mod dev_call;
mod documents;
mod metrics_server;
mod node;
mod ports;
mod process;
mod run;
mod secrets;
mod stun;

use std::process::ExitCode;

use clap::Parser;

/// Calls make and drop many small things on many threads: this one gives memory back and costs less than the
/// system's (measured in loadtest/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    small_pages();
    let cli = cli::Cli::parse();
    end_with_the_reader();
    // Before anything that speaks TLS (WebRTC, OTLP, S3): two back ends in one program must not be a surprise.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("trunkline: the cryptography provider is installed twice");
        return ExitCode::FAILURE;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.runtime_threads() {
        runtime.worker_threads(threads);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkline: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trunkline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Memory in pages of 4 KiB only. The allocator asks for 2 MiB each, which the kernel clears whole, and which it also makes of
/// small ones in the background, so that memory grows for half an hour without anything being kept (measured: 10 to 15 % of the
/// processor time of a call, a third of the memory under load).
fn small_pages() {
    // A kernel that has no large ones need not be told.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Whoever reads standard output has read enough (`trunkline cluster | head`): that is an end, not a defect. SIGPIPE stays
/// ignored, since it would also end the program at a connection that the other side closed.
fn end_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(0);
        }
        report(panic);
    }));
}
