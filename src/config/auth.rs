//! `AUTH_ISSUER` and the settings that belong to it: the issuer whose tokens let callers in.

use azure_core::http::Url;

use crate::config::{Settings, connection};

/// Longest name of a caller, in bytes, as section 2 of `OpenID` Connect Core limits `sub`: the name is part of every record and message.
const MAX_NAME: usize = 255;
/// Function keys that every app has and many callers share: they identify no caller.
pub const SHARED_KEYS: [&str; 3] = ["default", "master", "_master"];

/// Whether a subject, a principal or a function key may have this name.
pub fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

/// An issuer, and what its tokens must contain.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The issuer, to the letter as its tokens name it (`AUTH_ISSUER`).
    pub issuer: String,
    /// The audience that a token must name (`AUTH_AUDIENCE`).
    pub audience: String,
    /// The scope that a token needs to submit orders (`AUTH_SUBMIT_SCOPE`). `None`: every valid token may.
    pub submit_scope: Option<String>,
    /// The scope that a token needs to read its bearer's orders (`AUTH_READ_SCOPE`). `None`: every valid token may.
    pub read_scope: Option<String>,
    /// The role that reads the orders of all callers (`AUTH_OPERATOR_ROLE`).
    pub operator_role: Option<String>,
}

/// Reads the issuer, or lists the mistakes. `None`: no token is accepted, or there was a mistake.
pub(super) fn read(settings: &mut Settings<'_>) -> Option<Auth> {
    let submit_scope = scope(settings, "AUTH_SUBMIT_SCOPE");
    let read_scope = scope(settings, "AUTH_READ_SCOPE");
    let operator_role = settings.text("AUTH_OPERATOR_ROLE").map(str::to_owned);
    let audience = settings.text("AUTH_AUDIENCE").map(str::to_owned);
    let issuer = issuer(settings);
    let is_set = |name: &&str| settings.text(name).is_some();
    let set: Vec<_> =
        ["AUTH_ISSUER", "AUTH_AUDIENCE", "AUTH_SUBMIT_SCOPE", "AUTH_READ_SCOPE", "AUTH_OPERATOR_ROLE"].into_iter().filter(is_set).collect();
    for needed in ["AUTH_ISSUER", "AUTH_AUDIENCE"] {
        if let (Some(other), None) = (set.first(), settings.text(needed)) {
            // Without this problem, a person who set only the other would believe that tokens or their audience are checked.
            settings.problems.push(format!("{needed} is not set, but {other} is: set AUTH_ISSUER and AUTH_AUDIENCE, or none of AUTH_"));
        }
    }
    Some(Auth { issuer: issuer?, audience: audience?, submit_scope, read_scope, operator_role })
}

/// Whether the platform logs callers in before a request arrives, and so vouches for its headers (it sets `WEBSITE_AUTH_ENABLED`).
pub(super) fn easy_auth(settings: &Settings<'_>) -> bool {
    settings.platform("WEBSITE_AUTH_ENABLED").is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// Whether no third party can read or change what is exchanged with this URL.
pub fn is_secure(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && connection::is_loopback(url))
}

fn issuer(settings: &mut Settings<'_>) -> Option<String> {
    let text = settings.text("AUTH_ISSUER")?;
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic())
        && Url::parse(text).is_ok_and(|url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
            is_secure(&url) && url.has_host() && plain
        });
    if !fits {
        // The text is not repeated: it may contain a password.
        let problem = "AUTH_ISSUER is not the URL of an issuer: set it to the letter as its tokens name it in iss, e.g. \
                       https://login.example.com/tenant, without user, query and fragment; plain http only on this machine";
        return settings.problem(problem.into(), None);
    }
    Some(text.to_owned())
}

