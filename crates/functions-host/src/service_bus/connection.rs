//! Connection string of a namespace.

/// Host of a namespace, and what lets a client in.
pub(crate) struct ConnectionString<'t> {
    /// Host of the namespace, without the port, which is for AMQP.
    pub(crate) host: &'t str,
    /// What lets a client in.
    pub(crate) access: Access<'t>,
    /// The only queue that the string is for (`EntityPath`).
    pub(crate) entity_path: Option<&'t str>,
}

/// What lets a client in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Access<'t> {
    /// Name and key of a shared access policy.
    Key(&'t str, &'t str),
    /// A shared access signature, made with such a key somewhere else.
    Signature(&'t str),
}

impl<'t> ConnectionString<'t> {
    /// Parses `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…`, or `…;SharedAccessSignature=…`, in any order; a value may
    /// contain `=`, and the endpoint needs no scheme.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        let part = |wanted: &str| {
            let mut parts = text.split(';').filter_map(|part| part.split_once('='));
            let found = parts.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
        };
        let endpoint = part("Endpoint")?;
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let access = match part("SharedAccessSignature") {
            Some(signature) => Access::Signature(signature),
            None => Access::Key(part("SharedAccessKeyName")?, part("SharedAccessKey")?),
        };
        Some(Self { host, access, entity_path: part("EntityPath") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_connection_string_come_in_any_order() {
        let text = "SharedAccessKey=c2VjcmV0PT0=; endpoint = sb://localhost:5672/;SharedAccessKeyName=send;UseDevelopmentEmulator=true;";

        let ConnectionString { host, access, entity_path } = ConnectionString::parse(text).unwrap();

        assert_eq!((host, access, entity_path), ("localhost", Access::Key("send", "c2VjcmV0PT0="), None));
        assert!(ConnectionString::parse("Endpoint=sb://localhost;SharedAccessKeyName=send;SharedAccessKey=").is_none());
    }
}
