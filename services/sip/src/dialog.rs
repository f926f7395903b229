//! Dialogs (RFC 3261 section 12) as plain data: made from a request or a response, kept by its call, journalled as it is.

use bytes::Bytes;

use crate::{
    address::NameAddr,
    header::{HeaderName, Headers},
    message::{Request, Response},
    method::Method,
    uri::Uri,
    values::{CSeq, HeaderError},
    via::Via,
};

/// Longest route set that is kept. More hops than this are a mistake or an attack on memory.
pub const MAX_ROUTES: usize = 32;

/// Who began the dialog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent the INVITE.
    Uac,
    /// We received it.
    Uas,
}

/// Where a request stands in its dialog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Its CSeq is higher than all before (or it is an ACK or CANCEL).
    New,
    /// Its CSeq is that of the request before. Transactions absorb retransmissions, so this comes from an edge that does
    /// not know the transaction: answer as before.
    Repeated,
}

/// What does not fit a dialog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// A header is missing or malformed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The response cannot begin a dialog: no To tag in a provisional, or a failure.
    #[error("response with status {0} begins no dialog")]
    NoDialog(u16),
    /// More than [`MAX_ROUTES`] Record-Route values.
    #[error("route set has {0} entries, at most 32 are kept")]
    TooManyRoutes(usize),
    /// CSeq is lower than that of an earlier request: answer 500 (RFC 3261 section 12.2.2).
    #[error("CSeq {got} is lower than {highest}, which came before")]
    OutOfOrder {
        /// Of this request.
        got: u32,
        /// Highest so far.
        highest: u32,
    },
    /// Call-ID or tags differ: answer 481.
    #[error("request belongs to another dialog")]
    Foreign,
    /// ACK and CANCEL are not made by [`Dialog::request`].
    #[error("{0} does not take a new CSeq in a dialog")]
    Method(Method),
    /// CSeq reached 2^31.
    #[error("CSeq is used up")]
    Exhausted,
    /// A stored field cannot be read as what it is.
    #[error("dialog field {0} is not a SIP URI")]
    Corrupt(&'static str),
}

impl DialogError {
    /// The status that refuses a request for this reason.
    pub fn status(&self) -> u16 {
        match self {
            Self::Header(_) | Self::NoDialog(_) | Self::TooManyRoutes(_) | Self::Method(_) => 400,
            Self::Foreign => 481,
            Self::OutOfOrder { .. } | Self::Exhausted | Self::Corrupt(_) => 500,
        }
    }
}

/// The state of a dialog. Every field is plain; [`Dialog::request`] and others check what they read from them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    /// Who began it.
    pub role: Role,
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty for an RFC 2543 peer without one.
    pub remote_tag: String,
    /// Our URI, as in From of our requests.
    pub local_uri: String,
    /// The peer's URI.
    pub remote_uri: String,
    /// The peer's Contact: Request-URI of our requests.
    pub remote_target: String,
    /// Route URIs in the order of our requests.
    pub route_set: Vec<String>,
    /// CSeq of our last request; 0 = none yet.
    pub local_cseq: u32,
    /// CSeq of the peer's last request.
    pub remote_cseq: Option<u32>,
    /// Request-URI was sips.
    pub secure: bool,
    /// A 2xx was sent or received; before, the dialog is early.
    pub confirmed: bool,
}

impl Dialog {
    /// As user agent server, from the INVITE and the tag that we put into To. An RFC 2543 request without a Contact is
    /// reached at its From URI.
    ///
    /// # Errors
    /// Headers missing or malformed, too many routes.
    pub fn from_request(request: &Request, local_tag: &str) -> Result<Self, DialogError> {
        let headers = &request.headers;
        let (from, to) = (headers.from()?, headers.to()?);
        let target = headers.contact()?.map_or_else(|| from.uri.clone(), |contact| contact.uri);
        Ok(Self {
            role: Role::Uas,
            call_id: headers.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: from.tag().unwrap_or_default(),
            local_uri: bare(&to.uri),
            remote_uri: bare(&from.uri),
            remote_target: bare(&target),
            route_set: route_set(headers)?,
            local_cseq: 0,
            remote_cseq: Some(headers.cseq()?.number),
            secure: request.uri.scheme() == "sips",
            confirmed: false,
        })
    }

