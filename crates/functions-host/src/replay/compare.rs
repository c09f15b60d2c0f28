//! Two answers of a handler, compared as the host would read them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::recording::{Answer, bytes_of};
use crate::replay::kinds::{Learned, Names, Part, is_duration};

/// Headers that say nothing of the answer: how it travels, and when.
const OF_TRAVEL: [&str; 7] = ["date", "server", "content-length", "transfer-encoding", "connection", "keep-alive", "te"];
/// The only header of an answer to an invocation that the host reads.
const CONTENT_TYPE: &str = "content-type";

/// A place at which two answers differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// JSON pointer (RFC 6901) into `answer` of the recording. A text that holds JSON is looked into.
    pub pointer: String,
    /// What was recorded there; `None` is nothing.
    pub recorded: Option<Value>,
    /// What is there now.
    pub replayed: Option<Value>,
}

impl Difference {
    /// There was no answer for this reason, and there is one now.
    pub(super) fn of_failure(failure: Option<&str>, status: u16) -> Self {
        let recorded = failure.map(|failure| format!("no answer: {failure}").into());
        Self { pointer: "/status".into(), recorded, replayed: Some(status.into()) }
    }
}

/// Every difference of two answers.
pub(super) fn compare(then: &Answer, now: &Answer, is_forwarded: bool, names: &Names, learned: &mut Learned) -> Vec<Difference> {
    let mut comparison = Comparison { names, learned, differences: Vec::new() };
    if then.status != now.status {
        comparison.differs("/status", Some(then.status.into()), Some(now.status.into()));
    }
    comparison.headers(&then.headers, &now.headers, is_forwarded);
    comparison.bodies(then, now);
    comparison.differences
}

struct Comparison<'c> {
    names: &'c Names,
    learned: &'c mut Learned,
    differences: Vec<Difference>,
}

