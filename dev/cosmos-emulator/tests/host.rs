//! The binary as a client sees it: through the SDK, and through requests that the SDK would not send.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use azure_core::credentials::Secret;
use azure_data_cosmos::options::{
    ContentResponseOnWrite, EndToEndOperationLatencyPolicy, ItemReadOptions, ItemWriteOptions, OperationOptionsBuilder, Precondition,
    ReadConsistencyStrategy, Region, SessionToken, ThrottlingRetryOptionsBuilder,
};
use azure_data_cosmos::{AccountReference, ContainerClient, CosmosClient, CosmosRuntime, CosmosStatus, FeedScope, Query, RoutingStrategy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;

/// For whatever is going to be true.
const PATIENCE: Duration = Duration::from_secs(10);
const DEFINITION: &str = include_str!("../../../deploy/cosmos-container.json");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    step: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
}

fn order(id: &str, step: u32) -> Order {
    Order { id: id.into(), step, ttl: None }
}

/// The binary, until the end of the test.
struct Emulator {
    process: Child,
    account: String,
    key: String,
    control: String,
}

impl Emulator {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cosmos-emulator"))
            .args(["--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut line = |prefix: &str| lines.next().unwrap().strip_prefix(prefix).unwrap().to_owned();
        let connection = line("CosmosConnection=AccountEndpoint=");
        let (account, key) = connection.strip_suffix(';').unwrap().split_once("/;AccountKey=").unwrap();
        let (account, key) = (account.to_owned(), key.to_owned());
        line("CosmosDatabase=");
        line("CosmosContainer=");
        line("TRACKING_ID_KEY=");
        let control = line("# control: ");
        line("# ");
        Self { process, account, key, control }
    }

    async fn orders(&self) -> ContainerClient {
        self.connect(&self.key).await.unwrap()
    }

    async fn connect(&self, key: &str) -> azure_data_cosmos::Result<ContainerClient> {
        let operations = OperationOptionsBuilder::new()
            .with_end_to_end_latency_policy(EndToEndOperationLatencyPolicy::new(Duration::from_secs(2)))
            .with_content_response_on_write(ContentResponseOnWrite::Disabled)
            .with_throttling_retry_options(ThrottlingRetryOptionsBuilder::new().with_max_retry_count(1).build())
            .build();
        let runtime = CosmosRuntime::builder().build().await?;
        let account = AccountReference::with_authentication_key(self.account.parse().unwrap(), Secret::from(key.to_owned()));
        let client = CosmosClient::builder()
            .with_runtime(runtime)
            .with_default_operation_options(operations)
            .build(account, RoutingStrategy::ProximityTo(Region::EAST_US))
            .await?;
        client.database_client("waybill").container_client("orders", None).await
    }

    fn control(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        send(method, &format!("{}{path}", self.control), &[], body)
    }

    fn fault(&self, fault: &Value) {
        assert_eq!(self.control("PUT", "/fault", &fault.to_string()).0, 204);
    }

    fn calm(&self) {
        assert_eq!(self.control("DELETE", "/fault", "").0, 204);
    }

    fn figures(&self) -> Value {
        self.control("GET", "/figures", "").1
    }

    /// A read of the account's parts, signed at this time.
    fn get(&self, kind: &str, link: &str, at: SystemTime) -> (u16, Value) {
        let date = httpdate::fmt_http_date(at);
        let mut hmac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(&self.key).unwrap()).unwrap();
        hmac.update(format!("get\n{kind}\n{link}\n{}\n\n", date.to_lowercase()).as_bytes());
        let signature = STANDARD.encode(hmac.finalize().into_bytes()).replace('+', "%2B");
        let authorization = format!("type%3Dmaster%26ver%3D1.0%26sig%3D{signature}");
        send("GET", &format!("{}/{link}", self.account), &[("authorization", &authorization), ("x-ms-date", &date)], "")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

async fn create(orders: &ContainerClient, order: &Order) -> Result<Option<SessionToken>, CosmosStatus> {
    let created = orders.create_item(&order.id, &order.id, order, None).await.map_err(|error| error.status())?;
    Ok(created.headers().session_token().cloned())
}

async fn replace(orders: &ContainerClient, order: &Order) -> Result<Option<SessionToken>, CosmosStatus> {
    let replaced = orders.replace_item(&order.id, &order.id, order, None).await.map_err(|error| error.status())?;
    Ok(replaced.headers().session_token().cloned())
}

async fn read(orders: &ContainerClient, id: &str) -> Result<Order, CosmosStatus> {
    read_with(orders, id, ItemReadOptions::default()).await
}

async fn read_with(orders: &ContainerClient, id: &str, options: ItemReadOptions) -> Result<Order, CosmosStatus> {
    let read = orders.read_item(id.to_owned(), id, Some(options)).await.map_err(|error| error.status())?;
    Ok(read.into_model().unwrap())
}

/// Asks until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while !is_so().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_document_is_created_once_and_replaced_only_as_it_was_read() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;

    create(&orders, &order("a", 1)).await.unwrap();
    let conflict = create(&orders, &order("a", 2)).await.unwrap_err();
    let etag = orders.read_item("a", "a", None).await.unwrap().headers().etag().cloned().unwrap();
    let if_match = || Some(ItemWriteOptions::default().with_precondition(Precondition::if_match(etag.clone())));
    orders.replace_item("a", "a", &order("a", 3), if_match()).await.unwrap();
    let outdated = orders.replace_item("a", "a", &order("a", 4), if_match()).await.unwrap_err();
    let query = Query::from("SELECT * FROM c WHERE c.step = @step").with_parameter("@step", 3).unwrap();
    let mut found = orders.query_items::<Order>(query, FeedScope::partition("a"), None).await.unwrap();
    let found = futures_util::TryStreamExt::try_next(&mut found).await.unwrap();
    orders.delete_item("a", "a", None).await.unwrap();

    assert!(conflict.is_conflict());
    assert!(outdated.status().is_precondition_failed());
    assert_eq!(found, Some(order("a", 3)));
    assert!(read(&orders, "a").await.unwrap_err().is_not_found());
    let figures = emulator.figures();
    assert_eq!(figures["requests"]["create"], 2);
    assert_eq!(figures["requests"]["replace"], 2);
    assert!(figures["charges"]["create"].as_f64().unwrap() > 5.0);
    assert_eq!(figures["documents"], 0);
    assert_eq!(emulator.control("POST", "/figures/reset", "").0, 204);
    assert_eq!(emulator.figures()["requests"]["create"], 0);
}

#[tokio::test]
async fn the_container_is_the_deployed_one() {
    let emulator = Emulator::start(&[]);

    let (status, container) = emulator.get("colls", "dbs/waybill/colls/orders", SystemTime::now());

    assert_eq!(status, 200);
    for (name, value) in serde_json::from_str::<Value>(DEFINITION).unwrap().as_object().unwrap() {
        assert_eq!(&container[name], value, "{name}");
    }
}

#[tokio::test]
async fn only_the_key_or_a_named_token_opens_the_account() {
    let emulator = Emulator::start(&[]);
    let ask = |authorization: &str| send("GET", &emulator.account, &[("authorization", authorization)], "");

    assert!(emulator.connect("d3Jvbmc=").await.err().unwrap().status().is_unauthorized());
    assert_eq!(send("GET", &emulator.account, &[], "").1["code"], "Unauthorized");
    assert_eq!(emulator.get("", "", SystemTime::now()).1["userConsistencyPolicy"]["defaultConsistencyLevel"], "Session");
    assert_eq!(emulator.get("", "", SystemTime::now() - Duration::from_secs(16 * 60)).0, 403);
    assert_eq!(ask("type%3Daad%26ver%3D1.0%26sig%3Da.b").0, 401);
    assert_eq!(emulator.control("PUT", "/tokens", r#"["a.b"]"#).0, 204);
    assert_eq!(ask("type%3Daad%26ver%3D1.0%26sig%3Da.b").0, 200);
    assert_eq!(ask("type%3Daad%26ver%3D1.0%26sig%3Da.c").0, 401);
    assert!(emulator.figures()["refused"].as_u64().unwrap() >= 5);
}

#[tokio::test]
async fn a_document_vanishes_when_its_time_to_live_has_passed() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;
    let with_content = OperationOptionsBuilder::new().with_content_response_on_write(ContentResponseOnWrite::Enabled).build();
    let with_content = ItemWriteOptions::default().with_operation_options(with_content);
    let short = Order { ttl: Some(3), ..order("short", 1) };
    let created = orders.create_item("short", "short", &short, Some(with_content)).await.unwrap();
    assert_eq!(created.into_model::<Order>().unwrap(), short);
    create(&orders, &Order { ttl: Some(3), ..order("prolonged", 1) }).await.unwrap();
    replace(&orders, &Order { ttl: Some(1000), ..order("prolonged", 2) }).await.unwrap();
    create(&orders, &order("endless", 1)).await.unwrap();

    until("it has expired", async || read(&orders, "short").await.is_err()).await;

    assert!(replace(&orders, &order("short", 2)).await.unwrap_err().is_not_found());
    create(&orders, &order("short", 3)).await.unwrap();
    assert_eq!(read(&orders, "prolonged").await.unwrap().step, 2);
    assert_eq!(read(&orders, "endless").await.unwrap().step, 1);
}

#[tokio::test]
async fn time_to_live_is_off_without_a_default() {
    let definition = std::env::temp_dir().join(format!("cosmos-emulator-{}.json", std::process::id()));
    std::fs::write(&definition, r#"{"defaultTtl": null}"#).unwrap();
    let emulator = Emulator::start(&["--definition", definition.to_str().unwrap()]);
    std::fs::remove_file(definition).unwrap();
    let orders = emulator.orders().await;

    create(&orders, &Order { ttl: Some(0), ..order("a", 1) }).await.unwrap();

    assert_eq!(read(&orders, "a").await.unwrap().step, 1);
}

#[tokio::test]
async fn requests_are_answered_with_what_the_fault_says() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;
    create(&orders, &order("a", 1)).await.unwrap();

    emulator.fault(&json!({"kind": "throttle", "retryAfterMs": 5}));
    let throttled = read(&orders, "a").await.unwrap_err();
    emulator.fault(&json!({"kind": "unavailable"}));
    let unavailable = read(&orders, "a").await.unwrap_err();
    emulator.fault(&json!({"kind": "internal", "operations": ["replace"]}));
    let internal = replace(&orders, &order("a", 2)).await.unwrap_err();

    assert!(throttled.is_throttled());
    assert_eq!(u16::from(unavailable.status_code()), 503);
    assert_eq!(u16::from(internal.status_code()), 500);
    assert_eq!(read(&orders, "a").await.unwrap().step, 1);
    assert!(emulator.figures()["faulted"].as_u64().unwrap() >= 3);
}

#[tokio::test]
async fn a_fault_ends_after_its_requests_or_its_time() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;

    emulator.fault(&json!({"kind": "throttle", "retryAfterMs": 1, "count": 1, "operations": ["create"]}));
    create(&orders, &order("a", 1)).await.unwrap();
    let spent = emulator.control("GET", "/fault", "").1;
    emulator.fault(&json!({"kind": "unavailable", "seconds": 0.05}));
    until("the fault is over", async || emulator.control("GET", "/fault", "").1.is_null()).await;

    assert!(spent.is_null());
    assert_eq!(emulator.figures()["requests"]["create"], 2);
    assert_eq!(read(&orders, "a").await.unwrap().step, 1);
}

#[tokio::test]
async fn a_hanging_account_answers_again_when_calm() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;
    create(&orders, &order("a", 1)).await.unwrap();
    let patience = EndToEndOperationLatencyPolicy::new(Duration::from_millis(300));
    let options =
        ItemWriteOptions::default().with_operation_options(OperationOptionsBuilder::new().with_end_to_end_latency_policy(patience).build());

