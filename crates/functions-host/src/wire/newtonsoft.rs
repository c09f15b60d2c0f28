//! JSON as Newtonsoft.Json reads it and .NET writes it: the form in which a handler and a queue get the host's texts.
//!
//! `serde_json::Value` is not used on purpose: it loses the digits of a number unless a feature is on, and with that feature two secret
//! object keys, which a hostile body may contain, have a meaning.
//! The host's reader also accepts comments, single quotes and trailing commas; this one refuses them, so that no handler comes to depend
//! on them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

/// Deepest nesting, the default limit of Newtonsoft.Json 13; it bounds the recursion here too.
pub(super) const MAX_DEPTH: usize = 64;

/// Deepest nesting of a response body that `System.Net.Http.Formatting` reads.
pub(super) const MAX_ENVELOPE_DEPTH: usize = 256;

/// Number of members above which a map finds a repeated name, so that a hostile object costs linear time.
const FEW: usize = 32;

/// A JSON value that still has the digits and, where no escape was used, the memory of the text it came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number by its digits as sent.
    Number(&'a str),
    /// A string; one that looks like an ISO date is a date to Newtonsoft.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object in the order sent; of a repeated name the last value has the first place.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Reads one JSON value and nothing after it.
///
/// The error is a short reason with the byte it was found at.
pub(super) fn parse(text: &str, max_depth: usize) -> Result<Json<'_>, String> {
    let mut reader = Reader { text, at: 0, depth_left: max_depth };
    let value = reader.value()?;
    reader.skip_whitespace();
    if reader.at < text.len() {
        return Err(reader.error("unexpected text after the JSON value"));
    }
    Ok(value)
}

/// Whether the host would try to parse this text (`Utility.IsJson`): it starts and ends like an object or an array.
pub(super) fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    (text.starts_with('{') && text.ends_with('}')) || (text.starts_with('[') && text.ends_with(']'))
}

/// Whether Newtonsoft takes this string for a date, and so not for a string.
pub(super) fn is_date(text: &str) -> bool {
    Instant::recognise(text).is_some()
}

impl<'a> Json<'a> {
    /// The value as `ToString()` gives it: raw strings, `True`, numbers, dates in the invariant culture, indented containers.
    ///
    /// `None` is JSON null.
    pub(super) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Json::Null => None,
            Json::Bool(true) => Some(Cow::Borrowed("True")),
            Json::Bool(false) => Some(Cow::Borrowed("False")),
            Json::Number(digits) if is_integer(digits) => Some(Cow::Borrowed(integer(digits))),
            Json::Number(digits) => {
                let mut text = String::new();
                write_double(&mut text, double(digits));
                Some(Cow::Owned(text))
            }
            Json::Text(text) => Some(match Instant::recognise(&text) {
                Some(instant) => Cow::Owned(instant.invariant()),
                None => text,
            }),
            Json::Array(_) | Json::Object(_) => {
                let mut text = String::new();
                self.write_indented(&mut text);
                Some(Cow::Owned(text))
            }
        }
    }

    /// Writes the value without white space (`Formatting.None`).
    pub(super) fn write_compact(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(digits) => write_number(out, digits),
            Json::Text(text) => write_text(out, text),
            Json::Array(items) => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    item.write_compact(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (position, (name, value)) in members.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    write_string(out, name);
                    out.push(':');
                    value.write_compact(out);
                }
                out.push('}');
            }
        }
    }

    /// Writes the value with two spaces a level (`Formatting.Indented`), line breaks as on Linux.
    pub(super) fn write_indented(&self, out: &mut String) {
        self.write_at(out, 0);
    }

    fn write_at(&self, out: &mut String, level: usize) {
        match self {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    new_line(out, level + 1);
                    item.write_at(out, level + 1);
                }
                new_line(out, level);
                out.push(']');
            }
            Json::Object(members) if !members.is_empty() => {
                out.push('{');
                for (position, (name, value)) in members.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    new_line(out, level + 1);
                    write_string(out, name);
                    out.push_str(": ");
                    value.write_at(out, level + 1);
                }
                new_line(out, level);
                out.push('}');
            }
            other => other.write_compact(out),
        }
    }
}

