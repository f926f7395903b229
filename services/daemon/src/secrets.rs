//! Keys that all nodes of a cluster share. Made once, kept beside the configuration documents.

use anyhow::{Context, Result};
use rand::Rng;
use serde_json::json;
use trunkline_journal::{DocumentKey, Journal, JournalError};

use crate::documents::{SYSTEM, kind};

/// The key `id`, made by the first node that asks for it.
pub async fn key(journal: &dyn Journal, id: &str) -> Result<[u8; 32]> {
    let place = DocumentKey { tenant: SYSTEM.parse()?, kind: kind::SECRET.into(), id: id.to_owned() };
    let fresh: [u8; 32] = rand::rng().random();
    let hex: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
    match journal.put_document(&place, json!({ "key": hex }), Some(0)).await {
        Ok(_) => return Ok(fresh),
        Err(JournalError::RevisionConflict { .. }) => {}
        Err(error) => return Err(error).with_context(|| format!("the key {id} could not be kept")),
    }
    let document = journal.get_document(&place).await?.with_context(|| format!("the key {id} is gone"))?;
    let hex = document.body["key"].as_str().unwrap_or_default();
    read(hex).with_context(|| {
        format!("the key {id} is damaged: delete the document {place} to have a new one made")
    })
}

fn read(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}
