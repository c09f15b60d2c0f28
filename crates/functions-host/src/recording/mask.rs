//! Secrets in what is recorded: headers and query parameters that let a caller in are masked. Bodies are kept as they are.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// What takes the place of a secret.
pub(crate) const MASKED: &str = "MASKED";
/// Headers whose values are secrets, in small letters.
const HEADERS: [&str; 10] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-functions-key",
    "x-zumo-auth",
    "ocp-apim-subscription-key",
    "api-key",
    "x-api-key",
    "x-auth-token",
];
/// Beginning of the headers in which App Service passes on the tokens of a caller.
const TOKENS: &str = "x-ms-token-";
/// Parameters of a query whose values are secrets, in any case.
const PARAMETERS: [&str; 7] = ["code", "sig", "subscription-key", "access_token", "api_key", "api-key", "apikey"];

/// The value of a header as it may be kept.
pub(super) fn header<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    if is_secret(name) { MASKED.into() } else { url(value) }
}

/// A URL, or any text with a query, as it may be kept.
pub(super) fn url(text: &str) -> Cow<'_, str> {
    let Some((path, rest)) = text.split_once('?') else { return text.into() };
    let (query, fragment) = rest.find('#').map_or((rest, ""), |at| rest.split_at(at));
    let masked = |pair: &str| {
        let (name, _) = pair.split_once('=').filter(|(name, value)| is_parameter(name) && !value.is_empty())?;
        Some(format!("{name}={MASKED}"))
    };
    if query.split('&').all(|pair| masked(pair).is_none()) {
        return text.into();
    }
    let pairs: Vec<_> = query.split('&').map(|pair| masked(pair).map_or(Cow::Borrowed(pair), Cow::Owned)).collect();
    format!("{path}?{}{fragment}", pairs.join("&")).into()
}

/// The body of an invocation as it may be kept: as it was, unless it has a secret.
pub(super) fn envelope(text: String) -> String {
    rewritten(text, |envelope| {
        let mut secret_parameters = Vec::new();
        let mut is_changed = false;
        for input in members(envelope.get_mut("Data")) {
            is_changed |= headers(input.get_mut("Headers"));
            is_changed |= parameters(input.get_mut("Query"), &mut secret_parameters);
            is_changed |= in_place(input.get_mut("Url"), url);
        }
        let Some(metadata) = envelope.get_mut("Metadata") else { return is_changed };
        is_changed |= headers(metadata.get_mut("Headers"));
        is_changed |= parameters(metadata.get_mut("Query"), &mut secret_parameters);
        // The host gives each parameter a member of its own, as JSON inside a text.
        for name in secret_parameters {
            is_changed |= in_place(metadata.get_mut(&name), |_| format!("\"{MASKED}\"").into());
        }
        is_changed
    })
}

/// The body of an answer to an invocation as it may be kept: as it was, unless one of its responses has a secret header or a cookie.
pub(super) fn answer(text: String) -> String {
    rewritten(text, |answer| {
        let mut is_changed = response(answer.get_mut("ReturnValue"));
        for output in members(answer.get_mut("Outputs")) {
            is_changed |= response(Some(output));
        }
        is_changed
    })
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    HEADERS.contains(&name.as_str()) || name.starts_with(TOKENS)
}

fn is_parameter(name: &str) -> bool {
    let name = percent_decode_str(name).decode_utf8_lossy();
    PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// The text with a change in its JSON, or the text itself.
fn rewritten(text: String, change: impl FnOnce(&mut Value) -> bool) -> String {
    let Ok(mut json) = serde_json::from_str::<Value>(&text) else { return text };
    if change(&mut json) { json.to_string() } else { text }
}

fn members(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_object_mut).into_iter().flat_map(|members| members.values_mut())
}

