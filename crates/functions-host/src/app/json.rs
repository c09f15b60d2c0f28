//! JSON as the host reads its files: comments allowed, keys in any case, any scalar taken as text.
//!
//! The host parses with Newtonsoft and then flattens the tree into .NET configuration, where a key has no case and
//! every value is text (`HostJsonFileConfigurationSource.cs`): `"maxConcurrentCalls": "4"` is the same as `4`.

use std::time::Duration;

use serde_json::Value;

use crate::trigger::timer::schedule::time_span;

/// A place in a JSON document: the value found there, if any, with the dotted path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) path: String,
    pub(super) value: Option<&'a Value>,
}

/// A .NET time span: the size, with the sign kept apart because a negative one means "no limit" wherever it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeSpan {
    Positive(Duration),
    Negative,
}

/// Parses the text of a file; the error is "invalid JSON at line 3, column 5: …".
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(&blank_comments(text)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        format!("invalid JSON at line {line}, column {column}: {reason}")
    })
}

/// Replaces `//` and `/* */` comments outside strings by spaces, so that lines and columns stay where they were.
fn blank_comments(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['"', '/']) {
        let (before, found) = rest.split_at(start);
        output.push_str(before);
        let (length, comment) = if found.starts_with("//") {
            (found.find('\n').unwrap_or(found.len()), true)
        } else if found.starts_with("/*") {
            (found.find("*/").map_or(found.len(), |end| end + 2), true)
        } else if found.starts_with('"') {
            (string_length(found), false)
        } else {
            (1, false)
        };
        let (token, after) = found.split_at(length);
        if comment {
            output.extend(token.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        } else {
            output.push_str(token);
        }
        rest = after;
    }
    output + rest
}

/// The length in bytes of the JSON string at the start of `text`, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The value of a key, in any case; an exact match wins.
pub(super) fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(key).or_else(|| {
        let mut same = object.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key));
        same.next().map(|(_, value)| value)
    })
}

/// A scalar as text; `None` for null, objects and arrays.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Node<'a> {
        Node { path: String::new(), value: Some(value) }
    }

    pub(super) fn child(&self, key: &str) -> Node<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Node { path, value: self.value.and_then(|value| find(value, key)).filter(|value| !value.is_null()) }
    }

    /// The node at a dotted path below this one.
    pub(super) fn at(&self, path: &str) -> Node<'a> {
        path.split('.').fold(self.clone(), |node, key| node.child(key))
    }

    /// Text that is not blank.
    pub(super) fn text(&self) -> Option<String> {
        self.value.and_then(text).filter(|text| !text.trim().is_empty())
    }

    pub(super) fn boolean(&self) -> Result<Option<bool>, String> {
        self.read("true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    pub(super) fn integer(&self) -> Result<Option<i64>, String> {
        self.read("a whole number", |text| text.parse().ok())
    }

    pub(super) fn time_span(&self) -> Result<Option<TimeSpan>, String> {
        self.read("a time span such as 00:05:00", |text| match text.strip_prefix('-') {
            Some(size) => time_span(size).map(|_| TimeSpan::Negative),
            None => time_span(text).map(TimeSpan::Positive),
        })
    }

    /// A list of texts: an array, an object with the keys 0, 1, …, or a JSON array written as one string, which is what
    /// an environment variable can hold.
    pub(super) fn texts(&self) -> Result<Option<Vec<String>>, String> {
        let error = || format!("{}: {} is not a list of texts", self.path, self.shown());
        let list = |values: &mut dyn Iterator<Item = &Value>| values.map(text).collect::<Option<Vec<_>>>();
        match self.value {
            None => Ok(None),
            Some(Value::Array(values)) => list(&mut values.iter()).map(Some).ok_or_else(error),
            Some(Value::Object(values)) => list(&mut values.values()).map(Some).ok_or_else(error),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(value) => {
                let values = value.as_str().and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
                values.map(Some).ok_or_else(error)
            }
        }
    }

    /// Reads a value; the error names its path and the expected form.
    fn read<T>(&self, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        let Some(value) = self.value else {
            return Ok(None);
        };
        match text(value) {
            Some(text) if text.trim().is_empty() => Ok(None),
            Some(text) => parse(text.trim()).map(Some).ok_or(()),
            None => Err(()),
        }
        .map_err(|()| format!("{}: {} is not {expected}", self.path, self.shown()))
    }

    fn shown(&self) -> String {
        self.value.map(Value::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_are_blanked_and_strings_are_kept() {
        let text = "{ // one \"quote\n  \"url\": \"http://x/*y*/\\\"//\", /* two\n lines */ \"n\": 1 }";

        assert_eq!(parse(text).unwrap(), json!({"url": "http://x/*y*/\"//", "n": 1}));
    }

    #[test]
    fn a_mistake_after_a_comment_keeps_its_line_and_column() {
        let error = parse("{\n  /* é */ \"a\": x\n}").unwrap_err();

        assert_eq!(error, "invalid JSON at line 2, column 16: expected value");
    }

    #[test]
    fn an_unfinished_comment_or_string_is_an_error_not_a_panic() {
        for text in ["{ /*", "{ \"a", "{ //", "\"\\", "/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse("\u{feff}{}").unwrap(), json!({}));
    }

    #[test]
    fn a_key_is_found_in_any_case() {
        let value = json!({"Extensions": {"HTTP": {"routePrefix": ""}}});

        assert_eq!(Node::root(&value).at("extensions.http.routeprefix").value, Some(&json!("")));
    }
}
