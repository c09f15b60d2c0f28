//! What is refused at the door: who asks too often, and everybody while too much waits or the store is away. And what clients
//! are told of how long things take.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::support::{Answer, Directory, Handler, Host, Response, eventually, http_envelope, order, request, try_submit};

fn kind(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap().strip_prefix("urn:problem-type:waybill:").unwrap()
}

fn seconds(answer: &Answer) -> u64 {
    answer.headers["Retry-After"].as_str().unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

fn from(address: &str) -> [(&str, &str); 1] {
    [("X-Forwarded-For", address)]
}

fn post(host: &Host, id: &str, headers: &[(&str, &str)]) -> Response {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend(headers);
    request("POST", &host.url("/api/orders"), &all, Some(order(id).to_string().as_bytes()))
}

fn limit_fields(headers: &BTreeMap<String, String>) -> (Option<&str>, Option<&str>) {
    (headers.get("ratelimit-policy").map(String::as_str), headers.get("ratelimit").map(String::as_str))
}

#[test]
fn a_client_of_the_host_is_told_its_quota_and_then_when_to_come_back() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[("RATE_LIMIT", "2/1h"), ("TRUSTED_PROXIES", "1")]);
    let client = from("192.0.2.1:4711");

    let first = post(&host, "R-1", &client);
    let second = post(&host, "R-2", &client);
    let third = post(&host, "R-3", &client);

    let policy = Some("\"default\";q=2;w=3600");
    assert_eq!((first.status, limit_fields(&first.headers)), (202, (policy, Some("\"default\";r=1;t=1800"))), "{first:?}");
    assert_eq!((second.status, limit_fields(&second.headers)), (202, (policy, Some("\"default\";r=0;t=1800"))), "{second:?}");
    assert_eq!(third.status, 429, "{third:?}");
    let wait: u32 = third.headers["retry-after"].parse().unwrap();
    assert!((1700..=1800).contains(&wait), "{third:?}");
    assert_eq!(limit_fields(&third.headers), (policy, Some(&*format!("\"default\";r=0;t={wait}"))));
    assert!(third.headers["content-type"].starts_with("application/problem+json"), "{third:?}");
    assert_eq!(
        third.json(),
        json!({
            "type": "urn:problem-type:waybill:rate-limited", "title": "Too many requests", "status": 429,
            "detail": format!("at most 2 requests in 3600 s; this one recorded nothing: send it again in {wait} s"),
            "outcome": "not_accepted"
        })
    );
    assert_eq!(host.get("/api/orders/x/status").status, 404, "a status is not counted");
    assert_eq!(post(&host, "R-3", &from("192.0.2.2")).status, 202, "nothing was recorded, and another caller is let in");
}

#[test]
fn a_caller_is_let_in_again_after_retry_after() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("RATE_LIMIT", "1/1s")]);
    assert_eq!(try_submit(&handler, "R-4", &[]).status, 202);
    let refused = try_submit(&handler, "R-5", &[]);
    assert_eq!((refused.status, seconds(&refused)), (429, 1), "{refused:?}");

    let started = Instant::now();
    let mut refusals = 0;
    eventually("the caller is let in", || {
        let answer = try_submit(&handler, "R-5", &[]);
        refusals += u32::from(answer.status == 429);
        (answer.status == 202).then_some(())
    });

    assert!(refusals > 0 && started.elapsed() <= Duration::from_secs(5), "{refusals} {:?}", started.elapsed());
}

#[test]
fn what_a_client_claims_about_itself_gains_nothing() {
    let data = Directory::new();
    let settings = [("RATE_LIMIT", "1/1h")];
    let proxied = Handler::start(data.path(), &[settings[0], ("TRUSTED_PROXIES", "1")]);
    assert_eq!(try_submit(&proxied, "R-6", &from("192.0.2.1:1")).status, 202);
    for spoofed in ["6.6.6.6, 192.0.2.1:2", "192.0.2.1", "7.7.7.7,8.8.8.8 , 192.0.2.1:3"] {
        let headers =
            [("X-Forwarded-For", spoofed), ("X-Subscription-Id", spoofed), ("Forwarded", "for=9.9.9.9"), ("CLIENT-IP", "9.9.9.9")];
        assert_eq!(try_submit(&proxied, "R-7", &headers).status, 429, "{spoofed}");
    }
    assert_eq!(try_submit(&proxied, "R-7", &[("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")]).status, 429);
    assert_eq!(try_submit(&proxied, "R-7", &from("[2001:db8:0:1::1]:5")).status, 202);
    assert_eq!(try_submit(&proxied, "R-8", &from("2001:db8:0:1:ffff::2")).status, 429, "one network of IPv6 is one caller");
    assert_eq!(try_submit(&proxied, "R-8", &from("2001:db8:0:2::2")).status, 202);

    let data = Directory::new();
    let direct = Handler::start(data.path(), &settings);
    assert_eq!(try_submit(&direct, "R-9", &from("192.0.2.1")).status, 202);
    assert_eq!(try_submit(&direct, "R-10", &from("192.0.2.2")).status, 429, "callers that cannot be told apart are one caller");
}

