//! `trunkline config check`

use std::process::ExitCode;

use anyhow::Result;

use crate::{cli::RunArgs, config::NodeConfig};

/// Reads it as `trunkline run` would; an error names the line, the key and the remedy.
pub fn check(flags: &RunArgs) -> Result<ExitCode> {
    let config = NodeConfig::run(flags)?;
    config.check_files()?;
    println!("{}: fine", flags.config.display());
    println!("  node     {}", config.node.name);
    let roles: Vec<&str> = config.node.roles.iter().map(|role| role.as_str()).collect();
    println!("  roles    {}", roles.join(", "));
    match &config.cluster {
        Some(cluster) => {
            println!("  cluster  {} through etcd, reached at {}", cluster.name, cluster.advertised())
        }
        None => println!("  cluster  none: this node is alone"),
    }
    println!("  journal  {}", config.journal_kind());
    Ok(ExitCode::SUCCESS)
}
