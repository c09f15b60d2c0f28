//! What `waybill doctor` finds, in an app's folder and in a running app.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use waybill::functions::doctor::finding::ALL;

use crate::emulator::Emulator;
use crate::fake::{Fake, Reply, reply};
use crate::package::{app, static_program};
use crate::support::{Directory, Handler, Host, Program, eventually, free_port, http_envelope, order, repository};

/// The settings of an app that is well deployed.
const DEPLOYED: [(&str, &str); 9] = [
    ("AzureWebJobsStorage__accountName", "shop"),
    ("ServiceBusConnection__fullyQualifiedNamespace", "shop.servicebus.windows.net"),
    ("ServiceBusConnection__credential", "managedidentity"),
    ("OrdersQueue", "orders"),
    ("SweepSchedule", "0 * * * * *"),
    ("CosmosConnection__accountEndpoint", "https://shop.documents.azure.com:443/"),
    ("CosmosConnection__credential", "managedidentity"),
    ("CosmosDatabase", "shop"),
    ("CosmosContainer", "orders"),
];
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// An app as `waybill package` would pack it, with the settings it is deployed with.
struct Packed(Directory);

impl Packed {
    fn new() -> Self {
        let app = app();
        let programs = Directory::new();
        std::fs::copy(static_program(&programs), app.path().join("waybill")).unwrap();
        Self(app)
    }

    /// The codes and severities of what is found, without what is in order.
    fn found(&self, settings: &[(&str, &str)]) -> Vec<String> {
        let list: Vec<_> = settings.iter().map(|(name, value)| json!({ "name": name, "slotSetting": false, "value": value })).collect();
        let file = Directory::new();
        let file = file.write("settings.json", &Value::from(list).to_string());
        let app = self.0.path().to_str().unwrap();
        let (status, lines) = Program::waybill(&["doctor", "--app", app, "--settings", file.to_str().unwrap(), "--json"], &[]).end();
        let found = not_fine(&lines);
        let is_broken = lines.iter().any(|line| line.contains("\"broken\""));
        assert_eq!(status.code(), Some(i32::from(is_broken)), "{lines:?}");
        found
    }

