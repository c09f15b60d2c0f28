//! `OrderSweeper`: what was never sent, or whose worker is gone, goes on its way again; what waits is left alone.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::fake::{Fake, reply};
use crate::faults::handler_of;
use crate::support::{Directory, Handler, Host, events, eventually, http_envelope, order, queue_envelope, request, submit, try_request};

/// Overdue at once, so that a test need not wait.
const SOON: (&str, &str) = ("OVERDUE_AFTER", "100ms");

fn sweep(handler: &Handler) -> Vec<String> {
    let messages = handler.sweep().json()["Outputs"]["orderMessage"].clone();
    messages.as_array().map(|messages| messages.iter().map(|text| text.as_str().unwrap().to_owned()).collect()).unwrap_or_default()
}

/// Sweeps until something is found.
fn found(handler: &Handler) -> Vec<String> {
    eventually("something is overdue", || Some(sweep(handler)).filter(|messages| !messages.is_empty()))
}

fn shown(handler: &Handler, id: &str) -> Value {
    handler.status(id).body
}

#[test]
fn an_order_whose_message_was_never_sent_is_sent_as_it_was() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON]);
    let (id, message) = submit(&handler, "S-1");

    let messages = found(&handler);
    assert_eq!(messages, [message]);
    assert_eq!(sweep(&handler), [""; 0], "it was sent just now");

    assert_eq!(handler.process(&messages[0]).status, 200);
    assert_eq!(events(&shown(&handler, &id)), ["accepted", "claimed", "completed"]);
}

#[test]
fn nothing_is_sent_that_is_not_due() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    submit(&handler, "S-2");

    assert_eq!(sweep(&handler), [""; 0]);
}

#[test]
fn each_time_an_order_is_sent_again_the_next_look_is_later() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON]);
    submit(&handler, "S-3");
    let mut pauses = Vec::new();

    for _ in 0..4 {
        let started = std::time::Instant::now();
        found(&handler);
        pauses.push(started.elapsed());
    }

    // 100 ms until the first, then 100, 200 and 400 ms.
    assert!(pauses[3] >= Duration::from_millis(350), "{pauses:?}");
}

#[test]
fn an_order_whose_worker_was_killed_is_sent_again_and_completed_by_another() {
    let data = Directory::new();
    let settings = [SOON, ("WORK_DELAY", "500ms"), ("LEASE", "400ms")];
    let mut first = Handler::start(data.path(), &settings);
    let (id, message) = submit(&first, "S-4");
    let (url, body) = (first.url("/OrderProcessor"), queue_envelope(&message).to_string());
    let killed = std::thread::spawn(move || try_request("POST", &url, &[], Some(body.as_bytes())).is_err());
    eventually("it is being processed", || (shown(&first, &id)["status"] == "processing").then_some(()));
    first.program.kill();
    assert!(killed.join().unwrap());
    let second = Handler::start(data.path(), &settings);

    let messages = found(&second);
    assert_eq!(messages, [message]);
    assert_eq!(second.process(&messages[0]).status, 200);

    let status = shown(&second, &id);
    assert_eq!(events(&status), ["accepted", "claimed", "interrupted", "completed"]);
    assert_eq!(status["attempt"], 1);
}

#[test]
fn an_order_that_is_being_worked_on_is_left_alone() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON, ("WORK_DELAY", "200ms"), ("LEASE", "400ms")]);
    let (id, message) = submit(&handler, "S-5");

    std::thread::scope(|scope| {
        let work = scope.spawn(|| handler.process(&message).status);
        eventually("it is being processed", || (shown(&handler, &id)["status"] == "processing").then_some(()));
        while !work.is_finished() {
            assert_eq!(sweep(&handler), [""; 0]);
        }
        assert_eq!(work.join().unwrap(), 200);
    });

    assert_eq!(events(&shown(&handler, &id)), ["accepted", "claimed", "completed"]);
}

#[test]
fn two_sweepers_at_once_send_each_order_once() {
    const ORDERS: usize = 60;
    let data = Directory::new();
    // Due only once: a sweep puts an order off for as long as it has waited.
    let settings = [("OVERDUE_AFTER", "6s")];
    let (one, other) = (Handler::start(data.path(), &settings), Handler::start(data.path(), &settings));
    let ids: Vec<String> = (0..ORDERS).map(|number| submit(&one, &format!("S-6-{number}")).1).collect();
    let mut sent = Vec::new();

    eventually("all are sent", || {
        let both = std::thread::scope(|scope| {
            let sweeps = [&one, &other].map(|handler| scope.spawn(move || sweep(handler)));
            sweeps.map(|sweep| sweep.join().unwrap())
        });
        sent.extend(both.into_iter().flatten());
        (sent.len() >= ORDERS).then_some(())
    });

    sent.sort();
    let mut wanted = ids;
    wanted.sort();
    assert_eq!(sent, wanted);
}

