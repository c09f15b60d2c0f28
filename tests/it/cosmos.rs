//! Cosmos DB slow, throttled, wrong or away: what a client sees, what reaches the wire, and that no accepted order suffers.
//!
//! The rows of the table in `docs/cosmos.md` are the tests of this file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::fake::{Fake, reply};
use crate::support::{
    Answer, Directory, Handler, Host, Program, events, eventually, hopeless, http_envelope, order, request, submit as accepted,
    submit_until_accepted, try_submit,
};

/// A handler whose records are in the emulator, ready.
fn handler(emulator: &Emulator, more: &[(&str, &str)]) -> Handler {
    Handler::begin(&emulator.with(more)).ready()
}

fn requests(emulator: &Emulator, kind: &str) -> u64 {
    emulator.figures()["requests"][kind].as_u64().unwrap()
}

/// What the handler itself counted.
fn operations(handler: &Handler) -> Value {
    handler.readyz().json()["store"]["operations"].clone()
}

fn completed_once(handler: &Handler, id: &str) {
    let status = handler.status(id);
    assert_eq!(events(&status.body), ["accepted", "claimed", "completed"], "{status:?}");
}

#[test]
fn an_order_of_the_built_in_work_takes_two_writes_and_one_read_for_at_most_18_units() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    emulator.reset_figures();
    let before = operations(&handler);

    let (id, message) = accepted(&handler, "C-1");
    assert_eq!(handler.process(&message).status, 200);

    let figures = emulator.figures();
    let spent = &figures["charges"];
    let units: f64 = ["create", "read", "replace"].iter().map(|kind| spent[kind].as_f64().unwrap()).sum();
    // One of the reads is that of /readyz.
    assert_eq!((requests(&emulator, "create"), requests(&emulator, "read"), requests(&emulator, "replace")), (1, 2, 1), "{figures}");
    assert!(units - 1.0 <= 18.0, "{figures}");
    let counted = operations(&handler);
    for kind in ["create", "replace"] {
        let charge = |figures: &Value| figures[kind]["requestCharge"].as_f64().unwrap();
        assert!((charge(&counted) - charge(&before) - spent[kind].as_f64().unwrap()).abs() < 0.01, "{counted} {spent}");
    }
    completed_once(&handler, &id);
}

#[test]
fn slow_work_claims_first_and_its_progress_rides_on_renewals() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("WORK_DELAY", "400ms"), ("LEASE", "2s")]);
    let (id, message) = accepted(&handler, "C-2");
    emulator.reset_figures();

    assert_eq!(handler.process(&message).status, 200);

    // 1.6 s of work: claim, two renewals, end.
    assert!((3..=5).contains(&requests(&emulator, "replace")), "{}", emulator.figures());
    assert_eq!(requests(&emulator, "read"), 1);
    completed_once(&handler, &id);
}

#[test]
fn many_pollers_of_one_order_share_a_read() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    let (id, _) = accepted(&handler, "C-3");
    emulator.reset_figures();
    let started = Instant::now();

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| assert_eq!(handler.status(&id).status, 200)));
        }
    });

    let seconds = started.elapsed().as_secs();
    assert!(requests(&emulator, "read") <= 1 + seconds, "200 polls in {seconds} s: {}", emulator.figures());
}

#[test]
fn a_store_that_hangs_costs_a_client_the_deadline_and_one_request() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("FUNCTION_TIMEOUT", "14s")]);
    let (id, message) = accepted(&handler, "C-4");
    emulator.reset_figures();
    emulator.fault(&json!({ "kind": "hang", "operations": ["create", "read", "replace"] }));
    let started = Instant::now();

    let answer = try_submit(&handler, "C-5", &[]);

    let took = started.elapsed();
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    assert!(answer.headers["Retry-After"].is_string(), "{answer:?}");
    assert!((Duration::from_millis(600)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(requests(&emulator, "create"), 1);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| handler.process(&message).status);
        eventually("the invocation is asking", || (requests(&emulator, "read") > 0).then_some(()));
        emulator.calm();
        assert_eq!(held.join().unwrap(), 200, "it is held until the store answers");
    });
    completed_once(&handler, &id);
    accepted(&handler, "C-5");
}

