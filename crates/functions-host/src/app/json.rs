//! JSON as the host uses its files: keys in any case, any scalar taken as text.
//!
//! The host parses with Newtonsoft and then flattens the tree into .NET configuration, where a key has no case and
//! every value is text (`HostJsonFileConfigurationSource.cs`): `"maxConcurrentCalls": "4"` is the same as `4`.

use std::time::Duration;

use host_json::time_span::time_span;
use serde_json::{Map, Value};

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

/// A scalar as .NET writes it into its configuration, where `true` is `True`.
fn configured(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        other => text(other),
    }
}

/// A document in which no object has a key twice in different case. Of two values the later counts; two objects become one.
pub(super) fn merged(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut one = Map::new();
            for (key, value) in object {
                merge_into(&mut one, key, value);
            }
            Value::Object(one)
        }
        Value::Array(values) => Value::Array(values.into_iter().map(merged).collect()),
        other => other,
    }
}

fn merge_into(object: &mut Map<String, Value>, key: String, value: Value) {
    let same = object.keys().find(|name| name.eq_ignore_ascii_case(&key)).cloned().unwrap_or(key);
    match (object.get_mut(&same), merged(value)) {
        (Some(Value::Object(earlier)), Value::Object(later)) => {
            for (key, value) in later {
                merge_into(earlier, key, value);
            }
        }
        (_, value) => {
            object.insert(same, value);
        }
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
        self.value.and_then(configured).filter(|text| !text.trim().is_empty())
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
    /// an environment variable can hold. `Err` is a value that is none of these, which the host passes over.
    pub(super) fn texts(&self) -> Result<Option<Vec<String>>, String> {
        match self.value {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values.iter().filter_map(configured).collect())),
            Some(Value::Object(values)) => Ok(Some(values.values().filter_map(configured).collect())),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(value) => {
                let values = value.as_str().and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
                values.map(Some).ok_or_else(|| format!("{}: {} is not a list of texts: it is ignored", self.path, self.shown()))
            }
        }
    }

    /// One of the names of a .NET enumeration, in any case, or a number.
    pub(super) fn one_of(&self, names: &[&str]) -> Result<Option<String>, String> {
        self.read(&format!("one of {}", names.join(", ")), |text| {
            let known = text.parse::<i32>().is_ok() || names.iter().any(|name| name.eq_ignore_ascii_case(text));
            known.then(|| text.to_ascii_lowercase())
        })
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
    fn keys_that_differ_in_case_are_one_and_the_later_value_counts() {
        let value = json!({"a": {"B": 1, "c": [{"d": 1, "D": 2}]}, "A": {"b": 2, "e": null}, "f": {}, "F": 1});

        assert_eq!(merged(value), json!({"a": {"B": 2, "c": [{"d": 2}], "e": null}, "f": 1}));
    }

    #[test]
    fn a_key_is_found_in_any_case() {
        let value = json!({"Extensions": {"HTTP": {"routePrefix": ""}}});

        assert_eq!(Node::root(&value).at("extensions.http.routeprefix").value, Some(&json!("")));
    }
}
