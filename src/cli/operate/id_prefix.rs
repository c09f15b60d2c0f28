//! The begin of a tracking id, as a person copies it from a log line.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::domain::tracking::TrackingId;

/// Fewest hexadecimal digits of a prefix: fewer are a slip of the hand.
const LEAST: usize = 4;
/// Hexadecimal digits of a whole id.
const WHOLE: usize = 32;

/// A tracking id, or its first digits.
#[derive(Debug, Clone)]
pub struct IdPrefix {
    text: String,
    /// The smallest id that begins so.
    pub(super) first: TrackingId,
    /// The largest.
    pub(super) last: TrackingId,
}

impl IdPrefix {
    /// The id, if this is all of it.
    pub(super) fn whole(&self) -> Option<TrackingId> {
        (self.first == self.last).then_some(self.first)
    }
}

impl From<TrackingId> for IdPrefix {
    fn from(id: TrackingId) -> Self {
        Self { text: id.to_string(), first: id, last: id }
    }
}

impl FromStr for IdPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("this is no tracking id, which looks like a3948077-c06a-8f9c-9be8-6dd4acb7c847, nor its first {LEAST} digits or more")
        };
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if digits.len() == WHOLE {
            return TrackingId::parse(text).map(Self::from).ok_or_else(wrong);
        }
        if !is_hexadecimal || !(LEAST..WHOLE).contains(&digits.len()) {
            return Err(wrong());
        }
        let filled = |digit: &str| {
            let digits = format!("{digits}{}", digit.repeat(WHOLE - digits.len()));
            u128::from_str_radix(&digits, 16).map(|number| TrackingId::from_bytes(number.to_be_bytes())).map_err(|_| wrong())
        };
        Ok(Self { text: text.to_ascii_lowercase(), first: filled("0")?, last: filled("f")? })
    }
}

impl Display for IdPrefix {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_ids() {
        let prefix: IdPrefix = "A394-80".parse().unwrap();

        assert_eq!(prefix.first.to_string(), "a3948000-0000-0000-0000-000000000000");
        assert_eq!(prefix.last.to_string(), "a39480ff-ffff-ffff-ffff-ffffffffffff");
        assert_eq!((prefix.whole(), prefix.to_string().as_str()), (None, "a394-80"));
        let whole: IdPrefix = "a3948077-c06a-8f9c-9be8-6dd4acb7c847".parse().unwrap();
        assert_eq!(whole.whole(), TrackingId::parse("a3948077-c06a-8f9c-9be8-6dd4acb7c847"));
        for wrong in ["", "a39", "nonsense", "a394é", "a3948077-c06a-4f9c-9be8-6dd4acb7c847", "a3948077c06a8f9c9be86dd4acb7c847"] {
            assert!(wrong.parse::<IdPrefix>().is_err(), "{wrong}");
        }
    }
}
