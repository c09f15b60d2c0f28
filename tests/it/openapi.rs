//! The contract: the copy in the repository is the one that is served.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Directory, Host, hopeless, repository};

/// The contract in the repository, which another test holds against the one that is served.
fn contract() -> Value {
    serde_json::from_str(&std::fs::read_to_string(repository().join("docs/openapi.json")).unwrap()).unwrap()
}

/// Calls `look` with every object in this value.
fn walk(value: &Value, path: &str, look: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            look(path, value);
            members.iter().for_each(|(name, member)| walk(member, &format!("{path}/{name}"), look));
        }
        Value::Array(elements) => elements.iter().for_each(|element| walk(element, path, look)),
        _ => {}
    }
}

#[test]
fn the_contract_is_served_to_anyone_and_its_copy_is_current() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let served = host.get("/api/openapi.json");

    assert_eq!((served.status, served.headers["content-type"].split(';').next()), (200, Some("application/json")));
    assert_eq!(served.json()["openapi"], "3.1.0");
    let copy = std::fs::read_to_string(repository().join("docs/openapi.json")).unwrap_or_default();
    // Written here, so that only a look at the difference is left to do.
    if copy != served.body {
        let current = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
        std::fs::write(&current, &served.body).unwrap();
        panic!("docs/openapi.json is not current: compare it with {}, and copy that over it", current.display());
    }
}

#[test]
fn every_problem_has_a_line_that_says_what_to_do() {
    let page = std::fs::read_to_string(repository().join("docs/problems.md")).unwrap();

    for (status, kind) in waybill::domain::problem::Problem::KINDS {
        let name = kind.strip_prefix("urn:problem-type:waybill:").unwrap();
        assert!(page.contains(&format!("| `{name}` | {status} |")), "{kind}");
    }
}

/// Generators make an empty class of `oneOf [a string, null]`, and its value is lost.
#[test]
fn generators_find_plain_types_in_the_contract() {
    let contract = contract();
    let (mut choices, mut nulls) = (Vec::new(), Vec::new());

    let takes_null = |schema: &Value| {
        let (null, one) = ("null".into(), &schema["type"]);
        *one == null
            || one.as_array().is_some_and(|types| types.contains(&null))
            || schema.get("const").is_some_and(Value::is_null)
            || schema["enum"].as_array().is_some_and(|values| values.contains(&Value::Null))
    };

    walk(&contract, "", &mut |path, object| {
        for choice in ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|name| object.get(name)?.as_array()) {
            choices.extend(choice.iter().filter(|schema| takes_null(schema)).map(|_| path.to_owned()));
        }
        let is_null = object["type"].is_array() && takes_null(object);
        if is_null && (path.contains("/parameters") || path.contains("/headers/")) {
            nulls.push(path.to_owned());
        }
    });

    assert!(choices.is_empty(), "a choice with null: {choices:#?}");
    assert!(nulls.is_empty(), "no header and no parameter is null: {nulls:#?}");
    let schemas = &contract["components"]["schemas"];
    for name in ["startedAt", "completedAt"] {
        let moment = &schemas["OrderStatus"]["properties"][name];
        assert_eq!((&moment["type"], &moment["format"]), (&serde_json::json!(["string", "null"]), &"date-time".into()), "{name}");
    }
    assert_eq!(schemas["Problem"]["properties"]["detail"]["x-ms-primary-error-message"], true);
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap_or_else(|| panic!("{object}")).keys().map(String::as_str).collect()
}

#[test]
fn the_examples_of_the_contract_are_what_the_program_takes_and_answers() {
    let contract = contract();
    let example = |path: &str| contract.pointer(path).unwrap_or_else(|| panic!("no {path}")).clone();
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let order = example("/paths/~1orders/post/requestBody/content/application~1json/example");
    let accepted = host.post("/api/orders", &order);
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json()["trackingId"].as_str().unwrap().to_owned();
    let completed = host.ended(&id);
    let failed = host.ended(&host.submit(&hopeless("EXAMPLE-2")));
    let list = host.get("/api/orders?limit=1").json();
    let mut wrong = order.clone();
    wrong["items"][0]["quantity"] = 0.into();
    let invalid = host.post("/api/orders", &wrong).json();
    let missing = host.get("/api/orders/0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10/status").json();

    let answer =
        |path: &str, status: &str, kind: &str| example(&format!("/paths/{path}/responses/{status}/content/application~1{kind}/example"));
    let status = "~1orders~1{trackingId}~1status/get";
    assert_eq!(names(&answer("~1orders/post", "202", "json")), names(&accepted.json()));
    assert_eq!(names(&answer(status, "200", "json")), names(&completed));
    assert_eq!(answer(status, "200", "json")["result"], completed["result"], "the result of the example order");
    assert_eq!(names(&answer("~1orders~1{trackingId}/get", "200", "json")), names(&completed));
    assert_eq!(names(&answer("~1orders/get", "200", "json")), names(&list));
    assert_eq!(names(&answer("~1orders/get", "200", "json")["orders"][0]), names(&list["orders"][0]));
    assert_eq!(answer("~1orders/post", "400", "problem+json"), invalid);
    assert_eq!(answer(status, "404", "problem+json"), missing);
    assert_eq!(names(&failed["error"]), ["code", "message"].into());
}

#[test]
fn the_contract_says_that_a_200_does_not_mean_done() {
    let contract = contract();

    for path in ["/orders/{trackingId}", "/orders/{trackingId}/status"] {
        let said = contract["paths"][path]["get"]["responses"]["200"]["description"].as_str().unwrap_or_else(|| panic!("no GET {path}"));
        assert!(said.contains("does not mean that the order has ended"), "{said}");
    }
    assert!(!contract.to_string().contains("Operation-Location"));
}