    fn change(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.0.path().join(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        self.0.write(path, &text.replace(from, to));
    }
}

fn not_fine(lines: &[String]) -> Vec<String> {
    let findings = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{lines:?}")));
    let findings = findings.filter(|finding| finding["severity"] != "fine");
    findings
        .map(|finding| {
            for word in ["what", "why", "mend"] {
                assert!(finding[word].as_str().is_some_and(|text| text.len() > 5), "{finding}");
            }
            finding["code"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn deployed() -> Vec<(&'static str, &'static str)> {
    [&DEPLOYED[..], &[("TRACKING_ID_KEY", KEY)]].concat()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    deployed().into_iter().filter(|(setting, _)| *setting != name).collect()
}

fn and(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    [without(name), vec![(name, value)]].concat()
}

#[test]
fn a_good_package_with_good_settings_has_no_finding() {
    assert_eq!(Packed::new().found(&deployed()), Vec::<String>::new());
}

#[test]
fn each_mistake_in_the_settings_is_found_by_name() {
    let packed = Packed::new();
    for (settings, code) in [
        (without("SweepSchedule"), "setting"),
        (without("OrdersQueue"), "setting"),
        (without("TRACKING_ID_KEY"), "setting"),
        (and("TRACKING_ID_KEY", "for-development-only-0123456789abcdef"), "setting"),
        (and("RETENTOIN", "7d"), "setting_without_effect"),
        (and("FUNCTIONS_WORKER_RUNTIME", "node"), "worker_runtime"),
        (and("FUNCTIONS_EXTENSION_VERSION", "~3"), "extension_version"),
        (without("AzureWebJobsStorage__accountName"), "host_storage"),
        (and("AzureWebJobsStorage", "UseDevelopmentStorage=true"), "host_storage"),
        (and("AzureWebJobs.OrderSweeper.Disabled", "true"), "function_disabled"),
    ] {
        let found = packed.found(&settings);
        assert!(found.iter().any(|found| found == code), "{code}: {found:?} by {settings:?}");
    }
}

#[test]
fn each_mistake_in_the_files_is_found_by_name() {
    type Change = fn(&Packed);
    let cases: [(Change, &str); 13] = [
        (|packed| packed.change("host.json", "\"2.0\"", "\"1.0\""), "app_unreadable"),
        (
            |packed| packed.change("host.json", "\"enableForwardingHttpRequest\": false", "\"enableForwardingHttpRequest\": true"),
            "forwarding",
        ),
        (|packed| packed.change("host.json", "Microsoft.Azure.Functions.ExtensionBundle", "Another"), "extension_bundle"),
        (|packed| packed.change("host.json", "00:06:00", "00:01:00"), "lock_renewal"),
        (|packed| packed.change("host.json", "\"waybill\"", "\"another\""), "handler_missing"),
        (|packed| drop(packed.0.write("waybill", "#!/bin/sh\n")), "handler_wrong"),
        (|packed| packed.change("OrderSweeper/function.json", "timerTrigger", "clockTrigger"), "function_left_out"),
        (|packed| std::fs::rename(packed.0.path().join("OrderSweeper"), packed.0.path().join("Ordersweeper")).unwrap(), "function_missing"),
        (|packed| std::fs::rename(packed.0.path().join("OrderSweeper"), packed.0.path().join("Ordersweeper")).unwrap(), "function_unknown"),
        (
            |packed| packed.change("OrderIngress/function.json", "\"authLevel\": \"function\"", "\"authLevel\": \"anonymous\""),
            "open_to_all",
        ),
        (
            |packed| {
                let waybill = packed.0.path().join("waybill");
                std::fs::set_permissions(waybill, std::fs::Permissions::from_mode(0o644)).unwrap();
            },
            "handler_not_executable",
        ),
        // The machine of an ELF file is at byte 18; 183 is AArch64, 62 is x86-64.
        (
            |packed| {
                let path = packed.0.path().join("waybill");
                let mut binary = std::fs::read(&path).unwrap();
                binary[18] = if binary[18] == 62 { 183 } else { 8 };
                std::fs::write(path, binary).unwrap();
            },
            "handler_wrong",
        ),
        (|packed| std::fs::remove_file(packed.0.path().join("waybill")).unwrap(), "handler_missing"),
    ];
    for (change, code) in cases {
        let packed = Packed::new();
        change(&packed);
        let found = packed.found(&deployed());
        assert!(found.iter().any(|found| found == code), "{code}: {found:?}");
    }
}

#[test]
fn a_reference_to_a_key_vault_is_no_mistake_and_hides_none() {
    let packed = Packed::new();
    let reference = ("TRACKING_ID_KEY", "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/key/)");

    assert_eq!(packed.found(&and(reference.0, reference.1)), Vec::<String>::new());
    let callbacks = [and("CALLBACK_URL", "https://hooks.example.com/"), vec![("CALLBACK_SECRET", reference.1)]].concat();
    assert_eq!(packed.found(&callbacks), Vec::<String>::new());
    let settings: Vec<_> = without("SweepSchedule").into_iter().filter(|(name, _)| *name != reference.0).chain([reference]).collect();
    assert_eq!(packed.found(&settings), ["setting"]);
}

#[test]
fn a_key_is_not_sent_in_the_clear() {
    let (status, lines) = Program::waybill(&["doctor", "--url", "http://shop.example.com/api", "--key", "secret", "--json"], &[]).end();

    assert_eq!((status.code(), not_fine(&lines)), (Some(1), vec!["not_https".to_owned()]));
}

#[test]
fn an_order_that_is_long_due_tells_that_the_sweeper_stands_still() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    handler.ingress(Some(&order("D-1").to_string()), &[]).accepted();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    database.execute("UPDATE orders SET due_at = 1000, record = json_set(record, '$.dueAt', '1970-01-01T00:00:01.000Z')", []).unwrap();

    assert_eq!(codes(&report(&handler)), ["queue_not_configured", "sweeper_stopped"]);
}

#[test]
fn keys_and_tokens_together_are_found() {
    let settings = [and("AUTH_ISSUER", "https://login.example.com/"), vec![("AUTH_AUDIENCE", "api://orders")]].concat();

    assert_eq!(Packed::new().found(&settings), ["keys_and_tokens"]);
}

#[test]
fn what_is_accepted_is_shown_and_breaks_nothing() {
    let packed = Packed::new();
    packed.change("OrderIngress/function.json", "\"authLevel\": \"function\"", "\"authLevel\": \"anonymous\"");
    let settings = Directory::new();
    let settings = settings
        .write("settings.json", &json!({ "Values": deployed().into_iter().collect::<std::collections::BTreeMap<_, _>>() }).to_string());
    let run = |more: &[&str]| {
        let (app, settings) = (packed.0.path().to_str().unwrap(), settings.to_str().unwrap());
        Program::waybill(&[&["doctor", "--app", app, "--settings", settings], more].concat(), &[]).end()
    };

    let (status, lines) = run(&[]);
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("BROKEN") && line.contains("OrderIngress")), "{lines:?}");

    let (status, lines) = run(&["--accept", "open_to_all"]);
    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("accepted") && line.contains("OrderIngress")), "{lines:?}");

