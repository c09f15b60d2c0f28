//! The names under which a server of this machine answers.
//!
//! A web page whose name resolves to 127.0.0.1 is of the same origin as a server there (DNS rebinding). Its requests differ from
//! others only by their `Host`.

use hyper::HeaderMap;
use hyper::header::HOST;

/// Whether every `Host` of a request is a name of this machine, or one of `more`. Ports do not matter. A request without `Host`
/// comes from no browser.
pub fn are_local(headers: &HeaderMap, more: &[String]) -> bool {
    headers.get_all(HOST).iter().all(|host| host.to_str().is_ok_and(|host| is_local(host, more)))
}

fn is_local(host: &str, more: &[String]) -> bool {
    let name = if host.ends_with(']') { host } else { host.rsplit_once(':').map_or(host, |(name, _)| name) };
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let is_below_localhost = || name.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case("localhost"));
    ["localhost", "127.0.0.1", "[::1]"].into_iter().any(is) || is_below_localhost() || more.iter().any(|more| is(more))
}
