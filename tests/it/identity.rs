//! A managed identity, its tokens handed out by a token endpoint as the platform has one (App Service, 2019-08-01).

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_core::http::Url;
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::fake::{self, Fake, Heard};
use crate::support::{Answer, Handler, eventually, try_submit};

/// The value of `IDENTITY_HEADER`, with which any process gets tokens.
const SECRET: &str = "E1D7F00DC0FFEE";
const CLIENT_ID: &str = "7f0b1c52-5d3e-4b8e-9a66-2c1a7de0f3aa";
const SYSTEM_ASSIGNED: &str = "the system-assigned managed identity";
const HOUR: Duration = Duration::from_hours(1);
/// The SDK fetches a token anew that has less left than this.
const MARGIN: Duration = Duration::from_mins(5);

/// The platform's token endpoint.
struct TokenEndpoint {
    fake: Fake,
    /// In this order; the last one for ever.
    replies: Arc<Mutex<VecDeque<Reply>>>,
}

#[derive(Clone)]
enum Reply {
    /// A token, and what is left of its life when it is handed out.
    Token(&'static str, Duration),
    Refusal(u16),
}

impl TokenEndpoint {
    fn start(replies: &[Reply]) -> Self {
        let replies = Arc::new(Mutex::new(VecDeque::from(replies.to_vec())));
        let shared = Arc::clone(&replies);
        let fake = Fake::answering(move |_, heard| {
            let mut replies = shared.lock().unwrap();
            let next = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
            drop(replies);
            answer(&next.unwrap(), heard)
        });
        Self { fake, replies }
    }

    /// Gives this answer to the first request once it is released, and none to any other.
    fn slow(reply: Reply) -> (Self, Sender<()>) {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let fake = Fake::answering(move |number, heard| {
            if number > 0 {
                return fake::Reply::Silence;
            }
            let _ = released.lock().unwrap().recv();
            answer(&reply, heard)
        });
        (Self { fake, replies: Arc::default() }, release)
    }

    /// From now on this is the answer.
    fn reply(&self, reply: Reply) {
        *self.replies.lock().unwrap() = VecDeque::from([reply]);
    }

    fn heard(&self) -> Vec<Heard> {
        self.fake.heard()
    }

    /// A handler that has an identity and no key.
    fn handler(&self, emulator: &Emulator, more: &[(&str, &str)]) -> Handler {
        let url = format!("{}/msi/token", self.fake.url);
        let mut settings = vec![
            ("CosmosConnection__accountEndpoint", emulator.endpoint()),
            ("CosmosConnection__credential", "managedidentity"),
            ("IDENTITY_ENDPOINT", url.as_str()),
            ("IDENTITY_HEADER", SECRET),
        ];
        settings.extend(["CosmosDatabase", "CosmosContainer", "TRACKING_ID_KEY"].map(|name| (name, emulator.setting(name))));
        settings.extend(more);
        Handler::begin(&settings)
    }
}

fn query(heard: &Heard) -> BTreeMap<String, String> {
    Url::parse("http://localhost").unwrap().join(heard.target()).unwrap().query_pairs().into_owned().collect()
}

fn answer(next: &Reply, heard: &Heard) -> fake::Reply {
    let (status, body) = match next {
        Reply::Token(token, left) => {
            let expires_on = (SystemTime::now() + *left).duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
            let resource = query(heard).get("resource").cloned();
            (200, json!({ "access_token": token, "expires_on": expires_on, "resource": resource, "token_type": "Bearer" }))
        }
        Reply::Refusal(status) => (*status, json!({ "statusCode": status, "message": "No identity for you", "correlationId": "c" })),
    };
    fake::reply(status, &[("Content-Type", "application/json")], &body.to_string())
}

/// Sends an order, works on it, reads it.
fn completes(handler: &Handler, order_id: &str) {
    let answer = try_submit(handler, order_id, &[]);
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(handler.process(&answer.message.unwrap()).status, 200);
    let status = handler.status(answer.body["trackingId"].as_str().unwrap());
    assert_eq!((status.status, &status.body["status"]), (200, &"completed".into()), "{status:?}");
}

/// The customer is told to come back, since an earlier request may have been accepted; nothing is sent.
fn is_refused(answer: &Answer) {
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &"unknown".into()), "{answer:?}");
    assert!(answer.headers["Retry-After"].as_str().unwrap().parse::<u32>().unwrap() > 0, "{answer:?}");
    assert_eq!(answer.message, None);
}

