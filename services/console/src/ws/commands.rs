//! Checks what a client wants and turns it into the agent's words.

use trunkline_proto::acd::v1::{self as acd, agent_command::Command, call_control::Control};
use trunkline_types::{CallId, OfferId, QueueId};

use super::protocol::{ClientMessage, DataError};

const MAX_SDP_BYTES: usize = 64 * 1024;
const MAX_NOTES_BYTES: usize = 16 * 1024;
const MAX_TAGS: usize = 16;
const MAX_WORD_CHARS: usize = 64;
const MAX_DIGITS: usize = 32;
const MAX_EXTENSION_S: u32 = 3_600;

/// A command for the agent's actor; `None` for what is not a command (`hello`, `ack`, `ping`). `saved_notes` are those
/// of the last state: they stay when a wrap-up is finished without notes.
pub(crate) fn command(message: ClientMessage, saved_notes: &str) -> Result<Option<Command>, DataError> {
    use ClientMessage as M;
    Ok(Some(match message {
        M::Hello(_) | M::Ack(_) | M::Ping(_) => return Ok(None),
        M::Ready(_) => Command::SetReady(acd::SetReady {}),
        M::NotReady(d) => Command::SetNotReady(acd::SetNotReady { reason: word("reason", d.reason)? }),
        M::Next(d) => Command::SetNext(next(d.ready, d.reason)?),
        M::SignOut(_) => Command::SignOut(acd::SignOut {}),
        M::Accept(d) => Command::Accept(acd::Accept { offer_id: offer(d.offer_id)?, sdp_offer: sdp(d.sdp)? }),
        M::Decline(d) => Command::Decline(acd::Decline { offer_id: offer(d.offer_id)? }),
        M::MediaResume(d) => {
            Command::ResumeMedia(acd::ResumeMedia { sdp_offer: sdp(d.sdp)?, take_over: d.take_over })
        }
        M::Hold(d) => control(Control::Hold(d.on)),
        M::Mute(d) => control(Control::Mute(d.on)),
        M::Digits(d) => control(Control::Digits(digits(d.digits)?)),
        M::Transfer(d) => control(Control::Transfer(queue(d.queue_id)?)),
        M::Consult(d) => control(Control::Consult(queue(d.queue_id)?)),
        M::TransferComplete(_) => control(Control::CompleteTransfer(true)),
        M::ConsultCancel(_) => control(Control::CancelConsult(true)),
        M::HangUp(_) => control(Control::HangUp(true)),
        M::PauseRecording(d) => control(Control::PauseRecording(d.on)),
        M::Notes(d) => {
            Command::SaveNotes(acd::SaveNotes { call_id: call(d.call_id)?, notes: notes(d.notes)? })
        }
        M::WrapUpFinish(d) => Command::FinishWrapUp(acd::FinishWrapUp {
            disposition: d.disposition.map_or(Ok(String::new()), |text| word("disposition", text))?,
            tags: tags(d.tags)?,
            notes: notes(d.notes.unwrap_or_else(|| saved_notes.to_owned()))?,
        }),
        M::WrapUpExtend(d) if (1..=MAX_EXTENSION_S).contains(&d.seconds) => {
            Command::ExtendWrapUp(acd::ExtendWrapUp { by_us: i64::from(d.seconds) * 1_000_000 })
        }
        M::WrapUpExtend(d) => {
            return Err(DataError::new("seconds", format!("is {}: give 1 to {MAX_EXTENSION_S}", d.seconds)));
        }
    }))
}

/// Whether the command is answered by an SDP answer and not by a bare "done".
pub(crate) fn wants_sdp(command: &Command) -> bool {
    matches!(command, Command::Accept(_) | Command::ResumeMedia(_))
}

fn control(control: Control) -> Command {
    Command::Control(acd::CallControl { control: Some(control) })
}

fn next(ready: bool, reason: Option<String>) -> Result<acd::SetNext, DataError> {
    match (ready, reason) {
        (true, _) => Ok(acd::SetNext { ready, reason: String::new() }),
        (false, Some(reason)) => Ok(acd::SetNext { ready, reason: word("reason", reason)? }),
        (false, None) => {
            Err(DataError::new("reason", "is missing: say why not ready, in 1 to 64 characters"))
        }
    }
}

fn word(field: &str, text: String) -> Result<String, DataError> {
    let (text, length) = (text.trim(), text.trim().chars().count());
    if length == 0 || length > MAX_WORD_CHARS {
        return Err(DataError::new(field, format!("has {length} characters: give 1 to {MAX_WORD_CHARS}")));
    }
    if text.chars().any(char::is_control) {
        return Err(DataError::new(field, "has control characters: leave them out"));
    }
    Ok(text.to_owned())
}

fn tags(tags: Vec<String>) -> Result<Vec<String>, DataError> {
    if tags.len() > MAX_TAGS {
        return Err(DataError::new("tags", format!("has {} entries: give at most {MAX_TAGS}", tags.len())));
    }
    tags.into_iter().enumerate().map(|(index, tag)| word(&format!("tags[{index}]"), tag)).collect()
}

