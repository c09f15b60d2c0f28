//! JSON as .NET writes it: the form in which a handler and a queue get the host's texts.

use std::borrow::Cow;
use std::fmt::Write;

use host_json::newtonsoft::Json;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// Whether the host would try to parse this text (`Utility.IsJson`): it starts and ends like an object or an array.
pub(super) fn looks_like_json(text: &str) -> bool {
    let text = text.trim();
    (text.starts_with('{') && text.ends_with('}')) || (text.starts_with('[') && text.ends_with(']'))
}

/// Whether Newtonsoft takes this string for a date, and so not for a string.
pub(super) fn is_date(text: &str) -> bool {
    Instant::recognise(text).is_some()
}

/// The value as `ToString()` gives it: raw strings, `True`, numbers, dates in the invariant culture, indented containers.
///
/// `None` is JSON null.
pub(super) fn into_text(value: Json<'_>) -> Option<Cow<'_, str>> {
    match value {
        Json::Null | Json::Undefined => None,
        Json::Bool(true) => Some(Cow::Borrowed("True")),
        Json::Bool(false) => Some(Cow::Borrowed("False")),
        Json::Integer(digits) => Some(digits),
        Json::Double(value) => {
            let mut text = String::new();
            write_double(&mut text, value);
            Some(Cow::Owned(text))
        }
        Json::Text(text) => Some(match Instant::recognise(&text) {
            Some(instant) => Cow::Owned(instant.invariant()),
            None => text,
        }),
        Json::Array(_) | Json::Object(_) | Json::Constructor(..) => {
            let mut text = String::new();
            write_indented(&mut text, &value);
            Some(Cow::Owned(text))
        }
    }
}

/// Replaces each call of `Date` by its date, as the host does in a handler's answer (`JsonWriter.WriteConstructorDate`).
pub(super) fn with_dates(value: Json<'_>) -> Json<'_> {
    match value {
        Json::Array(items) => Json::Array(items.into_iter().map(with_dates).collect()),
        Json::Object(members) => Json::Object(members.into_iter().map(|(name, value)| (name, with_dates(value))).collect()),
        Json::Constructor(name, arguments) => match date_of(&name, &arguments) {
            Some(instant) => {
                let mut text = String::new();
                instant.write(&mut text);
                Json::Text(text.into())
            }
            None => Json::Constructor(name, arguments.into_iter().map(with_dates).collect()),
        },
        other => other,
    }
}

/// Writes the value without white space (`Formatting.None`).
pub(super) fn write_compact(out: &mut String, value: &Json) {
    write_value(out, value, None);
}

/// Writes the value with two spaces a level (`Formatting.Indented`), line breaks as on Linux.
pub(super) fn write_indented(out: &mut String, value: &Json) {
    write_value(out, value, Some(0));
}

/// `level`: depth of the value if lines are indented.
fn write_value(out: &mut String, value: &Json, level: Option<usize>) {
    let inner = level.map(|level| level + 1);
    match value {
        Json::Null => out.push_str("null"),
        Json::Undefined => out.push_str("undefined"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Integer(digits) => out.push_str(digits),
        Json::Double(value) => write_number(out, *value),
        Json::Text(text) => write_text(out, text),
        Json::Array(items) => {
            out.push('[');
            write_items(out, items, level, |out, item| write_value(out, item, inner));
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            write_items(out, members, level, |out, (name, value)| {
                write_string(out, name);
                out.push_str(if level.is_some() { ": " } else { ":" });
                write_value(out, value, inner);
            });
            out.push('}');
        }
        Json::Constructor(name, arguments) => {
            push(out, format_args!("new {name}("));
            write_items(out, arguments, level, |out, item| write_value(out, item, inner));
            out.push(')');
        }
    }
}

/// Writes what stands between two brackets.
fn write_items<T>(out: &mut String, items: &[T], level: Option<usize>, write: impl Fn(&mut String, &T)) {
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        if let Some(level) = level {
            new_line(out, level + 1);
        }
        write(out, item);
    }
    if let Some(level) = level.filter(|_| !items.is_empty()) {
        new_line(out, level);
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

fn write_number(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push('"');
        write_double(out, value);
        out.push('"');
        return;
    }
    let start = out.len();
    write_double(out, value);
    // `JsonConvert.ToString(double)` keeps a whole double recognisable as one.
    if !out[start..].contains(['.', 'E']) {
        out.push_str(".0");
    }
}

/// Writes a double as .NET Core 3.0 and later do without a format: the shortest text that reads back the same.
fn write_double(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str(if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        });
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
    /// Follows `DateTimeUtils.TryParseDateTime` of Newtonsoft.Json.
    fn recognise(text: &str) -> Option<Self> {
        match text.strip_prefix("/Date(").and_then(|text| text.strip_suffix(")/")) {
            Some(inner) => Self::microsoft(inner),
            None => Self::iso(text),
        }
    }

    /// Reads milliseconds; a zone behind them makes the date a local one of the same moment.
    fn microsoft(text: &str) -> Option<Self> {
        let sign = text.char_indices().skip(1).find(|(_, character)| matches!(character, '+' | '-'));
        let (milliseconds, zone) = text.split_at(sign.map_or(text.len(), |(at, _)| at));
        if let Some(digits) = zone.get(1..) {
            let pairs = if digits.len() > 4 - 1 { digits.get(..4)? } else { digits.get(..2)? };
            pairs.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        }
        Self::of_milliseconds(milliseconds.parse().ok()?, if zone.is_empty() { "Z" } else { "+00:00" })
    }

    fn of_milliseconds(milliseconds: i64, suffix: &'static str) -> Option<Self> {
        let at = Offset::UTC.to_datetime(Timestamp::from_millisecond(milliseconds).ok()?);
        (at.year() > 0).then_some(Self { at, suffix })
    }

    /// Follows `DateTimeParser`, oddities included: the zone may lack its colon or its minutes.
    fn iso(text: &str) -> Option<Self> {
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

/// The date of `new Date(MILLISECONDS)` or `new Date(YEAR, MONTH, …)` (`JavaScriptUtils.TryGetDateFromConstructorJson`).
fn date_of(constructor: &str, arguments: &[Json]) -> Option<Instant> {
    if constructor != "Date" || arguments.len() > 7 {
        return None;
    }
    let number = |argument: &Json| match argument {
        Json::Integer(digits) => digits.parse::<i64>().ok(),
        _ => None,
    };
    let numbers: Vec<i64> = arguments.iter().map(number).collect::<Option<_>>()?;
    let &[year, month, ref rest @ ..] = numbers.as_slice() else { return Instant::of_milliseconds(*numbers.first()?, "Z") };
    let part = |place: usize| rest.get(place).copied().unwrap_or(0);
    let small = |number: i64| i8::try_from(number).ok();
    let day = if part(0) == 0 { 1 } else { part(0) };
    let date = Date::new(year.try_into().ok()?, small(month.checked_add(1)?)?, small(day)?).ok()?;
    let nanoseconds = i32::try_from(part(4)).ok()?.checked_mul(1_000_000)?;
    let time = Time::new(small(part(1))?, small(part(2))?, small(part(3))?, nanoseconds).ok()?;
    Some(Instant { at: date.to_datetime(time), suffix: "" })
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
    use host_json::newtonsoft::{Way, read};

    use super::*;

    fn compact(text: &str) -> String {
        let mut out = String::new();
        write_compact(&mut out, &read(text, Way::Parse).unwrap());
        out
    }

    fn scalar(text: &str) -> String {
        into_text(read(text, Way::Parse).unwrap()).unwrap().into_owned()
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
            ("/Date(1198908717056)/", "2007-12-29T06:11:57.056Z"),
            ("/Date(-1)/", "1969-12-31T23:59:59.999Z"),
            ("/Date(1198908717056+0100)/", "2007-12-29T06:11:57.056+00:00"),
            ("/Date(1198908717056-01)/", "2007-12-29T06:11:57.056+00:00"),
            ("/Date(1198908717056+x)/", "/Date(1198908717056+x)/"),
            ("/Date()/", "/Date()/"),
            ("/Date(99999999999999999)/", "/Date(99999999999999999)/"),
        ] {
            assert_eq!(compact(&format!("[\"{sent}\"]")), format!("[\"{nested}\"]"), "{sent}");
        }
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
    fn secret_keys_of_serde_json_mean_nothing() {
        for text in [r#"{"$serde_json::private::Number":"1"}"#, r#"{"$serde_json::private::RawValue":"[[[["}"#] {
            assert_eq!(compact(text), text);
        }
    }

    #[test]
    fn empty_containers_stay_on_one_line() {
        let mut out = String::new();

        write_indented(&mut out, &read(r#"{"a":{},"b":[],"c":[[]]}"#, Way::Parse).unwrap());

        assert_eq!(out, "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    []\n  ]\n}");
    }

    #[test]
    fn what_json_has_not_is_written_as_newtonsoft_writes_it() {
        assert_eq!(compact("[NaN,-Infinity,undefined,new Date(5)]"), r#"["NaN","-Infinity",undefined,new Date(5)]"#);
        assert_eq!(scalar("NaN"), "NaN");
        assert_eq!(scalar("new A(1)"), "new A(\n  1\n)");

        let dated = |text| into_text(with_dates(read(text, Way::Deserialize).unwrap())).unwrap().into_owned();
        assert_eq!(dated("[new Date(5),new Date(2026, 10, 23)]"), "[\n  \"1970-01-01T00:00:00.005Z\",\n  \"2026-11-23T00:00:00\"\n]");
        assert_eq!(dated("[new Date()]"), "[\n  new Date()\n]");
        assert_eq!(dated("[new Date(2026,10,0)]"), "[\n  \"2026-11-01T00:00:00\"\n]");
        for no_date in ["[new Date(0,9223372036854775807)]", "[new Date(2026,10,-1)]"] {
            let text = dated(no_date);
            assert!(text.contains("new Date("), "{text}");
        }
    }
}