    let (status, _) = run(&["--accept", "no_such_code"]);
    assert_eq!(status.code(), Some(2));
}

/// A queue's entry, as Service Bus answers "Get Queue".
fn entry(properties: &str) -> Reply {
    let counts = "<CountDetails><d2p1:ActiveMessageCount>3</d2p1:ActiveMessageCount><d2p1:DeadLetterMessageCount>0</d2p1:DeadLetterMessageCount>\
                  <d2p1:ScheduledMessageCount>0</d2p1:ScheduledMessageCount></CountDetails>";
    reply(200, &[], &format!("<entry><content><QueueDescription>{properties}{counts}</QueueDescription></content></entry>"))
}

/// The same with dead letters.
fn dead_letters() -> Reply {
    let Reply::Text(text) = entry(GOOD) else { unreachable!("an entry is a text") };
    Reply::Text(text.replace("DeadLetterMessageCount>0", "DeadLetterMessageCount>2"))
}

const GOOD: &str = "<LockDuration>PT5M</LockDuration><RequiresSession>false</RequiresSession><DefaultMessageTimeToLive>P14D</DefaultMessageTimeToLive>\
                    <DeadLetteringOnMessageExpiration>true</DeadLetteringOnMessageExpiration><MaxDeliveryCount>10</MaxDeliveryCount>\
                    <SizeInBytes>0</SizeInBytes><MaxSizeInMegabytes>1024</MaxSizeInMegabytes><Status>Active</Status>";

/// The report of a handler.
pub fn report(handler: &Handler) -> Value {
    let envelope = http_envelope("GET", "https://shop.azurewebsites.net/api/doctor", &json!({}), None, &[]);
    let answer = handler.invoke("Doctor", &envelope).json();
    assert_eq!(answer["Outputs"]["res"]["statusCode"], 200, "{answer}");
    serde_json::from_str(answer["Outputs"]["res"]["body"].as_str().unwrap()).unwrap()
}

fn codes(report: &Value) -> Vec<String> {
    let lines: Vec<_> = report["findings"].as_array().unwrap().iter().map(Value::to_string).collect();
    not_fine(&lines)
}

#[test]
fn the_queue_is_looked_at_with_the_credentials_of_the_app() {
    let service_bus = Fake::replying([Reply::Drop]);
    let data = Directory::new();
    let connection = "Endpoint=sb://localhost;SharedAccessKeyName=p;SharedAccessKey=k;UseDevelopmentEmulator=true";
    let settings =
        [("ServiceBusConnection", connection), ("OrdersQueue", "orders"), ("SERVICE_BUS_REST_ENDPOINT", service_bus.url.as_str())];
    let handler = Handler::start(data.path(), &settings);
    let change = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        entry(&GOOD.replace(from, to))
    };

    for (answer, expected) in [
        (entry(GOOD), &[][..]),
        (reply(401, &[], ""), &["queue_denied"]),
        (reply(404, &[], ""), &["queue_missing"]),
        (reply(500, &[], ""), &["queue_away"]),
        (reply(200, &[], "<feed/>"), &["queue_away"]),
        (Reply::Drop, &["queue_away"]),
        (change("PT5M", "PT10S"), &["queue_lock"]),
        (change(">10<", ">1<"), &["queue_deliveries"]),
        (change("<RequiresSession>false", "<RequiresSession>true"), &["queue_sessions"]),
        (change("Expiration>true", "Expiration>false"), &["queue_expiry"]),
        (change("Active", "SendDisabled"), &["queue_disabled"]),
        (dead_letters(), &["dead_letters"]),
        (change("<SizeInBytes>0", "<SizeInBytes>1073741000"), &["queue_full"]),
    ] {
        service_bus.reply([answer]);
        assert_eq!(codes(&report(&handler)), expected);
    }
    let asked = &service_bus.heard()[0];
    assert_eq!(asked.line, "GET /orders?api-version=2021-05 HTTP/1.1");
    assert!(asked.headers["authorization"].starts_with("SharedAccessSignature "), "{asked:?}");
}