#[test]
fn a_subscription_counts_before_the_address_and_stands_in_the_message() {
    let data = Directory::new();
    let settings = [("RATE_LIMIT", "1/1h"), ("TRUSTED_PROXIES", "1"), ("RATE_LIMIT_SUBSCRIPTION_HEADER", "X-Subscription-Id")];
    let handler = Handler::start(data.path(), &settings);
    let by = |id: &str, subscription: &str, address: &str| {
        try_submit(&handler, id, &[("x-subscription-id", subscription), ("X-Forwarded-For", address)])
    };

    let first = by("R-11", "gold", "192.0.2.1");

    assert_eq!(first.status, 202);
    let message: Value = serde_json::from_str(first.message.as_deref().unwrap()).unwrap();
    assert_eq!(message["metadata"]["subscriptionId"], "gold");
    assert_eq!(by("R-12", "gold", "192.0.2.2").status, 429);
    assert_eq!(by("R-12", "silver", "192.0.2.1").status, 202);
    for (id, doubtful) in [("R-13", "two words"), ("R-14", "")] {
        let address = format!("192.0.2.{}", id.len() + doubtful.len());
        let answer = by(id, doubtful, &address);
        assert_eq!(answer.status, 202, "{doubtful:?}");
        let message: Value = serde_json::from_str(answer.message.as_deref().unwrap()).unwrap();
        assert_eq!(message["metadata"]["subscriptionId"], Value::Null);
        assert_eq!(by("R-15", doubtful, &address).status, 429, "then the address counts");
    }
}

#[test]
fn an_order_accepted_before_is_answered_beyond_the_rate_limit() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("RATE_LIMIT", "1/1h")]);
    let first = try_submit(&handler, "R-16", &[]);

    let again = try_submit(&handler, "R-16", &[]);
    let other = try_submit(&handler, "R-17", &[]);
    let mut changed = order("R-16");
    changed["note"] = "another".into();
    let conflict = handler.ingress(Some(&changed.to_string()), &[]);
    let invalid = handler.ingress(Some("{}"), &[]);

    assert_eq!((again.status, &again.headers["Location"]), (202, &first.headers["Location"]), "{again:?}");
    assert_eq!(again.headers["RateLimit"].as_str().map(|field| &field[..13]), Some("\"default\";r=0"));
    assert_eq!(again.message, None, "it costs nothing more than the answer");
    assert_eq!((other.status, conflict.status, invalid.status), (429, 409, 429));
    assert_eq!(
        (&other.body["outcome"], &invalid.body["outcome"]),
        (&json!("not_accepted"), &json!("unknown")),
        "an unreadable order may be an accepted one"
    );
    assert_eq!(handler.process(first.message.as_deref().unwrap()).status, 200);
    assert_eq!(try_submit(&handler, "R-16", &[]).body["status"], "completed");
}

#[test]
fn a_refused_repeat_of_an_overdue_order_carries_its_message_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("RATE_LIMIT", "1/1h"), ("OVERDUE_AFTER", "2s")]);
    let (id, message) = try_submit(&handler, "R-18", &[]).accepted();
    assert_eq!(try_submit(&handler, "R-18", &[]).message, None, "it is not overdue");

    let again = eventually("the order is overdue", || {
        let again = try_submit(&handler, "R-18", &[]);
        assert_eq!((again.status, &again.body["trackingId"]), (202, &json!(id)), "{again:?}");
        again.message
    });

    assert_eq!(again, message);
    assert_eq!(try_submit(&handler, "R-18", &[]).message, None, "it was sent just now");
}

