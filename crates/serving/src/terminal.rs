//! Text for a terminal: foreign text with its control characters made visible, durations, and the width of the terminal.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

/// Foreign text as it may be printed: control characters (C0, DEL, C1), line separators, characters that change the direction of
/// writing and characters without width become `\u` and four hexadecimal digits. Such a character moves the cursor, rewrites lines,
/// sends input to the shell, or makes two names look alike. Inside a string of JSON the result means the same as the text.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// The same for a text of several lines, whose line feeds stay.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| letter != '\n' && is_control(letter))
}

/// Text that may have line feeds and colours of our own: only characters that change the direction of writing are escaped.
pub(crate) fn left_to_right(text: &str) -> Cow<'_, str> {
    escaped(text, is_direction)
}

fn escaped(text: &str, is_escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_escaped(letter) {
            // Writing to a string cannot fail.
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

fn is_control(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') || is_direction(letter) || is_without_width(letter)
}

/// Characters that show nothing anywhere: zero width space, word joiner and invisible operators, byte order mark, soft hyphen, tags. The
/// joiners U+200C and U+200D belong to words and emoji.
fn is_without_width(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The characters of Unicode's bidirectional algorithm that have no shape of their own (UAX #9, section 2).
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A duration, as a person reads it.
pub fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}.{} s", duration.subsec_millis() / 100),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Columns of the terminal that stdout is; `None` if stdout is no terminal, or does not tell.
pub fn columns() -> Option<usize> {
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (milliseconds, shown) in
            [(0, "0.0 s"), (1_990, "1.9 s"), (60_000, "1 min 0 s"), (3_599_999, "59 min 59 s"), (90_060_000, "25 h 1 min")]
        {
            assert_eq!(duration(Duration::from_millis(milliseconds)), shown);
        }
    }

    #[test]
    fn characters_that_steer_a_terminal_become_visible() {
        for (text, shown) in [
            ("A-7 é 日本 😀", "A-7 é 日本 😀"),
            ("\u{1b}[2J", "\\u001b[2J"),
            ("a\r\n\tb\u{7f}", "a\\u000d\\u000a\\u0009b\\u007f"),
            ("\u{9b}31m", "\\u009b31m"),
            ("gnp\u{202e}exe.\u{2066}", "gnp\\u202eexe.\\u2066"),
            ("A-\u{200b}7\u{feff}", "A-\\u200b7\\ufeff"),
            ("A\u{e0037}", "A\\udb40\\udc37"),
            ("👩\u{200d}🔧", "👩\u{200d}🔧"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable_lines("a\n\u{1b}[2J"), "a\n\\u001b[2J");
    }
}
