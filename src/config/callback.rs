//! `CALLBACK_URL` and the settings that belong to it: the receivers that are told of an order's end.

use std::fmt::{self, Debug, Formatter};
use std::net::IpAddr;

use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::public_address::is_public;
use crate::config::{Settings, connection};
use crate::domain::callback::MAX_URL;

/// Longest `CALLBACK_SECRET`s in use at the same time: the old one and the new one.
const MAX_SECRETS: usize = 2;

/// The receivers of callbacks.
#[derive(Debug)]
pub struct Callbacks {
    /// The URL that every end is told to (`CALLBACK_URL`), unless its order names one.
    pub url: Option<Url>,
    /// The hosts that an order may name (`CALLBACK_ALLOWED_HOSTS`).
    allowed_hosts: Vec<Host>,
    /// The secrets that callbacks are signed with (`CALLBACK_SECRET`): two during a rotation.
    pub secrets: Vec<Secret>,
    /// Whether a receiver on this machine is allowed: outside Azure only.
    loopback: bool,
}

/// A host that an order may name.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Exactly(String),
    /// Every name that ends with this one, which begins with a dot.
    Below(String),
}

/// A secret of Standard Webhooks. Nothing shows it.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_` and the base64 of 24 to 64 bytes.
    fn read(text: &str) -> Option<Self> {
        let key = STANDARD.decode(text.strip_prefix("whsec_")?).ok()?;
        (24..=64).contains(&key.len()).then_some(Self(key))
    }

    /// The key of the signature.
    pub fn key(&self) -> &[u8] {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Callbacks {
    /// The URL that an order names, or what is wrong with it. The host list is part of the check, so that a host that is taken off the list
    /// gets no more callbacks.
    pub fn own_url(&self, text: &str) -> Result<Url, &'static str> {
        if self.allowed_hosts.is_empty() {
            return Err("no order may name a URL of its own here");
        }
        let url = target(text, self.loopback)?;
        let host = url.host_str().unwrap_or_default();
        let is_allowed = self.allowed_hosts.iter().any(|allowed| match allowed {
            Host::Exactly(name) => name == host,
            Host::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        });
        if is_allowed { Ok(url) } else { Err("its host is not one that callbacks may go to") }
    }
}

/// Whether the URL leads to this machine by its very text.
pub fn is_loopback(url: &Url) -> bool {
    connection::is_loopback(url)
}

/// A URL that a callback may go to as far as its text tells, or what is wrong with it. Its name is resolved, and the addresses are judged,
/// at every try.
fn target(text: &str, loopback: bool) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("it is longer than 2,048 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err("it is no URL of visible ASCII characters without backslashes");
    }
    let url = Url::parse(text).map_err(|_| "it is no URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it names a user");
    }
    if url.fragment().is_some() {
        return Err("it has a fragment");
    }
    if url.as_str().len() > MAX_URL {
        return Err("it is longer than 2,048 bytes");
    }
    if loopback && matches!(url.scheme(), "http" | "https") && is_loopback(&url) {
        return Ok(url);
    }
    if url.scheme() != "https" {
        return Err("it is not https");
    }
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host.is_empty() || is_loopback(&url) || address.is_ok_and(|address| !is_public(address)) {
        return Err("its host is not on the internet");
    }
    Ok(url)
}

/// Reads the receivers, or lists the mistakes. `None`: no end is told, or there was a mistake. No problem repeats a text, which may hold a
/// secret.
pub(super) fn read(settings: &mut Settings<'_>, in_azure: bool) -> Option<Callbacks> {
    let loopback = !in_azure;
    let url = url(settings, loopback);
    let allowed_hosts = allowed_hosts(settings, loopback);
    let secrets = secrets(settings);
    let is_set = |name: &&str| settings.text(name).is_some();
    let target = ["CALLBACK_URL", "CALLBACK_ALLOWED_HOSTS"].into_iter().find(is_set);
    match (target, settings.text("CALLBACK_SECRET").is_some()) {
        (Some(name), false) => {
            let make = "the output of `echo whsec_$(openssl rand -base64 32)`";
            settings.problem(format!("CALLBACK_SECRET is not set, but {name} is: every callback is signed; set {make}"), None)
        }
        (None, true) => {
            let problem = "CALLBACK_SECRET is set, but neither CALLBACK_URL nor CALLBACK_ALLOWED_HOSTS is: set one of them, or no secret";
            settings.problem(problem.into(), None)
        }
        (None, false) => None,
        (Some(_), true) => Some(Callbacks { url, allowed_hosts, secrets: secrets?, loopback }),
    }
}

