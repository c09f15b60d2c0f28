//! App settings: `local.settings.json` below the process environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::{
    Notes,
    json::{self, Node},
};
use crate::service_bus::connection::ConnectionString;

/// Settings of the local host: the section `Host` of `local.settings.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalHost {
    /// `Host.LocalHttpPort`: the TCP port to listen on. `None`, the default, leaves it to the command line or 7071.
    pub(crate) http_port: Option<u16>,
    /// `Host.CORS`: the allowed origins, comma separated in the file. Empty, the default, allows none.
    pub(crate) cors: Vec<String>,
    /// `Host.CORSCredentials`: whether a browser may send cookies. Default false.
    pub(crate) cors_credentials: bool,
    /// `Host.AllowedHosts`: names that a request's `Host` may have besides those of this machine, comma separated in the file.
    pub(crate) allowed_hosts: Vec<String>,
}

/// `local.settings.json` as read: its `Host` section, and its values without those that the environment has already.
#[derive(Debug, Default)]
pub(super) struct LocalSettings {
    pub(super) values: BTreeMap<String, String>,
    pub(super) local_host: LocalHost,
}

const FILE: &str = "local.settings.json";
const EXAMPLE: &str = "local.settings.json.example";

impl LocalSettings {
    /// Reads the file, or its `.example` beside it so that a fresh checkout runs.
    pub(super) fn load(root: &Path, environment: &BTreeMap<String, String>, notes: &mut Notes) -> LocalSettings {
        let file = [FILE, EXAMPLE].into_iter().find(|file| root.join(file).exists());
        let Some(file) = file else {
            notes.notices.push(format!("{FILE} not found: the app has no settings but the environment"));
            return LocalSettings::default();
        };
        if file == EXAMPLE {
            notes.notices.push(format!("{FILE} not found: using {EXAMPLE}"));
        }
        let document = host_json::text_of(&root.join(file));
        let document = match document.and_then(|text| host_json::parse(&text)) {
            Ok(document) => document,
            Err(reason) => {
                notes.problems.push(format!("{file}: {reason}"));
                return LocalSettings::default();
            }
        };
        let mut read = Notes::default();
        let settings = LocalSettings::read(&document, environment, &mut read);
        notes.notices.extend(read.notices);
        notes.problems.extend(read.problems.into_iter().map(|problem| format!("{file}: {problem}")));
        settings
    }

    fn read(document: &Value, environment: &BTreeMap<String, String>, notes: &mut Notes) -> LocalSettings {
        let root = Node::root(document);
        match notes.keep(root.child("IsEncrypted").boolean()) {
            Some(false) => {}
            Some(true) => {
                notes.problems.push("IsEncrypted is true: run `func settings decrypt`, or write the values in the clear".to_owned());
            }
            // `AppSettingsFile.cs` of the core tools starts from true.
            None => notes.problems.push("IsEncrypted is missing, which means true: add \"IsEncrypted\": false".to_owned()),
        }
        if root.child("ConnectionStrings").value.is_some() {
            notes.notices.push(format!("ConnectionStrings in {FILE} is ignored: put connections in Values"));
        }

        if let Some(other) = root.child("Values").value.filter(|values| !values.is_object()) {
            notes.notices.push(format!("Values in {FILE} is ignored: {other} is not an object"));
        }
        let mut values = BTreeMap::new();
        for (name, value) in root.child("Values").value.and_then(Value::as_object).into_iter().flatten() {
            if environment.contains_key(name) {
                notes
                    .notices
                    .push(format!("Skipping '{name}' from local settings as it's already defined in current environment variables."));
            } else if let Some(text) = json::text(value) {
                values.insert(name.clone(), text);
            } else if !value.is_null() {
                notes.problems.push(format!("Values.{name} is not text: write each nested value as \"{name}__key\""));
            }
        }
        let mut seen: BTreeMap<String, &String> = BTreeMap::new();
        for name in values.keys().chain(environment.keys()) {
            let other = seen.insert(key(name), name).filter(|other| *other != name && values.contains_key(*other));
            notes.notices.extend(
                other.map(|other| format!("Values.{other} in {FILE} and {name} are one setting for the host: only one of them counts")),
            );
        }
        LocalSettings { values, local_host: LocalHost::read(&root.child("Host"), notes) }
    }
}

impl LocalHost {
    fn read(host: &Node<'_>, notes: &mut Notes) -> LocalHost {
        let port = host.child("LocalHttpPort");
        let http_port = notes.keep(port.integer()).and_then(|number| {
            let http_port = u16::try_from(number).ok();
            if http_port.is_none() {
                notes.problems.push(format!("{}: {number} is not a port from 0 to 65535", port.path));
            }
            http_port
        });
        let cors = host.child("CORS").text().unwrap_or_default();
        LocalHost {
            http_port,
            cors: listed(&cors),
            allowed_hosts: listed(&host.child("AllowedHosts").text().unwrap_or_default()),
            cors_credentials: notes.keep(host.child("CORSCredentials").boolean()).unwrap_or(false),
        }
    }
}