/// Masks each header of an object, whose value is a text or a list of them. Whether one was masked.
fn headers(object: Option<&mut Value>) -> bool {
    let mut is_changed = false;
    for (name, value) in object.and_then(Value::as_object_mut).into_iter().flatten() {
        let values: &mut [Value] = match value {
            Value::Array(values) => values,
            value => std::slice::from_mut(value),
        };
        for value in values {
            is_changed |= in_place(Some(value), |text| header(name, text));
        }
    }
    is_changed
}

/// Masks each parameter of an object, and notes the names of those that are secret. Whether one was masked.
fn parameters(object: Option<&mut Value>, secret: &mut Vec<String>) -> bool {
    let mut is_changed = false;
    for (name, value) in object.and_then(Value::as_object_mut).into_iter().flatten().filter(|(name, _)| is_parameter(name)) {
        secret.push(name.clone());
        is_changed |= in_place(Some(value), |text| if text.is_empty() { text.into() } else { MASKED.into() });
    }
    is_changed
}

/// Masks the headers and cookies of a response. Whether there were any.
fn response(response: Option<&mut Value>) -> bool {
    let mut is_changed = false;
    for (name, value) in response.and_then(Value::as_object_mut).into_iter().flatten() {
        if name.eq_ignore_ascii_case("headers") {
            is_changed |= headers(Some(value));
        } else if name.eq_ignore_ascii_case("cookies") {
            for cookie in value.as_array_mut().into_iter().flatten() {
                is_changed |= in_place(cookie.get_mut("value"), |_| MASKED.into());
            }
        }
    }
    is_changed
}

fn in_place(value: Option<&mut Value>, mask: impl FnOnce(&str) -> Cow<'_, str>) -> bool {
    let Some(text) = value.and_then(|value| if let Value::String(text) = value { Some(text) } else { None }) else { return false };
    let masked = mask(text).into_owned();
    let is_changed = masked != *text;
    *text = masked;
    is_changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_query_are_masked_and_nothing_else() {
        for (text, kept) in [
            ("/api/x?code=s3cret&a=1", "/api/x?code=MASKED&a=1"),
            ("http://h/x?a=1&CODE=s#code=2", "http://h/x?a=1&CODE=MASKED#code=2"),
            ("/x?c%6Fde=s", "/x?c%6Fde=MASKED"),
            ("/x?code=", "/x?code="),
            ("/x?encode=1&codes=2", "/x?encode=1&codes=2"),
            ("code=1", "code=1"),
        ] {
            assert_eq!(url(text), kept);
        }
    }

    #[test]
    fn an_envelope_without_a_secret_stays_as_it_is() {
        let text = r#"{"Data":{"req":{"Url":"http://h/x?a=1","Query":{"a":"1"},"Headers":{"X":["1"]},"Body":"{\"authorization\":\"b\"}"}},"Metadata":{ "n":1.50 }}"#;
        assert_eq!(envelope(text.to_owned()), text);
    }

    #[test]
    fn every_place_of_a_secret_is_masked() {
        let text = r#"{"Data":{"req":{"Url":"http://h/x?code=s3cret","Query":{"code":"s3cret"},"Headers":{"Authorization":["Bearer s3cret"],"x-ms-token-aad-id-token":["s3cret"],"Referer":["http://h/?code=s3cret"]},"Body":"b"}},"Metadata":{"code":"\"s3cret\"","Query":{"code":"s3cret"},"Headers":{"Cookie":"s3cret"}}}"#;
        let kept = envelope(text.to_owned());
        assert!(!kept.contains("s3cret") && kept.contains(r#""Body":"b""#), "{kept}");

        let text = r#"{"Outputs":{"res":{"headers":{"set-cookie":"s3cret"},"cookies":[{"name":"a","value":"s3cret"}]}},"ReturnValue":{"Headers":{"X-Api-Key":"s3cret"}}}"#;
        let kept = answer(text.to_owned());
        assert!(!kept.contains("s3cret") && kept.contains(r#""name":"a""#), "{kept}");
    }
}