#[test]
fn a_backend_that_is_away_and_misspelt_settings_are_found() {
    let data = Directory::new();
    let url = format!("http://127.0.0.1:{}/work", free_port());
    let handler = Handler::start(data.path(), &[("FULFILLMENT_URL", url.as_str()), ("RETENTOIN", "7d")]);

    assert_eq!(codes(&report(&handler)), ["setting_without_effect", "queue_not_configured", "backend_away"]);
}

#[test]
fn records_in_cosmos_db_are_asked_for_reading_and_writing() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    assert_eq!(codes(&report(&handler)), ["queue_not_configured"]);

    emulator.fault(&json!({ "kind": "internal", "operations": ["delete"] }));
    assert_eq!(codes(&report(&handler)), ["queue_not_configured", "store_not_writable"]);

    emulator.calm();
    emulator.drop_container();
    assert!(codes(&report(&handler)).iter().any(|code| code.starts_with("store_")));
}

#[test]
fn a_message_in_quarantine_is_found_behind_discarded_ones() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let keep = |messages: &str| {
        let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
        database.execute(&format!("WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 200) {messages}"), [])
    };

    keep("INSERT INTO quarantine SELECT randomblob(16), '{\"discarded\":{}}' FROM numbers").unwrap();
    assert_eq!(codes(&report(&handler)), ["queue_not_configured"]);
    keep("INSERT INTO quarantine SELECT randomblob(16), 'damaged' FROM numbers LIMIT 1").unwrap();
    assert_eq!(codes(&report(&handler)), ["queue_not_configured", "quarantine"]);
}

#[test]
fn a_store_that_never_opened_says_why() {
    let directory = Directory::new();
    let definition = std::fs::read_to_string(repository().join("deploy/cosmos-container.json")).unwrap();
    let definition = directory.write("definition.json", &definition.replace("\"/id\"", "\"/customerId\""));
    let emulator = Emulator::start(&["--definition", definition.to_str().unwrap()]);
    let handler = Handler::begin(&emulator.with(&[]));
    eventually("the reason is known", || {
        let report = report(&handler);
        let findings = report["findings"].as_array().unwrap();
        findings
            .iter()
            .find(|finding| finding["code"] == "store_closed" && finding["what"].as_str().unwrap().contains("is /customerId"))
            .cloned()
    });
}

#[test]
fn a_running_app_is_examined_over_http() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let url = host.url("/api");

    let (status, lines) = Program::waybill(&["doctor", "--url", &url], &[]).end();
    assert_eq!(status.code(), Some(0), "{lines:?}");
    for what in ["ok       version", "ok       queue", "ok       store", "Nothing breaks the promise"] {
        assert!(lines.iter().any(|line| line.starts_with(what)), "{what}: {lines:?}");
    }

    let (status, lines) = Program::waybill(&["doctor", "--url", &format!("{url}/v2"), "--json"], &[]).end();
    assert_eq!((status.code(), not_fine(&lines)), (Some(1), vec!["no_doctor".to_owned()]));
}

#[test]
fn an_app_that_refuses_or_is_away_is_named_so() {
    let run = |fake: &Fake| {
        let (status, lines) = Program::waybill(&["doctor", "--url", &format!("{}/api", fake.url), "--key", "wrong", "--json"], &[]).end();
        assert_eq!(status.code(), Some(1));
        not_fine(&lines)
    };

    assert_eq!(run(&Fake::replying([reply(401, &[], "")])), ["key_refused"]);
    assert_eq!(run(&Fake::replying([Reply::Drop])), ["not_reached"]);
    let refused = Fake::answering(|_, heard| {
        assert_eq!(heard.headers.get("x-functions-key").map(String::as_str), heard.line.contains("doctor").then_some("wrong"));
        reply(401, &[("Date", "Mon, 01 Jan 2001 00:00:00 GMT")], "")
    });
    assert_eq!(run(&refused), ["clock", "key_refused"]);

    let (status, lines) = Program::waybill(&["doctor", "--url", "ftp://shop"], &[]).end();
    assert_eq!(status.code(), Some(1));
    assert!(lines[0].contains("no URL such as https://"), "{lines:?}");
}

#[test]
fn the_page_has_every_kind() {
    let page = std::fs::read_to_string(repository().join("docs/doctor.md")).unwrap();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = ALL
        .iter()
        .map(|kind| {
            let severity = format!("{:?}", kind.severity).to_lowercase();
            format!("| `{}` | {severity} | {} |", kind.code, kind.why)
        })
        .collect();
    assert_eq!(rows, expected);
}
