//! `ServiceBusConnection` and the settings that belong to it: the queue that this program sends to, and the identity that sends.
//!
//! The names follow the Functions bindings, which read the same settings: `ServiceBusConnection__fullyQualifiedNamespace` (with
//! `__credential` and `__clientId`) for an identity, or the plain setting `ServiceBusConnection` for a connection string.

use azure_core::credentials::Secret;
use azure_core::http::Url;

use crate::config::identity::Identity;
use crate::config::{Settings, connection};

/// The URL that answers the REST protocol instead of the namespace; `waybill local` sets it for its handler.
pub const REST_ENDPOINT: &str = "SERVICE_BUS_REST_ENDPOINT";

/// The name of the connection.
const CONNECTION: &str = "ServiceBusConnection";
/// The parts that may follow `ServiceBusConnection__`.
const PARTS: [&str; 3] = ["fullyQualifiedNamespace", "credential", "clientId"];

/// A queue of a Service Bus namespace, and how to reach it over HTTPS.
#[derive(Debug, Clone)]
pub struct ServiceBus {
    /// The namespace, e.g. `https://shop.servicebus.windows.net/`.
    pub endpoint: Url,
    /// The credential.
    pub access: Access,
    /// The queue (`OrdersQueue`).
    pub queue: String,
}

/// A credential for a namespace.
#[derive(Debug, Clone)]
pub enum Access {
    /// A shared access key, from a connection string.
    Key {
        /// The policy that the key belongs to.
        name: String,
        /// The key, as the connection string writes it.
        key: Secret,
    },
    /// A shared access signature, as the connection string has it. It expires.
    Signature(Secret),
    /// An identity that has a role in the namespace.
    Identity(Identity),
}

/// Reads the connection, or lists the mistakes. `None`: there is no REST endpoint, or there was a mistake.
pub(super) fn read(settings: &mut Settings<'_>, in_azure: Option<&'static str>) -> Option<ServiceBus> {
    connection::refuse_other_parts(settings, CONNECTION, &PARTS);
    // Of its value nothing is shown but the name of the queue.
    let only_queue = settings.binding_text(CONNECTION).and_then(|text| connection::part(text, "EntityPath"));
    if let (Some(only), Some(queue)) = (only_queue, settings.text("OrdersQueue"))
        && !only.eq_ignore_ascii_case(queue)
    {
        settings.problems.push(format!(
            "ServiceBusConnection is for the queue {only:?} alone (EntityPath), and OrdersQueue is {queue:?}: take a connection string of \
             that queue or of the whole namespace"
        ));
    }
    let found = namespace(settings, in_azure).unwrap_or_else(|problem| settings.problem(problem, None));
    let (endpoint, access) = found?;
    // Only names that Service Bus allows: the name becomes a part of URLs as it is.
    let is_name = |queue: &&str| queue.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/'));
    let Some(queue) = settings.text("OrdersQueue").filter(is_name) else {
        return settings.problem("OrdersQueue is not set to the name of a queue: name the one that the orders go through".into(), None);
    };
    Some(ServiceBus { endpoint, access, queue: queue.to_owned() })
}

fn namespace(settings: &Settings<'_>, in_azure: Option<&'static str>) -> Result<Option<(Url, Access)>, String> {
    let section = |part: &str| connection::section(settings, CONNECTION, part);
    let rest_endpoint = rest_endpoint(settings, in_azure)?;
    match (section("fullyQualifiedNamespace"), settings.binding_text("ServiceBusConnection")) {
        (Some(_), Some(_)) => {
            Err("ServiceBusConnection and ServiceBusConnection__fullyQualifiedNamespace are both set: keep the identity, \
                                   drop the connection string"
                .into())
        }
        (Some(host), None) => {
            let identity = connection::identity(settings, CONNECTION)?;
            let endpoint = https(host).ok_or(
                "ServiceBusConnection__fullyQualifiedNamespace is no host name: set it to NAMESPACE.servicebus.windows.net, without sb://",
            )?;
            // The stand-in for Service Bus knows keys only, and a token is only for Service Bus itself.
            Ok(rest_endpoint.is_none().then_some((endpoint, Access::Identity(identity))))
        }
        (None, Some(_)) if connection::mentioned_parts(settings, CONNECTION).next().is_some() => {
            Err("ServiceBusConnection is a connection string, and ServiceBusConnection__… asks for an identity: keep one of them".into())
        }
        (None, Some(text)) => {
            let ConnectionString { host, access, emulator } = ConnectionString::parse(text)?;
            let endpoint = match (rest_endpoint, emulator) {
                (Some(rest_endpoint), _) => rest_endpoint,
                // Microsoft's emulator speaks AMQP only (azure-service-bus-emulator-installer, issue 29).
                (None, true) => return Ok(None),
                (None, false) => https(host).ok_or(NO_CONNECTION_STRING)?,
            };
            Ok(Some((endpoint, access)))
        }
        (None, None) if section("credential").or_else(|| section("clientId")).is_some() => {
            Err("ServiceBusConnection__fullyQualifiedNamespace is not set: set it to NAMESPACE.servicebus.windows.net".into())
        }
        (None, None) => Ok(None),
    }
}