fn logged(handler: &Handler, text: &str) -> Vec<String> {
    handler.program.lines_with(text)
}

fn is_silent_about(handler: &Handler, secrets: &[&str]) {
    let lines = handler.program.lines();
    assert!(!lines.is_empty());
    let telling = lines.iter().find(|line| secrets.iter().any(|secret| line.contains(secret)));
    assert_eq!(telling, None);
}

#[test]
fn a_system_assigned_identity_takes_an_order_works_on_it_and_reads_it() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token-of-the-app"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token-of-the-app", HOUR)]);

    let handler = endpoint.handler(&emulator, &[]).ready();
    completes(&handler, "I-1");

    let asked = &endpoint.heard()[0];
    let expected = [("api-version", "2019-08-01"), ("resource", "https://cosmos.azure.com")];
    assert_eq!(query(asked), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), "{asked:?}");
    assert!(asked.line.starts_with("GET /msi/token?"), "{asked:?}");
    assert_eq!(asked.headers["x-identity-header"], SECRET);
    let told = logged(&handler, SYSTEM_ASSIGNED);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("records are in Cosmos DB, by the system-assigned managed identity"), "{told:?}");
    is_silent_about(&handler, &["token-of-the-app", SECRET]);
}

#[test]
fn a_user_assigned_identity_is_asked_for_by_its_client_id_and_logged_once() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token-of-the-user"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token-of-the-user", HOUR)]);

    let handler = endpoint.handler(&emulator, &[("CosmosConnection__clientId", CLIENT_ID)]).ready();
    completes(&handler, "I-2");

    let asked = endpoint.heard();
    assert!(asked.iter().all(|asked| query(asked).get("client_id").is_some_and(|id| id == CLIENT_ID)), "{asked:?}");
    let told = logged(&handler, "records are in Cosmos DB, by the user-assigned managed identity");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(CLIENT_ID), "{told:?}");
}

#[test]
fn fifty_orders_cost_one_token() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token", HOUR)]);
    let handler = endpoint.handler(&emulator, &[]).ready();

    for number in 0..50 {
        completes(&handler, &format!("I-50-{number}"));
    }

    assert_eq!(emulator.figures()["documents"], 50);
    // Our own look at the account and the SDK share one credential, and so its cache.
    assert_eq!(endpoint.heard().len(), 1, "{:?}", endpoint.heard());
}

#[test]
fn a_token_is_fetched_anew_before_it_expires_and_no_order_notices() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["first", "second"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("first", MARGIN + Duration::from_secs(4)), Reply::Token("second", HOUR)]);
    let handler = endpoint.handler(&emulator, &[]).ready();

    let mut number = 0;
    eventually("the token is fetched anew", || {
        number += 1;
        completes(&handler, &format!("I-3-{number}"));
        (endpoint.heard().len() == 2).then_some(())
    });
    emulator.admit(&["second"]);
    completes(&handler, "I-3-last");

    assert_eq!(endpoint.heard().len(), 2);
}

#[test]
fn a_token_that_has_little_left_is_asked_for_anew_until_a_better_one_comes() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["short"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("short", Duration::from_secs(1))]);
    let handler = endpoint.handler(&emulator, &[]).ready();
    completes(&handler, "I-4-1");

    endpoint.reply(Reply::Token("long", HOUR));
    emulator.admit(&["long"]);
    completes(&handler, "I-4-2");
    let asked = endpoint.heard().len();
    completes(&handler, "I-4-3");

    assert!(asked > 1);
    assert_eq!(endpoint.heard().len(), asked);
}

