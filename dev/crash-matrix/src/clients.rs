//! Clients: some send an order until it is accepted, others give it up at the first failure.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::steps::Random;
use waybill::domain::tracking::{IdempotencyKey, TrackingId, TrackingKey};
use waybill::door::caller::ANONYMOUS;
use waybill::store::sqlite;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the same request again.
const AGAIN: Duration = Duration::from_millis(25);
/// Longest time until an order is accepted; a longer one is an error of the product.
const PATIENCE: Duration = Duration::from_mins(1);

/// Load of a cell, and the orders that its clients know.
pub(super) struct Clients {
    http: reqwest::Client,
    base: String,
    key: TrackingKey,
    /// Of this many orders, one is given up if its first answer is not a 202.
    giving_up: usize,
    next: AtomicUsize,
    orders: Mutex<Vec<Submitted>>,
    accepted: AtomicUsize,
}

/// An order that is accepted or given up.
#[derive(Debug, Clone)]
pub(super) struct Submitted {
    pub(super) tracking_id: TrackingId,
    /// Arrival of the 202, in milliseconds since the Unix epoch; absent where the client gave up.
    pub(super) accepted: Option<i64>,
}

/// Answer to a status request.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// Status of an ended order.
    Ended(Value),
    /// Status of an order that has not ended.
    Open(Value),
    /// 404: the order is unknown.
    Absent,
    /// No answer, or another one.
    Silence,
}

impl Clients {
    pub(super) fn new(port: u16, key: TrackingKey, giving_up: usize) -> Result<Self, String> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().map_err(|error| error.to_string())?;
        let base = format!("http://127.0.0.1:{port}");
        let (next, orders, accepted) = (AtomicUsize::new(0), Mutex::default(), AtomicUsize::new(0));
        Ok(Self { http, base, key, giving_up, next, orders, accepted })
    }

    /// Orders that have a 202.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn submitted(&self) -> Vec<Submitted> {
        self.orders.lock().clone()
    }

    /// Runs one client: sends one order after the other, until there are `enough` and the kills are over.
    pub(super) async fn submit(&self, enough: usize, over: &AtomicBool, mut random: Random) -> Result<(), String> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= enough && over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let gives_up = number % self.giving_up == self.giving_up - 1;
            let submitted = self.order(number, gives_up).await?;
            self.orders.lock().push(submitted);
            let pause = 10 + random.below(80);
            // Enough orders are sent, but kills go on: a slower load gives each kill an order to hit.
            let pause = if number >= enough { pause * 3 } else { pause };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn order(&self, number: usize, gives_up: bool) -> Result<Submitted, String> {
        let key = format!("order-{number}");
        let tracking_id = IdempotencyKey::Header(&key).tracking_id(&self.key, ANONYMOUS);
        let order = json!({
            "orderId": key, "customerId": "C-1", "currency": "EUR",
            "items": [{ "sku": "SKU-1", "quantity": 2, "unitPrice": "19.90" }],
        });
        let (order, since) = (order.to_string(), Instant::now());
        loop {
            let request = self.http.post(format!("{}/api/orders", self.base)).header(CONTENT_TYPE, "application/json");
            let sent = request.header("Idempotency-Key", &key).body(order.clone()).send().await;
            match read(sent).await {
                Some((202, body)) => {
                    if body["trackingId"] != tracking_id.to_string() {
                        return Err(format!("order {number} was accepted as {}, not as {tracking_id}", body["trackingId"]));
                    }
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    return Ok(Submitted { tracking_id, accepted: Some(sqlite::now().as_milliseconds()) });
                }
                None | Some((429 | 500..=599, _)) if gives_up => return Ok(Submitted { tracking_id, accepted: None }),
                None | Some((429 | 500..=599, _)) if since.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
                answer => return Err(format!("order {number} was not accepted: {answer:?}")),
            }
        }
    }

    /// Asks for the status of an order once.
    pub(super) async fn look(&self, tracking_id: TrackingId) -> Seen {
        let sent = self.http.get(format!("{}/api/orders/{tracking_id}/status", self.base)).send().await;
        match read(sent).await {
            Some((200, body)) if matches!(body["status"].as_str(), Some("completed" | "failed" | "cancelled")) => Seen::Ended(body),
            Some((200, body)) => Seen::Open(body),
            Some((404, _)) => Seen::Absent,
            _ => Seen::Silence,
        }
    }

    /// Messages in each queue, as the host counts them; null without an answer.
    pub(super) async fn queues(&self) -> Value {
        let sent = self.http.get(format!("{}/admin/host/status", self.base)).send().await;
        read(sent).await.map_or(Value::Null, |(_, body)| body["serviceBus"]["queues"].clone())
    }
}

/// Status and JSON body of an answer; `None` without a complete one.
async fn read(sent: Result<reqwest::Response, reqwest::Error>) -> Option<(u16, Value)> {
    let response = sent.ok()?;
    let status = response.status().as_u16();
    let body = response.bytes().await.ok()?;
    Some((status, serde_json::from_slice(&body).unwrap_or_default()))
}
