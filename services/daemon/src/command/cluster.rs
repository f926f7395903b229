//! `trunkline cluster`

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};
use trunkline_proto::{
    cluster::v1::{GetOverviewRequest, Member, Move, Overview, ShardRange},
    common::v1::Role,
};
use trunkline_types::ShardGroup;

use super::{reach, table};
use crate::cli::ClusterArgs;

/// Shows it once or, with `--watch`, every second.
pub async fn run(args: ClusterArgs) -> Result<ExitCode> {
    let mut client = reach::reach(&args.at).await?;
    loop {
        let answer = client.get_overview(reach::request(GetOverviewRequest {})).await;
        let overview = answer.map_err(|status| reach::refusal(&status))?.into_inner();
        if args.json {
            println!("{:#}", to_json(&overview));
            return Ok(ExitCode::SUCCESS);
        }
        if args.watch {
            // Clears the screen and begins at its top.
            print!("\x1b[2J\x1b[H");
        }
        show(&overview, &args);
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// How far an upgrade is that changes what is written; None = nothing is under way.
fn gate_line(overview: &Overview) -> Option<String> {
    let can = |member: &Member| member.features.max(1);
    let lowest = overview.members.iter().map(can).min()?;
    if overview.members.iter().all(|member| can(member) == overview.gate) {
        return None;
    }
    let older: Vec<&str> = overview
        .members
        .iter()
        .filter(|member| can(member) == lowest)
        .map(|member| member.node.as_str())
        .collect();
    Some(if lowest > overview.gate {
        format!(
            "upgrade       gate {}, every node can {lowest}: raised when that has held for cluster.raise_after; until then you can \
             go back",
            overview.gate
        )
    } else {
        format!("upgrade       gate {}, waits for {}", overview.gate, older.join(", "))
    })
}

fn show(overview: &Overview, args: &ClusterArgs) {
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    println!(
        "cluster {} as {} sees it, map {}, coordinator {}",
        overview.cluster,
        overview.node,
        overview.map_revision,
        or_none(&overview.coordinator)
    );
    for (what, kind, problem) in [
        ("coordination", &overview.coordination, &overview.coordination_problem),
        ("journal", &overview.journal, &overview.journal_problem),
    ] {
        let state = if problem.is_empty() { "fine" } else { problem };
        println!("{what:<13} {kind}: {state}");
    }
    if let Some(line) = gate_line(overview) {
        println!("{line}");
    }
    println!();
    let rows: Vec<Vec<String>> =
        overview.members.iter().map(|member| member_row(member, overview.at_us)).collect();
    table::print(&["NODE", "STATE", "SINCE", "ROLES", "ZONE", "VERSION", "SHARDS", "ADDRESS"], &rows);
    println!();
    for group in ShardGroup::ALL {
        println!("{}", group_line(overview, group));
    }
    if args.shards {
        println!();
        let rows: Vec<Vec<String>> = overview
            .shards
            .iter()
            .map(|range| {
                let shards = format!("{}-{}", range.first, range.last);
                vec![shards, or_none(&range.owner), range.phase.clone(), range.epoch.to_string()]
            })
            .collect();
        table::print(&["SHARDS", "OWNER", "PHASE", "EPOCH"], &rows);
    }
    if args.moves {
        println!();
        let rows: Vec<Vec<String>> =
            overview.moves.iter().map(|moved| move_row(moved, overview.at_us)).collect();
        table::print(&["SHARD", "FROM", "TO", "REASON", "WHEN", "TOOK"], &rows);
    }
}

fn member_row(member: &Member, now_us: i64) -> Vec<String> {
    let mut shards = member.shards_active.to_string();
    if member.shards_opening > 0 {
        shards += &format!(" +{} opening", member.shards_opening);
    }
    if member.shards_leaving > 0 {
        shards += &format!(" ({} leaving)", member.shards_leaving);
    }
    vec![
        member.node.clone(),
        member.state.clone(),
        span(now_us - member.since_us),
        roles(member),
        member.zone.clone(),
        member.version.clone(),
        shards,
        member.address.clone(),
    ]
}

fn roles(member: &Member) -> String {
    let names: Vec<String> = member
        .roles()
        .map(|role| role.as_str_name().trim_start_matches("ROLE_").to_lowercase())
        .filter(|name| *name != Role::Unspecified.as_str_name().trim_start_matches("ROLE_").to_lowercase())
        .collect();
    names.join(",")
}

/// Shards of a group in ranges that are wanted. A range may reach over the end of the group.
pub(super) fn shards_in(overview: &Overview, group: ShardGroup, wanted: impl Fn(&ShardRange) -> bool) -> u32 {
    let (first, count) = group.range();
    let (first, end) = (u32::from(first), u32::from(first) + u32::from(count));
    let ranges = overview.shards.iter().filter(|range| wanted(range));
    ranges.map(|range| (range.last + 1).min(end).saturating_sub(range.first.max(first))).sum()
}

fn group_line(overview: &Overview, group: ShardGroup) -> String {
    let (_, count) = group.range();
    let of = |phase: &str| shards_in(overview, group, |range| range.phase == phase);
    let mut line = format!("{} shards: {} of {count} active", group.as_str(), of("active"));
    for phase in ["opening", "unassigned"] {
        if of(phase) > 0 {
            line += &format!(", {} {phase}", of(phase));
        }
    }
    line
}

fn move_row(moved: &Move, now_us: i64) -> Vec<String> {
    let took = if moved.finished_us == 0 {
        "under way".to_owned()
    } else {
        format!("{} ms", (moved.finished_us - moved.started_us) / 1_000)
    };
    vec![
        moved.shard.to_string(),
        moved.from.clone(),
        moved.to.clone(),
        moved.reason.clone(),
        format!("{} ago", span(now_us - moved.started_us)),
        took,
    ]
}

fn span(us: i64) -> String {
    let seconds = us.max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The whole overview for programs.
pub(super) fn to_json(overview: &Overview) -> Value {
    // Microseconds since the Unix epoch; none = not yet.
    let time = |us: i64| if us == 0 { Value::Null } else { json!(us) };
    let members: Vec<Value> = overview
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node, "incarnation": member.incarnation, "roles": roles(member).split(',').collect::<Vec<_>>(),
                "address": member.address, "zone": member.zone, "version": member.version, "features": member.features, "state": member.state,
                "since_us": time(member.since_us), "shards_active": member.shards_active,
                "shards_opening": member.shards_opening, "shards_leaving": member.shards_leaving,
                "public_addresses": member.public_addresses,
            })
        })
        .collect();
    let shards: Vec<Value> = overview
        .shards
        .iter()
        .map(|range| {
            json!({ "first": range.first, "last": range.last, "owner": range.owner, "phase": range.phase, "epoch": range.epoch })
        })
        .collect();
    let moves: Vec<Value> = overview
        .moves
        .iter()
        .map(|moved| {
            json!({
                "shard": moved.shard, "from": moved.from, "to": moved.to, "reason": moved.reason,
                "started_us": time(moved.started_us), "finished_us": time(moved.finished_us),
            })
        })
        .collect();
    json!({
        "cluster": overview.cluster, "node": overview.node, "coordinator": overview.coordinator,
        "map_revision": overview.map_revision, "gate": overview.gate, "at_us": time(overview.at_us), "members": members, "shards": shards,
        "moves": moves, "coordination": overview.coordination, "coordination_problem": overview.coordination_problem,
        "journal": overview.journal, "journal_problem": overview.journal_problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_over_both_groups_counts_for_each() {
        let range = |first, last, phase: &str| ShardRange {
            first,
            last,
            phase: phase.into(),
            ..ShardRange::default()
        };
        let shards = vec![range(0, 4_000, "active"), range(4_001, 4_095, "unassigned")];
        let overview = Overview { shards, ..Overview::default() };
        let of = |group, phase: &str| shards_in(&overview, group, |range| range.phase == phase);
        assert_eq!((of(ShardGroup::Acd, "active"), of(ShardGroup::Acd, "unassigned")), (1_024, 0));
        assert_eq!((of(ShardGroup::Call, "active"), of(ShardGroup::Call, "unassigned")), (2_977, 95));
    }
}