#[test]
fn a_throttled_store_is_asked_as_often_as_it_says_and_no_order_is_lost() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    let (id, message) = accepted(&handler, "C-6");
    emulator.reset_figures();
    emulator.fault(&json!({ "kind": "throttle", "retryAfterMs": 50, "seconds": 10 }));
    let started = Instant::now();

    let answer = try_submit(&handler, "C-7", &[]);
    let took = started.elapsed();
    let creates = requests(&emulator, "create");
    let processed = handler.process(&message);

    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(creates, 4, "one request and three repetitions");
    assert_eq!(processed.status, 200, "it is held for the ten seconds of the storm");
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    // A pause of two seconds at most between questions, each of four requests.
    assert!(requests(&emulator, "read") <= 60, "{}", emulator.figures());
    completed_once(&handler, &id);
    accepted(&handler, "C-7");
}

#[test]
fn a_store_that_fails_is_asked_again_with_pauses_and_not_more_than_six_times() {
    for kind in ["unavailable", "internal"] {
        let emulator = Emulator::start(&[]);
        let handler = handler(&emulator, &[]);
        emulator.reset_figures();
        emulator.fault(&json!({ "kind": kind, "operations": ["create"] }));
        let started = Instant::now();

        let answer = try_submit(&handler, "C-8", &[]);

        let took = started.elapsed();
        assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
        // 50 to 100 ms, then 100 to 200 ms.
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(3), "{took:?}");
        assert!((3..=6).contains(&requests(&emulator, "create")), "{}", emulator.figures());
        emulator.fault(&json!({ "kind": kind, "count": 2 }));
        let (id, message) = accepted(&handler, "C-8");
        emulator.fault(&json!({ "kind": kind, "count": 2 }));
        assert_eq!(handler.process(&message).status, 200);
        completed_once(&handler, &id);
    }
}

#[test]
fn a_write_whose_answer_is_lost_is_known_as_our_own() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);

    emulator.fault(&json!({ "kind": "dropAfterWrite", "operations": ["create"], "count": 1 }));
    let (id, message) = accepted(&handler, "C-9");
    emulator.fault(&json!({ "kind": "dropAfterWrite", "operations": ["replace"], "count": 1 }));
    let processed = handler.process(&message);

    assert_eq!(processed.status, 200);
    completed_once(&handler, &id);
    assert_eq!(emulator.figures()["faulted"], 2, "both answers were lost");
}

#[test]
fn an_end_whose_answers_are_all_lost_is_told_once_the_store_answers() {
    let emulator = Arc::new(Emulator::start(&[]));
    let shared = Arc::clone(&emulator);
    let backend = Fake::answering(move |_, _| {
        shared.fault(&json!({ "kind": "dropAfterWrite", "operations": ["replace"] }));
        reply(200, &[], "{}")
    });
    let handler = handler(&emulator, &[("FULFILLMENT_URL", &backend.url)]);
    let (id, message) = accepted(&handler, "C-24");

    let processed = std::thread::scope(|scope| {
        let processed = scope.spawn(|| handler.process(&message).status);
        let is_lost = |line: &String| line.contains("the end of a try could not be recorded");
        eventually("the end is lost", || handler.program.lines().iter().any(is_lost).then_some(()));
        emulator.calm();
        processed.join().unwrap()
    });

    assert_eq!(processed, 200);
    completed_once(&handler, &id);
    let told = handler.program.lines().iter().filter(|line| line.contains("order completed") && line.contains(&id)).count();
    assert_eq!(told, 1);
}

#[test]
fn when_every_answer_is_lost_a_client_hears_unknown_and_asking_again_tells() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("FUNCTION_TIMEOUT", "20s")]);
    emulator.fault(&json!({ "kind": "dropAfterWrite" }));

    let answer = try_submit(&handler, "C-10", &[]);
    emulator.calm();
    let (id, message) = accepted(&handler, "C-10");

    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    assert_eq!(handler.process(&message).status, 200);
    completed_once(&handler, &id);
}

#[test]
fn an_order_that_is_recorded_is_never_said_not_to_be() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("FUNCTION_TIMEOUT", "10s")]);
    accepted(&handler, "C-22");
    for fault in [json!({ "kind": "unavailable" }), json!({ "kind": "throttle", "retryAfterMs": 10 }), json!({ "kind": "hang" })] {
        let mut fault = fault;
        fault["operations"] = json!(["read"]);
        emulator.fault(&fault);

        let answer = try_submit(&handler, "C-22", &[]);

        assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{fault}: {answer:?}");
    }
    emulator.calm();
    accepted(&handler, "C-22");
}

