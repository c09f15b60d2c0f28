//! `OpenApi`: answers with the contract with clients, `OpenAPI` 3.1 from the types that are read and answered.
//!
//! This file adds what HTTP adds to the types: paths, headers, status codes. `docs/openapi.json` is a copy.

mod examples;

use std::collections::BTreeMap;
use std::sync::Arc;

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, HeaderBuilder, Object, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use crate::envelope::{self, Answer};
use crate::functions::app::App;
use crate::functions::contract::{AcceptedOrder, Order, OrderList, OrderStatus, Problem, Status, TrackingId};
use crate::functions::invocation::Invocation;
use crate::functions::own_contract;
use crate::functions::reply::Conclusion;

/// Answers with the contract.
pub async fn run(app: Arc<App>, _invocation: Invocation) -> Conclusion {
    let contract = app.contract.get_or_init(|| own_contract::text(&Contract::openapi(), &app.config.order_form));
    let headers = vec![("Content-Type", "application/json".to_owned()), ("Cache-Control", "public, max-age=300".to_owned())];
    Conclusion::new(Ok(Answer::respond(envelope::Response { status_code: 200, headers, body: contract.clone(), problem: None })))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Waybill",
        description = "Orders that take long: accepted at once, worked on in the background, followed to their one outcome.\n\nA 500 or a broken connection means unknown, not refused: send the same request again, and the answer tells. A path or method that is not here is a 404 without a body, from the Functions host.\n\nA web page may call this service from the origins that the Functions host allows (CORS), and read these headers of its answers: `Location`, `Retry-After`, `retry-after-ms`, `ETag`, `Preference-Applied`, `RateLimit`, `RateLimit-Policy`, `WWW-Authenticate`. Its orders need `Content-Type: application/json`.\n\nA query parameter that is not here is a 400, but for the keys of the function app and the gateway: `code`, `clientId` and `subscription-key`.",
        license(name = "MIT", identifier = "MIT")
    ),
    servers((url = "/api")),
    paths(submit_order, list_orders, read_order, cancel_order, read_contract),
    modifiers(&Keys, &OwnUrl, &Operations),
    security((), ("functionKey" = []), ("bearer" = [])),
    tags((name = "orders"), (name = "contract"))
)]
struct Contract;

/// The credentials that callers send.
struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let key = ApiKeyValue::with_description("x-functions-key", "a key of the function app, where it asks for one");
        components.add_security_scheme("functionKey", SecurityScheme::ApiKey(ApiKey::Header(key)));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some("where tokens are checked"));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    }
}

/// The same answers about an order at its own URL, beside those at the URL of its status.
struct OwnUrl;

impl Modify for OwnUrl {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let paths = &mut openapi.paths.paths;
        let Some(mut show) = paths.get("/orders/{trackingId}/status").and_then(|item| item.get.clone()) else { return };
        show.operation_id = Some("showOrder".into());
        show.summary = Some("Read an order".into());
        show.description = Some("The same as the status, at the URL of the order itself, and with the same headers.".into());
        paths.entry("/orders/{trackingId}".into()).or_default().get = Some(show);
    }
}

/// What each operation has beside its own: the refusals and headers of all operations on orders, and examples.
struct Operations;

impl Modify for Operations {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
                if path.starts_with("/orders") {
                    // Reading an order is not limited: a client that polls as `Retry-After` tells must not be refused.
                    let is_limited = !matches!(operation.operation_id.as_deref(), Some("readOrder" | "showOrder"));
                    complete(&mut operation.responses.responses, is_limited);
                }
                without_nulls(operation);
                examples::add(operation);
            }
        }
    }
}

/// A parameter or a header may be absent, and is never null.
fn without_nulls(operation: &mut Operation) {
    let parameters = operation.parameters.iter_mut().flatten().filter_map(here).map(|parameter| &mut parameter.schema);
    let responses = operation.responses.responses.values_mut().filter_map(here);
    let headers = responses.flat_map(|response| response.headers.values_mut()).filter_map(here).map(|header| &mut header.schema);
    parameters.chain(headers).flatten().for_each(without_null);
}

