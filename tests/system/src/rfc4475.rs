//! What is to become of each message of RFC 4475. The messages are the fixtures of `services/sip`, byte by byte.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::root;

/// What may be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with one of these final responses.
    Answered(&'static [u16]),
    /// Neither answered nor acted upon.
    Dropped,
}
use Outcome::{Answered, Dropped};

/// An INVITE that is understood; nobody here has the name that it asks for.
const INVITE: Outcome = Answered(&[404]);
/// The same, or refused for its form.
const INVITE_OR_400: Outcome = Answered(&[400, 404]);
/// There are no accounts for telephones: every registration is challenged.
const REGISTER: Outcome = Answered(&[200, 401]);
const OPTIONS: Outcome = Answered(&[200]);
const BAD: Outcome = Answered(&[400]);

/// One message.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Name of the fixture.
    pub name: &'static str,
    /// As a datagram.
    pub udp: Outcome,
    /// On a stream, where messages are told apart by Content-Length.
    pub tcp: Outcome,
    /// Header fields that the answer must have.
    pub with: &'static [&'static str],
}

const fn case(name: &'static str, outcome: Outcome) -> Case {
    Case { name, udp: outcome, tcp: outcome, with: &[] }
}

const fn with(name: &'static str, outcome: Outcome, with: &'static [&'static str]) -> Case {
    Case { name, udp: outcome, tcp: outcome, with }
}

/// All 49.
pub const CASES: [Case; 49] = [
    // Section 3.1.1: valid messages. A To tag without its dialog: 481.
    case("wsinv", Answered(&[481])),
    with("intmeth", Answered(&[501]), &["Allow"]),
    case("esc01", INVITE),
    case("escnull", REGISTER),
    with("esc02", Answered(&[501]), &["Allow"]),
    case("lwsdisp", OPTIONS),
    case("longreq", INVITE),
    case("dblreq", REGISTER),
    case("semiuri", OPTIONS),
    case("transports", OPTIONS),
    with("mpart01", Answered(&[405]), &["Allow"]),
    case("unreason", Dropped),
    case("noreason", Dropped),
    // Section 3.1.2: invalid messages.
    case("badinv01", BAD),
    case("clerr", BAD),
    case("ncl", BAD),
    case("scalar02", BAD),
    case("scalarlg", Dropped),
    case("quotbal", BAD),
    case("ltgtruri", INVITE_OR_400),
    case("lwsruri", Answered(&[400, 481])),
    case("lwsstart", INVITE_OR_400),
    case("trws", Answered(&[200, 400])),
    case("escruri", INVITE_OR_400),
    case("baddate", INVITE_OR_400),
    case("regbadct", Answered(&[200, 400, 401])),
    case("badaspec", Answered(&[200, 400])),
    case("baddn", Answered(&[200, 400])),
    case("badvers", Answered(&[505])),
    case("mismatch01", BAD),
    case("mismatch02", Answered(&[400, 501])),
    case("bigcode", Dropped),
    // Section 3.2: transaction layer.
    case("badbranch", Answered(&[200, 400])),
    // Section 3.3: application layer.
    case("insuf", BAD),
    case("unkscm", Answered(&[416])),
    case("novelsc", Answered(&[404, 416])),
    case("unksm2", BAD),
    with("bext01", Answered(&[420]), &["Unsupported"]),
    with("invut", Answered(&[415]), &["Accept"]),
    with("regaut01", Answered(&[401]), &["WWW-Authenticate"]),
    case("multi01", BAD),
    case("mcl01", BAD),
    case("bcast", Dropped),
    case("zeromf", OPTIONS),
    case("cparam01", REGISTER),
    case("cparam02", REGISTER),
    case("regescrt", REGISTER),
    case("sdp01", Answered(&[406, 488])),
    // Section 3.4: without Content-Length, which a stream cannot do without (RFC 3261 section 18.3).
    Case { name: "inv2543", udp: Answered(&[404, 488]), tcp: Answered(&[400, 404, 488]), with: &[] },
];

/// The bytes of a message.
pub fn message(name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = root().join("services/sip/tests/rfc4475").join(format!("{name}.dat"));
    std::fs::read(&path).with_context(|| format!("{}", path.display()))
}

/// The Call-ID of a message, by which its answers are known; None when it has none.
pub fn call_id(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().take_while(|line| !line.trim().is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim();
        (name.eq_ignore_ascii_case("call-id") || name.eq_ignore_ascii_case("i"))
            .then(|| value.trim().to_owned())
    })
}
