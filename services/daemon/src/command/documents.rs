//! `trunkline documents`: queues, agents, accounts, telephones, numbers and flows from files into the journal's database and back.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trunkline_journal::{DocumentKey, Journal};
use trunkline_types::TenantId;

use super::table;
use crate::{
    cli::RunArgs,
    config::NodeConfig,
    documents::{self, KINDS, SYSTEM, TelephoneBody, kind},
};

/// The database answers within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// What proves a password. Whoever reads a telephone's can register as it, so that `get` shows [`KEPT`] instead.
const PROOFS: [&str; 3] = ["password_hash", "ha1_sha256", "ha1_md5"];
/// Written in the place of a proof: the one that is there stays.
const KEPT: &str = "(kept)";

/// `trunkline documents`
#[derive(Args, Clone, Debug)]
pub struct DocumentsArgs {
    #[command(subcommand)]
    command: DocumentsCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum DocumentsCommand {
    /// Write documents from files: YAML, each `{ kind: queue, id: support, body: { ... } }`, several separated by `---`.
    /// All are checked before the first one is written; what is there already and the same is left. Nodes learn of it at
    /// once
    Apply {
        #[command(flatten)]
        at: At,
        /// Check and tell what would change; write nothing
        #[arg(long)]
        dry_run: bool,
        /// The files; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Tell which documents there are
    List {
        #[command(flatten)]
        at: At,
        /// Only of this kind: tenant, queue, agent, account, telephone, number, flow
        kind: Option<String>,
    },
    /// Print a document as `apply` takes it. What proves a password reads `(kept)`: applied again, it stays as it is
    Get {
        #[command(flatten)]
        at: At,
        /// Print what proves a password too, to take it to another database
        #[arg(long)]
        secrets: bool,
        /// Its kind
        kind: String,
        /// Its name
        id: String,
    },
    /// End a document. Its versions stay in the database
    Delete {
        #[command(flatten)]
        at: At,
        /// Its kind
        kind: String,
        /// Its name
        id: String,
    },
}

/// Where the documents are.
#[derive(Args, Clone, Debug)]
struct At {
    /// A node's configuration file: its `journal` section says where the database is
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// The tenant of documents that name none
    #[arg(long, default_value = "default", value_name = "ID")]
    tenant: TenantId,
}

/// A document in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    kind: String,
    id: String,
    #[serde(default)]
    body: Value,
}

/// A document that is to be written.
struct Wanted {
    /// Where it stands, for errors.
    place: String,
    key: DocumentKey,
    body: Value,
}

/// Carries it out.
pub async fn run(args: DocumentsArgs) -> Result<ExitCode> {
    match args.command {
        DocumentsCommand::Apply { at, dry_run, files } => apply(&at, dry_run, &files).await,
        DocumentsCommand::List { at, kind } => list(&at, kind.as_deref()).await,
        DocumentsCommand::Get { at, secrets, kind, id } => get(&at, secrets, &kind, &id).await,
        DocumentsCommand::Delete { at, kind, id } => delete(&at, &kind, &id).await,
    }
}

/// The database of a node's configuration, and what a password costs there.
async fn open(at: &At) -> Result<(Arc<dyn Journal>, NodeConfig)> {
    let flags = RunArgs { config: at.config.clone(), roles: None, log: None };
    let config = NodeConfig::run(&flags)?;
    let opened = tokio::time::timeout(PATIENCE, crate::node::journal(&config)).await;
    let journal = opened.context("the journal's database does not answer within 30 s")??;
    Ok((journal, config))
}

fn key(tenant: &TenantId, kind: &str, id: &str) -> Result<DocumentKey> {
    if !KINDS.iter().any(|(known, _)| *known == kind) {
        let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        bail!("{kind:?} is no kind of document; there are {}", known.join(", "));
    }
    let tenant = if kind == kind::TENANT { SYSTEM.parse()? } else { tenant.clone() };
    Ok(DocumentKey { tenant, kind: kind.to_owned().into(), id: id.to_owned() })
}

async fn apply(at: &At, dry_run: bool, files: &[PathBuf]) -> Result<ExitCode> {
    let (journal, config) = open(at).await?;
    let mut wanted = Vec::new();
    for file in files {
        read_file(file, at, &mut wanted)?;
    }
    for one in &mut wanted {
        let before = journal.get_document(&one.key).await?;
        let before = before.as_ref().map(|before| &before.body);
        keep_proofs(one, before)?;
        hash_password(one, before, config.console.password_cost)?;
        hash_telephone(one)?;
    }
    check(&*journal, &wanted).await?;
    let (mut written, mut same) = (0, 0);
    for Wanted { place, key, body } in wanted {
        let before = journal.get_document(&key).await?;
        if before.as_ref().is_some_and(|before| before.body == body) {
            same += 1;
            continue;
        }
        let what = if before.is_some() { "changed" } else { "new" };
        println!("{what:<8} {} {}", key.kind, key.id);
        if !dry_run {
            let at = before.map_or(0, |before| before.revision);
            let put = journal.put_document(&key, body, Some(at)).await;
            put.with_context(|| {
                format!("{place}: somebody else wrote it meanwhile? Look at it and apply again")
            })?;
        }
        written += 1;
    }
    let done = if dry_run { "would be written" } else { "written" };
    println!("{written} {done}, {same} the same as before");
    journal.close().await;
    Ok(ExitCode::SUCCESS)
}

fn read_file(file: &std::path::Path, at: &At, wanted: &mut Vec<Wanted>) -> Result<()> {
    let name = file.display().to_string();
    let text = if name == "-" {
        std::io::read_to_string(std::io::stdin()).context("standard input")?
    } else {
        std::fs::read_to_string(file).with_context(|| name.clone())?
    };
    for (n, part) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        let place = format!("{name}, document {}", n + 1);
        let read: Option<Written> = Deserialize::deserialize(part).with_context(|| place.clone())?;
        // Between two separators there may be only comments.
        let Some(read) = read else { continue };
        let place = format!("{place} ({} {})", read.kind, read.id);
        let key = key(&read.tenant.unwrap_or_else(|| at.tenant.clone()), &read.kind, &read.id)
            .with_context(|| place.clone())?;
        let body = if read.body.is_null() { Value::Object(Default::default()) } else { read.body };
        if wanted.iter().any(|other: &Wanted| other.key == key) {
            bail!("{place}: it is there twice");
        }
        wanted.push(Wanted { place, key, body });
    }
    Ok(())
}