#[test]
fn of_two_writers_with_lost_answers_one_knows_its_write() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    for number in 0..20 {
        let (id, message) = accepted(&handler, &format!("C-23-{number}"));
        emulator.fault(&json!({ "kind": "dropAfterWrite", "operations": ["replace"], "count": 4 }));

        let statuses = std::thread::scope(|scope| {
            let both = [0, 1].map(|_| scope.spawn(|| handler.process(&message).status));
            both.map(|delivery| delivery.join().unwrap())
        });

        emulator.calm();
        assert_eq!(statuses, [200, 200]);
        completed_once(&handler, &id);
        let claims = handler.program.lines().iter().filter(|line| line.contains("order claimed") && line.contains(&id)).count();
        assert!(claims <= 1, "{claims} claims logged");
    }
}

#[test]
fn a_question_that_is_never_answered_at_the_start_is_told_and_asked_again() {
    let emulator = Emulator::start(&[]);
    emulator.fault(&json!({ "kind": "hang", "operations": ["container"], "count": 1 }));
    let mut handler = Handler::begin(&emulator.with(&[("FUNCTION_TIMEOUT", "6s")]));

    handler.program.line("cannot be kept in Cosmos DB yet");

    accepted(&handler.ready(), "C-24");
}

#[test]
fn a_read_that_took_long_is_not_shared_any_more() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    let (id, message) = accepted(&handler, "C-25");
    emulator.reset_figures();
    emulator.fault(&json!({ "kind": "delay", "ms": 1500, "operations": ["read"], "count": 1 }));

    std::thread::scope(|scope| {
        let slow = scope.spawn(|| handler.status(&id));
        eventually("the slow read is on its way", || (requests(&emulator, "read") == 1).then_some(()));
        assert_eq!(handler.process(&message).status, 200);
        slow.join().unwrap();
    });

    assert_eq!(handler.status(&id).body["status"], "completed");
}

#[test]
fn the_message_of_an_order_that_vanishes_meanwhile_is_not_completed() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("WORK_DELAY", "150ms"), ("FUNCTION_TIMEOUT", "10s")]);
    let (_, message) = accepted(&handler, "C-26");

    std::thread::scope(|scope| {
        let work = scope.spawn(|| handler.process(&message).status);
        eventually("it is claimed", || (requests(&emulator, "replace") > 0).then_some(()));
        emulator.drop_container();
        emulator.make_container();
        assert_eq!(work.join().unwrap(), 500);
    });
}

#[test]
fn paced_work_goes_on_while_answers_are_lost() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("WORK_DELAY", "250ms"), ("LEASE", "600ms"), ("FUNCTION_TIMEOUT", "10s")]);
    let (id, message) = accepted(&handler, "C-11");
    // The claim, the renewals and the end: whichever comes.
    emulator.fault(&json!({ "kind": "dropAfterWrite", "operations": ["replace"], "count": 3 }));

    assert_eq!(handler.process(&message).status, 200);

    completed_once(&handler, &id);
    assert_eq!(handler.status(&id).body["attempt"], 1);
}

#[test]
fn an_outage_of_ten_seconds_under_load_loses_no_order_and_dead_letters_none() {
    const ORDERS: usize = 300;
    const OUTAGE: Duration = Duration::from_secs(10);
    let emulator = Emulator::start(&[]);
    let data = Directory::new();
    let host = Host::start(data.path(), &emulator.with(&[("WORK_DELAY", "5ms"), ("RUST_LOG", "error")]));
    eventually("the store answers", || (host.post("/api/orders", &order("C-0")).status == 202).then_some(()));
    let next = AtomicUsize::new(1);
    let ids: Mutex<HashMap<usize, String>> = Mutex::default();

    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > ORDERS {
                        return;
                    }
                    let id = submit_until_accepted(host.port, &format!("outage-{number}"), &[503]);
                    ids.lock().unwrap().insert(number, id);
                }
            });
        }
        eventually("a third is accepted", || (ids.lock().unwrap().len() > ORDERS / 3).then_some(()));
        emulator.fault(&json!({ "kind": "refuse" }));
        let gone = Instant::now();
        eventually("a client is refused, and then the outage ends", || (gone.elapsed() >= OUTAGE).then_some(()));
        emulator.calm();
    });

    let ids = ids.into_inner().unwrap();
    assert_eq!(ids.len(), ORDERS);
    for id in ids.values() {
        let status = host.ended(id);
        assert_eq!(events(&status), ["accepted", "claimed", "completed"], "{status}");
        assert_eq!(status["attempt"], 1, "{status}");
    }
    eventually("every message is settled, and none is a dead letter", || {
        let queues = host.figures()["serviceBus"]["queues"].clone();
        assert!(!queues.to_string().contains("deadletter"), "{queues}");
        queues.as_object().unwrap().is_empty().then_some(())
    });
}