#[test]
fn while_too_many_wait_new_orders_are_refused_and_known_ones_answered() {
    for emulator in [None, Some(Emulator::start(&[]))] {
        let data = Directory::new();
        let admission = [("ADMISSION_MAX_AGE", "1s")];
        let handler = match &emulator {
            None => Handler::start(data.path(), &admission),
            Some(emulator) => Handler::begin(&emulator.with(&admission)).ready(),
        };
        // The first ten do not count: they may be stuck.
        let accepted: Vec<Answer> = (0..12).map(|number| try_submit(&handler, &format!("A-{number}"), &[])).collect();
        assert!(accepted.iter().all(|answer| answer.status == 202), "{accepted:?}");

        let refused = eventually("too many wait", || {
            let answer = try_submit(&handler, "A-1", &[]);
            assert_eq!(answer.status, 202, "a known order is answered: {answer:?}");
            let backlog = handler.readyz().json()["admission"]["backlogSeconds"].as_u64();
            (backlog > Some(1)).then(|| try_submit(&handler, "A-NEW", &[]))
        });

        assert_eq!((refused.status, kind(&refused), &refused.body["outcome"]), (503, "too-many-waiting", &json!("not_accepted")));
        assert!((5..=300).contains(&seconds(&refused)), "{refused:?}");
        assert_eq!(refused.message, None);
        assert_eq!(handler.readyz().json()["admission"]["accepting"], false);
        let known = try_submit(&handler, "A-3", &[]);
        assert_eq!((known.status, &known.body["trackingId"], &known.message), (202, &accepted[3].body["trackingId"], &None));
        assert!(known.body["estimatedCompletion"].as_str() > accepted[3].body["estimatedCompletion"].as_str(), "{known:?}");
        for answer in &accepted {
            assert_eq!(handler.process(answer.message.as_deref().unwrap()).status, 200);
        }
        eventually("new orders are accepted again", || (try_submit(&handler, "A-NEW", &[]).status == 202).then_some(()));
    }
}

#[test]
fn an_instance_without_a_backlog_reading_reads_before_it_accepts() {
    for emulator in [None, Some(Emulator::start(&[]))] {
        let data = Directory::new();
        let begin = |settings: &[(&str, &str)]| match &emulator {
            None => Handler::start(data.path(), settings),
            Some(emulator) => Handler::begin(&emulator.with(settings)).ready(),
        };
        let mut handler = begin(&[("ADMISSION_MAX_AGE", "0")]);
        (0..12).for_each(|number| assert_eq!(try_submit(&handler, &format!("K-{number}"), &[]).status, 202));
        handler.program.kill();
        // Two handlers may differ by a second in what they take for the account's time.
        let submitted = Instant::now();
        eventually("they have waited", || (submitted.elapsed() > Duration::from_secs(2)).then_some(()));

        let handler = begin(&[("ADMISSION_MAX_AGE", "1ms")]);
        // The first query of a process takes long.
        assert_eq!(handler.list("").status, 200);

        let refused = try_submit(&handler, "K-NEW", &[]);

        assert_eq!((refused.status, kind(&refused), &refused.body["outcome"]), (503, "too-many-waiting", &json!("not_accepted")));
    }
}

#[test]
fn admission_can_be_switched_off() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[("ADMISSION_MAX_AGE", "0")])).ready();

    assert_eq!(try_submit(&handler, "A-20", &[]).status, 202);

    assert_eq!(handler.readyz().json()["store"]["operations"]["query"]["calls"], 0);
}

#[test]
fn a_store_that_fails_again_and_again_is_left_alone_and_asked_by_one_at_a_time() {
    let emulator = Emulator::start(&[]);
    let settings = [("FUNCTION_TIMEOUT", "6s"), ("ADMISSION_MAX_AGE", "0")];
    let mut handler = Handler::begin(&emulator.with(&settings)).ready();
    assert_eq!(try_submit(&handler, "B-1", &[]).status, 202);
    let breaker = |handler: &Handler| handler.readyz().json()["admission"]["storeBreaker"].as_str().unwrap().to_owned();
    assert_eq!(breaker(&handler), "closed");
    emulator.fault(&json!({ "kind": "hang", "operations": ["create"] }));

    for number in 0..5 {
        let answer = try_submit(&handler, &format!("B-2{number}"), &[]);
        assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "its write left: {answer:?}");
    }
    emulator.reset_figures();
    let started = Instant::now();
    let answer = try_submit(&handler, "B-3", &[]);

    assert_eq!((answer.status, kind(&answer), &answer.body["outcome"]), (503, "store-unavailable", &json!("not_accepted")), "{answer:?}");
    assert!((2..=3).contains(&seconds(&answer)), "{answer:?}");
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
    assert_eq!(emulator.figures()["requests"]["create"], 0, "the store is not asked");
    handler.program.line("the store is down");
    assert_ne!(breaker(&handler), "closed");
    let again = try_submit(&handler, "B-1", &[]);
    assert_eq!((again.status, &again.body["status"]), (202, &json!("accepted")), "it was accepted before: {again:?}");
    assert!(again.message.is_some(), "its message may not have left before the store was away");

    // Many at a time, for as long as two probes take.
    let end = Instant::now() + Duration::from_secs(8);
    let ask = &|number: usize| {
        let mut unknown = 0;
        // Each another order, or one whose write may still arrive would not be told `not_accepted` again.
        for turn in 0.. {
            if Instant::now() > end {
                break;
            }
            let answer = try_submit(&handler, &format!("B-4-{number}-{turn}"), &[]);
            assert_eq!(answer.status, 503, "{answer:?}");
            unknown += u64::from(answer.body["outcome"] == "unknown");
        }
        unknown
    };
    let probes = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|number| scope.spawn(move || ask(number))).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum::<u64>()
    });
    assert!((1..=3).contains(&probes), "{probes}");
    assert_eq!(emulator.figures()["requests"]["create"], probes);

    emulator.calm();
    eventually("the breaker closes", || (try_submit(&handler, "B-5", &[]).status == 202).then_some(()));
    assert_eq!(breaker(&handler), "closed");
    handler.program.line("the store is back");
}

