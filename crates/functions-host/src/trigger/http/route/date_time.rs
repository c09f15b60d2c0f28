//! Texts that `DateTime.TryParse` of .NET takes in the invariant culture, which has months before days.

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Token<'t> {
    Number(&'t str),
    Word(&'t str),
    Sign(char),
}

/// Whether .NET reads a text as a date, a time or both.
pub(super) fn is_date_time(text: &str) -> bool {
    Reader { tokens: tokens(text), at: 0, date: Date::default(), has_time: false }.reads()
}

/// Numbers, words and signs; blanks, commas, and periods outside numbers separate only.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = |belongs: fn(char) -> bool| rest.find(|character| !belongs(character)).unwrap_or(rest.len());
        let (token, length) = if first.is_ascii_digit() {
            let length = length(|character| character.is_ascii_digit());
            (Some(Token::Number(&rest[..length])), length)
        } else if first.is_alphabetic() {
            let length = length(char::is_alphabetic);
            (Some(Token::Word(&rest[..length])), length)
        } else if first.is_whitespace() || matches!(first, ',' | '.') {
            (None, first.len_utf8())
        } else {
            (Some(Token::Sign(first)), first.len_utf8())
        };
        // A period is needed to tell seconds from their fraction.
        tokens.extend(token.or((first == '.').then_some(Token::Sign('.'))));
        rest = &rest[length..];
    }
    tokens
}

#[derive(Default)]
struct Date<'t> {
    numbers: Vec<&'t str>,
    month: Option<u32>,
    has_day_name: bool,
}

struct Reader<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    date: Date<'t>,
    has_time: bool,
}

impl<'t> Reader<'t> {
    fn reads(mut self) -> bool {
        self.all().is_some() && self.date.is_valid(self.has_time)
    }

    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token
    }

    fn next_is(&mut self, token: Token<'_>) -> bool {
        let is = self.tokens.get(self.at) == Some(&token);
        self.at += usize::from(is);
        is
    }

    fn number_below(&mut self, limit: u32) -> Option<()> {
        match self.next()? {
            Token::Number(text) if text.len() <= 2 && text.parse::<u32>().is_ok_and(|number| number < limit) => Some(()),
            _ => None,
        }
    }

    fn all(&mut self) -> Option<()> {
        while let Some(token) = self.next() {
            match token {
                Token::Number(_) if self.tokens.get(self.at) == Some(&Token::Sign(':')) => {
                    self.at -= 1;
                    self.time()?;
                }
                Token::Number(text) => {
                    self.date.numbers.push(text);
                    if matches!(self.tokens.get(self.at), Some(Token::Sign('-' | '/'))) {
                        self.at += 1;
                        // A separator stands between two parts of a date.
                        match self.tokens.get(self.at)? {
                            Token::Number(_) | Token::Word(_) => {}
                            Token::Sign(_) => return None,
                        }
                    }
                }
                Token::Word(word) => self.word(word)?,
                Token::Sign('.') => {}
                Token::Sign(_) => return None,
            }
        }
        Some(())
    }

    /// `10:30`, `10:30:15.5 PM +02:00`.
    fn time(&mut self) -> Option<()> {
        if std::mem::replace(&mut self.has_time, true) {
            return None;
        }
        self.number_below(24)?;
        self.at += 1;
        self.number_below(60)?;
        if self.next_is(Token::Sign(':')) {
            self.number_below(60)?;
            if self.next_is(Token::Sign('.')) && !matches!(self.next()?, Token::Number(_)) {
                return None;
            }
        }
        if matches!(self.tokens.get(self.at), Some(Token::Sign('+' | '-'))) {
            self.at += 1;
            match self.next()? {
                Token::Number(text) if text.len() == 4 || text.len() <= 2 && text.parse::<u32>().is_ok_and(|hours| hours <= 14) => {}
                _ => return None,
            }
            if self.next_is(Token::Sign(':')) {
                self.number_below(60)?;
            }
        }
        Some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let word = word.to_lowercase();
        let named = |names: &[&str]| names.iter().position(|name| *name == word || name[..3] == word);
        if let Some(month) = named(&MONTHS) {
            // A month may stand in front of its separator: 29-Nov-2026.
            let _ = self.next_is(Token::Sign('-')) || self.next_is(Token::Sign('/'));
            return self.date.month.replace(u32::try_from(month).ok()? + 1).is_none().then_some(());
        }
        if named(&DAYS).is_some() {
            return (!std::mem::replace(&mut self.date.has_day_name, true)).then_some(());
        }
        let is_first = self.at == 1;
        match word.as_str() {
            "t" if !is_first && !self.has_time => Some(()),
            "z" | "gmt" | "utc" | "am" | "pm" | "a" | "p" if self.has_time => Some(()),
            // An hour without minutes: 10 PM.
            "am" | "pm" if !is_first => {
                let hour = self.date.numbers.pop()?;
                self.has_time = true;
                hour.parse::<u32>().is_ok_and(|hour| (1..=12).contains(&hour)).then_some(())
            }
            _ => None,
        }
    }
}

