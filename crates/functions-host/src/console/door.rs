//! Door of the console: which requests come from the console's own page, or from a program of this machine.
//!
//! Any web page can send requests to a loopback port. A page under a name that resolves to this machine differs by its `Host` (DNS
//! rebinding), and a page of another origin by `Origin` and `Sec-Fetch-Site`, which no script can set.

use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether the one `Host` of a request is a name of the loopback interface with this port.
pub(super) fn is_named(headers: &HeaderMap, port: u16) -> bool {
    let Some(host) = host(headers) else { return false };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        let rest = host.get(..name.len()).filter(|begin| begin.eq_ignore_ascii_case(name)).and_then(|_| host.get(name.len()..));
        match rest {
            Some("") => port == 80,
            Some(rest) => rest.strip_prefix(':').is_some_and(|text| text.parse() == Ok(port)),
            None => false,
        }
    })
}

/// Whether a request for data is no other page's: scripts of other origins could not read the answer, and would cost work.
pub(super) fn may_read(headers: &HeaderMap) -> bool {
    all(headers, SEC_FETCH_SITE, |site| matches!(site, "same-origin" | "none")) && is_own_origin(headers)
}

/// Whether a request that changes something comes from the console's own page. A program sends the same headers.
pub(super) fn may_act(headers: &HeaderMap) -> bool {
    let names_origin = headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
    names_origin && is_own_origin(headers) && all(headers, SEC_FETCH_SITE, |site| site == "same-origin") && is_json(headers)
}

fn is_own_origin(headers: &HeaderMap) -> bool {
    let own = host(headers).map(|host| format!("http://{host}"));
    all(headers, header::ORIGIN.as_str(), |origin| own.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(origin)))
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let first = types.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    types.next().is_none() && first.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok())
}

fn all(headers: &HeaderMap, name: &str, is: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().map(HeaderValue::to_str).all(|value| value.is_ok_and(&is))
}