    emulator.fault(&json!({"kind": "hang"}));
    let timeout = orders.replace_item("a", "a", &order("a", 2), Some(options)).await.unwrap_err();
    emulator.calm();

    assert!(timeout.status().is_timeout());
    assert_eq!(read(&orders, "a").await.unwrap().step, 1);
}

#[tokio::test]
async fn a_dropped_write_is_applied_or_not() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;

    emulator.fault(&json!({"kind": "dropAfterWrite", "count": 1}));
    let after = create(&orders, &order("after", 1)).await.unwrap_err();
    emulator.fault(&json!({"kind": "dropBefore", "count": 1}));
    let before = create(&orders, &order("before", 1)).await;

    assert!(after.is_conflict(), "the SDK repeats the create, which finds what it created: {after:?}");
    assert_eq!(read(&orders, "after").await.unwrap().step, 1);
    before.unwrap();
    assert_eq!(emulator.figures()["requests"]["create"], 4);
}

#[tokio::test]
async fn a_delayed_answer_is_late() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;
    create(&orders, &order("a", 1)).await.unwrap();

    emulator.fault(&json!({"kind": "delay", "ms": 100}));
    let begun = Instant::now();
    read(&orders, "a").await.unwrap();

    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn refusing_closes_everything_and_keeps_the_data() {
    let emulator = Emulator::start(&[]);
    let orders = emulator.orders().await;
    create(&orders, &order("a", 1)).await.unwrap();
    let address = emulator.account.strip_prefix("http://").unwrap();
    let mut open = TcpStream::connect(address).unwrap();

    emulator.fault(&json!({"kind": "refuse"}));
    let refused = TcpStream::connect(address).unwrap_err();
    let closed = open.read(&mut [0]);
    emulator.calm();

    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(closed.is_err() || closed.is_ok_and(|bytes| bytes == 0));
    assert_eq!(read(&orders, "a").await.unwrap().step, 1);
}

