//! Messages of our own: the client, and the REST protocol that `waybill local` answers it with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use sha2::Sha256;
use waybill::config::Config;
use waybill::config::identity::Identity;
use waybill::config::service_bus::{Access, ServiceBus};
use waybill::domain::timestamp::Timestamp;
use waybill::outbound::service_bus::{Queue, SendError};

use crate::fake::{Fake, Reply, reply};
use crate::foreign;
use crate::store::run;
use crate::support::{Directory, Host, Program, Response, eventually, free_port, request, try_request};

const POLICY: &str = "RootManageSharedAccessKey";
const KEY: &str = "bm90LWRlY29kZWQ=";
const HOUR: Duration = Duration::from_hours(1);
/// As late as a scheduled message may be.
const LATEST: Duration = Duration::from_secs(1);

/// An app whose queue `idle` has no trigger, so that only the test receives from it.
struct Idle {
    directory: Directory,
    connection: String,
}

impl Idle {
    fn new() -> Self {
        let directory = Directory::new();
        let host =
            json!({ "version": "2.0", "customHandler": { "description": { "defaultExecutablePath": "waybill", "arguments": ["serve"] } } });
        directory.write("app/host.json", &host.to_string());
        let bindings = json!({ "bindings": [
            { "type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous" },
            { "type": "serviceBus", "direction": "out", "name": "out", "queueName": "idle", "connection": "ServiceBusConnection" }
        ] });
        directory.write("app/Idle/function.json", &bindings.to_string());
        let connection = format!("Endpoint=sb://localhost;SharedAccessKeyName={POLICY};SharedAccessKey={KEY};UseDevelopmentEmulator=true");
        Self { directory, connection }
    }

    fn start(&self, arguments: &[&str]) -> Bus {
        let settings = [("ServiceBusConnection", self.connection.as_str()), ("OrdersQueue", "idle")];
        Bus::of(Host::with(&self.directory.path().join("app"), &self.directory.path().join("data"), arguments, &settings), KEY)
    }
}

/// A host, and the address and key of its REST protocol.
struct Bus {
    host: Host,
    url: String,
    key: &'static str,
}

impl Bus {
    fn of(host: Host, key: &'static str) -> Self {
        let lines = host.program.lines();
        let told =
            lines.iter().find_map(|line| line.split_once("REST protocol of Service Bus, at ")).unwrap_or_else(|| panic!("{lines:?}"));
        let url = told.1.split_whitespace().next().unwrap().to_owned();
        Self { host, url, key }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let signature = signature(&self.url, POLICY, self.key, HOUR);
        let mut all = vec![("Authorization", signature.as_str())];
        all.extend(headers);
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        request(method, &url, &all, Some(body))
    }