#[test]
fn a_handler_that_starts_before_its_store_is_ready_once_that_answers() {
    let emulator = Emulator::start(&[]);
    emulator.fault(&json!({ "kind": "refuse" }));
    let handler = Handler::begin(&emulator.with(&[]));

    let (ready, answer) = (handler.readyz(), try_submit(&handler, "C-12", &[]));
    emulator.calm();
    let handler = handler.ready();

    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    accepted(&handler, "C-12");
}

#[test]
fn a_message_that_comes_before_the_store_answers_is_held_and_processed() {
    let emulator = Emulator::start(&[]);
    let (id, message) = accepted(&handler(&emulator, &[]), "C-13");
    emulator.fault(&json!({ "kind": "refuse" }));
    let later = Handler::begin(&emulator.with(&[]));

    std::thread::scope(|scope| {
        let held = scope.spawn(|| later.process(&message).status);
        later.line_of_waiting();
        emulator.calm();
        assert_eq!(held.join().unwrap(), 200);
    });

    completed_once(&later, &id);
}

impl Handler {
    fn line_of_waiting(&self) {
        eventually("it says that it waits", || self.program.lines().iter().any(|line| line.contains("trying again")).then_some(()));
    }
}

#[test]
fn a_wrong_key_is_told_and_never_shown() {
    let emulator = Emulator::start(&[]);
    let wrong = "d3JvbmcgYnV0IGJhc2U2NA==";
    let connection = format!("AccountEndpoint={};AccountKey={wrong};", emulator.endpoint());
    let mut settings = emulator.with(&[]);
    settings.retain(|(name, _)| *name != "CosmosConnection");
    settings.push(("CosmosConnection", &connection));
    let mut handler = Handler::begin(&settings);

    let told = handler.program.line("refuses the key");
    let answer = try_submit(&handler, "C-14", &[]);

    assert!(told.contains("copy its primary or secondary key again"), "{told}");
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    assert_eq!(handler.readyz().status, 503);
    let lines = handler.program.lines();
    assert!(!lines.iter().any(|line| line.contains(wrong)), "{lines:?}");
}

#[test]
fn a_missing_container_is_named_and_found_once_it_is_made() {
    let emulator = Emulator::start(&["--no-container"]);
    let mut handler = Handler::begin(&emulator.with(&[]));

    let told = handler.program.line("has no container");
    let answer = try_submit(&handler, "C-15", &[]);
    emulator.make_container();
    let handler = handler.ready();

    assert!(told.contains("\"waybill\" has no container \"orders\"") && told.contains("deploy/cosmos-container.json"), "{told}");
    assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("unknown")), "{answer:?}");
    accepted(&handler, "C-15");
}

#[test]
fn a_missing_database_is_named() {
    let emulator = Emulator::start(&[]);
    let mut handler = Handler::begin(&emulator.with(&[("CosmosDatabase", "nowhere")]));

    handler.program.line("no database \"nowhere\"");
}

#[test]
fn a_container_that_vanishes_answers_503_and_never_404() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[("FUNCTION_TIMEOUT", "20s")]);
    let (id, _) = accepted(&handler, "C-16");
    emulator.drop_container();

    let (status, answer) = (handler.status(&id), try_submit(&handler, "C-17", &[]));

    assert_eq!(status.status, 503, "{status:?}");
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[test]
fn a_container_that_breaks_promises_is_refused_and_one_that_only_costs_is_not() {
    let directory = Directory::new();
    let definition = |name: &str, change: &dyn Fn(&mut Value)| {
        let text = std::fs::read_to_string(crate::support::repository().join("deploy/cosmos-container.json")).unwrap();
        let mut definition: Value = serde_json::from_str(&text).unwrap();
        change(&mut definition);
        directory.write(name, &definition.to_string()).to_str().unwrap().to_owned()
    };
    let other_key = definition("key.json", &|definition| definition["partitionKey"]["paths"] = json!(["/customerId"]));
    let no_ttl = definition("no-ttl.json", &|definition| definition["defaultTtl"] = Value::Null);
    let hourly = definition("hourly.json", &|definition| definition["defaultTtl"] = json!(3600));
    let indexes = definition("index.json", &|definition| definition["indexingPolicy"]["includedPaths"] = json!([{ "path": "/*" }]));

    for (file, told) in
        [(&other_key, "is /customerId; create the container again with /id"), (&no_ttl, "time to live"), (&hourly, "time to live")]
    {
        let emulator = Emulator::start(&["--definition", file]);
        let mut handler = Handler::begin(&emulator.with(&[]));
        handler.program.line(told);
        assert_eq!(handler.readyz().status, 503);
    }
    let emulator = Emulator::start(&["--definition", &indexes]);
    let mut handler = handler(&emulator, &[]);
    handler.program.line("indexing policy");
    accepted(&handler, "C-18");
}