/// The value, unless it stands elsewhere.
fn here<T>(value: &mut RefOr<T>) -> Option<&mut T> {
    match value {
        RefOr::T(value) => Some(value),
        RefOr::Ref(_) => None,
    }
}

fn without_null(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && let SchemaType::Array(types) = &object.schema_type
        && let [kind] = types.iter().filter(|kind| **kind != Type::Null).collect::<Vec<_>>()[..]
    {
        object.schema_type = SchemaType::Type(kind.clone());
    }
}

fn complete(responses: &mut BTreeMap<String, RefOr<Response>>, is_limited: bool) {
    const RETRY_AFTER: Option<(&str, Type, &str)> = Some(("Retry-After", Type::Integer, "seconds"));
    const CHALLENGE: Option<(&str, Type, &str)> = Some(("WWW-Authenticate", Type::String, "RFC 6750 section 3"));
    let refusals = [
        ("400", "`invalid-query`: an unknown query parameter", None),
        ("401", "`unauthorized`: where tokens are checked, there was no valid one", CHALLENGE),
        ("403", "`forbidden`: the token lacks a scope", CHALLENGE),
        ("413", "`body-too-large`: a body where none belongs, and a large one", None),
        ("429", "`rate-limited`: more requests than a caller may send", RETRY_AFTER),
        ("503", "`store-unavailable` or `auth-unavailable`; send the request again", RETRY_AFTER),
    ];
    let header =
        |kind, description: &str| HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(description)).build();
    for (status, description, named) in refusals.into_iter().filter(|(status, ..)| is_limited || *status != "429") {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let refusal = ResponseBuilder::new().description(description).content("application/problem+json", content);
        let refusal = named.into_iter().fold(refusal, |refusal, (name, kind, description)| refusal.header(name, header(kind, description)));
        // An operation that says more about a header has it already.
        responses.entry(status.to_owned()).or_insert_with(|| refusal.build().into());
    }
    let everywhere = [
        ("Cache-Control", "`no-store`, or `private, no-cache` with an `ETag`"),
        ("RateLimit", "what is left, and when one more is let in; absent without a limit"),
        ("RateLimit-Policy", "the caller's quota; absent without a limit"),
    ];
    for response in responses.values_mut() {
        let Some(response) = here(response) else { continue };
        for (name, description) in everywhere.into_iter().filter(|(name, _)| is_limited || *name == "Cache-Control") {
            response.headers.insert(name.to_owned(), header(Type::String, description).into());
        }
    }
}

/// Submit an order
///
/// Two requests are the same when they have the same `Idempotency-Key`, or, without one, the same `customerId` and `orderId`.
/// The same request again is answered in the same way, and makes no second order while the record of the first is kept.
#[utoipa::path(
    post, path = "/orders", operation_id = "submitOrder", tag = "orders",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters without spaces", min_length = 1, max_length = 255, pattern = r"^[\x21\x23-\x7e]+$"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; it travels with the order"),
        ("X-Callback-Url" = Option<String>, Header, description = "where the end of this order is told, where the service allows the host; https. Of repeated requests the first counts", max_length = 2_048, format = "uri"),
    ),
    request_body(content = Order, description = "Unknown members are kept with the order. At most 256,000 bytes with its metadata."),
    responses(
        (status = 202, description = "Accepted, now or before", body = AcceptedOrder, headers(
            ("Location" = String, description = "the status, absolute"),
            ("Retry-After" = u32, description = "seconds until the status is worth a look"),
            ("retry-after-ms" = u32, description = "the same in milliseconds"),
        )),
        (status = 400, description = "`no-body`, `not-json`, `invalid-order` with every mistake in `errors`, `invalid-idempotency-key`, `invalid-callback-url`, or `invalid-query`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`order-conflict`: another order has this `customerId` and `orderId`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`order-too-large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency-key-reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`store-unavailable`, `too-many-waiting` or `auth-unavailable`; `outcome` says whether the order may be accepted all the same", body = Problem, content_type = "application/problem+json", headers(
            ("Retry-After" = u32, description = "seconds"),
        )),
    )
)]
#[expect(dead_code, reason = "its attribute speaks")]
fn submit_order() {}

