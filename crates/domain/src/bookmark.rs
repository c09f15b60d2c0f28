//! Bookmarks: the position in the store's history at which a record became visible, sent in a status URL.
//!
//! With lagging replicas one instance may see a record before another. A bookmark makes every reader wait for at least its position.
//! A seal protects the bookmark, so that a client cannot make the handler wait for a position that does not exist.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::tracking::{TrackingId, TrackingKey};

/// Longest sealed bookmark that is read, in bytes.
const MAX_SEALED: usize = 1024;
/// Length of the seal in bytes, too long to guess.
const SEAL: usize = 16;

/// A position in the store's history, in the store's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark(pub String);

impl Bookmark {
    /// The sealed form for a URL: letters, digits, `-` and `_`.
    pub fn seal(&self, key: &TrackingKey, tracking_id: TrackingId) -> String {
        let mut bytes = key.authenticate(&parts(tracking_id, self.0.as_bytes()))[..SEAL].to_vec();
        bytes.extend_from_slice(self.0.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Opens a bookmark that was sealed for this order; `None` for any other text.
    pub fn open(sealed: &str, key: &TrackingKey, tracking_id: TrackingId) -> Option<Self> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (seal, text) = bytes.split_at_checked(SEAL)?;
        if !key.confirms(&parts(tracking_id, text), seal) {
            return None;
        }
        std::str::from_utf8(text).ok().map(|text| Self(text.to_owned()))
    }
}

fn parts(tracking_id: TrackingId, text: &[u8]) -> [Vec<u8>; 3] {
    [b"bookmark".to_vec(), tracking_id.as_bytes().to_vec(), text.to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bookmark_sealed_for_this_order_is_opened() {
        let key = TrackingKey::new(vec![7; 32]).unwrap();
        let [one, other] =
            ["0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10", "1d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10"].map(|id| TrackingId::parse(id).unwrap());
        let bookmark = Bookmark("0:1#12#4=7".into());
        let sealed = bookmark.seal(&key, one);

        assert_eq!(Bookmark::open(&sealed, &key, one), Some(bookmark));
        assert_eq!(Bookmark::open(&sealed, &key, other), None);
        assert_eq!(Bookmark::open(&sealed, &TrackingKey::new(vec![8; 32]).unwrap(), one), None);
        for wrong in ["", "x", "AAAA", &sealed[1..], &"A".repeat(2000)] {
            assert_eq!(Bookmark::open(wrong, &key, one), None, "{wrong}");
        }
        assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }
}