    fn send(&self, queue: &str, text: &str, properties: &Value) {
        let properties = properties.to_string();
        let headers = [("Content-Type", "text/plain"), ("BrokerProperties", properties.as_str())];
        let answer = self.ask("POST", &format!("/{queue}/messages"), &headers, text.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    fn peek_lock(&self, queue: &str, seconds: u32) -> Option<Locked> {
        let answer = self.ask("POST", &format!("/{queue}/messages/head?timeout={seconds}"), &[], b"");
        let location = || answer.headers["location"].clone();
        match answer.status {
            201 => {
                Some(Locked { location: location(), properties: properties(&answer), text: answer.body.clone(), headers: answer.headers })
            }
            204 => None,
            _ => panic!("{answer:?}"),
        }
    }

    fn queue(&self, name: &str) -> Value {
        self.host.figures()["serviceBus"]["queues"][name].clone()
    }

    fn config(&self, key: &str) -> ServiceBus {
        config(&self.url, key)
    }
}

struct Locked {
    text: String,
    location: String,
    properties: Value,
    headers: BTreeMap<String, String>,
}

fn properties(answer: &Response) -> Value {
    serde_json::from_str(&answer.headers["brokerproperties"]).unwrap()
}

/// What the setting names become for the client of a handler that `waybill local` starts.
fn config(url: &str, key: &str) -> ServiceBus {
    let connection = format!("Endpoint=sb://localhost;SharedAccessKeyName={POLICY};SharedAccessKey={key};UseDevelopmentEmulator=true");
    config_with(url, &connection)
}

fn config_with(url: &str, connection: &str) -> ServiceBus {
    let environment = [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", "1"),
        ("ServiceBusConnection", connection),
        ("OrdersQueue", "idle"),
        ("SERVICE_BUS_REST_ENDPOINT", url),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::read(&environment.into()).unwrap().storage.service_bus.unwrap()
}

/// A signature as the documentation has it, apart from the client's own.
fn signature(resource: &str, policy: &str, key: &str, life: Duration) -> String {
    let expiry = since_epoch(SystemTime::now() + life).as_secs();
    let resource = percent_encode(resource.as_bytes(), NON_ALPHANUMERIC).to_string().to_ascii_lowercase();
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes()).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={policy}")
}

fn since_epoch(moment: SystemTime) -> Duration {
    moment.duration_since(UNIX_EPOCH).unwrap()
}

/// A moment in whole seconds, at least `ahead` from now, and how Service Bus is told it.
fn moment_in(ahead: Duration) -> (SystemTime, String) {
    let seconds = since_epoch(SystemTime::now() + ahead).as_secs() + 1;
    let text = jiff::Timestamp::from_second(seconds.try_into().unwrap()).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    (UNIX_EPOCH + Duration::from_secs(seconds), text)
}

fn is_on_time(arrived: SystemTime, due: SystemTime) {
    assert!(arrived >= due, "{:?} early", due.duration_since(arrived));
    assert!(arrived < due + LATEST, "{:?} late", arrived.duration_since(due));
}

#[test]
fn a_message_sent_by_rest_reaches_the_trigger() {
    let Some(app) = foreign::App::new() else { return };
    let bus = Bus::of(app.start(&[], &[]), "local");

    bus.send("cases", "by REST", &json!({ "MessageId": "m-1" }));

    assert_eq!(app.recorded("end", "Sink", 1)[0]["text"], "by REST");
}

#[test]
fn a_scheduled_message_reaches_the_trigger_at_its_time() {
    let Some(app) = foreign::App::new() else { return };
    let bus = Bus::of(app.start(&[], &[]), "local");
    let (due, text) = moment_in(Duration::from_secs(1));

    bus.send("cases", "later", &json!({ "ScheduledEnqueueTimeUtc": text }));
    let waiting = bus.queue("cases");
    app.recorded("begin", "Sink", 1);
    let arrived = SystemTime::now();

    assert_eq!(waiting, json!({ "active": 0, "locked": 0, "scheduled": 1 }));
    is_on_time(arrived, due);
}

#[test]
fn a_scheduled_message_outlives_a_host_that_is_killed() {
    let Some(app) = foreign::App::new() else { return };
    let mut bus = Bus::of(app.start(&[], &[]), "local");
    let (due, text) = moment_in(Duration::from_secs(4));

    bus.send("cases", "later", &json!({ "ScheduledEnqueueTimeUtc": text }));
    bus.host.program.kill();
    let bus = Bus::of(app.start(&[], &[]), "local");
    let up = SystemTime::now();
    assert!(up >= due || bus.queue("cases")["scheduled"] == 1);
    app.recorded("begin", "Sink", 1);
    let arrived = SystemTime::now();

    assert!(arrived >= due);
    is_on_time(arrived, due.max(up));
}

#[test]
fn locks_count_deliveries_and_are_completed_and_abandoned_once() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    bus.send("idle", "text", &json!({ "MessageId": "m-1", "CorrelationId": "c", "Label": "für dich", "TimeToLive": 600.0 }));

    let first = bus.peek_lock("idle", 0).unwrap();
    let meanwhile = bus.peek_lock("idle", 0);
    let abandoned = bus.ask("PUT", &first.location, &[], b"");
    let second = bus.peek_lock("idle", 0).unwrap();
    let late = ["PUT", "POST", "DELETE"].map(|method| bus.ask(method, &first.location, &[], b"").status);
    let lock = second.properties["LockToken"].as_str().unwrap();
    let completed = bus.ask("DELETE", &format!("/Idle/Messages/m-1/{lock}"), &[], b"");
    let again = bus.ask("DELETE", &second.location, &[], b"");

    assert_eq!((first.text.as_str(), first.headers["content-type"].as_str()), ("text", "text/plain"));
    let shown = ["DeliveryCount", "MessageId", "CorrelationId", "Label", "TimeToLive"].map(|name| first.properties[name].clone());
    assert_eq!(json!(shown), json!([1, "m-1", "c", "für dich", 600.0]));
    assert!(meanwhile.is_none());
    assert_eq!((abandoned.status, &second.properties["DeliveryCount"]), (200, &json!(2)));
    assert_eq!(late, [404; 3]);
    assert_eq!((completed.status, again.status), (200, 404));
    assert_eq!(bus.queue("idle"), Value::Null);
}

#[test]
fn a_renewed_lock_lasts_longer_and_then_runs_out() {
    let idle = Idle::new();
    let bus = idle.start(&["--lock-duration", "2s"]);
    bus.send("idle", "text", &json!({}));

    let first = bus.peek_lock("idle", 0).unwrap();
    let meanwhile = bus.peek_lock("idle", 1);
    let renewing = Instant::now();
    let renewed = bus.ask("POST", &first.location, &[], b"");
    let second = bus.peek_lock("idle", 10).unwrap();
    let held = renewing.elapsed();

    assert!(meanwhile.is_none());
    assert_eq!(renewed.status, 200);
    assert!(held >= Duration::from_secs(2), "{held:?}");
    assert_eq!(second.properties["DeliveryCount"], 2);
    assert_eq!(bus.ask("DELETE", &first.location, &[], b"").status, 404);
}

#[test]
fn a_waiting_receiver_is_given_what_is_sent() {
    let idle = Idle::new();
    let bus = idle.start(&[]);

    let (received, took) = std::thread::scope(|scope| {
        let receivers = [(); 2].map(|()| scope.spawn(|| bus.ask("DELETE", "/idle/messages/head?timeout=20", &[], b"")));
        bus.send("idle", "one", &json!({}));
        bus.send("idle", "two", &json!({}));
        let sent = Instant::now();
        let mut texts = receivers.map(|receiver| receiver.join().unwrap()).map(|answer| (answer.status, answer.body));
        texts.sort();
        (texts, sent.elapsed())
    });

    assert_eq!(received, [(200, "one".into()), (200, "two".into())]);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(bus.ask("DELETE", "/idle/messages/head?timeout=0", &[], b"").status, 204);
}

#[test]
fn a_dead_letter_is_read_and_completed_by_rest() {
    let idle = Idle::new();
    let bus = idle.start(&["--max-delivery-count", "1"]);
    bus.send("idle", "poison", &json!({}));

    let lock = bus.peek_lock("idle", 0).unwrap();
    bus.ask("PUT", &lock.location, &[], b"");
    let dead = bus.peek_lock("idle/$DeadLetterQueue", 0).unwrap();
    let completed = bus.ask("DELETE", &dead.location, &[], b"");

    assert_eq!((dead.text.as_str(), dead.headers["deadletterreason"].as_str()), ("poison", "\"MaxDeliveryCountExceeded\""));
    assert_eq!(completed.status, 200);
    assert!(bus.peek_lock("idle", 0).is_none());
    assert_eq!(bus.queue("idle/$deadletterqueue"), Value::Null);
    assert_eq!(bus.ask("POST", "/idle/$deadletterqueue/messages", &[], b"x").status, 400);
}

#[test]
fn only_a_signature_by_the_key_for_this_resource_lets_in() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    let url = format!("{}/idle/messages", bus.url);
    let good = signature(&url, POLICY, KEY, HOUR);
    let ask = |authorization: &str| request("POST", &url, &[("Authorization", authorization)], Some(b"x")).status;
    let (resource, rest) = good.split_once("&sig=").unwrap();

