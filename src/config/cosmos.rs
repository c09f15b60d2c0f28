//! `CosmosConnection` and the settings that belong to it: the records in Azure, and the identity that reads them.
//!
//! The names follow the Functions bindings: a section `CosmosConnection__accountEndpoint` (with `__credential` and `__clientId`)
//! for an identity, or the plain setting `CosmosConnection` for a connection string.

use std::time::Duration;

use azure_core::credentials::Secret;
use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::identity::Identity;
use crate::config::{Settings, connection};

/// The key of every Cosmos DB emulator of Microsoft: documented, and no secret.
const WELL_KNOWN_KEY: &str = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw==";

/// A container of a Cosmos DB account, and how to reach it.
#[derive(Debug, Clone)]
pub struct Cosmos {
    /// The account, e.g. `https://shop.documents.azure.com/`.
    pub endpoint: Url,
    /// The credential.
    pub access: Access,
    /// The database (`CosmosDatabase`).
    pub database: String,
    /// The container (`CosmosContainer`).
    pub container: String,
    /// The time from a question to its answer, repetitions included.
    pub timeout: Duration,
    /// Whether this is an emulator, whose certificate no authority signed.
    pub emulator: bool,
}

/// A credential for an account.
#[derive(Debug, Clone)]
pub enum Access {
    /// The account's key, from a connection string.
    Key(Secret),
    /// An identity that has a role in the account.
    Identity(Identity),
}

/// The name of the connection.
const CONNECTION: &str = "CosmosConnection";
/// The parts that may follow `CosmosConnection__`.
const PARTS: [&str; 3] = ["accountEndpoint", "credential", "clientId"];

/// Whether any setting asks for records in Cosmos DB. Names of database and container alone do not.
pub(super) fn is_mentioned(settings: &Settings<'_>) -> bool {
    settings.binding_text(CONNECTION).is_some() || connection::mentioned_parts(settings, CONNECTION).next().is_some()
}

/// Refuses a connection under a misspelt name, which would silently leave the records on this machine.
fn misspelt(settings: &mut Settings<'_>) {
    connection::refuse_other_parts(settings, CONNECTION, &PARTS);
    let others = settings.environment.iter().filter(|(name, value)| {
        let foreign = !name.to_ascii_lowercase().starts_with("cosmosconnection") && name.to_ascii_lowercase().starts_with("cosmos");
        let connects = value.trim_start().get(..16).is_some_and(|start| start.eq_ignore_ascii_case("AccountEndpoint="));
        foreign && (connects || name.to_ascii_lowercase().ends_with("__accountendpoint"))
    });
    let told = |name: &String| format!("{name} looks like a connection to Cosmos DB, but the setting is named CosmosConnection");
    let problems: Vec<_> = others.map(|(name, _)| told(name)).collect();
    settings.problems.extend(problems);
}

/// Reads the connection, or lists the mistakes. `None`: the records are elsewhere, or there was a mistake.
pub(super) fn read(settings: &mut Settings<'_>, in_azure: Option<&'static str>, timeout: Duration) -> Option<Cosmos> {
    misspelt(settings);
    if !is_mentioned(settings) {
        return None;
    }
    let account = account(settings);
    let names = ["CosmosDatabase", "CosmosContainer"].map(|name| {
        let text = settings.text(name).unwrap_or_default();
        if text.is_empty() {
            settings.problems.push(format!("{name} is not set: name the one that holds the orders"));
        } else if text.contains(['/', '\\', '?', '#']) {
            settings.problems.push(format!("{name} is {text:?}: names in Cosmos DB have no / \\ ? #"));
        }
        text.to_owned()
    });
    let (endpoint, access) = account?;
    let [database, container] = names;
    let emulator = is_emulator(&endpoint, settings.text("AZURE_COSMOS_EMULATOR_HOST"));
    if endpoint.scheme() != "https" && !emulator {
        settings
            .problems
            .push(format!("the Cosmos DB endpoint {endpoint} must begin with https://; http:// is for an emulator on this machine"));
    }
    if let (true, Some(sign)) = (emulator, in_azure) {
        settings.problems.push(format!(
            "the Cosmos DB endpoint {endpoint} is an emulator, and {sign} says that this is Azure: set the endpoint of an account"
        ));
    }
    if let Access::Key(key) = &access
        && key.secret() == WELL_KNOWN_KEY
        && !emulator
    {
        settings.problems.push(
            "CosmosConnection has the emulator's well-known key and names no emulator: use the account's own, or better an identity \
             (CosmosConnection__accountEndpoint)"
                .into(),
        );
    }
    Some(Cosmos { endpoint, access, database, container, timeout, emulator })
}