#[test]
fn a_run_is_bounded_by_what_the_host_can_send_and_the_next_goes_on() {
    const ORDERS: usize = 150;
    let data = Directory::new();
    // One second of working time: two thirds of it are for the host, which needs 10 ms for a message.
    let handler = Handler::start(data.path(), &[("OVERDUE_AFTER", "2s"), ("FUNCTION_TIMEOUT", "17s")]);
    let (ids, mut wanted): (Vec<String>, Vec<String>) = (0..ORDERS).map(|number| submit(&handler, &format!("S-7-{number}"))).unzip();
    let last = shown(&handler, ids.last().unwrap());
    eventually("all are overdue", || (age_of(&last) > Duration::from_millis(2100)).then_some(()));

    let first = sweep(&handler);
    let mut sent = first.clone();
    eventually("the rest is sent", || {
        sent.extend(sweep(&handler));
        sent.sort();
        sent.dedup();
        (sent.len() == ORDERS).then_some(())
    });

    assert!((1..100).contains(&first.len()), "{}", first.len());
    wanted.sort();
    assert_eq!(sent, wanted);
}

/// Copies the one record, as of orders submitted an hour ago whose messages were lost.
fn add_lost(data: &Path, orders: u32) {
    let mut database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    let transaction = database.transaction().unwrap();
    let sql = "INSERT INTO orders (tracking_id, etag, due_at, expires_at, record)
               SELECT ?1, etag, 1, NULL, json_set(record, '$.trackingId', ?2, '$.submittedAt', ?3, '$.updatedAt', ?3, '$.dueAt', ?3) FROM orders LIMIT 1";
    let hour_ago = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
    for _ in 0..orders {
        let id = uuid::Builder::from_custom_bytes(*uuid::Uuid::new_v4().as_bytes()).into_uuid();
        transaction.execute(sql, rusqlite::params![id.as_bytes(), id.to_string(), hour_ago]).unwrap();
    }
    transaction.commit().unwrap();
}

/// Records an order whose message is never sent, as when the host dies; its tracking id.
fn record_only(host: &Host, id: &str) -> String {
    let handler = host.figures()["handlerPort"].as_u64().unwrap();
    let envelope = http_envelope("POST", "http://localhost/api/orders", &json!({}), Some(&order(id).to_string()), &[]);
    let answer = request("POST", &format!("http://127.0.0.1:{handler}/OrderIngress"), &[], Some(envelope.to_string().as_bytes()));
    let body: Value = serde_json::from_str(answer.json()["Outputs"]["res"]["body"].as_str().unwrap()).unwrap();
    body["trackingId"].as_str().unwrap().to_owned()
}