/// A scope token (RFC 6749 section 3.3): a refusal names it inside quotes in a header.
fn scope(settings: &mut Settings<'_>, name: &str) -> Option<String> {
    let text = settings.text(name)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        return Some(text.to_owned());
    }
    settings.problem(format!("{name} is {text:?}: set one scope without spaces and quotes, e.g. orders.read"), None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::Config;

    const ISSUER: (&str, &str) = ("AUTH_ISSUER", "https://login.example.com/tenant/");
    const AUDIENCE: (&str, &str) = ("AUTH_AUDIENCE", "api://orders");

    fn read(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let environment: BTreeMap<_, _> =
            [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")].iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment)
    }

    #[test]
    fn issuer_and_audience_are_enough_and_kept_to_the_letter() {
        let auth = read(&[ISSUER, AUDIENCE]).unwrap().auth.unwrap();

        assert_eq!((auth.issuer.as_str(), auth.audience.as_str()), (ISSUER.1, AUDIENCE.1));
        assert_eq!((auth.submit_scope, auth.read_scope, auth.operator_role), (None, None, None));
        assert!(read(&[]).unwrap().auth.is_none());
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for issuer in ["http://localhost:8080", "http://127.0.0.1", "http://127.9.9.9/x", "http://[::1]:8080/", "https://a.example"] {
            assert!(read(&[("AUTH_ISSUER", issuer), AUDIENCE]).unwrap().auth.is_some(), "{issuer}");
        }
        for issuer in ["http://a.example", "http://localhost.a.example", "http://10.0.0.1", "http://[::2]/", "http://127.0.0.1.a.example"] {
            let problems = read(&[("AUTH_ISSUER", issuer), AUDIENCE]).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("AUTH_ISSUER is not the URL"), "{issuer}: {problems:?}");
        }
    }

    #[test]
    fn mistakes_are_named_all_at_once_and_no_secret_with_them() {
        for (pairs, expected) in [
            (&[ISSUER] as &[_], &["AUTH_AUDIENCE is not set, but AUTH_ISSUER"] as &[_]),
            (&[AUDIENCE], &["AUTH_ISSUER is not set, but AUTH_AUDIENCE"]),
            (
                &[("AUTH_READ_SCOPE", "r")],
                &["AUTH_ISSUER is not set, but AUTH_READ_SCOPE", "AUTH_AUDIENCE is not set, but AUTH_READ_SCOPE"],
            ),
            (&[("AUTH_OPERATOR_ROLE", "o"), ISSUER], &["AUTH_AUDIENCE is not set, but AUTH_ISSUER"]),
            (&[("AUTH_ISSUER", "login"), AUDIENCE], &["AUTH_ISSUER is not"]),
            (&[("AUTH_ISSUER", "https://u:c2VjcmV0@a.example"), AUDIENCE], &["AUTH_ISSUER is not"]),
            (&[("AUTH_ISSUER", "https://a.example/?x"), AUDIENCE], &["AUTH_ISSUER is not"]),
            (&[("AUTH_ISSUER", "https://a.example/#x"), AUDIENCE], &["AUTH_ISSUER is not"]),
            (&[("AUTH_ISSUER", "https://a.example/b c"), AUDIENCE], &["AUTH_ISSUER is not"]),
            (
                &[("AUTH_ISSUER", "ftp://a"), ("AUTH_SUBMIT_SCOPE", "a b"), ("AUTH_READ_SCOPE", "a\"")],
                &["AUTH_SUBMIT_SCOPE is", "AUTH_READ_SCOPE is", "AUTH_ISSUER is not", "AUTH_AUDIENCE is not set"],
            ),
        ] {
            let problems = read(pairs).unwrap_err();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.starts_with(expected), "{expected}: {problems:?}");
                assert!(!problem.contains("c2VjcmV0"), "{problem}");
            }
        }
    }

    #[test]
    fn only_the_platform_says_that_it_logs_callers_in() {
        for (value, expected) in [("True", true), ("true", true), ("1", true), ("False", false), ("0", false), ("", false), ("yes", false)]
        {
            assert_eq!(read(&[("WEBSITE_AUTH_ENABLED", value)]).unwrap().easy_auth, expected, "{value}");
        }
        assert!(!read(&[]).unwrap().easy_auth);
    }
}
