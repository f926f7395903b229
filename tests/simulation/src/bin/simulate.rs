//! The long form of the simulation: any number of seeds on all processors, with progress, ending with the lowest seed that
//! breaks a promise.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use trunkline_simulation::{
    acd::Acd,
    cluster::{Cluster, Mutations},
    runner::{Family, Progress, processors, sweep},
};

/// Runs seeded schedules of the cores and checks every promise.
#[derive(Parser)]
struct Options {
    /// Schedules to run.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads; as many as there are processors when not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Which schedules.
    #[arg(long, value_enum, default_value_t = Which::Cluster)]
    family: Which,
    /// A rule of the cluster to leave out, to see what notices it.
    #[arg(long, value_enum)]
    without: Option<Rule>,
    /// Run the first seed only, and print each step.
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    EpochCheck,
    OfferKept,
    MutedReplay,
    CommittedPlaces,
    EpochBump,
    JournalFence,
    OutputCommit,
    AmbiguousAnswers,
    AgentSlot,
    HandOverFlush,
    JournalClock,
}

impl Rule {
    fn mutations(self) -> Mutations {
        let all = Mutations::default();
        match self {
            Self::EpochCheck => Mutations { no_epoch_check: true, ..all },
            Self::OfferKept => Mutations { reoffer_after_commit: true, ..all },
            Self::MutedReplay => Mutations { replay_not_muted: true, ..all },
            Self::CommittedPlaces => Mutations { place_recomputed: true, ..all },
            Self::EpochBump => Mutations { seal_keeps_epoch: true, ..all },
            Self::JournalFence => Mutations { journal_unfenced: true, ..all },
            Self::OutputCommit => Mutations { acts_before_commit: true, ..all },
            Self::AmbiguousAnswers => Mutations { ambiguous_is_yes: true, ..all },
            Self::AgentSlot => Mutations { slot_forgotten: true, ..all },
            Self::HandOverFlush => Mutations { hand_over_unflushed: true, ..all },
            Self::JournalClock => Mutations { wall_clocks: true, ..all },
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// A whole cluster: placement, queues, agents, calls, media nodes.
    Cluster,
    /// Queues and agents alone, on a worse network.
    Acd,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.family {
        Which::Cluster => run(&Cluster(options.without.map(Rule::mutations).unwrap_or_default()), &options),
        Which::Acd => run(&Acd::default(), &options),
    }
}

fn run<F: Family>(family: &F, options: &Options) -> ExitCode {
    if options.trace {
        let report = family.run(options.first, true);
        println!("{report:?}");
        return ExitCode::SUCCESS;
    }
    let threads = options.threads.unwrap_or_else(processors);
    println!("{} schedules of {} from seed {}, {threads} threads", options.seeds, F::NAME, options.first);
    match sweep(family, options.first, options.seeds, threads, &tell) {
        Ok(sum) => {
            println!("every promise was kept: {sum:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn tell(progress: Progress) {
    let Progress { done, seeds, took } = progress;
    println!("{done}/{seeds} schedules in {:.0} s, {:.0} a second", took.as_secs_f64(), progress.rate());
}
