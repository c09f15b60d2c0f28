//! Regular expressions of .NET, as far as the `regex` crate has what they use.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// Why a pattern cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// .NET cannot read it either.
    ByDotNet,
    /// .NET reads it: it has this.
    Here(String),
}

/// Reads a pattern with the options of a route constraint, `RegexOptions.IgnoreCase | CultureInvariant`.
pub(super) fn read(pattern: &str) -> Result<Regex, Unusable> {
    let mut translation = Translation { chars: pattern.chars().peekable(), out: String::new() };
    translation.pattern()?;
    RegexBuilder::new(&translation.out).case_insensitive(true).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Unusable::Here("a pattern that is too large".to_owned()),
        _ => Unusable::ByDotNet,
    })
}

/// Writes a .NET pattern as one of the `regex` crate.
struct Translation<'p> {
    chars: Peekable<Chars<'p>>,
    out: String,
}

impl Translation<'_> {
    fn pattern(&mut self) -> Result<(), Unusable> {
        // Whether a quantifier ended just here: a second one is an error in .NET.
        let mut quantified = false;
        while let Some(character) = self.chars.next() {
            let was_quantified = std::mem::take(&mut quantified);
            match character {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                // The end of the text, or the place before a last line feed.
                '$' => self.out.push_str(r"(?:\n?\z)"),
                '*' | '+' | '?' => {
                    if was_quantified {
                        return Err(Unusable::ByDotNet);
                    }
                    self.out.push(character);
                    self.lazy();
                    quantified = true;
                }
                '{' => match self.repetition() {
                    Some(_) if was_quantified => return Err(Unusable::ByDotNet),
                    Some(repetition) => {
                        self.out.push_str(&repetition);
                        self.lazy();
                        quantified = true;
                    }
                    None => self.out.push_str(r"\{"),
                },
                '}' => self.out.push_str(r"\}"),
                ']' => self.out.push_str(r"\]"),
                other => self.out.push(other),
            }
        }
        Ok(())
    }

    fn lazy(&mut self) {
        if self.chars.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
    }

    /// `{3}`, `{3,}` or `{3,5}`; anything else after a brace is text.
    fn repetition(&mut self) -> Option<String> {
        let (inside, _) = self.rest().split_once('}').map(|(inside, after)| (inside.to_owned(), after.len()))?;
        let (least, most) = inside.split_once(',').unwrap_or((&inside, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if least.is_empty() || !digits(least) || !digits(most) {
            return None;
        }
        self.skip(inside.chars().count() + 1);
        Some(format!("{{{inside}}}"))
    }

    fn group(&mut self) -> Result<(), Unusable> {
        self.out.push('(');
        if self.chars.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        let rest = self.rest();
        let unusable = |what: &str| Err(Unusable::Here(what.to_owned()));
        if ["=", "!", "<=", "<!"].iter().any(|look| rest.starts_with(look)) {
            return unusable("a look ahead or behind");
        }
        match rest.chars().next() {
            Some('>') => unusable("an atomic group"),
            Some('(') => unusable("a condition"),
            Some('#') => {
                // A comment.
                self.out.pop();
                while self.chars.next().ok_or(Unusable::ByDotNet)? != ')' {}
                Ok(())
            }
            Some(quote @ ('<' | '\'')) => {
                let end = if quote == '<' { '>' } else { '\'' };
                let name: String = rest[1..].chars().take_while(|character| *character != end).collect();
                if name.contains('-') {
                    return unusable("a balancing group");
                }
                self.skip(name.chars().count() + 2);
                // A name changes nothing in whether the pattern matches, and the crate takes fewer names.
                if name.is_empty() { Err(Unusable::ByDotNet) } else { Ok(()) }
            }
            _ => {
                let flags: String = rest.chars().take_while(|character| "imnsx-".contains(*character)).collect();
                if flags.contains(['x', 'm']) {
                    return unusable("the option x or m");
                }
                self.skip(flags.chars().count());
                self.out.push('?');
                let flags = flags.replace('n', "");
                self.out.push_str(flags.strip_suffix('-').unwrap_or(&flags));
                if self.out.ends_with('?') && self.chars.peek() == Some(&')') {
                    // `(?n)` alone; `(?)` is an error there too.
                    self.out.push('i');
                }
                Ok(())
            }
        }
    }

    fn escape(&mut self, in_class: bool) -> Result<(), Unusable> {
        let unusable = |what: &str| Err(Unusable::Here(what.to_owned()));
        match self.chars.next().ok_or(Unusable::ByDotNet)? {
            '1'..='9' | 'k' if !in_class => unusable("a reference to a group"),
            'G' if !in_class => unusable(r"\G"),
            'Z' if !in_class => {
                self.out.push_str(r"(?:\n?\z)");
                Ok(())
            }
            'b' if in_class => self.character(8),
            'e' => self.character(0x1b),
            'c' => {
                let letter = self.chars.next().filter(char::is_ascii_alphabetic).ok_or(Unusable::ByDotNet)?;
                self.character(u32::from(letter.to_ascii_uppercase()) - 64)
            }
            '0' => {
                let octal: String = self.rest().chars().take(2).take_while(|digit| digit.is_digit(8)).collect();
                self.skip(octal.len());
                self.character(u32::from_str_radix(&octal, 8).unwrap_or(0))
            }
            kind @ ('x' | 'u') => {
                let length = if kind == 'x' { 2 } else { 4 };
                let code: String = self.rest().chars().take(length).collect();
                self.skip(code.chars().count());
                let code = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == length).ok_or(Unusable::ByDotNet)?;
                self.character(code)
            }
            kind @ ('p' | 'P') => {
                let name = self.rest().strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or(Unusable::ByDotNet)?.0.to_owned();
                let class = format!("\\{kind}{{{name}}}");
                // .NET knows general categories, such as `Lu`, and blocks, such as `IsGreek`; the crate has no blocks.
                if name.starts_with("Is") {
                    return unusable(&format!("the character class {class}"));
                }
                if name.len() > 2 {
                    return Err(Unusable::ByDotNet);
                }
                self.skip(name.chars().count() + 2);
                self.out.push_str(&class);
                Ok(())
            }
            letter if letter.is_alphanumeric() && !"dDwWsSbBAztnrfva".contains(letter) => Err(Unusable::ByDotNet),
            letter @ ('_' | '<' | '>') => self.character(u32::from(letter)),
            other if other.is_ascii() => {
                self.out.extend(['\\', other]);
                Ok(())
            }
            other => self.character(u32::from(other)),
        }
    }

    fn character(&mut self, code: u32) -> Result<(), Unusable> {
        let character = char::from_u32(code).ok_or_else(|| Unusable::Here("half of a surrogate pair".to_owned()))?;
        // Writing to a `String` cannot fail.
        let _ = write!(self.out, r"\x{{{:X}}}", u32::from(character));
        Ok(())
    }

    /// A class in brackets. There `[`, `&` and `~` are text, and `-[…]` at the end takes characters away.
    fn class(&mut self) -> Result<(), Unusable> {
        self.out.push('[');
        if self.chars.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        while let Some(character) = self.chars.next() {
            match character {
                ']' if !is_first => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => self.escape(true)?,
                '-' if self.chars.peek() == Some(&'[') && !is_first => {
                    self.chars.next();
                    self.out.push_str("--");
                    self.class()?;
                }
                '-' if self.chars.peek() == Some(&'-') => {
                    self.out.push_str(r"\-");
                }
                '[' | '&' | '~' | ']' => self.out.extend(['\\', character]),
                other => self.out.push(other),
            }
            is_first = false;
        }
        Err(Unusable::ByDotNet)
    }

    fn rest(&self) -> String {
        self.chars.clone().collect()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.chars.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_dotnet_matches() {
        for (pattern, accepted, refused) in [
            (r"^\d{3}$", &["123", "123\n"][..], &["1234", "123\n\n"][..]),
            ("^((dists)|(pool))", &["distsX", "POOL"], &["x"]),
            (r"\d+.\d+.\d+", &["1.2.3", "1x2y3"], &["1.2"]),
            ("^[a-z-[aeiou]]+$", &["xyz"], &["xaz"]),
            ("^[[&&~]+$", &["[&~"], &["a"]),
            ("^[]a]+$", &["]a"], &["b"]),
            ("^a{,2}$", &["a{,2}"], &["aa"]),
            ("^a{2}?b{$", &["aab{"], &["ab{"]),
            (r"^(?<year>\d+)-(?'month'\d+)$", &["2026-11"], &["2026"]),
            (r"^\x41\u0042\cA\e\0$", &["AB\u{1}\u{1b}\0"], &["AB"]),
            (r"^(?#a comment)a\/\-b\Z", &["a/-b"], &["ab"]),
            ("^(?-i)a(?i:b)", &["aB"], &["Ab"]),
            (r"^\p{Lu}\P{L}$", &["a1", "A1"], &["ab"]),
        ] {
            let regex = read(pattern).unwrap_or_else(|error| panic!("{pattern}: {error:?}"));
            for text in accepted {
                assert!(regex.is_match(text), "{pattern} {text:?}");
            }
            for text in refused {
                assert!(!regex.is_match(text), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn what_dotnet_cannot_read_is_told_from_what_only_it_reads() {
        for pattern in ["^[", "(", ")", "*a", "a++", "a{1}{2}", r"\", "[b-a]", r"\y", "(?<>a)", "a**", r"\p{Greek}"] {
            assert_eq!(read(pattern).unwrap_err(), Unusable::ByDotNet, "{pattern}");
        }
        for pattern in
            ["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?>a)", "(?(a)b|c)", r"(a)\1", r"\k<a>", r"\Ga", "(?<a-b>c)", r"\p{IsGreek}", "(?x)a"]
        {
            assert!(matches!(read(pattern), Err(Unusable::Here(_))), "{pattern}");
        }
    }
}