fn url(settings: &mut Settings<'_>, loopback: bool) -> Option<Url> {
    match target(settings.text("CALLBACK_URL")?, loopback) {
        Ok(url) => Some(url),
        Err(why) => settings.problem(
            format!(
                "CALLBACK_URL cannot be called: {why}; set e.g. https://shop.example.com/hooks/orders (plain http only on this machine)"
            ),
            None,
        ),
    }
}

fn allowed_hosts(settings: &mut Settings<'_>, loopback: bool) -> Vec<Host> {
    let mut hosts = Vec::new();
    let names = settings.text("CALLBACK_ALLOWED_HOSTS").unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    for name in names {
        let (below, name) = name.strip_prefix("*.").map_or((false, name), |name| (true, name));
        // As a URL has it: in lower case, with international names in ASCII.
        let host = Url::parse(&format!("https://{name}/")).ok().and_then(|url| url.host_str().map(str::to_owned));
        let is_name = |host: &String| {
            host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
        };
        match host.filter(|host| is_name(host) && (host.eq_ignore_ascii_case(name) || !name.is_ascii())) {
            Some(host) if target(&format!("https://{host}/"), loopback).is_err() => settings.problems.push(format!(
                "CALLBACK_ALLOWED_HOSTS has {name:?}, which is not on the internet: no callback would go there; take it off the list"
            )),
            Some(host) if below && !host.contains('.') => settings.problems.push(format!(
                "CALLBACK_ALLOWED_HOSTS has \"*.{name}\", which is every host of a top-level domain: name the domains of the receivers, \
                 such as *.example.{name}"
            )),
            Some(host) if below => hosts.push(Host::Below(format!(".{host}"))),
            Some(host) => hosts.push(Host::Exactly(host)),
            None => settings.problems.push(format!(
                "CALLBACK_ALLOWED_HOSTS has {name:?}, which is no host name: separate names such as hooks.example.com or *.example.com by commas"
            )),
        }
    }
    hosts
}

