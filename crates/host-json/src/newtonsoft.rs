//! JSON as Newtonsoft.Json reads it, which is more than JSON: comments, single quotes, bare names, trailing commas, missing elements,
//! hexadecimal and octal numbers, `NaN`, `undefined`, `new Date(5)`.
//!
//! Follows `JsonTextReader`. No JSON5 library reads all of this, and each reads more besides.
//! `serde_json::Value` is not the result on purpose: it loses the digits of a number unless a feature is on, and with that feature two
//! secret object keys, which a hostile body may contain, have a meaning.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Deepest nesting, the default limit of Newtonsoft.Json 13; it bounds the recursion here too.
pub const MAX_DEPTH: usize = 64;

/// Digits above which an integer is refused (`MaximumJavascriptIntegerCharacterLength`).
const MAX_DIGITS: usize = 380;

/// Number of members above which a map finds a repeated name, so that a hostile object costs linear time.
const FEW: usize = 32;

/// A JSON value that still has the memory of the text it came from where no escape was used.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `undefined`, or the element that is missing in `[,1]`.
    Undefined,
    /// `true` or `false`
    Bool(bool),
    /// An integer of any size by its decimal digits, without leading zeros and never `-0`.
    Integer(Cow<'a, str>),
    /// A number with a point or an exponent, `NaN`, or `Infinity`.
    Double(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, each name once.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
    /// A call such as `new Date(5)`.
    Constructor(Cow<'a, str>, Vec<Json<'a>>),
}

/// Which of .NET's ways of reading is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `JToken.Parse`: nothing but comments may follow the value; the last value of a repeated name takes the place of the first.
    Parse,
    /// `JsonSerializer.Deserialize`: what follows the value is not looked at; the last of a repeated name has its own place.
    Deserialize,
}

/// A mistake in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub reason: &'static str,
    /// Number of the byte at which it was found.
    pub at: usize,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason, self.at)
    }
}

impl std::error::Error for Mistake {}

/// Reads one value.
///
/// # Errors
///
/// The first mistake, if Newtonsoft.Json refuses the text.
pub fn read(text: &str, way: Way) -> Result<Json<'_>, Mistake> {
    let mut reader = Reader { text, at: 0, depth_left: MAX_DEPTH, way };
    reader.skip_comments()?;
    let value = reader.value()?;
    if way == Way::Parse {
        reader.skip_comments()?;
        if reader.at < text.len() {
            return Err(reader.mistake("unexpected text after the JSON value"));
        }
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
    way: Way,
}

type Read<T> = Result<T, Mistake>;

