//! Header names as ASP.NET Core spells them: names that it knows in one way, other names as they were sent.

use std::sync::LazyLock;

/// Number of names that Kestrel, the web server of the real host, lists first, at the front of [`KNOWN`].
pub(crate) const LISTED_FIRST: usize = 45;

/// Names that have one spelling (`HeaderNames` of ASP.NET Core): first the request headers of Kestrel in its order, which is four
/// apart, the others by name, and the length.
pub(crate) const KNOWN: [&str; 90] = [
    "Accept",
    "Connection",
    "Host",
    "User-Agent",
    "Accept-Charset",
    "Accept-Encoding",
    "Accept-Language",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization",
    "baggage",
    "Cache-Control",
    "Content-Type",
    "Cookie",
    "Correlation-Context",
    "Date",
    "Expect",
    "From",
    "Grpc-Accept-Encoding",
    "Grpc-Encoding",
    "Grpc-Timeout",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Keep-Alive",
    "Max-Forwards",
    "Origin",
    "Pragma",
    "Proxy-Authorization",
    "Range",
    "Referer",
    "Request-Id",
    "TE",
    "traceparent",
    "tracestate",
    "Trailer",
    "Transfer-Encoding",
    "Translate",
    "Upgrade",
    "Upgrade-Insecure-Requests",
    "Via",
    "Warning",
    "Content-Length",
    "Accept-Ranges",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
    "Age",
    "Allow",
    "Alt-Svc",
    "Alt-Used",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Location",
    "Content-MD5",
    "Content-Range",
    "Content-Security-Policy",
    "DNT",
    "ETag",
    "Expires",
    "Grpc-Message",
    "Grpc-Status",
    "Last-Modified",
    "Link",
    "Location",
    "Proxy-Authenticate",
    "Proxy-Connection",
    "Retry-After",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "Server",
    "Set-Cookie",
    "Strict-Transport-Security",
    "Vary",
    "WWW-Authenticate",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-Powered-By",
    "X-Requested-With",
    "X-UA-Compatible",
    "X-XSS-Protection",
];

/// Places in [`KNOWN`] of the names of each length: a name is compared with three others, not with ninety.
static BY_LENGTH: LazyLock<Vec<Vec<usize>>> = LazyLock::new(|| {
    let longest = KNOWN.iter().map(|name| name.len()).max().unwrap_or(0);
    let of_length = |length| (0..KNOWN.len()).filter(|place| KNOWN[*place].len() == length).collect();
    (0..=longest).map(of_length).collect()
});

/// Place in [`KNOWN`] of a name in any case.
pub(crate) fn known(name: &[u8]) -> Option<usize> {
    BY_LENGTH.get(name.len())?.iter().copied().find(|place| KNOWN[*place].as_bytes().eq_ignore_ascii_case(name))
}
