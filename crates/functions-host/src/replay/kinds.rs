//! Values that differ from run to run, by their kinds; and which of them took the place of which.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Names of values that a handler makes up, besides those that every handler may use.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Members of JSON, headers and parameters of a URL whose value is a token: any token is as good as another one.
    pub tokens: &'static [&'static str],
    /// Parameters of a URL that may be absent.
    pub absent: &'static [&'static str],
    /// Headers of a response that may be absent.
    pub headers: &'static [&'static str],
}

/// Headers and members whose value is a number of seconds or milliseconds.
const DURATIONS: [&str; 5] = ["retry-after", "retry-after-ms", "x-ms-retry-after-ms", "age", "durationms"];
/// Headers whose value is a token.
const TOKENS: [&str; 1] = ["etag"];

/// A part of a text.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Part<'t> {
    /// Text that must be the same.
    Text(&'t str),
    /// A moment, in RFC 3339 or as HTTP writes it.
    Moment,
    /// The context of a trace (`traceparent`).
    Trace,
    /// A time such as `12 ms`.
    Duration,
    /// An id.
    Id(&'t str),
    /// The value of a parameter in a URL.
    Token(&'t str),
}

static KINDS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?<moment>\b\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)|\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)|(?<trace>\b00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b)|(?<id>\b[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\b)|(?<duration>\b\d+(?:\.\d+)? ?(?:ns|µs|us|ms|s|min|h)\b)|[?&](?<name>[A-Za-z0-9_.~-]+)=",
    )
});
static WORD: LazyLock<Regex> = LazyLock::new(|| regex("[A-Za-z0-9_-]{8,}"));
static ID: LazyLock<Regex> = LazyLock::new(|| regex("[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"));

#[expect(clippy::expect_used, reason = "the three expressions above are tested")]
fn regex(expression: &str) -> Regex {
    Regex::new(expression).expect("it is an expression")
}

impl Names {
    /// Whether a value under this name is a token.
    pub(crate) fn is_token(&self, name: &str) -> bool {
        TOKENS.iter().chain(self.tokens).any(|token| token.eq_ignore_ascii_case(name))
    }

    /// Whether a header may be absent.
    pub(crate) fn may_lack(&self, header: &str) -> bool {
        self.headers.iter().any(|name| name.eq_ignore_ascii_case(header))
    }

    /// The parts of a text. Durations count in log lines only: in an answer a limit of 30 s is not one of 60 s.
    pub(crate) fn parts<'t>(&self, text: &'t str, is_log: bool) -> Vec<Part<'t>> {
        let (mut parts, mut end) = (Vec::new(), 0);
        let mut push = |from: usize, to: usize, part: Option<Part<'t>>, end: &mut usize| {
            if from > *end {
                parts.push(Part::Text(&text[*end..from]));
            }
            parts.extend(part);
            *end = to;
        };
        for found in KINDS.captures_iter(text) {
            if found.get_match().start() < end {
                continue; // within the value of a parameter
            }
            let named = |name| found.name(name);
            if let Some(moment) = named("moment") {
                push(moment.start(), moment.end(), Some(Part::Moment), &mut end);
            } else if let Some(trace) = named("trace") {
                push(trace.start(), trace.end(), Some(Part::Trace), &mut end);
            } else if let Some(id) = named("id") {
                push(id.start(), id.end(), Some(Part::Id(id.as_str())), &mut end);
            } else if let Some(duration) = named("duration").filter(|_| is_log) {
                push(duration.start(), duration.end(), Some(Part::Duration), &mut end);
            } else if let Some(name) = named("name") {
                let value = found.get_match().end();
                let length = text[value..].find(|letter: char| letter.is_whitespace() || "&#\"\\<>".contains(letter));
                let after = length.map_or(text.len(), |length| value + length);
                if self.absent.contains(&name.as_str()) {
                    push(found.get_match().start(), after, None, &mut end);
                } else if self.tokens.contains(&name.as_str()) {
                    push(value, after, Some(Part::Token(&text[value..after])), &mut end);
                }
            }
        }
        push(text.len(), text.len(), None, &mut end);
        parts
    }
}

/// Whether a value under this name is a number of seconds or milliseconds.
pub(crate) fn is_duration(name: &str) -> bool {
    DURATIONS.iter().any(|duration| duration.eq_ignore_ascii_case(name))
}

/// What the handler made up then, and what it makes up now in the same place: later requests name the new one.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    now: HashMap<String, String>,
    then: HashMap<String, String>,
}

impl Learned {
    /// Takes an id in the place of another. Whether that can be: an id of then is one id now, and the other way round.
    pub(crate) fn id(&mut self, then: &str, now: &str) -> bool {
        let (then, now) = (then.to_ascii_lowercase(), now.to_ascii_lowercase());
        let is_same = |known: Option<&String>, other: &String| known.is_none_or(|known| known == other);
        let is_fitting = is_same(self.now.get(&then), &now) && is_same(self.then.get(&now), &then);
        if is_fitting {
            self.then.insert(now.clone(), then.clone());
            self.now.insert(then, now);
        }
        is_fitting
    }

    /// Takes a token in the place of another.
    pub(crate) fn token(&mut self, then: &str, now: &str) {
        let core = |text: &str| text.trim_start_matches("W/").trim_matches('"').to_owned();
        self.now.insert(core(then), core(now));
    }

    /// The text of then, as it would be now.
    pub(crate) fn applied<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.now.is_empty() {
            return text.into();
        }
        let known = |word: &str| self.now.get(word).or_else(|| self.now.get(&word.to_ascii_lowercase())).cloned();
        WORD.replace_all(text, |found: &Captures<'_>| {
            let word = &found[0];
            known(word)
                .unwrap_or_else(|| ID.replace_all(word, |id: &Captures<'_>| known(&id[0]).unwrap_or_else(|| id[0].to_owned())).into_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID_A: &str = "0b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11";
    const ID_B: &str = "1b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11";

    #[test]
    fn a_text_is_taken_apart_by_kind() {
        let names = Names { tokens: &["cursor"], absent: &["seen"], headers: &[] };
        let text = format!("http://h/{ID_A}?seen=abc&cursor=xyz&a=1 at 2026-12-01T02:56:10.1Z in 12 ms");
        let parts = [
            Part::Text("http://h/"),
            Part::Id(ID_A),
            Part::Text("&cursor="),
            Part::Token("xyz"),
            Part::Text("&a=1 at "),
            Part::Moment,
            Part::Text(" in "),
            Part::Duration,
        ];
        assert_eq!(names.parts(&text, true), parts);
        assert_eq!(names.parts("in 12 ms", false), [Part::Text("in 12 ms")]);
        assert_eq!(names.parts("Tue, 01 Dec 2026 02:56:10 GMT", false), [Part::Moment]);
        assert_eq!(names.parts("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false), [Part::Trace]);
    }

    #[test]
    fn what_was_made_up_is_named_anew_wherever_it_stands() {
        let mut learned = Learned::default();
        assert!(learned.id(ID_A, ID_B));
        assert!(!learned.id(ID_A, ID_A), "one id of then is two now");
        learned.token("W/\"abcdefgh12\"", "\"12345678ij\"");

        let then = format!(r#"{{"u":"/x/{ID_A}?e=\"abcdefgh12\"","k":"n{ID_A}_1","o":"{}"}}"#, ID_A.to_uppercase());
        let now = format!(r#"{{"u":"/x/{ID_B}?e=\"12345678ij\"","k":"n{ID_B}_1","o":"{ID_B}"}}"#);
        assert_eq!(learned.applied(&then), now);
    }
}
