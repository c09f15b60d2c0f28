//! What all HTTP clients of the handler share: no proxy and no redirects, a limit for bodies, and the reason of an error.

use std::error::Error;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use reqwest::{ClientBuilder, Response};

/// A client without redirects and proxies: its requests, which may carry tokens, go only to the host in the settings.
pub fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("waybill/", env!("CARGO_PKG_VERSION")))
}

/// The response's body. `None` if it is longer than `limit` bytes.
pub async fn body(response: &mut Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The pause that an answer asks for in `Retry-After`: seconds, however many, or a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let moment = httpdate::parse_http_date(text).ok()?;
    // A date in the past means now.
    Some(moment.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The deepest source of an error, which is the most exact one. The outer errors may quote a URL with a key in it.
pub fn reason(error: &reqwest::Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if deepest.is::<reqwest::Error>() { "it does not answer".into() } else { deepest.to_string() }
}