/// Writes a JSON string as Newtonsoft escapes it: the line separators of Unicode too, nothing else that need not be.
pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    write_escaped(out, text, "\\");
    out.push('"');
}

/// Writes a JSON string that contains a JSON string, the host's form of most metadata (host §3.2), without the copy in between.
pub(super) fn write_string_in_string(out: &mut String, text: &str) {
    out.push_str("\"\\\"");
    write_escaped(out, text, "\\\\");
    out.push_str("\\\"\"");
}

/// Writes a date and time to the second, then the fraction .NET would keep: up to seven digits without trailing zeros.
pub(super) fn write_date_time(out: &mut String, at: DateTime) {
    write_to_the_second(out, at);
    let ticks = at.subsec_nanosecond() / 100;
    if ticks > 0 {
        out.push('.');
        let digits = out.len();
        push(out, format_args!("{ticks:07}"));
        let kept = out[digits..].trim_end_matches('0').len();
        out.truncate(digits + kept);
    }
}

/// Writes `2026-11-23T10:15:30`.
pub(super) fn write_to_the_second(out: &mut String, at: DateTime) {
    push(out, format_args!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", at.year(), at.month(), at.day(), at.hour(), at.minute(), at.second()));
}

/// Appends formatted text.
pub(super) fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Json<'a>, String> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) => Err(self.error("expected a JSON value")),
            None => Err(self.error("unexpected end of the JSON text")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Json<'a>, String>) -> Result<Json<'a>, String> {
        if self.depth_left == 0 {
            return Err(self.error("the JSON text is nested too deeply"));
        }
        self.depth_left -= 1;
        self.at += 1;
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Json<'a>, String> {
        let mut members = Vec::new();
        self.skip_whitespace();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_whitespace();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member name in double quotes"));
            }
            let name = self.string()?;
            self.skip_whitespace();
            if !self.take(b':') {
                return Err(self.error("expected a colon after the member name"));
            }
            members.push((name, self.value()?));
            self.skip_whitespace();
            if self.take(b'}') {
                return Ok(Json::Object(last_wins(members)));
            }
            if !self.take(b',') {
                return Err(self.error("expected a comma or the end of the object"));
            }
        }
    }

    fn array(&mut self) -> Result<Json<'a>, String> {
        let mut items = Vec::new();
        self.skip_whitespace();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_whitespace();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            if !self.take(b',') {
                return Err(self.error("expected a comma or the end of the array"));
            }
        }
    }

    /// Reads a string; raw control characters are let through as the host lets them through.
    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.peek() == Some(b'"') {
            let text = &self.text[start..self.at];
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut text = String::from(&self.text[start..self.at]);
        loop {
            match self.peek() {
                None => return Err(self.error("unterminated string")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(_) => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
            }
            let start = self.at;
            self.skip_plain();
            text.push_str(&self.text[start..self.at]);
        }
    }

    fn skip_plain(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
    }

    /// Reads what follows a backslash; half a surrogate pair becomes U+FFFD, as it does when .NET encodes it.
    fn escape(&mut self) -> Result<char, String> {
        let escaped = match self.peek() {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'u') => {
                self.at += 1;
                let unit = self.four_hex_digits()?;
                return Ok(self.character(unit));
            }
            _ => return Err(self.error("unknown escape in a string")),
        };
        self.at += 1;
        Ok(escaped)
    }

    fn character(&mut self, unit: u32) -> char {
        if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
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

    fn four_hex_digits(&mut self) -> Result<u32, String> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(digits)
    }

    fn number(&mut self) -> Result<Json<'a>, String> {
        let start = self.at;
        self.take(b'-');
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        let mut valid = whole == 1 || (whole > 1 && !leading_zero);
        if self.take(b'.') {
            valid &= self.digits() > 0;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            valid &= self.digits() > 0;
        }
        if valid { Ok(Json::Number(&self.text[start..self.at])) } else { Err(self.error("malformed number")) }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, String> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.error("expected a JSON value"))
        }
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn error(&self, reason: &str) -> String {
        format!("{reason} at byte {}", self.at)
    }
}