fn notes(notes: String) -> Result<String, DataError> {
    if notes.len() > MAX_NOTES_BYTES {
        let detail = format!("has {} bytes: give at most {MAX_NOTES_BYTES}", notes.len());
        return Err(DataError::new("notes", detail));
    }
    Ok(notes)
}

fn sdp(sdp: String) -> Result<String, DataError> {
    if sdp.len() > MAX_SDP_BYTES {
        let detail = format!("has {} bytes: give at most {MAX_SDP_BYTES}", sdp.len());
        return Err(DataError::new("sdp", detail));
    }
    if !sdp.starts_with("v=0") {
        return Err(DataError::new("sdp", "is not a session description: it begins with v=0 (RFC 8866)"));
    }
    Ok(sdp)
}

fn digits(digits: String) -> Result<String, DataError> {
    let ok = (1..=MAX_DIGITS).contains(&digits.len())
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D'));
    let error = || DataError::new("digits", "cannot be sent: give 1 to 32 of 0-9, *, # and A-D");
    if ok { Ok(digits) } else { Err(error()) }
}

fn offer(id: String) -> Result<String, DataError> {
    match id.parse::<OfferId>() {
        Ok(_) => Ok(id),
        Err(_) => {
            Err(DataError::new("offer_id", "is not an offer's id: take it from `ring` or from the state"))
        }
    }
}

fn queue(id: String) -> Result<String, DataError> {
    match id.parse::<QueueId>() {
        Ok(_) => Ok(id),
        Err(_) => Err(DataError::new("queue_id", "is not a queue's id: take it from `transfer_queues`")),
    }
}

fn call(id: String) -> Result<String, DataError> {
    match id.parse::<CallId>() {
        Ok(_) => Ok(id),
        Err(_) => Err(DataError::new("call_id", "is not a call's id: take it from the state")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(kind: &str, data: Value) -> Result<Option<Command>, DataError> {
        ClientMessage::read(kind, data).unwrap().and_then(|message| command(message, "as saved"))
    }

    /// Each limit is enforced, and the error names the field.
    #[test]
    fn bad_values_are_named() {
        let long = "x".repeat(65);
        for (kind, data, field) in [
            ("not_ready", json!({}), "reason"),
            ("not_ready", json!({"reason": ""}), "reason"),
            ("not_ready", json!({"reason": "a\u{0}b"}), "reason"),
            ("not_ready", json!({"reason": long}), "reason"),
            ("next", json!({"ready": false}), "reason"),
            ("next", json!({"ready": "yes"}), "ready"),
            ("hold", json!({"on": 1}), "on"),
            ("digits", json!({"digits": ""}), "digits"),
            ("digits", json!({"digits": "12x"}), "digits"),
            ("digits", json!({"digits": "1".repeat(33)}), "digits"),
            ("accept", json!({"offer_id": "x", "sdp": "v=0"}), "offer_id"),
            ("accept", json!({"offer_id": "support:1:1", "sdp": "hello"}), "sdp"),
            (
                "accept",
                json!({"offer_id": "support:1:1", "sdp": format!("v=0{}", "x".repeat(65_536))}),
                "sdp",
            ),
            ("transfer", json!({}), "queue_id"),
            ("consult", json!({"queue_id": "no such/name"}), "queue_id"),
            ("notes", json!({"call_id": "?", "notes": ""}), "call_id"),
            ("notes", json!({"call_id": "0".repeat(25), "notes": "x".repeat(16_385)}), "notes"),
            ("wrap_up_finish", json!({"tags": vec!["t"; 17]}), "tags"),
            ("wrap_up_finish", json!({"tags": ["ok", long]}), "tags[1]"),
            ("wrap_up_finish", json!({"tags": ["ok", 5]}), "tags[1]"),
            ("wrap_up_finish", json!({"disposition": long}), "disposition"),
            ("wrap_up_extend", json!({"seconds": 0}), "seconds"),
            ("wrap_up_extend", json!({"seconds": -5}), "seconds"),
            ("hello", json!({"client": "x", "resume": {"session": "s"}}), "resume.last_seq"),
            ("hello", json!(["client"]), "data"),
        ] {
            match check(kind, data.clone()) {
                Err(error) => assert_eq!(error.field, field, "{kind} {data}: {error}"),
                Ok(command) => panic!("{kind} {data} passed: {command:?}"),
            }
        }
    }

    #[test]
    fn notes_that_were_not_sent_stay() {
        let Ok(Some(Command::FinishWrapUp(finish))) = check("wrap_up_finish", json!({"tags": [" a "]}))
        else {
            panic!("refused")
        };
        assert_eq!(
            (finish.notes.as_str(), finish.tags, finish.disposition.as_str()),
            ("as saved", vec!["a".into()], "")
        );
    }
}
