//! The target and the host of a request as Kestrel, the web server of the real host, reads them.

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::header;
use hyper::{HeaderMap, StatusCode, Version};
use percent_encoding::percent_decode_str;

/// A path with its escapes decoded and its dot segments resolved; `%2F` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    /// Reads the path of a request line. `None`: Kestrel answers 400, to a zero byte and to bytes that are not ASCII.
    pub(super) fn read(path: &str) -> Option<Self> {
        let path = decoded(path)?;
        Some(Self(if path.contains("/.") { without_dot_segments(&path) } else { path }))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for a URL: what is not an escape already and may not stand there is escaped (`PathString.ToUriComponent`).
    pub(super) fn escaped(&self) -> String {
        let bytes = self.0.as_bytes();
        let mut escaped = String::with_capacity(bytes.len());
        for (at, &byte) in bytes.iter().enumerate() {
            let is_escape = || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            match byte {
                b'%' if is_escape() => escaped.push('%'),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(char::from(byte)),
                _ if b"!$&'()*+,-./:;=@_~".contains(&byte) => escaped.push(char::from(byte)),
                _ => crate::wire::push_escape(&mut escaped, byte),
            }
        }
        escaped
    }
}

/// Decodes escapes of valid UTF-8. Others stay, and so does `%2F`, which is no end of a segment.
fn decoded(path: &str) -> Option<String> {
    if !path.is_ascii() {
        return None;
    }
    let mut decoded = String::with_capacity(path.len());
    let mut parts = path.split_inclusive("%2F").flat_map(|part| part.split_inclusive("%2f"));
    parts.try_for_each(|part| {
        let (part, slash) = match part.len().checked_sub(3).and_then(|at| part.split_at_checked(at)) {
            Some((part, slash)) if slash.eq_ignore_ascii_case("%2F") => (part, slash),
            _ => (part, ""),
        };
        let bytes: Cow<[u8]> = percent_decode_str(part).into();
        for chunk in bytes.utf8_chunks() {
            decoded.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| crate::wire::push_escape(&mut decoded, *byte));
        }
        decoded.push_str(slash);
        (!bytes.contains(&0)).then_some(())
    })?;
    Some(decoded)
}

fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    kept.iter().flat_map(|segment| ["/", segment]).collect()
}

/// What is wrong with the `Host` of a request.
///
/// 400: Kestrel refuses it. 500: the real host fails when it makes the URL of an invocation.
pub(super) fn host_mistake(version: Version, headers: &HeaderMap) -> Option<StatusCode> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() || first.is_none() && version != Version::HTTP_10 {
        return Some(StatusCode::BAD_REQUEST);
    }
    let Some(host) = first.map_or(Some(""), |host| host.to_str().ok()) else { return Some(StatusCode::BAD_REQUEST) };
    if host.is_empty() {
        return Some(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_address = |name: &str| name.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) && name.len() > 1;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()".contains(&byte);
    let valid = match name.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(is_address),
        None => !name.is_empty() && name.bytes().all(is_name),
    };
    if !valid || port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Some(StatusCode::BAD_REQUEST);
    }
    let fails = name.contains("..") || port.is_some_and(|port| port.parse::<u16>().is_err());
    fails.then_some(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Whether the `Host` is an IP address, which no web page can make point to another machine.
pub(super) fn is_address(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = if host.ends_with(']') { host } else { host.rsplit_once(':').map_or(host, |(name, _)| name) };
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_and_its_dots_are_resolved() {
        for (sent, read, escaped) in [
            ("/%61pi/%73ame", "/api/same", "/api/same"),
            ("/a%2Fb/%252F", "/a%2Fb/%2F", "/a%2Fb/%2F"),
            ("/a%2Fb%2f%20%C3%A9+%25", "/a%2Fb%2f é+%", "/a%2Fb%2f%20%C3%A9+%25"),
            ("/%zz%FF", "/%zz%FF", "/%25zz%FF"),
            ("/a/./b/../c", "/a/c", "/a/c"),
            ("/a/%2e%2E/b/c/..", "/b/", "/b/"),
            ("/..", "/", "/"),
            ("/a.b/..c", "/a.b/..c", "/a.b/..c"),
            ("/%24%3A%2B%22{", "/$:+\"{", "/$:+%22%7B"),
            ("/%8%/%FF/%C3%A9", "/%8%/%FF/é", "/%258%25/%FF/%C3%A9"),
        ] {
            let path = Path::read(sent).unwrap();
            assert_eq!((path.as_str(), path.escaped().as_str()), (read, escaped), "{sent}");
        }
        assert_eq!(Path::read("/a%00"), None);
        assert_eq!(Path::read("/é"), None);
    }
}
