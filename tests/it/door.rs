//! Who comes in, and by which way: web pages, names of this machine, callers that nothing tells apart, settings that are no values.

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::support::{Answer, Directory, Handler, Program, free_port, http_envelope, order, request, submit, submit_with};

const ORDERS: &str = "http://localhost:7071/api/orders";

/// Invokes `OrderIngress` with these headers and no others.
fn ingress_with(handler: &Handler, url: &str, order_id: &str, headers: &Value) -> Answer {
    let mut envelope = http_envelope("POST", url, &json!({}), Some(&order(order_id).to_string()), &[]);
    envelope["Data"]["req"]["Headers"] = headers.clone();
    Answer::of(&handler.invoke("OrderIngress", &envelope))
}

fn kind(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_default().trim_start_matches("urn:problem-type:waybill:")
}

#[test]
fn a_web_page_must_say_that_it_sends_json() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let page = [
        json!({ "Origin": ["https://evil.example"] }),
        json!({ "origin": ["null"] }),
        json!({ "Sec-Fetch-Site": ["cross-site"] }),
        json!({ "sec-fetch-site": ["same-site"], "Content-Type": [""] }),
    ];

    for headers in &page {
        let answer = ingress_with(&handler, ORDERS, "PAGE-1", headers);
        assert_eq!((answer.status, kind(&answer), &answer.message), (415, "unsupported-media-type", &None), "{headers}: {answer:?}");
    }

    for (number, headers) in [
        json!({}),
        json!({ "Sec-Fetch-Site": ["none"] }),
        json!({ "Origin": ["https://shop.example"], "Content-Type": ["application/json"] }),
    ]
    .iter()
    .enumerate()
    {
        let answer = ingress_with(&handler, ORDERS, &format!("PAGE-2-{number}"), headers);
        assert_eq!(answer.status, 202, "{headers}: {answer:?}");
    }
}

#[test]
fn a_compressed_body_is_refused_by_the_name_of_its_encoding() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for encoding in ["gzip", "br", "Deflate", "identity, gzip"] {
        let answer = handler.ingress(Some("\u{1f}\u{8b}"), &[("Content-Encoding", encoding)]);
        assert_eq!((answer.status, kind(&answer)), (415, "unsupported-media-type"), "{encoding}: {answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(encoding), "{encoding}: {answer:?}");
        assert_eq!(answer.headers["Accept-Encoding"], "identity", "{answer:?}");
    }
    let odd = handler.ingress(Some("{}"), &[("Content-Encoding", "g\u{e9}\r\nX: y")]);
    assert_eq!((odd.status, kind(&odd)), (415, "unsupported-media-type"), "{odd:?}");
    assert!(!odd.body["detail"].as_str().unwrap().contains("X: y"), "{odd:?}");
    submit_with(&handler, "PLAIN", &[("Content-Encoding", "identity")]);
}

#[test]
fn links_of_a_request_to_a_malformed_host_have_no_host() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    for (number, host) in ["a:b:c", ":80", "[::1", "", "a:99999", "me@a", "a b", "a\"b", "a:"].into_iter().enumerate() {
        let answer = ingress_with(&handler, &format!("http://{host}/api/orders"), &format!("HOST-{number}"), &json!({}));

        let (id, _) = (answer.body["trackingId"].as_str().unwrap_or_default(), answer.status);
        let url = format!("/api/orders/{id}/status");
        assert_eq!((answer.status, &answer.body["statusUrl"], &answer.headers["Location"]), (202, &json!(url), &json!(url)), "{host}");
    }
    for (number, host) in ["a", "a:80", "[::1]:7071", "127.0.0.1", "shop.example.com"].into_iter().enumerate() {
        let answer = ingress_with(&handler, &format!("http://{host}/api/orders"), &format!("GOOD-{number}"), &json!({}));

        let url = format!("http://{host}/api/orders/");
        assert!(answer.body["statusUrl"].as_str().unwrap().starts_with(&url), "{answer:?}");
    }
}

#[test]
fn the_handlers_port_answers_to_names_of_this_machine_only() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("ALLOWED_HOSTS", "functions.internal, Other")]);
    let asked = |path: &str, host: &str| request("GET", &handler.url(path), &[("Host", host)], None).status;

    for host in ["localhost", "LOCALHOST:7071", "127.0.0.1", "127.0.0.1:1", "[::1]:80", "a.localhost", "functions.internal:80", "other"] {
        assert_eq!(asked("/healthz", host), 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "10.0.0.1"] {
        for path in ["/healthz", "/readyz", "/"] {
            assert_eq!(asked(path, host), 421, "{path} {host}");
        }
    }
    let envelope = http_envelope("GET", ORDERS, &json!({}), None, &[]).to_string();
    let headers = [("Host", "evil.example"), ("Content-Type", "application/json")];
    let answer = request("POST", &handler.url("/OrderList"), &headers, Some(envelope.as_bytes()));
    assert_eq!(answer.status, 421, "{answer:?}");
}

#[test]
fn no_web_page_reaches_a_function_past_the_host() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let envelope = http_envelope("POST", ORDERS, &json!({}), Some(&order("PAGE").to_string()), &[]).to_string();

    for (name, value) in [("Origin", "https://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")] {
        let headers = [("Content-Type", "text/plain"), (name, value)];
        let answer = request("POST", &handler.url("/OrderIngress"), &headers, Some(envelope.as_bytes()));
        assert_eq!(answer.status, 403, "{name}: {answer:?}");
    }
    assert_eq!(handler.list("").body["orders"], json!([]));
}