impl<'a> Reader<'a> {
    /// Reads a value at the next character that is neither white space nor comment.
    fn value(&mut self) -> Read<Json<'a>> {
        match self.peek() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::array),
            Some(quote @ ('"' | '\'')) => Ok(Json::Text(self.string(quote)?)),
            Some('t') => self.word("true", Json::Bool(true)),
            Some('f') => self.word("false", Json::Bool(false)),
            Some('n') if self.rest().starts_with("ne") => self.nested(Self::constructor),
            Some('n') => self.word("null", Json::Null),
            Some('u') => self.word("undefined", Json::Undefined),
            Some('N') => self.word("NaN", Json::Double(f64::NAN)),
            Some('I') => self.word("Infinity", Json::Double(f64::INFINITY)),
            Some('-') if self.rest().starts_with("-I") => self.word("-Infinity", Json::Double(f64::NEG_INFINITY)),
            Some('-' | '.' | '0'..='9') => self.number(),
            // The comma is left for the reader of the array or object.
            Some(',') => Ok(Json::Undefined),
            Some(_) => Err(self.mistake("expected value")),
            None => Err(self.mistake("unexpected end of the text")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Read<Json<'a>>) -> Read<Json<'a>> {
        if self.depth_left == 0 {
            return Err(self.mistake("the JSON text is nested too deeply"));
        }
        self.depth_left -= 1;
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn object(&mut self) -> Read<Json<'a>> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.skip_comments()?;
            if self.take('}') {
                return Ok(Json::Object(each_once(members, self.way)));
            }
            let name = self.name()?;
            self.skip_whitespace();
            if !self.take(':') {
                return Err(self.mistake("expected a colon after the member name"));
            }
            self.skip_comments()?;
            members.push((name, self.value()?));
            self.skip_comments()?;
            if !self.take(',') && self.peek() != Some('}') {
                return Err(self.mistake("expected a comma or the end of the object"));
            }
        }
    }

    fn array(&mut self) -> Read<Json<'a>> {
        self.at += 1;
        self.items(']').map(Json::Array)
    }

    /// Reads values to the closing character. A comma before it adds no value; a value missing before a comma is `undefined`.
    fn items(&mut self, end: char) -> Read<Vec<Json<'a>>> {
        let mut items = Vec::new();
        loop {
            self.skip_comments()?;
            if self.take(end) {
                return Ok(items);
            }
            items.push(self.value()?);
            self.skip_comments()?;
            if !self.take(',') && self.peek() != Some(end) {
                return Err(self.mistake("expected a comma or the end of the array"));
            }
        }
    }

    /// Reads `new NAME(VALUE, …)`.
    fn constructor(&mut self) -> Read<Json<'a>> {
        if !self.rest().starts_with("new") {
            return Err(self.mistake("expected value"));
        }
        self.at += "new".len();
        self.skip_whitespace();
        let name = self.run(char::is_alphanumeric);
        self.skip_whitespace();
        if !self.take('(') {
            return Err(self.mistake("expected a parenthesis after the name of a constructor"));
        }
        Ok(Json::Constructor(name.into(), self.items(')')?))
    }

    fn name(&mut self) -> Read<Cow<'a, str>> {
        match self.peek() {
            Some(quote @ ('"' | '\'')) => self.string(quote),
            Some(first) if is_of_name(first) => {
                let name = self.run(is_of_name);
                match self.peek() {
                    Some(':') => Ok(name.into()),
                    Some(other) if other.is_whitespace() => Ok(name.into()),
                    _ => Err(self.mistake("unexpected character in a member name")),
                }
            }
            _ => Err(self.mistake("expected a member name")),
        }
    }

    /// Reads a string; raw control characters are let through.
    fn string(&mut self, quote: char) -> Read<Cow<'a, str>> {
        self.at += 1;
        let plain = self.run(|character| character != quote && character != '\\');
        if self.take(quote) {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        while self.take('\\') {
            text.push(self.escape()?);
            text.push_str(self.run(|character| character != quote && character != '\\'));
        }
        if self.take(quote) { Ok(Cow::Owned(text)) } else { Err(self.mistake("unterminated string")) }
    }

    /// Reads what follows a backslash; half a surrogate pair becomes U+FFFD, as it does when .NET encodes it.
    fn escape(&mut self) -> Read<char> {
        let escaped = match self.peek() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(character @ ('"' | '\'' | '\\' | '/')) => character,
            Some('u') => {
                self.at += 1;
                let unit = self.four_hex_digits()?;
                return Ok(self.character(unit));
            }
            _ => return Err(self.mistake("unknown escape in a string")),
        };
        self.at += 1;
        Ok(escaped)
    }

    fn character(&mut self, unit: u32) -> char {
        if (0xd800..0xdc00).contains(&unit) && self.rest().starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            if let Ok(low @ 0xdc00..0xe000) = self.four_hex_digits() {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
            self.at = before;
        }
        char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn four_hex_digits(&mut self) -> Read<u32> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.mistake("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(digits)
    }

    /// Reads a number. Newtonsoft takes every character that some number may have, and then looks at the whole.
    fn number(&mut self) -> Read<Json<'a>> {
        let digits = self.run(|character| matches!(character, '-' | '+' | '.' | '0'..='9' | 'a'..='f' | 'A'..='F' | 'x' | 'X'));
        let ends = self.peek().is_none_or(|next| next.is_whitespace() || matches!(next, ',' | '}' | ']' | ')' | '/'));
        let number = if ends { number(digits) } else { None };
        number.ok_or_else(|| self.mistake("malformed number"))
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Read<Json<'a>> {
        if !self.rest().starts_with(word) {
            return Err(self.mistake("expected value"));
        }
        self.at += word.len();
        let ends = match self.peek() {
            None | Some('}' | ']' | ')' | ',') => true,
            Some('/') => matches!(self.rest().as_bytes().get(1), Some(b'/' | b'*')),
            Some(next) => next.is_whitespace(),
        };
        if ends { Ok(value) } else { Err(self.mistake("expected value")) }
    }

    fn skip_whitespace(&mut self) {
        self.run(|character| character.is_whitespace() || character == '\0');
    }

    fn skip_comments(&mut self) -> Read<()> {
        loop {
            self.skip_whitespace();
            let rest = self.rest();
            if let Some(comment) = rest.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else { return Err(self.mistake("unterminated comment")) };
                self.at += "/**/".len() + end;
            } else if rest.starts_with("//") {
                self.at += rest.find(['\r', '\n']).unwrap_or(rest.len());
            } else if rest.starts_with('/') {
                return Err(self.mistake("expected a comment"));
            } else {
                return Ok(());
            }
        }
    }

    /// Takes the characters that satisfy the test.
    fn run(&mut self, test: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let run = &rest[..rest.find(|character| !test(character)).unwrap_or(rest.len())];
        self.at += run.len();
        run
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        self.at += if found { character.len_utf8() } else { 0 };
        found
    }

    fn mistake(&self, reason: &'static str) -> Mistake {
        Mistake { reason, at: self.at }
    }
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$')
}

