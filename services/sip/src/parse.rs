//! From bytes to messages (RFC 3261 sections 7 and 18.3). Strict about what changes meaning between implementations
//! (line ends, lengths, repeated headers), linear in the input, bounded by [`MAX_MESSAGE_BYTES`] and [`MAX_HEADERS`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    header::{HeaderName, Headers},
    message::{Message, Request, Response},
    method::Method,
    reject::{DropReason, Rejection, Unacceptable},
    text::{decode, is_blank, number, trim},
    uri::Uri,
    values::HeaderError,
};

/// Longest message, head and body together, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 65_536;
/// Most header lines in a message.
pub const MAX_HEADERS: usize = 256;
/// Most Via values in a message. Max-Forwards begins at 70: more hops are a loop or an attack.
pub const MAX_VIAS: usize = 80;

/// A head read as far as possible.
#[derive(Debug)]
pub(crate) struct Head {
    start: Bytes,
    pub(crate) headers: Headers,
    /// The first line that could not be read.
    problem: Option<&'static str>,
}

/// Reads one datagram. Bytes beyond Content-Length are ignored; without Content-Length the body goes to the end.
///
/// # Errors
/// What to answer, or that nothing is to be answered.
pub fn parse_datagram(datagram: &Bytes) -> Result<Message, Unacceptable> {
    let Some(start) = datagram.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | 0)) else {
        return Err(Unacceptable::Drop(DropReason::KeepAlive));
    };
    if datagram.len() > MAX_MESSAGE_BYTES {
        return Err(Unacceptable::Drop(DropReason::Limit("message is longer than 65536 bytes")));
    }
    // Every start line begins with a token; STUN, RTP and noise mostly do not.
    if !crate::text::is_token_byte(datagram[start]) {
        return Err(Unacceptable::Drop(DropReason::NotSip));
    }
    let message = datagram.slice(start..);
    match find_head_end(&message, 0) {
        Some(end) => {
            let head = read_head(&message.slice(..end));
            let rest = message.slice(end + 4..);
            let length = head.headers.content_length();
            match length {
                Ok(None) => head.finish(rest, None),
                Ok(Some(length)) if length <= rest.len() => head.finish(rest.slice(..length), None),
                Ok(Some(_)) => head.finish(rest, Some("body is shorter than Content-Length")),
                Err(_) => head.finish(rest, Some("Content-Length is malformed or repeated")),
            }
        }
        None => read_head(&message).finish(Bytes::new(), Some("no empty line after the headers")),
    }
}

/// Where `CR LF CR LF` begins, at or after `from`.
pub(crate) fn find_head_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at)
}

/// Reads a head (without its final empty line). Never fails: problems are kept for [`Head::finish`].
pub(crate) fn read_head(head: &Bytes) -> Head {
    let mut lines = Lines { head, at: 0 };
    let start = lines.next().unwrap_or_default();
    let mut read = Head { start, headers: Headers::new(), problem: None };
    let mut current: Option<BytesMut> = None;
    let mut plain: Option<Bytes> = None;
    for line in lines {
        if line.first().is_some_and(|byte| is_blank(*byte)) {
            // A fold: one SP stands for it. Joined in one buffer, so many folds stay linear.
            let buffer = match (current.take(), plain.take()) {
                (Some(buffer), _) => Some(buffer),
                (None, Some(first)) => Some(BytesMut::from(&first[..])),
                (None, None) => None,
            };
            match buffer {
                Some(mut buffer) => {
                    buffer.put_u8(b' ');
                    buffer.put_slice(trim(&line));
                    current = Some(buffer);
                }
                None => read.problem = read.problem.or(Some("folded line without a header")),
            }
            continue;
        }
        read.flush(&mut current, &mut plain);
        plain = Some(line);
    }
    read.flush(&mut current, &mut plain);
    read
}

struct Lines<'a> {
    head: &'a Bytes,
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        let rest = self.head.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.windows(2).position(|pair| pair == b"\r\n").unwrap_or(rest.len());
        let line = self.head.slice(self.at..self.at + length);
        self.at += length + 2;
        Some(line)
    }
}

impl Head {
    fn flush(&mut self, folded: &mut Option<BytesMut>, plain: &mut Option<Bytes>) {
        let Some(line) = folded.take().map(BytesMut::freeze).or_else(|| plain.take()) else { return };
        if self.headers.len() >= MAX_HEADERS {
            self.problem = self.problem.or(Some("more than 256 headers"));
            return;
        }
        match read_line(&line) {
            Ok((name, value)) => self.headers.push(name, value),
            Err(problem) => self.problem = self.problem.or(Some(problem)),
        }
    }

    /// The method of the start line, if it is a request line with a readable method.
    fn method(&self) -> Option<Method> {
        let end = self.start.iter().position(|byte| *byte == b' ')?;
        Method::parse(&decode(&self.start[..end]))
    }