impl Comparison<'_> {
    fn differs(&mut self, pointer: &str, recorded: Option<Value>, replayed: Option<Value>) {
        self.differences.push(Difference { pointer: pointer.to_owned(), recorded, replayed });
    }

    fn headers(&mut self, then: &[(String, String)], now: &[(String, String)], is_forwarded: bool) {
        let is_meant = |name: &str| if is_forwarded { !OF_TRAVEL.contains(&name) } else { name == CONTENT_TYPE };
        let names: BTreeSet<String> =
            then.iter().chain(now).map(|(name, _)| name.to_ascii_lowercase()).filter(|name| is_meant(name)).collect();
        let values = |headers: &[(String, String)], name: &str| -> Option<String> {
            let values: Vec<&str> =
                headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        for name in names {
            let pointer = format!("/headers/{}", escaped(&name));
            match (values(then, &name), values(now, &name)) {
                (Some(then), Some(now)) => self.texts(&pointer, &name, &then, &now, false),
                (then, now) if then != now && !self.names.may_lack(&name) => {
                    self.differs(&pointer, then.map(Value::from), now.map(Value::from));
                }
                _ => {}
            }
        }
    }

    fn bodies(&mut self, then: &Answer, now: &Answer) {
        let bytes = |answer: &Answer| bytes_of(answer.body.as_ref(), answer.body_base64.as_ref()).unwrap_or_default();
        match (&then.body, &now.body) {
            (Some(then), Some(now)) => {
                // The host's reader takes more than JSON; an answer that only that reader can read is compared as text.
                match (serde_json::from_str::<Value>(then), serde_json::from_str::<Value>(now)) {
                    (Ok(then), Ok(now)) => self.trees("/body", "", &then, &now, false),
                    _ => self.texts("/body", "", then, now, false),
                }
            }
            _ if bytes(then) == bytes(now) => {}
            _ => {
                let shown = |answer: &Answer| match &answer.body_base64 {
                    Some(_) => Some(Value::from(format!("{} bytes", bytes(answer).len()))),
                    None => answer.body.clone().map(Value::from),
                };
                self.differs("/body", shown(then), shown(now));
            }
        }
    }

    /// Compares two trees under a name. `is_log`: inside the lines of the answer for the host's log.
    fn trees(&mut self, pointer: &str, name: &str, then: &Value, now: &Value, is_log: bool) {
        match (then, now) {
            (Value::Object(then), Value::Object(now)) => {
                let is_response = name.eq_ignore_ascii_case("headers");
                for (key, then) in then {
                    let below = format!("{pointer}/{}", escaped(key));
                    match now.get(key) {
                        Some(now) => self.trees(&below, key, then, now, is_log || key == "Logs" && pointer == "/body"),
                        None if is_response && self.names.may_lack(key) => {}
                        None => self.differs(&below, Some(then.clone()), None),
                    }
                }
                let is_old = |key: &str| then.contains_key(key) || is_response && self.names.may_lack(key);
                for (key, now) in now.iter().filter(|(key, _)| !is_old(key)) {
                    self.differs(&format!("{pointer}/{}", escaped(key)), None, Some(now.clone()));
                }
            }
            (Value::Array(then), Value::Array(now)) => {
                for place in 0..then.len().max(now.len()) {
                    let below = format!("{pointer}/{place}");
                    match (then.get(place), now.get(place)) {
                        (Some(then), Some(now)) => self.trees(&below, name, then, now, is_log),
                        (then, now) => self.differs(&below, then.cloned(), now.cloned()),
                    }
                }
            }
            (Value::String(then), Value::String(now)) => self.texts(pointer, name, then, now, is_log),
            (Value::Number(_), Value::Number(_)) if is_duration(name) => {}
            (then, now) if then == now => {}
            (then, now) => self.differs(pointer, Some(then.clone()), Some(now.clone())),
        }
    }

    fn texts(&mut self, pointer: &str, name: &str, then: &str, now: &str, is_log: bool) {
        // Equal texts are looked at too: an id that stays in one place and changes in another is a difference.
        let tree = |text: &str| serde_json::from_str::<Value>(text).ok().filter(|tree| tree.is_object() || tree.is_array());
        if let (Some(then), Some(now)) = (tree(then), tree(now)) {
            return self.trees(pointer, name, &then, &now, is_log);
        }
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_duration(name) && is_number(then) && is_number(now) {
            return;
        }
        if self.names.is_token(name) && !then.is_empty() && !now.is_empty() {
            return self.learned.token(then, now);
        }
        if !self.are_alike(then, now, is_log) {
            self.differs(pointer, Some(then.into()), Some(now.into()));
        }
    }

    /// Whether two texts differ only in values that differ from run to run.
    fn are_alike(&mut self, then: &str, now: &str, is_log: bool) -> bool {
        let (then, now) = (self.names.parts(then, is_log), self.names.parts(now, is_log));
        then.len() == now.len()
            && then.into_iter().zip(now).all(|pair| match pair {
                (Part::Id(then), Part::Id(now)) => self.learned.id(then, now),
                (Part::Token(then), Part::Token(now)) => {
                    self.learned.token(then, now);
                    true
                }
                (then, now) => then == now,
            })
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(body: &Value) -> Answer {
        Answer {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(body.to_string()),
            body_base64: None,
        }
    }

    fn pointers(then: &Value, now: &Value) -> Vec<String> {
        let mut learned = Learned::default();
        let differences = compare(&answer(then), &answer(now), false, &Names::default(), &mut learned);
        differences.into_iter().map(|difference| difference.pointer).collect()
    }

    #[test]
    fn a_value_is_masked_by_its_kind_alone() {
        let (one, other) = ("0b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11", "1b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11");
        for (then, now, is_same) in [
            (json!("2026-12-01T02:56:10Z"), json!("2027-01-01T00:00:00.123Z"), true),
            (json!("2026-12-01T02:56:10Z"), json!("soon"), false),
            (json!("2026-12-01T02:56:10Z"), Value::Null, false),
            (json!([one, one]), json!([other, other]), true),
            (json!([one, one]), json!([other, one]), false),
            (json!({"Retry-After": "1"}), json!({"Retry-After": "2"}), true),
            (json!({"Retry-After": "1"}), json!({"Retry-After": "soon"}), false),
            (json!({"limit": "within 30 s"}), json!({"limit": "within 60 s"}), false),
            (json!({"Logs": ["took 30 s"]}), json!({"Logs": ["took 31 s"]}), true),
            (json!({"Logs": ["one"]}), json!({"Logs": ["one", "two"]}), false),
            (json!(1.0), json!(1), false),
        ] {
            assert_eq!(pointers(&then, &now).is_empty(), is_same, "{then} {now}");
        }
    }

    #[test]
    fn json_inside_a_text_is_looked_into() {
        let then = json!({ "Outputs": { "res": { "body": "{\"a/b\":[1,2]}" } }, "ReturnValue": null });
        let now = json!({ "Outputs": { "res": { "body": "{ \"a/b\" : [1,3] }" } }, "ReturnValue": "x" });

        assert_eq!(pointers(&then, &now), ["/body/Outputs/res/body/a~1b/1", "/body/ReturnValue"]);
    }
}