/// Orders that have not ended.
fn open_orders(data: &Path) -> u32 {
    let database = rusqlite::Connection::open(data.join("records.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.query_row("SELECT count(*) FROM orders WHERE due_at IS NOT NULL", [], |row| row.get(0)).unwrap()
}

/// The time in which a run must have sent the messages of these orders: 100,000 in ten minutes. The program of the tests is not
/// optimised and may take twice as long.
fn goal(orders: u32) -> Duration {
    Duration::from_mins(20) * orders / 100_000
}

/// Processor time of a process so far: other programs on this machine do not count. Zero where the system does not tell.
fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn thousands_of_lost_messages_leave_with_one_answer() {
    const ORDERS: u32 = 3_000;
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    submit(&handler, "S-11");
    add_lost(data.path(), ORDERS);

    let sent = sweep(&handler);

    assert_eq!(sent.len(), ORDERS as usize);
    let took = processor_time(handler.program.id());
    assert!(took < goal(ORDERS), "{took:?}");
    assert_eq!(sweep(&handler), [""; 0]);
}

#[test]
fn many_lost_messages_are_processed_at_once_and_new_orders_are_accepted_meanwhile() {
    const ORDERS: u32 = 1_000;
    let data = Directory::new();
    let connection = "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=local;\
                      UseDevelopmentEmulator=true;";
    let settings = [
        ("SweepSchedule", "0 * * * * *"),
        ("ServiceBusConnection", connection),
        ("OrdersQueue", "orders"),
        ("RATE_LIMIT", "0"),
        ("ADMISSION_MAX_AGE", "30s"),
    ];
    let host = Host::start(data.path(), &settings);
    record_only(&host, "S-12");
    add_lost(data.path(), ORDERS);

    let run = request("POST", &host.url("/admin/functions/OrderSweeper"), &[("Content-Type", "application/json")], Some(b"{}"));
    assert_eq!(run.status, 202, "{run:?}");
    let mut accepted = 0;
    eventually("every order has ended", || {
        host.submit(&order(&format!("S-12-{accepted}")));
        accepted += 1;
        (open_orders(data.path()) < ORDERS / 100).then_some(())
    });
    assert!(accepted > 1, "{accepted}");
    let took = [host.program.id(), handler_of(data.path())].map(processor_time);
    assert!(took.iter().all(|took| *took < goal(ORDERS)), "{took:?}");
}

#[test]
fn a_short_time_of_long_waits_does_not_delay_a_lost_message() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON]);
    let (slow_id, slow) = submit(&handler, "S-13-slow");
    eventually("it has waited", || (age_of(&shown(&handler, &slow_id)) > Duration::from_millis(1500)).then_some(()));
    let (_, message) = submit(&handler, "S-13-lost");
    let started = Instant::now();
    eventually("the lost one is overdue by the setting", || (started.elapsed() > Duration::from_millis(300)).then_some(()));
    assert_eq!(handler.process(&slow).status, 200);
    let early = sweep(&handler);
    // The queue is short again.
    for number in 0..12 {
        let (_, message) = submit(&handler, &format!("S-13-{number}"));
        assert_eq!(handler.process(&message).status, 200);
    }

    let sent = eventually("its message is sent again", || Some(sweep(&handler)).filter(|sent| sent.contains(&message)));

    assert_eq!((early, sent.contains(&message)), (Vec::new(), true));
    // Three waits of 1.5 s would be 4.5 s.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn an_order_past_its_deadline_ends_without_a_message() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON, ("ORDER_DEADLINE", "50ms")]);
    let (id, message) = submit(&handler, "S-8");

    eventually("the order ends", || {
        assert_eq!(sweep(&handler), [""; 0]);
        (shown(&handler, &id)["status"] == "failed").then_some(())
    });

    let status = shown(&handler, &id);
    assert_eq!(status["error"]["code"], "deadline_exceeded");
    assert_eq!(handler.process(&message).status, 200);
    assert_eq!(shown(&handler, &id), status, "a late message changes nothing");
}

#[test]
fn a_backlog_is_not_fed() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON]);
    // Five orders behind one that waited long for its claim: by that measure none of them is overdue.
    let (_, slow) = submit(&handler, "S-9-slow");
    let (waiting, _) = submit(&handler, "S-9-waiting");
    eventually("it has waited", || {
        let age = age_of(&shown(&handler, &waiting));
        (age > Duration::from_millis(600)).then_some(())
    });
    assert_eq!(handler.process(&slow).status, 200);

    // Overdue by the setting since half a second, but not by three times the wait of 600 ms.
    assert_eq!(sweep(&handler), [""; 0]);
    assert_eq!(found(&handler).len(), 1, "and in the end it is");
}

fn age_of(status: &Value) -> Duration {
    let submitted: jiff::Timestamp = status["submittedAt"].as_str().unwrap().parse().unwrap();
    Duration::try_from(jiff::Timestamp::now().duration_since(submitted)).unwrap_or_default()
}

#[test]
fn a_run_with_nothing_due_costs_one_small_query() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    sweep(&handler);
    emulator.reset_figures();

    sweep(&handler);

    let figures = emulator.figures();
    // The emulator's container has four partitions, and each is asked.
    assert_eq!((&figures["requests"]["query"], &figures["requests"]["read"]), (&json!(4), &json!(0)), "{figures}");
    assert!(figures["charges"]["query"].as_f64().unwrap() <= 4.0, "{figures}");
}

#[test]
fn the_host_sends_what_was_never_sent_by_its_timer() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[SOON, ("SweepSchedule", "* * * * * *")]);
    let ended = host.ended(&record_only(&host, "S-10"));

    assert_eq!(events(&ended), ["accepted", "claimed", "completed"]);
}

