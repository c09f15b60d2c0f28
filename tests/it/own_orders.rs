//! Orders of the deployment's own form: what the engine needs of them, and where it finds that.

use serde_json::{Value, json};

use crate::support::{Answer, Directory, Handler, Program, http_envelope, order};

/// Does the work of orders of any form; no test here lets it be called.
const BACKEND: (&str, &str) = ("FULFILLMENT_URL", "http://127.0.0.1:9/work");

fn pointers(order_id: &'static str, customer: &'static str) -> [(&'static str, &'static str); 3] {
    [BACKEND, ("ORDER_ID", order_id), ("ORDER_CUSTOMER", customer)]
}

/// Every order that a client sees in the list: its tracking id, number and customer.
fn listed(handler: &Handler) -> Vec<(String, String, String)> {
    let text = |order: &Value, name: &str| order[name].as_str().unwrap().to_owned();
    let page = handler.list("").body;
    let orders = page["orders"].as_array().unwrap().iter();
    orders.map(|order| (text(order, "trackingId"), text(order, "orderId"), text(order, "customerId"))).collect()
}

fn places(answer: &Answer) -> Vec<&str> {
    assert_eq!((answer.status, &answer.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-order")), "{answer:?}");
    answer.body["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[test]
fn a_backend_takes_any_object_with_a_number_and_a_customer() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[BACKEND]);

    let (id, _) = handler.ingress(Some(r#"{"orderId":"R-1","customerId":"C","pages":[1,2]}"#), &[]).accepted();
    let wrong = handler.ingress(Some(r#"{"customerId":"\u0007","pages":[]}"#), &[]);

    assert_eq!(listed(&handler), [(id, "R-1".into(), "C".into())]);
    assert_eq!(places(&wrong), ["/customerId", "/orderId"]);
}

#[test]
fn number_and_customer_are_found_by_pointer() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/job/id", "/job/~1from"));
    let submit = |text: &str| handler.ingress(Some(text), &[]);

    let (id, _) = submit(r#"{"job":{"id":17,"/from":"Zoë"},"format":"pdf"}"#).accepted();
    let (same, _) = submit(r#"{"format":"pdf", "job":{"/from":"Zoë", "id":17}}"#).accepted();
    let (other, _) = submit(r#"{"job":{"id":18,"/from":"Zoë"},"format":"pdf"}"#).accepted();
    let conflict = submit(r#"{"job":{"id":17,"/from":"Zoë"},"format":"html"}"#);

    assert_eq!((&same, other == id), (&id, false));
    assert_eq!(conflict.status, 409);
    let detail = "an order with this /job/~1from and /job/id and other contents was accepted before; use another /job/id";
    assert_eq!(conflict.body["detail"], detail);
    assert_eq!(listed(&handler)[1], (id.clone(), "17".into(), "Zoë".into()));
    // An operator needs none of these settings.
    let (_, card) = Program::waybill(&["orders", "show", &id, "--data", data.path().to_str().unwrap()], &[]).end();
    assert!(card.iter().any(|line| line == "order     17") && card.iter().any(|line| line == "customer  Zoë"), "{card:?}");
}

#[test]
fn orders_without_a_number_need_an_idempotency_key() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("none", "none"));
    let submit = |text: &str, headers: &[(&str, &str)]| handler.ingress(Some(text), headers);

    let without = submit(r#"{"a":1}"#, &[]);
    let (id, _) = submit(r#"{"a":1}"#, &[("Idempotency-Key", "k-1")]).accepted();
    let (same, _) = submit(r#"{"a":1.0}"#, &[("Idempotency-Key", "k-1")]).accepted();
    let (other, _) = submit(r#"{"a":1}"#, &[("Idempotency-Key", "k-2")]).accepted();
    let conflict = submit(r#"{"a":2}"#, &[("Idempotency-Key", "k-1")]);

    assert_eq!((without.status, &without.body["type"]), (400, &json!("urn:problem-type:waybill:invalid-idempotency-key")));
    assert_eq!((&same, other == id, conflict.status), (&id, false, 422));
    assert_eq!(listed(&handler)[1], (id, String::new(), String::new()));
}

#[test]
fn without_a_customer_the_number_tells_the_orders_of_a_caller_apart() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/id", "none"));
    let submit = |text: &str| handler.ingress(Some(text), &[]);

    let (id, _) = submit(r#"{"id":"R-1"}"#).accepted();

    assert_eq!(submit(r#"{"id":"R-1"}"#).accepted().0, id);
    assert_eq!(
        submit(r#"{"id":"R-1","a":1}"#).body["detail"],
        "an order with this /id and other contents was accepted before; use another /id"
    );
}

#[test]
fn the_limits_of_a_text_hold_for_an_order_of_any_form() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &pointers("/id", "none"));
    let refused = |text: &str| handler.ingress(Some(text), &[]);
    let within = |inner: &str| format!(r#"{{"id":"a","x":{inner}}}"#);

    assert_eq!(places(&refused(&within(r#"{"y":1,"y":1}"#))), ["/x/y"]);
    assert_eq!(places(&refused(&within("1e401"))), ["/x"]);
    assert_eq!(places(&refused(&within(&"1".repeat(65)))), ["/x"]);
    assert_eq!(places(&refused(&within("\"\u{fffd}\""))), ["/x"]);
    assert_eq!(places(&refused(r#"{"id":"a\u0000b"}"#)), ["/id"]);
    assert_eq!(places(&refused(&format!(r#"{{"id":"{}"}}"#, "a".repeat(129)))), ["/id"]);
    assert_eq!(places(&refused("[]")), [""]);
    assert_eq!(refused(&within(&format!("{}{}", "[".repeat(32), "]".repeat(32)))).body["title"], "The body is not JSON");
    assert_eq!(refused(&within(&format!("{:?}", "x".repeat(256_000)))).status, 413);
}

#[test]
fn an_order_is_found_again_by_its_values_wherever_they_stand_after_a_restart() {
    let data = Directory::new();
    let built_in = order("A-1").to_string();
    let both = r#"{"orderId":"A-2","customerId":"C","id":"A-3","from":"C"}"#;
    let handler = Handler::start(data.path(), &[]);
    let (first, _) = handler.ingress(Some(&built_in), &[]).accepted();
    drop(handler);
    let handler = Handler::start(data.path(), &[BACKEND]);
    let (second, _) = handler.ingress(Some(both), &[]).accepted();

    assert_eq!(handler.ingress(Some(&built_in), &[]).accepted().0, first, "the values count, not the form");
    drop(handler);
    let handler = Handler::start(data.path(), &pointers("/id", "/from"));
    let (third, _) = handler.ingress(Some(both), &[]).accepted();
    let mistaken = handler.ingress(Some(r#"{"id":"A-1","from":"C-1001"}"#), &[]);

    assert_ne!(second, third, "the same text has another number now");
    assert_eq!(mistaken.status, 409, "another order with a number that was given before: {mistaken:?}");
    let names = |id: &str, order_id: &str, customer: &str| (id.to_owned(), order_id.to_owned(), customer.to_owned());
    let expected = [names(&third, "A-3", "C"), names(&second, "A-2", "C"), names(&first, "A-1", "C-1001")];
    assert_eq!(listed(&handler), expected, "each under the names that it was accepted with");
}

/// An app's folder with this schema, and a file beside it that it refers to.
fn with_schema(schema: &Value) -> Directory {
    let directory = Directory::new();
    directory.write("host.json", "{}");
    directory.write("schemas/order.json", &schema.to_string());
    directory.write("schemas/page.json", &json!({ "$defs": { "number": { "type": "integer", "minimum": 1 } } }).to_string());
    directory
}

fn report() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://reports.example/order.json",
        "type": "object", "required": ["pages"], "additionalProperties": false,
        "properties": {
            "id": { "type": "string" }, "from": { "type": "string" }, "format": { "$ref": "#/$defs/format" },
            "pages": { "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 1 } },
        },
        "$defs": { "format": { "enum": ["pdf", "html"] } },
    })
}

fn schema_settings(app: &Directory) -> Vec<(&str, &str)> {
    let mut settings = pointers("/id", "/from").to_vec();
    settings.extend([("ORDER_SCHEMA", "schemas/order.json"), ("FUNCTIONS_APP_ROOT_PATH", app.path().to_str().unwrap())]);
    settings
}

#[test]
fn an_order_is_what_the_schema_says_and_every_mistake_is_told_at_once() {
    let app = with_schema(&report());
    let handler = Handler::start(&app.path().join("data"), &schema_settings(&app));

    let accepted = handler.ingress(Some(r#"{"id":"R-1","from":"C","pages":[1],"format":"pdf"}"#), &[]);
    let refused = handler.ingress(Some(r#"{"id":5.5,"pages":[0,"2"],"format":"doc","colour":true}"#), &[]);

    assert_eq!(accepted.status, 202);
    assert_eq!(refused.body["detail"], "6 mistakes to correct; see errors");
    let errors: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| format!("{} {}", error["pointer"].as_str().unwrap(), error["detail"].as_str().unwrap()))
        .collect();
    assert_eq!(
        errors,
        [
            "/colour is not part of an order here; leave it out",
            "/format must be one of \"pdf\", \"html\"",
            "/from is missing; send a string of 1 to 128 characters",
            "/id must be a string, not a number with a fraction or an exponent",
            "/pages/0 must be at least 1",
            "/pages/1 must be a whole number, not a string",
        ]
    );
    assert_eq!(places(&handler.ingress(Some(r#"{"id":"R-1","id":"R-1","pages":[]}"#), &[])), ["/id"], "the limits come first");
}

#[test]
fn no_key_shows_the_schema_another_order_than_is_recorded() {
    let app = with_schema(&json!({
        "type": "object", "required": ["id", "from", "pages"],
        "properties": { "pages": { "type": "integer" }, "x": { "items": { "additionalProperties": false } } },
    }));
    let data = Directory::new();
    let handler = Handler::start(data.path(), &schema_settings(&app));

    for (members, place) in [
        (r#""pages":{"$serde_json::private::RawValue":"3"}"#, "/pages"),
        (r#""pages":3,"x":[{"\u0024serde_json::private::RawValue":"]["}]"#, "/x/0"),
    ] {
        let answer = handler.ingress(Some(&format!(r#"{{"id":"1","from":"c",{members}}}"#)), &[]);
        assert_eq!(places(&answer), [place], "{members}");
    }
    assert_eq!(listed(&handler).len(), 0);
}

fn contract(handler: &Handler) -> Value {
    let envelope = http_envelope("GET", "http://localhost:7071/api/openapi.json", &json!({}), None, &[]);
    Answer::of(&handler.invoke("OpenApi", &envelope)).body
}

/// Every `$ref` in a value, also those that are no references but stand in an example.
fn references(value: &Value) -> Vec<&str> {
    let own = value.get("$ref").and_then(Value::as_str);
    let below: Vec<&Value> = match value {
        Value::Object(members) => members.values().collect(),
        Value::Array(elements) => elements.iter().collect(),
        _ => Vec::new(),
    };
    own.into_iter().chain(below.into_iter().flat_map(references)).collect()
}

#[test]
fn the_contract_has_the_schema() {
    let mut schema = report();
    schema["$id"] = Value::Null;
    schema.as_object_mut().unwrap().remove("$id");
    schema["properties"]["pages"]["items"] = json!({ "$ref": "page.json#/$defs/number" });
    let app = with_schema(&schema);
    let mut settings = schema_settings(&app);
    settings.push(("ORDER_ID", "none"));
    let handler = Handler::start(&app.path().join("data"), &settings);

    let contract = contract(&handler);

    let schemas = &contract["components"]["schemas"];
    let order = &schemas["Order"]["allOf"];
    assert_eq!(order[0]["required"], json!(["from"]), "{order}");
    assert_eq!(order[1], json!({ "$ref": "#/components/schemas/file.order.json" }));
    let own = &schemas["file.order.json"];
    assert_eq!(own["properties"]["format"], json!({ "$ref": "#/components/schemas/file.order.json/$defs/format" }));
    assert_eq!(own["properties"]["pages"]["items"], json!({ "$ref": "#/components/schemas/file.page.json/$defs/number" }));
    assert_eq!(schemas["file.page.json"]["$defs"]["number"]["minimum"], 1);
    assert_eq!(contract["paths"]["/orders"]["post"]["parameters"][0]["required"], true);
}

#[test]
fn the_contract_says_nothing_of_the_built_in_order() {
    let app = with_schema(&report());
    for (order_id, said) in [("/id", "`/from` and `/id`"), ("none", "`Idempotency-Key`")] {
        let data = Directory::new();
        let settings = [&schema_settings(&app)[..], &[("ORDER_ID", order_id)]].concat();
        let contract = contract(&Handler::start(data.path(), &settings));

        let text = contract.to_string();
        for of_the_built_in in ["`customerId` and `orderId`", "A-1001", "SKU-1", "/items/0/quantity", "total_too_large", "totalling"] {
            assert!(!text.contains(of_the_built_in), "{of_the_built_in}");
        }
        let post = &contract["paths"]["/orders"]["post"];
        assert!(post["description"].as_str().unwrap().contains(said), "{post}");
        let conflict = post["responses"]["409"]["description"].as_str();
        assert_eq!(conflict.map(|text| text.contains(said)), (order_id != "none").then_some(true), "{post}");
        let accepted = "/responses/202/content/application~1json/example/status";
        assert_eq!(post.pointer(accepted), Some(&json!("accepted")), "it is the same for every order");
    }
}

#[test]
fn every_reference_of_the_contract_leads_to_a_part_of_it() {
    let mut schema = report();
    schema["$id"] = "report".into();
    schema["properties"]["default"] = json!({ "$ref": "./my%20file.json" });
    schema["properties"]["again"] = json!({ "$ref": "report#/$defs/format" });
    schema["properties"]["small"] = json!({ "$ref": "my%20file.json#small" });
    schema["patternProperties"] = json!({ "enum": { "$ref": "page.json#/$defs/number" } });
    schema["$defs"]["const"] = json!({ "$ref": "#/$defs/format", "default": { "$ref": "not a reference" } });
    let app = with_schema(&schema);
    let other = json!({ "$defs": { "a b": { "$anchor": "small" } }, "type": "string" });
    app.write("schemas/my file.json", &other.to_string());
    let handler = Handler::start(&app.path().join("data"), &schema_settings(&app));

    let mut contract = contract(&handler);

    let own = &mut contract["components"]["schemas"]["file.order.json"];
    let example = own["$defs"]["const"].as_object_mut().unwrap().remove("default");
    assert_eq!(example, Some(json!({ "$ref": "not a reference" })));
    assert_eq!(own["properties"]["default"]["$ref"], "#/components/schemas/file.my_20file.json");
    assert_eq!(own["properties"]["small"]["$ref"], "#/components/schemas/file.my_20file.json/$defs/a%20b");
    let all = references(&contract);
    assert!(all.len() > 10, "{all:?}");
    for reference in all {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}")).replace("%20", " ");
        assert!(contract.pointer(&pointer).is_some(), "{reference}");
    }
}

#[test]
fn a_setting_of_own_orders_that_is_wrong_stops_the_start() {
    for (settings, why) in [
        (&[BACKEND, ("ORDER_ID", "orderId")][..], "ORDER_ID is \"orderId\": set a JSON pointer such as /job/id, or none"),
        (&[BACKEND, ("ORDER_CUSTOMER", "/a~2")], "ORDER_CUSTOMER is \"/a~2\": set a JSON pointer"),
        (&[("ORDER_SCHEMA", "x.json")], "ORDER_SCHEMA is for orders of your own"),
        (&[BACKEND, ("ORDER_SCHEMA", "../x.json")], "ORDER_SCHEMA is \"../x.json\": set the path of a file below the app's folder"),
        (&[BACKEND, ("ORDER_SCHEMA", "none.json")], "ORDER_SCHEMA is \"none.json\", which cannot be used: No such file"),
        (&[("ORDER_ID", "/id")], "ORDER_ID is for orders of your own, and FULFILLMENT_URL, which does their work, is not set"),
    ] {
        let (status, lines) = Program::waybill(&["serve"], &[&[("FUNCTIONS_CUSTOMHANDLER_PORT", "1")], settings].concat()).end();

        assert_eq!(status.code(), Some(1));
        assert!(lines.iter().any(|line| line.contains(why)), "{why}: {lines:?}");
    }
    let app = with_schema(&json!({ "properties": { "id": { "type": "text" } } }));
    let settings = [&schema_settings(&app)[..], &[("FUNCTIONS_CUSTOMHANDLER_PORT", "1")]].concat();
    let (_, lines) = Program::waybill(&["serve"], &settings).end();
    let why = "ORDER_SCHEMA is \"schemas/order.json\", which cannot be used: at /properties/id/type: ";
    assert!(lines.iter().any(|line| line.contains(why)), "{lines:?}");
}
