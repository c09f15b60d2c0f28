//! Connects to the container, and checks that it is as the definition says.
//!
//! Creates nothing: whatever is missing or different is logged, and the check is repeated until it succeeds.

use std::time::Duration;

use azure_data_cosmos::models::{ContainerProperties, IndexingPolicy, PartitionKeyDefinition, ResourceResponse, TimeToLive};
use azure_data_cosmos::options::{ConnectionPoolOptions, Region, ServerCertificateValidation};
use azure_data_cosmos::{AccountReference, ContainerClient, CosmosClient, CosmosError, CosmosRuntime, RoutingStrategy};
use serde::Deserialize;
use tracing::{error, info, warn};

use crate::config::cosmos::{Access, Cosmos};
use crate::domain::tracking::TrackingKey;
use crate::outbound::backoff::{Backoff, jittered};
use crate::store::Difference;
use crate::store::cosmos::CosmosStore;
use crate::store::cosmos::account::{Account, AccountError, Clock, Key, Level, Properties};

/// The definition of the container; deployments create it from the same file.
const DEFINITION: &str = include_str!("../../../deploy/cosmos-container.json");
/// The definition's path in the repository, for log lines.
const DEFINITION_FILE: &str = "deploy/cosmos-container.json";
/// Pauses between two attempts to connect.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(15) };
/// Added to the store timeout when the container is first read: at its start the SDK queries the platform about this machine for up to
/// 5 s.
const START: Duration = Duration::from_secs(6);
/// Longest time to open a connection; then the SDK opens another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of the definition that are compared.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    partition_key: PartitionKeyDefinition,
    default_ttl: TimeToLive,
    indexing_policy: IndexingPolicy,
}

/// Why the connection attempt failed.
enum ConnectError {
    /// The cause may pass without help.
    Away(String),
    /// The cause needs a person's action.
    Wrong(String),
}

/// Connects, and tries again until it succeeds.
pub(super) async fn connect(config: &Cosmos, tracking_key: &TrackingKey, failed: impl Fn(String)) -> CosmosStore {
    let mut failures = 0;
    // Made once and kept across attempts: they hold connections and tokens.
    let (mut key, mut runtime) = (None, None);
    loop {
        let reason = match once(config, tracking_key, &mut key, &mut runtime).await {
            Ok(store) => return store,
            Err(ConnectError::Away(reason)) => {
                warn!("orders cannot be kept in Cosmos DB yet: {reason}; trying again");
                reason
            }
            Err(ConnectError::Wrong(reason)) => {
                error!("orders cannot be kept in Cosmos DB: {reason}; trying again");
                reason
            }
        };
        failed(reason);
        tokio::time::sleep(jittered(PAUSE.pause(failures), 0.5, 1.0)).await;
        failures += 1;
    }
}

async fn once(
    config: &Cosmos,
    tracking_key: &TrackingKey,
    key: &mut Option<Key>,
    runtime: &mut Option<CosmosRuntime>,
) -> Result<CosmosStore, ConnectError> {
    let key = match (&*key, &config.access) {
        (Some(key), _) => key.clone(),
        (None, Access::Key(secret)) => key.insert(Key::Account(secret.clone())).clone(),
        (None, Access::Identity(identity)) => {
            let credential = crate::outbound::identity::credential(identity)
                .map_err(|error| explain(config, &AccountError::NoToken(error.to_string(), true)))?;
            key.insert(Key::Token(credential)).clone()
        }
    };
    let account = Account::new(config.endpoint.clone(), key.clone(), config.timeout, config.emulator);
    let account = account.map_err(|error| ConnectError::Wrong(error.to_string()))?;
    let clock = Clock::new();
    let properties = account.look(&clock).await.map_err(|error| explain(config, &error))?;
    if properties.enable_multiple_write_locations {
        // Two regions would each grant a claim, and one of the two recorded ends would be lost.
        let advice = "the account takes writes in several regions, each of which compares ETags with its own versions only, so that two \
                      workers could claim one order; turn its multi-region writes off, or use another account";
        return Err(ConnectError::Wrong(advice.into()));
    }

    let found = tokio::time::timeout(config.timeout + START, async {
        let container = container(config, &properties, key, runtime).await?;
        let found = container.read(None).await.and_then(ResourceResponse::into_model)?;
        Ok::<_, CosmosError>((container, found))
    });
    let (container, found) = match found.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if error.status().is_not_found() => return Err(missing_container(config, &account).await),
        Ok(Err(error)) => return Err(failed(config, &error)),
        Err(_) => return Err(ConnectError::Away(format!("{} (the container was not read in time)", config.endpoint))),
    };
    for difference in compare(config, &found) {
        match difference {
            Difference::Wrong(what) => return Err(ConnectError::Wrong(what)),
            Difference::Costly(what) => warn!("{what}"),
        }
    }
    log_connected(config, properties.level());
    Ok(CosmosStore::new(container, account, clock, properties, tracking_key.clone(), config.clone()))
}

