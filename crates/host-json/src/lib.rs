//! The files of a function app as the Functions host reads them: JSON with comments and a byte order mark.

pub mod time_span;

use serde_json::Value;

/// Parses the text of a file; the error is "invalid JSON at line 3, column 5: …".
pub fn parse(text: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(&blank_comments(text)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        format!("invalid JSON at line {line}, column {column}: {reason}")
    })
}

/// Replaces `//` and `/* */` comments outside strings by spaces, so that lines and columns stay where they were.
fn blank_comments(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['"', '/']) {
        let (before, found) = rest.split_at(start);
        output.push_str(before);
        let (length, comment) = if found.starts_with("//") {
            (found.find('\n').unwrap_or(found.len()), true)
        } else if let Some(comment) = found.strip_prefix("/*") {
            (comment.find("*/").map_or(found.len(), |end| end + "/**/".len()), true)
        } else if found.starts_with('"') {
            (string_length(found), false)
        } else {
            (1, false)
        };
        let (token, after) = found.split_at(length);
        if comment {
            output.extend(token.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        } else {
            output.push_str(token);
        }
        rest = after;
    }
    output + rest
}

/// The length in bytes of the JSON string at the start of `text`, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comments_are_blanked_and_strings_are_kept() {
        let text = "{ // one \"quote\n  \"url\": \"http://x/*y*/\\\"//\", /* two\n lines */ \"n\": 1 }";

        assert_eq!(parse(text).unwrap(), json!({"url": "http://x/*y*/\"//", "n": 1}));
    }

    #[test]
    fn a_mistake_after_a_comment_keeps_its_line_and_column() {
        let error = parse("{\n  /* é */ \"a\": x\n}").unwrap_err();

        assert_eq!(error, "invalid JSON at line 2, column 16: expected value");
    }

    #[test]
    fn an_unfinished_comment_or_string_is_an_error_not_a_panic() {
        for text in ["{ /*", "{ \"a", "{ //", "\"\\", "/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse("\u{feff}{}").unwrap(), json!({}));
    }

    #[test]
    fn comments_are_left_out_and_strings_are_kept() {
        let text = "{ // one \"quote\n \"é\": \"//x/*\\\"*/\", /* two\n lines */ \"functionTimeout\": -1 }";

        assert_eq!(parse(text).unwrap(), json!({ "é": "//x/*\"*/", "functionTimeout": -1 }));
        for text in ["/*", "\"", "\"\\", "//", "/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_comment_that_begins_with_a_slash_goes_on_to_its_end() {
        assert_eq!(parse("{/*/ \"a\": 1 */}").unwrap(), json!({}));
    }
}