    /// As user agent client, from the INVITE that we sent and a 101 to 299 to it. Each To tag (fork) is a dialog of its
    /// own.
    ///
    /// # Errors
    /// The response begins no dialog; headers missing or malformed; too many routes.
    pub fn from_response(sent: &Request, response: &Response) -> Result<Self, DialogError> {
        let headers = &response.headers;
        let remote_tag = headers.to()?.tag();
        let status = response.status;
        if !(101..300).contains(&status) || (remote_tag.is_none() && !response.is_success()) {
            return Err(DialogError::NoDialog(status));
        }
        let mut routes = route_set(headers)?;
        routes.reverse();
        let target = headers.contact()?.map_or_else(|| sent.uri.clone(), |contact| contact.uri);
        Ok(Self {
            role: Role::Uac,
            call_id: headers.call_id()?.to_owned(),
            local_tag: sent.headers.from()?.tag().unwrap_or_default(),
            remote_tag: remote_tag.unwrap_or_default(),
            local_uri: bare(&sent.headers.from()?.uri),
            remote_uri: bare(&sent.headers.to()?.uri),
            remote_target: bare(&target),
            route_set: routes,
            local_cseq: sent.headers.cseq()?.number,
            remote_cseq: None,
            secure: sent.uri.scheme() == "sips",
            confirmed: response.is_success(),
        })
    }

    /// A request of the peer belongs to this dialog. None does → 481 (RFC 3261 section 12.2.2).
    pub fn matches_request(&self, request: &Request) -> bool {
        self.matches(&request.headers, request.headers.to_tag(), request.headers.from_tag())
    }

    /// A response to our request belongs to this dialog (and to this fork).
    pub fn matches_response(&self, response: &Response) -> bool {
        self.matches(&response.headers, response.headers.from_tag(), response.headers.to_tag())
    }

    fn matches(&self, headers: &Headers, local: Option<String>, remote: Option<String>) -> bool {
        headers.call_id().is_ok_and(|id| id == self.call_id)
            && local.as_deref() == Some(&self.local_tag)
            && remote.unwrap_or_default() == self.remote_tag
    }

    /// Takes a request of the peer: order of CSeq, and the new remote target of a target refresh.
    ///
    /// # Errors
    /// [`DialogError::Foreign`], [`DialogError::OutOfOrder`], or headers malformed: answer [`DialogError::status`]. The
    /// dialog is then unchanged.
    pub fn receive_request(&mut self, request: &Request) -> Result<Order, DialogError> {
        if !self.matches_request(request) {
            return Err(DialogError::Foreign);
        }
        // ACK and CANCEL carry the number of their INVITE.
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return Ok(Order::New);
        }
        let got = request.headers.cseq()?.number;
        match self.remote_cseq {
            Some(highest) if got < highest => return Err(DialogError::OutOfOrder { got, highest }),
            Some(highest) if got == highest => return Ok(Order::Repeated),
            _ => {}
        }
        let contact = request.headers.contact()?;
        self.remote_cseq = Some(got);
        if refreshes_target(&request.method)
            && let Some(contact) = contact
        {
            self.remote_target = bare(&contact.uri);
        }
        Ok(Order::New)
    }

    /// Takes a response to a request of ours within the dialog, or the 2xx that confirms it: route set of the first 2xx
    /// (RFC 3261 section 13.2.2.4), new remote target of a target refresh.
    ///
    /// # Errors
    /// [`DialogError::Foreign`] for another fork; headers malformed. The dialog is then unchanged.
    pub fn receive_response(&mut self, response: &Response) -> Result<(), DialogError> {
        if !self.matches_response(response) {
            return Err(DialogError::Foreign);
        }
        let method = response.headers.cseq()?.method;
        if !refreshes_target(&method) || response.status < 101 || response.status >= 300 {
            return Ok(());
        }
        let contact = response.headers.contact()?;
        if method == Method::Invite && response.is_success() && !self.confirmed {
            if self.role == Role::Uac {
                let mut routes = route_set(&response.headers)?;
                routes.reverse();
                self.route_set = routes;
            }
            self.confirmed = true;
        }
        if let Some(contact) = contact {
            self.remote_target = bare(&contact.uri);
        }
        Ok(())
    }

    /// This status to a request within a dialog ends the dialog (RFC 3261 section 12.2.1.2).
    pub fn ends_with(status: u16) -> bool {
        matches!(status, 408 | 481)
    }

    /// A new request with the next CSeq. Body, Session-Expires and the like are the caller's to add; `contact` for
    /// requests that refresh the target.
    ///
    /// # Errors
    /// Method is ACK or CANCEL; CSeq used up; a field is corrupt. The CSeq is then unchanged.
    pub fn request(
        &mut self,
        method: Method,
        via: &Via,
        contact: Option<&Uri>,
    ) -> Result<Request, DialogError> {
        if matches!(method, Method::Ack | Method::Cancel) {
            return Err(DialogError::Method(method));
        }
        let cseq =
            self.local_cseq.checked_add(1).filter(|cseq| *cseq < 1 << 31).ok_or(DialogError::Exhausted)?;
        let mut request = self.build(method, cseq, via)?;
        if let Some(contact) = contact {
            request.headers.push(HeaderName::Contact, NameAddr::new(contact.clone()).to_value());
        }
        self.local_cseq = cseq;
        Ok(request)
    }

    /// The ACK of a 2xx to our INVITE with CSeq `invite_cseq`; `body` is the answer to a late offer, with its type.
    /// Credentials of the INVITE are the caller's to copy (RFC 3261 section 13.2.2.4). Build it once per 2xx and fork.
    ///
    /// # Errors
    /// A field is corrupt.
    pub fn ack(
        &self,
        invite_cseq: u32,
        via: &Via,
        body: Option<(&str, Bytes)>,
    ) -> Result<Request, DialogError> {
        let request = self.build(Method::Ack, invite_cseq, via)?;
        Ok(match body {
            Some((content_type, body)) => request.with_body(content_type, body),
            None => request,
        })
    }

    fn build(&self, method: Method, cseq: u32, via: &Via) -> Result<Request, DialogError> {
        let target = parse(&self.remote_target, "remote_target")?;
        let routes = self.routes()?;
        let (uri, routes) = match routes.split_first() {
            // A strict router: it takes the Request-URI, the target goes to the end (RFC 3261 section 12.2.1.1).
            Some((first, rest)) if !first.as_sip().is_some_and(|uri| uri.is_loose_router()) => {
                (first.clone(), [rest, &[target]].concat())
            }
            _ => (target, routes),
        };
        let mut request = Request::new(method.clone(), uri);
        let headers = &mut request.headers;
        headers.push(HeaderName::Via, via.to_value());
        headers.push(HeaderName::MaxForwards, "70");
        for route in routes {
            headers.push(HeaderName::Route, NameAddr::new(route).to_value());
        }
        let local = NameAddr::new(parse(&self.local_uri, "local_uri")?).with_tag(&self.local_tag);
        let remote = NameAddr::new(parse(&self.remote_uri, "remote_uri")?);
        let remote = if self.remote_tag.is_empty() { remote } else { remote.with_tag(&self.remote_tag) };
        headers.push(HeaderName::From, local.to_value());
        headers.push(HeaderName::To, remote.to_value());
        headers.push(HeaderName::CallId, self.call_id.clone());
        headers.push(HeaderName::CSeq, CSeq { number: cseq, method }.to_value());
        Ok(request)
    }

    fn routes(&self) -> Result<Vec<Uri>, DialogError> {
        self.route_set.iter().map(|route| parse(route, "route_set")).collect()
    }

    /// Where our requests are sent: the first route, else the remote target.
    ///
    /// # Errors
    /// A field is corrupt.
    pub fn next_hop(&self) -> Result<Uri, DialogError> {
        match self.route_set.first() {
            Some(route) => parse(route, "route_set"),
            None => parse(&self.remote_target, "remote_target"),
        }
    }

    /// After a recovery: requests may have been sent that the journal does not know. A gap is allowed, a repeat is not.
    pub fn jump_cseq(&mut self, by: u32) {
        self.local_cseq = self.local_cseq.saturating_add(by).min((1 << 31) - 2);
    }
}