#[test]
fn an_order_is_visible_to_every_instance_when_its_202_leaves() {
    for level in ["session", "eventual", "consistent-prefix", "strong", "bounded-staleness"] {
        let emulator = Emulator::start(&["--consistency", level]);
        let (here, there) = (handler(&emulator, &[]), handler(&emulator, &[]));
        emulator.fault(&json!({ "kind": "stale", "lagMs": 60_000 }));

        let answer = try_submit(&here, "C-19", &[]);
        let id = answer.body["trackingId"].as_str().unwrap();
        let url = answer.body["statusUrl"].as_str().unwrap();
        let follow =
            |url: &str| Answer::of(&there.invoke("OrderStatus", &http_envelope("GET", url, &json!({ "trackingId": id }), None, &[])));
        let started = Instant::now();
        let (by_url, by_id) = (follow(url), there.status(id));

        assert_eq!((by_url.status, by_id.status), (200, 200), "{level}: {by_url:?} {by_id:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{level}: {:?}", started.elapsed());
        assert_eq!(url.contains("?seen="), !matches!(level, "strong" | "bounded-staleness"), "{level}: {url}");
        let processed = there.process(&answer.message.unwrap());
        assert_eq!(processed.status, 200, "{level}: {processed:?}");
    }
}

#[test]
fn a_worker_that_sees_an_old_record_changes_nothing() {
    let emulator = Emulator::start(&[]);
    let (here, there) = (handler(&emulator, &[]), handler(&emulator, &[]));
    emulator.fault(&json!({ "kind": "stale", "lagMs": 60_000 }));
    let (id, message) = accepted(&here, "C-20");
    assert_eq!(here.process(&message).status, 200);
    let writes = requests(&emulator, "replace");

    let copy = there.process(&message);

    assert_eq!(copy.status, 200);
    // Tried once on what it saw, and refused.
    assert!(requests(&emulator, "replace") <= writes + 1, "{}", emulator.figures());
    completed_once(&here, &id);
}

#[test]
fn an_account_that_takes_writes_in_every_region_is_refused() {
    let emulator = Emulator::start(&["--multi-write"]);
    let mut handler = Handler::begin(&emulator.with(&[]));

    handler.program.line("turn its multi-region writes off");

    assert_eq!(handler.readyz().status, 503);
}

#[test]
fn the_message_of_a_re_driven_order_is_not_completed_by_what_a_lagging_replica_says() {
    let emulator = Emulator::start(&[]);
    let (here, there) = (handler(&emulator, &[]), handler(&emulator, &[]));
    let submit = || here.ingress(Some(&hopeless("C-REDRIVEN").to_string()), &[]);
    let first = submit();
    let id = first.body["trackingId"].as_str().unwrap();
    assert_eq!(here.process(&first.message.unwrap()).status, 200);
    emulator.fault(&json!({ "kind": "stale", "lagMs": 60_000 }));
    let data = Directory::new();
    let (status, lines) = Program::waybill(&["orders", "retry", id, "--app", data.path().to_str().unwrap()], &emulator.with(&[])).end();
    assert!(status.success(), "{lines:?}");

    let message = eventually("it is accepted again", || submit().message);
    assert_eq!(there.process(&message).status, 200);

    emulator.calm();
    let events = eventually("it was tried again", || {
        let status = here.status(id).body;
        (status["attempt"] == 2).then(|| events(&status).join(" "))
    });
    assert_eq!(events, "accepted claimed failed redriven claimed failed");
}

#[test]
fn a_look_that_began_before_an_order_was_accepted_does_not_deny_it_afterwards() {
    let emulator = Emulator::start(&["--consistency", "strong"]);
    let handler = handler(&emulator, &[]);
    // Known before its time, from other records under the same key.
    let elsewhere = Directory::new();
    let id = accepted(&Handler::start(elsewhere.path(), &[("TRACKING_ID_KEY", emulator.setting("TRACKING_ID_KEY"))]), "C-EARLY").0;
    emulator.fault(&json!({ "kind": "delay", "ms": 4000, "operations": ["read"], "count": 1 }));
    emulator.reset_figures();

    std::thread::scope(|scope| {
        let early = scope.spawn(|| handler.status(&id).status);
        eventually("it is looked for", || (requests(&emulator, "read") > 0).then_some(()));
        assert_eq!(try_submit(&handler, "C-EARLY", &[]).status, 202);
        assert!(!early.is_finished(), "it took too long to tell anything");

        assert_eq!(handler.status(&id).status, 200);

        assert_eq!(early.join().unwrap(), 404);
    });
}

