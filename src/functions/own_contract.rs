//! The part of the contract that is the deployment's own: what an order is.

use order_schema::NOT_IN_FRAGMENTS;
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use crate::domain::form::{OrderForm, OwnForm};
use crate::domain::order::MAX_ID;

/// Contents of requests and answers whose examples are of the built-in order, or of its work.
const BUILT_IN_EXAMPLES: [&str; 5] = [
    "/paths/~1orders/post/requestBody/content/application~1json",
    "/paths/~1orders/post/responses/400/content/application~1problem+json",
    "/paths/~1orders/get/responses/200/content/application~1json",
    "/paths/~1orders~1{trackingId}/get/responses/200/content/application~1json",
    "/paths/~1orders~1{trackingId}~1status/get/responses/200/content/application~1json",
];
/// The names that make two built-in orders the same, as the contract has them.
const BUILT_IN_IDENTITY: &str = "`customerId` and `orderId`";

/// The text of the contract, with this form of an order.
pub(super) fn text(contract: &OpenApi, form: &OrderForm) -> String {
    let text = serde_json::to_value(contract).and_then(|mut contract| {
        contract["webhooks"] = webhooks();
        if let OrderForm::Own(own) = form {
            replace_order(&mut contract, own, &form.identity());
        }
        serde_json::to_string_pretty(&contract)
    });
    text.expect("the contract has only string keys") + "\n"
}

/// The callback of an order's end, as its receiver gets it.
fn webhooks() -> Value {
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "required": true, "description": description, "schema": { "type": "string" } });
    json!({
        "orderEnded": {
            "post": {
                "operationId": "orderEnded",
                "summary": "Hear that an order has ended",
                "description": "Sent to `X-Callback-Url` or to the URL of the deployment, at least once, by Standard Webhooks.",
                "tags": ["orders"],
                "security": [],
                "parameters": [
                    header("webhook-id", "the same for every try of this end"),
                    header("webhook-timestamp", "seconds since 1970 of this try"),
                    header("webhook-signature", "`v1,` and the base64 of an HMAC-SHA-256; two during a rotation"),
                ],
                "requestBody": {
                    "required": true,
                    "content": { "application/json": { "schema": {
                        "type": "object",
                        "required": ["type", "timestamp", "data"],
                        "properties": {
                            "type": { "type": "string", "enum": ["order.completed", "order.failed", "order.cancelled"] },
                            "timestamp": { "$ref": "#/components/schemas/Timestamp", "description": "when the order ended" },
                            "data": { "$ref": "#/components/schemas/OrderStatus" },
                        },
                    } } },
                },
                "responses": {
                    "2XX": { "description": "Taken" },
                    "410": { "description": "Nothing more of this end is wanted" },
                    "default": { "description": "Sent again later; a redirect is not followed" },
                },
            },
        },
    })
}

fn replace_order(contract: &mut Value, form: &OwnForm, identity: &str) {
    if let Some(schemas) = contract["components"]["schemas"].as_object_mut() {
        schemas.shift_remove("Item");
        schemas.insert("Order".into(), order(form));
        let documents = form.rules.as_ref().map_or(&[][..], |rules| rules.documents());
        schemas.extend(documents.iter().map(|(own, document)| (component(own), Moving { documents, own }.schema(document))));
    }
    for content in BUILT_IN_EXAMPLES {
        if let Some(content) = contract.pointer_mut(content).and_then(Value::as_object_mut) {
            content.shift_remove("example");
        }
    }
    reword(&mut contract["components"]["schemas"]["Violation"]["properties"]["pointer"], ", e.g. `/items/0/quantity`", "");
    let post = &mut contract["paths"]["/orders"]["post"];
    if form.order_id.is_some() {
        let identity = format!("`{}`", identity.replace(" and ", "` and `"));
        reword(post, BUILT_IN_IDENTITY, &identity);
        reword(&mut post["responses"]["409"], BUILT_IN_IDENTITY, &identity);
    } else {
        reword(post, &format!(", or, without one, the same {BUILT_IN_IDENTITY}"), "");
        // Each request has a key, and another order under the same key is a 422.
        if let Some(responses) = post["responses"].as_object_mut() {
            responses.shift_remove("409");
        }
        let mut parameters = post["parameters"].as_array_mut().into_iter().flatten();
        if let Some(key) = parameters.find(|parameter| parameter["name"] == "Idempotency-Key") {
            key["required"] = true.into();
        }
    }
}

/// Replaces a part of a description.
fn reword(described: &mut Value, from: &str, to: &str) {
    if let Some(Value::String(text)) = described.get_mut("description") {
        *text = text.replace(from, to);
    }
}

/// What every order of this form must be.
fn order(form: &OwnForm) -> Value {
    let names = [&form.order_id, &form.customer].into_iter().flatten();
    let mut all: Vec<_> = names.map(|pointer| at(pointer.parts())).collect();
    let rules = form.rules.as_ref().and_then(|rules| rules.documents().first());
    all.extend(rules.map(|(name, _)| json!({ "$ref": reference(name, "") })));
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

/// The move of a document into the contract, where its references lead to components.
struct Moving<'d> {
    documents: &'d [(String, Value)],
    /// The name of the document.
    own: &'d str,
}

impl Moving<'_> {
    fn schema(&self, schema: &Value) -> Value {
        let Value::Object(keywords) = schema else { return schema.clone() };
        // With a base URI of its own a component would be outside the contract.
        let kept = keywords.iter().filter(|(name, value)| !(matches!(name.as_str(), "$id" | "$schema") && value.is_string()));
        Value::Object(kept.map(|(name, value)| (name.clone(), self.keyword(name, value))).collect::<Map<_, _>>())
    }

    /// The value of a keyword.
    fn keyword(&self, name: &str, value: &Value) -> Value {
        match (name, value) {
            // The anchor moves with its schema.
            ("$dynamicRef", Value::String(target)) if target.starts_with('#') && !target.starts_with("#/") => value.clone(),
            ("$ref" | "$dynamicRef", Value::String(target)) => self.target(target).into(),
            // Orders are compared with these, or shown them.
            ("const" | "enum" | "default" | "examples", _) => value.clone(),
            // The names of the members are no keywords.
            ("properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas", Value::Object(members)) => {
                Value::Object(members.iter().map(|(name, schema)| (name.clone(), self.schema(schema))).collect::<Map<_, _>>())
            }
            (_, Value::Array(elements)) => elements.iter().map(|element| self.schema(element)).collect(),
            (_, value) => self.schema(value),
        }
    }

    /// A reference as it stands in the contract. Every reference of a schema that was loaded can be resolved.
    fn target(&self, target: &str) -> String {
        let found = order_schema::resolve(self.documents, self.own, target);
        found.map_or_else(|| target.to_owned(), |(name, pointer)| reference(name, &pointer))
    }
}

fn reference(file: &str, pointer: &str) -> String {
    format!("#/components/schemas/{}{}", component(file), utf8_percent_encode(pointer, NOT_IN_FRAGMENTS))
}

/// The name of a component has few characters, and is none of those of the contract.
fn component(file: &str) -> String {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte).to_string(),
        other => format!("_{other:02x}"),
    };
    format!("file.{}", file.bytes().map(letter).collect::<String>())
}