async fn container(
    config: &Cosmos,
    properties: &Properties,
    key: Key,
    runtime: &mut Option<CosmosRuntime>,
) -> Result<ContainerClient, CosmosError> {
    let runtime = match runtime {
        Some(runtime) => runtime.clone(),
        None => runtime.insert(start(config.emulator).await?).clone(),
    };
    let endpoint = config.endpoint.clone().into();
    let account = match key {
        Key::Account(key) => AccountReference::with_authentication_key(endpoint, key),
        Key::Token(credential) => AccountReference::with_credential(endpoint, credential),
    };
    // The write region, even if another one is nearer: replicas in other regions lag even where the account's consistency level
    // promises that reads do not, and a write based on an old version is refused.
    let region = properties.write_region().map(|name| Region::new(name.to_owned()));
    let client =
        CosmosClient::builder().with_runtime(runtime).build(account, RoutingStrategy::PreferredRegions(region.into_iter().collect()));
    let client = client.await?;
    client.database_client(config.database.clone()).container_client(config.container.clone(), None).await
}

async fn start(emulator: bool) -> Result<CosmosRuntime, CosmosError> {
    let validation = if emulator { ServerCertificateValidation::RequiredUnlessEmulator } else { ServerCertificateValidation::Required };
    let pool = ConnectionPoolOptions::builder()
        .with_max_connect_timeout(CONNECT_TIMEOUT)
        .with_server_certificate_validation(validation)
        .build()?;
    CosmosRuntime::builder().with_connection_pool(pool).build().await
}

/// Reads the container again, and compares it with the definition.
pub(super) async fn differences(config: &Cosmos, container: &ContainerClient) -> Result<Vec<Difference>, String> {
    let read = async { container.read(None).await.and_then(ResourceResponse::into_model) };
    match tokio::time::timeout(config.timeout, read).await {
        Ok(Ok(found)) => Ok(compare(config, &found)),
        Ok(Err(error)) => Err(error.status().to_string()),
        Err(_) => Err("it was not read in time".into()),
    }
}

/// Compares the container with the definition. A different partition key or `ttl` is wrong; a different index only costs more.
fn compare(config: &Cosmos, found: &ContainerProperties) -> Vec<Difference> {
    let wanted: Definition = serde_json::from_str(DEFINITION).expect("the definition is part of this program and tested");
    let name = format!("container {:?} of database {:?}", config.container, config.database);
    let paths = |key: &PartitionKeyDefinition| key.paths().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut differences = Vec::new();
    if found.partition_key.paths() != wanted.partition_key.paths() {
        let (found, wanted) = (paths(&found.partition_key), paths(&wanted.partition_key));
        differences.push(Difference::Wrong(format!(
            "the partition key of {name} is {found}; create the container again with {wanted}, as in {DEFINITION_FILE}"
        )));
    }
    if found.default_ttl != wanted.default_ttl {
        differences.push(Difference::Wrong(format!(
            "the time to live of {name} must be on without a default (defaultTtl -1): otherwise ended orders are never deleted, or open \
             orders are; see {DEFINITION_FILE}"
        )));
    }
    let indexed = |policy: &IndexingPolicy| {
        let paths = [&policy.included_paths, &policy.excluded_paths].map(|paths| {
            // Cosmos DB adds this exclusion to every policy.
            let mut paths: Vec<_> = paths.iter().map(|path| path.path.clone()).filter(|path| path != "/\"_etag\"/?").collect();
            paths.sort();
            paths
        });
        (policy.indexing_mode.clone(), paths)
    };
    if found.indexing_policy.as_ref().map(indexed) != Some(indexed(&wanted.indexing_policy)) {
        differences.push(Difference::Costly(format!(
            "the indexing policy of {name} differs from {DEFINITION_FILE}: writes, or queries for overdue orders, cost more than necessary"
        )));
    }
    differences
}

