//! Untrusted texts, read by each parser that meets them first: valid texts, damaged at random.
//!
//! A few seconds each; how to run them for longer, and what came of it, is in `docs/fuzzing.md`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

#[path = "fuzz/shipment.rs"]
mod shipment;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bolero::{TypeGenerator, check};
use functions_host::trigger::timer::schedule::Schedule;
use functions_host::wire::invocation::{self, Client, Identity, Message, MessageForm, Request, Sys};
use host_json::time_span::time_span;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp as Moment;
use order_schema::Schema;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use waybill::domain::bookmark::Bookmark;
use waybill::domain::form::{OrderForm, OwnForm, Pointer, Unacceptable};
use waybill::domain::json::Json;
use waybill::domain::lifecycle::{self, Budgets, Submission};
use waybill::domain::message;
use waybill::domain::order::{Names, Order, Violation};
use waybill::domain::record::{Metadata, Record};
use waybill::domain::timestamp::Timestamp;
use waybill::domain::tracking::{TrackingId, TrackingKey};
use waybill::door::token::Token;
use waybill::envelope::HttpRequest;
use waybill::functions::reply::Refusal;
use waybill::{config, envelope};

/// Each target, unless `BOLERO_RANDOM_TEST_TIME_MS` says otherwise.
const TEST_TIME: Duration = Duration::from_secs(2);
/// Stands in values, and in no error: these reach logs and answers.
const CANARY: &str = "Canary";
const ID: TrackingId = TrackingId::from_bytes([7, 7, 7, 7, 7, 7, 0x87, 7, 0x87, 7, 7, 7, 7, 7, 7, 7]);

const ORDER: &str = r#"{"orderId":"Canary-1","customerId":"Canary","currency":"EUR","note":"Canary",
    "items":[{"sku":"Canary","quantity":2.0,"unitPrice":1.10},{"sku":"é\u00e9","quantity":1e3,"unitPrice":"0.000001"}],
    "x":{"__proto__":[null,true,-0,1E-7,"\ud83d\ude00\u0000\/"],"a~b/c":{}}}"#;

/// What damage puts in: what means something to a reader of JSON, and what is easily mistaken.
const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"\\",
    b"\\\"",
    b"\\u",
    b"\\ud800",
    b"\\u0000",
    b"\\u0041",
    b" ",
    b"\n",
    b"\0",
    b"\xff",
    b"\xe2\x82",
    b"null",
    b"true",
    b"0",
    b"-",
    b".",
    b"e",
    b"1.50",
    b"1e400",
    b"1e-7",
    b"99999999999999999999",
    b"\"a\":",
    b"\"a\",",
    b"\"orderId\":",
    b"\"items\":",
    b"\"req\":",
    b"\"Body\":",
    b"\"Headers\":",
    b"\"Params\":",
    b"\"Metadata\":",
    b"\"orderMessage\":",
    b"\"DeliveryCount\":",
    b"\"ApplicationProperties\":",
    b"\"trackingId\":",
    b"\"schemaVersion\":",
    b"\"Canary\"",
    b"Canary",
    b"\"$serde_json::private::Number\":",
    b"\"$serde_json::private::RawValue\":",
    b"[[[[[[[[[[[[[[[[",
    b"\xef\xbb\xbf",
];
const SCHEDULE: &[&[u8]] = &[
    b"*",
    b"/",
    b"-",
    b",",
    b" ",
    b"\t",
    b":",
    b".",
    b"0",
    b"1",
    b"5",
    b"7",
    b"23",
    b"24",
    b"31",
    b"59",
    b"60",
    b"Mon",
    b"jan",
    b"ju",
    b"S",
    b"*/0",
    b"59-0",
    b"10675199",
    b"18446744073709551616",
    b"\xc3\xa9",
    b"\xe3\x80\x80",
    b"+1",
    b"0000001",
];

/// Which valid text, and what becomes of it. Most of what is random from the start is refused at its first byte.
#[derive(Debug, TypeGenerator)]
struct Damage {
    seed: u8,
    edits: [Edit; 4],
    count: u8,
}

#[derive(Debug, Clone, Copy, TypeGenerator)]
struct Edit {
    at: u16,
    cut: u8,
    put: u8,
}