/// A number as `JsonTextReader.ParseReadNumber` takes it: a zero in front makes it octal, or hexadecimal with an `x`.
fn number(digits: &str) -> Option<Json<'_>> {
    if digits.len() > 1 && digits.starts_with('0') && !digits[1..].starts_with(['.', 'e', 'E']) {
        let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let (digits, radix) = hexadecimal.map_or((digits, 8), |digits| (digits, 16));
        let bits = digits.starts_with(|first: char| first.is_digit(radix)).then(|| u64::from_str_radix(digits, radix).ok())??;
        return Some(Json::Integer(bits.cast_signed().to_string().into()));
    }
    let (sign, whole) = digits.strip_prefix('-').map_or(("", digits), |whole| ("-", whole));
    if !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit()) {
        if digits.len() > MAX_DIGITS {
            return None;
        }
        return Some(Json::Integer(match whole.trim_start_matches('0') {
            "" => "0".into(),
            kept if kept.len() == whole.len() => digits.into(),
            kept => format!("{sign}{kept}").into(),
        }));
    }
    // Rust reads what .NET reads here: `.5`, `1.`, `1e5`, and infinity for a number that is too large.
    let is_number = whole.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    is_number.then(|| digits.parse().ok().map(Json::Double)).flatten()
}

fn each_once<'a>(members: Vec<(Cow<'a, str>, Json<'a>)>, way: Way) -> Vec<(Cow<'a, str>, Json<'a>)> {
    if members.len() <= FEW {
        let repeated =
            members.iter().enumerate().any(|(position, (name, _))| members[..position].iter().any(|(earlier, _)| earlier == name));
        if !repeated {
            return members;
        }
    }
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(members.len());
    let mut kept: Vec<Option<(Cow<'a, str>, Json<'a>)>> = Vec::with_capacity(members.len());
    for (name, value) in members {
        let place = *places.entry(name.clone()).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(earlier) if way == Way::Parse => *earlier = Some((name, value)),
            Some(earlier) => {
                *earlier = None;
                places.insert(name.clone(), kept.len());
                kept.push(Some((name, value)));
            }
            None => kept.push(Some((name, value))),
        }
    }
    kept.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Json<'_> {
        read(text, Way::Parse).unwrap_or_else(|mistake| panic!("{text}: {mistake}"))
    }

    fn integer(digits: &str) -> Json<'_> {
        Json::Integer(digits.into())
    }

    #[test]
    fn more_than_json_is_read() {
        for (lenient, strict) in [
            ("{'a':\"b\",\"c\":'\"d\\''}", r#"{"a":"b","c":"\"d'"}"#),
            ("{a:1,$b_2 : 2,3:4,é:5}", r#"{"a":1,"$b_2":2,"3":4,"é":5}"#),
            ("/**/{// x\n/*y*/\"a\"\n:/**/1/**/,/**/}//", r#"{"a":1}"#),
            ("[1,]", "[1]"),
            ("{\"a\":1,}", r#"{"a":1}"#),
            ("[0x1F,017,-0,00,-01,.5,1.,-.5]", "[31,15,0,0,-1,0.5,1.0,-0.5]"),
            ("[0xFFFFFFFFFFFFFFFF]", "[-1]"),
            ("\u{a0}[\u{2003}\0 1]", "[1]"),
        ] {
            assert_eq!(parsed(lenient), parsed(strict), "{lenient}");
        }
        assert_eq!(parsed("[,1,,undefined]"), Json::Array(vec![Json::Undefined, integer("1"), Json::Undefined, Json::Undefined]));
        assert_eq!(parsed("{\"a\":,}"), Json::Object(vec![("a".into(), Json::Undefined)]));
        assert_eq!(
            parsed("[Infinity,-Infinity,1e400]"),
            Json::Array(vec![Json::Double(f64::INFINITY), Json::Double(f64::NEG_INFINITY), Json::Double(f64::INFINITY)])
        );
        assert!(matches!(parsed("NaN"), Json::Double(value) if value.is_nan()));
        assert_eq!(parsed("new Date ( 5 , )"), Json::Constructor("Date".into(), vec![integer("5")]));
    }

    #[test]
    fn text_after_the_value_counts_in_one_way_only() {
        for text in ["{} x", "{}{}", "1 2", "[]]"] {
            assert!(read(text, Way::Parse).is_err(), "{text}");
            assert!(read(text, Way::Deserialize).is_ok(), "{text}");
        }
        assert!(read("{} // x", Way::Parse).is_ok());
    }

    #[test]
    fn a_repeated_name_keeps_its_last_value() {
        let text = r#"{"a":1,"b":2,"a":3}"#;
        let names = |way| match read(text, way) {
            Ok(Json::Object(members)) => members,
            other => panic!("{other:?}"),
        };

        assert_eq!(names(Way::Parse), [("a".into(), integer("3")), ("b".into(), integer("2"))]);
        assert_eq!(names(Way::Deserialize), [("b".into(), integer("2")), ("a".into(), integer("3"))]);

        let many: Vec<String> = (0..100).map(|n| format!("\"k{}\":{n}", n % 50)).collect();
        let text = format!("{{{}}}", many.join(","));
        let Json::Object(members) = parsed(&text) else { panic!("not an object") };
        assert_eq!(members.len(), 50);
        assert_eq!(members[0], ("k0".into(), integer("50")));
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(parsed(r#""\ud83d\ude00 \ud83d \udc00x\ud83d\u0041""#), Json::Text("😀 \u{fffd} \u{fffd}x\u{fffd}A".into()));
    }

    #[test]
    fn malformed_text_is_an_error_and_never_a_panic() {
        let long = "1".repeat(MAX_DIGITS + 1);
        for text in [
            "",
            " ",
            "{",
            "[",
            "{]",
            "[}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,,}",
            "{\"a\"/**/:1}",
            "{a-b:1}",
            "{a",
            "\"",
            "'",
            "\"'",
            "\"\\",
            "\"\\u12",
            "\"\\u12é4\"",
            "\"\\x\"",
            "08",
            "0x",
            "0x1FFFFFFFFFFFFFFFF",
            "-0x1",
            "0-1",
            "-",
            ".",
            "1e",
            "1d",
            "1_0",
            "+1",
            "1.5.5",
            "tru",
            "truex",
            "true/",
            "nul",
            "NaNa",
            "undefine",
            "{not json}",
            "[1 2]",
            "é",
            "/",
            "/*",
            "/ {}",
            "[1/]",
            "new",
            "new Date",
            "new Date(",
            "new Date(5",
            "ne(",
            "]",
            ")",
            &long,
        ] {
            assert!(read(text, Way::Deserialize).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);

        assert!(read(&nested(MAX_DEPTH), Way::Parse).is_ok());
        assert!(read(&nested(MAX_DEPTH + 1), Way::Parse).is_err());
        for endless in ["[", "{\"a\":", "new A("] {
            assert!(read(&endless.repeat(1_000_000), Way::Parse).is_err());
        }
    }
}
