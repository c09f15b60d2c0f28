//! One order walks from POST to completed.

use crate::support::{Directory, Host, order};

#[test]
fn an_order_is_accepted_processed_and_shown() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);

    let accepted = host.post("/api/orders", &order("A-1"));
    let body = accepted.json();
    let status_url = body["statusUrl"].as_str().unwrap();
    let ended = host.ended(body["trackingId"].as_str().unwrap());

    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.headers["location"], status_url);
    assert_eq!(accepted.headers["content-type"], "application/json; charset=utf-8");
    assert!(status_url.starts_with(&format!("http://127.0.0.1:{}/api/orders/", host.port)), "{status_url}");
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["progress"], 100);
    assert_eq!(ended["result"]["total"], "53.16");
}
