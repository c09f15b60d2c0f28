//! What counts as one caller for the rate limit: a subscription, else an owner, else a network address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use sha2::{Digest, Sha256};

use crate::config::limits::Limits;
use crate::door::caller::ANONYMOUS;
use crate::envelope::HttpRequest;

/// Longest name of a subscription, in bytes.
const MAX_SUBSCRIPTION: usize = 128;

/// One caller, as the rate limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateKey<'a> {
    /// A subscription that a trusted gateway names.
    Subscription(&'a str),
    /// An identified owner.
    Owner(&'a str),
    /// An IPv4 address, or the /64 network of an IPv6 address.
    Address(IpAddr),
    /// Nothing is known. All such requests count as one caller.
    Unknown,
}

impl<'a> RateKey<'a> {
    /// The key of a request.
    pub fn of(request: &'a HttpRequest<'_>, owner: &'a str, limits: &'a Limits) -> Self {
        if let Some(subscription) = subscription(request, limits) {
            return Self::Subscription(subscription);
        }
        if owner != ANONYMOUS {
            return Self::Owner(owner);
        }
        forwarded_for(request.header("x-forwarded-for"), limits.trusted_proxies).map_or(Self::Unknown, Self::Address)
    }

    /// A hash of the key: 16 bytes, however long a name is.
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

/// The subscription that a trusted gateway names in the header set by `subscription_header`. Two values, in two headers or joined by
/// a comma, mean that the client wrote one of them; then neither counts.
pub fn subscription<'a>(request: &'a HttpRequest<'_>, limits: &'a Limits) -> Option<&'a str> {
    let mut values = request.header(limits.subscription_header.as_ref()?.as_str());
    let value = values.next().filter(|_| values.next().is_none())?.trim();
    let fits = !value.is_empty() && value.len() <= MAX_SUBSCRIPTION && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    fits.then_some(value)
}

/// The client address that the outermost of our proxies saw. Each proxy appends the address that called it, so everything further
/// left was sent by that caller and may be invented.
fn forwarded_for<'a>(values: impl Iterator<Item = &'a str>, trusted_proxies: usize) -> Option<IpAddr> {
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    // Fewer hops than proxies: the request bypassed the outer proxies, and the first hop was still written by one of ours.
    let hop = hops.len() - trusted_proxies.min(hops.len());
    hops.get(hop).and_then(|hop| address(hop)).map(network)
}

/// Parses `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The address, or the /64 network of an IPv6 address: one customer has at least a /64 and can use every address in it.
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
    fn only_addresses_appended_by_trusted_proxies_count() {
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
