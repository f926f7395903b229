//! `trunkline drain` and `trunkline undrain`

use std::{
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tonic::transport::Channel;
use trunkline_proto::cluster::v1::{GetOverviewRequest, Member, SetDrainRequest, admin_client::AdminClient};

use super::reach;
use crate::cli::DrainArgs;

/// Asks for it and, with `--wait`, watches it happen.
pub async fn run(args: DrainArgs, drain: bool) -> Result<ExitCode> {
    let mut client = reach::reach(&args.at).await?;
    let by = std::env::var("USER").unwrap_or_else(|_| "command line".to_owned());
    let asked = SetDrainRequest { node: args.name.clone(), drain, by };
    client.set_drain(reach::request(asked)).await.map_err(|status| reach::refusal(&status))?;
    match (args.wait, drain) {
        (None, true) => println!("{} drains; `trunkline cluster --watch` shows how far it is", args.name),
        (None, false) => println!("{} works again and is given shards", args.name),
        (Some(seconds), _) => {
            return watch(&mut client, &args.name, drain, Duration::from_secs(seconds)).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(
    client: &mut AdminClient<Channel>,
    name: &str,
    drain: bool,
    patience: Duration,
) -> Result<ExitCode> {
    let begun = Instant::now();
    loop {
        let answer = client.get_overview(reach::request(GetOverviewRequest {})).await;
        let overview = answer.map_err(|status| reach::refusal(&status))?.into_inner();
        let member = overview.members.iter().find(|member| member.node == name);
        let member = member.with_context(|| format!("{name} has left the cluster"))?;
        let shards = member.shards_active + member.shards_opening;
        print!("\r{name}: {}, {shards} shards, {} leaving   ", member.state, member.shards_leaving);
        std::io::stdout().flush()?;
        if done(member, drain) {
            println!();
            return Ok(ExitCode::SUCCESS);
        }
        if begun.elapsed() > patience {
            println!();
            eprintln!("trunkline: not done after {} s; it goes on by itself", patience.as_secs());
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn done(member: &Member, drain: bool) -> bool {
    let moving = member.shards_leaving + member.shards_opening;
    match drain {
        true => {
            member.state == "drained" || (member.state == "draining" && member.shards_active + moving == 0)
        }
        false => member.state == "serving" && moving == 0,
    }
}
