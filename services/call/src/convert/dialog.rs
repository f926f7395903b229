//! The bytes of `DialogChanged.state`: a dialog with what belongs to it. Versioned like every proto: fields are added,
//! never reused.

use bytes::Bytes;
use prost::Message as _;
use trunkline_call_core::{Answer, DialogState, Route};
use trunkline_sip::{Dialog, Role};

use super::{Parsed, edge, malformed, missing, parse};

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(bool, tag = "1")]
    caller_is_us: bool,
    #[prost(string, tag = "2")]
    call_id: String,
    #[prost(string, tag = "3")]
    local_tag: String,
    #[prost(string, tag = "4")]
    remote_tag: String,
    #[prost(string, tag = "5")]
    local_uri: String,
    #[prost(string, tag = "6")]
    remote_uri: String,
    #[prost(string, tag = "7")]
    remote_target: String,
    #[prost(string, repeated, tag = "8")]
    route_set: Vec<String>,
    #[prost(uint32, tag = "9")]
    local_cseq: u32,
    #[prost(uint32, optional, tag = "10")]
    remote_cseq: Option<u32>,
    #[prost(bool, tag = "11")]
    secure: bool,
    #[prost(bool, tag = "12")]
    confirmed: bool,
    #[prost(string, tag = "13")]
    edge: String,
    #[prost(string, tag = "14")]
    source: String,
    #[prost(string, tag = "15")]
    transport: String,
    #[prost(uint32, optional, tag = "16")]
    session_s: Option<u32>,
    #[prost(message, optional, tag = "17")]
    answer: Option<StoredAnswer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredAnswer {
    #[prost(string, tag = "1")]
    transaction: String,
    #[prost(uint32, tag = "2")]
    cseq: u32,
    #[prost(bytes = "bytes", tag = "3")]
    response: Bytes,
    #[prost(bool, tag = "4")]
    offered: bool,
}

pub(super) fn write(state: &DialogState) -> Bytes {
    let (dialog, route) = (state.dialog.clone(), state.route.clone());
    let stored = Stored {
        caller_is_us: dialog.role == Role::Uac,
        call_id: dialog.call_id,
        local_tag: dialog.local_tag,
        remote_tag: dialog.remote_tag,
        local_uri: dialog.local_uri,
        remote_uri: dialog.remote_uri,
        remote_target: dialog.remote_target,
        route_set: dialog.route_set,
        local_cseq: dialog.local_cseq,
        remote_cseq: dialog.remote_cseq,
        secure: dialog.secure,
        confirmed: dialog.confirmed,
        edge: route.edge.to_string(),
        source: route.source,
        transport: route.transport,
        session_s: state.session_s,
        answer: state.answer.as_ref().map(|answer| StoredAnswer {
            transaction: answer.transaction.clone(),
            cseq: answer.cseq,
            response: answer.response.to_bytes(),
            offered: answer.offered,
        }),
    };
    stored.encode_to_vec().into()
}

pub(super) fn read(bytes: &Bytes) -> Parsed<DialogState> {
    let stored =
        Stored::decode(bytes.clone()).map_err(|error| malformed("dialog.state", error.to_string()))?;
    if stored.call_id.is_empty() {
        return Err(missing("dialog.state.call_id"));
    }
    let answer = stored.answer.map(|answer| {
        let response = edge::response("dialog.state.answer", &answer.response)?;
        let StoredAnswer { transaction, cseq, offered, .. } = answer;
        Ok(Answer { transaction, cseq, response, offered })
    });
    Ok(DialogState {
        dialog: Dialog {
            role: if stored.caller_is_us { Role::Uac } else { Role::Uas },
            call_id: stored.call_id,
            local_tag: stored.local_tag,
            remote_tag: stored.remote_tag,
            local_uri: stored.local_uri,
            remote_uri: stored.remote_uri,
            remote_target: stored.remote_target,
            route_set: stored.route_set,
            local_cseq: stored.local_cseq,
            remote_cseq: stored.remote_cseq,
            secure: stored.secure,
            confirmed: stored.confirmed,
        },
        route: Route {
            edge: parse("dialog.state.edge", &stored.edge)?,
            source: stored.source,
            transport: stored.transport,
        },
        session_s: stored.session_s,
        answer: answer.transpose()?,
    })
}