fn last_wins<'a>(members: Vec<(Cow<'a, str>, Json<'a>)>) -> Vec<(Cow<'a, str>, Json<'a>)> {
    if members.len() <= FEW {
        let repeated =
            members.iter().enumerate().any(|(position, (name, _))| members[..position].iter().any(|(earlier, _)| earlier == name));
        if !repeated {
            return members;
        }
    }
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(members.len());
    let mut kept: Vec<(Cow<'a, str>, Json<'a>)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        if let Some(&place) = places.get(&name) {
            kept[place].1 = value;
        } else {
            places.insert(name.clone(), kept.len());
            kept.push((name, value));
        }
    }
    kept
}

fn new_line(out: &mut String, level: usize) {
    out.push('\n');
    for _ in 0..level {
        out.push_str("  ");
    }
}

/// Writes a string inside an object or array: one that Newtonsoft took for a date comes out as the date it understood.
fn write_text(out: &mut String, text: &str) {
    match Instant::recognise(text) {
        Some(instant) => {
            out.push('"');
            instant.write(out);
            out.push('"');
        }
        None => write_string(out, text),
    }
}

fn write_escaped(out: &mut String, text: &str, backslash: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let width = match rest {
            [b'"' | b'\\' | 0..=0x1f, ..] => 1,
            [0xc2, 0x85, ..] => 2,
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        out.push_str(&text[from..at]);
        out.push_str(backslash);
        match rest {
            // In a string in a string the quote and the backslash are themselves escaped once more.
            [b'"', ..] => {
                out.push_str(&backslash[1..]);
                out.push('"');
            }
            [b'\\', ..] => out.push_str(backslash),
            [b'\n', ..] => out.push('n'),
            [b'\r', ..] => out.push('r'),
            [b'\t', ..] => out.push('t'),
            [8, ..] => out.push('b'),
            [12, ..] => out.push('f'),
            [0xc2, ..] => out.push_str("u0085"),
            [0xe2, _, 0xa8, ..] => out.push_str("u2028"),
            [0xe2, ..] => out.push_str("u2029"),
            [byte, ..] => push(out, format_args!("u{byte:04x}")),
            [] => {}
        }
        at += width;
        from = at;
    }
    out.push_str(&text[from..]);
}

fn is_integer(digits: &str) -> bool {
    !digits.contains(['.', 'e', 'E'])
}

/// Integers keep their digits at any size (`long`, then `BigInteger`), but there is no negative zero among them.
fn integer(digits: &str) -> &str {
    if digits == "-0" { "0" } else { digits }
}

/// Value of a number with a point or an exponent: a `double` to Newtonsoft (`FloatParseHandling.Double`).
fn double(digits: &str) -> f64 {
    digits.parse().unwrap_or(f64::NAN)
}

fn write_number(out: &mut String, digits: &str) {
    if is_integer(digits) {
        out.push_str(integer(digits));
        return;
    }
    let value = double(digits);
    if !value.is_finite() {
        out.push('"');
        write_double(out, value);
        out.push('"');
        return;
    }
    let start = out.len();
    write_double(out, value);
    // `JsonConvert.ToString(double)` keeps a whole double recognisable as one.
    if is_integer(&out[start..]) {
        out.push_str(".0");
    }
}

/// Writes a double as .NET Core 3.0 and later do without a format: the shortest text that reads back the same.
fn write_double(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let scale = exponent + 1;

    out.push_str(sign);
    // `Number.FormatFloat` switches to an exponent beyond 17 places before the point, or four zeros after it.
    if scale > count.max(17) || scale < -3 {
        out.push_str(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        push(out, format_args!("E{sign}{:02}", exponent.abs()));
    } else if scale <= 0 {
        out.push_str("0.");
        (scale..0).for_each(|_| out.push('0'));
        out.push_str(&digits);
    } else if scale >= count {
        out.push_str(&digits);
        (count..scale).for_each(|_| out.push('0'));
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(scale).unwrap_or(0));
        push(out, format_args!("{whole}.{fraction}"));
    }
}

/// A string that Newtonsoft turned into a `DateTime` (`DateParseHandling.DateTime`, the default).
struct Instant {
    at: DateTime,
    /// Suffix that `RoundtripKind` writes: `Z`, nothing, or the offset of the host's own zone, taken as UTC here.
    suffix: &'static str,
}

