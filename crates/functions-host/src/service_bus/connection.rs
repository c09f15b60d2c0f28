//! Connection string of a namespace: the parts for a shared access key.

/// A shared access policy, and the host of its namespace.
pub(super) struct ConnectionString<'t> {
    /// Host of the namespace, without the port, which is for AMQP.
    pub(super) host: &'t str,
    /// Name of the shared access policy.
    pub(super) name: &'t str,
    /// Key of the policy.
    pub(super) key: &'t str,
}

impl<'t> ConnectionString<'t> {
    /// Parses `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…`, in any order; a value may contain `=`.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let part = |wanted: &str| {
            let mut parts = text.split(';').filter_map(|part| part.split_once('='));
            let found = parts.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
        };
        let (_, host) = part("Endpoint")?.split_once("://")?;
        let host = host.split(['/', ':']).next().unwrap_or_default();
        Some(Self { host, name: part("SharedAccessKeyName")?, key: part("SharedAccessKey")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_connection_string_come_in_any_order() {
        let text = "SharedAccessKey=c2VjcmV0PT0=; endpoint = sb://localhost:5672/;SharedAccessKeyName=send;UseDevelopmentEmulator=true;";

        let ConnectionString { host, name, key } = ConnectionString::parse(text).unwrap();

        assert_eq!((host, name, key), ("localhost", "send", "c2VjcmV0PT0="));
        assert!(ConnectionString::parse("Endpoint=sb://localhost;SharedAccessKeyName=send;SharedAccessKey=").is_none());
    }
}
