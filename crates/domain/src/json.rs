//! JSON text of a customer: numbers keep their digits, duplicate keys stay visible.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// Deepest nesting that is accepted: no order needs more, and every later reader of the order would have to cope with it.
pub const MAX_DEPTH: usize = 32;

/// Longest number that is accepted, in characters; a longer one is a mistake or an attack.
const MAX_NUMBER: usize = 64;
/// Largest exponent of a number that is accepted, positive or negative; a larger one is beyond a double, and a mistake.
pub const MAX_EXPONENT: u32 = 400;

/// The key under which `serde_json` hands over a number's own digits (its feature `arbitrary_precision`).
const NUMBER_TOKEN: &str = "$serde_json::private::Number";

/// One JSON value, borrowing from the text where it can.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Number, with its digits as sent.
    Number(Cow<'a, str>),
    /// String, unescaped.
    String(Cow<'a, str>),
    /// Array, elements in order.
    Array(Vec<Json<'a>>),
    /// Object, members sorted by key; a key that was sent twice is here twice.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads one JSON text. The error is `serde_json`'s, with line and column.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let json = Tree { depth: 0 }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(json)
    }

    /// The member of this name, if this is an object that has it.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok().map(|at| &members[at].1)
    }

    /// Kind of this value, in words for an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Whether each number in it is one that readers can be expected to read.
    pub fn has_readable_numbers(&self) -> bool {
        match self {
            Self::Number(digits) => is_readable_number(digits),
            Self::Array(elements) => elements.iter().all(Self::has_readable_numbers),
            Self::Object(members) => members.iter().all(|(_, value)| value.has_readable_numbers()),
            Self::Null | Self::Bool(_) | Self::String(_) => true,
        }
    }

    /// SHA-256 over a canonical form: keys sorted, numbers as exact decimals, without white space and escapes.
    /// Two texts have the same fingerprint exactly when they mean the same JSON.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.feed(&mut hash);
        hash.finalize().into()
    }

    fn feed(&self, hash: &mut Sha256) {
        let text = |hash: &mut Sha256, tag: u8, text: &str| {
            hash.update([tag]);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        match self {
            Self::Null => hash.update(b"n"),
            Self::Bool(value) => hash.update(if *value { b"t" } else { b"f" }),
            Self::Number(digits) => text(hash, b'#', &canonical_number(digits)),
            Self::String(value) => text(hash, b's', value),
            Self::Array(elements) => {
                hash.update(b"[");
                hash.update((elements.len() as u64).to_be_bytes());
                for element in elements {
                    element.feed(hash);
                }
            }
            Self::Object(members) => {
                hash.update(b"{");
                hash.update((members.len() as u64).to_be_bytes());
                for (key, value) in members {
                    text(hash, b's', key);
                    value.feed(hash);
                }
            }
        }
    }
}

/// Whether readers can be expected to read this number: it is neither too long nor too large.
pub fn is_readable_number(digits: &str) -> bool {
    let exponent = digits.split_once(['e', 'E']).map_or(Ok(0), |(_, exponent)| exponent.parse::<i32>());
    digits.len() <= MAX_NUMBER && exponent.is_ok_and(|exponent| exponent.unsigned_abs() <= MAX_EXPONENT)
}

/// Canonical form of a number: significant digits without zeros at either end, and an exponent. `1`, `1.0`, `10e-1` and `1E0` have
/// one form.
fn canonical_number(digits: &str) -> String {
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return "0".into();
    }
    let trailing = all.len() - all.trim_end_matches('0').len();
    let shift = trailing.cast_signed() - fraction.len().cast_signed();
    // The order's own checks refuse an exponent too large for an i64; here the number keeps its text, and so its own fingerprint.
    match exponent.parse::<i64>().ok().and_then(|exponent| exponent.checked_add(shift as i64)) {
        Some(exponent) => format!("{sign}{significant}e{exponent}"),
        None => format!("{sign}{significant}e{exponent}+{shift}"),
    }
}

