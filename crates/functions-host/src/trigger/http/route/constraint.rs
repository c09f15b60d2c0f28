//! Constraints of route parameters, such as `int` or `length(2,3)` (ASP.NET Core, `Routing/Constraints`).

use regex::Regex;
use uuid::Uuid;

use super::date_time;
use super::pattern::{self, Unusable};

/// A constraint of a parameter.
#[derive(Debug, Clone)]
pub(super) struct Constraint {
    text: String,
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Int,
    Long,
    Decimal,
    /// `double` and `float`, which take the same texts.
    Float,
    Guid,
    Alpha,
    Bool,
    DateTime,
    Required,
    File,
    NonFile,
    /// Range, including both ends.
    Value(i64, i64),
    /// Length in UTF-16 units, as .NET counts.
    Length(usize, usize),
    Regex(Regex),
    /// A regular expression that .NET cannot read, which stops no host and matches nothing.
    Dead,
}

impl Constraint {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once('(').zip(text.strip_suffix(')')) {
            Some(((name, _), whole)) => (name, Some(&whole[name.len() + 1..])),
            None => (text, None),
        };
        let malformed = || format!("the constraint '{text}' has the wrong arguments");
        let alone = |rule: Rule| if argument.is_none() { Ok(rule) } else { Err(malformed()) };
        let number = |text: &str| trim(text).parse::<i64>().map_err(|_| malformed());
        let count = |text: &str| trim(text).parse::<i32>().ok().and_then(|count| usize::try_from(count).ok()).ok_or_else(malformed);
        let argument = argument.ok_or_else(malformed);
        let several = argument.clone().map(|argument| argument.split(',').collect::<Vec<_>>());
        let rule = match name.to_ascii_lowercase().as_str() {
            "int" => alone(Rule::Int)?,
            "long" => alone(Rule::Long)?,
            "decimal" => alone(Rule::Decimal)?,
            "double" | "float" => alone(Rule::Float)?,
            "guid" => alone(Rule::Guid)?,
            "alpha" => alone(Rule::Alpha)?,
            "bool" => alone(Rule::Bool)?,
            "datetime" => alone(Rule::DateTime)?,
            "required" => alone(Rule::Required)?,
            "file" => alone(Rule::File)?,
            "nonfile" => alone(Rule::NonFile)?,
            "min" => Rule::Value(number(argument?)?, i64::MAX),
            "max" => Rule::Value(i64::MIN, number(argument?)?),
            "range" => match several?[..] {
                [least, most] => Rule::Value(number(least)?, number(most)?),
                _ => return Err(malformed()),
            },
            "minlength" => Rule::Length(count(argument?)?, usize::MAX),
            "maxlength" => Rule::Length(0, count(argument?)?),
            "length" => match several?[..] {
                [length] => Rule::Length(count(length)?, count(length)?),
                [least, most] => Rule::Length(count(least)?, count(most)?),
                _ => return Err(malformed()),
            },
            "regex" => match pattern::read(argument?) {
                Ok(regex) => Rule::Regex(regex),
                Err(Unusable::ByDotNet) => Rule::Dead,
                Err(Unusable::Here(what)) => {
                    return Err(format!("the constraint '{text}' has {what}, which the real host reads and this one cannot"));
                }
            },
            _ => return Err(format!("unknown constraint '{name}'")),
        };
        match rule {
            Rule::Value(least, most) if least > most => Err(malformed()),
            Rule::Length(least, most) if least > most => Err(malformed()),
            rule => Ok(Self { text: text.to_owned(), rule }),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.rule, Rule::Dead)
    }

    /// Whether a value is accepted; `None` is a catch-all parameter that the path leaves out.
    pub(super) fn accepts(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return matches!(self.rule, Rule::NonFile) };
        match &self.rule {
            Rule::Int => trim(value).parse::<i32>().is_ok(),
            Rule::Long => trim(value).parse::<i64>().is_ok(),
            Rule::Decimal => is_decimal(value),
            Rule::Float => is_float(value),
            Rule::Guid => is_guid(value.trim()),
            Rule::Alpha => value.strip_suffix('\n').unwrap_or(value).bytes().all(|byte| byte.is_ascii_alphabetic()),
            Rule::Bool => ["true", "false"].iter().any(|word| word.eq_ignore_ascii_case(value.trim())),
            Rule::DateTime => date_time::is_date_time(value),
            Rule::Required => !value.is_empty(),
            Rule::File => is_file(value),
            Rule::NonFile => !is_file(value),
            Rule::Value(least, most) => trim(value).parse::<i64>().is_ok_and(|number| (*least..=*most).contains(&number)),
            Rule::Length(least, most) => (*least..=*most).contains(&value.encode_utf16().count()),
            Rule::Regex(regex) => regex.is_match(value),
            Rule::Dead => false,
        }
    }
}

/// The last segment has a period and after it something else than periods.
fn is_file(value: &str) -> bool {
    let last = value.rsplit('/').next().unwrap_or_default();
    last.split_once('.').is_some_and(|(_, extension)| extension.contains(|character| character != '.'))
}