fn log_connected(config: &Cosmos, level: Level) {
    let visible = if level.may_lag() {
        "an order is visible to every instance within 2 s, and at once by the status URL of its 202"
    } else {
        "an order is visible to every instance at once"
    };
    let access = match &config.access {
        Access::Key(_) => "the account's key".to_owned(),
        Access::Identity(identity) => identity.to_string(),
    };
    info!(
        cosmos.endpoint = %config.endpoint,
        cosmos.database = config.database,
        cosmos.container = config.container,
        cosmos.consistency = ?level,
        "records are in Cosmos DB, by {access}; consistency {level:?}: {visible}"
    );
}

/// Logs why an account that was connected cannot be read.
pub(super) fn log_account_error(config: &Cosmos, error: &AccountError) {
    match explain(config, error) {
        ConnectError::Away(reason) => warn!("Cosmos DB does not answer: {reason}"),
        ConnectError::Wrong(reason) => error!("orders cannot be kept in Cosmos DB any more: {reason}"),
    }
}

/// An account's error, with advice for an operator.
fn explain(config: &Cosmos, error: &AccountError) -> ConnectError {
    match (error, &config.access) {
        (AccountError::NoToken(_, true), Access::Identity(identity)) => {
            ConnectError::Wrong(format!("no token for {identity} ({error}); {}", identity.advice()))
        }
        (AccountError::NoToken(_, false), Access::Identity(identity)) => {
            ConnectError::Away(format!("no token for {identity} yet ({error}); if this persists: {}", identity.advice()))
        }
        (AccountError::Refused(401), Access::Key(_)) => {
            ConnectError::Wrong("the account refuses the key in CosmosConnection (401); copy its primary or secondary key again".into())
        }
        (AccountError::Refused(status @ (401 | 403)), Access::Identity(identity)) => ConnectError::Wrong(format!(
            "the account does not let {identity} in ({status}); assign it the role \"Cosmos DB Built-in Data Contributor\" there"
        )),
        (AccountError::Refused(403), Access::Key(_)) => ConnectError::Wrong(
            "the account refuses this handler (403): its firewall may exclude this machine, its keys may be disabled, or this machine's \
             clock may be wrong by more than 15 minutes"
                .into(),
        ),
        _ => ConnectError::Away(format!("{} ({error})", config.endpoint)),
    }
}

fn failed(config: &Cosmos, error: &CosmosError) -> ConnectError {
    match u16::from(error.status().status_code()) {
        status @ (401 | 403) => explain(config, &AccountError::Refused(status)),
        _ => ConnectError::Away(format!("{} ({})", config.endpoint, error.status())),
    }
}

async fn missing_container(config: &Cosmos, account: &Account) -> ConnectError {
    let Cosmos { database, container, .. } = config;
    ConnectError::Wrong(match account.has_database(database).await {
        Some(true) => {
            format!("database {database:?} has no container {container:?}; create it as {DEFINITION_FILE} says, or correct CosmosContainer")
        }
        Some(false) => format!(
            "the account has no database {database:?}; create it and container {container:?} as {DEFINITION_FILE} says, or correct CosmosDatabase"
        ),
        None => format!("there is no container {container:?} in database {database:?}; create it as {DEFINITION_FILE} says"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_can_be_read() {
        let definition: Definition = serde_json::from_str(DEFINITION).unwrap();

        assert_eq!(definition.partition_key.paths(), ["/id"]);
        assert_eq!(definition.default_ttl, TimeToLive::NoDefault);
    }
}
