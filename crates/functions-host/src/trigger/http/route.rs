//! ASP.NET route templates as the host matches them against a request path (host §3.3, "Routing and requests, observed").

use std::borrow::Cow;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use uuid::Uuid;

/// Route values in template order; an optional parameter that the path leaves out is `None`.
pub type Params = Vec<(String, Option<String>)>;

/// A parsed `route` of an httpTrigger, without the route prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

impl Template {
    /// Parses a template such as `orders/{id:guid}/{section?}`.
    ///
    /// The error names the change needed in `function.json`.
    pub fn parse(template: &str) -> Result<Self, String> {
        let text = template.strip_prefix("~/").or_else(|| template.strip_prefix('/')).unwrap_or(template);
        let text = text.strip_suffix('/').unwrap_or(text);
        let mut segments: Vec<Segment> = Vec::new();
        if !text.is_empty() {
            for segment in split(text) {
                if matches!(segments.last(), Some(last) if last.is_catch_all()) {
                    return Err(format!("route '{template}': a catch-all parameter must be the last segment"));
                }
                let segment = Segment::parse(segment).map_err(|reason| format!("route '{template}': {reason}"))?;
                if let Some(parameter) = segment.parameter()
                    && segments.iter().filter_map(Segment::parameter).any(|other| other.name.eq_ignore_ascii_case(&parameter.name))
                {
                    return Err(format!("route '{template}': the parameter '{}' appears twice", parameter.name));
                }
                segments.push(segment);
            }
        }
        Ok(Self { segments })
    }

    /// Matches a path below the route prefix, still percent-encoded and without its leading slash.
    ///
    /// Names match without regard to case and one trailing slash is ignored; an empty segment matches nothing.
    /// `%2F` stays encoded in a value because Kestrel leaves it so, everything else is decoded.
    pub fn matches(&self, path: &str) -> Option<Params> {
        let mut params = Vec::new();
        let mut rest = Some(path).filter(|path| !path.is_empty());
        for segment in &self.segments {
            if let Segment::Parameter(parameter) = segment
                && parameter.kind == Kind::CatchAll
            {
                let value = rest.take().map(|rest| decode(rest).into_owned());
                params.push(parameter.bind(value)?);
                continue;
            }
            match rest {
                None => params.push(segment.omitted()?),
                Some(text) => {
                    let (here, after) = match text.split_once('/') {
                        Some((here, after)) => (here, Some(after).filter(|after| !after.is_empty())),
                        None => (text, None),
                    };
                    rest = after;
                    segment.matches(here, &mut params)?;
                }
            }
        }
        rest.is_none().then_some(params)
    }