    for (what, authorization) in [
        ("another key", signature(&url, POLICY, "another", HOUR)),
        ("the key decoded", signature(&url, POLICY, "not-decoded", HOUR)),
        ("another policy", signature(&url, "Send", KEY, HOUR)),
        ("another queue", signature(&format!("{}/other", bus.url), POLICY, KEY, HOUR)),
        ("a queue with a shorter name", signature(&format!("{}/idl", bus.url), POLICY, KEY, HOUR)),
        ("another namespace", signature("https://shop.servicebus.windows.net/idle", POLICY, KEY, HOUR)),
        ("a resource changed after signing", format!("{}&sig={rest}", resource.trim_end_matches("messages"))),
        ("an expiry changed after signing", good.replace("&se=", "&se=9")),
        ("a signature cut off", good.replace("%3D&se", "&se")),
        ("no signature", format!("{resource}&se=99999999999&skn={POLICY}")),
        ("a second expiry", format!("{good}&se=99999999999")),
        ("a second resource", good.replace("&skn", "&sr=x&skn")),
        ("a parameter of no signature", format!("{good}&st=0")),
        ("a name in capitals", good.replace("&se=", "&SE=")),
        ("a parameter without a value", format!("{good}&se")),
        ("a token", "Bearer eyJhbGciOiJub25lIn0.e30.".into()),
    ] {
        assert_eq!(ask(&authorization), 401, "{what}");
    }
    let expired = signature(&url, POLICY, KEY, Duration::ZERO);
    assert_eq!(ask(&expired), 401);
    assert_eq!(request("POST", &url, &[], Some(b"x")).status, 401);
    assert_eq!(bus.queue("idle"), Value::Null);

