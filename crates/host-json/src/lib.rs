//! JSON of a function app as the Functions host reads it: files in any encoding with a mark, and more than JSON in them.

mod encoding;
pub mod newtonsoft;
pub mod time_span;

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Number, Value};

pub use crate::encoding::decode;
use crate::newtonsoft::{Json, Way};

/// Text of a file, decoded by its byte order mark.
///
/// # Errors
///
/// The reason why the file cannot be read.
pub fn text_of(file: &Path) -> Result<String, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    Ok(decode(&bytes).into_owned())
}

/// Parses the text of a file; the error is "invalid JSON at line 3, column 5: …".
pub fn parse(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    newtonsoft::read(text, Way::Parse).map(plain).map_err(|mistake| {
        let before = &text[..mistake.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        format!("invalid JSON at line {line}, column {column}: {}", mistake.reason)
    })
}

/// The value in plain JSON. Configuration is text, so a number that JSON has not becomes its text.
fn plain(json: Json) -> Value {
    match json {
        Json::Null | Json::Undefined => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Integer(digits) => digits.parse::<Number>().map_or(Value::Null, Value::Number),
        Json::Double(value) => Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number),
        Json::Text(text) => Value::String(Cow::into_owned(text)),
        Json::Array(items) | Json::Constructor(_, items) => Value::Array(items.into_iter().map(plain).collect()),
        Json::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name.into_owned(), plain(value))).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_are_left_out_and_strings_are_kept() {
        let text = "{ // one \"quote\n  \"url\": \"http://x/*y*/\\\"//\", /* two\n lines */ \"n\": 1 }";

        assert_eq!(parse(text).unwrap(), json!({"url": "http://x/*y*/\"//", "n": 1}));
    }

    #[test]
    fn a_mistake_after_a_comment_has_its_line_and_column() {
        let error = parse("{\n  /* é */ \"a\": x\n}").unwrap_err();

        assert_eq!(error, "invalid JSON at line 2, column 16: expected value");
    }

    #[test]
    fn an_unfinished_comment_or_string_is_an_error_not_a_panic() {
        for text in ["{ /*", "{ \"a", "{ //", "\"\\", "/", "/*", "\"", "//"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse("\u{feff}{}").unwrap(), json!({}));
    }

    #[test]
    fn a_comment_that_begins_with_a_slash_goes_on_to_its_end() {
        assert_eq!(parse("{/*/ \"a\": 1 */}").unwrap(), json!({}));
    }

    #[test]
    fn a_file_may_be_more_than_json() {
        let text = "{version: '2.0', 'a': [1,, 0x10,], /**/ \"b\": NaN, \"c\": 1.50,}";

        assert_eq!(parse(text).unwrap(), json!({"version": "2.0", "a": [1, null, 16], "b": "NaN", "c": 1.5}));
        assert!(parse("{} {}").is_err());
    }

    #[test]
    fn plain_json_is_read_as_the_same_file_with_a_comment() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let (deepest, too_deep) = (nested(newtonsoft::MAX_DEPTH), nested(newtonsoft::MAX_DEPTH + 1));
        for text in ["{\"a\": 1.50, \"b\": -0, \"c\": 12345678901234567890123}", &deepest, &too_deep] {
            assert_eq!(parse(text), parse(&format!("{text} // c")), "{text}");
        }
        assert!(parse(&deepest).is_ok());
        assert!(parse(&too_deep).unwrap_err().starts_with("invalid JSON at line 1, column 65: the JSON text is nested too deeply"));
    }
}
