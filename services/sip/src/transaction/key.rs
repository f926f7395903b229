//! What identifies a transaction on the wire (RFC 3261 sections 17.1.3 and 17.2.3).

use crate::{
    header::Headers,
    message::{Request, Response},
    method::Method,
    values::HeaderError,
    via::Via,
};

/// Key of the server transaction of `request`, as if its method were `method` (INVITE for ACK and CANCEL).
///
/// With the magic cookie: branch, sent-by, method. Without (RFC 2543): Request-URI, From tag, Call-ID, CSeq number, top
/// Via; the To tag is left out, since an INVITE has none and its ACK has ours.
pub(super) fn server_key(request: &Request, method: &Method) -> Result<String, HeaderError> {
    let via = request.headers.top_via()?;
    let kind = if *method == Method::Ack { &Method::Invite } else { method };
    match via.branch().filter(|_| via.has_cookie()) {
        Some(branch) => Ok(format!("s {} {} {kind}", branch.to_ascii_lowercase(), via.sent_by_key())),
        None => old_key(request, &via, kind),
    }
}

fn old_key(request: &Request, via: &Via, kind: &Method) -> Result<String, HeaderError> {
    let headers = &request.headers;
    Ok(format!(
        "o {} {} {} {} {} {} {kind}",
        headers.call_id()?,
        headers.cseq()?.number,
        headers.from()?.tag().unwrap_or_default(),
        via.sent_by_key(),
        via.branch().unwrap_or_default(),
        request.uri,
    ))
}

/// Key of a client transaction by our branch and the method in CSeq.
pub(super) fn client_key(headers: &Headers) -> Result<String, HeaderError> {
    let branch = headers.top_via()?.branch().unwrap_or_default();
    Ok(format!("c {} {}", branch.to_ascii_lowercase(), headers.cseq()?.method))
}

/// Key of a 2xx that waits for its ACK, from the 2xx.
pub(super) fn answer_key_of_response(response: &Response) -> Result<String, HeaderError> {
    let headers = &response.headers;
    answer_key(headers, headers.cseq()?.number)
}

/// The same from the ACK: a dialog and a CSeq number.
pub(super) fn answer_key_of_ack(ack: &Request) -> Result<String, HeaderError> {
    answer_key(&ack.headers, ack.headers.cseq()?.number)
}

fn answer_key(headers: &Headers, cseq: u32) -> Result<String, HeaderError> {
    let (local, remote) = (headers.to()?.tag(), headers.from()?.tag());
    Ok(format!("{} {} {} {cseq}", headers.call_id()?, local.unwrap_or_default(), remote.unwrap_or_default()))
}