impl Instant {
    /// Follows `DateTimeParser` of Newtonsoft.Json, oddities included: the zone may lack its colon or its minutes.
    fn recognise(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if !(19..=40).contains(&bytes.len()) || !bytes[0].is_ascii_digit() || bytes[10] != b'T' {
            return None;
        }
        let separators = [bytes[4], bytes[7], bytes[13], bytes[16]];
        if separators != *b"--::" {
            return None;
        }
        let year = i16::try_from(two(bytes, 0)? * 100 + two(bytes, 2)?).ok()?;
        let (hour, minute, second) = (two(bytes, 11)?, two(bytes, 14)?, two(bytes, 17)?);
        if year == 0 || hour > 24 || minute > 59 || second > 59 {
            return None;
        }

        let mut at = 19;
        let mut ticks = 0;
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            let mut digits = 0;
            while digits < 7 && bytes.get(at).is_some_and(u8::is_ascii_digit) {
                ticks = ticks * 10 + i32::from(bytes[at] - b'0');
                digits += 1;
                at += 1;
            }
            if digits == 0 {
                return None;
            }
            ticks *= 10_i32.pow(7 - digits);
        }
        let midnight = hour == 24;
        if midnight && (minute > 0 || second > 0 || ticks > 0) {
            return None;
        }

        let (suffix, offset) = zone(bytes, at)?;
        let date = Date::new(year, small(two(bytes, 5)?)?, small(two(bytes, 8)?)?).ok()?;
        let date = if midnight { date.tomorrow().ok()? } else { date };
        let hour = if midnight { 0 } else { hour };
        let time = Time::new(small(hour)?, small(minute)?, small(second)?, ticks * 100).ok()?;
        let at = date.to_datetime(time).checked_sub(offset).ok()?;
        (at.year() > 0).then_some(Self { at, suffix })
    }

    fn write(&self, out: &mut String) {
        write_date_time(out, self.at);
        out.push_str(self.suffix);
    }

    /// `DateTime.ToString()` in the invariant culture, which drops the fraction and the zone.
    fn invariant(&self) -> String {
        format!(
            "{:02}/{:02}/{:04} {:02}:{:02}:{:02}",
            self.at.month(),
            self.at.day(),
            self.at.year(),
            self.at.hour(),
            self.at.minute(),
            self.at.second()
        )
    }
}

fn zone(bytes: &[u8], mut at: usize) -> Option<(&'static str, SignedDuration)> {
    let mut suffix = "";
    let mut sign = 1;
    let (mut hours, mut minutes) = (0, 0);
    match bytes.get(at) {
        None => {}
        Some(b'Z' | b'z') => {
            suffix = "Z";
            at += 1;
        }
        Some(&direction) => {
            if at + 2 < bytes.len()
                && matches!(direction, b'+' | b'-')
                && let Some(two_digits) = two(bytes, at + 1)
            {
                suffix = "+00:00";
                sign = if direction == b'-' { -1 } else { 1 };
                hours = two_digits;
                at += 3;
            }
            if bytes.get(at) == Some(&b':') {
                at += 1;
            }
            if let Some(two_digits) = two(bytes, at) {
                minutes = two_digits;
                at += 2;
            }
        }
    }
    let offset = if suffix == "+00:00" {
        SignedDuration::from_mins(sign * (i64::from(hours) * 60 + i64::from(minutes)))
    } else {
        SignedDuration::ZERO
    };
    (at == bytes.len()).then_some((suffix, offset))
}

fn two(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
        _ => None,
    }
}

