//! A schema from its file: what it refuses, how it says so, and what it never does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

use std::path::PathBuf;

use order_schema::Schema;
use serde_json::{Value, json};
use waybill_domain::form::Rules;
use waybill_domain::json::Json;

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn with(files: &[(&str, &Value)]) -> Self {
        let directory = tempdir();
        for (name, content) in files {
            std::fs::write(directory.join(name), content.to_string()).unwrap();
        }
        Self(directory)
    }

    fn load(&self) -> Result<Schema, String> {
        Schema::load(&self.0.join("order.json"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = std::env::temp_dir().join(format!("order-schema-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn load(schema: &Value) -> Result<Schema, String> {
    Directory::with(&[("order.json", schema)]).load()
}

fn mistakes(schema: &Value, order: &str) -> Vec<String> {
    let found = load(schema).unwrap().mistakes(&Json::parse(order).unwrap(), 100);
    found.into_iter().map(|violation| format!("{} {}", violation.pointer, violation.detail)).collect()
}

#[test]
fn every_mistake_has_its_place_and_what_to_do() {
    let schema = json!({
        "type": "object",
        "required": ["title", "a/b"],
        "additionalProperties": false,
        "properties": {
            "title": { "type": "string", "minLength": 2, "pattern": "^[a-z]+$" },
            "a/b": {},
            "format": { "enum": ["pdf", "html"] },
            "pages": { "type": "array", "items": { "type": "integer", "minimum": 1 }, "uniqueItems": true, "maxItems": 3 },
            "price": { "type": "number", "multipleOf": 0.01, "exclusiveMaximum": 10 },
            "when": { "type": "string", "format": "date-time" },
            "to": { "oneOf": [{ "required": ["mail"] }, { "required": ["post", "country"] }] },
            "tags": { "contains": { "const": 1 }, "minContains": 2 },
            "rest": { "prefixItems": [true], "unevaluatedItems": false },
            "never": { "not": { "type": "number" } },
            "named": { "propertyNames": { "maxLength": 3 } },
        },
    });

    let found = mistakes(
        &schema,
        r#"{"title":"A","format":"doc","pages":[1,0,1,"2"],"price":10.001,"when":"soon","to":{"post":"x"},"other":1,"tags":[1],"rest":[1,2],"never":1,"named":{"long/er":1,"ok":2}}"#,
    );

    for expected in [
        "/a~1b is missing",
        "/other is not part of an order here; leave it out",
        "/title must have at least 2 characters",
        "/title must match the regular expression ^[a-z]+$",
        "/format must be one of \"pdf\", \"html\"",
        "/pages/1 must be at least 1",
        "/pages/3 must be a whole number, not a string",
        "/pages must not have one item twice",
        "/pages must have at most 3 items",
        "/price must be a multiple of 0.01",
        "/price must be less than 10",
        "/when must have the format date-time",
        "/tags must have items that match `contains` of the schema, as many as it asks for",
        "/rest has items that are not part of an order here; leave them out",
        "/named/long~1er has a name that is not allowed: the name must have at most 3 characters",
        "/never is what the schema excludes by `not`",
        "/to fits none of 2 alternatives; for the nearest: /to/mail is missing",
    ] {
        assert!(found.iter().any(|mistake| mistake == expected), "{expected}: {found:#?}");
    }
    assert_eq!(found.len(), 17, "{found:#?}");
}

#[test]
fn numbers_are_exact() {
    let schema = json!({ "properties": { "price": { "multipleOf": 0.01 }, "id": { "maximum": 9_007_199_254_740_992_u64 } } });

    assert_eq!(mistakes(&schema, r#"{"price":0.07,"id":9007199254740992}"#), Vec::<String>::new());
    assert_eq!(mistakes(&schema, r#"{"price":10000000000000000000.07}"#), Vec::<String>::new());
    assert_eq!(mistakes(&schema, r#"{"id":9007199254740993}"#), ["/id must be at most 9007199254740992"]);
}

#[test]
fn an_order_is_checked_as_it_would_be_from_its_text() {
    let schemas = [
        json!({ "const": 100 }),
        json!({ "const": { "b": [1, null], "a": "é" } }),
        json!({ "enum": ["", false, [], {}, 9_007_199_254_740_993_u64, 0.1] }),
        json!({ "type": "integer" }),
        json!({ "type": ["number", "null"], "multipleOf": 0.1, "maximum": 1e3, "exclusiveMinimum": -1 }),
        json!({ "type": "string", "minLength": 2, "maxLength": 3, "pattern": "^\\p{L}" }),
        json!({ "type": "array", "uniqueItems": true, "minItems": 1, "contains": { "const": 1 } }),
        json!({ "propertyNames": { "maxLength": 1 }, "patternProperties": { "^b": { "type": "array" } }, "maxProperties": 2 }),
        json!({ "required": ["a"], "dependentRequired": { "a": ["b"] }, "unevaluatedProperties": false, "properties": { "b": {} } }),
        json!({ "type": "object", "properties": { "a": { "$ref": "#" } }, "additionalProperties": { "type": "boolean" } }),
        json!({ "type": "array", "prefixItems": [{ "type": "number" }], "items": { "not": { "type": "number" } } }),
    ];
    let repeated = format!("[{},1.00]", (0..20).map(|number| number.to_string()).collect::<Vec<_>>().join(","));
    let orders = [
        "100 100.0 1e2 1E+2 -100 0 -0 -0.0 0.1 1e-1 0.10000000000000001 1.5 999.9 1000.0000000000001 1e400 9007199254740993 9007199254740992.0",
        r#"9007199254740993.0 123456789012345678901234567890 null true false "" "é" "éé" "𝄞𝄞𝄞" "a\u0000b" "\u0061b" [] [1] [1,1.0] [1,"1",true]"#,
        r#"[{"a":1},{"a":1.0}] [{"a":[1,2]},{"a":[2,1]}] [1e0,2] ["x",1] [1,[2]] {} {"a":1} {"a":{}} {"a":{"b":true}} {"b":[],"a":true}"#,
        r#"{"b":[1.0,null],"a":"\u00e9"} {"b":[1,null],"a":"e"} {"a":1,"b":1,"c":1} {"ab":1} {"bb":[]} {"b":1} {"":false}"#,
    ];
    let orders: Vec<_> = orders.iter().flat_map(|line| line.split(' ')).chain([repeated.as_str()]).collect();
    let mut valid = 0;
    for schema in &schemas {
        let expected = jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(schema).unwrap();
        for order in &orders {
            let is_valid = expected.is_valid(&serde_json::from_str(order).unwrap());
            assert_eq!(mistakes(schema, order).is_empty(), is_valid, "{schema} {order}");
            valid += usize::from(is_valid);
        }
    }
    assert!(valid > 50 && valid < schemas.len() * orders.len() - 50, "{valid} are valid");
}

#[test]
fn a_mistake_never_repeats_the_order() {
    let schema = json!({ "additionalProperties": false, "properties": {
        "a": { "not": { "type": "string" } }, "b": { "contains": { "const": 1 } }, "c": { "format": "email" }, "d": { "const": 2 },
        "e": { "dependentRequired": { "x": ["y"] } }, "f": { "unevaluatedItems": false }, "g": { "contentEncoding": "base64" },
        "h": { "anyOf": [{ "type": "number" }, { "pattern": "^x" }] }, "i": false, "j": { "propertyNames": { "maxLength": 1 } },
    } });
    let order = r#"{"a":"secret","b":["secret"],"c":"secret","d":"secret","e":{"x":"secret"},"f":["secret"],"g":"se cret","h":"secret","i":"secret","j":{"ab":"secret"}}"#;

    let found = mistakes(&schema, order);

    assert!(found.len() >= 9, "{found:#?}");
    assert!(!found.iter().any(|mistake| mistake.contains("cret")), "{found:#?}");
}

#[test]
fn references_lead_to_files_beside_the_schema_only() {
    let order = json!({ "properties": { "from": { "$ref": "person.json#/$defs/name" }, "self": { "$ref": "#" } }, "maxProperties": 2 });
    let person = json!({ "$defs": { "name": { "type": "string", "maxLength": 3 } } });
    let directory = Directory::with(&[("order.json", &order), ("person.json", &person)]);

    let schema = directory.load().unwrap();

    let found = schema.mistakes(&Json::parse(r#"{"self":{"from":"long name"}}"#).unwrap(), 100);
    assert_eq!((found.len(), found[0].pointer.as_str()), (1, "/self/from"), "{found:?}");
    assert_eq!(schema.documents(), [("order.json".to_owned(), order), ("person.json".to_owned(), person)]);
    for reference in [
        "https://example.com/a.json",
        "file:///etc/hostname",
        "../order.json/../x.json",
        "sub/x.json",
        "..%2fx.json",
        ".x.json",
        "/etc/hostname",
        "missing.json",
    ] {
        let problem = load(&json!({ "$ref": reference })).unwrap_err();
        assert!(problem.contains("nothing is fetched") || problem.contains("No such file"), "{reference}: {problem}");
    }
}

#[test]
fn a_reference_is_read_as_a_uri() {
    let order = json!({ "$id": "order", "properties": {
        "a": { "$ref": "./my%20file.json#/$defs/a%20b" }, "b": { "$ref": "my%20file.json#small" }, "c": { "$ref": "order#/$defs/c" },
        "d": { "$ref": "#/$defs/c" },
    }, "$defs": { "c": { "maximum": 3 } } });
    let other = json!({ "$defs": { "a b": { "maximum": 1 }, "x/y": { "$anchor": "small", "maximum": 2 } } });
    let directory = Directory::with(&[("order.json", &order), ("my file.json", &other)]);

    let schema = directory.load().unwrap();

    let found = schema.mistakes(&Json::parse(r#"{"a":9,"b":9,"c":9,"d":9}"#).unwrap(), 100);
    let details: Vec<_> = found.iter().map(|violation| violation.detail.as_str()).collect();
    assert_eq!(details, ["must be at most 1", "must be at most 2", "must be at most 3", "must be at most 3"]);
    for (own, reference, name, pointer) in [
        ("order.json", "./my%20file.json#/$defs/a%20b", "my file.json", "/$defs/a b"),
        ("order.json", "my%20file.json#small", "my file.json", "/$defs/x~1y"),
        ("order.json", "order#/$defs/c", "order.json", "/$defs/c"),
        ("my file.json", "#", "my file.json", ""),
        ("my file.json", "order.json", "order.json", ""),
    ] {
        let found = order_schema::resolve(schema.documents(), own, reference);
        assert_eq!(found, Some((name, pointer.to_owned())), "{reference}");
    }
    for reference in ["#/$defs/none", "#none", "other.json", "my%20file.json#/a%20b"] {
        assert_eq!(order_schema::resolve(schema.documents(), "order.json", reference), None, "{reference}");
    }
}

#[test]
fn a_schema_that_is_wrong_is_refused_with_its_place() {
    for (schema, why) in [
        (json!({ "properties": { "a": { "type": "strong" } } }), "at /properties/a/type: "),
        (json!({ "properties": { "a": { "$ref": "#/$defs/none" } } }), "/$defs/none"),
        (json!({ "properties": { "a": { "pattern": "(?=a)b" } } }), "at /properties/a/pattern: "),
        (json!({ "properties": { "a": { "pattern": "(" } } }), "at /properties/a/pattern: "),
        (json!({ "$schema": "http://json-schema.org/draft-07/schema#" }), "at /$schema: "),
        (json!([]), "is not of types"),
    ] {
        let problem = load(&schema).unwrap_err();
        assert!(problem.contains(why), "{why}: {problem}");
    }
    assert!(Directory::with(&[]).load().unwrap_err().contains("No such file"));
}

#[test]
fn no_schema_makes_an_order_slow_to_check() {
    let evil = json!({ "properties": { "a": { "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" }, "b": { "format": "email" } } });
    let branches: Vec<_> = (0..100).map(|number| json!({ "required": [number.to_string()] })).collect();
    let wide = json!({ "properties": { "a": { "items": { "anyOf": branches }, "uniqueItems": true } } });
    let tree = json!({ "additionalProperties": { "$ref": "#" }, "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" }, "leaf": false } });
    let leftover: Vec<_> = (0..400).map(|_| json!({ "unevaluatedItems": false })).collect();
    let copying = json!({ "properties": { "a": { "anyOf": leftover } } });
    let started = std::time::Instant::now();

    assert_eq!(
        mistakes(&copying, &format!(r#"{{"a":["{}"]}}"#, "x".repeat(240_000))),
        [" does not match the schema, and is too large to say where"]
    );
    let long = "a".repeat(200_000);
    assert_eq!(mistakes(&evil, &format!(r#"{{"a":"{long}","b":"{long}"}}"#)).len(), 2);
    assert_eq!(mistakes(&wide, &format!(r#"{{"a":[{}1]}}"#, "0,".repeat(100_000))).len(), 1);
    assert_eq!(mistakes(&wide, &format!(r#"{{"a":[{}{{}}]}}"#, "{},".repeat(60_000))).len(), 1, "of very many the first");
    assert_eq!(mistakes(&tree, &format!(r#"{}{{"leaf":1}}{}"#, r#"{"left":"#.repeat(30), "}".repeat(30))).len(), 1);

    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_schema_that_could_look_too_often_is_refused() {
    let twice = json!({ "anyOf": [
        { "properties": { "x": { "$ref": "#" } }, "required": ["y"] },
        { "properties": { "x": { "$ref": "#" } }, "required": ["z"] },
    ] });
    let patterns = json!({ "patternProperties": { "a": { "$ref": "#" }, "b": { "$ref": "#" } } });
    for schema in [twice, patterns] {
        assert!(load(&schema).unwrap_err().contains("more than 1000 times"));
    }
    let circle =
        json!({ "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/b" }] }, "b": { "not": { "$ref": "#/$defs/a" } } }, "$ref": "#/$defs/a" });
    assert!(load(&circle).unwrap_err().contains("refers to itself without going deeper"));
}
