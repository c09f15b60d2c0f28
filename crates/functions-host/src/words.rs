//! Words of a log line in any form: the ids and names in it, as whole words.

use std::borrow::Cow;
use std::collections::BTreeSet;

use uuid::Uuid;

/// Digits of an id that a short line has of it.
const SHORT: usize = 8;
/// Most ids of one text.
const MOST: usize = 32;
/// Length of an id with its hyphens.
const LENGTH: usize = 36;

/// A line without the sequences that colour it at a terminal.
pub(crate) fn without_colours(line: &str) -> Cow<'_, str> {
    if !line.contains('\x1b') {
        return Cow::Borrowed(line);
    }
    let mut pieces = line.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain += piece.split_once('m').map_or(piece, |(_, after)| after);
    }
    Cow::Owned(plain)
}

/// Whether the text has this word, with no letter or digit of a longer one beside it.
pub(crate) fn has(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(is_of_word);
    let is_whole = |(at, _): (usize, &str)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next());
    !word.is_empty() && text.match_indices(word).any(is_whole)
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_')
}

/// Each part of a text that could be a name or an id.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter| !is_of_word(letter)).filter(|word| !word.is_empty())
}

/// The first ids in a text, up to [`MOST`]: each line of the handler is looked at for all of them.
pub(crate) fn ids(text: &str) -> BTreeSet<Uuid> {
    words(text).filter(|word| word.len() == LENGTH).filter_map(|word| word.parse().ok()).take(MOST).collect()
}

/// Whether an id in the text is one of these.
pub(crate) fn has_id(text: &str, is: impl Fn(Uuid) -> bool) -> bool {
    words(text).filter(|word| word.len() == LENGTH).filter_map(|word| word.parse().ok()).any(is)
}

/// Whether the text has one of these ids, whole or by its first eight digits, as lines for people have it.
pub(crate) fn has_any(text: &str, ids: &BTreeSet<Uuid>) -> bool {
    let is_first = |digits: u32| ids.iter().any(|id| id.as_fields().0 == digits);
    let is_short = |word: &str| word.len() == SHORT && u32::from_str_radix(word, 16).is_ok_and(is_first);
    words(text).any(|word| is_short(word) || word.len() == LENGTH && word.parse().is_ok_and(|id| ids.contains(&id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b0f2f3c-8a54-8d0e-9c53-6a1f5e0c7d11";

    #[test]
    fn the_first_ids_of_a_text_are_taken_and_no_more() {
        let all: Vec<Uuid> = (0..2 * MOST).map(|_| Uuid::new_v4()).collect();
        let text = all.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");

        assert_eq!(ids(&text), all[..MOST].iter().copied().collect());
    }

    #[test]
    fn an_id_is_found_in_lines_of_every_form() {
        let all = BTreeSet::from([ID.parse().unwrap()]);
        for (line, has) in [
            (format!(r#"{{"order.tracking_id":"{ID}"}}"#), true),
            (format!("INFO order accepted order.tracking_id={ID} x=1"), true),
            ("12:00:00  A-1  0b0f2f3c  accepted".to_owned(), true),
            ("12:00:00  A-1  0b0f2f3d  accepted".to_owned(), false),
            (format!("{ID}7"), false),
            (format!("see \\\"{}\\\"", ID.to_uppercase()), true),
        ] {
            assert_eq!(has_any(&line, &all), has, "{line}");
        }
    }
}