#[test]
fn a_store_that_is_away_refuses_a_limited_caller_at_once() {
    let emulator = Emulator::start(&[]);
    let settings = [("RATE_LIMIT", "1/1h"), ("ADMISSION_MAX_AGE", "0")];
    let handler = Handler::begin(&emulator.with(&settings)).ready();
    assert_eq!(try_submit(&handler, "B-6", &[]).status, 202);
    emulator.fault(&json!({ "kind": "hang", "operations": ["read"] }));

    let started = Instant::now();
    let answer = try_submit(&handler, "B-6", &[]);

    assert_eq!((answer.status, &answer.body["outcome"]), (429, &json!("unknown")), "it was accepted before: {answer:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    emulator.calm();
    assert_eq!(try_submit(&handler, "B-6", &[]).status, 202);
}

#[test]
fn an_order_that_was_accepted_is_not_denied_while_the_store_takes_no_writes() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let accepted = try_submit(&handler, "B-7", &[]);
    assert_eq!(accepted.status, 202);
    emulator.fault(&json!({ "kind": "throttle", "retryAfterMs": 10, "operations": ["create"] }));

    let (again, new) = (try_submit(&handler, "B-7", &[]), try_submit(&handler, "B-8", &[]));

    assert_eq!((again.status, &again.headers["Location"]), (202, &accepted.headers["Location"]), "{again:?}");
    assert_eq!((new.status, &new.body["outcome"]), (503, &json!("not_accepted")), "{new:?}");
}

#[test]
fn an_order_that_another_request_may_be_recording_is_not_denied() {
    const LIMIT: [(&str, &str); 2] = [("RATE_LIMIT", "1/1h"), ("ADMISSION_MAX_AGE", "0")];
    let outcome = |handler: &Handler, id: &str| {
        let answer = try_submit(handler, id, &[]);
        assert_eq!(answer.status, 429, "{answer:?}");
        answer.body["outcome"].as_str().unwrap().to_owned()
    };
    let emulator = Emulator::start(&[]);
    let hangs = json!({ "kind": "hang", "operations": ["create"] });
    let is_written = || eventually("its write has left", || (emulator.figures()["requests"]["create"] == 1).then_some(()));

    let handler = Handler::begin(&emulator.with(&LIMIT)).ready();
    emulator.reset_figures();
    emulator.fault(&hangs);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| try_submit(&handler, "U-1", &[]));
        is_written();
        assert_eq!((outcome(&handler, "U-1"), outcome(&handler, "U-2")), ("unknown".into(), "not_accepted".into()));
        emulator.calm();
        // The request that writes repeats the write.
        assert_eq!(first.join().unwrap().status, 202);
    });
    assert_eq!(try_submit(&handler, "U-1", &[]).status, 202);

    let handler = Handler::begin(&emulator.with(&[&LIMIT[..], &[("FUNCTION_TIMEOUT", "4s")]].concat())).ready();
    emulator.fault(&hangs);
    assert_eq!(try_submit(&handler, "U-4", &[]).status, 503);
    assert_eq!((outcome(&handler, "U-4"), outcome(&handler, "U-5")), ("unknown".into(), "not_accepted".into()), "it may arrive late");
    emulator.calm();

    let settings = [&LIMIT[..], &[("RUST_LOG", "waybill=debug,serving=debug")]].concat();
    let mut handler = Handler::begin(&emulator.with(&settings)).ready();
    emulator.reset_figures();
    emulator.fault(&hangs);
    let envelope = http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), Some(&order("U-3").to_string()), &[]).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    write!(stream, "POST /OrderIngress HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{envelope}", envelope.len()).unwrap();
    is_written();
    drop(stream);
    handler.program.line("a connection ended early");
    assert_eq!(outcome(&handler, "U-3"), "unknown", "the client is gone, and the order is written all the same");
    emulator.calm();
    eventually("it is accepted", || (try_submit(&handler, "U-3", &[]).status == 202).then_some(()));
}