    /// The only path that the template matches, percent-encoded, if it has no parameter.
    pub fn literal_path(&self) -> Option<String> {
        let literals = self.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => Some(utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()),
            Segment::Parameter(_) | Segment::Mixed { .. } => None,
        });
        Some(literals.collect::<Option<Vec<_>>>()?.join("/"))
    }

    /// Whether both templates are the same route, so that the host could not choose between them.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len() && self.segments.iter().zip(&other.segments).all(|(one, two)| one.same_shape(two))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(Parameter),
    /// Text around one parameter, such as `v{version}` or `{name}.json`.
    Mixed {
        prefix: String,
        parameter: Parameter,
        suffix: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter {
    name: String,
    kind: Kind,
    default: Option<String>,
    constraints: Vec<Constraint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Required,
    Optional,
    CatchAll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Constraint {
    Int,
    Long,
    Guid,
    Alpha,
    Bool,
    /// Range, including both ends.
    Value(i64, i64),
    /// Length in UTF-16 units, as .NET counts.
    Length(usize, usize),
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty segment (two slashes in a row)".to_owned());
        }
        let mut prefix = String::new();
        let mut parameter = None;
        let mut suffix = String::new();
        let mut characters = text.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            let literal = if parameter.is_none() { &mut prefix } else { &mut suffix };
            match character {
                '{' | '}' if characters.next_if(|(_, next)| *next == character).is_some() => {
                    literal.push(character);
                }
                '{' if parameter.is_some() => {
                    return Err(format!("the segment '{text}' has more than one parameter"));
                }
                '{' => {
                    let end = text[at..].find('}').ok_or_else(|| format!("the segment '{text}' lacks a closing brace"))?;
                    parameter = Some(Parameter::parse(&text[at + 1..at + end])?);
                    while characters.next_if(|(next, _)| *next <= at + end).is_some() {}
                }
                '}' => return Err(format!("the segment '{text}' lacks an opening brace")),
                '?' => {
                    return Err(format!("the segment '{text}' has a question mark outside a parameter"));
                }
                _ => literal.push(character),
            }
        }
        match parameter {
            None => Ok(Self::Literal(prefix)),
            Some(parameter) if prefix.is_empty() && suffix.is_empty() => Ok(Self::Parameter(parameter)),
            Some(parameter) if parameter.is_required() => Ok(Self::Mixed { prefix, parameter, suffix }),
            Some(_) => {
                Err(format!("the parameter in the segment '{text}' must fill the segment to be optional, a catch-all or have a default"))
            }
        }
    }

    fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Literal(_) => None,
            Self::Parameter(parameter) | Self::Mixed { parameter, .. } => Some(parameter),
        }
    }

    fn is_catch_all(&self) -> bool {
        matches!(self, Self::Parameter(parameter) if parameter.kind == Kind::CatchAll)
    }

    /// Matches one segment of the path and records its value.
    fn matches(&self, text: &str, params: &mut Params) -> Option<()> {
        if text.is_empty() {
            return None;
        }
        let text = decode(text);
        match self {
            Self::Literal(literal) => same_text(literal, &text).then_some(()),
            Self::Parameter(parameter) => {
                params.push(parameter.bind(Some(text.into_owned()))?);
                Some(())
            }
            Self::Mixed { prefix, parameter, suffix } => {
                let from = prefix.len();
                let to = text.len().checked_sub(suffix.len()).filter(|to| *to > from)?;
                let value = text.get(from..to)?;
                if !same_text(prefix, text.get(..from)?) || !same_text(suffix, text.get(to..)?) {
                    return None;
                }
                params.push(parameter.bind(Some(value.to_owned()))?);
                Some(())
            }
        }
    }

    /// Value of a segment that the path leaves out, if the template allows that.
    fn omitted(&self) -> Option<(String, Option<String>)> {
        match self {
            Self::Parameter(parameter) if !parameter.is_required() => parameter.bind(None),
            _ => None,
        }
    }

    fn same_shape(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(one), Self::Literal(two)) => same_text(one, two),
            (Self::Parameter(one), Self::Parameter(two)) => one.same_shape(two),
            (
                Self::Mixed { prefix, parameter, suffix },
                Self::Mixed { prefix: other_prefix, parameter: other_parameter, suffix: other_suffix },
            ) => same_text(prefix, other_prefix) && same_text(suffix, other_suffix) && parameter.same_shape(other_parameter),
            _ => false,
        }
    }
}

impl Parameter {
    /// Parses the text between the braces: `*rest`, `id:int:min(1)`, `page=1`, `section?`.
    fn parse(text: &str) -> Result<Self, String> {
        let (text, catch_all) = match text.strip_prefix('*') {
            Some(rest) => (rest.strip_prefix('*').unwrap_or(rest), true),
            None => (text, false),
        };
        let (text, default) = match text.split_once('=') {
            Some((text, default)) => (text, Some(default)),
            None => (text, None),
        };
        let (text, optional) = match text.strip_suffix('?') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        if name.is_empty() || name.contains(['{', '}', '?', '*', '(', ')']) {
            return Err(format!("'{name}' is not a parameter name"));
        }
        if optional && (default.is_some() || catch_all) || default.is_some_and(|default| default.ends_with('?')) {
            return Err(format!("the parameter '{name}' cannot be optional and have a default or be a catch-all"));
        }
        Ok(Self {
            name: name.to_owned(),
            kind: match (catch_all, optional) {
                (true, _) => Kind::CatchAll,
                (false, true) => Kind::Optional,
                (false, false) => Kind::Required,
            },
            default: default.map(str::to_owned),
            constraints: parts.map(Constraint::parse).collect::<Result<_, _>>()?,
        })
    }

    fn is_required(&self) -> bool {
        self.kind == Kind::Required && self.default.is_none()
    }

    fn bind(&self, value: Option<String>) -> Option<(String, Option<String>)> {
        let value = value.or_else(|| self.default.clone());
        let meets = value.as_deref().is_none_or(|value| self.constraints.iter().all(|constraint| constraint.accepts(value)));
        meets.then(|| (self.name.clone(), value))
    }

    fn same_shape(&self, other: &Self) -> bool {
        self.kind == other.kind && self.default.is_some() == other.default.is_some() && self.constraints == other.constraints
    }
}

