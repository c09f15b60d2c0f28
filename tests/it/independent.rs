//! The official JavaScript client reads what we wrote (`tests/independent`): a reader that shares no code with us.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::support::{Handler, Program, repository, skipped};

/// Digits that no float keeps, spaces, an escape, letters that are not ASCII.
fn text(order_id: &str) -> String {
    let items = r#"[ {"sku":"SKU-1", "quantity":2,"unitPrice":"19.900000"} ]"#;
    let unknown = r#""x":{"big":12345678901234567890.10,"e":1E400,"zero":-0.0}"#;
    format!(r#"{{ "orderId":"{order_id}","customerId":"Zo\u00eb é 🚚",  "currency":"EUR", "items":{items}, {unknown} }}"#)
}

/// The script, unless Node.js or the client is missing, which `REQUIRE_ALL=1` makes a failure.
fn script() -> Option<PathBuf> {
    let directory = repository().join("tests/independent");
    let missing = if Command::new("node").arg("--version").output().is_err() {
        "node not found"
    } else if !directory.join("node_modules/@azure/cosmos/package.json").exists() {
        "the JavaScript client is not installed: npm ci --prefix tests/independent"
    } else {
        return Some(directory.join("read.js"));
    };
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{missing}");
    skipped(missing);
    None
}

/// What the client sees of these orders.
fn read(script: &Path, emulator: &Emulator, ids: &[&str]) -> Value {
    let connection = emulator.setting("CosmosConnection");
    let key = connection.split_once("AccountKey=").unwrap().1.trim_end_matches(';');
    let ids = ids.join(",");
    let environment: BTreeMap<_, _> = [
        ("COSMOS_ENDPOINT", emulator.endpoint()),
        ("COSMOS_KEY", key),
        ("COSMOS_DATABASE", emulator.setting("CosmosDatabase")),
        ("COSMOS_CONTAINER", emulator.setting("CosmosContainer")),
        ("IDS", &ids),
    ]
    .into();
    let mut command = Command::new("node");
    command.arg(script).env_clear().envs(environment);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let (status, lines) = Program::start(&mut command).end();
    assert!(status.success(), "{}", lines.join("\n"));
    serde_json::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{error}: {lines:?}"))
}

#[test]
fn the_javascript_client_finds_what_we_wrote() {
    let Some(script) = script() else { return };
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let (completed, message) = handler.ingress(Some(&text("JS-1")), &[]).accepted();
    assert_eq!(handler.process(&message).status, 200);
    let (accepted, _) = handler.ingress(Some(&text("JS-2")), &[]).accepted();

    let seen = read(&script, &emulator, &[&completed, &accepted]);

    assert_eq!(seen["partitionKey"]["paths"], json!(["/id"]));
    assert_eq!(seen["defaultTtl"], -1);
    for (id, order_id) in [(&completed, "JS-1"), (&accepted, "JS-2")] {
        let found = &seen["items"][id];
        assert_eq!((&found["statusCode"], &found["item"]["id"]), (&200.into(), &id.as_str().into()), "{found}");
        assert_eq!(found["item"]["record"]["order"], text(order_id));
        let etag = found["item"]["_etag"].as_str().unwrap();
        assert!(!etag.is_empty() && found["etag"] == etag, "{found}");
    }
    let (completed, accepted_item) = (&seen["items"][&completed]["item"], &seen["items"][&accepted]["item"]);
    assert_eq!((&completed["record"]["status"], &completed["ttl"]), (&"completed".into(), &604_800.into()));
    assert_eq!(completed.get("dueAt"), None);
    assert_eq!((&accepted_item["record"]["status"], accepted_item.get("ttl")), (&"accepted".into(), None));
    assert!(accepted_item["dueAt"].as_i64() > accepted_item["record"]["submittedAt"].as_i64(), "{accepted_item}");
    assert_eq!(seen["withDueAt"], json!([accepted]));
}

#[test]
fn the_javascript_client_does_not_find_what_we_did_not_write() {
    let Some(script) = script() else { return };
    let emulator = Emulator::start(&[]);
    let nobody = "00000000-0000-8000-8000-000000000000";

    let seen = read(&script, &emulator, &[nobody]);

    assert_eq!((&seen["items"][nobody]["statusCode"], &seen["items"][nobody]["item"]), (&404.into(), &Value::Null));
    assert_eq!(seen["withDueAt"], json!([]));
}
