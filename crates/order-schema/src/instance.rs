//! An order as `jsonschema` looks at it: the value that was read, without a second copy.

use std::borrow::Cow;

use jsonschema::JsonType;
use jsonschema::json::{Array, JsonNumber, Node, NodeIdentity, Object};
use jsonschema_value::LazyInstance;
use serde_json::{Number, Value};
use waybill_domain::json::Json;

/// The representation of orders, for `jsonschema`.
#[derive(Debug)]
pub(crate) struct Instance;

/// Longest text that a mistake keeps, in bytes.
const MAX_NAME: usize = 64;

/// Members of an object, sorted by name.
type Members<'a> = &'a [(Cow<'a, str>, Json<'a>)];

impl jsonschema::json::Json for Instance {
    type Node<'a> = &'a Json<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    // A lookup compares names, about as `jsonschema` assumes of its own objects.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        f(&Json::String(Cow::Borrowed(string)))
    }
}

impl<'a> Node<'a, Instance> for &'a Json<'a> {
    type Object = Members<'a>;
    type Array = &'a [Json<'a>];
    type Number = Digits<'a>;

    fn as_object(&self) -> Option<Members<'a>> {
        if let Json::Object(members) = self { Some(members) } else { None }
    }

    fn as_array(&self) -> Option<&'a [Json<'a>]> {
        if let Json::Array(elements) = self { Some(elements) } else { None }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        if let Json::String(text) = self { Some(Cow::Borrowed(text)) } else { None }
    }

    fn as_number(&self) -> Option<Digits<'a>> {
        if let Json::Number(digits) = self { Some(Digits(digits)) } else { None }
    }

    fn as_boolean(&self) -> Option<bool> {
        if let Json::Bool(value) = self { Some(*value) } else { None }
    }

    fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Json::Null => JsonType::Null,
            Json::Bool(_) => JsonType::Boolean,
            Json::Number(_) => JsonType::Number,
            Json::String(_) => JsonType::String,
            Json::Array(_) => JsonType::Array,
            Json::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match (self, expected) {
            (Json::Null, Value::Null) => true,
            (Json::Bool(value), Value::Bool(expected)) => value == expected,
            (Json::String(text), Value::String(expected)) => text == expected,
            (Json::Number(digits), Value::Number(expected)) => jsonschema::json::cmp::equal_numbers(&Digits(digits), expected),
            (Json::Array(elements), Value::Array(expected)) => {
                elements.len() == expected.len() && elements.iter().zip(expected).all(|(element, expected)| element.equals_value(expected))
            }
            (Json::Object(members), Value::Object(expected)) => {
                members.len() == expected.len()
                    && members.iter().all(|(name, value)| expected.get(&**name).is_some_and(|expected| value.equals_value(expected)))
            }
            _ => false,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(value(self))
    }

    /// The kind of the value without what is in it: a mistake never repeats the order, and each of many mistakes keeps its own copy. A short
    /// text stays, since it may be the name of a member.
    fn lazy_value(&self) -> LazyInstance<'a> {
        LazyInstance::Ready(Cow::Owned(match self {
            Json::String(text) if text.len() <= MAX_NAME => value(self),
            Json::String(_) => Value::String(String::new()),
            Json::Array(_) => Value::Array(Vec::new()),
            Json::Object(_) => Value::Object(serde_json::Map::new()),
            Json::Null | Json::Bool(_) | Json::Number(_) => value(self),
        }))
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(*self).addr()))
    }
}

impl<'a> Object<'a, Instance> for Members<'a> {
    type Node = &'a Json<'a>;
    type MemberName = &'a str;
    type MembersIter =
        std::iter::Map<std::slice::Iter<'a, (Cow<'a, str>, Json<'a>)>, fn(&'a (Cow<'a, str>, Json<'a>)) -> (&'a str, &'a Json<'a>)>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn get(&self, key: &String) -> Option<&'a Json<'a>> {
        self.binary_search_by(|(name, _)| (**name).cmp(key)).ok().map(|at| &self[at].1)
    }

    fn members(&self) -> Self::MembersIter {
        self.iter().map(|(name, value)| (&**name, value))
    }
}

impl<'a> Array<'a, Instance> for &'a [Json<'a>] {
    type Node = &'a Json<'a>;
    type ElementsIter = std::slice::Iter<'a, Json<'a>>;

    fn len(&self) -> usize {
        <[_]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }
}

/// A number by its digits, as they were sent.
#[derive(Debug)]
pub(crate) struct Digits<'a>(&'a str);

impl JsonNumber for Digits<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    fn as_f64(&self) -> Option<f64> {
        self.0.parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    fn to_number(&self) -> Cow<'_, Number> {
        Cow::Owned(number(self.0))
    }

    fn is_integer(&self) -> bool {
        is_written_as_integer(self.0) || jsonschema_value::types::number_is_integer(&number(self.0))
    }

    fn is_written_as_integer(&self) -> bool {
        is_written_as_integer(self.0)
    }
}

fn is_written_as_integer(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

fn number(digits: &str) -> Number {
    // Digits come from JSON that was read; with exact numbers every such text is a number.
    digits.parse().unwrap_or_else(|_| Number::from(0))
}

/// A copy for what can compare only values of `serde_json`.
fn value(json: &Json<'_>) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(digits) => Value::Number(number(digits)),
        Json::String(text) => Value::String(text.as_ref().to_owned()),
        Json::Array(elements) => Value::Array(elements.iter().map(value).collect()),
        Json::Object(members) => Value::Object(members.iter().map(|(name, member)| (name.as_ref().to_owned(), value(member))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use jsonschema::json::conformance::{assert_conformance, document};

    use super::*;

    #[test]
    fn an_order_is_an_instance_as_the_validator_expects() {
        assert_conformance::<Instance>(&&Json::parse(&document().to_string()).unwrap());
    }
}
