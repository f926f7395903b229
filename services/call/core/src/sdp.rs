//! The session description in a request's body. Its content is the media node's business.

use bytes::Bytes;
use trunkline_sip::{Request, Response};

/// The longest SDP that is handed to a media node, bytes.
pub(crate) const MAX_SDP_BYTES: usize = 16 * 1024;

/// Why a body cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// 400: no or a broken Content-Type, a multipart without its boundary, too long.
    Malformed(&'static str),
    /// 415.
    Unsupported,
}

/// The SDP of `request`: its body, or the first `application/sdp` part of a multipart; `None` when there is no body.
pub(crate) fn of(request: &Request) -> Result<Option<Bytes>, BodyError> {
    if request.body.is_empty() {
        return Ok(None);
    }
    if request.body.len() > MAX_SDP_BYTES {
        return Err(BodyError::Malformed("Body longer than 16384 bytes"));
    }
    let Ok(Some(kind)) = request.headers.content_type() else {
        return Err(BodyError::Malformed("Content-Type missing or malformed"));
    };
    match (kind.kind.as_str(), kind.subtype.as_str()) {
        ("application", "sdp") => Ok(Some(request.body.clone())),
        ("multipart", _) => {
            let boundary = kind.params.text("boundary").unwrap_or_default();
            let boundary = boundary.trim_matches('"').to_owned();
            if boundary.is_empty() || boundary.len() > 70 {
                return Err(BodyError::Malformed("Multipart without a boundary of 1 to 70 characters"));
            }
            sdp_part(&request.body, &boundary).map(Some).ok_or(BodyError::Unsupported)
        }
        _ => Err(BodyError::Unsupported),
    }
}

/// The SDP of an answer to us. Its content type was our offer's to choose; a part of a multipart is not looked for.
pub(crate) fn in_response(response: &Response) -> Option<Bytes> {
    let kind = response.headers.content_type().ok().flatten()?;
    let is_sdp = (kind.kind.as_str(), kind.subtype.as_str()) == ("application", "sdp");
    (is_sdp && !response.body.is_empty() && response.body.len() <= MAX_SDP_BYTES)
        .then(|| response.body.clone())
}

/// RFC 2046 section 5.1: parts between lines of `--boundary`.
fn sdp_part(body: &Bytes, boundary: &str) -> Option<Bytes> {
    let delimiter = format!("--{boundary}");
    let mut at = find(body, delimiter.as_bytes(), 0)?;
    loop {
        let head = find(body, b"\r\n", at)? + 2;
        let end = find(body, format!("\r\n{delimiter}").as_bytes(), head.saturating_sub(2))?;
        let content = find(body, b"\r\n\r\n", head.saturating_sub(2)).filter(|split| *split < end)?;
        let headers =
            String::from_utf8_lossy(body.get(head..content).unwrap_or_default()).to_ascii_lowercase();
        let is_sdp = headers.lines().any(|line| {
            line.strip_prefix("content-type:").is_some_and(|v| v.trim().starts_with("application/sdp"))
        });
        if is_sdp {
            return Some(body.slice(content + 4..end.max(content + 4)));
        }
        at = end + 2;
        if body.get(at + delimiter.len()..).is_some_and(|rest| rest.starts_with(b"--")) {
            return None;
        }
    }
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    haystack.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|at| at + from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_sip::{Method, Uri};

    fn request(kind: &str, body: &'static [u8]) -> Request {
        Request::new(Method::Invite, "sip:a@b".parse::<Uri>().unwrap()).with_body(kind, body)
    }

    #[test]
    fn the_sdp_is_found_also_inside_a_multipart() {
        assert_eq!(of(&request("application/sdp", b"v=0\r\n")), Ok(Some(Bytes::from_static(b"v=0\r\n"))));
        let body = b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=1\r\n--x--\r\n";
        assert_eq!(
            of(&request("multipart/mixed;boundary=x", body)),
            Ok(Some(Bytes::from_static(b"v=0\r\no=1")))
        );
    }

    #[test]
    fn what_is_not_sdp_is_refused_and_nothing_panics() {
        assert_eq!(of(&request("text/plain", b"x")), Err(BodyError::Unsupported));
        for body in [
            &b"--x"[..],
            b"--x\r\n",
            b"--x\r\n\r\n--x",
            b"--x\r\n\r\n--x--",
            b"--x\r\nA: b\r\n\r\nq\r\n--x--",
        ] {
            let request = Request::new(Method::Invite, "sip:a@b".parse::<Uri>().unwrap())
                .with_body("multipart/mixed;boundary=x", body.to_vec());
            assert_eq!(of(&request), Err(BodyError::Unsupported), "{body:?}");
        }
        assert!(matches!(of(&request("multipart/mixed", b"--x")), Err(BodyError::Malformed(_))));
    }
}
