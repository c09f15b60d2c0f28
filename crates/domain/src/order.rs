//! An order as a customer sends it: checked once on arrival, and trusted from there on.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{self, Json};

/// Longest `orderId` and `customerId`, in characters.
pub const MAX_ID: usize = 128;
/// Longest `sku`, in characters.
pub const MAX_SKU: usize = 64;
/// Longest `note`, in characters.
pub const MAX_NOTE: usize = 2_000;
/// Most lines in one order: with every line at its longest, the message still fits the queue.
pub const MAX_ITEMS: usize = 500;
/// Largest `quantity` of one line.
pub const MAX_QUANTITY: u64 = 1_000_000;
/// Largest `unitPrice`, in units of the currency.
pub const MAX_UNIT_PRICE: u64 = 1_000_000_000;
/// Most decimal places of a `unitPrice`: as many as price lists use (fuel, components), and exact in every later step.
pub const MAX_PRICE_SCALE: u32 = 6;
/// Replacement that UTF-8 readers, such as the Functions host, put in place of invalid bytes.
const REPLACEMENT: char = '\u{fffd}';
/// Error text for a string with U+FFFD: two different texts may have become this one.
const NOT_UTF8: &str = "this text was not UTF-8, or contains U+FFFD, which replaces invalid bytes; send it as UTF-8";
/// Longest JSON pointer, in bytes: one answer holds up to a hundred pointers.
const MAX_POINTER: usize = 1_000;
/// Most mistakes in one answer; a text with more is not a mistyped order.
pub(crate) const MAX_VIOLATIONS: usize = 100;

/// The names that a customer gave an order: they tell orders apart, and people look for an order by them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    /// The customer's own number of the order; empty where orders have none.
    pub order_id: String,
    /// The customer; empty where orders name none.
    pub customer_id: String,
}

impl Names {
    /// `orderId` and `customerId` of a recorded order; empty where it has none.
    pub fn of(order: &RawValue) -> Self {
        serde_json::from_str(order.get()).unwrap_or_default()
    }
}

/// A valid order. Unknown fields are only in the text that the record keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The customer's own number of the order.
    pub order_id: String,
    /// The customer.
    pub customer_id: String,
    /// Currency: ISO 4217, three capital letters.
    pub currency: String,
    /// Lines, at least one.
    pub items: Vec<Item>,
    /// Note for people.
    pub note: Option<String>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The article.
    pub sku: String,
    /// Quantity.
    pub quantity: u64,
    /// Exact price of one unit, 0 to [`MAX_UNIT_PRICE`].
    pub unit_price: Decimal,
}

/// One mistake of an order, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A JSON pointer into the body as it was sent (RFC 6901), e.g. `/items/0/quantity`; empty for the whole.
    pub pointer: String,
    /// Error text: what to change.
    pub detail: String,
}

impl Order {
    /// Checks a whole order and reports all mistakes together.
    pub fn read(json: &Json<'_>) -> Result<Self, Vec<Violation>> {
        let mut check = Check::begin(json)?;
        let order = Self {
            order_id: check.text(json, "", "orderId", MAX_ID),
            customer_id: check.text(json, "", "customerId", MAX_ID),
            currency: check.currency(json),
            items: check.items(json),
            note: check.note(json),
        };
        check.end(order)
    }
}

/// Place of a value in the order. Becomes a pointer only for a mistake, since one long key may be above many values.
enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    /// JSON pointer of the place; if too long, the pointer of the nearest place above that is not.
    fn pointer(&self) -> String {
        let (above, last) = match self {
            Self::Root => return String::new(),
            Self::Key(above, key) if key.len() > MAX_POINTER => return above.pointer(),
            Self::Key(above, key) => (above, key.replace('~', "~0").replace('/', "~1")),
            Self::Index(above, index) => (above, index.to_string()),
        };
        let mut pointer = above.pointer();
        if pointer.len() + last.len() < MAX_POINTER {
            pointer.push('/');
            pointer.push_str(&last);
        }
        pointer
    }
}

/// The pointer itself; if too long, the pointer of the nearest place above that is not.
pub(crate) fn nearest(mut pointer: String) -> String {
    while pointer.len() >= MAX_POINTER {
        pointer.truncate(pointer.rfind('/').unwrap_or(0));
    }
    pointer
}

/// Sort key of a pointer: `/items/2` before `/items/10`.
fn natural(pointer: &str) -> Vec<(u64, String)> {
    pointer.split('/').map(|part| (part.parse().unwrap_or(u64::MAX), part.to_owned())).collect()
}