fn secrets(settings: &mut Settings<'_>) -> Option<Vec<Secret>> {
    let texts: Vec<_> = settings.text("CALLBACK_SECRET")?.split(',').map(str::trim).collect();
    let secrets: Option<Vec<_>> = texts.iter().map(|text| Secret::read(text)).collect();
    secrets.filter(|secrets| secrets.len() <= MAX_SECRETS).or_else(|| {
        let problem = "CALLBACK_SECRET is not whsec_ and the base64 of 24 to 64 bytes, or two of those with a comma between them during a \
                       rotation: set the output of `echo whsec_$(openssl rand -base64 32)`";
        settings.problem(problem.into(), None)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    const SECRET: (&str, &str) = ("CALLBACK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    const URL: (&str, &str) = ("CALLBACK_URL", "https://shop.example.com/hooks");
    const HOSTS: (&str, &str) = ("CALLBACK_ALLOWED_HOSTS", "hooks.example.com, *.partner.example, Bücher.example, localhost, 1.1.1.1");

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Callbacks>, Vec<String>> {
        let environment: BTreeMap<_, _> =
            [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")].iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| config.callbacks)
    }

    #[test]
    fn mistakes_are_named_and_no_secret_with_them() {
        let two = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
        for (pairs, why) in [
            (&[URL] as &[_], "CALLBACK_SECRET is not set, but CALLBACK_URL is"),
            (&[HOSTS], "CALLBACK_SECRET is not set, but CALLBACK_ALLOWED_HOSTS is"),
            (&[SECRET], "neither CALLBACK_URL nor CALLBACK_ALLOWED_HOSTS"),
            (&[URL, ("CALLBACK_SECRET", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0")], "CALLBACK_SECRET is not whsec_"),
            (&[URL, ("CALLBACK_SECRET", "whsec_c2VjcmV0")], "CALLBACK_SECRET is not whsec_"),
            (&[URL, ("CALLBACK_SECRET", &format!("{two},{two}"))], "CALLBACK_SECRET is not whsec_"),
            (&[SECRET, ("CALLBACK_URL", "http://shop.example.com/")], "CALLBACK_URL cannot be called: it is not https"),
            (&[SECRET, ("CALLBACK_URL", "https://u:c2VjcmV0@shop.example.com/")], "it names a user"),
            (&[SECRET, ("CALLBACK_URL", "https://169.254.169.254/")], "its host is not on the internet"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "https://a.example")], "is no host name"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "a.example:443")], "is no host name"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "*")], "is no host name"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "a.example, 169.254.169.254")], "\"169.254.169.254\", which is not on the internet"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "[fd00::1]")], "which is not on the internet"),
            (&[SECRET, ("CALLBACK_ALLOWED_HOSTS", "*.com")], "\"*.com\", which is every host of a top-level domain"),
        ] {
            let problems = read(pairs).expect_err(why);
            assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("c2VjcmV0")), "{problems:?}");
        }
        let callbacks = read(&[URL, ("CALLBACK_SECRET", two)]).unwrap().unwrap();
        assert_eq!(callbacks.secrets.len(), 2);
        assert!(!format!("{callbacks:?}").contains("77"), "a secret is not shown: {callbacks:?}");
        assert!(read(&[]).unwrap().is_none());
    }

    #[test]
    fn a_hostile_url_of_an_order_is_refused() {
        let callbacks = read(&[SECRET, HOSTS]).unwrap().unwrap();
        for (text, expected) in [
            ("https://hooks.example.com/a?b=c", "https://hooks.example.com/a?b=c"),
            ("https://HOOKS.example.com:8443", "https://hooks.example.com:8443/"),
            ("https://a.partner.example/", "https://a.partner.example/"),
            ("https://a.b.partner.example/", "https://a.b.partner.example/"),
            ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
            ("https://1.1.1.1/", "https://1.1.1.1/"),
            ("http://localhost:9000/", "http://localhost:9000/"),
        ] {
            assert_eq!(callbacks.own_url(text).map(|url| url.to_string()), Ok(expected.into()), "{text}");
        }
        let long = format!("https://hooks.example.com/{}", "a".repeat(MAX_URL));
        for text in [
            "",
            "hooks.example.com",
            "//hooks.example.com/",
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:,x",
            "https://",
            "https:///x",
            "https://user@hooks.example.com/",
            "https://hooks.example.com@evil.example/",
            "https://evil.example/?hooks.example.com",
            "https://evil.example#@hooks.example.com",
            "https://hooks.example.com#x",
            "https://hooks.example.com.evil.example/",
            "https://evilhooks.example.com/",
            "https://partner.example/",
            "https://.partner.example/",
            "https://evilpartner.example/",
            "https://hooks.example.com./",
            "https://hooks.example.com\\@evil.example/",
            "https://evil.example\\.hooks.example.com/",
            "https://hooks.example.com%2eevil.example/",
            "https://hooks.example.com\t.evil.example/",
            "https://hooks.example.com\r\nX: y/",
            "https://127.0.0.1.nip.io/",
            "https://2130706433.example/",
            "https://1.1.1.2/",
            "https://[::ffff:1.1.1.1]/",
            long.as_str(),
        ] {
            assert!(callbacks.own_url(text).is_err(), "{text}");
        }
        // Addresses in every spelling, although their hosts are on the list; and in Azure this machine too.
        let mut azure = read(&[SECRET, HOSTS]).unwrap().unwrap();
        azure.loopback = false;
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "localhost",
            "LOCALHOST",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "168.63.129.16",
            "10.0.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "0",
            "[64:ff9b::a9fe:a9fe]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[2002:7f00:1::]",
            "255.255.255.255",
            "１２７.0.0.1",
        ] {
            azure.allowed_hosts = vec![Host::Exactly(Url::parse(&format!("https://{host}/")).unwrap().host_str().unwrap().to_owned())];
            assert!(azure.own_url(&format!("https://{host}/")).is_err(), "{host}");
        }
        let callbacks = read(&[URL, SECRET]).unwrap().unwrap();
        assert!(callbacks.own_url("https://shop.example.com/hooks").is_err(), "there is no list");
    }
}
