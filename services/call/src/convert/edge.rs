//! Edges.

use bytes::Bytes;
use trunkline_call_core::{Destination, EdgeCommand, Incoming, Input, NewCall, Route, TransactionFailure};
use trunkline_proto::edge::v1::{self as pb, edge_command, edge_event, new_call, transaction_failed};
use trunkline_sip::{Message, Request, Response, parse_datagram};
use trunkline_types::{CallId, NodeId, TenantId};

use super::{Malformed, Parsed, malformed, missing, parse};

/// What an edge tells a call.
pub(crate) fn from_edge(event: pb::EdgeEvent) -> Parsed<Input> {
    let edge: NodeId = parse("edge_event.edge", &event.edge)?;
    Ok(match event.event.ok_or_else(|| missing("edge_event.event"))? {
        edge_event::Event::Request(request) => Input::Request(Box::new(incoming(edge, request)?)),
        edge_event::Event::Cancelled(e) => Input::Cancelled { transaction: e.transaction, reason: e.reason },
        edge_event::Event::Response(e) => Input::Response {
            client_transaction: e.client_transaction,
            response: Box::new(response("incoming_response.message", &e.message)?),
        },
        edge_event::Event::Failed(e) => {
            let failure = match e.kind() {
                transaction_failed::Kind::Timeout => TransactionFailure::Timeout,
                transaction_failed::Kind::Transport => TransactionFailure::Transport,
                transaction_failed::Kind::NoAck => TransactionFailure::NoAck,
                transaction_failed::Kind::Unspecified => return Err(missing("transaction_failed.kind")),
            };
            Input::TransactionFailed { transaction: e.transaction, failure }
        }
    })
}

fn incoming(edge: NodeId, e: pb::IncomingRequest) -> Parsed<Incoming> {
    let request = request("incoming_request.message", &e.message)?;
    let new_call = e.new_call.map(new_call).transpose()?.map(Box::new);
    let route = Route { edge, source: e.source, transport: e.transport };
    Ok(Incoming { transaction: e.transaction, request, route, new_call })
}

fn new_call(e: pb::NewCall) -> Parsed<NewCall> {
    let destination = match e.destination.ok_or_else(|| missing("new_call.destination"))? {
        new_call::Destination::Queue(queue) => Destination::Queue(parse("new_call.queue", &queue)?),
        new_call::Destination::Flow(flow) => Destination::Flow(parse("new_call.flow", &flow)?),
    };
    Ok(NewCall {
        dialled: e.dialled,
        destination,
        caller_number: e.caller_number,
        caller_name: e.caller_name,
        contact_uri: e.contact_uri,
        trunk: e.trunk,
    })
}

pub(super) fn request(field: &'static str, bytes: &Bytes) -> Parsed<Request> {
    match parse_datagram(bytes) {
        Ok(Message::Request(request)) => Ok(request),
        Ok(Message::Response(_)) => Err(malformed(field, "is a response")),
        Err(error) => Err(unreadable(field, &error)),
    }
}

pub(super) fn response(field: &'static str, bytes: &Bytes) -> Parsed<Response> {
    match parse_datagram(bytes) {
        Ok(Message::Response(response)) => Ok(response),
        Ok(Message::Request(_)) => Err(malformed(field, "is a request")),
        Err(error) => Err(unreadable(field, &error)),
    }
}

fn unreadable(field: &'static str, error: &trunkline_sip::Unacceptable) -> Malformed {
    malformed(field, format!("is not SIP: {error:?}"))
}

/// What a call tells an edge.
pub(crate) fn to_edge(
    tenant: &TenantId,
    call: CallId,
    route: &Route,
    command: EdgeCommand,
) -> pb::EdgeCommand {
    let (source, transport) = (route.source.clone(), route.transport.clone());
    let command = match command {
        EdgeCommand::Respond { transaction, response, retransmission } => {
            let message = response.to_bytes();
            edge_command::Command::Response(pb::SendResponse {
                transaction,
                message,
                retransmission,
                source,
                transport,
            })
        }
        EdgeCommand::Request { client_transaction, request } => {
            let message = request.to_bytes();
            edge_command::Command::Request(pb::SendRequest { client_transaction, message, source, transport })
        }
        EdgeCommand::Ack { client_transaction, request } => {
            let message = request.to_bytes();
            edge_command::Command::Ack(pb::SendAck { message, source, transport, client_transaction })
        }
    };
    pb::EdgeCommand { tenant: tenant.to_string(), call_id: call.to_string(), command: Some(command) }
}
