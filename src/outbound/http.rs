//! What our own HTTP clients have in common: whom they listen to, how much they read, what is told of what broke.

use std::error::Error;

use reqwest::{ClientBuilder, Response};

/// A client that follows no redirects and asks no proxy: what it sends, tokens among it, is for whom the settings name.
pub fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("waybill/", env!("CARGO_PKG_VERSION")))
}

/// A body of at most `limit` bytes. `None`: it is longer.
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

/// What broke. The last of the sources tells most; the first one may name a URL, and that a key.
pub fn reason(error: &reqwest::Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if deepest.is::<reqwest::Error>() { "it does not answer".into() } else { deepest.to_string() }
}