#[test]
fn callers_that_nothing_tells_apart_have_no_list_where_they_are_many() {
    let data = Directory::new();
    let many = Handler::start(data.path(), &[("ANONYMOUS_LIST", "false")]);
    let (id, _) = submit(&many, "MANY");
    let named = json!([{ "AuthenticationType": "WebJobsAuthLevel", "IsAuthenticated": true, "Claims": [
        { "Type": "http://schemas.microsoft.com/2017/07/functions/claims/keyid", "Value": "shop" }
    ] }]);

    let answer = many.list("");

    assert_eq!((answer.status, kind(&answer)), (403, "callers-not-identified"), "{answer:?}");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains("AUTH_ISSUER") && detail.contains("ANONYMOUS_LIST"), "{detail}");
    assert_eq!(many.status(&id).status, 200);
    let mut envelope = http_envelope("GET", ORDERS, &json!({}), None, &[]);
    envelope["Data"]["req"]["Identities"] = named;
    assert_eq!(Answer::of(&many.invoke("OrderList", &envelope)).status, 200, "a key of its own is a caller");
    drop(many);

    let one = Handler::start(data.path(), &[]);
    assert_eq!(one.list("").body["orders"].as_array().unwrap().len(), 1);
}

#[test]
fn an_order_of_another_is_looked_for_as_often_as_one_that_is_not_there() {
    let emulator = Emulator::start(&[]);
    let settings = [("RATE_LIMIT_SUBSCRIPTION_HEADER", "X-Sub"), ("WEBSITE_AUTH_ENABLED", "true")];
    let handler = Handler::begin(&emulator.with(&settings)).ready();
    let me = [("X-MS-CLIENT-PRINCIPAL-ID", "me"), ("X-MS-CLIENT-PRINCIPAL-IDP", "aad")];
    let other = [("X-MS-CLIENT-PRINCIPAL-ID", "other"), ("X-MS-CLIENT-PRINCIPAL-IDP", "aad")];
    let (id, _) = submit_with(&handler, "THEIRS", &me);
    let reads = |function: &str, method: &str, id: &str| {
        let before = emulator.figures()["requests"]["read"].as_u64().unwrap();
        let url = format!("{ORDERS}/{id}");
        let envelope = http_envelope(method, &url, &json!({ "trackingId": id }), None, &other);
        let answer = Answer::of(&handler.invoke(function, &envelope));
        assert_eq!((answer.status, kind(&answer)), (404, "order-not-found"), "{answer:?}");
        emulator.figures()["requests"]["read"].as_u64().unwrap() - before
    };

    // A read is repeated for a time: a busy machine only ever makes fewer of them.
    let most = |function: &str, method: &str, id: &str| (0..3).map(|_| reads(function, method, id)).max();
    for (function, method) in [("OrderStatus", "GET"), ("OrderCancel", "DELETE")] {
        let none = most(function, method, "3f2504e0-4f89-81d3-9a0c-0305e82c3301");
        assert_eq!(most(function, method, &id), none, "{function}");
    }
}

/// What a handler of a whole app in Azure needs.
const IN_AZURE: [(&str, &str); 9] = [
    ("WEBSITE_INSTANCE_ID", "i"),
    ("CosmosConnection__accountEndpoint", "https://a.documents.azure.com/"),
    ("CosmosConnection__credential", "managedidentity"),
    ("CosmosDatabase", "d"),
    ("CosmosContainer", "c"),
    ("TRACKING_ID_KEY", "0123456789abcdef0123456789abcdef-mine"),
    ("ServiceBusConnection__fullyQualifiedNamespace", "n.servicebus.windows.net"),
    ("OrdersQueue", "orders"),
    ("SweepSchedule", "0 * * * * *"),
];

/// The lines of a start in Azure without the settings that begin so, and with more. `None`: it started.
fn started_in_azure(without: &str, more: &[(&str, &str)]) -> Option<String> {
    let port = free_port().to_string();
    let mut environment = vec![("FUNCTIONS_CUSTOMHANDLER_PORT", port.as_str())];
    environment.extend(IN_AZURE.iter().filter(|(name, _)| without.is_empty() || !name.starts_with(without)));
    environment.extend(more);
    let mut program = Program::waybill(&["serve"], &environment);
    let line = program.line_where("a start or its end", |line| line.contains("the handler listens") || line.contains("waybill"));
    if line.contains("the handler listens") {
        return None;
    }
    let (status, lines) = program.end();
    assert!(!status.success());
    Some(lines.join("\n"))
}

#[test]
fn a_start_in_azure_needs_what_its_functions_need() {
    assert_eq!(started_in_azure("", &[]), None);
    for name in ["ServiceBusConnection", "OrdersQueue", "SweepSchedule"] {
        let lines = started_in_azure(name, &[]).unwrap_or_else(|| panic!("it started without {name}"));
        assert!(lines.contains(&format!("{name} is not set")) && lines.contains("set "), "{lines}");
    }
}

#[test]
fn a_reference_to_a_key_vault_that_was_not_resolved_is_no_value() {
    const REFERENCE: &str = "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/canary)";
    for name in ["TRACKING_ID_KEY", "FULFILLMENT_AUTHORIZATION", "OrdersQueue", "ServiceBusConnection__clientId", "RATE_LIMIT"] {
        let more = [("FULFILLMENT_URL", "https://backend.example/"), (name, REFERENCE)];
        let lines = started_in_azure(name, &more).unwrap_or_else(|| panic!("it started with {name}"));
        assert!(lines.contains(name) && lines.contains("Key Vault") && !lines.contains("canary"), "{lines}");
    }
}