fn small(number: u32) -> Option<i8> {
    i8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(text: &str) -> String {
        let mut out = String::new();
        parse(text, MAX_DEPTH).unwrap().write_compact(&mut out);
        out
    }

    fn scalar(text: &str) -> String {
        parse(text, MAX_DEPTH).unwrap().into_text().unwrap().into_owned()
    }

    #[test]
    fn integers_keep_their_digits_at_any_size() {
        assert_eq!(compact("[12345678901234567890123,-0,-7]"), "[12345678901234567890123,0,-7]");
    }

    #[test]
    fn other_numbers_come_out_as_dotnet_doubles() {
        for (sent, alone, nested) in [
            ("12.50", "12.5", "12.5"),
            ("5.0", "5", "5.0"),
            ("-0.0", "-0", "-0.0"),
            ("0.0001", "0.0001", "0.0001"),
            ("0.00001", "1E-05", "1E-05"),
            ("1e3", "1000", "1000.0"),
            ("1.5e300", "1.5E+300", "1.5E+300"),
            ("0.1e-6", "1E-07", "1E-07"),
            ("1e400", "Infinity", "\"Infinity\""),
            ("3.141592653589793", "3.141592653589793", "3.141592653589793"),
        ] {
            assert_eq!(scalar(sent), alone);
            assert_eq!(compact(&format!("[{sent}]")), format!("[{nested}]"));
        }
    }

    #[test]
    fn dates_are_rewritten_and_near_dates_are_not() {
        for (sent, nested) in [
            ("2026-11-23T10:15:30.000Z", "2026-11-23T10:15:30Z"),
            ("2026-11-23T10:15:30.1234500", "2026-11-23T10:15:30.12345"),
            ("2026-11-23T10:15:30.000+02:00", "2026-11-23T08:15:30+00:00"),
            ("2026-11-23T10:15:30-0130", "2026-11-23T11:45:30+00:00"),
            ("2026-12-31T24:00:00Z", "2027-01-01T00:00:00Z"),
            ("2026-11-23", "2026-11-23"),
            ("2026-02-30T10:15:30Z", "2026-02-30T10:15:30Z"),
            ("2026-11-23 10:15:30Z", "2026-11-23 10:15:30Z"),
            ("2026-11-23T10:15:30.Z", "2026-11-23T10:15:30.Z"),
        ] {
            assert_eq!(compact(&format!("[\"{sent}\"]")), format!("[\"{nested}\"]"), "{sent}");
        }
    }

    #[test]
    fn a_repeated_name_keeps_its_first_place_and_last_value() {
        assert_eq!(compact(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);

        let many: Vec<String> = (0..100).map(|n| format!("\"k{}\":{n}", n % 50)).collect();
        let text = format!("{{{}}}", many.join(","));
        let Json::Object(members) = parse(&text, MAX_DEPTH).unwrap() else { panic!("not an object") };
        assert_eq!(members.len(), 50);
        assert_eq!(members[0], (Cow::Borrowed("k0"), Json::Number("50")));
    }

    #[test]
    fn strings_are_escaped_as_newtonsoft_escapes_them() {
        let text = "\"\\/\u{1}\n\u{85}\u{2028}\u{7f}é";
        let mut once = String::new();
        let mut twice = String::new();
        let mut again = String::new();

        write_string(&mut once, text);
        write_string_in_string(&mut twice, text);
        write_string(&mut again, &once);

        assert_eq!(once, "\"\\\"\\\\/\\u0001\\n\\u0085\\u2028\u{7f}é\"");
        assert_eq!(twice, again);
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(scalar(r#""\ud83d\ude00 \ud83d \udc00x\ud83d\u0041""#), "😀 \u{fffd} \u{fffd}x\u{fffd}A");
    }

    #[test]
    fn malformed_text_is_an_error_and_never_a_panic() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "{]",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "\"",
            "\"\\",
            "\"\\u12",
            "\"\\u12é4\"",
            "\"\\x\"",
            "01",
            "-",
            "1.",
            "1e",
            "+1",
            "tru",
            "nul",
            "{not json}",
            "[1 2]",
            "1 2",
            "é",
        ] {
            assert!(parse(text, MAX_DEPTH).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);

        assert!(parse(&nested(MAX_DEPTH), MAX_DEPTH).is_ok());
        assert!(parse(&nested(MAX_DEPTH + 1), MAX_DEPTH).is_err());
        assert!(parse(&"[".repeat(1_000_000), MAX_DEPTH).is_err());
        assert!(parse(&"{\"a\":".repeat(1_000_000), MAX_DEPTH).is_err());
    }

    #[test]
    fn secret_keys_of_serde_json_mean_nothing() {
        for text in [r#"{"$serde_json::private::Number":"1"}"#, r#"{"$serde_json::private::RawValue":"[[[["}"#] {
            assert_eq!(compact(text), text);
        }
    }

    #[test]
    fn empty_containers_stay_on_one_line() {
        let mut out = String::new();

        parse(r#"{"a":{},"b":[],"c":[[]]}"#, MAX_DEPTH).unwrap().write_indented(&mut out);

        assert_eq!(out, "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    []\n  ]\n}");
    }
}
