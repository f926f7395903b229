use http::{HeaderMap, HeaderValue, Uri, header};

use crate::problem::Problem;

const FETCH_SITE: &str = "sec-fetch-site";

/// For requests that change something and that a browser may have sent by itself: proof that a page of this origin
/// sent it. `Sec-Fetch-Site` where the browser has it, else `Origin`. With `required`, neither is refused too.
pub(crate) fn check_origin(headers: &HeaderMap, required: bool) -> Result<(), Problem> {
    let cross =
        || Problem::forbidden("The request comes from another site: send it from a page of this server.");
    if let Some(site) = headers.get(FETCH_SITE) {
        return if site == "same-origin" || site == "none" { Ok(()) } else { Err(cross()) };
    }
    match headers.get(header::ORIGIN) {
        Some(origin) => {
            if same_host(origin, headers) {
                Ok(())
            } else {
                Err(cross())
            }
        }
        None if required => Err(Problem::forbidden(
            "With a cookie, requests that change something need Origin or Sec-Fetch-Site: use a bearer token instead.",
        )),
        None => Ok(()),
    }
}

/// Whether an `Origin` is this server's, by the `Host` that the request names.
pub(crate) fn same_host(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let (Some(host), Some(origin)) = (host, origin) else { return false };
    let default_port = match origin.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return false,
    };
    let Some(authority) = origin.authority() else { return false };
    let Ok(host) = host.parse::<http::uri::Authority>() else { return false };
    authority.host().eq_ignore_ascii_case(host.host())
        && authority.port_u16().unwrap_or(default_port) == host.port_u16().unwrap_or(default_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_the_own_origin_passes() {
        for (pairs, required, ok) in [
            (vec![("host", "desk.example"), ("origin", "https://desk.example")], true, true),
            (vec![("host", "desk.example:443"), ("origin", "https://DESK.example")], true, true),
            (vec![("host", "desk.example"), ("origin", "https://desk.example.evil.org")], true, false),
            (vec![("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8081")], true, false),
            (vec![("host", "[::1]:8080"), ("origin", "http://[::1]:8080")], true, true),
            (vec![("host", "desk.example"), ("origin", "null")], true, false),
            (vec![("host", "desk.example")], true, false),
            (vec![("host", "desk.example")], false, true),
            (vec![("host", "a"), ("sec-fetch-site", "same-origin")], true, true),
            (vec![("host", "a"), ("sec-fetch-site", "cross-site"), ("origin", "http://a")], false, false),
            (vec![("host", "a"), ("sec-fetch-site", "same-site"), ("origin", "http://a")], true, false),
        ] {
            assert_eq!(check_origin(&headers(&pairs), required).is_ok(), ok, "{pairs:?}");
        }
    }
}
