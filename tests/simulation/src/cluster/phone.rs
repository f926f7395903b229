//! Callers' phones, and the edge in front of each that gives requests again until they are answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use trunkline_call_core::{Destination, Incoming, Input, NewCall, Route};
use trunkline_sip::{Message, Method, Request, Response, parse_datagram};
use trunkline_types::{CallId, NodeId, QueueId};

use super::media_node::node_of;

/// A caller's phone, and the edge in front of it that gives requests again until they are answered.
#[derive(Debug)]
pub(super) struct Phone {
    pub(super) call: CallId,
    pub(super) queue: QueueId,
    tag: String,
    cseq: u32,
    heard: bool,
    pub(super) answered: bool,
    /// Its request that has no answer yet.
    bye: Option<u32>,
    /// It has hung up, or the other side has.
    pub(super) over: bool,
    pub(super) arrived: bool,
    /// The media node to which its audio goes, as far as SDP has told.
    pub(super) audio: Option<NodeId>,
    /// INVITEs of the call: what was answered, and whether that was acknowledged.
    invited: BTreeMap<u32, (u16, bool)>,
}

impl Phone {
    pub(super) fn new(call: CallId, queue: QueueId) -> Self {
        let tag = String::new();
        Self {
            call,
            queue,
            tag,
            cseq: 1,
            heard: false,
            answered: false,
            bye: None,
            over: false,
            arrived: false,
            audio: None,
            invited: BTreeMap::new(),
        }
    }

    /// Nothing left to say.
    pub(super) fn is_done(&self) -> bool {
        self.arrived && self.over && self.bye.is_none()
    }

    fn request(&self, method: &str, cseq: u32, body: &str) -> Option<Request> {
        let to = if self.tag.is_empty() { String::new() } else { format!(";tag={}", self.tag) };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} sip:support@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{method}{cseq}\r\n\
             From: <sip:ada@127.0.0.1>;tag=peer\r\nTo: <sip:support@127.0.0.1>{to}\r\nCall-ID: {}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:ada@127.0.0.1:5070>\r\nMax-Forwards: 70\r\n{kind}\
             Content-Length: {}\r\n\r\n{body}",
            self.call,
            body.len()
        );
        match parse_datagram(&Bytes::from(text)) {
            Ok(Message::Request(request)) => Some(request),
            _ => None,
        }
    }

    fn input(&self, method: &str, cseq: u32, body: &str, new_call: bool) -> Option<Input> {
        let request = self.request(method, cseq, body)?;
        let route = Route {
            edge: "e1".parse().ok()?,
            source: "127.0.0.1:5070".to_owned(),
            transport: "udp".to_owned(),
        };
        let new_call = new_call.then(|| {
            Box::new(NewCall {
                dialled: "support".to_owned(),
                destination: Destination::Queue(self.queue.clone()),
                caller_number: "+15550100".to_owned(),
                caller_name: String::new(),
                contact_uri: "sip:c.token@127.0.0.1:5060".to_owned(),
                trunk: String::new(),
            })
        });
        let transaction = if method == "ACK" { String::new() } else { format!("t{cseq}") };
        Some(Input::Request(Box::new(Incoming { transaction, request, route, new_call })))
    }

    /// The INVITE, while nothing has been heard; the BYE, while it has no answer.
    pub(super) fn again(&self) -> Option<Input> {
        match self.bye {
            Some(cseq) => self.input("BYE", cseq, "", false),
            None if self.arrived && !self.heard && !self.over => self.input("INVITE", 1, "v=0\r\n", true),
            None => None,
        }
    }

    /// The caller hangs up. Before the answer that is a CANCEL.
    pub(super) fn hang_up(&mut self) -> Option<Input> {
        if self.over || !self.arrived {
            return None;
        }
        if !self.answered {
            // Heard or not: the edge cancels what it has given to the call.
            self.over = self.heard;
            let (transaction, reason) = ("t1".to_owned(), String::new());
            return self.heard.then_some(Input::Cancelled { transaction, reason });
        }
        self.over = true;
        self.cseq += 1;
        self.bye = Some(self.cseq);
        self.again()
    }

    /// A response of the call; what the phone says to it.
    pub(super) fn hears(&mut self, response: &Response) -> Option<Input> {
        if let Some(tag) = response.headers.to_tag() {
            self.tag = tag;
        }
        self.heard = true;
        let cseq = response.headers.cseq().ok()?;
        if response.is_provisional() {
            return None;
        }
        if cseq.method == Method::Invite {
            if !response.is_success() {
                self.over = true;
                return None;
            }
            if !self.answered {
                // An answer that comes again says nothing new.
                self.audio = node_of(&response.body);
            }
            self.answered = true;
            return self.input("ACK", cseq.number, "", false);
        }
        if self.bye == Some(cseq.number) {
            self.bye = None;
        }
        None
    }

    /// A request of the call. `glare`: the phone has an INVITE of its own under way, and refuses this one for now.
    pub(super) fn asked(&mut self, transaction: String, request: &Request, glare: bool) -> Option<Input> {
        let status = match request.method {
            Method::Invite => self.invited(request, glare)?,
            Method::Bye => {
                self.over = true;
                // Ours is moot.
                self.bye = None;
                200
            }
            _ => 200,
        };
        let mut response = Response::to(request, status);
        if request.method == Method::Invite && status == 200 {
            response = response.with_body("application/sdp", "v=0\r\n");
        }
        Some(Input::Response { client_transaction: transaction, response: Box::new(response) })
    }

    /// The status for an INVITE within the dialog: the same whenever it comes.
    fn invited(&mut self, request: &Request, glare: bool) -> Option<u16> {
        let cseq = request.headers.cseq().ok()?.number;
        if let Some((status, _)) = self.invited.get(&cseq) {
            return Some(*status);
        }
        let open = self.invited.values().any(|(status, acked)| *status == 200 && !acked);
        let status = match (self.over, glare, open) {
            (true, ..) => 481,
            (_, true, _) => 491,
            (.., true) => 500,
            _ => 200,
        };
        self.invited.insert(cseq, (status, status != 200));
        if status == 200 {
            self.audio = node_of(&request.body);
        }
        Some(status)
    }

    /// Its 2xx has been acknowledged, or nobody waits for that any more (RFC 3261 section 13.3.1.4).
    pub(super) fn has_ack(&self, cseq: u32) -> bool {
        self.over || self.invited.get(&cseq).is_none_or(|(_, acked)| *acked)
    }

    /// The call acknowledges a 2xx.
    pub(super) fn acknowledged(&mut self, cseq: u32) {
        if let Some((_, acked)) = self.invited.get_mut(&cseq) {
            *acked = true;
        }
    }

    /// Nobody is at the other end any more, and it hears nothing: it gives up.
    pub(super) fn give_up(&mut self) {
        self.over = true;
        self.bye = None;
    }
}