#[test]
fn a_token_is_used_as_long_as_it_lasts_while_the_endpoint_fails() {
    for reply in [Reply::Refusal(500), Reply::Refusal(400)] {
        let emulator = Emulator::start(&[]);
        emulator.admit(&["token"]);
        let endpoint = TokenEndpoint::start(&[Reply::Token("token", MARGIN / 2)]);
        let handler = endpoint.handler(&emulator, &[("FUNCTION_TIMEOUT", "10s")]).ready();

        endpoint.reply(reply);
        for number in 0..5 {
            completes(&handler, &format!("I-13-{number}"));
        }

        assert!(endpoint.heard().len() <= 3, "{:?}", endpoint.heard().len());
    }
}

#[test]
fn a_token_endpoint_that_fails_twice_only_delays_readiness() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Refusal(500), Reply::Refusal(500), Reply::Token("token", HOUR)]);

    let handler = endpoint.handler(&emulator, &[]).ready();
    completes(&handler, "I-5");

    assert_eq!(endpoint.heard().len(), 3);
}

#[test]
fn a_token_that_takes_longer_than_any_call_waits_is_got() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["slow-token"]);
    let (endpoint, release) = TokenEndpoint::slow(Reply::Token("slow-token", HOUR));
    let mut handler = endpoint.handler(&emulator, &[]);

    handler.program.line("no token came in time");
    release.send(()).unwrap();

    completes(&handler.ready(), "I-15");
    // No call after the first one gave up has got an answer of its own.
    assert!(endpoint.heard().len() <= 3, "{:?}", endpoint.heard());
}

#[test]
fn a_token_that_is_refused_when_no_call_waits_any_more_is_told_with_the_reason() {
    let emulator = Emulator::start(&[]);
    let (endpoint, release) = TokenEndpoint::slow(Reply::Refusal(400));
    let mut handler = endpoint.handler(&emulator, &[]);

    handler.program.line("no token came in time");
    release.send(()).unwrap();

    // The reason is told by the fetch, or by the next call if the fetch ended in time.
    let told = handler.program.line("has not been assigned");
    assert!(told.contains("token"), "{told}");
    assert_eq!(handler.readyz().status, 503);
}

#[test]
fn a_token_endpoint_that_fails_for_long_is_told_and_needs_no_restart() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Refusal(500)]);
    let mut handler = endpoint.handler(&emulator, &[("FUNCTION_TIMEOUT", "10s")]);

    let told = handler.program.line(&format!("no token for {SYSTEM_ASSIGNED}"));
    assert_eq!(handler.readyz().status, 503, "{told}");
    is_refused(&try_submit(&handler, "I-6", &[]));
    endpoint.reply(Reply::Token("token", HOUR));

    completes(&handler.ready(), "I-6");
}

#[test]
fn a_token_endpoint_that_refuses_is_told_with_what_to_set() {
    let user_assigned = format!("the user-assigned managed identity {CLIENT_ID}");
    let cases = [
        (400, None, SYSTEM_ASSIGNED, "CosmosConnection__clientId"),
        (404, None, SYSTEM_ASSIGNED, "turn the app's system-assigned identity on"),
        (400, Some(CLIENT_ID), user_assigned.as_str(), "assign the identity with this client id to the app"),
        (404, Some(CLIENT_ID), user_assigned.as_str(), "assign the identity with this client id to the app"),
    ];
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let refuses = |(status, client_id, identity, advice): (u16, Option<&str>, &str, &str)| {
        let endpoint = TokenEndpoint::start(&[Reply::Refusal(status)]);
        let client_id = client_id.map(|client_id| ("CosmosConnection__clientId", client_id));
        let mut handler = endpoint.handler(&emulator, client_id.as_slice());

        let told = handler.program.line("no token for");

        assert!(told.contains("ERROR") && told.contains(identity) && told.contains(advice), "{status}: {told}");
        assert_eq!(handler.readyz().status, 503);
        let order_id = format!("I-7-{status}-{}", client_id.is_some());
        is_refused(&try_submit(&handler, &order_id, &[]));
        endpoint.reply(Reply::Token("token", HOUR));
        let handler = handler.ready();
        completes(&handler, &order_id);
        is_silent_about(&handler, &[SECRET]);
    };
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || refuses(case));
        }
    });
}