impl Constraint {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, arguments) = match text.split_once('(') {
            Some((name, arguments)) => {
                (name, arguments.strip_suffix(')').ok_or_else(|| format!("the constraint '{text}' lacks a closing parenthesis"))?)
            }
            None => (text, ""),
        };
        let malformed = || format!("the constraint '{text}' has the wrong arguments");
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| malformed());
        let count = |text: &str| text.trim().parse::<usize>().map_err(|_| malformed());
        let pair = || arguments.split_once(',').ok_or_else(malformed);
        let constraint = match name.to_ascii_lowercase().as_str() {
            "int" => Self::Int,
            "long" => Self::Long,
            "guid" => Self::Guid,
            "alpha" => Self::Alpha,
            "bool" => Self::Bool,
            "min" => Self::Value(number(arguments)?, i64::MAX),
            "max" => Self::Value(i64::MIN, number(arguments)?),
            "range" => {
                let (least, most) = pair()?;
                Self::Value(number(least)?, number(most)?)
            }
            "minlength" => Self::Length(count(arguments)?, usize::MAX),
            "maxlength" => Self::Length(0, count(arguments)?),
            "length" => match arguments.split_once(',') {
                Some((least, most)) => Self::Length(count(least)?, count(most)?),
                None => Self::Length(count(arguments)?, count(arguments)?),
            },
            _ => return Err(format!("unknown constraint '{name}'")),
        };
        match constraint {
            Self::Int | Self::Long | Self::Guid | Self::Alpha | Self::Bool if text.contains('(') => Err(malformed()),
            Self::Value(least, most) if least > most => Err(malformed()),
            Self::Length(least, most) if least > most => Err(malformed()),
            constraint => Ok(constraint),
        }
    }

    fn accepts(&self, value: &str) -> bool {
        match *self {
            Self::Int => value.trim().parse::<i32>().is_ok(),
            Self::Long => value.trim().parse::<i64>().is_ok(),
            Self::Guid => is_guid(value.trim()),
            Self::Alpha => value.bytes().all(|byte| byte.is_ascii_alphabetic()),
            Self::Bool => ["true", "false"].iter().any(|word| word.eq_ignore_ascii_case(value.trim())),
            Self::Value(least, most) => value.trim().parse::<i64>().is_ok_and(|number| (least..=most).contains(&number)),
            Self::Length(least, most) => (least..=most).contains(&value.encode_utf16().count()),
        }
    }
}

/// Splits a template at its slashes, except those inside a parameter such as a default value.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |character| {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            _ => {}
        }
        character == '/' && !inside
    })
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

fn same_text(one: &str, two: &str) -> bool {
    one.eq_ignore_ascii_case(two)
        || (!one.is_ascii() && one.chars().flat_map(char::to_lowercase).eq(two.chars().flat_map(char::to_lowercase)))
}

/// Decodes a path as Kestrel does: `%2F` stays, and so does what is not UTF-8 when decoded.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.as_bytes().windows(3).position(|three| three.eq_ignore_ascii_case(b"%2f")) {
        decode_onto(&mut out, &rest[..at]);
        out.push_str(&rest[at..at + 3]);
        rest = &rest[at + 3..];
    }
    decode_onto(&mut out, rest);
    Cow::Owned(out)
}