/// The mistakes that were found in an order so far.
pub(crate) struct Check {
    violations: Vec<Violation>,
}

impl Check {
    pub(crate) fn new() -> Self {
        Self { violations: Vec::new() }
    }

    /// Whether a mistake was found at this place.
    pub(crate) fn has(&self, pointer: &str) -> bool {
        self.violations.iter().any(|violation| violation.pointer == pointer)
    }

    /// Checks what holds for an order of any form.
    pub(crate) fn begin(json: &Json<'_>) -> Result<Self, Vec<Violation>> {
        let mut check = Self::new();
        if !matches!(json, Json::Object(_)) {
            check.fail("", format!("must be a JSON object, not {}", json.kind()));
            return Err(check.violations);
        }
        check.everywhere(&Place::Root, json);
        Ok(check)
    }

    /// `read`, unless there were mistakes.
    pub(crate) fn end<T>(mut self, read: T) -> Result<T, Vec<Violation>> {
        self.violations.sort_by_cached_key(|violation| natural(&violation.pointer));
        self.violations.truncate(MAX_VIOLATIONS);
        if self.violations.is_empty() { Ok(read) } else { Err(self.violations) }
    }

    pub(crate) fn fail(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.violations.push(Violation { pointer: pointer.into(), detail: detail.into() });
    }

    /// Checks for every value, in known and unknown fields: no duplicate key, no absurd number, no text damaged in transit.
    fn everywhere(&mut self, place: &Place<'_>, json: &Json<'_>) {
        if self.violations.len() >= MAX_VIOLATIONS {
            return;
        }
        match json {
            Json::Object(members) => {
                for same in members.chunk_by(|(a, _), (b, _)| a == b).filter(|same| same.len() > 1) {
                    self.fail(Place::Key(place, &same[0].0).pointer(), "this key is here more than once; keep one");
                }
                for (key, value) in members {
                    if key.contains(REPLACEMENT) {
                        self.fail(Place::Key(place, key).pointer(), NOT_UTF8);
                    }
                    self.everywhere(&Place::Key(place, key), value);
                }
            }
            Json::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.everywhere(&Place::Index(place, index), element);
                }
            }
            Json::Number(digits) => {
                if !json::is_readable_number(digits) {
                    self.fail(place.pointer(), "this number is too large or too long");
                }
            }
            Json::String(text) if text.contains(REPLACEMENT) => self.fail(place.pointer(), NOT_UTF8),
            Json::String(_) | Json::Null | Json::Bool(_) => {}
        }
    }

    fn text(&mut self, parent: &Json<'_>, at: &str, name: &str, max: usize) -> String {
        self.text_at(format!("{at}/{name}"), parent.member(name), max)
    }

    /// The text that was found at a place.
    pub(crate) fn text_at(&mut self, pointer: String, found: Option<&Json<'_>>, max: usize) -> String {
        match found {
            None => self.fail(pointer, format!("is missing; send a string of 1 to {max} characters")),
            Some(Json::String(text)) if text.trim().is_empty() => self.fail(pointer, "must not be empty"),
            Some(Json::String(text)) if text.chars().count() > max => {
                self.fail(pointer, format!("must have at most {max} characters"));
            }
            Some(Json::String(text)) if text.chars().any(char::is_control) => {
                self.fail(pointer, "must not contain control characters");
            }
            Some(Json::String(text)) => return text.clone().into_owned(),
            Some(other) => self.fail(pointer, format!("must be a string, not {}", other.kind())),
        }
        String::new()
    }

    fn currency(&mut self, order: &Json<'_>) -> String {
        match order.member("currency") {
            Some(Json::String(text)) if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                return text.clone().into_owned();
            }
            None => self.fail("/currency", "is missing; send three capital letters such as \"EUR\""),
            Some(_) => self.fail("/currency", "must be three capital letters such as \"EUR\""),
        }
        String::new()
    }

    fn note(&mut self, order: &Json<'_>) -> Option<String> {
        match order.member("note") {
            Some(Json::String(text)) if text.chars().count() > MAX_NOTE => {
                self.fail("/note", format!("must have at most {MAX_NOTE} characters"));
            }
            Some(Json::String(text)) => return Some(text.clone().into_owned()),
            None | Some(Json::Null) => {}
            Some(other) => self.fail("/note", format!("must be a string, not {}", other.kind())),
        }
        None
    }

    fn items(&mut self, order: &Json<'_>) -> Vec<Item> {
        match order.member("items") {
            None => self.fail("/items", "is missing; send an array of at least one item"),
            Some(Json::Array(items)) if items.is_empty() => self.fail("/items", "must have at least one item"),
            Some(Json::Array(items)) if items.len() > MAX_ITEMS => {
                self.fail("/items", format!("must have at most {MAX_ITEMS} items; split the order"));
            }
            Some(Json::Array(items)) => {
                return items.iter().enumerate().map(|(index, item)| self.item(index, item)).collect();
            }
            Some(other) => self.fail("/items", format!("must be an array, not {}", other.kind())),
        }
        Vec::new()
    }

    fn item(&mut self, index: usize, item: &Json<'_>) -> Item {
        let at = format!("/items/{index}");
        if !matches!(item, Json::Object(_)) {
            self.fail(at, format!("must be an object with sku, quantity and unitPrice, not {}", item.kind()));
            return Item { sku: String::new(), quantity: 0, unit_price: Decimal::ZERO };
        }
        Item { sku: self.text(item, &at, "sku", MAX_SKU), quantity: self.quantity(item, &at), unit_price: self.unit_price(item, &at) }
    }

    fn quantity(&mut self, item: &Json<'_>, at: &str) -> u64 {
        let pointer = format!("{at}/quantity");
        match item.member("quantity") {
            None => self.fail(pointer, format!("is missing; send a whole number from 1 to {MAX_QUANTITY}")),
            Some(Json::Number(digits)) => {
                // `2.0` means two; `2.5` is an error.
                match decimal(digits).map(|number| number.normalize()) {
                    Some(number) if number.scale() == 0 && number >= Decimal::ONE && number <= Decimal::from(MAX_QUANTITY) => {
                        return u64::try_from(number).unwrap_or(0);
                    }
                    _ => self.fail(pointer, format!("must be a whole number from 1 to {MAX_QUANTITY}")),
                }
            }
            Some(other) => self.fail(pointer, format!("must be a whole number, not {}", other.kind())),
        }
        0
    }

    fn unit_price(&mut self, item: &Json<'_>, at: &str) -> Decimal {
        let pointer = format!("{at}/unitPrice");
        match item.member("unitPrice") {
            None => self.fail(pointer, "is missing; send a decimal such as \"19.90\""),
            Some(Json::Number(digits) | Json::String(digits)) => match decimal(digits).map(|number| number.normalize()) {
                Some(price) if price.is_sign_negative() && !price.is_zero() => self.fail(pointer, "must not be negative"),
                Some(price) if price > Decimal::from(MAX_UNIT_PRICE) => {
                    self.fail(pointer, format!("must be at most {MAX_UNIT_PRICE}"));
                }
                Some(price) if price.scale() > MAX_PRICE_SCALE => {
                    self.fail(pointer, format!("must have at most {MAX_PRICE_SCALE} decimal places"));
                }
                Some(price) => return price,
                None => self.fail(pointer, format!("must be a decimal from 0 to {MAX_UNIT_PRICE} such as \"19.90\"")),
            },
            Some(other) => self.fail(pointer, format!("must be a decimal such as \"19.90\", not {}", other.kind())),
        }
        Decimal::ZERO
    }
}

