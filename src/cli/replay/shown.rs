//! The outcome of a replay, for people or as JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use functions_host::replay::{Difference, Outcome, Replayed};
use serde_json::{Value, json};
use serving::terminal::printable;

/// Differences of one invocation that a person is shown; JSON has all.
const MOST: usize = 20;
/// Letters of a value that a person is shown.
const LETTERS: usize = 200;
/// Of these, letters before the first that differs.
const BEFORE: usize = 40;

/// One invocation.
pub(super) struct Shown<'s, 'r>(pub(super) &'s Replayed<'r>);

impl Shown<'_, '_> {
    /// Prints it.
    pub(super) fn print(&self, is_json: bool) {
        print(&if is_json { format!("{}\n", printable(&self.json().to_string())) } else { self.text() });
    }

    fn json(&self) -> Value {
        let Replayed { recording, outcome, beside } = self.0;
        let mut shown = json!({ "function": recording.function, "invocation": recording.invocation, "outcome": word(outcome) });
        match outcome {
            Outcome::Same => {}
            Outcome::Differs(differences) => {
                let member = |name: &str, value: &Option<Value>| value.clone().map(|value| (name.to_owned(), value));
                let shown_one = |difference: &Difference| -> Value {
                    let pointer = Some(("pointer".to_owned(), Value::from(difference.pointer.as_str())));
                    let values = [member("recorded", &difference.recorded), member("replayed", &difference.replayed)];
                    pointer.into_iter().chain(values.into_iter().flatten()).collect()
                };
                shown["differences"] = differences.iter().map(shown_one).collect();
            }
            Outcome::NoAnswer(why) => shown["reason"] = why.as_str().into(),
        }
        if let Some(beside) = beside {
            shown["beside"] = (*beside).into();
        }
        shown
    }

    fn text(&self) -> String {
        let Replayed { recording, outcome, beside } = self.0;
        let mut text = format!("{:<9}  {}  {}", word(outcome), printable(&recording.function), recording.invocation);
        // Writing to a string cannot fail.
        match outcome {
            Outcome::Same => {}
            Outcome::NoAnswer(why) => drop(write!(text, "  {}", printable(why))),
            Outcome::Differs(_) => {
                if let Some(beside) = beside {
                    let _ = write!(text, "  ({} ran at the same time)", printable(beside));
                }
            }
        }
        text.push('\n');
        if let Outcome::Differs(differences) = outcome {
            for Difference { pointer, recorded, replayed } in differences.iter().take(MOST) {
                let (then, now) = (written(recorded.as_ref()), written(replayed.as_ref()));
                let _ = writeln!(text, "  {}", printable(pointer));
                let _ = writeln!(text, "    recorded  {}\n    now       {}", cut(&then, &now), cut(&now, &then));
            }
            if differences.len() > MOST {
                let _ = writeln!(text, "  and {} more; --json has all", differences.len() - MOST);
            }
        }
        text
    }
}

/// How many invocations came out in which way.
#[derive(Debug, Default)]
pub(super) struct Tally {
    same: usize,
    differs: usize,
    no_answer: usize,
}

impl Tally {
    /// Counts one more.
    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Same => self.same += 1,
            Outcome::Differs(_) => self.differs += 1,
            Outcome::NoAnswer(_) => self.no_answer += 1,
        }
    }

    /// Whether all were the same.
    pub(super) fn is_same(&self) -> bool {
        self.differs + self.no_answer == 0
    }

    /// Prints the sum.
    pub(super) fn print(&self, is_json: bool) {
        let Self { same, differs, no_answer } = *self;
        print(&if is_json {
            format!("{}\n", json!({ "same": same, "differs": differs, "noAnswer": no_answer }))
        } else {
            let all = same + differs + no_answer;
            let plural = if all == 1 { "" } else { "s" };
            format!("\n{all} invocation{plural}: {same} the same, {differs} different, {no_answer} without an answer\n")
        });
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Same => "same",
        Outcome::Differs(_) => "differs",
        Outcome::NoAnswer(_) => "no answer",
    }
}

fn written(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

/// The part of a value from a little before it differs from the other one.
fn cut(value: &str, other: &str) -> String {
    let alike = value.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let length = value.chars().count();
    let start = if length <= LETTERS { 0 } else { alike.saturating_sub(BEFORE) };
    let shown: String = value.chars().skip(start).take(LETTERS).collect();
    let (before, after) = (if start > 0 { "…" } else { "" }, if start + LETTERS < length { "…" } else { "" });
    format!("{before}{}{after}", printable(&shown))
}

/// A closed pipe is no reason to stop half way.
fn print(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}
