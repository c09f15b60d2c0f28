//! The status of an order as a page for the person who opens its link in a browser.
//!
//! The page is whole without scripts: it refreshes itself while the order is open. With scripts it follows changes by the long poll,
//! shows times as the reader's browser writes them, and can cancel.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serving::terminal::duration;
use sha2::{Digest, Sha256};

use crate::domain::problem::Problem;
use crate::domain::record::{Event, Record, Status};
use crate::domain::timestamp::Timestamp;
use crate::envelope::{HttpRequest, Response};
use crate::functions::reply;

/// Longest result that is shown, in bytes; the page stays small.
const MAX_RESULT: usize = 4096;
/// Seconds until a page about a problem asks again, if the problem does not say.
const AGAIN: u32 = 5;
/// Longest pause before the page of an order refreshes itself without scripts.
const MAX_REFRESH: Duration = Duration::from_secs(60);

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Only what this page brings along runs in it (CSP 3), and nothing of the reader goes elsewhere.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Whether the client asks for a page: `Accept` names `text/html` with a weight above that of JSON, or first where they weigh the same
/// (RFC 9110 section 12.5.1). Browsers do; programs send `*/*` or nothing.
pub(super) fn is_wanted(request: &HttpRequest<'_>) -> bool {
    prefers_html(request.header("accept"))
}

fn prefers_html<'r>(accept: impl Iterator<Item = &'r str>) -> bool {
    let mut html = None;
    let mut json = None;
    for (place, range) in accept.flat_map(|value| value.split(',')).enumerate() {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0), |text| text.trim().parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight)));
        let Some(weight) = weight.filter(|weight| *weight > 0.0) else { continue };
        let better = |known: Option<(f32, usize)>| known.is_none_or(|(best, _)| weight > best).then_some((weight, place)).or(known);
        match kind.as_str() {
            "text/html" => html = better(html),
            "application/json" | "application/problem+json" => json = better(json),
            _ => {}
        }
    }
    match (html, json) {
        (Some((html, first)), Some((json, second))) => html > json || (html >= json && first < second),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// The page of an order. `etag`: the version that it shows. `now`: the store's clock. `look`: the time until a change
/// is expected.
pub(super) fn of_order(record: &Record, etag: &str, now: Timestamp, look: Duration) -> Response {
    let names = record.names();
    let title = if names.order_id.is_empty() { "Order".to_owned() } else { format!("Order {}", names.order_id) };
    let mut main = String::with_capacity(4096);
    let open = !record.status.is_terminal();
    let word = word(record);
    let _ = write!(main, "<h1>{}</h1>\n<p class=\"status {}\" role=\"status\">{word}</p>\n", escaped(&title), record.status.as_str());
    let _ = writeln!(
        main,
        "<p><label for=\"progress\">Progress</label> <progress id=\"progress\" max=\"100\" value=\"{0}\">{0} %</progress> {0} %</p>",
        record.progress
    );
    if let Some(stage) = record.stage.as_deref().filter(|_| open) {
        let _ = writeln!(main, "<p>Stage: {}</p>", escaped(stage));
    }
    if let (Status::Processing, Some(retry_at)) = (record.status, record.retry_at) {
        let _ = writeln!(main, "<p>The next try begins {}.</p>", time(retry_at, now));
    }
    if let Some(error) = &record.error {
        let head = if open { "The last try failed" } else { "Why it failed" };
        let _ = write!(
            main,
            "<section class=\"error\"><h2>{head}</h2>\n<p>{}</p>\n<p><code>{}</code></p>\n<p>{}</p></section>\n",
            escaped(&error.message),
            escaped(&error.code),
            if open {
                "You need not do anything: it is tried again."
            } else {
                "Send a new order with another number, or ask the people who run this service to try this one again; give them the tracking id below."
            }
        );
    }
    if let Some(result) = &record.result {
        main.push_str("<h2>Result</h2>\n");
        if result.get().len() <= MAX_RESULT {
            let _ = writeln!(main, "<pre tabindex=\"0\">{}</pre>", escaped(result.get()));
        } else {
            main.push_str("<p>The result is long: ask for this address with <code>Accept: application/json</code>.</p>\n");
        }
    }
    main.push_str("<h2>Timeline</h2>\n<ol class=\"timeline\">\n");
    for transition in &record.history {
        let code = transition.code.as_deref().map(|code| format!(" <code>{}</code>", escaped(code))).unwrap_or_default();
        let attempt = if transition.attempt > 0 { format!(", try {}", transition.attempt) } else { String::new() };
        let _ = writeln!(main, "<li>{} <span>{}{attempt}{code}</span></li>", time(transition.at, now), happened(transition.event));
    }
    let _ = write!(main, "</ol>\n<p class=\"id\">Tracking id: <code>{}</code></p>\n", record.tracking_id);
    if open && !record.cancel_requested {
        main.push_str(
            "<p><button id=\"cancel\" type=\"button\" hidden>Cancel this order</button> <span id=\"told\" role=\"alert\"></span></p>\n",
        );
    }
    let refresh = open.then(|| look.clamp(Duration::from_secs(1), MAX_REFRESH).as_secs());
    page(200, &title, refresh.map(|seconds| (seconds, etag)), &main)
}

/// The page of a problem.
pub(super) fn of_problem(problem: &Problem) -> Response {
    let advice = match problem.status {
        401 | 403 => {
            "This address is for programs that send a token: open the page of the service where you placed the order, or ask the people who run it."
        }
        404 => "Orders are kept for a limited time after their end. Look whether the whole address was copied.",
        429 => "There were too many requests; this page asks again by itself.",
        503 => "This page asks again by itself.",
        _ => "Look whether the whole address was copied.",
    };
    let refresh = matches!(problem.status, 429 | 503).then(|| (u64::from(problem.retry_after.unwrap_or(AGAIN).max(1)), ""));
    let main = format!("<h1>{}</h1>\n<p>{}</p>\n<p>{advice}</p>\n", escaped(problem.title), escaped(&problem.detail));
    let page = page(problem.status, problem.title, refresh, &main);
    // Its headers and its log line are those of the same problem for a program.
    let mut response = Response { body: page.body, ..reply::problem(problem) };
    for (name, value) in page.headers {
        reply::set_header(&mut response, name, value);
    }
    response
}

/// `refresh`: the seconds after which it asks again, and the version that it shows.
fn page(status_code: u16, title: &str, refresh: Option<(u64, &str)>, main: &str) -> Response {
    let (refresh, is_open) = match refresh {
        Some((seconds, etag)) => (
            format!("<noscript><meta http-equiv=\"refresh\" content=\"{seconds}\"></noscript>\n"),
            format!(" data-open data-tag=\"{}\"", escaped(etag)),
        ),
        None => (String::new(), String::new()),
    };
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n{refresh}<title>{}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body{is_open}>\n<main>\n{main}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        escaped(title)
    );
    let headers = vec![
        ("Content-Type", "text/html; charset=utf-8".to_owned()),
        ("Cache-Control", "no-store".to_owned()),
        ("Vary", "Accept".to_owned()),
        ("Content-Security-Policy", POLICY.clone()),
        ("Referrer-Policy", "no-referrer".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
    ];
    Response { status_code, headers, body, problem: None }
}

fn word(record: &Record) -> &'static str {
    match record.status {
        _ if record.cancel_requested && !record.status.is_terminal() => "Being cancelled",
        Status::Accepted => "Accepted, waiting for its turn",
        Status::Processing if record.retry_at.is_some() => "Waiting for the next try",
        Status::Processing => "Being worked on",
        Status::Completed => "Completed",
        Status::Failed => "Failed",
        Status::Cancelled => "Cancelled",
    }
}