/// An address of this machine: messages for it do not leave the machine.
fn rest_endpoint(settings: &Settings<'_>, in_azure: Option<&'static str>) -> Result<Option<Url>, String> {
    let Some(text) = settings.text(REST_ENDPOINT) else { return Ok(None) };
    if let Some(sign) = in_azure {
        return Err(format!("{REST_ENDPOINT} is for `waybill local`, and {sign} says that this is Azure: unset it"));
    }
    let url = Url::parse(text).ok().filter(|url| {
        let plain = url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.password().is_none();
        url.scheme() == "http" && plain && connection::is_loopback(url)
    });
    url.map(Some).ok_or_else(|| format!("{REST_ENDPOINT} must be an address of this machine, e.g. http://127.0.0.1:5300"))
}

/// Reads a connection string. The problem does not repeat the text, which may be a secret.
fn https(host: &str) -> Option<Url> {
    let is_host = host.contains('.') && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    is_host.then(|| Url::parse(&format!("https://{host}/")).ok()).flatten()
}

/// The advice on the form of a connection string.
const NO_CONNECTION_STRING: &str = "ServiceBusConnection is no connection string: set \
     Endpoint=sb://NAMESPACE.servicebus.windows.net/;SharedAccessKeyName=NAME;SharedAccessKey=KEY, or, better, \
     ServiceBusConnection__fullyQualifiedNamespace alone and an identity";

/// A connection string of Service Bus, taken apart.
pub struct ConnectionString<'t> {
    /// The host name of the namespace, without the port, which is for AMQP.
    pub host: &'t str,
    /// The credential: a key or a signature.
    pub access: Access,
    /// Whether it leads to Microsoft's emulator, or to another stand-in for Service Bus on this machine.
    pub emulator: bool,
}