/// List orders
///
/// The caller's own, newest first.
#[utoipa::path(
    get, path = "/orders", operation_id = "listOrders", tag = "orders",
    params(
        ("status" = Option<Status>, Query, description = "only orders in this status"),
        ("limit" = Option<u32>, Query, description = "orders of a page at most; 20 unless asked for otherwise", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "from the `next` of the page before", pattern = "^[A-Za-z0-9_-]{43}$"),
    ),
    responses(
        (status = 200, description = "A page of orders; it may have fewer than `limit`, and only a missing `next` means the end", body = OrderList),
        (status = 403, description = "`forbidden`: the token lacks a scope; or `callers-not-identified`: nothing tells callers apart, so that there is no list", body = Problem, content_type = "application/problem+json", headers(("WWW-Authenticate" = String, description = "RFC 6750 section 3; with `forbidden`"))),
        (status = 400, description = "`invalid-query`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`page-not-found`: no page has this cursor", body = Problem, content_type = "application/problem+json"),
    )
)]
#[expect(dead_code, reason = "its attribute speaks")]
fn list_orders() {}

/// Read the status of an order
///
/// With `Prefer: wait=N` it is answered when the order changes, or after N seconds: with `If-None-Match` at any change of what is
/// shown, without it when `status` or `attempt` changes.
#[utoipa::path(
    get, path = "/orders/{trackingId}/status", operation_id = "readOrder", tag = "orders",
    params(
        ("trackingId" = TrackingId, Path, description = "from the 202"),
        ("seen" = Option<String>, Query, description = "stands in the `statusUrl` where replicas may lag; opaque"),
        ("If-None-Match" = Option<String>, Header, description = "`ETag`s that are known"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, at most 30 seconds (RFC 7240)"),
    ),
    responses(
        (status = 200, description = "The order, in whatever status. A 200 does not mean that the order has ended: `status` says so, by `completed`, `failed` or `cancelled`", body = OrderStatus, headers(
            ("ETag" = String, description = "of what is shown"),
            ("Retry-After" = Option<u32>, description = "seconds until the next look, while the order has not ended"),
            ("retry-after-ms" = Option<u32>, description = "the same in milliseconds"),
            ("Preference-Applied" = Option<String>, description = "`wait=N`, when it waited"),
        )),
        (status = 304, description = "Nothing has changed", headers(
            ("ETag" = String, description = "of what is shown"),
            ("Retry-After" = Option<u32>, description = "seconds until the next look, while the order has not ended"),
            ("retry-after-ms" = Option<u32>, description = "the same in milliseconds"),
            ("Preference-Applied" = Option<String>, description = "`wait=N`, when it waited"),
        )),
        (status = 404, description = "`order-not-found`: there is none, it has expired, or it is another's", body = Problem, content_type = "application/problem+json"),
    )
)]
#[expect(dead_code, reason = "its attribute speaks")]
fn read_order() {}

/// Cancel an order
///
/// A call to a backend is never broken off, since its effect may have happened already.
#[utoipa::path(
    delete, path = "/orders/{trackingId}", operation_id = "cancelOrder", tag = "orders",
    params(("trackingId" = TrackingId, Path, description = "from the 202")),
    responses(
        (status = 200, description = "It is cancelled, now or before", body = OrderStatus, headers(("ETag" = String, description = "of what is shown"))),
        (status = 202, description = "A worker holds it: it ends `cancelled`, or as the work ends", body = OrderStatus, headers(
            ("ETag" = String, description = "of what is shown"),
            ("Location" = String, description = "the status, absolute"),
            ("Retry-After" = u32, description = "seconds until the status is worth a look"),
            ("retry-after-ms" = u32, description = "the same in milliseconds"),
        )),
        (status = 404, description = "`order-not-found`: there is none, it has expired, or it is another's", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`order-ended`: it is `completed` or `failed`, and stays so", body = Problem, content_type = "application/problem+json"),
    )
)]
#[expect(dead_code, reason = "its attribute speaks")]
fn cancel_order() {}

/// Read this contract
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "readContract", tag = "contract", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value, headers(("Cache-Control" = String, description = "five minutes, for anyone"))))
)]
#[expect(dead_code, reason = "its attribute speaks")]
fn read_contract() {}
