//! Telephones that are registered: they refresh in time, ask what is bound, and write down what they were told.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;
use trunkline_system_tests::{s, telephone::Telephone, until};

use crate::world::{CLIENTS, SIP_PORT, VIRTUAL_SIP, World};

/// Fewer say nothing about spread.
pub const LEAST: usize = 20;
/// What telephones ask for; three quarters to all of it are granted.
const WANTED_S: u32 = 80;
/// They refresh after this part of what was granted, as those do that keep a NAT open.
const REFRESH_PART: u32 = 4;
/// An edge knows new accounts within this.
const KNOWN_WITHIN: Duration = s(20);
const ANSWERED_WITHIN: Duration = s(15);

/// Registered telephones.
pub struct Phones {
    phones: Vec<Telephone>,
    /// When each was granted how much.
    granted: Vec<(Instant, Duration)>,
}

/// What telephones found when they came back.
#[derive(Debug, Default)]
pub struct Back {
    /// When each had its refresh, after the first.
    pub refreshed: Vec<Instant>,
    /// Whose binding was not there any more.
    pub lost: usize,
    /// Who was not let in.
    pub refused: usize,
    /// Challenges that one of them had to answer, at most.
    pub challenges: u32,
}

impl Back {
    /// From the first refresh to the last.
    pub fn spread(&self) -> Duration {
        let (first, last) = (self.refreshed.iter().min(), self.refreshed.iter().max());
        first.zip(last).map(|(first, last)| *last - *first).unwrap_or_default()
    }
}

fn name(n: usize) -> String {
    format!("fault-{n:03}")
}

fn password(n: usize) -> String {
    format!("fault-{n:03}-password")
}

impl Phones {
    /// Accounts are written by the command line; then `count` telephones register at once.
    pub async fn register(world: &mut World, count: usize) -> Result<Self> {
        documents(world, count)?;
        let bind = world.network.address(CLIENTS)?.into();
        // Every edge knows the accounts: failures would be counted against the one address of all telephones.
        for edge in world.names("edge") {
            let edge = (world.node(&edge)?.address, SIP_PORT).into();
            until("an edge knows the accounts", KNOWN_WITHIN, || async move {
                let mut last = Telephone::new(bind, edge, &name(count - 1), &password(count - 1)).await?;
                let known = last.query(s(2)).await.is_ok_and(|answer| answer.status == 200);
                if !known {
                    tokio::time::sleep(s(2)).await;
                }
                Ok(known.then_some(()))
            })
            .await?;
        }
        let mut phones = Vec::new();
        for n in 0..count {
            let sip = (VIRTUAL_SIP, SIP_PORT).into();
            phones.push(Telephone::new(bind, sip, &name(n), &password(n)).await?);
        }
        let mut this = Self { phones, granted: Vec::new() };
        this.register_all().await?;
        Ok(this)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.phones.len()
    }

    /// All register at the same time, as after a power cut.
    pub async fn register_all(&mut self) -> Result<()> {
        let all = self.phones.iter_mut().map(|phone| async move {
            let answer = phone.register(WANTED_S, ANSWERED_WITHIN).await?;
            ensure!(answer.status == 200, "a telephone is answered {}", answer.status);
            let granted = answer.granted(&phone.contact()?).context("its contact in the answer")?;
            Ok((Instant::now(), granted))
        });
        self.granted = futures::future::try_join_all(all).await?;
        Ok(())
    }

    /// Each comes when its time has come: it asks what is bound, and refreshes.
    pub async fn come_back(&mut self) -> Back {
        let each = self.phones.iter_mut().zip(&self.granted).map(|(phone, (since, granted))| async move {
            tokio::time::sleep_until(*since + *granted / REFRESH_PART).await;
            let asked = phone.query(ANSWERED_WITHIN).await;
            let refreshed = phone.register(WANTED_S, ANSWERED_WITHIN).await;
            (phone.contact(), asked, refreshed, Instant::now())
        });
        let mut back = Back::default();
        for (contact, asked, refreshed, at) in futures::future::join_all(each).await {
            let is_bound = match (&asked, contact) {
                (Ok(asked), Ok(contact)) => asked.granted(&contact).is_some(),
                _ => false,
            };
            back.lost += usize::from(!is_bound);
            let mut challenges = asked.map_or(0, |asked| asked.challenges);
            match refreshed {
                Ok(refreshed) if refreshed.status == 200 => {
                    back.refreshed.push(at);
                    challenges += refreshed.challenges;
                }
                _ => back.refused += 1,
            }
            back.challenges = back.challenges.max(challenges);
        }
        back
    }

    /// How many bindings are not there any more, and how long it took until the last telephone knew. All ask at once.
    pub async fn ask(&mut self) -> (usize, Duration) {
        let begun = Instant::now();
        let each = self.phones.iter_mut().map(|phone| async move {
            let asked = phone.query(ANSWERED_WITHIN).await.ok()?;
            asked.granted(&phone.contact().ok()?)
        });
        let told = futures::future::join_all(each).await;
        (told.iter().filter(|bound| bound.is_none()).count(), begun.elapsed())
    }

    /// All leave.
    pub async fn leave(mut self) -> Result<()> {
        let leave =
            self.phones.iter_mut().map(|phone| phone.ask("Contact: *\r\nExpires: 0\r\n", ANSWERED_WITHIN));
        futures::future::try_join_all(leave).await.map(drop)
    }
}

fn documents(world: &mut World, count: usize) -> Result<()> {
    let mut text = String::new();
    for n in 0..count {
        text += &format!("---\nkind: telephone\nid: {}\nbody: {{ password: {} }}\n", name(n), password(n));
    }
    let node = world.names("acd").into_iter().next().context("a node")?;
    let file = world.node(&node)?.folder.join("telephones.yaml");
    fs::write(&file, text)?;
    let file = file.display().to_string();
    command(world, &node, &["documents", "apply"], &[&file]).map(drop)
}

/// Bindings of these telephones as the command line tells them.
pub fn told(world: &mut World) -> Result<Vec<Value>> {
    let node = world.names("acd").into_iter().next().context("a node")?;
    let text = command(world, &node, &["telephones"], &["--json"])?;
    let all: Value = serde_json::from_str(&text).context("trunkline telephones --json")?;
    let ours = |one: &&Value| one["telephone"].as_str().is_some_and(|name| name.starts_with("fault-"));
    Ok(all["bindings"].as_array().context("bindings")?.iter().filter(ours).cloned().collect())
}

/// What the command line of a node's host says, with the node's configuration.
fn command(world: &mut World, node: &str, words: &[&str], more: &[&str]) -> Result<String> {
    let (binary, config) = (world.node(node)?.binary.clone(), world.node(node)?.config());
    let mut command = world.network.command(node, &binary)?;
    let output = command.args(words).arg("--config").arg(config).args(more).output()?;
    ensure!(
        output.status.success(),
        "{words:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