    fn is_response(&self) -> bool {
        self.start.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(b"SIP/"))
    }

    /// The answer to this head as a request, or why there is none.
    pub(crate) fn refuse(&self, status: u16, problem: &'static str) -> Unacceptable {
        let method = self.method();
        if self.is_response() || method == Some(Method::Ack) {
            return Unacceptable::Drop(DropReason::Malformed(problem));
        }
        if !self.headers.contains(&HeaderName::Via) {
            return Unacceptable::Drop(DropReason::NoVia);
        }
        if self.headers.elements(&HeaderName::Via).is_ok_and(|vias| vias.len() > MAX_VIAS) {
            return Unacceptable::Drop(DropReason::Limit("more than 80 Via values"));
        }
        Unacceptable::Reject(Box::new(Rejection::from_parts(&self.headers, method, status, problem)))
    }

    /// The message with this head. `fault`: what framing found wrong; reported after what is wrong with the version.
    pub(crate) fn finish(self, body: Bytes, fault: Option<&'static str>) -> Result<Message, Unacceptable> {
        if self.is_response() {
            return self.finish_response(body, fault).map(Message::Response);
        }
        self.finish_request(body, fault).map(Message::Request)
    }

    fn finish_request(self, body: Bytes, fault: Option<&'static str>) -> Result<Request, Unacceptable> {
        let parts: Vec<&[u8]> = self.start.split(|byte| *byte == b' ').collect();
        let &[method, uri, version] = parts.as_slice() else {
            return Err(self.refuse(400, "Request line is not method, URI and version"));
        };
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            let foreign = version.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(b"SIP/"));
            return Err(if foreign {
                self.refuse(505, "")
            } else {
                self.refuse(400, "Request line has no SIP version")
            });
        }
        let Some(method) = Method::parse(&decode(method)) else {
            return Err(self.refuse(400, "Method is not a token"));
        };
        let uri = Uri::parse(uri).map_err(|_| self.refuse(400, "Malformed Request-URI"))?;
        // Headers in a Request-URI are not allowed (RFC 3261 section 19.1.1) and never acted upon.
        if uri.as_sip().is_some_and(|uri| uri.raw_headers().is_some()) {
            return Err(self.refuse(400, "Request-URI has headers"));
        }
        if let Some(problem) = self.problem.or(fault) {
            return Err(self.refuse(400, problem));
        }
        match check_request_headers(&self.headers, &method) {
            Ok(()) => Ok(Request { method, uri, headers: self.headers, body }),
            Err(error) => Err(match self.refuse(400, error.problem) {
                Unacceptable::Reject(mut rejection) => {
                    rejection.reason = format!("Bad {error}");
                    Unacceptable::Reject(rejection)
                }
                drop => drop,
            }),
        }
    }

    fn finish_response(self, body: Bytes, fault: Option<&'static str>) -> Result<Response, Unacceptable> {
        let drop = |problem| Unacceptable::Drop(DropReason::Malformed(problem));
        let (version, rest) = self.start.split_at_checked(7).ok_or_else(|| drop("status line"))?;
        let rest = rest.strip_prefix(b" ").ok_or_else(|| drop("status line"))?;
        let (status, reason) = rest.split_at_checked(3).ok_or_else(|| drop("status line"))?;
        let status = number(status, 699).filter(|status| *status >= 100);
        let status = status.and_then(|status| u16::try_from(status).ok()).ok_or_else(|| drop("status"))?;
        if !version.eq_ignore_ascii_case(b"SIP/2.0") || !matches!(reason.first(), None | Some(b' ')) {
            return Err(drop("status line"));
        }
        if let Some(problem) = self.problem.or(fault) {
            return Err(drop(problem));
        }
        check_every_message(&self.headers).map_err(|error| drop(error.problem))?;
        let reason = self.start.slice_ref(reason.get(1..).unwrap_or_default());
        Ok(Response { status, reason, headers: self.headers, body })
    }
}

/// One header line, unfolded.
fn read_line(line: &Bytes) -> Result<(HeaderName, Bytes), &'static str> {
    // A lone CR or LF is a line end to some and a character to others.
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err("line end without CR LF");
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or("header line without a colon")?;
    let name = std::str::from_utf8(trim(&line[..colon])).ok().and_then(HeaderName::parse);
    let name = name.ok_or("header name is not a token")?;
    Ok((name, line.slice_ref(trim(&line[colon + 1..]))))
}

/// What both requests and responses must have (RFC 3261 section 8.1.1).
fn check_every_message(headers: &Headers) -> Result<(), HeaderError> {
    let vias = headers.elements(&HeaderName::Via)?;
    if vias.is_empty() || vias.len() > MAX_VIAS {
        let problem = if vias.is_empty() { "header is missing" } else { "more than 80 values" };
        return Err(HeaderError { header: HeaderName::Via, problem });
    }
    headers.vias()?;
    headers.from()?;
    headers.to()?;
    headers.call_id()?;
    headers.cseq()?;
    Ok(())
}