impl Date<'_> {
    fn is_valid(&self, has_time: bool) -> bool {
        let is_year = |text: &str| text.len() > 2;
        let (year, month, day) = match (&self.numbers[..], self.month) {
            ([], None) => return has_time,
            ([one], Some(month)) if is_year(one) => (Some(*one), month, None),
            ([one], Some(month)) => (None, month, Some(*one)),
            ([one, two], Some(month)) if is_year(one) => (Some(*one), month, Some(*two)),
            ([one, two], Some(month)) => (Some(*two), month, Some(*one)),
            ([one, two], None) if is_year(one) => (Some(*one), number(two), None),
            ([one, two], None) if is_year(two) => (Some(*two), number(one), None),
            ([one, two], None) => (None, number(one), Some(*two)),
            ([one, two, three], None) if is_year(one) => (Some(*one), number(two), Some(*three)),
            ([one, two, three], None) => (Some(*three), number(one), Some(*two)),
            _ => return false,
        };
        // A day and a month alone are of this year, which may have a 29 February; two digits are of this century or the last.
        let year = year.map_or(2000, |year| if is_year(year) { number(year) } else { 2000 + number(year) });
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (1..=9999).contains(&year) && (1..=12).contains(&month) && day.is_none_or(|day| day.len() <= 2 && (1..=days).contains(&number(day)))
    }
}

/// A number, or one that is no part of a date.
fn number(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_told_from_other_texts() {
        for text in [
            "2026-11-29",
            "2026-11-29T10:00:00Z",
            "2026-11-29T10:00:00.123+02:00",
            "11-29-2026",
            "10:30",
            "10:30 PM",
            "10 PM",
            "2026-11",
            "11-2026",
            "Nov 29 2026",
            "29 November 2026",
            "29-Nov-2026",
            "Sunday, 29 Nov 2026 10:00:00 GMT",
            "1.2.3",
            "1.5",
            "Nov 29",
            "2026-11-29 10:00:00 +02:00",
            "11.29.2026",
            "2024-02-29",
        ] {
            assert!(is_date_time(text), "{text}");
        }
        for text in [
            "",
            "nope",
            "5",
            "5.",
            "00",
            "0",
            "123",
            "-1",
            "+1",
            "1e3",
            "29.11.2026",
            "2026-02-30",
            "2026-11-29T25:00",
            "2026-13-01",
            "1,000",
            "79228162514264337593543950335",
            "x.tar.gz",
            "1.5-",
            "Z",
            "T",
            "0x10",
            "a.",
            "2026-11-29-",
            "10:",
            "10:60",
            "2023-02-29",
            "true",
            "6eebbc03-1b1a-4d66-9d0c-000000000001",
            "11%2F29%2F2026",
            "٣",
            "12345-01-01",
        ] {
            assert!(!is_date_time(text), "{text}");
        }
    }
}
