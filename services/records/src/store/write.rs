//! What is written: statements of one transaction, on the thread that waits for them.

use prost::Message;
use rusqlite::{Connection, Result, params};

use super::{Batch, stored};

const CONTACT: &str = "INSERT INTO contact (call_id, tenant, started_us, open, queue, agent, outcome, caller, position, line, \
     detail) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11) ON CONFLICT (call_id) DO UPDATE SET \
     started_us = ?3, open = ?4, queue = ?5, agent = ?6, outcome = ?7, caller = ?8, position = ?9, \
     line = ?10, detail = ?11";
const INTERVAL: &str = "INSERT OR REPLACE INTO interval (tenant, queue, start_us, body) VALUES (?,?,?,?)";
const AGENT: &str = "INSERT OR REPLACE INTO agent (tenant, agent, body) VALUES (?,?,?)";
const WAITS: &str = "INSERT OR REPLACE INTO waiting (tenant, queue, call_id, entered_us) VALUES (?,?,?,?)";
const LEFT: &str = "DELETE FROM waiting WHERE tenant = ? AND queue = ? AND call_id = ?";
const PROGRESS: &str = "UPDATE progress SET position = ?, contacts = ?, mark = ?";

/// See [`super::Store::write`].
pub(super) fn batch(connection: &mut Connection, batch: &Batch) -> Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut contact = transaction.prepare_cached(CONTACT)?;
        for row in &batch.contacts {
            contact.execute(params![
                row.call_id,
                row.tenant,
                row.started_us,
                row.open,
                row.queue,
                row.agent,
                row.outcome,
                row.caller,
                stored(row.position),
                row.line,
                row.detail
            ])?;
        }
        let mut interval = transaction.prepare_cached(INTERVAL)?;
        for ((tenant, queue, start), counters) in &batch.intervals {
            interval.execute(params![tenant, queue, start, counters.encode_to_vec()])?;
        }
        let mut state = transaction.prepare_cached(AGENT)?;
        for (tenant, agent, body) in &batch.agents {
            state.execute(params![tenant, agent, body.encode_to_vec()])?;
        }
        let (mut waits, mut left) = (transaction.prepare_cached(WAITS)?, transaction.prepare_cached(LEFT)?);
        for ((tenant, queue, call), entered_us) in &batch.places {
            match entered_us {
                Some(entered_us) => waits.execute(params![tenant, queue, call, entered_us])?,
                None => left.execute(params![tenant, queue, call])?,
            };
        }
        let positions = params![stored(batch.position), stored(batch.contacts_position), batch.mark];
        transaction.prepare_cached(PROGRESS)?.execute(positions)?;
    }
    transaction.commit()
}

/// See [`super::Store::adopt`].
pub(super) fn adopt(connection: &Connection, journal: u64) -> Result<()> {
    connection.execute("UPDATE progress SET journal = ?", [stored(journal)]).map(drop)
}