impl Damage {
    fn done(&self, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds[usize::from(self.seed) % seeds.len()].clone();
        for Edit { at, cut, put } in self.edits.iter().take(usize::from(self.count) % 5) {
            let from = usize::from(*at) % (bytes.len() + 1);
            // Mostly a little, sometimes much.
            let cut = if *cut < 240 { cut % 4 } else { *cut };
            let to = (from + usize::from(cut)).min(bytes.len());
            let put = usize::from(*put);
            let word = words.get(put).map_or_else(|| vec![u8::try_from(put).unwrap()], |word| word.to_vec());
            bytes.splice(from..to, word);
        }
        bytes
    }
}

/// The recorded invocations of the real host.
fn invocations() -> Vec<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/host");
    let files = [fixtures.clone(), fixtures.join("captured")].map(|directory| std::fs::read_dir(directory).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut texts: Vec<_> =
        files.filter(|path| path.to_str().unwrap().ends_with(".request.json")).map(|path| std::fs::read(path).unwrap()).collect();
    texts.sort();
    assert!(texts.len() > 10, "{} invocations", texts.len());
    texts
}

/// Every JSON text inside them: bodies and messages.
fn texts_within() -> Vec<Vec<u8>> {
    fn collect(value: &Value, texts: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                if let Ok(inner) = serde_json::from_str::<Value>(text) {
                    collect(&inner, texts);
                    texts.insert(text.clone());
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| collect(element, texts)),
            Value::Object(members) => members.values().for_each(|member| collect(member, texts)),
            _ => {}
        }
    }
    let mut texts = BTreeSet::new();
    for invocation in invocations() {
        collect(&serde_json::from_slice(&invocation).unwrap(), &mut texts);
    }
    texts.into_iter().map(String::into_bytes).collect()
}

/// An error may name a place and a kind of mistake, and nothing that was sent.
fn quotes_nothing(error: &str) {
    assert!(!error.contains(CANARY), "{error}");
}

/// The same JSON in other letters: each character of a string that is not part of an escape becomes one, and spaces come in.
fn respelled(json: &str) -> String {
    let mut text = String::new();
    let mut letters = json.chars();
    let mut inside = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                inside = !inside;
                text.push(letter);
            }
            '\\' => {
                text.push(letter);
                let escaped = letters.next();
                text.extend(escaped);
                if escaped == Some('u') {
                    text.extend(letters.by_ref().take(4));
                }
            }
            letter if inside => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(text, "\\u{unit:04X}").unwrap();
                }
            }
            ',' | ':' | '[' | '{' => text.extend([letter, ' ']),
            letter => text.push(letter),
        }
    }
    text
}

/// A parsed text as JSON again.
fn written(json: &Json<'_>, text: &mut String) {
    let quoted = |words: &str| serde_json::to_string(words).unwrap();
    match json {
        Json::Null => text.push_str("null"),
        Json::Bool(value) => text.push_str(&value.to_string()),
        Json::Number(digits) => text.push_str(digits),
        Json::String(words) => text.push_str(&quoted(words)),
        Json::Array(elements) => {
            text.push('[');
            for (index, element) in elements.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                written(element, text);
            }
            text.push(']');
        }
        Json::Object(members) => {
            text.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                text.push_str(&quoted(key));
                text.push(':');
                written(value, text);
            }
            text.push('}');
        }
    }
}

/// Header and claims as a token, with a signature that is not checked here.
fn token(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.c2lnbmF0dXJl")
}

/// A record of this order, as ingress makes one.
fn accepted(tracking_id: TrackingId, life: Uuid, order: &str) -> Record {
    let now = Timestamp::from_milliseconds(1_800_000_000_000);
    let order: Arc<RawValue> = RawValue::from_string(order.into()).unwrap().into();
    let metadata = Metadata {
        api_name: "orders".into(),
        operation_name: "submitOrder".into(),
        subscription_id: None,
        received_at: now,
        traceparent: None,
        owner: "anonymous".into(),
    };
    let budgets = Budgets {
        lease: Duration::from_secs(30),
        max_attempts: 3,
        retry_base: Duration::from_secs(1),
        retry_cap: Duration::from_secs(10),
        max_interruptions: 4,
        order_deadline: Duration::from_mins(10),
        retention: Duration::from_secs(1000),
        overdue_after: Duration::from_mins(2),
        tells_ends: false,
    };
    lifecycle::accept(
        Submission { tracking_id, life, order, names: Names::default(), fingerprint: "f".into(), metadata, callback_url: None },
        Duration::ZERO,
        now,
        &budgets,
    )
}