/// An exact decimal; `None` for a number that would be rounded.
fn decimal(digits: &str) -> Option<Decimal> {
    // A string must match the grammar of a JSON number too.
    digits.parse::<serde_json::Number>().ok()?;
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let exponent = exponent.parse::<i32>().ok().filter(|exponent| exponent.unsigned_abs() <= json::MAX_EXPONENT)?;
    let mut number = Decimal::from_str_exact(mantissa).ok()?.normalize();
    if number.is_zero() {
        return Some(Decimal::ZERO);
    }
    let scale = i64::from(number.scale()) - i64::from(exponent);
    if let Ok(scale) = u32::try_from(scale) {
        number.set_scale(scale).ok()?;
        return Some(number);
    }
    number.set_scale(0).ok()?;
    let power = 10_u64.checked_pow(u32::try_from(-scale).ok()?)?;
    number.checked_mul(Decimal::from(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_exact_or_nothing() {
        for (text, expected) in [
            ("19.90", Some("19.90")),
            ("1990e-2", Some("19.90")),
            ("1.5E3", Some("1500")),
            ("1e18", Some("1000000000000000000")),
            ("0e400", Some("0")),
            ("-0.0", Some("0")),
            ("1e29", None),
            ("1e-29", None),
            ("1e-2147483648", None),
            ("1.00000000000000000000000000000000001e0", None),
            ("1.00000000000000000000000000000000001", None),
            ("0x10", None),
            ("+1", None),
            (" 1", None),
        ] {
            assert_eq!(decimal(text), expected.map(|expected| expected.parse().unwrap()), "{text}");
        }
    }
}
