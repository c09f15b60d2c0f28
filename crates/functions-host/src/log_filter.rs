//! `--log`: only those lines that are about one function, or about one id.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::words;

/// Latest invocations whose ids are known; lines come a little after them.
const MOST: usize = 256;

/// What lines are about: a function, or any id such as that of an order.
pub(crate) struct LogFilter {
    about: String,
    /// The same as an id, which a short line has by its first digits.
    id: BTreeSet<Uuid>,
    /// Names of the other functions, if `about` is one.
    others: Option<Vec<String>>,
    /// The id of each latest invocation that is meant, and the ids by which a line is about it.
    meant: Mutex<VecDeque<(Uuid, BTreeSet<Uuid>)>>,
}

impl LogFilter {
    /// A filter for lines about the function of this name, in any case, or else about an id.
    pub(crate) fn new(about: &str, functions: &[&str]) -> Self {
        let function = functions.iter().find(|name| name.eq_ignore_ascii_case(about));
        let others = function.map(|function| functions.iter().filter(|name| *name != function).map(|name| (*name).to_owned()).collect());
        let about = function.map_or(about, |name| name).to_owned();
        Self { id: about.parse().into_iter().collect(), about, others, meant: Mutex::default() }
    }

    /// Takes the bytes of an invocation, or of the answer to it.
    pub(crate) fn saw(&self, invocation: Uuid, function: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let is_function = self.others.is_some();
        let is_meant = if is_function { function == self.about } else { words::has(&text, &self.about) };
        if !is_meant {
            return;
        }
        let mut meant = self.meant.lock();
        let place = meant.iter().position(|(id, _)| *id == invocation).unwrap_or_else(|| {
            if meant.len() == MOST {
                meant.pop_front();
            }
            meant.push_back((invocation, BTreeSet::from([invocation])));
            meant.len() - 1
        });
        if is_function {
            meant[place].1.extend(words::ids(&text));
        }
    }

    /// Whether a line is shown.
    pub(crate) fn shows(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        let line = words::without_colours(&line);
        if words::has(&line, &self.about) || words::has_any(&line, &self.id) {
            return true;
        }
        // An order has an id, and lines of several functions.
        let is_others = self.others.iter().flatten().any(|other| words::has(&line, other));
        !is_others && self.meant.lock().iter().any(|(_, ids)| words::has_any(&line, ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "0b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11";

    #[test]
    fn lines_about_a_function_name_it_or_an_id_of_its_invocations() {
        let filter = LogFilter::new("ingress", &["Ingress", "Status"]);
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());

        filter.saw(one, "Ingress", format!(r#"{{"body":"{ORDER}"}}"#).as_bytes());
        filter.saw(other, "Status", ORDER.as_bytes());

        for (line, is_shown) in [
            ("INFO Ingress answered".to_owned(), true),
            (format!("order accepted order.tracking_id={ORDER}"), true),
            (format!("invocation.id={one}"), true),
            (format!("\x1b[3morder.tracking_id\x1b[0m\x1b[2m=\x1b[0m{ORDER}"), true),
            ("12:00:00  A-1  0b0f2f3c  accepted".to_owned(), true),
            (format!("Status answered order.tracking_id={ORDER}"), false),
            (format!("invocation.id={other}"), false),
            ("Ingress2 answered".to_owned(), false),
        ] {
            assert_eq!(filter.shows(line.as_bytes()), is_shown, "{line}");
        }
    }

    #[test]
    fn an_id_is_found_by_its_first_digits_too() {
        assert!(LogFilter::new(ORDER, &[]).shows(b"12:00:00  A-1  0b0f2f3c  accepted"));
    }

    #[test]
    fn lines_about_an_id_have_it_or_name_an_invocation_that_had_it() {
        let filter = LogFilter::new("A-1", &["Ingress"]);
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());

        filter.saw(one, "Ingress", br#"{"orderId":"A-1"}"#);
        filter.saw(other, "Ingress", br#"{"orderId":"A-10"}"#);

        for (line, is_shown) in [
            (r#"{"order":"A-1"}"#.to_owned(), true),
            (format!("Ingress failed invocation.id={one}"), true),
            (format!("Ingress failed invocation.id={other}"), false),
            ("A-10".to_owned(), false),
        ] {
            assert_eq!(filter.shows(line.as_bytes()), is_shown, "{line}");
        }
    }
}