#[test]
fn an_order_is_refused_without_being_quoted_or_means_the_same_however_it_is_written() {
    // Orders as often as anything else.
    let seeds = [texts_within(), vec![ORDER.into(); 40], vec![include_bytes!("../samples/order.json").to_vec(); 40]].concat();

    check!().with_type::<Damage>().with_test_time(TEST_TIME).for_each(|damage| {
        let bytes = damage.done(&seeds, JSON);
        let text = String::from_utf8_lossy(&bytes);
        let json = match Json::parse(&text) {
            Ok(json) => json,
            Err(error) => return quotes_nothing(&error.to_string()),
        };
        let order = Order::read(&json);

        let mut plain = String::new();
        written(&json, &mut plain);
        for other in [plain, respelled(&text)] {
            let again = Json::parse(&other).unwrap();
            assert_eq!((&again, again.fingerprint()), (&json, json.fingerprint()), "{other}");
            assert_eq!(Order::read(&again), order, "{other}");
        }
        match order {
            Ok(order) => {
                let items = order
                    .items
                    .iter()
                    .map(|item| json!({ "sku": item.sku, "quantity": item.quantity, "unitPrice": item.unit_price.to_string() }));
                let alone = json!({
                    "orderId": order.order_id, "customerId": order.customer_id, "currency": order.currency,
                    "items": items.collect::<Vec<_>>(), "note": order.note
                });
                assert_eq!(Order::read(&Json::parse(&alone.to_string()).unwrap()), Ok(order), "{alone}");

                let sent = message::write(&accepted(ID, Uuid::from_u128(1), &text));
                let read = message::read(&sent).unwrap();
                assert_eq!((read.tracking_id, read.life), (ID, Uuid::from_u128(1)));
                assert!(sent.contains(text.trim()), "{sent}");
            }
            Err(violations) => {
                assert!((1..=100).contains(&violations.len()), "{violations:?}");
                for violation in violations {
                    quotes_nothing(&violation.detail);
                }
            }
        }
    });
}

/// Two shipments: one of each kind, with all that the schema knows.
const SHIPMENTS: [&str; 2] = [
    r#"{"orderId":"S-17","customerId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","kind":"post","ready":"2024-02-29","weight":12.50,
    "to":{"name":"Canary","a/b~c":null,"street":"Canary","city":"é\u00e9"},"tags":["fragile",null],
    "table":[["a",1],["bé\ud83d\ude00",2e2,true,false],["c",0.0]],"parts":[{"sku":"ACanary","parts":[{"sku":"B"},{"sku":"C","parts":[]}]}]}"#,
    r#"{"orderId":"S-000018","customerId":"3F2504E0-4F89-41D3-9A0C-0305E82C3301","kind":"mail","mail":"canary@example.org","weight":1e3,
    "table":[["x",1]],"parts":[]}"#,
];
/// What damage puts into a shipment beside [`JSON`].
const SHIPMENT: &[&[u8]] = &[
    b"\"kind\":\"mail\",",
    b"\"mail\":\"a@b\",",
    b"\"to\":{\"name\":\"x\"},",
    b"\"post\"",
    b"\"parts\":[{\"sku\":\"A\"}],",
    b"{\"sku\":\"A\",\"parts\":[",
    b"]},",
    b"[\"x\",1,true],",
    b"\"cold\",",
    b"\"weight\":0.07,",
    b"\"x/~y\":1,",
    b"0.001",
    b"1000.01",
    b"2023-02-29",
    b"\xd9\xa3",
    b"\xc2\x85",
    b"\xe2\x80\x83",
    b"\\n",
    b"@",
    b"S-",
    b"-",
];