    assert_eq!(ask(&good), 201);
    assert_eq!(ask(&signature("sb://localhost/idle", POLICY, KEY, HOUR)), 201);
}

#[test]
fn a_connection_string_may_hold_a_signature_in_place_of_a_key_and_an_endpoint_without_a_scheme() {
    let signed = signature("sb://localhost/idle", POLICY, KEY, HOUR);
    let fake = Fake::replying([status(201)]);
    for connection in [
        format!("Endpoint=localhost;SharedAccessSignature={signed};EntityPath=Idle"),
        format!("Endpoint=localhost:5672/;SharedAccessKeyName={POLICY};SharedAccessKey={KEY}"),
    ] {
        let idle = Idle { connection: connection.clone(), ..Idle::new() };
        let bus = idle.start(&[]);

        sent(&config_with(&bus.url, &connection), "x").unwrap();

        assert_eq!(bus.queue("idle")["active"], 1, "{connection}");
        sent(&config_with(&fake.url, &connection), "x").unwrap();
    }
    let heard = fake.heard();
    assert_eq!(heard[0].headers["authorization"], signed);
    assert!(heard[1].headers["authorization"].starts_with("SharedAccessSignature "), "{heard:?}");
}

#[test]
fn a_connection_of_another_queue_and_a_name_that_the_host_does_not_resolve_are_told_by_the_stand_in() {
    let mut idle = Idle::new();
    idle.connection.push_str(";EntityPath=other");
    let (app, data) = (idle.directory.path().join("app"), idle.directory.path().join("data"));
    let settings = [("ServiceBusConnection", idle.connection.as_str()), ("OrdersQueue", "other"), ("My__Queue", "idle")];
    let lines = Host::with(&app, &data, &[], &settings).program.lines();
    let told = |line: &String| ["EntityPath", "\"other\"", "\"idle\"", "ServiceBusConnection"].iter().all(|told| line.contains(told));
    assert!(lines.iter().any(told), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(KEY)), "{lines:?}");

    let bindings = json!({ "bindings": [
        { "type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous" },
        { "type": "serviceBus", "direction": "out", "name": "out", "queueName": "%My__Queue%", "connection": "ServiceBusConnection" }
    ] });
    idle.directory.write("app/Unresolved/function.json", &bindings.to_string());
    let bindings = bindings.to_string().replace("My__Queue", "My:Queue");
    idle.directory.write("app/Resolved/function.json", &bindings);
    let mut host = Host::with(&app, &data, &[], &settings);
    let line = host.program.line("The 'Unresolved' function is in error");
    assert!(line.contains("'%My__Queue%' does not resolve") && line.contains("%My:Queue%"), "{line}");
    assert!(!host.program.lines().iter().any(|line| line.contains("'Resolved' function is in error")));
}

