//! What each error code of an order means that Waybill itself gives. Work in Rust may give others.

/// Codes, and what each means for an operator.
pub const MEANINGS: [(&str, &str); 17] = [
    ("backend_busy", "The service asked for another try (409 or 429)."),
    ("backend_failed", "The service itself failed the order, and its own code and text follow."),
    ("backend_redirected", "The service answered with a redirect or with a URL of another origin, which is not followed."),
    ("backend_rejected", "The service refused the order (4xx)."),
    ("backend_timeout", "The service did not end the order within `FULFILLMENT_TIMEOUT`."),
    ("backend_unavailable", "The service was not reached, broke off, or answered 408, 425 or 5xx."),
    ("caller_unknown", "A gateway sent the order and did not say whose it is."),
    ("deadline_exceeded", "The order did not end within `ORDER_DEADLINE`."),
    ("internal_error", "The work panicked, which is a mistake in its code; the log has the place."),
    ("interrupted", "Crashes of its workers ended the order, `MAX_INTERRUPTIONS` of them."),
    ("invalid_order", "The order is not what a gateway may send, or what the work expects."),
    ("invalid_result", "The service answered with something that is no result, such as a page of a proxy."),
    ("not_json", "A gateway sent something that is not JSON."),
    ("order_too_large", "A gateway sent an order that does not fit into a message."),
    ("result_too_large", "The result of the service is larger than 512 KiB."),
    ("total_too_large", "The built-in work prices orders up to a total of 1,000,000,000,000."),
    ("work_timeout", "The work in Rust did not end the order in time."),
];

/// What a code means, if it is one of Waybill's own.
pub fn meaning(code: &str) -> Option<&'static str> {
    MEANINGS.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
}
