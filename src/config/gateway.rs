//! `ADOPT_GATEWAY_ORDERS`: whether orders count that a gateway sent to the queue itself, and whose they are.

use crate::config::Settings;
use crate::config::auth::{Auth, SHARED_KEYS, is_name};

/// Owner of an order that a gateway sent to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayOwner {
    /// The caller whose token the gateway checked, if it is a token of this issuer.
    Token(String),
    /// One owner for all, who is the caller of the status requests that the same gateway forwards.
    All(String),
}

/// Reads the owner. `None`: such messages are no orders, or there was a mistake.
pub(super) fn read(settings: &mut Settings<'_>, auth: Option<&Auth>) -> Option<GatewayOwner> {
    let text = settings.text("ADOPT_GATEWAY_ORDERS")?;
    let key = text.strip_prefix("key:").is_some_and(|name| is_name(name) && !SHARED_KEYS.contains(&name));
    let problem = match (text, auth) {
        ("token", Some(auth)) if auth.submit_scope.is_none() => return Some(GatewayOwner::Token(auth.issuer.clone())),
        ("token", Some(_)) => "AUTH_SUBMIT_SCOPE is set too, which no gateway checks for this handler: unset one of them".into(),
        ("token", None) => {
            "AUTH_ISSUER is not set: set anonymous, or key:NAME for the host key with which the gateway calls the app".into()
        }
        (_, Some(_)) => "AUTH_ISSUER is set: set token, so that an order belongs to the caller whose token the gateway checked".into(),
        ("anonymous", None) => return Some(GatewayOwner::All(text.into())),
        (_, None) if key => return Some(GatewayOwner::All(text.into())),
        (_, None) => format!("it is {text:?}: set token, anonymous, or key:NAME for the host key with which the gateway calls the app"),
    };
    settings.problem(format!("ADOPT_GATEWAY_ORDERS: {problem}"), None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::GatewayOwner;
    use crate::config::Config;

    #[test]
    fn the_owner_of_a_gateways_orders_is_the_one_that_asks_for_their_status() {
        let tokens = [("AUTH_ISSUER", "https://login.example.com/tenant"), ("AUTH_AUDIENCE", "api://orders")];
        let scope = [&tokens[..], &[("AUTH_SUBMIT_SCOPE", "submit")]].concat();
        let read = |value: &str, more: &[(&str, &str)]| {
            let pairs = [&[("FUNCTIONS_CUSTOMHANDLER_PORT", "7071"), ("ADOPT_GATEWAY_ORDERS", value)], more].concat();
            let environment: BTreeMap<_, _> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Config::read(&environment).map(|config| config.gateway_owner)
        };

        assert_eq!(read("", &[]), Ok(None));
        assert_eq!(read("token", &tokens), Ok(Some(GatewayOwner::Token("https://login.example.com/tenant".into()))));
        for owner in ["anonymous", "key:gateway"] {
            assert_eq!(read(owner, &[]), Ok(Some(GatewayOwner::All(owner.into()))));
        }
        for (value, more) in [
            ("true", &[][..]),
            ("key:", &[]),
            ("key:default", &[]),
            ("token", &[]),
            ("anonymous", &tokens),
            ("true", &tokens),
            ("token", &scope),
        ] {
            let problems = read(value, more).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("ADOPT_GATEWAY_ORDERS: "), "{problems:?}");
        }
    }
}
