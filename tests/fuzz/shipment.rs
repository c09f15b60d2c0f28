//! A second reading of `shipment.schema.json`, without a library: whether an order is a shipment.

use std::collections::BTreeSet;

use waybill::domain::json::{self, Json};

/// Whether an order may be accepted. `None`: its address of mail is neither plainly right nor plainly wrong.
pub(crate) fn is_shipment(order: &Json<'_>) -> Option<bool> {
    const KNOWN: [&str; 8] = ["orderId", "customerId", "ready", "weight", "tags", "table", "parts", "kind"];
    let Json::Object(members) = order else { return Some(false) };
    let (kind, by_kind) = match order.member("kind") {
        Some(Json::String(kind)) if kind == "post" => ("to", order.member("to").map(|to| Some(is_address(to)))),
        Some(Json::String(kind)) if kind == "mail" => ("mail", order.member("mail").map(is_mail)),
        _ => return Some(false),
    };
    let rest = is_sound(order)
        && members.iter().all(|(name, _)| KNOWN.contains(&&**name) || name == kind)
        && text(order.member("orderId")).is_some_and(is_number_of_an_order)
        && text(order.member("customerId")).is_some_and(is_uuid)
        && order.member("ready").is_none_or(|ready| text(Some(ready)).is_some_and(is_date))
        && order.member("weight").is_none_or(is_weight)
        && order.member("tags").is_none_or(are_tags)
        && order.member("table").is_none_or(is_table)
        && order.member("parts").is_none_or(are_parts);
    if rest { by_kind.unwrap_or(Some(false)) } else { Some(false) }
}

/// What every order must be: no key twice, no absurd number, nothing damaged.
fn is_sound(json: &Json<'_>) -> bool {
    let damaged = |text: &str| text.contains('\u{fffd}');
    match json {
        Json::Null | Json::Bool(_) => true,
        Json::Number(digits) => json::is_readable_number(digits),
        Json::String(text) => !damaged(text),
        Json::Array(elements) => elements.iter().all(is_sound),
        Json::Object(members) => {
            let names: BTreeSet<_> = members.iter().map(|(name, _)| name).collect();
            names.len() == members.len() && members.iter().all(|(name, value)| !damaged(name) && is_sound(value))
        }
    }
}

fn text<'j>(json: Option<&'j Json<'_>>) -> Option<&'j str> {
    match json {
        Some(Json::String(text)) => Some(text),
        _ => None,
    }
}

fn is_number_of_an_order(text: &str) -> bool {
    text.strip_prefix("S-").is_some_and(|digits| (1..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |digits: &str, length: usize| {
        (digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2)) else { return false };
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap_year => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

fn is_mail(json: &Json<'_>) -> Option<bool> {
    let Some(text) = text(Some(json)) else { return Some(false) };
    let Some((local, domain)) = text.split_once('@') else { return Some(false) };
    let is_plain = |part: &str| (1..30).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_plain(local) && domain.split('.').all(is_plain) && domain.len() < 60).then_some(true)
}

fn is_address(json: &Json<'_>) -> bool {
    let Json::Object(members) = json else { return false };
    let is_member = |name: &str, value: &Json<'_>| match (name, value) {
        ("name", Json::String(text)) => !text.is_empty(),
        ("a/b~c", value) => matches!(value, Json::String(_) | Json::Null),
        // The white space of ECMAScript, which is Unicode's with the mark of the byte order, and without U+0085.
        (_, Json::String(text)) => !text.chars().any(|char| (char.is_whitespace() && char != '\u{85}') || char == '\u{feff}'),
        _ => false,
    };
    json.member("name").is_some() && members.iter().all(|(name, value)| name.chars().count() <= 20 && is_member(name, value))
}

/// Significant digits without zeros at either end, and the exponent of the last one; no digits for zero.
fn decimal(digits: &str) -> (bool, String, isize) {
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let shorter = all.trim_end_matches('0');
    let exponent = exponent.parse::<isize>().unwrap() - fraction.len().cast_signed() + (all.len() - shorter.len()).cast_signed();
    (is_negative, shorter.trim_start_matches('0').to_owned(), exponent)
}

fn is_weight(json: &Json<'_>) -> bool {
    let Json::Number(digits) = json else { return false };
    let (is_negative, digits, exponent) = decimal(digits);
    let length = digits.len().cast_signed() + exponent;
    !digits.is_empty() && !is_negative && exponent >= -2 && (length < 4 || (length == 4 && digits == "1"))
}

fn is_natural(json: &Json<'_>) -> bool {
    let Json::Number(digits) = json else { return false };
    let (is_negative, digits, exponent) = decimal(digits);
    digits.is_empty() || (!is_negative && exponent >= 0)
}

fn are_tags(json: &Json<'_>) -> bool {
    let Json::Array(tags) = json else { return false };
    let names = tags.iter().map(|tag| match tag {
        Json::Null => Some("null"),
        Json::String(text) if ["fragile", "cold"].contains(&&**text) => Some(&**text),
        _ => None,
    });
    names.collect::<Option<BTreeSet<_>>>().is_some_and(|names| names.len() == tags.len())
}

fn is_table(json: &Json<'_>) -> bool {
    let Json::Array(rows) = json else { return false };
    let is_row = |row: &Json<'_>| match row {
        Json::Array(cells) => match &cells[..] {
            [Json::String(name), number, rest @ ..] => {
                (1..=8).contains(&name.chars().count()) && is_natural(number) && rest.iter().all(|cell| matches!(cell, Json::Bool(_)))
            }
            _ => false,
        },
        _ => false,
    };
    (1..=40).contains(&rows.len()) && rows.iter().all(is_row)
}

fn are_parts(json: &Json<'_>) -> bool {
    let Json::Array(parts) = json else { return false };
    parts.iter().all(|part| {
        matches!(part, Json::Object(members) if members.iter().all(|(name, _)| ["sku", "parts"].contains(&&**name)))
            && text(part.member("sku")).is_some_and(|sku| sku.starts_with(|first: char| first.is_ascii_uppercase()))
            && part.member("parts").is_none_or(are_parts)
    })
}