#[tokio::test]
async fn a_reader_sees_an_older_version_unless_its_session_is_newer() {
    let emulator = Emulator::start(&[]);
    let (writer, reader) = (emulator.orders().await, emulator.orders().await);
    emulator.fault(&json!({"kind": "stale", "lagMs": 60_000}));
    let session = |token: &Option<SessionToken>| ItemReadOptions::default().with_session_token(token.clone().unwrap());
    let latest = || {
        let operations = OperationOptionsBuilder::new().with_read_consistency_strategy(ReadConsistencyStrategy::LatestCommitted);
        ItemReadOptions::default().with_operation_options(operations.build())
    };

    let created = create(&writer, &order("a", 1)).await.unwrap();
    let before_create = read(&reader, "a").await.unwrap_err();
    let after_create = read_with(&reader, "a", latest()).await.unwrap();
    let replaced = replace(&writer, &order("a", 2)).await.unwrap();

    assert!(before_create.is_not_found());
    assert_eq!(after_create.step, 1);
    assert_eq!(read(&writer, "a").await.unwrap().step, 2, "a client reads its own writes");
    let fresh_reader = emulator.orders().await;
    assert!(read(&fresh_reader, "a").await.unwrap_err().is_not_found());
    assert_eq!(read_with(&fresh_reader, "a", session(&created)).await.unwrap().step, 1);
    assert_eq!(read_with(&fresh_reader, "a", session(&replaced)).await.unwrap().step, 2);
    emulator.calm();
    assert_eq!(read(&emulator.orders().await, "a").await.unwrap().step, 2);
}