fn account(settings: &mut Settings<'_>) -> Option<(Url, Access)> {
    let endpoint = connection::section(settings, CONNECTION, "accountEndpoint");
    let connection_string = settings.binding_text(CONNECTION);
    let parsed = match (endpoint, connection_string) {
        (Some(_), Some(_)) => Err("CosmosConnection and CosmosConnection__accountEndpoint are both set: keep the identity, drop the \
                                   connection string"
            .to_owned()),
        (None, Some(_)) if connection::mentioned_parts(settings, CONNECTION).next().is_some() => {
            Err("CosmosConnection is a connection string, and CosmosConnection__… asks for an identity: keep one of them".to_owned())
        }
        (None, Some(text)) => account_key(text),
        (Some(endpoint), None) => url(endpoint).and_then(|endpoint| {
            let identity = connection::identity(settings, CONNECTION)?;
            Ok((endpoint, Access::Identity(identity)))
        }),
        (None, None) => Err("CosmosConnection__accountEndpoint is not set: set it to https://ACCOUNT.documents.azure.com/".to_owned()),
    };
    parsed.map_err(|problem| settings.problems.push(problem)).ok()
}

/// `AccountEndpoint=https://…;AccountKey=…;`, in any order. Never says what the text was.
fn account_key(text: &str) -> Result<(Url, Access), String> {
    let (Some(endpoint), Some(key)) = (connection::part(text, "AccountEndpoint"), connection::part(text, "AccountKey")) else {
        return Err(
            "CosmosConnection is no connection string: set AccountEndpoint=https://ACCOUNT.documents.azure.com/;AccountKey=KEY; or, \
                    better, CosmosConnection__accountEndpoint alone and an identity"
                .into(),
        );
    };
    if STANDARD.decode(key).is_err() {
        return Err("the AccountKey of CosmosConnection is not base64: copy it whole".into());
    }
    Ok((url(endpoint)?, Access::Key(Secret::from(key.to_owned()))))
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() && url.password().is_none())
        .filter(|url| url.path() == "/" && url.query().is_none())
        // The text is not repeated: it may be a whole connection string.
        .ok_or_else(|| "the Cosmos DB endpoint is no URL of an account: set https://ACCOUNT.documents.azure.com/".into())
}