#[test]
fn requests_for_one_missing_order_do_not_wait_for_each_other() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    emulator.fault(&json!({ "kind": "delay", "ms": 200, "operations": ["read"] }));
    let started = Instant::now();

    std::thread::scope(|scope| {
        let ask = || handler.status("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").status;
        let asked: Vec<_> = (0..60).map(|_| scope.spawn(ask)).collect();
        assert!(asked.into_iter().all(|status| status.join().unwrap() == 404));
    });

    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn requests_for_missing_orders_hold_few_connections() {
    let emulator = Emulator::start(&[]);
    // Two places, one of them for one caller.
    let handler = handler(&emulator, &[("MAX_CONNECTIONS", "8")]);
    emulator.reset_figures();

    std::thread::scope(|scope| {
        let first = scope.spawn(|| handler.status("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").status);
        eventually("it is looked for", || (handler.readyz().json()["waiting"]["forVisibility"] == 1).then_some(()));
        let started = Instant::now();

        let second = handler.status("1d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10");

        assert_eq!((second.status, &second.headers["Retry-After"]), (503, &json!("5")), "{second:?}");
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(first.join().unwrap(), 404);
    });
    assert_eq!(handler.status("1d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10").status, 404);
}

#[test]
fn an_unknown_order_is_a_404_once_lagging_replicas_had_their_time() {
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    emulator.reset_figures();
    let started = Instant::now();

    let status = handler.status("0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10");

    assert_eq!(status.status, 404, "{status:?}");
    assert!(started.elapsed() >= Duration::from_secs(1) && started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(requests(&emulator, "read") <= 8, "{}", emulator.figures());
}

#[test]
fn the_whole_flow_runs_through_the_host() {
    let emulator = Emulator::start(&[]);
    let data = Directory::new();
    let host = Host::start(data.path(), &emulator.with(&[]));
    eventually("the store answers", || (host.post("/api/orders", &order("C-21")).status == 202).then_some(()));

    let id = host.submit(&order("C-21"));
    let ended = host.ended(&id);

    assert_eq!(ended["status"], "completed");
    assert!(!data.path().join("records.db").exists(), "nothing is kept here");
    let followed = request("GET", host.post("/api/orders", &order("C-21")).json()["statusUrl"].as_str().unwrap(), &[], None);
    assert_eq!((followed.status, &followed.json()["status"]), (200, &json!("completed")));
}

#[test]
fn many_waiters_for_one_order_cost_about_one_read_a_second() {
    const WAITERS: usize = 100;
    let emulator = Emulator::start(&[]);
    let handler = handler(&emulator, &[]);
    let answer = handler.ingress(Some(&order("COSMOS-WAITERS").to_string()), &[]);
    let id = answer.body["trackingId"].as_str().unwrap();
    handler.status(id);
    emulator.reset_figures();

    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..WAITERS {
            scope.spawn(|| {
                let answer = handler.status_with(id, &[("Prefer", "wait=3")]);
                assert_eq!((answer.status, &answer.headers["Preference-Applied"]), (200, &json!("wait=3")));
            });
        }
    });

    // One read when the requests come, one a second, and a few for late requests.
    let (reads, seconds) = (requests(&emulator, "read"), started.elapsed().as_secs());
    assert!((3..=seconds * 2 + 4).contains(&reads), "{reads} reads in {seconds} s");
}

#[test]
fn a_caller_is_never_shown_an_older_version_than_before() {
    let emulator = Emulator::start(&[]);
    let (here, there) = (handler(&emulator, &[]), handler(&emulator, &[]));
    let (id, _) = accepted(&here, "COSMOS-TOLD");
    assert_eq!(here.status(&id).body["status"], "accepted");
    assert_eq!(there.cancel(&id).status, 200);

    assert_eq!(try_submit(&here, "COSMOS-TOLD", &[]).body["status"], "cancelled");

    assert_eq!(here.status(&id).body["status"], "cancelled", "though it was read here less than a second ago");
}