/// Every setting the app can see: the environment over `local.settings.json`.
///
/// Names have no case and `__` is the same as `:`, as in .NET configuration.
#[derive(Debug)]
pub(super) struct Configuration(BTreeMap<String, (String, String)>);

impl Configuration {
    pub(super) fn new(settings: &BTreeMap<String, String>, environment: &BTreeMap<String, String>) -> Configuration {
        let all = settings.iter().chain(environment);
        Configuration(all.map(|(name, value)| (key(name), (name.clone(), value.clone()))).collect())
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(&key(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a trigger's or output's `connection` can be found, as a value or as a section (`NAME__…`).
    pub(super) fn has_connection(&self, name: &str) -> bool {
        let section = format!("{}:", key(name));
        [name.to_owned(), format!("AzureWebJobs{name}"), format!("ConnectionStrings:{name}")].iter().any(|name| self.value(name).is_some())
            || self.0.keys().any(|name| name.starts_with(&section))
    }

    /// The settings below a section: the path of each as written, without the section, and its value.
    pub(super) fn section(&self, section: &str) -> impl Iterator<Item = (Vec<String>, &str)> {
        let prefix = format!("{}:", key(section));
        self.0.iter().filter(move |(key, _)| key.starts_with(&prefix)).map(|(_, (name, value))| {
            let path = name.replace("__", ":").split(':').skip(1).map(str::to_owned).collect();
            (path, value.as_str())
        })
    }

    /// The setting that a binding means. In .NET's configuration a variable `A__B` has the name `A:B`, and no setting has `__` in it.
    fn named_in_binding(&self, name: &str) -> Option<&str> {
        if name.contains("__") { None } else { self.value(name) }
    }

    /// Replaces each `%NAME%` by the setting of that name (`NameResolverExtensions.cs` of the `WebJobs` SDK).
    pub(super) fn resolve(&self, text: &str) -> Result<String, String> {
        let mut output = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            let Some((name, after)) = after.split_once('%') else {
                return Err(format!("the '%' in \"{text}\" does not have a closing '%'"));
            };
            let value = self.named_in_binding(name).ok_or_else(|| {
                let advice = match name.replace("__", ":") {
                    read if read != name => format!("the host reads a setting {name} as {read}, so write %{read}%"),
                    _ => format!("set {name} in Values of {FILE} or in the environment"),
                };
                format!("'%{name}%' does not resolve to a value: {advice}")
            })?;
            output.push_str(before);
            output.push_str(value);
            rest = after;
        }
        Ok(output + rest)
    }
}

fn key(name: &str) -> String {
    name.replace("__", ":").to_lowercase()
}

/// The notices for bindings, by queue and connection: no setting explains the connection, or it is for another queue.
pub(super) fn doubtful_connections(configuration: &Configuration, bindings: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let names: BTreeSet<&str> = bindings.iter().map(|(_, connection)| *connection).collect();
    let missing = names.into_iter().filter(|name| !configuration.has_connection(name));
    let mut notices: Vec<_> = missing
        .map(|name| format!("no setting named '{name}' (a connection): not needed locally, but the app needs it in Azure"))
        .collect();
    for (queue, connection) in bindings {
        let text = [(*connection).to_owned(), format!("AzureWebJobs{connection}")].iter().find_map(|name| configuration.value(name));
        let only = text.and_then(ConnectionString::parse).and_then(|parsed| parsed.entity_path);
        let queue = queue.split("/$").next().unwrap_or(queue);
        if let Some(only) = only.filter(|only| !only.eq_ignore_ascii_case(queue)) {
            notices.push(format!(
                "{connection} is for the queue {only:?} alone (EntityPath), and a binding uses it for {queue:?}: not refused locally, but by \
                 the host in Azure"
            ));
        }
    }
    notices
}

/// Replaces each `%NAME%` that `lookup` knows and leaves the others, as `Environment.ExpandEnvironmentVariables` does.
pub(super) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        output.push_str(before);
        let Some((name, following)) = after.split_once('%') else {
            return output + "%" + after;
        };
        if let Some(value) = lookup(name) {
            output.push_str(&value);
            rest = following;
        } else {
            // The second `%` may open the next name.
            output.push('%');
            output.push_str(name);
            rest = &after[name.len()..];
        }
    }
    output + rest
}

fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_wins_over_the_settings() {
        let configuration = Configuration::new(&map(&[("Queue", "file")]), &map(&[("QUEUE", "environment")]));

        assert_eq!(configuration.value("queue"), Some("environment"));
    }

    #[test]
    fn a_connection_may_be_a_section() {
        let configuration = Configuration::new(&map(&[("Bus__fullyQualifiedNamespace", "x")]), &map(&[]));

        assert!(configuration.has_connection("bus"));
        assert!(!configuration.has_connection("bu"));
    }

    #[test]
    fn an_unknown_name_is_left_and_its_last_percent_may_open_the_next() {
        let lookup = |name: &str| (name == "B").then(|| "b".to_owned());

        assert_eq!(expand("a%X%B%c%", lookup), "a%Xbc%");
        assert_eq!(expand("100% sure", lookup), "100% sure");
    }
}
