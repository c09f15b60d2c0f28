//! Requests and answers of a forwarded function as .NET's `HttpClient` writes and reads them (`enableForwardingHttpRequest`).

use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPIRES, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, SERVER, TE,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Method};

use crate::wire::invocation;
use crate::wire::push_escape;

/// Headers of one hop, which the client writes itself.
const OF_ONE_HOP: [HeaderName; 5] = [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH, UPGRADE, TE];

/// Headers of the request to the handler, or why the real host fails here.
///
/// A chunked body fails there, and so does a header value that is not ASCII.
pub(crate) fn request(method: &Method, client: &HeaderMap, has_body: bool) -> Result<HeaderMap, &'static str> {
    if client.contains_key(TRANSFER_ENCODING) {
        return Err("the real host cannot forward a chunked body");
    }
    if !client.values().all(|value| value.as_bytes().is_ascii()) {
        return Err("the real host cannot forward a header that is not ASCII");
    }
    if has_body && client.get(CONTENT_TYPE).is_some_and(|value| !is_media_type(value.to_str().unwrap_or_default())) {
        return Err("the real host cannot read the Content-Type");
    }
    let mut headers = HeaderMap::with_capacity(client.keys_len());
    for name in client.keys().filter(|name| !OF_ONE_HOP.contains(name) && (has_body || !is_of_content(name))) {
        let separator = if *name == COOKIE {
            "; "
        } else if *name == USER_AGENT || *name == SERVER {
            " "
        } else {
            ", "
        };
        let values: Vec<_> = client.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(value) = HeaderValue::from_bytes(&values.join(separator.as_bytes())) {
            headers.insert(name, value);
        }
    }
    if !has_body && [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    Ok(headers)
}

/// The query as the real host builds it anew: a key once, its values joined, everything escaped.
pub(crate) fn query(sent: Option<&str>) -> String {
    let mut query = String::new();
    for (name, value) in invocation::query_values(sent) {
        query.push(if query.is_empty() { '?' } else { '&' });
        escape(&mut query, &name);
        query.push('=');
        escape(&mut query, &value);
    }
    query
}

/// Headers of an answer for the client.
pub(crate) fn answer(handler: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(handler.len());
    for (name, value) in handler.iter().filter(|(name, value)| !OF_ONE_HOP.contains(name) && !value.is_empty()) {
        let anew = match value.to_str() {
            Ok(text) if name == LOCATION => HeaderValue::try_from(location(text)).ok(),
            Ok(text) if name == CONTENT_TYPE => HeaderValue::try_from(media_type(text)).ok(),
            _ => None,
        };
        headers.append(name, anew.unwrap_or_else(|| value.clone()));
    }
    headers
}

/// `UrlEncoder.Default`
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            _ if b"!$()*,-.:;@_~".contains(&byte) => out.push(char::from(byte)),
            _ => push_escape(out, byte),
        }
    }
}

fn location(text: &str) -> String {
    let mut location = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            location.push(char::from(byte));
        } else {
            push_escape(&mut location, byte);
        }
    }
    location
}

/// The parameters apart by one blank (`MediaTypeHeaderValue.ToString`).
fn media_type(text: &str) -> String {
    if !is_media_type(text) {
        return text.to_owned();
    }
    let parts: Vec<_> = text.split(';').map(str::trim).collect();
    parts.join("; ")
}

fn is_media_type(text: &str) -> bool {
    let mut parts = text.split(';');
    let is_token =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    let type_and_subtype = parts.next().and_then(|text| text.trim().split_once('/'));
    type_and_subtype.is_some_and(|(kind, subtype)| is_token(kind.trim()) && is_token(subtype.trim()))
        && parts.all(|part| part.split_once('=').is_some_and(|(name, value)| is_token(name.trim()) && !value.trim().is_empty()))
}

/// `HttpContentHeaders` of .NET.
fn is_of_content(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") || *name == ALLOW || *name == EXPIRES || *name == LAST_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_built_anew() {
        for (sent, built) in [
            (None, ""),
            (Some(""), ""),
            (Some("a=1&A=2"), "?A=1,2"),
            (Some("b"), "?b="),
            (Some("x=%20+%2B"), "?x=%20%20%2B"),
            (Some("q=&q=1"), "?q=1"),
            (Some("a=b=c&%C3%A9=%25"), "?a=b%3Dc&%C3%A9=%25"),
        ] {
            assert_eq!(query(sent), built);
        }
    }

    #[test]
    fn media_types_are_those_of_dotnet() {
        for (text, valid) in [
            ("application/json", true),
            ("text/plain;charset=utf-8", true),
            ("application/json;", false),
            ("application/json, text/plain", false),
            ("garbage", false),
        ] {
            assert_eq!(is_media_type(text), valid, "{text}");
        }
    }
}