#[test]
fn an_order_that_is_recorded_while_another_request_looks_for_it_is_not_denied() {
    let emulator = Emulator::start(&[]);
    let settings = [("RATE_LIMIT", "1/1h"), ("ADMISSION_MAX_AGE", "0"), ("TRUSTED_PROXIES", "1")];
    let handler = Handler::begin(&emulator.with(&settings)).ready();
    let (limited, other) = (from("192.0.2.1"), from("192.0.2.2"));
    assert_eq!(try_submit(&handler, "U-6", &limited).status, 202);
    emulator.reset_figures();
    // The look is over when its answer is not yet there.
    emulator.fault(&json!({ "kind": "delay", "ms": 800, "operations": ["read"] }));

    let refused = std::thread::scope(|scope| {
        let refused = scope.spawn(|| try_submit(&handler, "U-7", &limited));
        eventually("it looks", || (emulator.figures()["requests"]["read"] == 1).then_some(()));
        assert_eq!(try_submit(&handler, "U-7", &other).status, 202);
        refused.join().unwrap()
    });

    // It may have looked a moment too late, and found the record.
    assert_ne!(refused.body["outcome"], "not_accepted", "{refused:?}");
}

fn moment(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn what_orders_took_lately_is_what_the_next_one_is_told() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("WORK_DELAY", "400ms")]);
    let told = |answer: &Answer| {
        let promised = moment(&answer.body["estimatedCompletion"]).duration_since(moment(&answer.body["submittedAt"]));
        (promised.as_millis(), seconds(answer))
    };
    let first = try_submit(&handler, "E-1", &[]);
    assert_eq!(told(&first), (2600, 2), "the work's own delay and a second");

    assert_eq!(handler.process(first.message.as_deref().unwrap()).status, 200);
    let after = told(&try_submit(&handler, "E-2", &[]));
    assert!((1600..2600).contains(&after.0), "{after:?}");
}

#[test]
fn the_pause_until_the_next_look_shrinks_as_progress_grows() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("WORK_DELAY", "1500ms")]);
    let accepted = try_submit(&handler, "E-4", &[]);
    let id = accepted.body["trackingId"].as_str().unwrap().to_owned();
    let milliseconds = |answer: &Answer| answer.headers["retry-after-ms"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(seconds(&accepted) == 4 && (3300..=3500).contains(&milliseconds(&accepted)), "{accepted:?}");
    assert_eq!(accepted.headers["Location"], accepted.body["statusUrl"]);

    let looks = std::thread::scope(|scope| {
        let working = scope.spawn(|| handler.process(accepted.message.as_deref().unwrap()).status);
        let mut looks: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        eventually("it has ended", || {
            let answer = handler.status(&id);
            if answer.body["status"] == "completed" {
                assert_eq!((&answer.headers["Retry-After"], &answer.headers["retry-after-ms"]), (&Value::Null, &Value::Null));
                return Some(());
            }
            looks.insert(answer.body["progress"].as_u64().unwrap(), (seconds(&answer), milliseconds(&answer)));
            None
        });
        assert_eq!(working.join().unwrap(), 200);
        looks
    });

    let pauses: Vec<_> = looks.values().copied().collect();
    assert!(pauses.len() >= 3 && pauses.iter().all(|(seconds, _)| *seconds >= 1), "{looks:?}");
    assert!(pauses.is_sorted_by(|before, after| before.1 >= after.1 && before.0 >= after.0), "{looks:?}");
    assert!(pauses.last().unwrap().1 < pauses.first().unwrap().1, "{looks:?}");
}

#[test]
fn where_nothing_is_limited_nothing_is_said_of_a_limit() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    let envelope = http_envelope("POST", "http://localhost/api/orders", &json!({}), Some(&order("E-5").to_string()), &[]);
    let answer = Answer::of(&handler.invoke("OrderIngress", &envelope));

    assert_eq!((answer.status, &answer.headers["RateLimit"], &answer.headers["RateLimit-Policy"]), (202, &Value::Null, &Value::Null));
}