#[derive(Clone, Copy)]
struct Tree {
    depth: usize,
}

impl Tree {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Cow::Owned(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(Cow::Owned(value.to_string())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let tree = self.deeper()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(tree)? {
            array.push(element);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let tree = self.deeper()?;
        let mut object = Vec::new();
        while let Some(key) = members.next_key_seed(Key)? {
            if key == NUMBER_TOKEN {
                // serde_json hands over exact digits only in this form. A customer's own object with this key arrives here too.
                return members.next_value_seed(Digits).map(|digits| Json::Number(Cow::Owned(digits)));
            }
            object.push((key, members.next_value_seed(tree)?));
        }
        object.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Json::Object(object))
    }
}

/// Digits of a number. `serde_json` hands them over as an owned string; a customer's text never arrives as an owned string.
struct Digits;

impl<'de> DeserializeSeed<'de> for Digits {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Digits {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another key than the reserved {NUMBER_TOKEN:?}")
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(value)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(E::invalid_value(serde::de::Unexpected::Other("a string"), &self))
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(text: &str) -> [u8; 32] {
        Json::parse(text).unwrap().fingerprint()
    }

    #[test]
    fn the_same_meaning_has_one_fingerprint() {
        let same = [
            r#"{"a":1,"b":["x",null,true]}"#,
            r#" { "b" : [ "x" , null , true ] , "a" : 1.0 } "#,
            r#"{"a":10e-1,"b":["\u0078",null,true]}"#,
            r#"{"\u0061":0.1E+1,"b":["x",null,true]}"#,
        ];
        for text in same {
            assert_eq!(fingerprint(text), fingerprint(same[0]), "{text}");
        }
    }

    #[test]
    fn another_meaning_has_another_fingerprint() {
        let texts = [
            "1",
            "\"1\"",
            "[1]",
            "-1",
            "0",
            "1e1",
            "10.5",
            "105",
            "9007199254740993",
            "9007199254740992",
            "[]",
            "{}",
            "null",
            "false",
            r#"{"a":1}"#,
            r#"{"a":[1]}"#,
            r#"[["a"],"b"]"#,
            r#"[["a","b"]]"#,
            "1e99999999999999999999",
            "1e99999999999999999998",
        ];
        for (i, a) in texts.iter().enumerate() {
            for b in &texts[i + 1..] {
                assert_ne!(fingerprint(a), fingerprint(b), "{a} {b}");
            }
        }
        assert_eq!(fingerprint("-0"), fingerprint("0.00"));
        assert_eq!(fingerprint("10"), fingerprint("1e1"));
    }

    #[test]
    fn duplicate_keys_stay_visible_and_deep_nesting_is_refused() {
        let Json::Object(members) = Json::parse(r#"{"a":1,"b":2,"a":3}"#).unwrap() else { panic!() };
        assert_eq!(members.iter().map(|(key, _)| key.as_ref()).collect::<Vec<_>>(), ["a", "a", "b"]);

        let deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
        assert!(Json::parse(&deep).unwrap_err().to_string().contains("nested deeper than 32 levels"));
    }

    #[test]
    fn the_reserved_number_key_cannot_smuggle_anything() {
        for text in [
            r#"{"$serde_json::private::Number":"x"}"#,
            r#"{"$serde_json::private::Number":"5"}"#,
            r#"{"$serde_json::private::Number":"\u0035"}"#,
            r#"{"\u0024serde_json::private::Number":"5"}"#,
            r#"{"$serde_json::private::Number":5}"#,
            r#"{"$serde_json::private::Number":{"a":1}}"#,
            r#"{"a":1,"$serde_json::private::Number":"1"}"#,
            r#"{"$serde_json::private::Number":"1","a":1}"#,
        ] {
            assert!(Json::parse(text).is_err(), "{text}");
        }
    }
}
