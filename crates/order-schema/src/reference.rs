//! Where a reference in a schema leads.

use serde_json::Value;

/// The document that a reference in the document `own` leads to, and the JSON pointer of the part of it that is meant. `None`: there is
/// no such part, or only the base URI of a part within a document leads there.
pub fn resolve<'d>(documents: &'d [(String, Value)], own: &str, reference: &str) -> Option<(&'d str, String)> {
    let (path, place) = reference.split_once('#').unwrap_or((reference, ""));
    let path = in_this_folder(path);
    let file = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
    let is_meant = |(name, document): &&(String, Value)| {
        let id = document.get("$id").and_then(Value::as_str).map(in_this_folder);
        if path.is_empty() { name == own } else { *name == *file || id == Some(path) }
    };
    let (name, document) = documents.iter().find(is_meant)?;
    let place = percent_encoding::percent_decode_str(place).decode_utf8().ok()?;
    let is_pointer = place.is_empty() || place.starts_with('/');
    let pointer = if is_pointer { document.pointer(&place).map(|_| place.into_owned()) } else { anchored(document, &place) };
    Some((name.as_str(), pointer?))
}

/// The path without the steps that stay in the folder.
fn in_this_folder(path: &str) -> &str {
    path.trim_start_matches("./")
}

/// The JSON pointer of the part that has this anchor.
fn anchored(schema: &Value, anchor: &str) -> Option<String> {
    match schema {
        Value::Object(keywords) => {
            let is = |keyword: &str| keywords.get(keyword).and_then(Value::as_str) == Some(anchor);
            if is("$anchor") || is("$dynamicAnchor") {
                return Some(String::new());
            }
            keywords.iter().find_map(|(name, below)| Some(format!("/{}{}", escaped(name), anchored(below, anchor)?)))
        }
        Value::Array(elements) => {
            elements.iter().enumerate().find_map(|(index, below)| Some(format!("/{index}{}", anchored(below, anchor)?)))
        }
        _ => None,
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