#[test]
fn a_message_has_at_most_256_kb() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    let body = vec![b'x'; 256 * 1024];
    let send = |size: usize| bus.ask("POST", "/idle/messages", &[("BrokerProperties", "{}")], &body[..size]).status;

    assert_eq!(send(body.len() - 2), 201);
    assert_eq!(send(body.len() - 1), 413);
    let too_large = vec![b'x'; 1024 * 1024];
    // A client that is refused before it has sent everything may see the connection break.
    let headers = [("Authorization", &*signature(&bus.url, POLICY, KEY, HOUR))];
    let answer = try_request("POST", &format!("{}/idle/messages", bus.url), &headers, Some(&too_large));
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 413), "{answer:?}");
    assert_eq!(bus.queue("idle")["active"], 1);
}

#[test]
fn only_the_queues_of_the_app_exist_and_only_what_the_protocol_has_is_done() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    let status = |method: &str, path: &str, headers: &[(&str, &str)]| bus.ask(method, path, headers, b"x").status;

    assert_eq!(status("POST", "/nobody/messages", &[]), 410);
    assert_eq!(status("POST", "/nobody/messages/head?timeout=0", &[]), 410);
    assert_eq!(status("POST", "/nobody/$deadletterqueue/messages/head?timeout=0", &[]), 410);
    assert_eq!(status("POST", "/idle", &[]), 410);
    assert_eq!(status("PUT", "/idle/messages", &[]), 405);
    assert_eq!(status("DELETE", "/idle/messages/1/not-a-lock", &[]), 404);
    assert_eq!(status("POST", "/idle/messages/head?timeout=soon", &[]), 400);
    for refused in [r"{", r#"{"ScheduledEnqueueTimeUtc": "2026-11-24T10:00:00Z"}"#, r#"{"TimeToLive": -1}"#] {
        assert_eq!(status("POST", "/idle/messages", &[("BrokerProperties", refused)]), 400, "{refused}");
    }
    assert_eq!(status("POST", "/idle/messages", &[("Content-Type", "application/vnd.microsoft.servicebus.json")]), 400);
    assert_eq!(bus.queue("idle"), Value::Null);
}

#[test]
fn the_client_sends_now_and_later_through_the_stand_in() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    let queue = Queue::new(&bus.config(KEY)).unwrap();
    let due = SystemTime::now() + Duration::from_millis(1500);

    run(async {
        queue.send("{\"für\": \"jetzt\"}").await.unwrap();
        queue.send_at("later", Timestamp::from_milliseconds(since_epoch(due).as_millis().try_into().unwrap())).await.unwrap();
    });
    let now = bus.peek_lock("idle", 0).unwrap();
    let later = bus.peek_lock("idle", 10).unwrap();
    let arrived = SystemTime::now();

    assert_eq!(queue.name(), "idle");
    assert_eq!((now.text.as_str(), now.headers["content-type"].as_str()), ("{\"für\": \"jetzt\"}", "text/plain"));
    assert_eq!(later.text, "later");
    assert!(arrived >= due, "{:?} early", due.duration_since(arrived));
    // Told in whole seconds.
    assert!(arrived < due + Duration::from_secs(1) + LATEST, "{:?} late", arrived.duration_since(due));
}

#[test]
fn the_client_is_told_what_to_do_about_a_refusal_and_tells_no_secret() {
    let idle = Idle::new();
    let bus = idle.start(&[]);
    let refused = |config: &ServiceBus| sent(config, "x").unwrap_err();

    let key = refused(&bus.config("d3Jvbmc="));
    let queue = refused(&ServiceBus { queue: "nobody".into(), ..bus.config(KEY) });

    assert!(matches!(&key, SendError::NotSent(reason) if reason.contains("401") && reason.contains(POLICY)), "{key}");
    assert!(matches!(&queue, SendError::NotSent(reason) if reason.contains("410") && reason.contains("OrdersQueue")), "{queue}");
    assert!(!format!("{key} {key:?} {:?} {:?}", bus.config("d3Jvbmc="), Queue::new(&bus.config("d3Jvbmc="))).contains("d3Jvbmc="));
    // 256 KB, properties included.
    let large = sent(&bus.config(KEY), &"x".repeat(256 * 1024)).unwrap_err();
    assert!(matches!(&large, SendError::NotSent(reason) if reason.contains("413")), "{large}");
}

