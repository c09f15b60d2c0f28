//! The form of an order here: what its text must be, and where its number and its customer stand in it.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::json::Json;
use crate::order::{Check, MAX_ID, MAX_VIOLATIONS, Names, Order, Violation, nearest};

/// What an order must be, and how the engine knows one from another.
#[derive(Debug, Clone)]
pub enum OrderForm {
    /// The built-in order, which [`Order::read`] checks.
    BuiltIn,
    /// An order of the deployment's own: a JSON object.
    Own(OwnForm),
}

/// What an order of the deployment's own must be, and where it has what the engine needs.
#[derive(Debug, Clone)]
pub struct OwnForm {
    /// The rules besides those of every order. `None`: any object will do.
    pub rules: Option<Arc<dyn Rules>>,
    /// The order's number. `None`: orders have none, and each request needs an `Idempotency-Key`.
    pub order_id: Option<Pointer>,
    /// The customer. `None`: orders name none, and the numbers of one caller are distinct.
    pub customer: Option<Pointer>,
}

/// Rules of a deployment for its orders, such as a JSON Schema.
pub trait Rules: fmt::Debug + Send + Sync {
    /// The first mistakes of an order, at most this number. The order has no key twice, and no number that every order is refused for.
    fn mistakes(&self, order: &Json<'_>, most: usize) -> Vec<Violation>;

    /// The documents in which the rules are written, each with its name; the first is the order's own.
    fn documents(&self) -> &[(String, serde_json::Value)];
}

/// An order that may be recorded.
#[derive(Debug)]
pub struct ReadOrder {
    /// The text, without white space at either end.
    pub text: Arc<RawValue>,
    /// [`Json::fingerprint`] of the order.
    pub fingerprint: [u8; 32],
    /// Number and customer.
    pub names: Names,
}

/// Why a text is no order.
#[derive(Debug)]
pub enum Unacceptable {
    /// The text is not JSON, for this reason.
    NotJson(String),
    /// The JSON has these mistakes.
    Invalid(Vec<Violation>),
}

impl OrderForm {
    /// Reads an order, or lists all of its mistakes.
    pub fn read(&self, text: &str) -> Result<ReadOrder, Unacceptable> {
        let not_json = |error: serde_json::Error| Unacceptable::NotJson(error.to_string());
        let json = Json::parse(text).map_err(not_json)?;
        let names = match self {
            Self::BuiltIn => Order::read(&json).map(|order| Names { order_id: order.order_id, customer_id: order.customer_id }),
            Self::Own(form) => form.read(&json),
        };
        let names = names.map_err(Unacceptable::Invalid)?;
        let text = serde_json::from_str::<&RawValue>(text.trim_ascii()).map_err(not_json)?.to_owned().into();
        Ok(ReadOrder { text, fingerprint: json.fingerprint(), names })
    }

    /// The names that make two orders the same, in words for a client: `customerId and orderId`.
    pub fn identity(&self) -> String {
        match self {
            Self::BuiltIn => "customerId and orderId".into(),
            Self::Own(OwnForm { customer: Some(customer), .. }) => format!("{customer} and {}", self.number()),
            Self::Own(_) => self.number(),
        }
    }

    /// The place of an order's number, in words for a client: `orderId`.
    pub fn number(&self) -> String {
        match self {
            Self::Own(OwnForm { order_id: Some(order_id), .. }) => order_id.to_string(),
            Self::Own(_) | Self::BuiltIn => "orderId".into(),
        }
    }
}

impl OwnForm {
    fn read(&self, json: &Json<'_>) -> Result<Names, Vec<Violation>> {
        let mut check = Check::begin(json)?;
        if let Some(rules) = &self.rules {
            check.follow(&**rules, json)?;
        }
        let mut name = |pointer: &Option<Pointer>| pointer.as_ref().map_or_else(String::new, |pointer| check.name(pointer, json));
        let names = Names { order_id: name(&self.order_id), customer_id: name(&self.customer) };
        check.end(names)
    }
}

impl Check {
    /// Checks the rules, unless there were mistakes before: a text that breaks the limits of every order may be slow to check.
    fn follow(&mut self, rules: &dyn Rules, json: &Json<'_>) -> Result<(), Vec<Violation>> {
        std::mem::replace(self, Self::new()).end(())?;
        for Violation { pointer, detail } in rules.mistakes(json, MAX_VIOLATIONS) {
            self.fail(nearest(pointer), detail);
        }
        Ok(())
    }