/// What may stand in the place of a value of a shipment: near the border of what some rule allows, on either side of it.
const VALUES: &[&str] = &[
    r#""""#,
    r#""S-1""#,
    r#""S-123456""#,
    r#""S-1234567""#,
    r#""S-٣""#,
    r#""S-1\n""#,
    r#""2023-02-29""#,
    r#""2000-02-29""#,
    r#""2024-1-01""#,
    r#""3f2504e0-4f89-41d3-9a0c-0305e82c330""#,
    r#""3f2504e04f8941d39a0c0305e82c3301""#,
    r#""ab@cd""#,
    r#""mail""#,
    r#""cold""#,
    r#""12345678""#,
    r#""éééééééé""#,
    r#""123456789""#,
    r#""a b""#,
    r#""a\u2003b""#,
    r#""name""#,
    r#""a property of an address""#,
    "0",
    "-0.0",
    "-1",
    "0.01",
    "0.001",
    "1e-2",
    "999.99",
    "1000",
    "10e2",
    "1000.01",
    "0.5",
    "2.0",
    "true",
    "null",
    "{}",
    "[]",
    "[null,null]",
    r#"["cold",null,"fragile"]"#,
    r#"["cold","cold"]"#,
    r#"[["a",1,true,0]]"#,
    r#"[{"sku":"A","parts":[{}]}]"#,
];

/// What a client might send in the place of a shipment.
#[derive(Debug, TypeGenerator)]
enum Shipped {
    Anything(Vec<u8>),
    Damaged(Damage),
    /// One name or value is another.
    Changed {
        seed: u8,
        place: u8,
        value: u8,
    },
    /// A part comes again and again.
    Repeated {
        damage: Damage,
        from: u16,
        length: u8,
        times: u8,
    },
}

impl Shipped {
    fn bytes(&self, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Anything(bytes) => bytes.clone(),
            Self::Damaged(damage) => damage.done(seeds, words),
            Self::Changed { seed, place, value } => {
                let mut bytes = seeds[usize::from(*seed) % seeds.len()].clone();
                let places = words_and_numbers(&bytes);
                let place = places[usize::from(*place) % places.len()].clone();
                bytes.splice(place, VALUES[usize::from(*value) % VALUES.len()].bytes());
                bytes
            }
            Self::Repeated { damage, from, length, times } => {
                let bytes = damage.done(seeds, words);
                let from = usize::from(*from) % (bytes.len() + 1);
                let to = (from + usize::from(*length)).min(bytes.len());
                // Mostly a few times, sometimes very often.
                let times = usize::from(*times);
                let times = if times < 16 { times * 64 } else { times % 4 };
                [&bytes[..from], &bytes[from..to].repeat(times), &bytes[to..]].concat()
            }
        }
    }
}