fn refreshes_target(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer)
}

/// Without the part after `?`, which is never acted upon.
fn bare(uri: &Uri) -> String {
    match uri {
        Uri::Sip(sip) => sip.clone().without_headers().to_string(),
        _ => uri.to_string(),
    }
}

fn parse(text: &str, field: &'static str) -> Result<Uri, DialogError> {
    text.parse().map_err(|_| DialogError::Corrupt(field))
}

fn route_set(headers: &Headers) -> Result<Vec<String>, DialogError> {
    let routes = headers.record_route()?;
    if routes.len() > MAX_ROUTES {
        return Err(DialogError::TooManyRoutes(routes.len()));
    }
    Ok(routes.iter().map(|route| bare(&route.uri)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, parse_datagram};

    fn message(text: &str) -> Message {
        parse_datagram(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn invite() -> Request {
        let text = "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\n\
            Record-Route: <sip:p2;lr>, <sip:p1;lr>\r\nFrom: Alice <sip:alice@a>;tag=at\r\nTo: <sip:bob@example.com>\r\n\
            Call-ID: c\r\nCSeq: 7 INVITE\r\nContact: <sip:alice@10.0.0.1:5070?x=y>\r\n\r\n";
        match message(text) {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }

    fn via() -> Via {
        Via::new("UDP", "edge", None, "z9hG4bKx").unwrap()
    }

    fn both() -> (Dialog, Dialog) {
        let invite = invite();
        let uas = Dialog::from_request(&invite, "bt").unwrap();
        let ok = Response::to(&invite, 200)
            .with_to_tag("bt")
            .with_header(HeaderName::Contact, "<sip:bob@10.0.0.2>");
        (Dialog::from_response(&invite, &ok).unwrap(), uas)
    }

    #[test]
    fn both_ends_agree_and_routes_are_mirrored() {
        let (mut uac, mut uas) = both();
        assert_eq!(uas.route_set, ["sip:p2;lr", "sip:p1;lr"]);
        assert_eq!(uac.route_set, ["sip:p1;lr", "sip:p2;lr"]);
        assert_eq!(uas.remote_target, "sip:alice@10.0.0.1:5070");
        let bye = uac.request(Method::Bye, &via(), None).unwrap();
        assert_eq!(bye.uri.to_string(), "sip:bob@10.0.0.2");
        assert!(uas.matches_request(&bye));
        assert_eq!(uas.receive_request(&bye), Ok(Order::New));
        assert_eq!(uas.receive_request(&bye), Ok(Order::Repeated));
        let back = uas.request(Method::Info, &via(), None).unwrap();
        assert!(uac.matches_request(&back) && !uas.matches_request(&back));
        assert_eq!(back.headers.cseq().unwrap().number, 1);
        assert_eq!(uas.next_hop().unwrap().to_string(), "sip:p2;lr");
    }

    #[test]
    fn a_lower_cseq_is_500_and_another_tag_481() {
        let (mut uac, mut uas) = both();
        let first = uac.request(Method::Info, &via(), None).unwrap();
        uac.jump_cseq(100);
        let later =
            uac.request(Method::Update, &via(), Some(&"sip:alice@10.0.0.9".parse().unwrap())).unwrap();
        assert_eq!(later.headers.cseq().unwrap().number, 109);
        uas.receive_request(&later).unwrap();
        assert_eq!(uas.remote_target, "sip:alice@10.0.0.9");
        assert_eq!(uas.receive_request(&first).unwrap_err().status(), 500);
        let mut foreign = uac.clone();
        foreign.local_tag = "other".into();
        let stranger = foreign.request(Method::Bye, &via(), None).unwrap();
        assert_eq!(uas.receive_request(&stranger).unwrap_err().status(), 481);
    }

    #[test]
    fn a_strict_router_takes_the_request_uri() {
        let (mut uac, _) = both();
        uac.route_set = vec!["sip:strict".into(), "sip:loose;lr".into()];
        let request = uac.request(Method::Bye, &via(), None).unwrap();
        assert_eq!(request.uri.to_string(), "sip:strict");
        let routes: Vec<String> =
            request.headers.route().unwrap().iter().map(|route| route.uri.to_string()).collect();
        assert_eq!(routes, ["sip:loose;lr", "sip:bob@10.0.0.2"]);
    }

    #[test]
    fn forks_are_dialogs_of_their_own_and_the_2xx_brings_the_route_set() {
        let invite = invite();
        let ringing = |tag: &str| Response::to(&invite, 180).with_to_tag(tag);
        let mut early = Dialog::from_response(&invite, &ringing("x")).unwrap();
        let other = Dialog::from_response(&invite, &ringing("y")).unwrap();
        assert!(early.matches_response(&ringing("x")) && !other.matches_response(&ringing("x")));
        assert!(matches!(
            Dialog::from_response(&invite, &Response::to(&invite, 183)),
            Err(DialogError::NoDialog(183))
        ));
        let mut ok =
            Response::to(&invite, 200).with_to_tag("x").with_header(HeaderName::Contact, "<sip:new@h>");
        ok.headers.set(HeaderName::RecordRoute, "<sip:only;lr>");
        early.receive_response(&ok).unwrap();
        assert!(early.confirmed);
        assert_eq!(
            (early.route_set.as_slice(), early.remote_target.as_str()),
            (&["sip:only;lr".to_owned()][..], "sip:new@h")
        );
    }

    #[test]
    fn the_ack_has_the_number_of_the_invite_and_a_late_answer() {
        let (mut uac, _) = both();
        uac.request(Method::Info, &via(), None).unwrap();
        let ack = uac.ack(7, &via(), Some(("application/sdp", Bytes::from("v=0")))).unwrap();
        assert_eq!(ack.headers.cseq().unwrap(), CSeq { number: 7, method: Method::Ack });
        assert_eq!((&ack.body[..], uac.local_cseq), (&b"v=0"[..], 8));
        assert_eq!(uac.request(Method::Ack, &via(), None), Err(DialogError::Method(Method::Ack)));
    }

    #[test]
    fn a_corrupt_journal_is_an_error_not_a_panic() {
        let (mut uac, _) = both();
        uac.remote_target = "nonsense".into();
        assert_eq!(uac.request(Method::Bye, &via(), None), Err(DialogError::Corrupt("remote_target")));
        assert_eq!(uac.local_cseq, 7);
    }
}