    /// A text that names something, or a whole number in digits alone.
    fn name(&mut self, pointer: &Pointer, order: &Json<'_>) -> String {
        match pointer.find(order) {
            Some(Json::Number(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.clone().into_owned(),
            // Once is enough.
            _ if self.has(&pointer.to_string()) => String::new(),
            found => self.text_at(pointer.to_string(), found, MAX_ID),
        }
    }
}

/// A JSON pointer to a value within an order (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer. `None` for a text that is none, or that points to the whole.
    pub fn parse(text: &str) -> Option<Self> {
        let parts = text.strip_prefix('/')?.split('/').map(|part| {
            let escapes_are_known = part.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            escapes_are_known.then(|| part.replace("~1", "/").replace("~0", "~"))
        });
        parts.collect::<Option<_>>().map(Self)
    }

    /// The keys and indexes on the way.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// The value there.
    fn find<'j, 'a>(&self, json: &'j Json<'a>) -> Option<&'j Json<'a>> {
        self.0.iter().try_fold(json, |json, part| match json {
            // An index has one spelling only (RFC 6901 section 4).
            Json::Array(elements) if part == "0" || !part.starts_with(['0', '+']) => elements.get(part.parse::<usize>().ok()?),
            _ => json.member(part),
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(order_id: &str, customer: &str) -> OrderForm {
        OrderForm::Own(OwnForm { order_id: Pointer::parse(order_id), customer: Pointer::parse(customer), rules: None })
    }

    fn names(form: &OrderForm, text: &str) -> (String, String) {
        let names = form.read(text).unwrap().names;
        (names.order_id, names.customer_id)
    }

    fn mistakes(form: &OrderForm, text: &str) -> Vec<(String, String)> {
        let Err(Unacceptable::Invalid(violations)) = form.read(text) else { panic!("{text}") };
        violations.into_iter().map(|violation| (violation.pointer, violation.detail)).collect()
    }

    #[test]
    fn names_are_found_by_pointer() {
        let of = |order_id, customer, text| names(&form(order_id, customer), text);

        assert_eq!(of("/job/0/id", "/a~1b~0", r#"{"job":[{"id":"r"}],"a/b~":"c"}"#), ("r".into(), "c".into()));
        assert_eq!(of("/id", "/0", r#"{"id":10000000000000000000001,"0":"c"}"#), ("10000000000000000000001".into(), "c".into()));
        assert_eq!(of("none", "none", r#"{"anything":1}"#), (String::new(), String::new()));
    }

    #[test]
    fn every_mistake_is_listed_by_place() {
        let found = mistakes(&form("/job/id", "/from"), r#"{"job":{"id":1.5},"x":1e999,"x":2}"#);

        assert_eq!(found.iter().map(|(pointer, _)| pointer.as_str()).collect::<Vec<_>>(), ["/from", "/job/id", "/x", "/x"]);
        assert_eq!(mistakes(&form("/job/01", "/0/"), r#"{"job":["a","b"],"0":{}}"#).len(), 2);
        assert_eq!(mistakes(&form("/id", "/from"), "[]"), [(String::new(), "must be a JSON object, not an array".into())]);
    }

    #[test]
    fn a_pointer_has_one_spelling() {
        for text in ["", "a", "/~", "/~2", "/a~"] {
            assert_eq!(Pointer::parse(text), None, "{text}");
        }
        for text in ["/", "/a//b", "/~01", "/a~1b"] {
            assert_eq!(Pointer::parse(text).unwrap().to_string(), text);
        }
    }
}