/// What happened, in words.
fn happened(event: Event) -> &'static str {
    match event {
        Event::Accepted => "accepted",
        Event::Claimed => "work began",
        Event::Completed => "completed",
        Event::Failed => "failed",
        Event::Cancelled => "cancelled",
        Event::Interrupted => "work began again after an interruption",
        Event::Retrying => "a try failed; another follows",
        Event::Redriven => "sent on its way again by the operators",
        Event::Notified => "the end was told to another system",
        Event::Unnotified => "the end could not be told to another system",
        Event::Renotified => "the operators have the end told once more",
    }
}

/// A moment: how long ago, and to the second for those whose browser writes it in their own words.
fn time(at: Timestamp, now: Timestamp) -> String {
    let words = if at > now { format!("in {}", duration(now.until(at))) } else { format!("{} ago", duration(at.until(now))) };
    format!("<time datetime=\"{at}\">{words}</time>")
}

/// Text as it may stand in HTML, inside elements and quoted attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Changes of the direction of writing end with their text.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => safe.push('\u{fffd}'),
            letter if letter.is_control() && letter != '\n' => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_a_page_and_a_program_json() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, expected) in [
            (&[chromium][..], true),
            (&["text/html"], true),
            (&["TEXT/HTML;level=1"], true),
            (&["text/html, application/json"], true),
            (&["application/json", "text/html"], false),
            (&["application/json;q=0.5, text/html"], true),
            (&["text/html;q=0.5, application/json"], false),
            (&["text/html;q=0"], false),
            (&["text/html;q=2"], false),
            (&["*/*"], false),
            (&["application/json"], false),
            (&["text/*"], false),
            (&[""], false),
            (&[], false),
        ] {
            assert_eq!(prefers_html(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn foreign_text_stays_text() {
        assert_eq!(escaped("<b a='1'>&\"\u{202e}\u{7}"), "&lt;b a=&#39;1&#39;&gt;&amp;&quot;\u{fffd}\u{fffd}");
    }
}