fn sent(config: &ServiceBus, text: &str) -> Result<(), SendError> {
    let queue = Queue::new(config).unwrap();
    let mut outcome = None;
    run(async { outcome = Some(queue.send(text).await) });
    outcome.unwrap()
}

/// An answer that keeps the connection.
fn status_with(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    reply(status, &[headers, &[("Connection", "keep-alive")]].concat(), body)
}

fn status(status: u16) -> Reply {
    status_with(status, &[], "")
}

fn config_of(fake: &Fake) -> ServiceBus {
    config(&fake.url, KEY)
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let thief = Fake::replying([status(201)]);
    for redirect in [301, 302, 307, 308] {
        let location = format!("{}/idle/messages", thief.url);
        let fake = Fake::replying([status_with(redirect, &[("Location", &location)], "")]);

        let error = sent(&config_of(&fake), "x").unwrap_err();

        assert!(matches!(&error, SendError::NotSent(reason) if reason.contains(&redirect.to_string())), "{error}");
        assert_eq!(fake.heard().len(), 1);
    }
    assert_eq!(thief.heard().len(), 0);
}

#[test]
fn the_location_of_an_answer_is_never_gone_to() {
    let thief = Fake::replying([status(201)]);
    let location = format!("{}/idle/messages/1/3f2504e0-4f89-41d3-9a0c-0305e82c3301", thief.url);
    let fake = Fake::replying([status_with(201, &[("Location", &location)], "")]);

    sent(&config_of(&fake), "x").unwrap();

    assert_eq!((fake.heard().len(), thief.heard().len()), (1, 0));
}

#[test]
fn a_busy_namespace_is_asked_again_under_the_same_message_id() {
    let fake = Fake::replying([status(503), status(503), status(201)]);

    sent(&config_of(&fake), "text").unwrap();

    let heard = fake.heard();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|heard| heard.body == "text" && heard.line == "POST /idle/messages HTTP/1.1"));
    assert!(heard.iter().all(|heard| heard.headers["content-type"] == "text/plain"));
    assert_eq!(heard[0].headers["brokerproperties"], heard[2].headers["brokerproperties"]);
}

#[test]
fn after_three_tries_whether_it_was_sent_depends_on_what_was_answered() {
    for (replies, tries, maybe_sent) in [
        (vec![status(500)], 3, true),
        (vec![status(429)], 3, false),
        (vec![status(503), status(429)], 3, true),
        (vec![status(503), status(410)], 2, true),
        (vec![status(400)], 1, false),
        (vec![status(403)], 1, false),
        (vec![status(200)], 1, true),
    ] {
        let fake = Fake::replying(replies);

        let error = sent(&config_of(&fake), "text").unwrap_err();

        assert_eq!((fake.heard().len(), matches!(error, SendError::Unknown(_))), (tries, maybe_sent), "{error}");
    }
}

#[test]
fn a_send_is_repeated_after_the_pause_that_the_namespace_names() {
    let fake = Fake::replying([status_with(429, &[("Retry-After", "1")], ""), status(201)]);
    let patient = Fake::replying([status_with(429, &[("Retry-After", "60")], "")]);

    sent(&config_of(&fake), "text").unwrap();
    let started = Instant::now();
    let error = sent(&config_of(&patient), "text").unwrap_err();

    let heard = fake.heard();
    assert!(heard[1].at - heard[0].at >= Duration::from_secs(1));
    assert!(matches!(error, SendError::NotSent(_)) && started.elapsed() < Duration::from_secs(4), "{error}");
}

#[test]
fn a_send_to_a_namespace_that_hangs_is_unknown_after_five_seconds() {
    let fake = Fake::replying([Reply::Silence]);

    let started = Instant::now();
    let error = sent(&config_of(&fake), "text").unwrap_err();
    let took = started.elapsed();

    assert!(matches!(error, SendError::Unknown(_)), "{error}");
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(7), "{took:?}");
    assert_eq!(fake.heard().len(), 1);
}

#[test]
fn a_connection_refused_sends_nothing() {
    let error = sent(&config(&format!("http://127.0.0.1:{}", free_port()), KEY), "text").unwrap_err();

    assert!(matches!(&error, SendError::NotSent(reason) if reason.contains("refused")), "{error}");
}