/// Whether this is an emulator: on this machine, or named as one.
fn is_emulator(endpoint: &Url, named: Option<&str>) -> bool {
    connection::is_loopback(endpoint) || named.is_some_and(|named| endpoint.host_str().is_some_and(|host| named.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, Records};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn read(pairs: &[(&str, &str)]) -> Result<Cosmos, Vec<String>> {
        let base = [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("CosmosDatabase", "d"), ("CosmosContainer", "c"), ("TRACKING_ID_KEY", KEY)];
        let environment: BTreeMap<_, _> = base.iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| match config.storage.records {
            Records::Cosmos(cosmos, _) => cosmos,
            Records::Embedded(..) => panic!("not in Cosmos DB"),
        })
    }

    fn refused(pairs: &[(&str, &str)], why: &str) {
        let problems = read(pairs).expect_err(why);
        assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
    }

    #[test]
    fn an_identity_is_chosen_by_what_is_set() {
        let endpoint = ("CosmosConnection__accountEndpoint", "https://shop.documents.azure.com/");
        let chosen = |pairs: &[(&str, &str)]| match read(&[&[endpoint], pairs].concat()).unwrap().access {
            Access::Identity(identity) => identity,
            Access::Key(_) => panic!("a key"),
        };
        let managed = |client_id: Option<&str>| Identity::Managed { client_id: client_id.map(str::to_owned) };

        assert_eq!(chosen(&[("CosmosConnection__credential", "managedidentity")]), managed(None));
        assert_eq!(chosen(&[("cosmosconnection__CREDENTIAL", "ManagedIdentity"), ("CosmosConnection__clientId", "i")]), managed(Some("i")));
        assert_eq!(chosen(&[("IDENTITY_ENDPOINT", "http://localhost/")]), managed(None));
        assert_eq!(chosen(&[("AZURE_FEDERATED_TOKEN_FILE", "/token")]), Identity::Workload { client_id: None });
        assert_eq!(chosen(&[]), Identity::DeveloperTools);
    }

    #[test]
    fn mistakes_are_named_and_no_secret_with_them() {
        let key = format!("AccountEndpoint=https://shop.documents.azure.com/;AccountKey={WELL_KNOWN_KEY};");
        let both = [("CosmosConnection__accountEndpoint", "https://shop.documents.azure.com/"), ("CosmosConnection", key.as_str())];
        refused(&both, "are both set");
        refused(&[("CosmosConnection", &key)], "well-known key");
        refused(&[("CosmosConnection", "AccountEndpoint=https://a.example/;AccountKey=not base64")], "not base64");
        refused(&[("CosmosConnection", "AccountKey=c2VjcmV0")], "no connection string");
        refused(&[("CosmosConnection__accountEndpoint", "http://shop.documents.azure.com/")], "must begin with https");
        refused(&[("CosmosConnection__accountEndpoint", "shop")], "no URL");
        refused(&[("CosmosConnection__credential", "managedidentity")], "CosmosConnection__accountEndpoint is not set");
        refused(&[both[0], ("CosmosConnection__credential", "magic")], "set managedidentity");
        refused(&[both[0], ("CosmosDatabase", "")], "CosmosDatabase is not set");
        refused(&[both[0], ("CosmosDatabase", "a/b")], "names in Cosmos DB have no /");
        refused(
            &[("CosmosConnection__accountEndpont", "https://shop.documents.azure.com/")],
            "CosmosConnection__accountEndpont is no setting",
        );
        refused(
            &[("CosmosConection", "AccountEndpoint=https://shop.documents.azure.com/;AccountKey=c2VjcmV0")],
            "CosmosConection looks like",
        );
        refused(
            &[
                ("CosmosConnection", "AccountEndpoint=https://a.example/;AccountKey=c2VjcmV0"),
                ("CosmosConnection__credential", "managedidentity"),
            ],
            "keep one of them",
        );
        refused(&[both[0], ("TRACKING_ID_KEY", "")], "TRACKING_ID_KEY is not set");
        refused(&[both[0], ("TRACKING_ID_KEY", "short")], "TRACKING_ID_KEY is too short");
        let example = ("TRACKING_ID_KEY", "for-development-only-0123456789abcdef");
        refused(&[both[0], example, ("WEBSITE_INSTANCE_ID", "i")], "the key of the examples");
        refused(
            &[("CosmosConnection", "AccountEndpoint=http://127.0.0.1:8081/;AccountKey=c2VjcmV0"), ("WEBSITE_INSTANCE_ID", "i")],
            "is an emulator",
        );
    }

    #[test]
    fn an_emulator_is_on_this_machine_or_named() {
        let emulator = |endpoint: &str, named: &str| {
            let text = format!("AccountEndpoint={endpoint};AccountKey=c2VjcmV0");
            read(&[("CosmosConnection", &text), ("AZURE_COSMOS_EMULATOR_HOST", named)]).unwrap().emulator
        };

        assert!(emulator("http://localhost:8081/", ""));
        assert!(emulator("https://[::1]:8081/", ""));
        assert!(emulator("https://cosmos:8081/", "cosmos"));
        assert!(!emulator("https://localhost.example.com/", ""));
    }
}
