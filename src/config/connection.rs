//! Common rules of all connections: sections `NAME__…`, identities, connection strings.

use std::net::IpAddr;

use azure_core::http::Url;

use crate::config::Settings;
use crate::config::identity::Identity;

/// A part of a connection's section, `NAME__part` or `NAME:part`.
pub(super) fn section<'a>(settings: &Settings<'a>, connection: &str, part: &str) -> Option<&'a str> {
    settings.host_setting(&format!("{connection}__{part}"))
}

/// The names of a connection's section that are set, known or not.
pub(super) fn mentioned_parts<'a>(settings: &Settings<'a>, connection: &'static str) -> impl Iterator<Item = &'a str> {
    let names = settings.environment.iter().filter(|(_, value)| !value.trim().is_empty()).map(|(name, _)| name.as_str());
    names.filter(move |name| part_of(name, connection).is_some())
}

/// Refuses parts of a connection's section that nothing reads: a misspelt one would silently have no effect.
pub(super) fn refuse_other_parts(settings: &mut Settings<'_>, connection: &'static str, known: &[&str]) {
    let is_known = |name: &&str| part_of(name, connection).is_some_and(|part| known.iter().any(|known| known.eq_ignore_ascii_case(part)));
    let all = known.iter().map(|part| format!("__{part}")).collect::<Vec<_>>().join(", ");
    let others = mentioned_parts(settings, connection).filter(|name| !is_known(name));
    let problems: Vec<_> = others.map(|name| format!("{name} is no setting: {connection} has {all}")).collect();
    settings.problems.extend(problems);
}

/// What follows `CONNECTION__` or `CONNECTION:` in a name.
fn part_of<'a>(name: &'a str, connection: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(connection.len())?;
    start.eq_ignore_ascii_case(connection).then(|| rest.strip_prefix("__").or_else(|| rest.strip_prefix(':'))).flatten()
}

/// The identity for this connection, by what the platform offers, in the same order as the bindings try identities.
pub(super) fn identity(settings: &Settings<'_>, connection: &str) -> Result<Identity, String> {
    let client_id = section(settings, connection, "clientId").map(str::to_owned);
    match section(settings, connection, "credential") {
        Some(credential) if credential.eq_ignore_ascii_case("managedidentity") => Ok(Identity::Managed { client_id }),
        Some(credential) => Err(format!("{connection}__credential is {credential:?}: set managedidentity, or leave it out")),
        None if settings.platform("AZURE_FEDERATED_TOKEN_FILE").is_some() => Ok(Identity::Workload { client_id }),
        None if settings.platform("IDENTITY_ENDPOINT").is_some() || client_id.is_some() => Ok(Identity::Managed { client_id }),
        None => Ok(Identity::DeveloperTools),
    }
}

/// A part of a connection string `Name=value;Name=value`, in any order. The value may contain `=`.
pub(super) fn part<'t>(text: &'t str, wanted: &str) -> Option<&'t str> {
    let mut parts = text.split(';').filter_map(|part| part.split_once('='));
    parts.find_map(|(name, value)| name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())).filter(|value| !value.is_empty())
}

/// Whether the URL leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
