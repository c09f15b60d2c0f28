//! Who counts as one caller: a subscription, an owner, or a network address, whichever is known first.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use sha2::{Digest, Sha256};

use crate::config::limits::Limits;
use crate::door::caller::ANONYMOUS;
use crate::envelope::HttpRequest;

/// Longest name of a subscription that is believed.
const MAX_SUBSCRIPTION: usize = 128;

/// One caller, as limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateKey<'a> {
    /// A subscription at a gateway that we trust.
    Subscription(&'a str),
    /// Whoever proved to be this owner.
    Owner(&'a str),
    /// An address; of IPv6 the network that one customer gets.
    Address(IpAddr),
    /// Nothing is known. All of these together are one caller.
    Unknown,
}

impl<'a> RateKey<'a> {
    /// Whose request this is.
    pub fn of(request: &'a HttpRequest<'_>, owner: &'a str, limits: &'a Limits) -> Self {
        if let Some(subscription) = subscription(request, limits) {
            return Self::Subscription(subscription);
        }
        if owner != ANONYMOUS {
            return Self::Owner(owner);
        }
        forwarded_for(request.header("x-forwarded-for"), limits.trusted_proxies).map_or(Self::Unknown, Self::Address)
    }

    /// The same for the same caller, and short however long his name is.
    pub fn digest(self) -> [u8; 16] {
        let mut digest = Sha256::new();
        match self {
            Self::Subscription(name) => digest.update([&b"s"[..], name.as_bytes()].concat()),
            Self::Owner(name) => digest.update([&b"o"[..], name.as_bytes()].concat()),
            Self::Address(address) => digest.update(format!("a{address}")),
            Self::Unknown => {}
        }
        let mut key = [0; 16];
        key.copy_from_slice(&digest.finalize()[..16]);
        key
    }
}

/// The subscription that a trusted gateway names, in the one header that a setting says it writes. Two values, on lines of their
/// own or joined by a comma, mean that somebody else wrote one of them, and then nobody is believed.
pub fn subscription<'a>(request: &'a HttpRequest<'_>, limits: &'a Limits) -> Option<&'a str> {
    let mut values = request.header(limits.subscription_header.as_ref()?.as_str());
    let value = values.next().filter(|_| values.next().is_none())?.trim();
    let fits = !value.is_empty() && value.len() <= MAX_SUBSCRIPTION && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    fits.then_some(value)
}

/// The address that the outermost of our proxies saw. Each proxy appends whom it was called by, so what stands further left was
/// written by whoever called that one, and may be invented.
fn forwarded_for<'a>(values: impl Iterator<Item = &'a str>, trusted_proxies: usize) -> Option<IpAddr> {
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    // Fewer hops than proxies: the request came past the outer ones, and the first hop is still one of ours.
    let hop = hops.len() - trusted_proxies.min(hops.len());
    hops.get(hop).and_then(|hop| address(hop)).map(network)
}

/// Reads `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// One customer has at least a /64 of IPv6 and can use any address of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_own_proxies_appended_is_believed() {
        for (values, trusted_proxies, expected) in [
            (&["192.0.2.1"] as &[_], 1, Some("192.0.2.1")),
            (&["192.0.2.1:4711"], 1, Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1:4711"], 1, Some("192.0.2.1")),
            (&["6.6.6.6", "7.7.7.7,192.0.2.1"], 1, Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 198.51.100.7:80"], 2, Some("192.0.2.1")),
            (&["192.0.2.1"], 2, Some("192.0.2.1")),
            (&["192.0.2.1"], 0, None),
            (&[], 1, None),
            (&["192.0.2.1, unknown"], 1, None),
            (&["192.0.2.1,"], 1, None),
            (&["2001:db8:1:2:3:4:5:6"], 1, Some("2001:db8:1:2::")),
            (&["[2001:db8:1:2:ffff::]:4711"], 1, Some("2001:db8:1:2::")),
            (&["[2001:db8:1:2::9]"], 1, Some("2001:db8:1:2::")),
            (&["::ffff:192.0.2.1"], 1, Some("192.0.2.1")),
        ] {
            let found = forwarded_for(values.iter().copied(), trusted_proxies);
            assert_eq!(found, expected.map(|address| address.parse().unwrap()), "{values:?} {trusted_proxies}");
        }
    }

    #[test]
    fn callers_of_different_kinds_never_share_a_key() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let callers = [
            RateKey::Subscription("192.0.2.1"),
            RateKey::Owner("192.0.2.1"),
            RateKey::Address(address),
            RateKey::Owner("o"),
            RateKey::Unknown,
        ];

        for (place, caller) in callers.iter().enumerate() {
            assert!(callers[..place].iter().all(|other| other.digest() != caller.digest()), "{caller:?}");
        }
    }
}