/// White space around a number, as .NET skips it.
fn trim(text: &str) -> &str {
    text.trim_matches(is_white)
}

fn is_white(character: char) -> bool {
    matches!(character, '\t'..='\r' | ' ')
}

/// The digits of a number before and after its point; thousands may be marked anywhere after the first digit.
fn digits(text: &str) -> Option<(String, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let has_digits = !(whole.starts_with(',') || whole.is_empty() && fraction.is_empty());
    let plain = whole.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') && fraction.bytes().all(|byte| byte.is_ascii_digit());
    (has_digits && plain).then(|| (whole.replace(',', ""), fraction))
}

/// `decimal.TryParse` with `NumberStyles.Number`: a sign before or after, thousands, no exponent.
fn is_decimal(value: &str) -> bool {
    const LARGEST: u128 = 79_228_162_514_264_337_593_543_950_335;
    let text = trim(value);
    let text = match text.strip_prefix(['+', '-']) {
        Some(text) => text,
        None => text.strip_suffix(['+', '-']).map_or(text, |text| text.trim_end_matches(is_white)),
    };
    let Some((whole, fraction)) = digits(text) else { return false };
    let whole = whole.trim_start_matches('0');
    let rounds_up = fraction.starts_with(|digit: char| digit >= '5');
    whole.is_empty() || whole.parse::<u128>().is_ok_and(|number| number < LARGEST || number == LARGEST && !rounds_up)
}

/// `double.TryParse` with `NumberStyles.Float | AllowThousands`: what is too large is infinite.
fn is_float(value: &str) -> bool {
    let text = trim(value);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["infinity", "nan"].iter().any(|word| word.eq_ignore_ascii_case(unsigned)) {
        return true;
    }
    match unsigned.split_once(['e', 'E']) {
        None => digits(unsigned).is_some(),
        Some((number, exponent)) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            digits(number).is_some() && !exponent.is_empty() && exponent.bytes().all(|byte| byte.is_ascii_digit())
        }
    }
}

/// `Guid.TryParse` reads digits alone, with hyphens, in braces or in parentheses, but no URN.
fn is_guid(text: &str) -> bool {
    let text = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
        .filter(|text| text.contains('-') && !text.starts_with('{'))
        .unwrap_or(text);
    !text.starts_with("urn:") && Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_decide() {
        for (constraint, accepted, refused) in [
            ("int", &["-7", "+7", " 7", "7\t"][..], &["2147483648", "1.0", "", "0x10", "٣", "\u{a0}7"][..]),
            ("long", &["2147483648"], &["9223372036854775808", "1e3"]),
            ("guid", &["0d6f2f1e-7c51-4a0e-9a55-3f3b6a1d2c10", "0D6F2F1E7C514A0E9A553F3B6A1D2C10"], &["0d6f"]),
            ("alpha", &["abC", ""], &["ab1", "ä"]),
            ("bool", &["TRUE", " false "], &["1", "yes"]),
            (
                "decimal",
                &["1,5", "1,000", "-1.5", "1.5-", "5.", ".5", "+1", " 7 ", "79228162514264337593543950335"],
                &["1e5", ".", ",5", "$1", "(1.5)", "-1-", "79228162514264337593543950336", "1.2.3", "1.0,0"],
            ),
            ("double", &["1e5", "1E-3", "NaN", "-Infinity", "1,000", "1.5e400", "5.", ".5", "infinity"], &["1e", "x", "1.5-", "∞", "0x10"]),
            ("float", &["1.5e3"], &["1.2.3"]),
            ("required", &["a"], &[""]),
            ("file", &["a.txt", "d/a.b", "5./a..b", ".gitignore"], &["a", "a.", "a.b/c", "..."]),
            ("nonfile", &["a", "a.b/c"], &["a.txt"]),
            ("min(3)", &["3"], &["2"]),
            ("max( -3 )", &["-3"], &["4"]),
            ("range(2, 3)", &["2", "3"], &["4"]),
            ("length(2)", &["ab", "😀"], &["abc"]),
            ("length(1,2)", &["ab"], &["abc", ""]),
            ("minlength(2)", &["ab"], &["a"]),
            ("maxlength(2)", &["ab"], &["abc"]),
            (r"regex(^\d{3}$)", &["123"], &["1234"]),
            ("regex()", &["anything"], &[]),
            ("regex(^[)", &[], &["", "["]),
        ] {
            let constraint = Constraint::parse(constraint).unwrap();
            for value in accepted {
                assert!(constraint.accepts(Some(value)), "{constraint:?} {value:?}");
            }
            for value in refused {
                assert!(!constraint.accepts(Some(value)), "{constraint:?} {value:?}");
            }
        }
    }

    #[test]
    fn what_the_host_cannot_make_is_refused() {
        for constraint in ["int(1)", "alpha()", "min", "min(x)", "range(5)", "range(3,2)", "length(1,2,3)", "length(-1)", "regex", "nosuch"]
        {
            assert!(Constraint::parse(constraint).is_err(), "{constraint}");
        }
    }
}
