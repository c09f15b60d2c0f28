//! Examples in the contract; a test sends the order, and holds the others against the answers.

use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, RefOr};

/// Adds an example to the requests and answers that clients meet first.
pub(super) fn add(operation: &mut Operation) {
    match operation.operation_id.as_deref() {
        Some("submitOrder") => {
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                set(body.content.values_mut(), &order());
            }
            answer(operation, "202", &accepted());
            answer(operation, "400", &invalid());
        }
        Some("listOrders") => answer(operation, "200", &list()),
        Some("readOrder" | "showOrder") => {
            answer(operation, "200", &completed());
            answer(operation, "404", &missing());
        }
        _ => {}
    }
}

fn answer(operation: &mut Operation, status: &str, example: &Value) {
    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
        let json = response.content.iter_mut().filter(|(kind, _)| kind.ends_with("json"));
        set(json.map(|(_, content)| content), example);
    }
}

fn set<'a>(contents: impl Iterator<Item = &'a mut RefOr<Content>>, example: &Value) {
    for content in contents {
        if let RefOr::T(content) = content {
            content.example = Some(example.clone());
        }
    }
}

const ID: &str = "a3948077-c06a-8f9c-9be8-6dd4acb7c847";
const STATUS_URL: &str = "https://shop.example.com/api/orders/a3948077-c06a-8f9c-9be8-6dd4acb7c847/status";

fn order() -> Value {
    json!({
        "orderId": "A-1001",
        "customerId": "C-42",
        "currency": "EUR",
        "items": [{ "sku": "SKU-1", "quantity": 2, "unitPrice": "19.90" }],
        "note": "Leave it at the door."
    })
}

fn accepted() -> Value {
    json!({
        "trackingId": ID,
        "status": "accepted",
        "message": "The order is accepted; follow it at statusUrl.",
        "statusUrl": STATUS_URL,
        "submittedAt": "2026-11-24T10:15:30.123Z",
        "estimatedCompletion": "2026-11-24T10:15:31.123Z"
    })
}

fn completed() -> Value {
    json!({
        "trackingId": ID,
        "orderId": "A-1001",
        "customerId": "C-42",
        "status": "completed",
        "progress": 100,
        "stage": "totalling",
        "attempt": 1,
        "submittedAt": "2026-11-24T10:15:30.123Z",
        "startedAt": "2026-11-24T10:15:30.164Z",
        "updatedAt": "2026-11-24T10:15:30.170Z",
        "completedAt": "2026-11-24T10:15:30.170Z",
        "result": {
            "currency": "EUR",
            "lines": [{ "sku": "SKU-1", "quantity": 2, "unitPrice": "19.9", "amount": "39.80" }],
            "subtotal": "39.80",
            "taxRate": "0.2",
            "tax": "7.96",
            "total": "47.76"
        },
        "history": [
            { "at": "2026-11-24T10:15:30.123Z", "event": "accepted", "attempt": 0 },
            { "at": "2026-11-24T10:15:30.164Z", "event": "claimed", "attempt": 1 },
            { "at": "2026-11-24T10:15:30.170Z", "event": "completed", "attempt": 1 }
        ]
    })
}

fn list() -> Value {
    json!({
        "orders": [{
            "trackingId": ID,
            "orderId": "A-1001",
            "customerId": "C-42",
            "status": "failed",
            "progress": 85,
            "submittedAt": "2026-11-24T10:15:30.123Z",
            "updatedAt": "2026-11-24T10:15:30.170Z",
            "completedAt": "2026-11-24T10:15:30.170Z",
            "errorCode": "total_too_large",
            "statusUrl": STATUS_URL
        }],
        "next": "https://shop.example.com/api/orders?limit=1&cursor=AAABnDq0mKujlIB3wGqPnJvobdSst8hHY2FuYXJ5MTI",
        "nextCursor": "AAABnDq0mKujlIB3wGqPnJvobdSst8hHY2FuYXJ5MTI"
    })
}

fn invalid() -> Value {
    json!({
        "type": "urn:problem-type:waybill:invalid-order",
        "title": "The order is not valid",
        "status": 400,
        "detail": "1 mistake to correct; see errors",
        "errors": [{ "pointer": "/items/0/quantity", "detail": "must be a whole number from 1 to 1000000" }]
    })
}

fn missing() -> Value {
    json!({
        "type": "urn:problem-type:waybill:order-not-found",
        "title": "There is no such order",
        "status": 404,
        "detail": "no order has this tracking id; records of ended orders are kept for a limited time"
    })
}
