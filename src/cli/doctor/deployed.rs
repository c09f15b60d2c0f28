//! The deployed app: from outside by HTTP, and from inside by its function `Doctor`.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};

use crate::functions::doctor::finding::{CLOCK, Finding, KEY_REFUSED, NO_DOCTOR, NOT_HTTPS, NOT_REACHED, OPEN_TO_ALL, Report};
use crate::outbound;

/// Longest wait for an answer. An app that was asleep starts first.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// A tracking id that no order has.
const NO_ORDER: &str = "00000000-0000-8000-8000-000000000000";
/// Largest difference between two clocks without a finding.
const LARGEST_DIFFERENCE: Duration = Duration::from_secs(30);

/// Asks the app at `url`, which ends before `/orders`.
pub(super) fn examine(url: &str, key: Option<&str>) -> Result<Vec<Finding>, Vec<String>> {
    let one = |problem: String| vec![problem];
    let base = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none());
    let base = base.ok_or_else(|| one(format!("--url {url:?} is no URL such as https://APP.azurewebsites.net/api")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| one(error.to_string()))?;
    let client = outbound::http::client().timeout(TIMEOUT).build().map_err(|error| one(error.to_string()))?;
    Ok(runtime.block_on(ask(&client, base.as_str().trim_end_matches('/'), &base, key)))
}

async fn ask(client: &Client, base: &str, parsed: &Url, key: Option<&str>) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if parsed.scheme() == "http" && !is_local {
        // Over plain http the key could be read on the way.
        return vec![Finding::of(
            &NOT_HTTPS,
            format!("{base} is not encrypted, so nothing was asked"),
            "use https, and turn on httpsOnly of the app",
        )];
    }
    let mut request = client.get(format!("{base}/doctor"));
    if let Some(key) = key {
        request = request.header("x-functions-key", key);
    }
    match answer(request).await {
        Err(reason) => {
            found.push(Finding::of(&NOT_REACHED, format!("{base} does not answer: {reason}"), format!("curl -i {base}/openapi.json")));
            return found;
        }
        Ok((status, date, body)) => {
            found.extend(clock(date.as_deref()));
            found.extend(inside(base, status, &body, is_local));
        }
    }
    found.push(stranger(client, base, is_local).await);
    found
}

/// What the app says of itself.
fn inside(base: &str, status: StatusCode, body: &[u8], is_local: bool) -> Vec<Finding> {
    match (status.as_u16(), serde_json::from_slice::<Report>(body)) {
        (200, Ok(report)) => {
            let instance = report.instance.map(|instance| format!(" on instance {instance}")).unwrap_or_default();
            let mut found = vec![Finding::fine("version", format!("waybill {}{instance} answers", report.version))];
            found.extend(report.findings);
            found
        }
        (401 | 403, _) => vec![Finding::of(
            &KEY_REFUSED,
            format!("{base}/doctor answers {status} without the master key"),
            "az functionapp keys list -g GROUP -n APP --query masterKey -o tsv > key, then --key-file key",
        )],
        _ => {
            let what = format!("{base}/doctor answers {status} without a report");
            let mend = if is_local {
                "waybill local"
            } else {
                "deploy the package that `waybill package` makes, then wait until the app shows its functions"
            };
            vec![Finding::of(&NO_DOCTOR, what, mend)]
        }
    }
}

/// Whether the app answers a caller without key and token: asked for an order that does not exist, which changes nothing.
async fn stranger(client: &Client, base: &str, is_local: bool) -> Finding {
    let url = format!("{base}/orders/{NO_ORDER}/status");
    match answer(client.get(&url)).await {
        Ok((status, _, body)) => door(&url, status, &body, is_local),
        Err(reason) => Finding::of(&NOT_REACHED, format!("{url} does not answer: {reason}"), format!("curl -i {url}")),
    }
}

/// The finding for this answer to a caller without key and token.
fn door(url: &str, status: StatusCode, body: &[u8], is_local: bool) -> Finding {
    // Only the handler says that there is no such order; the platform and a gateway stop a stranger before.
    let is_let_in = status == StatusCode::NOT_FOUND && String::from_utf8_lossy(body).contains("order-not-found");
    if is_let_in && !is_local {
        let mend = "set authLevel of the order functions to function, or set AUTH_ISSUER and AUTH_AUDIENCE; docs/auth.md compares them";
        return Finding::of(&OPEN_TO_ALL, format!("{url} is answered for a caller without key and token"), mend);
    }
    // On this machine that is meant to be so.
    let who = if is_let_in { "is let in, on this machine" } else { "is not let in" };
    Finding::fine("door", format!("a caller without key and token {who}: {status} for {url}"))
}

fn clock(date: Option<&str>) -> Option<Finding> {
    let theirs = jiff::fmt::rfc2822::parse(date?).ok()?.timestamp();
    let difference = jiff::Timestamp::now().duration_since(theirs).unsigned_abs();
    let what = format!("the clock of this machine and the app's clock differ by {} s", difference.as_secs());
    (difference > LARGEST_DIFFERENCE).then(|| Finding::of(&CLOCK, what, "timedatectl set-ntp true, if this machine is wrong"))
}

/// Status, `Date` and body of an answer.
async fn answer(request: reqwest::RequestBuilder) -> Result<(StatusCode, Option<String>, Vec<u8>), String> {
    let failed =
        |error: reqwest::Error| if error.is_timeout() { format!("no answer within {TIMEOUT:?}") } else { outbound::http::reason(&error) };
    let mut response = request.send().await.map_err(failed)?;
    let date = response.headers().get("date").and_then(|text| text.to_str().ok()).map(str::to_owned);
    let body = outbound::http::body(&mut response, MAX_ANSWER).await.map_err(failed)?;
    Ok((response.status(), date, body.ok_or("the answer is too long")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(status: u16, body: &str, is_local: bool) -> String {
        door("u", StatusCode::from_u16(status).unwrap(), body.as_bytes(), is_local).code.into_owned()
    }

    #[test]
    fn a_stranger_whom_the_handler_answers_is_let_in() {
        let problem = r#"{"type":"urn:problem-type:waybill:order-not-found"}"#;

        assert_eq!(code(404, problem, false), "open_to_all");
        assert_eq!(code(404, problem, true), "door");
        for (status, body) in [(401, ""), (403, ""), (404, "no such function"), (401, problem)] {
            assert_eq!(code(status, body, false), "door", "{status} {body}");
        }
    }
}
