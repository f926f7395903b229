//! The events of one append as one value: what both stores keep in a row.
//!
//! `1` (the version), then for each event: kind (length u8, UTF-8), version u16, at i64 (µs), last u8, payload (length u32);
//! numbers little-endian. Places (position, seq, nth) are not inside: the row carries those of its last event.

use std::borrow::Cow;

use bytes::{Buf, Bytes};
use trunkline_types::{EntityAddress, Epoch, ShardId, Timestamp};

use crate::{Append, JournalError, NewEvent, StoredEvent};

const VERSION: u8 = 1;

/// Encodes the events of an append.
pub(crate) fn encode(append: &Append) -> Vec<u8> {
    let size: usize = append.events.iter().map(|e| e.kind.len() + e.payload.len() + 16).sum();
    let mut body = Vec::with_capacity(size + 1);
    body.push(VERSION);
    for event in &append.events {
        // The lengths were checked when the append was accepted.
        body.push(u8::try_from(event.kind.len()).unwrap_or(u8::MAX));
        body.extend_from_slice(event.kind.as_bytes());
        body.extend_from_slice(&event.version.to_le_bytes());
        body.extend_from_slice(&event.at.as_micros().to_le_bytes());
        body.push(u8::from(event.last));
        body.extend_from_slice(&u32::try_from(event.payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(&event.payload);
    }
    body
}

fn short() -> JournalError {
    JournalError::Corrupt("the body of an append ends early".to_owned())
}

fn part(body: &mut Bytes, length: usize) -> Result<Bytes, JournalError> {
    if body.len() < length { Err(short()) } else { Ok(body.split_to(length)) }
}

fn decode_one(body: &mut Bytes) -> Result<NewEvent, JournalError> {
    let length = body.try_get_u8().map_err(|_| short())?;
    let kind = part(body, usize::from(length))?;
    let kind = std::str::from_utf8(&kind)
        .map_err(|_| JournalError::Corrupt("the kind of an event is not UTF-8".to_owned()))?
        .to_owned();
    let version = body.try_get_u16_le().map_err(|_| short())?;
    let at = body.try_get_i64_le().map_err(|_| short())?;
    let last = body.try_get_u8().map_err(|_| short())? != 0;
    let length = body.try_get_u32_le().map_err(|_| short())?;
    let payload = part(body, usize::try_from(length).map_err(|_| short())?)?;
    Ok(NewEvent { kind: Cow::Owned(kind), version, at: Timestamp::from_micros(at), payload, last })
}

/// A row of a store: one append.
#[derive(Debug)]
pub(crate) struct Row {
    /// Of the last event.
    pub(crate) position: u64,
    pub(crate) shard: ShardId,
    /// Of the last event.
    pub(crate) seq: u64,
    pub(crate) epoch: Epoch,
    /// Of the last event.
    pub(crate) nth: u64,
    /// How many events there are.
    pub(crate) events: u64,
    pub(crate) body: Bytes,
}

impl Row {
    /// Takes the row apart, and gives those events that `wanted` says.
    pub(crate) fn expand(
        mut self,
        entity: &EntityAddress,
        out: &mut Vec<StoredEvent>,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<(), JournalError> {
        let format = self.body.try_get_u8().map_err(|_| short())?;
        if format != VERSION {
            return Err(JournalError::Corrupt(format!(
                "an append's body has format {format}, not {VERSION}"
            )));
        }
        if self.events == 0 || self.events > self.nth.min(self.seq).min(self.position) {
            return Err(JournalError::Corrupt(format!("{} events before event {}", self.events, self.nth)));
        }
        for left in (0..self.events).rev() {
            let NewEvent { kind, version, at, payload, last } = decode_one(&mut self.body)?;
            let event = StoredEvent {
                position: self.position - left,
                shard: self.shard,
                seq: self.seq - left,
                epoch: self.epoch,
                entity: entity.clone(),
                nth: self.nth - left,
                kind,
                version,
                at,
                payload,
                last,
            };
            if wanted(&event) {
                out.push(event);
            }
        }
        match self.body.len() {
            0 => Ok(()),
            more => Err(JournalError::Corrupt(format!("{more} bytes behind the events of an append"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> Append {
        let entity = EntityAddress::queue(&"default".parse().unwrap(), &"q".parse().unwrap());
        let event = |n: i64, last| NewEvent {
            last,
            ..NewEvent::new("queue.entered", 7, Timestamp::from_micros(-n), vec![n as u8; n as usize])
        };
        Append {
            entity,
            epoch: Epoch(3),
            after: 5,
            events: vec![event(0, false), event(3, false), event(9, true)],
        }
    }

    fn row(body: Vec<u8>) -> Row {
        let shard = append().entity.shard();
        Row { position: 1_003, shard, seq: 53, epoch: Epoch(3), nth: 8, events: 3, body: body.into() }
    }

    #[test]
    fn an_append_comes_back_as_it_went_in() {
        let append = append();
        let mut events = Vec::new();
        row(encode(&append)).expand(&append.entity, &mut events, |event| event.nth > 6).unwrap();
        assert_eq!(
            events.iter().map(|e| (e.position, e.seq, e.nth)).collect::<Vec<_>>(),
            [(1_002, 52, 7), (1_003, 53, 8)]
        );
        for (stored, new) in events.iter().zip(&append.events[1..]) {
            assert_eq!((&stored.kind, stored.version, stored.at), (&new.kind, new.version, new.at));
            assert_eq!((&stored.payload, stored.last, stored.epoch), (&new.payload, new.last, Epoch(3)));
        }
    }

    #[test]
    fn what_was_never_written_is_an_error_and_no_panic() {
        let append = append();
        let whole = encode(&append);
        let expand = |body: Vec<u8>| row(body).expand(&append.entity, &mut Vec::new(), |_| true);
        for cut in 0..whole.len() {
            assert!(matches!(expand(whole[..cut].to_vec()), Err(JournalError::Corrupt(_))), "cut at {cut}");
        }
        assert!(matches!(expand([whole.clone(), vec![0]].concat()), Err(JournalError::Corrupt(_))));
        assert!(matches!(expand([vec![9], whole[1..].to_vec()].concat()), Err(JournalError::Corrupt(_))));
        let impossible = Row { nth: 2, ..row(whole) };
        assert!(impossible.expand(&append.entity, &mut Vec::new(), |_| true).is_err());
    }
}
