//! Text by its byte order mark, as .NET's `StreamReader` finds it; without a mark it is UTF-8.

use std::borrow::Cow;

/// Decodes the bytes, without their mark; what is not valid is replaced by U+FFFD.
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        // Before UTF-16, whose mark is the beginning of this one.
        [0xff, 0xfe, 0, 0, rest @ ..] => utf_32(rest, u32::from_le_bytes).into(),
        [0, 0, 0xfe, 0xff, rest @ ..] => utf_32(rest, u32::from_be_bytes).into(),
        [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes).into(),
        [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes).into(),
        _ => String::from_utf8_lossy(bytes),
    }
}

fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let (units, rest) = bytes.as_chunks::<2>();
    let characters = char::decode_utf16(units.iter().copied().map(unit)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
    characters.chain((!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER)).collect()
}

fn utf_32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> String {
    let (units, rest) = bytes.as_chunks::<4>();
    let characters = units.iter().copied().map(|bytes| char::from_u32(unit(bytes)).unwrap_or(char::REPLACEMENT_CHARACTER));
    characters.chain((!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_decides() {
        for bytes in [
            &b"\xc3\xa9A"[..],
            b"\xef\xbb\xbf\xc3\xa9A",
            b"\xff\xfe\xe9\0A\0",
            b"\xfe\xff\0\xe9\0A",
            b"\xff\xfe\0\0\xe9\0\0\0A\0\0\0",
            b"\0\0\xfe\xff\0\0\0\xe9\0\0\0A",
        ] {
            assert_eq!(decode(bytes), "éA", "{bytes:x?}");
        }
        assert_eq!(decode(b"\xff\xfeA\0\x3d\xd8A"), "A\u{fffd}\u{fffd}");
        assert_eq!(decode(b"\xff"), "\u{fffd}");
    }
}
