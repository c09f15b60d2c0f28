//! Common rules of all connections: sections `NAME__…`, identities, connection strings.

use std::net::IpAddr;

use azure_core::http::Url;

use crate::config::Settings;
use crate::config::identity::Identity;

/// The identity for this connection, by what the platform offers, in the same order as the bindings try identities.
pub(super) fn identity(settings: &Settings<'_>, connection: &str) -> Result<Identity, String> {
    let client_id = settings.binding_text(&format!("{connection}__clientId")).map(str::to_owned);
    match settings.binding_text(&format!("{connection}__credential")) {
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