#[tokio::test]
async fn no_read_is_stale_in_a_strong_account() {
    let emulator = Emulator::start(&["--consistency", "strong"]);
    let (writer, reader) = (emulator.orders().await, emulator.orders().await);
    emulator.fault(&json!({"kind": "stale", "lagMs": 60_000}));

    create(&writer, &order("a", 1)).await.unwrap();

    assert_eq!(read(&reader, "a").await.unwrap().step, 1);
}

#[tokio::test]
async fn the_container_can_be_made_later_and_taken_away() {
    let emulator = Emulator::start(&["--no-container"]);

    let missing = emulator.connect(&emulator.key).await.err().unwrap();
    assert_eq!(emulator.control("POST", "/container", "").0, 201);
    create(&emulator.orders().await, &order("a", 1)).await.unwrap();
    assert_eq!(emulator.control("POST", "/container", "").0, 409);
    assert_eq!(emulator.control("DELETE", "/container", "").0, 204);
    let deleted = emulator.connect(&emulator.key).await.err().unwrap();

    assert!(missing.status().is_not_found());
    assert!(deleted.status().is_not_found());
}

#[tokio::test]
async fn a_throughput_is_enforced() {
    let emulator = Emulator::start(&["--ru-per-second", "400"]);
    let orders = emulator.orders().await;

    create(&orders, &order("a", 0)).await.unwrap();

    // The SDK repeats what was throttled.
    let replaced = futures_util::future::join_all((1..=100).map(|step| orders.replace_item("a", "a", order("a", step), None))).await;

    assert_eq!(replaced.len(), 100);
    assert!(emulator.figures()["requests"]["replace"].as_u64().unwrap() > 100);
}

#[test]
fn the_control_port_says_what_is_wrong() {
    let emulator = Emulator::start(&[]);
    let problem = |body: &str| emulator.control("PUT", "/fault", body);

    assert_eq!(problem("{").0, 400);
    assert_eq!(problem(r#"{"kind": "throttle"}"#), (400, json!({"error": "this kind needs retryAfterMs"})));
    assert_eq!(problem(r#"{"kind": "hang", "ms": 1}"#), (400, json!({"error": "this kind has no ms"})));
    assert!(problem(r#"{"kind": "hang", "times": 1}"#).1["error"].as_str().unwrap().contains("unknown field `times`"));
    assert_eq!(emulator.control("PUT", "/tokens", "{}").0, 400);
    assert_eq!(emulator.control("GET", "/", "").0, 404);
    assert_eq!(emulator.control("GET", "/fault", ""), (200, Value::Null));
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let emulator = Emulator::start(&[]);
    let port = emulator.account.rsplit(':').next().unwrap();

    let second = Command::new(env!("CARGO_BIN_EXE_cosmos-emulator")).args(["--port", port]).output().unwrap();

    assert_eq!(second.status.code(), Some(1));
    assert_eq!(String::from_utf8(second.stderr).unwrap().lines().count(), 1);
    assert!(second.stdout.is_empty());
}
