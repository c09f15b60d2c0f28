//! What probes of the platform see, and how little they cost.

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::issuer::{AUDIENCE, Issuer};
use crate::support::{Answer, Directory, Handler, Host, eventually, http_envelope, request};

fn health(handler: &Handler, headers: &[(&str, &str)]) -> Answer {
    Answer::of(&handler.invoke("Health", &http_envelope("GET", "https://shop.example.com/api/health", &json!({}), None, headers)))
}

fn reads(emulator: &Emulator) -> u64 {
    emulator.figures()["requests"]["read"].as_u64().unwrap()
}

#[test]
fn a_probe_learns_whether_the_store_answers_and_nothing_else() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let ask = || request("GET", &host.url("/api/health"), &[], None);
    // The store is opened while requests are served.
    let answer = eventually("it is ready", || Some(ask()).filter(|answer| answer.status == 200));
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "ready" })));
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(request("HEAD", &host.url("/api/health"), &[], None).status, 200);
    assert_eq!(request("POST", &host.url("/api/health"), &[], None).status, 404);
}

#[test]
fn any_number_of_probes_ask_the_store_once_a_second_and_see_it_go_and_come() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    emulator.reset_figures();
    let started = std::time::Instant::now();

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| assert_eq!(health(&handler, &[]).status, 200)));
        }
    });

    let seconds = started.elapsed().as_secs();
    assert!(reads(&emulator) <= 1 + seconds, "200 probes in {seconds} s: {}", emulator.figures());
    emulator.fault(&json!({ "kind": "unavailable" }));
    let away = eventually("it is not ready", || Some(health(&handler, &[])).filter(|answer| answer.status == 503));
    assert_eq!((&away.body, &away.headers["Retry-After"]), (&json!({ "status": "not ready" }), &json!("1")));
    emulator.calm();
    eventually("it is ready", || (health(&handler, &[]).status == 200).then_some(()));
}

#[test]
fn only_an_operator_gets_the_figures() {
    let issuer = Issuer::start();
    let data = Directory::new();
    let settings = [("AUTH_ISSUER", issuer.url.as_str()), ("AUTH_AUDIENCE", AUDIENCE), ("AUTH_OPERATOR_ROLE", "orders.operator")];
    let mut handler = Handler::start(data.path(), &settings);
    handler.program.line("the issuer's keys are read");
    let token = |roles: Value| {
        let mut claims = issuer.claims("olga", "");
        claims["roles"] = roles;
        format!("Bearer {}", issuer.rsa.token(&Issuer::header().to_string(), &claims.to_string()))
    };

    for headers in [vec![], vec![("Authorization", token(json!(["reader"])))], vec![("Authorization", "Bearer x".to_owned())]] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(health(&handler, &headers).body, json!({ "status": "ready" }), "{headers:?}");
    }
    let answer = health(&handler, &[("Authorization", &token(json!(["orders.operator"])))]);
    assert!(answer.body["store"].is_object() && answer.body["admission"].is_object(), "{answer:?}");
    assert_eq!(answer.body["waiting"]["forChange"], 0, "{answer:?}");
}