/// Where the strings, numbers and words of a JSON text are.
fn words_and_numbers(json: &[u8]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut at = 0;
    while at < json.len() {
        let from = at;
        at += 1;
        if json[from] == b'"' {
            while json[at] != b'"' {
                at += if json[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if json[from].is_ascii_alphanumeric() || json[from] == b'-' {
            at += json[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        } else {
            continue;
        }
        places.push(from..at);
    }
    places
}

/// Whether this JSON has a value there, under any of the keys that are there twice.
fn has(json: &Json<'_>, pointer: &str) -> bool {
    let Some(rest) = pointer.strip_prefix('/') else { return pointer.is_empty() };
    let (first, rest) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let name = first.replace("~1", "/").replace("~0", "~");
    match json {
        Json::Array(elements) => name.parse::<usize>().ok().and_then(|index| elements.get(index)).is_some_and(|value| has(value, rest)),
        Json::Object(members) => members.iter().any(|(key, value)| *key == name && has(value, rest)),
        _ => false,
    }
}

fn has_key_with(json: &Json<'_>, text: &str) -> bool {
    match json {
        Json::Array(elements) => elements.iter().any(|element| has_key_with(element, text)),
        Json::Object(members) => members.iter().any(|(key, value)| key.contains(text) || has_key_with(value, text)),
        _ => false,
    }
}

#[test]
fn an_order_under_a_schema_is_refused_with_its_mistakes_or_recorded_byte_for_byte() {
    /// Far more than any execution needs, and less than a reader that looks at values again and again takes.
    const LONGEST: Duration = Duration::from_secs(10);
    let schema = Schema::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/shipment.schema.json")).unwrap();
    let [order_id, customer] = ["/orderId", "/customerId"].map(Pointer::parse);
    // Nothing is left of a read that panics.
    let form = AssertUnwindSafe(OrderForm::Own(OwnForm { rules: Some(Arc::new(schema)), order_id, customer }));
    let deep = format!("{}{}", r#"{"sku":"A","parts":["#.repeat(13), "]}".repeat(13));
    let deep = SHIPMENTS[1].replace("\"parts\":[]", &format!("\"parts\":[{deep}]"));
    let seeds: Vec<_> = SHIPMENTS.iter().chain([&deep.as_str()]).map(|text| text.as_bytes().to_vec()).collect();
    for seed in &seeds {
        assert!(form.read(std::str::from_utf8(seed).unwrap()).is_ok(), "{}", String::from_utf8_lossy(seed));
    }
    let words = [JSON, SHIPMENT].concat();

    check!().with_type::<Shipped>().with_test_time(TEST_TIME).for_each(|shipped| {
        let bytes = shipped.bytes(&seeds, &words);
        let text = String::from_utf8_lossy(&bytes);
        let started = Instant::now();
        let read = form.read(&text);
        assert!(started.elapsed() < LONGEST, "{:?} for {} bytes: {text}", started.elapsed(), text.len());

        let json = Json::parse(&text);
        let expected = json.as_ref().ok().map(shipment::is_shipment);
        match read {
            Ok(order) => {
                assert!(matches!(expected, Some(Some(true) | None)), "accepted: {text}");
                let json = json.unwrap();
                let names = ["orderId", "customerId"].map(|name| match json.member(name) {
                    Some(Json::String(text)) => text.clone().into_owned(),
                    other => panic!("{other:?} in {text}"),
                });
                assert_eq!([order.names.order_id, order.names.customer_id], names);
                assert_eq!(order.fingerprint, json.fingerprint());
                let record = serde_json::to_string(&accepted(ID, Uuid::from_u128(1), order.text.get())).unwrap();
                let record: Record = serde_json::from_str(&record).unwrap();
                assert_eq!(record.order.get(), text.trim_matches([' ', '\t', '\r', '\n']));
            }
            Err(Unacceptable::NotJson(error)) => {
                assert!(json.is_err(), "{error}: {text}");
                quotes_nothing(&error);
            }
            Err(Unacceptable::Invalid(violations)) => {
                assert!(matches!(expected, Some(Some(false) | None)), "refused: {violations:?}: {text}");
                let json = json.unwrap();
                assert!((1..=100).contains(&violations.len()), "{violations:?}");
                for Violation { pointer, detail } in violations {
                    // A mistake in an alternative names its place, which may have any name.
                    if !has_key_with(&json, CANARY) {
                        quotes_nothing(&detail);
                    }
                    assert!(pointer.len() <= 1_000 && detail.chars().count() <= 301, "{pointer}: {detail}");
                    let above = &pointer[..pointer.rfind('/').unwrap_or(0)];
                    let is_there = if detail.starts_with("is missing") { has(&json, above) } else { has(&json, &pointer) };
                    assert!(is_there, "{pointer} {detail}: {text}");
                }
            }
        }
    });
}

#[test]
fn a_token_is_refused_or_means_the_same_however_it_is_written() {
    const NOW: f64 = 1_800_000_000.0;
    let settings = config::auth::Auth {
        issuer: "https://issuer.example/Canary".into(),
        audience: "orders".into(),
        submit_scope: None,
        read_scope: None,
        operator_role: None,
    };
    let header = br#"{"alg":"RS256","typ":"at+jwt","kid":"k1","x":[{}]}"#.to_vec();
    let claims = br#"{"iss":"https://issuer.example/Canary","aud":["orders","x"],"sub":"Canary","exp":1800000060,"nbf":1.8e9,"scope":"a b","roles":["r"]}"#;
    let words = [JSON, &[b"\"RS256\"", b"\"none\"", b"\"kid\":", b"\"crit\":", b"\"jku\":", b"\"aud\":", b"\"exp\":", b"1e999", b"orders"]]
        .concat();

    check!().with_type::<(Damage, Damage, Damage)>().with_test_time(TEST_TIME).for_each(|(first, second, whole)| {
        let header = String::from_utf8_lossy(&first.done(std::slice::from_ref(&header), &words)).into_owned();
        let claims = String::from_utf8_lossy(&second.done(&[claims.to_vec()], &words)).into_owned();
        let damaged = whole.done(&[token(&header, &claims).into_bytes()], &[b".", b"=", b"A", b"-", b"_", b"+", b"/"]);
        if let Ok(token) = Token::read(&String::from_utf8_lossy(&damaged)) {
            let _ = token.claims(&settings, NOW);
        }

        let written = token(&header, &claims);
        let Ok(read) = Token::read(&written) else { return };
        // Escaped, a line break within a text would be allowed.
        if Json::parse(&claims).is_err() {
            return;
        }
        let told = read.claims(&settings, NOW);
        let other = token(&respelled(&header), &respelled(&claims));
        assert_eq!(Token::read(&other).unwrap().claims(&settings, NOW), told, "{header} {claims}");
        if let Ok(told) = told {
            assert!(!told.subject.is_empty() && claims.contains("exp"), "{claims}");
            let stranger = config::auth::Auth { audience: "orders2".into(), ..settings.clone() };
            assert!(claims.contains("orders2") || read.claims(&stranger, NOW).is_err(), "{claims}");
        }
    });
}

#[test]
fn a_request_of_the_host_is_refused_without_being_quoted_or_means_the_same_however_it_is_written() {
    let seeds = invocations();

    check!().with_type::<Damage>().with_test_time(TEST_TIME).for_each(|damage| {
        let bytes = damage.done(&seeds, JSON);
        match envelope::http_request(&bytes) {
            Ok(request) => {
                let other = respelled(&String::from_utf8_lossy(&bytes));
                let again = envelope::http_request(other.as_bytes()).unwrap();
                // The host's description of the client stays as it is written until it is used.
                let parts = |request: &HttpRequest<'_>| {
                    format!("{:?}", (&request.url, &request.headers, &request.params, &request.body, request.function_key()))
                };
                assert_eq!(parts(&again), parts(&request), "{other}");
            }
            Err(error) => quotes_nothing(&Refusal::unreadable(&error).reason),
        }
    });
}

#[test]
fn a_message_of_the_host_is_refused_without_being_quoted_or_means_the_same_however_it_is_written() {
    let dead = json!({
        "Data": { "deadLetter": "\"Canary\"" },
        "Metadata": { "ApplicationProperties": { "DeadLetterReason": "Canary", "DeadLetterErrorDescription": "Canary" }, "DeliveryCount": "\"3\"" }
    });
    let seeds = [invocations(), vec![dead.to_string().into_bytes()]].concat();

    check!().with_type::<Damage>().with_test_time(TEST_TIME).for_each(|damage| {
        let bytes = damage.done(&seeds, JSON);
        match envelope::queue_message(&bytes) {
            Ok(message) => {
                let other = respelled(&String::from_utf8_lossy(&bytes));
                let again = envelope::queue_message(other.as_bytes()).unwrap();
                assert_eq!((again.text, again.dead_letter_reason), (message.text, message.dead_letter_reason), "{other}");
            }
            Err(error) => quotes_nothing(&Refusal::unreadable(&error).reason),
        }
    });
}

/// Anything a client may send to a function, and anything a queue may hold.
#[derive(Debug, TypeGenerator)]
struct Sent {
    header: Vec<u8>,
    parameter: Option<String>,
    body: Vec<u8>,
    damage: Damage,
}

#[test]
fn what_the_host_writes_is_read_as_it_was_sent() {
    let seeds = [texts_within(), vec![ORDER.into(), Vec::new()]].concat();
    let sys = Sys { method_name: "F", utc_now: Moment::UNIX_EPOCH, rand_guid: Uuid::nil() };
    let client = Client { fully_qualified_namespace: "localhost", identifier: "localhost-1" };
    let properties = Map::new();

    check!().with_type::<Sent>().with_test_time(TEST_TIME).for_each(|sent| {
        for body in [&sent.body, &sent.damage.done(&seeds, JSON)] {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(&sent.header);
            headers.extend(value.iter().map(|value| (http::header::HeaderName::from_static("idempotency-key"), value.clone())));
            let params = vec![("trackingId".to_owned(), sent.parameter.clone())];
            let url = format!("http://localhost/api/orders/x/status?{}", sent.parameter.as_deref().unwrap_or_default());
            let request = Request {
                binding: "req",
                url: &url,
                method: "POST",
                query: Some(sent.parameter.as_deref().unwrap_or_default()),
                headers: &headers,
                names: &[],
                params: &params,
                body: Some(body),
                identity: Identity::Anonymous,
            };
            let bytes = invocation::http(&request, &sys);
            let read = envelope::http_request(&bytes).unwrap();
            let text = String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body));
            assert_eq!(read.url, url);
            // A mark of UTF-16 or UTF-32 says that the bytes are no UTF-8; the host's own tests are about those.
            let is_wide = [&[0xff, 0xfe][..], &[0xfe, 0xff], &[0, 0, 0xfe, 0xff]].iter().any(|mark| body.starts_with(mark));
            assert!(is_wide || read.body.as_deref() == (!body.is_empty()).then_some(&*text), "{body:?}: {:?}", read.body);
            assert_eq!(read.param("trackingId"), sent.parameter.as_deref());
            let values: Vec<_> = value.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            assert_eq!(read.header("Idempotency-Key").collect::<Vec<_>>(), values);

            let message = Message {
                body,
                message_id: "m",
                content_type: None,
                delivery_count: 3,
                dead_letter_source: None,
                lock_token: Uuid::nil(),
                enqueued_at: Moment::UNIX_EPOCH,
                expires_at: Moment::UNIX_EPOCH,
                sequence_number: 1,
                correlation_id: None,
                subject: None,
                reply_to: None,
                to: None,
                session_id: None,
                reply_to_session_id: None,
                partition_key: None,
                transaction_partition_key: None,
                application_properties: &properties,
            };
            let bytes = invocation::message("orderMessage", &message, MessageForm::Unset, &client, &sys);
            let read = envelope::queue_message(&bytes).unwrap();
            assert_eq!(read.text, String::from_utf8_lossy(body));
        }
    });
}

#[test]
fn the_text_of_a_message_is_refused_without_being_quoted_or_names_the_same_order_when_written_again() {
    let ours = message::write(&accepted(ID, Uuid::from_u128(1), ORDER)).into_bytes();
    let newer = br#"{"schemaVersion":2,"trackingId":{"Canary":"Canary"},"data":"Canary"}"#.to_vec();
    // Ours more often than what other senders might put into the queue.
    let seeds = [texts_within(), vec![ours; 20], vec![newer]].concat();

    check!().with_type::<Damage>().with_test_time(TEST_TIME).for_each(|damage| {
        let bytes = damage.done(&seeds, JSON);
        let text = String::from_utf8_lossy(&bytes);
        match message::read(&text) {
            Ok(read) => {
                assert_eq!(message::read(&respelled(&text)).unwrap(), read, "{text}");
                let again = message::read(&message::write(&accepted(read.tracking_id, read.life, ORDER))).unwrap();
                assert_eq!((again.tracking_id, again.life), (read.tracking_id, read.life), "{text}");
            }
            Err(error) => quotes_nothing(&error.to_string()),
        }
    });
}

#[derive(Debug, TypeGenerator)]
struct Sealed {
    moment: String,
    damage: Damage,
    guess: String,
}

#[test]
fn only_a_bookmark_that_was_handed_out_is_opened_and_says_what_it_said() {
    let [key, other_key] = [7, 8].map(|byte| TrackingKey::new(vec![byte; 32]).unwrap());
    let other_id = TrackingId::from_bytes([9; 16]);

    check!().with_type::<Sealed>().with_test_time(TEST_TIME).for_each(|Sealed { moment, damage, guess }| {
        let bookmark = Bookmark(moment.clone());
        let sealed = bookmark.seal(&key, ID);
        assert!(sealed.len() <= 1024, "a moment is short: {}", moment.len());
        let url = format!("http://localhost/api/orders/{ID}/status?code=x&seen={sealed}");
        let envelope = json!({ "Data": { "req": { "Url": url } } }).to_string();
        let request = envelope::http_request(envelope.as_bytes()).unwrap();

        assert_eq!(Bookmark::open(request.query("seen").unwrap(), &key, ID), Some(bookmark));
        assert_eq!(Bookmark::open(&sealed, &key, other_id), None);
        assert_eq!(Bookmark::open(&sealed, &other_key, ID), None);
        assert_eq!(Bookmark::open(guess, &key, ID), None);
        let damaged = damage.done(&[sealed.clone().into_bytes()], JSON);
        let damaged = String::from_utf8_lossy(&damaged);
        assert!(damaged == sealed || Bookmark::open(&damaged, &key, ID).is_none(), "{damaged} for {sealed}");
    });
}

/// A field with each of its ranges written backwards.
fn turned(field: &str) -> String {
    let item = |item: &str| {
        let (range, step) = item.split_at(item.find('/').unwrap_or(item.len()));
        range.split_once('-').map_or_else(|| item.to_owned(), |(first, last)| format!("{last}-{first}{step}"))
    };
    field.split(',').map(item).collect::<Vec<_>>().join(",")
}

#[derive(Debug, TypeGenerator)]
struct Planned {
    damage: Damage,
    after: i32,
    fraction: u32,
}

#[test]
fn a_schedule_is_refused_or_means_the_same_however_it_is_written_and_fires_when_it_says() {
    let seeds = [
        "0 */5 * * * *",
        "0 0 9-17 * * Mon-Fri",
        "0 0 0 * jan-dec sun",
        "*/15 * * * * *",
        "0 30 9 * Jan Mon",
        "5/20 1,2,3 * 1-31/2 * 0-6",
        "0 0 0 29 2 *",
        "0 0 0 30 2 *",
        "*/5 * * * *",
        "00:05:00",
        "1.02:03:04.25",
        "1:02:03:04",
        "24:00:00",
        "2",
        "01:30",
        "10675199.02:48:05.4775807",
        "00:00:01.09999999",
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec());

    check!().with_type::<Planned>().with_test_time(TEST_TIME).for_each(|Planned { damage, after, fraction }| {
        let bytes = damage.done(&seeds, SCHEDULE);
        let text = String::from_utf8_lossy(&bytes);
        let Ok(schedule) = Schedule::parse(&text) else { return };
        let means_the_same = |other: &str| assert_eq!(Schedule::parse(other).as_ref(), Ok(&schedule), "{other:?} for {text:?}");
        let fields: Vec<_> = text.split_whitespace().collect();
        let is_cron = matches!(fields.len(), 5 | 6);

        means_the_same(&format!("\t {}  ", text.to_ascii_uppercase()));
        if is_cron {
            means_the_same(&fields.iter().map(|field| turned(field)).collect::<Vec<_>>().join(" "));
            means_the_same(&fields.iter().map(|field| format!("{field},{field}")).collect::<Vec<_>>().join("\t "));
            if fields.len() == 5 {
                means_the_same(&format!("0 {text}"));
            }
        } else {
            let period = time_span(&text).unwrap();
            let (minutes, seconds) = (period.as_secs() / 60, period.as_secs() % 60);
            let (hours, minutes, ticks) = (minutes / 60, minutes % 60, period.subsec_nanos() / 100);
            means_the_same(&format!("{}.{:02}:{minutes:02}:{seconds:02}.{ticks:07}", hours / 24, hours % 24));
        }

        let after = Moment::new((*after).into(), (fraction % 1_000_000_000).cast_signed()).unwrap_or(Moment::UNIX_EPOCH);
        let Some(next) = schedule.next(after) else { return };
        assert!(next > after, "{text:?} after {after}: {next}");
        if is_cron {
            let before = Moment::from_nanosecond(next.as_nanosecond() - 1).unwrap();
            let between = Moment::from_nanosecond(i128::midpoint(after.as_nanosecond(), next.as_nanosecond() - 1)).unwrap();
            for earlier in [before, between] {
                assert_eq!(schedule.next(earlier), Some(next), "{text:?} after {earlier}, as after {after}");
            }
        } else {
            assert_eq!(next.duration_since(after).unsigned_abs(), time_span(&text).unwrap(), "{text:?}");
        }
    });
}