#[test]
fn an_identity_without_a_role_is_told_the_role_and_works_once_it_has_it() {
    let emulator = Emulator::start(&[]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token-without-a-role", HOUR)]);
    let mut handler = endpoint.handler(&emulator, &[]);

    let told = handler.program.line("Cosmos DB Built-in Data Contributor");
    assert!(told.contains("ERROR") && told.contains(SYSTEM_ASSIGNED), "{told}");
    assert_eq!(handler.readyz().status, 503);
    is_refused(&try_submit(&handler, "I-8", &[]));
    emulator.admit(&["token-without-a-role"]);

    let handler = handler.ready();
    completes(&handler, "I-8");
    is_silent_about(&handler, &["token-without-a-role", SECRET]);
}

#[test]
fn a_token_that_is_refused_is_not_shown_for_ever() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["expired-by-the-accounts-clock"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("expired-by-the-accounts-clock", HOUR)]);
    let handler = endpoint.handler(&emulator, &[]).ready();

    emulator.admit(&["new"]);
    endpoint.reply(Reply::Token("new", HOUR));

    eventually("another token is shown", || (try_submit(&handler, "I-14", &[]).status == 202).then_some(()));
    assert!(endpoint.heard().len() <= 4, "{}", endpoint.heard().len());
}

#[test]
fn an_identity_that_loses_its_role_takes_orders_again_once_it_has_it_back() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token", HOUR)]);
    let handler = endpoint.handler(&emulator, &[]).ready();

    emulator.admit(&[]);
    is_refused(&try_submit(&handler, "I-9", &[]));
    assert_eq!(handler.readyz().status, 503);
    emulator.admit(&["token"]);

    completes(&handler, "I-9");
    assert_eq!(emulator.figures()["documents"], 1);
}

#[test]
fn an_order_is_refused_while_a_new_token_is_refused() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token", Duration::from_secs(1))]);
    let handler = endpoint.handler(&emulator, &[]).ready();

    endpoint.reply(Reply::Refusal(400));
    is_refused(&try_submit(&handler, "I-11", &[]));
    assert_eq!(handler.readyz().status, 503);
    endpoint.reply(Reply::Token("token", HOUR));

    completes(&handler, "I-11");
    assert_eq!(emulator.figures()["documents"], 1);
}

#[test]
fn an_order_refused_while_the_token_endpoint_is_away_is_taken_once_it_is_back() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token"]);
    let endpoint = TokenEndpoint::start(&[Reply::Token("token", Duration::from_secs(1))]);
    let handler = endpoint.handler(&emulator, &[("FUNCTION_TIMEOUT", "20s")]).ready();

    endpoint.reply(Reply::Refusal(500));
    let answer = try_submit(&handler, "I-12", &[]);
    let documents = emulator.figures()["documents"].clone();
    endpoint.reply(Reply::Token("token", HOUR));

    assert_eq!((answer.status, &answer.message, documents), (503, &None, 0.into()), "{answer:?}");
    assert!(answer.headers["Retry-After"].is_string(), "{answer:?}");
    completes(&handler, "I-12");
}

#[test]
fn neither_tokens_nor_the_identity_header_are_ever_logged() {
    let emulator = Emulator::start(&[]);
    emulator.admit(&["token-one", "token-two"]);
    let replies =
        [Reply::Refusal(500), Reply::Refusal(404), Reply::Token("token-one", Duration::from_secs(1)), Reply::Token("token-two", HOUR)];
    let endpoint = TokenEndpoint::start(&replies);

    let handler = endpoint.handler(&emulator, &[("RUST_LOG", "trace")]).ready();
    completes(&handler, "I-10");

    let asked: Vec<Value> = endpoint.heard().iter().map(|asked| asked.headers["x-identity-header"].as_str().into()).collect();
    assert!(asked.len() >= 4 && asked.iter().all(|header| header == SECRET), "{asked:?}");
    assert!(!logged(&handler, "TRACE").is_empty());
    is_silent_about(&handler, &["token-one", "token-two", SECRET]);
}
