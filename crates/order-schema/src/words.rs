//! A mistake in words that a client can act on. A value of the order is never repeated, since it may be long or private.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;
use waybill_domain::order::Violation;

/// Longest text, in characters.
const MAX_TEXT: usize = 300;

/// The mistakes that one error of the schema means.
pub(crate) fn violations(error: &ValidationError<'_>) -> Vec<Violation> {
    let here = error.instance_path().as_str();
    let below = |name: &str, detail: &str| Violation { pointer: format!("{here}/{}", escaped(name)), detail: detail.into() };
    match error.kind() {
        Kind::Required { property: Value::String(name) } => vec![below(name, "is missing")],
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            unexpected.iter().map(|name| below(name, "is not part of an order here; leave it out")).collect()
        }
        Kind::PropertyNames { error: why } => match why.instance().as_ref() {
            Value::String(name) if !name.is_empty() => {
                vec![below(name, &cut(&format!("has a name that is not allowed: the name {}", detail(why))))]
            }
            _ => vec![Violation { pointer: here.to_owned(), detail: detail(error) }],
        },
        _ => vec![Violation { pointer: here.to_owned(), detail: detail(error) }],
    }
}

fn detail(error: &ValidationError<'_>) -> String {
    let text = match error.kind() {
        Kind::Type { kind } => format!("must be {}, not {}", types(kind), kind_of(error.instance())),
        Kind::Enum { options } => format!("must be one of {}", list(options)),
        Kind::Constant { expected_value } => format!("must be {expected_value}"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::Pattern { pattern } => format!("must match the regular expression {pattern}"),
        Kind::Format { format } => format!("must have the format {format}"),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::UniqueItems => "must not have one item twice".into(),
        Kind::MinProperties { limit } => format!("must have at least {limit} members"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} members"),
        Kind::Contains => "must have items that match `contains` of the schema, as many as it asks for".into(),
        Kind::UnevaluatedItems { .. } => "has items that are not part of an order here; leave them out".into(),
        Kind::Not { .. } => "is what the schema excludes by `not`".into(),
        Kind::FalseSchema => "is not part of an order here; leave it out".into(),
        Kind::PropertyNames { error } => format!("has a name that is not allowed: the name {}", detail(error)),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => alternatives(context),
        Kind::OneOfMultipleValid { .. } => "fits more than one of the alternatives; it must fit exactly one".into(),
        _ => error.masked_with("this value").to_string(),
    };
    cut(&text)
}

/// The mistakes of the alternative that is nearest.
fn alternatives(context: &[Vec<ValidationError<'_>>]) -> String {
    let nearest = context.iter().filter(|errors| !errors.is_empty()).min_by_key(|errors| errors.len());
    let mistakes = nearest.into_iter().flatten().flat_map(violations).map(|Violation { pointer, detail }| format!("{pointer} {detail}"));
    format!("fits none of {} alternatives; for the nearest: {}", context.len(), mistakes.collect::<Vec<_>>().join("; "))
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => with_article(*one).into(),
        TypeKind::Multiple(set) => set.iter().map(with_article).collect::<Vec<_>>().join(" or "),
    }
}

fn with_article(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "a whole number",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.as_str().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => "a whole number",
        Value::Number(_) => "a number with a fraction or an exponent",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn list(options: &Value) -> String {
    options.as_array().map_or_else(|| options.to_string(), |all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// At most [`MAX_TEXT`] characters, none of them a control character.
pub(crate) fn cut(text: &str) -> String {
    let mut short: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_TEXT + 1).collect();
    if short.chars().count() > MAX_TEXT {
        short.pop();
        short.push('…');
    }
    short
}
