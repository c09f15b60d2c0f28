//! The part of the contract that is the deployment's own: what an order is.

use serde_json::{Map, Value, json};

use crate::domain::form::{OrderForm, OwnForm};
use crate::domain::order::MAX_ID;

/// The contract with this form of an order.
pub(super) fn with(contract: &str, form: &OrderForm) -> String {
    let OrderForm::Own(form) = form else { return contract.to_owned() };
    let mut contract: Value = serde_json::from_str(contract).expect("the contract is JSON");
    if let Some(schemas) = contract["components"]["schemas"].as_object_mut() {
        schemas.shift_remove("Item");
        schemas.insert("Order".into(), order(form));
        let documents = form.rules.iter().flat_map(|rules| rules.documents());
        schemas.extend(documents.map(|(name, document)| (component(name), moved(document, name))));
    }
    if form.order_id.is_none()
        && let Some(parameters) = contract["paths"]["/orders"]["post"]["parameters"].as_array_mut()
        && let Some(key) = parameters.iter_mut().find(|parameter| parameter["name"] == "Idempotency-Key")
    {
        key["required"] = true.into();
    }
    // It is an example of the built-in order.
    if let Some(body) = contract["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"].as_object_mut() {
        body.shift_remove("example");
    }
    serde_json::to_string_pretty(&contract).expect("JSON has only string keys") + "\n"
}

/// What every order of this form must be.
fn order(form: &OwnForm) -> Value {
    let names = [&form.order_id, &form.customer].into_iter().flatten();
    let mut all: Vec<_> = names.map(|pointer| at(pointer.parts())).collect();
    let rules = form.rules.as_ref().and_then(|rules| rules.documents().first());
    all.extend(rules.map(|(name, _)| json!({ "$ref": reference(name) })));
    json!({ "type": "object", "description": "An order of this deployment.", "allOf": all })
}

/// A name at this place. Any value may be where an array might stand.
fn at(parts: &[String]) -> Value {
    match parts {
        [] => json!({ "anyOf": [
            { "type": "string", "minLength": 1, "maxLength": MAX_ID,
              "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$" },
            { "type": "integer", "minimum": 0 },
        ] }),
        [part, ..] if part.bytes().all(|byte| byte.is_ascii_digit()) => json!({}),
        [part, below @ ..] => json!({ "type": "object", "required": [part], "properties": { (part): at(below) } }),
    }
}

/// A document as a component of the contract: its references lead to components.
fn moved(value: &Value, own: &str) -> Value {
    match value {
        Value::Object(members) => {
            let moved = members.iter().filter(|(name, value)| !(matches!(name.as_str(), "$id" | "$schema") && value.is_string()));
            let moved = moved.map(|(name, value)| match value {
                Value::String(target) if name == "$ref" => {
                    let (file, place) = target.split_once('#').unwrap_or((target, ""));
                    // An anchor is found wherever its schema stands.
                    let is_anchor = file.is_empty() && !place.is_empty() && !place.starts_with('/');
                    let file = if file.is_empty() { own } else { file };
                    (name.clone(), if is_anchor { value.clone() } else { (reference(file) + place).into() })
                }
                value => (name.clone(), moved_below(name, value, own)),
            });
            Value::Object(moved.collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements.iter().map(|element| moved(element, own)).collect(),
        value => value.clone(),
    }
}

/// The value of a keyword. Values that orders are compared with stay as they are.
fn moved_below(keyword: &str, value: &Value, own: &str) -> Value {
    if matches!(keyword, "const" | "enum" | "default" | "examples") { value.clone() } else { moved(value, own) }
}

fn reference(file: &str) -> String {
    format!("#/components/schemas/{}", component(file))
}

/// The name of a component has few characters, and is none of those of the contract.
fn component(file: &str) -> String {
    let name = file.strip_prefix("./").unwrap_or(file);
    format!("file.{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '.' | '-' | '_'), "_"))
}
