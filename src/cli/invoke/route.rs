//! The route of a function with an HTTP trigger, and a request's values in it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// Path and methods of a function with an HTTP trigger.
#[derive(Debug)]
pub(super) struct Route {
    /// Path with parameters such as `{trackingId}`.
    path: String,
    /// Methods in capitals; none are all.
    methods: Vec<String>,
}

impl Route {
    /// A route.
    pub(super) fn new(path: &str, methods: Vec<String>) -> Self {
        Self { path: path.to_owned(), methods: methods.into_iter().map(|method| method.to_ascii_uppercase()).collect() }
    }

    /// The method for a request with or without a body.
    pub(super) fn method(&self, has_body: bool) -> String {
        let wanted: &[&str] = if has_body { &["POST", "PUT", "PATCH"] } else { &["GET", "POST"] };
        let taken = |wanted: &&&str| self.methods.is_empty() || self.methods.iter().any(|method| method == *wanted);
        let found = wanted.iter().find(taken).map(|method| (*method).to_owned());
        found.or_else(|| self.methods.first().cloned()).unwrap_or_else(|| "GET".into())
    }

    /// Whether the path has this parameter.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parameters().any(|(_, parameter)| parameter_name(parameter).eq_ignore_ascii_case(name))
    }

    /// Text before each parameter, and what stands between its braces.
    fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.path.as_str();
        std::iter::from_fn(move || {
            let (before, after) = rest.split_once('{')?;
            let (parameter, left) = after.split_once('}')?;
            rest = left;
            Some((before, parameter))
        })
    }

    /// The path with values. `Err`: a value is missing, or would lead to another path.
    pub(super) fn filled<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
        let mut path = String::new();
        for (before, parameter) in self.parameters() {
            path += before;
            let name = parameter_name(parameter);
            match value(name) {
                // However it is escaped, such a part is no part of a URL's path (WHATWG URL, "dot path segments").
                Some(value) if value.split('/').any(|part| matches!(part, "." | "..")) => {
                    return Err(format!("{name} cannot be {value:?}: it would lead to another path"));
                }
                // A catch-all takes slashes.
                Some(value) if parameter.starts_with('*') => path += &value.split('/').map(encoded).collect::<Vec<_>>().join("/"),
                Some(value) => path += &encoded(value),
                None if parameter.ends_with('?') || parameter.contains('=') || parameter.starts_with('*') => {}
                None => return Err(format!("the route {} needs a value: --set {name}=VALUE", self.path)),
            }
        }
        path += self.path.rsplit('}').next().unwrap_or_default();
        Ok(if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path })
    }
}

/// The name of a parameter, without its constraints, its default and its marks.
fn parameter_name(parameter: &str) -> &str {
    let name = parameter.trim_start_matches('*');
    name.split([':', '=', '?']).next().unwrap_or(name)
}

/// A part of a path or of a query.
pub(super) fn encoded(text: &str) -> String {
    const ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(text, &ESCAPED).to_string()
}