#[test]
fn an_order_that_waited_for_the_sweeper_makes_it_no_more_patient_with_the_next() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[SOON]);
    submit(&handler, "S-LOST-1");
    let started = std::time::Instant::now();
    let messages = eventually("its messages were lost for a while", || {
        let messages = sweep(&handler);
        (started.elapsed() > Duration::from_secs(2) && !messages.is_empty()).then_some(messages)
    });
    assert_eq!(handler.process(&messages[0]).status, 200);

    submit(&handler, "S-LOST-2");
    let started = std::time::Instant::now();
    found(&handler);

    // Three times as long as the first one waited would be six seconds at least.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn each_run_tells_how_long_ago_the_oldest_overdue_order_was_submitted() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[SOON, ("LOG_FORMAT", "json")]);
    sweep(&handler);
    let none = handler.program.line("oldest overdue order");
    submit(&handler, "S-OLDEST");
    found(&handler);

    let told =
        handler.program.line_where("an age", |line| line.contains("oldest overdue order") && !line.contains(r#""order.oldest_age_s":0.0"#));

    let ages = [none, told].map(|line| serde_json::from_str::<Value>(&line).unwrap()["order.oldest_age_s"].as_f64().unwrap());
    assert!((0.0..0.001).contains(&ages[0]) && (0.1..30.0).contains(&ages[1]), "{ages:?}");
}

#[test]
fn an_order_that_waited_for_a_restart_makes_the_sweeper_no_more_patient_with_the_next() {
    let data = Directory::new();
    let mut first = Handler::start(data.path(), &[SOON]);
    let (_, message) = submit(&first, "S-RESTART-1");
    first.program.kill();
    let hour_ago = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    database.execute("UPDATE orders SET record = json_set(record, '$.submittedAt', ?1)", [hour_ago]).unwrap();
    let second = Handler::start(data.path(), &[SOON]);

    assert_eq!(second.process(&message).status, 200);
    let (_, lost) = submit(&second, "S-RESTART-2");

    // Three times the hour of the first would be three hours.
    assert_eq!(found(&second), [lost]);
}

/// A handler whose messages leave through this queue, in runs of about ten seconds at most.
fn with_queue(data: &Path, queue: &Fake) -> Handler {
    let connection = "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=local;\
                      UseDevelopmentEmulator=true;";
    let settings = [
        ("ServiceBusConnection", connection),
        ("OrdersQueue", "orders"),
        ("SERVICE_BUS_REST_ENDPOINT", queue.url.as_str()),
        ("FUNCTION_TIMEOUT", "45s"),
    ];
    Handler::start(data, &settings)
}

#[test]
fn a_run_sends_no_second_page_while_no_worker_takes_the_first() {
    let data = Directory::new();
    let queue = Fake::answering(|_, _| reply(201, &[("Connection", "keep-alive")], ""));
    let handler = with_queue(data.path(), &queue);
    submit(&handler, "S-14");
    add_lost(data.path(), 1_200);

    let left = sweep(&handler);

    // A slow machine may not send a whole page within the run.
    let sent = queue.heard().len();
    assert!(left.is_empty() && (1..=500).contains(&sent), "{sent} {left:?}");
}

#[test]
fn messages_that_the_client_of_the_queue_cannot_send_leave_with_the_answer() {
    const SENT: usize = 40;
    let data = Directory::new();
    let queue = Fake::answering(|number, _| reply(if number < SENT { 201 } else { 400 }, &[("Connection", "keep-alive")], ""));
    let handler = with_queue(data.path(), &queue);
    submit(&handler, "S-15");
    add_lost(data.path(), 100);

    let left = sweep(&handler);

    let heard = queue.heard();
    let sent = heard.iter().take(SENT).map(|heard| &heard.body);
    let ids: std::collections::BTreeSet<_> =
        sent.chain(&left).map(|text| serde_json::from_str::<Value>(text).unwrap()["trackingId"].as_str().unwrap().to_owned()).collect();
    assert_eq!((left.len(), ids.len()), (100 - SENT, 100));
    // Those that were on their way when the first was refused.
    assert!(heard.len() <= SENT + 16, "{}", heard.len());
}

#[test]
fn an_order_whose_worker_is_gone_is_found_before_a_long_queue() {
    let data = Directory::new();
    let mut first = Handler::start(data.path(), &[("WORK_DELAY", "500ms"), ("LEASE", "400ms")]);
    submit(&first, "S-16-lost");
    add_lost(data.path(), 600);
    let (id, message) = submit(&first, "S-16");
    let (url, body) = (first.url("/OrderProcessor"), queue_envelope(&message).to_string());
    let killed = std::thread::spawn(move || try_request("POST", &url, &[], Some(body.as_bytes())).is_err());
    eventually("it is being processed", || (shown(&first, &id)["status"] == "processing").then_some(()));
    first.program.kill();
    assert!(killed.join().unwrap());
    let database = rusqlite::Connection::open(data.path().join("records.db")).unwrap();
    eventually("its lease has run out", || {
        let sql = "SELECT count(*) FROM orders WHERE record ->> 'status' = 'processing' AND due_at < ?1";
        let gone: u32 = database.query_row(sql, [jiff::Timestamp::now().as_millisecond()], |row| row.get(0)).unwrap();
        (gone == 1).then_some(())
    });
    // A run that has room for a part of the first page.
    let second = Handler::start(data.path(), &[("FUNCTION_TIMEOUT", "17s")]);

    let sent = sweep(&second);

    assert!(sent.len() < 200 && sent.contains(&message), "{}", sent.len());
}