/// Puts what is there already where the file says [`KEPT`].
fn keep_proofs(one: &mut Wanted, before: Option<&Value>) -> Result<()> {
    let Wanted { place, key, body } = one;
    let realm = |body: &Value| realm(body.get("realm"), key.tenant.as_str());
    let moved = before.is_some_and(|before| realm(before) != realm(body));
    let Some(fields) = body.as_object_mut() else { return Ok(()) };
    for name in PROOFS {
        let Some(field) = fields.get_mut(name).filter(|field| field.as_str() == Some(KEPT)) else { continue };
        match before.and_then(|before| before.get(name)).filter(|known| known.is_string()) {
            None => bail!("{place}: {name}: there is none to keep; write `password` instead"),
            Some(_) if moved => {
                bail!("{place}: {name}: the kept one is of the former realm; write `password` instead")
            }
            Some(known) => field.clone_from(known),
        }
    }
    Ok(())
}

/// What a telephone's password belongs to: its tenant, unless it says otherwise.
fn realm(written: Option<&Value>, tenant: &str) -> String {
    written.and_then(Value::as_str).unwrap_or(tenant).to_ascii_lowercase()
}

/// A telephone may be written with its password: only what digest needs of it is kept.
fn hash_telephone(one: &mut Wanted) -> Result<()> {
    if one.key.kind != kind::TELEPHONE {
        return Ok(());
    }
    let (place, tenant) = (&one.place, one.key.tenant.as_str());
    let Some(fields) = one.body.as_object_mut() else { return Ok(()) };
    let password = match fields.remove("password") {
        None => return Ok(()),
        Some(_) if fields.contains_key("ha1_sha256") || fields.contains_key("ha1_md5") => {
            bail!("{place}: password and ha1_sha256 or ha1_md5: write one of them")
        }
        Some(Value::String(password)) if password.chars().count() >= 8 => password,
        Some(_) => bail!("{place}: password: write at least 8 characters"),
    };
    let realm = realm(fields.get("realm"), tenant);
    let (sha256, md5) = TelephoneBody::hashes(&one.key.id, &realm, &password);
    fields.insert("ha1_sha256".to_owned(), sha256.into());
    fields.insert("ha1_md5".to_owned(), md5.into());
    Ok(())
}

/// An account may be written with its password: only the hash is kept, and the one of before when it fits.
fn hash_password(
    one: &mut Wanted,
    before: Option<&Value>,
    cost: trunkline_console::PasswordCost,
) -> Result<()> {
    if one.key.kind != kind::ACCOUNT {
        return Ok(());
    }
    let Some(fields) = one.body.as_object_mut() else { return Ok(()) };
    match (fields.remove("password"), fields.contains_key("password_hash")) {
        (None, _) => Ok(()),
        (Some(_), true) => bail!("{}: password and password_hash: write one of them", one.place),
        (Some(Value::String(password)), false) if password.chars().count() >= 8 => {
            let known = before.and_then(|before| before["password_hash"].as_str());
            let known = known.filter(|known| trunkline_console::password_fits(&password, known));
            let hash = match known {
                Some(known) => Ok(known.to_owned()),
                None => trunkline_console::hash_password(&password, cost),
            };
            let hash = hash.with_context(|| format!("{}: the password could not be hashed", one.place))?;
            fields.insert("password_hash".to_owned(), hash.into());
            Ok(())
        }
        (Some(_), false) => bail!("{}: password: write at least 8 characters", one.place),
    }
}

