//! Backend of the work: an HTTP service that honours idempotency keys, and records every call before it reads the key.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use serving::server::{self, Limits};

use waybill::store::sqlite;

/// One call of the backend.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// `trackingId/life`.
    pub(super) key: String,
    /// Arrival, in milliseconds since the Unix epoch.
    pub(super) at: i64,
}

/// One callback.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) tracking_id: String,
    /// `webhook-id`.
    pub(super) id: String,
    /// Arrival, in milliseconds since the Unix epoch.
    pub(super) at: i64,
}

/// Calls and effects that the backend remembers.
#[derive(Debug, Default)]
pub(super) struct Backend {
    seed: u64,
    calls: Mutex<Vec<Call>>,
    /// Effect of each key, applied once.
    effects: Mutex<HashMap<String, usize>>,
    told: Mutex<Vec<Told>>,
}

impl Backend {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, ..Self::default() })
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    pub(super) fn effects(&self) -> HashMap<String, usize> {
        self.effects.lock().clone()
    }

    pub(super) fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// Whether the end of this order was told.
    pub(super) fn has_told(&self, tracking_id: &str) -> bool {
        self.told.lock().iter().any(|told| told.tracking_id == tracking_id)
    }

    /// Takes a callback.
    async fn hear(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let at = sqlite::now().as_milliseconds();
        let id = request.headers().get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let Ok(body) = request.into_body().collect().await else { return answer(StatusCode::BAD_REQUEST, "{}".into()) };
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let tracking_id = body["data"]["trackingId"].as_str().unwrap_or_default().to_owned();
        self.told.lock().push(Told { tracking_id, id, at });
        answer(StatusCode::OK, "{}".into())
    }

    /// Serves until the future is dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: tokio::net::TcpListener) -> Infallible {
        let limits = Limits { header_timeout: Duration::from_mins(10), max_connections: 1024, drain_timeout: Duration::ZERO };
        let service = move |request| Arc::clone(&self).answer(request);
        server::serve(listener, service, limits, std::future::pending()).await;
        std::future::pending().await
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/told" {
            return self.hear(request).await;
        }
        let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
        let earlier = {
            let mut calls = self.calls.lock();
            let earlier = calls.iter().filter(|call| call.key == key).count();
            calls.push(Call { key: key.clone(), at: sqlite::now().as_milliseconds() });
            earlier
        };
        // The backend ignores the order in the body.
        drop(request.into_body().collect().await);
        let mut hasher = DefaultHasher::new();
        (self.seed, &key).hash(&mut hasher);
        let lot = hasher.finish();
        let fails = match lot % 100 {
            0..5 => 2,
            5..20 => 1,
            _ => 0,
        };
        let pause = match (lot >> 16) % 100 {
            // 1,300 ms are longer than a lease, so that it is renewed; 400 ms are at least one renewal. A failing try is never slow: its
            // pause alone would pass the bound of a recovery.
            0..4 if fails == 0 => 1_300,
            4..12 => 400,
            _ => 2 + (lot >> 32) % 20,
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if earlier < fails {
            return answer(StatusCode::SERVICE_UNAVAILABLE, "{}".into());
        }
        let effect = {
            let mut effects = self.effects.lock();
            let next = effects.len() + 1;
            *effects.entry(key).or_insert(next)
        };
        answer(StatusCode::OK, json!({ "effect": effect }).to_string())
    }
}

/// A listener for the backend, and the URL before its paths.
pub(super) fn listen() -> std::io::Result<(tokio::net::TcpListener, String)> {
    let listener = server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

fn answer(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