/// Everything that is acted upon must be readable; what only informs (Date, Subject, Accept) is not looked at here.
fn check_request_headers(headers: &Headers, method: &Method) -> Result<(), HeaderError> {
    check_every_message(headers)?;
    if headers.cseq()?.method != *method {
        return Err(HeaderError {
            header: HeaderName::CSeq,
            problem: "method is not that of the request line",
        });
    }
    headers.max_forwards()?;
    headers.contacts()?;
    headers.content_type()?;
    headers.route()?;
    headers.record_route()?;
    headers.require()?;
    headers.expires()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn parse(text: &[u8]) -> Result<Message, Unacceptable> {
        parse_datagram(&Bytes::copy_from_slice(text))
    }

    const HEAD: &str = "From: sip:a@b;tag=1\r\nTo: sip:c@d\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n";

    #[test]
    fn a_message_written_is_the_message_read() {
        let text = format!(
            "INVITE sip:c@d SIP/2.0\r\nvia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{HEAD}X-Odd: \u{e4},,;\r\nl: 3\r\n\r\nabcTRAILING"
        );
        let first = parse(text.as_bytes()).unwrap();
        assert_eq!(parse(&first.to_bytes()).unwrap(), first);
        assert!(matches!(&first, Message::Request(request) if request.body == "abc"));
        let odd = HeaderName::parse("x-odd").unwrap();
        assert_eq!(first.headers().get_str(&odd).unwrap(), "\u{e4},,;");
    }

    #[test]
    fn latin1_loses_nothing() {
        let mut text =
            format!("INVITE sip:c@d SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{HEAD}Contact: \"M")
                .into_bytes();
        text.extend_from_slice(b"\xfcller\" <sip:m@h>\r\nX-After: 1\r\n\r\nv=0\xff");
        let Message::Request(request) = parse(&text).unwrap() else { panic!("a request") };
        assert_eq!(request.headers.contact().unwrap().unwrap().display_text().unwrap(), "Müller");
        assert_eq!(&request.body[..], b"v=0\xff");
        assert!(request.headers.contains(&HeaderName::parse("X-After").unwrap()));
    }

    #[test]
    fn lone_line_ends_are_refused() {
        for smuggled in ["X: 1\nRoute: <sip:evil>", "X: 1\rRoute: <sip:evil>", "Subject: \n"] {
            let text = format!(
                "INVITE sip:c@d SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{HEAD}{smuggled}\r\n\r\n"
            );
            assert!(
                matches!(parse(text.as_bytes()), Err(Unacceptable::Reject(r)) if r.status == 400),
                "{smuggled:?}"
            );
        }
    }

    #[test]
    fn malformed_acks_and_responses_and_noise_are_dropped() {
        let via = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
        assert!(matches!(
            parse(format!("ACK sip:c@d SIP/2.0\r\n{via}\r\n").as_bytes()),
            Err(Unacceptable::Drop(_))
        ));
        assert!(matches!(
            parse(format!("SIP/2.0 200 OK\r\n{via}\r\n").as_bytes()),
            Err(Unacceptable::Drop(_))
        ));
        assert_eq!(parse(b"\r\n\r\n"), Err(Unacceptable::Drop(DropReason::KeepAlive)));
        assert_eq!(parse(b"\0\x01\0\0"), Err(Unacceptable::Drop(DropReason::NotSip)));
        assert_eq!(parse(b"hello"), Err(Unacceptable::Drop(DropReason::NoVia)));
    }

    #[test]
    fn parser_bombs_end_quickly() {
        let via = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
        let start = "INVITE sip:c@d SIP/2.0\r\n";
        let bombs = [
            format!("{start}{}{HEAD}\r\n", "v:SIP/2.0/UDP h\r\n".repeat(3_700)),
            format!("{start}Via: {}\r\n{HEAD}\r\n", "SIP/2.0/UDP h,".repeat(4_500)),
            format!("{start}{via}{HEAD}X: 1\r\n{}\r\n", " a\r\n".repeat(16_000)),
            format!("{start}{via}{HEAD}Contact: {}\r\n\r\n", "\"".repeat(60_000)),
            format!("{start}{via}{HEAD}Contact: {}\r\n\r\n", "<".repeat(60_000)),
            format!("{start}{via}{HEAD}Contact: <sip:a@b>{}\r\n\r\n", ";a".repeat(30_000)),
            format!("{start}{via}{HEAD}Route: {}\r\n\r\n", "<sip:a>,".repeat(8_000)),
            format!("{start}{}", "\r".repeat(60_000)),
        ];
        for (index, bomb) in bombs.iter().enumerate() {
            #[allow(clippy::disallowed_methods, reason = "a test of speed")]
            let started = Instant::now();
            let _ = parse(bomb.as_bytes());
            assert!(started.elapsed().as_millis() < 50, "bomb {index} took {:?}", started.elapsed());
        }
        assert!(matches!(parse(bombs[0].as_bytes()), Err(Unacceptable::Drop(DropReason::Limit(_)))));
    }
}