fn decode_onto(out: &mut String, text: &str) {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => out.push_str(&decoded),
        Err(_) => out.push_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, path: &str) -> Option<Vec<Option<String>>> {
        Template::parse(template).unwrap().matches(path).map(|params| params.into_iter().map(|(_, value)| value).collect())
    }

    #[test]
    fn literals_match_without_regard_to_case_and_a_trailing_slash_is_ignored() {
        assert_eq!(matches("case/{id?}", "CASE/9"), Some(vec![Some("9".to_owned())]));
        assert_eq!(matches("case/{id?}", "case/9/"), Some(vec![Some("9".to_owned())]));
        assert_eq!(matches("Überblick", "%C3%BCBERBLICK"), Some(vec![]));
        assert_eq!(matches("a", "a/"), Some(vec![]));
        assert_eq!(matches("", ""), Some(vec![]));
    }

    #[test]
    fn a_double_slash_or_an_extra_segment_does_not_match() {
        for path in ["case//9", "case/9/8", "case//", "/case", "case/9//", "cas", "cases", ""] {
            assert_eq!(matches("case/{id?}", path), None, "{path}");
        }
    }

    #[test]
    fn an_absent_optional_parameter_is_present_as_null() {
        let template = Template::parse("orders/{id}/{section?}").unwrap();

        assert_eq!(template.matches("orders/42").unwrap(), [("id".to_owned(), Some("42".to_owned())), ("section".to_owned(), None)]);
        assert_eq!(template.matches("orders"), None);
    }

    #[test]
    fn an_encoded_slash_stays_encoded_and_everything_else_is_decoded() {
        assert_eq!(matches("{id}", "a%2Fb%2f%20%C3%A9+%25"), Some(vec![Some("a%2Fb%2f é+%".to_owned())]));
        assert_eq!(matches("{id}", "%zz%FF"), Some(vec![Some("%zz%FF".to_owned())]));
    }

    #[test]
    fn a_default_takes_the_place_of_an_absent_segment() {
        assert_eq!(matches("list/{page:int=1}", "list"), Some(vec![Some("1".to_owned())]));
        assert_eq!(matches("list/{page:int=1}", "list/7"), Some(vec![Some("7".to_owned())]));
        assert_eq!(matches("list/{page:int=1}", "list/x"), None);
    }

    #[test]
    fn a_catch_all_takes_the_rest() {
        assert_eq!(matches("files/{*rest}", "files/a/b//c"), Some(vec![Some("a/b//c".to_owned())]));
        assert_eq!(matches("files/{*rest}", "files"), Some(vec![None]));
        assert_eq!(matches("{**rest}", "x"), Some(vec![Some("x".to_owned())]));
    }

    #[test]
    fn a_segment_may_mix_text_and_one_parameter() {
        assert_eq!(matches("v{version:int}/x", "V2/x"), Some(vec![Some("2".to_owned())]));
        assert_eq!(matches("{name}.json", "a.b.JSON"), Some(vec![Some("a.b".to_owned())]));
        assert_eq!(matches("v{version}", "v"), None);
        assert_eq!(matches("v{version}", "é"), None);
    }

    #[test]
    fn constraints_decide() {
        for (template, accepted, refused) in [
            ("{x:int}", "-7", "2147483648"),
            ("{x:long}", "2147483648", "1.0"),
            ("{x:guid}", "0d6f2f1e-7c51-4a0e-9a55-3f3b6a1d2c10", "0d6f"),
            ("{x:alpha}", "abC", "ab1"),
            ("{x:bool}", "TRUE", "1"),
            ("{x:min(3)}", "3", "2"),
            ("{x:max(3)}", "3", "4"),
            ("{x:range(2,3)}", "2", "4"),
            ("{x:length(2)}", "ab", "abc"),
            ("{x:length(1,2)}", "ab", "abc"),
            ("{x:minlength(2)}", "ab", "a"),
            ("{x:maxlength(2)}", "ab", "abc"),
            ("{x:int:min(3)}", "4", "2"),
        ] {
            assert!(matches(template, accepted).is_some(), "{template} {accepted}");
            assert!(matches(template, refused).is_none(), "{template} {refused}");
        }
    }

    #[test]
    fn a_template_the_host_would_refuse_is_refused_with_its_reason() {
        for (template, reason) in [
            ("{id:regex(^a$)}", "unknown constraint 'regex'"),
            ("{id:int(1)}", "wrong arguments"),
            ("{id:min(x)}", "wrong arguments"),
            ("a//b", "empty segment"),
            ("{id", "closing brace"),
            ("id}", "opening brace"),
            ("{}", "not a parameter name"),
            ("{*rest}/x", "must be the last segment"),
            ("{id}/{ID}", "appears twice"),
            ("{a}-{b}", "more than one parameter"),
            ("v{version?}", "must fill the segment"),
            ("{id=1?}", "cannot be optional"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(reason), "{template}: {error}");
        }
    }

    #[test]
    fn only_a_template_without_parameters_is_one_path() {
        assert_eq!(Template::parse("a/b c").unwrap().literal_path().as_deref(), Some("a/b%20c"));
        assert_eq!(Template::parse("a/{b}").unwrap().literal_path(), None);
    }

    #[test]
    fn templates_conflict_when_only_names_and_case_differ() {
        let conflict = |one, two| Template::parse(one).unwrap().conflicts_with(&Template::parse(two).unwrap());

        assert!(conflict("Orders/{id}", "orders/{key}/"));
        assert!(!conflict("orders/{id}", "orders/{id:int}"));
        assert!(!conflict("orders/{id}", "orders/{id?}"));
        assert!(!conflict("orders/{id}", "orders/x"));
        assert!(!conflict("orders", "orders/{id?}"));
    }
}