/// All or nothing: every document is valid, and what each names is there or in the same files.
async fn check(journal: &dyn Journal, wanted: &[Wanted]) -> Result<()> {
    let mut there: BTreeMap<(TenantId, &str), Vec<String>> = BTreeMap::new();
    for one in wanted {
        let tenant = &one.key.tenant;
        let needs = documents::check(&one.key.kind, &one.key.id, &one.body);
        let needs = needs.map_err(|error| anyhow::anyhow!("{}: {error}", one.place))?;
        let mut needs: Vec<_> = needs.into_iter().map(|(kind, id)| (tenant.clone(), kind, id)).collect();
        if one.key.kind != kind::TENANT {
            needs.push((SYSTEM.parse()?, kind::TENANT, tenant.to_string()));
        }
        for (tenant, kind, id) in needs {
            let new =
                |other: &Wanted| other.key.tenant == tenant && other.key.kind == kind && other.key.id == id;
            if wanted.iter().any(new) {
                continue;
            }
            let known = match there.entry((tenant.clone(), kind)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unread) => {
                    let found = journal.list_documents(&tenant, kind).await?;
                    unread.insert(found.into_iter().map(|found| found.key.id).collect())
                }
            };
            if !known.contains(&id) {
                bail!("{}: the {kind} {id} does not exist: apply it too, or before", one.place);
            }
        }
    }
    Ok(())
}

async fn list(at: &At, kind: Option<&str>) -> Result<ExitCode> {
    let (journal, _) = open(at).await?;
    let mut rows = Vec::new();
    for (known, _) in KINDS.iter().filter(|(known, _)| kind.is_none_or(|kind| kind == *known)) {
        let of = key(&at.tenant, known, "")?;
        for document in journal.list_documents(&of.tenant, known).await? {
            let name = document.body["display_name"].as_str().unwrap_or_default().to_owned();
            rows.push(vec![(*known).to_owned(), document.key.id, document.revision.to_string(), name]);
        }
    }
    if let Some(kind) = kind {
        key(&at.tenant, kind, "")?;
    }
    table::print(&["KIND", "ID", "REVISION", "NAME"], &rows);
    journal.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn get(at: &At, secrets: bool, kind: &str, id: &str) -> Result<ExitCode> {
    let key = key(&at.tenant, kind, id)?;
    let (journal, _) = open(at).await?;
    let found = journal.get_document(&key).await?;
    journal.close().await;
    let Some(mut found) = found else { bail!("there is no {kind} {id} in the tenant {}", key.tenant) };
    for name in PROOFS {
        let field = found.body.get_mut(name).filter(|field| field.is_string() && !secrets);
        if let Some(field) = field {
            *field = KEPT.into();
        }
    }
    let tenant = (kind != kind::TENANT).then_some(key.tenant);
    let written = Written { tenant, kind: kind.to_owned(), id: id.to_owned(), body: found.body };
    print!("{}", serde_yaml_ng::to_string(&written)?);
    Ok(ExitCode::SUCCESS)
}

async fn delete(at: &At, kind: &str, id: &str) -> Result<ExitCode> {
    let key = key(&at.tenant, kind, id)?;
    let (journal, _) = open(at).await?;
    let Some(found) = journal.get_document(&key).await? else {
        bail!("there is no {kind} {id} in the tenant {}", key.tenant)
    };
    let users = users(&*journal, &key).await?;
    if !users.is_empty() {
        bail!("{kind} {id} is used by {}: change or delete that first", users.join(", "));
    }
    journal.delete_document(&key, Some(found.revision)).await?;
    journal.close().await;
    println!("deleted  {kind} {id}");
    Ok(ExitCode::SUCCESS)
}

/// Documents that name this one. A tenant is named by all that it has.
async fn users(journal: &dyn Journal, of: &DocumentKey) -> Result<Vec<String>> {
    let whole = of.kind == kind::TENANT;
    let tenant = if whole { of.id.parse()? } else { of.tenant.clone() };
    let mut users = Vec::new();
    for (kind, _) in KINDS.iter().filter(|(kind, _)| *kind != kind::TENANT) {
        for document in journal.list_documents(&tenant, kind).await? {
            let needs = documents::check(kind, &document.key.id, &document.body).unwrap_or_default();
            if whole || needs.iter().any(|(kind, id)| of.kind == *kind && of.id == *id) {
                users.push(format!("{kind} {}", document.key.id));
            }
        }
    }
    users.truncate(10);
    Ok(users)
}