impl<'t> ConnectionString<'t> {
    /// Parses `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…`, or `…;SharedAccessSignature=…`, in any order. As for the
    /// bindings, the endpoint needs no scheme. The error does not repeat the text.
    pub fn parse(text: &'t str) -> Result<Self, &'static str> {
        let part = |name| connection::part(text, name);
        let endpoint = part("Endpoint").ok_or(NO_CONNECTION_STRING)?;
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let access = match (part("SharedAccessKeyName"), part("SharedAccessKey"), part("SharedAccessSignature")) {
            (Some(name), Some(key), None) => Access::Key { name: name.to_owned(), key: Secret::new(key.to_owned()) },
            (None, None, Some(signature)) if signature.starts_with("SharedAccessSignature ") => {
                Access::Signature(Secret::new(signature.to_owned()))
            }
            _ => return Err(NO_CONNECTION_STRING),
        };
        let named = part("UseDevelopmentEmulator").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Ok(Self { host, access, emulator: named || host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    const STRING: (&str, &str) =
        ("ServiceBusConnection", "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=send;SharedAccessKey=c2VjcmV0=");
    const EMULATOR: (&str, &str) =
        ("ServiceBusConnection", "SharedAccessKey=k;SharedAccessKeyName=n;Endpoint=sb://localhost:5672;UseDevelopmentEmulator=true;");
    const NAMESPACE: (&str, &str) = ("ServiceBusConnection__fullyQualifiedNamespace", "shop.servicebus.windows.net");
    const REST: (&str, &str) = (REST_ENDPOINT, "http://127.0.0.1:5300");

    fn read(pairs: &[(&str, &str)]) -> Result<Option<ServiceBus>, Vec<String>> {
        let base = [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("OrdersQueue", "orders")];
        let environment: BTreeMap<_, _> = base.iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| config.storage.service_bus)
    }

    fn refused(pairs: &[(&str, &str)], why: &str) {
        let problems = read(pairs).expect_err(why);
        assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
        assert!(!problems.iter().any(|problem| problem.contains("c2VjcmV0")), "a secret is never printed");
    }

    #[test]
    fn a_connection_string_leads_to_its_namespace_over_https() {
        let ServiceBus { endpoint, access, queue } = read(&[STRING]).unwrap().unwrap();

        assert_eq!((endpoint.as_str(), queue.as_str()), ("https://shop.servicebus.windows.net/", "orders"));
        assert!(matches!(access, Access::Key { name, key } if name == "send" && key.secret() == "c2VjcmV0="));
    }

    #[test]
    fn a_namespace_alone_takes_an_identity() {
        let identity = |pairs: &[(&str, &str)]| match read(&[&[NAMESPACE], pairs].concat()).unwrap().unwrap().access {
            Access::Identity(identity) => identity,
            Access::Key { .. } | Access::Signature(_) => panic!("no identity"),
        };

        assert_eq!(identity(&[("ServiceBusConnection__credential", "managedidentity")]), Identity::Managed { client_id: None });
        assert_eq!(identity(&[("servicebusconnection__clientid", "i")]), Identity::Managed { client_id: Some("i".into()) });
        assert_eq!(identity(&[]), Identity::DeveloperTools);
    }

    #[test]
    fn there_is_no_client_without_a_rest_endpoint() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[REST]).unwrap().is_none());
        assert!(read(&[EMULATOR]).unwrap().is_none());
        assert!(read(&[("ServiceBusConnection", "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k")]).unwrap().is_none());
        assert!(read(&[NAMESPACE, REST]).unwrap().is_none(), "a token is sent to the namespace alone");
    }

    #[test]
    fn a_rest_endpoint_on_this_machine_takes_the_place_of_any_namespace() {
        for connection in [EMULATOR, STRING] {
            assert_eq!(read(&[connection, REST]).unwrap().unwrap().endpoint.as_str(), "http://127.0.0.1:5300/");
        }
    }

    #[test]
    fn mistakes_are_named_and_no_secret_with_them() {
        refused(&[STRING, NAMESPACE], "are both set");
        for text in [
            "SharedAccessKey=c2VjcmV0",
            "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessSignature=c2VjcmV0",
            "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessSignature=SharedAccessSignature sig=c2VjcmV0;SharedAccessKey=c2VjcmV0",
            "Endpoint=shop;SharedAccessKeyName=send;SharedAccessKey=c2VjcmV0",
        ] {
            refused(&[("ServiceBusConnection", text)], "no connection string");
        }
        refused(&[("ServiceBusConnection__fullyQualifiedNamespace", STRING.1)], "is no host name");
        refused(&[("ServiceBusConnection__credential", "managedidentity")], "fullyQualifiedNamespace is not set");
        refused(&[NAMESPACE, ("ServiceBusConnection__credential", "magic")], "set managedidentity");
        refused(&[STRING, ("OrdersQueue", "")], "OrdersQueue is not set");
        refused(&[STRING, ("OrdersQueue", "orders?x")], "OrdersQueue is not set");
        for elsewhere in
            ["http://10.0.0.1:80", "https://127.0.0.1", "http://u:p@127.0.0.1", "http://localhost.example.com", "http://127.0.0.1/x"]
        {
            refused(&[EMULATOR, (REST_ENDPOINT, elsewhere)], "must be an address of this machine");
        }
    }

    #[test]
    fn nothing_stands_in_for_service_bus_inside_azure() {
        refused(&[EMULATOR, REST, ("WEBSITE_INSTANCE_ID", "i")], "is for `waybill local`");
    }
}