#[test]
fn a_connection_that_breaks_after_the_request_may_have_sent_it() {
    let fake = Fake::replying([Reply::Drop]);
    let recovering = Fake::replying([Reply::Drop, status(201)]);

    let error = sent(&config_of(&fake), "text").unwrap_err();

    assert!(matches!(error, SendError::Unknown(_)), "{error}");
    assert_eq!(fake.heard().len(), 3);
    sent(&config_of(&recovering), "text").unwrap();
}

/// Says in the environment of a process with an identity where to send.
const SEND_TO: &str = "WAYBILL_TEST_SEND_TO";

/// The platform's variables count for a whole process, so a test with an identity runs again, in a process of its own.
fn with_an_identity(test: &str, tokens: &Fake, bus: &Fake) -> (ExitStatus, Vec<String>) {
    // This very program, even if it was built anew meanwhile.
    let this = Path::new("/proc/self/exe");
    let mut command = if this.exists() { Command::new(this) } else { Command::new(std::env::current_exe().unwrap()) };
    command.args(["--exact", test, "--nocapture"]);
    let endpoint = format!("{}/msi/token", tokens.url);
    command.envs([("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", "secret".into()), (SEND_TO, bus.url.clone())]);
    Program::start(&mut command).end()
}

#[test]
fn fifty_sends_by_a_managed_identity_cost_one_token() {
    if let Ok(url) = std::env::var(SEND_TO) {
        let access = Access::Identity(Identity::Managed { client_id: None });
        let queue = Queue::new(&ServiceBus { endpoint: url.parse().unwrap(), access, queue: "idle".into() }).unwrap();
        return run(async {
            for _ in 0..50 {
                queue.send("x").await.unwrap();
            }
        });
    }
    let expires_on = since_epoch(SystemTime::now() + HOUR).as_secs().to_string();
    let token = json!({ "access_token": "token-of-the-app", "expires_on": expires_on, "resource": "r", "token_type": "Bearer" });
    let tokens = Fake::replying([status_with(200, &[("Content-Type", "application/json")], &token.to_string())]);
    let bus = Fake::replying([status(201)]);

    let (ended, lines) = with_an_identity("service_bus::fifty_sends_by_a_managed_identity_cost_one_token", &tokens, &bus);

    assert!(ended.success(), "{lines:?}");
    let heard = bus.heard();
    assert_eq!(heard.len(), 50);
    assert!(heard.iter().all(|heard| heard.headers["authorization"] == "Bearer token-of-the-app"));
    let asked = tokens.heard();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].line.contains("resource=https%3A%2F%2Fservicebus.azure.net"), "{}", asked[0].line);
}

#[test]
fn an_identity_without_a_token_sends_nothing() {
    if let Ok(url) = std::env::var(SEND_TO) {
        let access = Access::Identity(Identity::Managed { client_id: None });
        let error = sent(&ServiceBus { endpoint: url.parse().unwrap(), access, queue: "idle".into() }, "x").unwrap_err();
        assert!(matches!(&error, SendError::NotSent(reason) if reason.contains("no token for the system-assigned")), "{error}");
        return;
    }
    let bus = Fake::replying([status(201)]);
    let tokens = Fake::replying([status(400)]);

    let (ended, lines) = with_an_identity("service_bus::an_identity_without_a_token_sends_nothing", &tokens, &bus);

    assert!(ended.success(), "{lines:?}");
    assert_eq!(bus.heard().len(), 0);
}

#[test]
fn a_stopping_host_takes_messages_until_its_invocations_have_ended() {
    let Some(app) = foreign::App::new() else { return };
    let mut bus = Bus::of(app.start(&[], &[]), "local");
    let waiting = json!({ "until": app.gate() }).to_string();
    bus.send("cases", &waiting, &json!({}));
    app.recorded("begin", "Sink", 1);

    bus.host.program.signal("INT");
    bus.host.program.line("stopping");
    bus.send("relay", "sent while stopping", &json!({}));
    app.open();
    eventually("the host stops", || bus.host.program.has_ended().then_some(()));
    let _host = app.start(&[], &[]);

    assert_eq!(app.recorded("begin", "Relay", 1)[0]["text"], "sent while stopping");
}
