//! The settings; the only reader of the environment.

pub mod auth;
pub mod callback;
pub mod catalogue;
mod connection;
pub mod cosmos;
pub mod fulfillment;
pub mod function_timeout;
pub mod identity;
pub mod limits;
pub mod gateway;
mod orders;
pub mod public_address;
pub mod service_bus;
pub mod spelling;
pub mod time_budget;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rust_decimal::Decimal;
use tracing::{debug, warn};
use tracing_subscriber::filter::Targets;

use crate::config::auth::Auth;
use crate::config::callback::Callbacks;
use crate::config::cosmos::Cosmos;
use crate::config::fulfillment::Http;
use crate::config::gateway::GatewayOwner;
use crate::config::limits::Limits;
use crate::config::service_bus::ServiceBus;
use crate::config::time_budget::{COSMOS_TIMEOUT, STAGES, TimeBudget, Writes};
use crate::domain::form::OrderForm;
use crate::domain::lifecycle::Budgets;
use crate::domain::tracking::TrackingKey;

/// The secret that the examples show. Everyone can read it, so it is refused inside Azure.
const EXAMPLE_TRACKING_KEY: &str = "for-development-only-0123456789abcdef";

/// Longest `ttl` of an item of Cosmos DB, in seconds.
const MAX_RETENTION: u64 = i32::MAX as u64;

/// The port that the handler must listen on, as the host tells it.
const PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";

/// The beginning of a reference to a secret in a Key Vault, in place of which the platform puts the secret.
const REFERENCE: &str = "@Microsoft.KeyVault(";

/// Advice on making a secret.
const OWN_KEY: &str = "set at least 32 characters of your own, e.g. the output of `openssl rand -hex 32`";

/// The settings of `waybill serve`.
#[derive(Debug)]
pub struct Config {
    /// The port on 127.0.0.1 (`FUNCTIONS_CUSTOMHANDLER_PORT`, set by the host).
    pub port: u16,
    /// The places of records and messages.
    pub storage: Storage,
    /// The tries, interruptions and times that an order may spend.
    pub budgets: Budgets,
    /// The time for which a message is kept that nothing could act on.
    pub quarantine_retention: Duration,
    /// The URL before `/orders` in links for clients (`PUBLIC_BASE_URL`), without a slash at its end.
    pub public_base_url: Option<String>,
    /// The issuer whose tokens let callers in (`AUTH_ISSUER`). `None`: callers are named by the platform's headers.
    pub auth: Option<Auth>,
    /// Whether the platform logs callers in (`WEBSITE_AUTH_ENABLED`). Only then are its headers trusted.
    pub easy_auth: bool,
    /// The limits on requests (`RATE_LIMIT`, `ADMISSION_MAX_AGE` and the settings that belong to them).
    pub limits: Limits,
    /// The receivers that are told of an order's end (`CALLBACK_URL` and the settings that belong to it). `None`: no end is told.
    pub callbacks: Option<Callbacks>,
    /// What an order must be (`ORDER_SCHEMA`, `ORDER_ID`, `ORDER_CUSTOMER`).
    pub order_form: OrderForm,
    /// The HTTP service that does the work (`FULFILLMENT_URL`). `None`: the built-in pricing does it.
    pub fulfillment: Option<Http>,
    /// The pause before each stage of the built-in work (`WORK_DELAY`).
    pub work_delay: Duration,
    /// The share of the subtotal that is added as tax (`TAX_RATE`).
    pub tax_rate: Decimal,
    /// The time of one invocation until the host ends it.
    pub time_budget: TimeBudget,
    /// The time that running invocations have to end when the handler is asked to stop (`DRAIN_TIMEOUT`).
    pub drain_timeout: Duration,
    /// The names besides `localhost` and the loopback addresses that a request's `Host` may have (`ALLOWED_HOSTS`).
    pub allowed_hosts: Vec<String>,
    /// Whether all callers without an identity are one caller, which may list its orders (`ANONYMOUS_LIST`).
    pub anonymous_list: bool,
    /// The owner of orders that a gateway sent to the queue itself (`ADOPT_GATEWAY_ORDERS`). `None`: such messages are no orders.
    pub gateway_owner: Option<GatewayOwner>,
    /// The connections at the same time (`MAX_CONNECTIONS`).
    pub max_connections: usize,
    /// The platform's name for this instance.
    pub instance: Option<String>,
    /// How the platform's commands name this app.
    pub platform: Platform,
    /// Likely mistakes in the environment, none of which prevents the start.
    warnings: Vec<String>,
}

/// How the platform's commands name this app.
#[derive(Debug, Default)]
pub struct Platform {
    /// The function app (`WEBSITE_SITE_NAME`).
    pub site: Option<String>,
    /// Its resource group (`WEBSITE_RESOURCE_GROUP`).
    pub group: Option<String>,
}

/// The places of records and messages: all that an operator's command needs besides the [`Budgets`] of an order.
#[derive(Debug)]
pub struct Storage {
    /// The place of the records.
    pub records: Records,
    /// The queue that this program sends to (`ServiceBusConnection`, `OrdersQueue`), if it can be reached over HTTP.
    pub service_bus: Option<ServiceBus>,
}

/// The place of the records, and the secret under which tracking ids are derived (`TRACKING_ID_KEY`).
#[derive(Debug)]
pub enum Records {
    /// A file below this directory (`WAYBILL_DATA`). Without a secret, a random one is made and kept beside the records.
    Embedded(PathBuf, Option<TrackingKey>),
    /// A container of Cosmos DB (`CosmosConnection`), where all instances share the secret.
    Cosmos(Cosmos, TrackingKey),
}

/// The form and levels of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The form (`LOG_FORMAT`); the default is JSON in Azure, short lines on a terminal, text elsewhere.
    pub form: LogForm,
    /// Levels by target, e.g. `info,waybill=debug` (`RUST_LOG`).
    pub levels: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// `json`: one object a line.
    Json,
    /// `text`: every field.
    Text,
    /// `short`: one line for a person for what becomes of an order.
    Short,
}

/// Levels with [`LogForm::Short`]: a transition of an order has a line for people beside the one with all fields.
const SHORT_LEVELS: &str = "warn,waybill::order=off";

/// The environment of this process. Without other programs' variables that are not UTF-8: no setting has such a name. `Err`: the
/// settings whose values are not.
pub fn environment() -> Result<BTreeMap<String, String>, Vec<String>> {
    let (mut environment, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(environment.insert(name, value)),
            (Ok(name), Err(_)) if spelling::is_read(&name) => problems.push(format!("{name} is not UTF-8: set it again")),
            _ => {}
        }
    }
    if problems.is_empty() { Ok(environment) } else { Err(problems) }
}

/// What is wrong with the value of `WAYBILL_DATA`.
pub fn data_mistake(path: &str) -> Option<String> {
    let is_url = path.trim_start().get(..5).is_some_and(|start| start.eq_ignore_ascii_case("file:"));
    is_url.then(|| format!("WAYBILL_DATA is {path:?}: set the path of a folder, not a URL"))
}

/// The variable that shows that this process runs inside Azure, if one does. `FUNCTIONS_CORETOOLS_ENVIRONMENT` means that `func
/// start` runs it on a developer's machine, whichever other variables are set.
///
/// `CONTAINER_NAME` is how Linux Consumption shows itself, but other container platforms set it too. It counts only beside a
/// variable that every function app there has: the required app setting `FUNCTIONS_EXTENSION_VERSION`, the site's name, or one of
/// the platform's other `CONTAINER_` variables.
pub fn azure(environment: &BTreeMap<String, String>) -> Option<&'static str> {
    const SIGNS: [&str; 4] = ["WEBSITE_INSTANCE_ID", "LEGION_SERVICE_HOST", "WEBSITE_POD_NAME", "CONTAINER_APP_NAME"];
    const BESIDE: [&str; 5] = [
        "FUNCTIONS_EXTENSION_VERSION",
        "WEBSITE_SITE_NAME",
        "WEBSITE_PLACEHOLDER_MODE",
        "CONTAINER_ENCRYPTION_KEY",
        "CONTAINER_START_CONTEXT",
    ];
    let set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    if set("FUNCTIONS_CORETOOLS_ENVIRONMENT") {
        return None;
    }
    let consumption = set("CONTAINER_NAME") && BESIDE.into_iter().any(set);
    SIGNS.into_iter().find(|name| set(name)).or(consumption.then_some("CONTAINER_NAME"))
}

/// Whether the value is a reference to a secret in a Key Vault rather than the secret.
pub fn is_key_vault_reference(value: &str) -> bool {
    value.trim_start().get(..REFERENCE.len()).is_some_and(|head| head.eq_ignore_ascii_case(REFERENCE))
}

impl LogConfig {
    /// Reads the form and levels of log lines. A mistake is reported by [`Config::read`], or by the stand-in once it logs.
    pub fn read(environment: &BTreeMap<String, String>) -> Self {
        // The other libraries log their own work at info; `RUST_LOG=info` shows that too.
        let levels = environment.get("RUST_LOG").filter(|levels| !levels.is_empty());
        let form = match environment.get("LOG_FORMAT").map(String::as_str) {
            Some("json") => LogForm::Json,
            Some("text") => LogForm::Text,
            Some("short") => LogForm::Short,
            _ if azure(environment).is_some() => LogForm::Json,
            // A person who sets levels wants to see what they choose.
            _ if levels.is_none() && std::io::stdout().is_terminal() => LogForm::Short,
            _ => LogForm::Text,
        };
        let default = if form == LogForm::Short { SHORT_LEVELS } else { catalogue::default("RUST_LOG") };
        Self { form, levels: levels.cloned().unwrap_or_else(|| default.into()) }
    }
}

/// Checks the settings of an app on this machine before its handler is started with `environment`. Problems prevent the start;
/// warnings are about `values` that nothing reads.
pub fn check(app: &Path, values: &BTreeMap<String, String>, environment: &BTreeMap<String, String>) -> Result<Vec<String>, Vec<String>> {
    let problems = Config::problems(environment, false);
    if problems.is_empty() { Ok(spelling::in_values(values, app)) } else { Err(problems) }
}

impl Config {
    /// Reads every setting, or lists all mistakes at once.
    pub fn read(environment: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        Self::read_all(Settings { environment, own_work: false, problems: Vec::new() })
    }

    /// The same for a handler whose work is compiled into it.
    pub fn read_for_own_work(environment: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        Self::read_all(Settings { environment, own_work: true, problems: Vec::new() })
    }

    fn read_all(mut settings: Settings<'_>) -> Result<Self, Vec<String>> {
        let port = settings.port();
        let config = Self::gather(&mut settings, port);
        settings.ended(config)
    }

    /// Lists all mistakes in settings outside a handler, which may have work compiled into it. Only a handler has a port.
    pub fn problems(environment: &BTreeMap<String, String>, own_work: bool) -> Vec<String> {
        let mut settings = Settings { environment, own_work, problems: Vec::new() };
        let port = if settings.text(PORT).is_some() { settings.port() } else { 0 };
        Self::gather(&mut settings, port);
        settings.problems
    }

    fn gather(settings: &mut Settings<'_>, port: u16) -> Self {
        let in_azure = azure(settings.environment);
        settings.log();
        settings.pairs();
        let function_timeout = function_timeout::read(settings);
        let storage = Storage::gather(settings, time_budget::cosmos_timeout(function_timeout.value));
        let budgets = settings.budgets();
        let fulfillment = fulfillment::read(settings, budgets.retry_base);
        let work_delay = settings.duration("WORK_DELAY", Duration::ZERO);
        let longest_try = match &fulfillment {
            Some(backend) => ("FULFILLMENT_TIMEOUT", backend.timeout),
            None if settings.own_work => ("FULFILLMENT_TIMEOUT", settings.duration("FULFILLMENT_TIMEOUT", Duration::from_millis(100))),
            None => ("WORK_DELAY, four times,", work_delay.saturating_mul(u32::try_from(STAGES).unwrap_or(u32::MAX))),
        };
        let (time_budget, problem) = TimeBudget::share_out(function_timeout, storage.writes(), longest_try);
        settings.problems.extend(problem);
        if let Some(sign) = in_azure {
            settings.needed_by_functions(sign);
        }
        let max_connections = settings.number("MAX_CONNECTIONS", 1) as usize;
        let auth = auth::read(settings);
        let gateway_owner = gateway::read(settings, auth.as_ref());
        if gateway_owner.is_some() && budgets.retention < budgets.order_deadline {
            // A late copy of the gateway's message would find no record of an order that has ended.
            settings.problems.push(
                "RETENTION is below ORDER_DEADLINE, and ADOPT_GATEWAY_ORDERS is set: set RETENTION to at least ORDER_DEADLINE".into(),
            );
        }
        let config = Self {
            port,
            public_base_url: settings.public_base_url(),
            auth,
            easy_auth: auth::easy_auth(settings),
            limits: limits::read(settings, in_azure.is_some()),
            callbacks: callback::read(settings, in_azure.is_some()),
            order_form: orders::read(settings, settings.own_work || fulfillment.is_some()),
            fulfillment,
            work_delay,
            tax_rate: settings.tax_rate(),
            time_budget,
            drain_timeout: settings.duration("DRAIN_TIMEOUT", Duration::ZERO),
            allowed_hosts: settings.allowed_hosts(),
            anonymous_list: settings.anonymous_list(in_azure.is_some()),
            gateway_owner,
            max_connections,
            instance: ["WEBSITE_INSTANCE_ID", "CONTAINER_NAME"].into_iter().find_map(|name| settings.platform(name)).map(str::to_owned),
            platform: Platform {
                site: settings.platform("WEBSITE_SITE_NAME").map(str::to_owned),
                group: settings.platform("WEBSITE_RESOURCE_GROUP").map(str::to_owned),
            },
            warnings: spelling::in_environment(settings.environment.keys().map(String::as_str)),
            storage,
            budgets,
            quarantine_retention: settings.quarantine_retention(),
        };
        settings.key_vault_references();
        config
    }

    /// The time between two renewals of a lease. Two renewals in a row may fail before the lease runs out.
    pub fn lease_renewal(&self) -> Duration {
        self.budgets.lease / 3
    }

    /// The requests that may wait for an order to change at the same time. Each holds a connection, and the work needs the other
    /// half.
    pub fn max_waiters(&self) -> usize {
        self.max_connections / 2
    }

    /// Likely mistakes in the environment, none of which prevents the start.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Logs likely mistakes, and where `functionTimeout` was not found.
    pub fn tell(&self) {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        if let Some(remark) = &self.time_budget.function_timeout.remark {
            debug!("functionTimeout is taken to be 5m, the shortest that the host has by itself: {remark}");
        }
    }
}

impl Storage {
    /// Reads the places and budgets of orders, or lists the mistakes in them: for commands that run beside a handler.
    pub fn read(environment: &BTreeMap<String, String>) -> Result<(Self, Budgets), Vec<String>> {
        let mut settings = Settings { environment, own_work: false, problems: Vec::new() };
        // A person waits for these commands, and no host ends them.
        let read = (Self::gather(&mut settings, COSMOS_TIMEOUT), settings.budgets());
        settings.key_vault_references();
        settings.ended(read)
    }

    fn gather(settings: &mut Settings<'_>, cosmos_timeout: Duration) -> Self {
        let in_azure = azure(settings.environment);
        Self { records: settings.records(cosmos_timeout), service_bus: service_bus::read(settings, in_azure) }
    }

    fn writes(&self) -> Writes {
        Writes { cosmos: matches!(self.records, Records::Cosmos(..)), service_bus: self.service_bus.is_some() }
    }
}

struct Settings<'a> {
    environment: &'a BTreeMap<String, String>,
    /// Whether the work is compiled into the handler.
    own_work: bool,
    problems: Vec<String>,
}

impl<'a> Settings<'a> {
    /// A setting of this program. A setting with an empty value is not set.
    fn text(&self, name: &str) -> Option<&'a str> {
        debug_assert!(catalogue::find(name).is_some(), "{name} is not in the catalogue");
        self.platform(name)
    }

    /// A variable that the platform sets.
    fn platform(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A setting that the bindings or the host read too. Case does not matter in its name.
    fn binding_text(&self, name: &str) -> Option<&'a str> {
        let same = || self.environment.keys().find(|key| key.eq_ignore_ascii_case(name));
        self.platform(name).or_else(|| same().and_then(|key| self.platform(key)))
    }

    /// A setting of the host, whose sections are separated by `__` or `:`.
    fn host_setting(&self, name: &str) -> Option<&'a str> {
        self.binding_text(name).or_else(|| self.binding_text(&name.replace("__", ":")))
    }

    fn ended<T>(self, read: T) -> Result<T, Vec<String>> {
        if self.problems.is_empty() { Ok(read) } else { Err(self.problems) }
    }

    /// Refuses a setting that has no effect without another one, since a person who set it relies on it.
    fn pairs(&mut self) {
        let has_backend = self.text("FULFILLMENT_URL").is_some();
        let has_own_work = self.own_work || has_backend;
        let compiled = "FULFILLMENT_URL is set, and the work is part of this handler: unset it, or deploy Waybill itself";
        if self.own_work && has_backend {
            self.problems.push(compiled.into());
        }
        let has_cosmos = cosmos::is_mentioned(self);
        let cosmos = "CosmosConnection is not set, but {} is: set the connection too, or neither database nor container";
        let backend = "FULFILLMENT_URL is not set, but {} is: set both, or neither";
        let authorization =
            if self.own_work { "{} is for FULFILLMENT_URL, and the work is part of this handler: unset it" } else { backend };
        let own = "{} is for orders of your own, and FULFILLMENT_URL, which does their work, is not set: set both, or neither";
        let built_in = if self.own_work {
            "{} is for the built-in work, which the work of this handler replaces: unset it"
        } else {
            "{} is for the built-in work, which FULFILLMENT_URL replaces: unset one of them"
        };
        for (name, has_effect, problem) in [
            ("FULFILLMENT_TIMEOUT", has_own_work, backend),
            ("FULFILLMENT_AUTHORIZATION", has_backend, authorization),
            ("ORDER_SCHEMA", has_own_work, own),
            ("ORDER_ID", has_own_work, own),
            ("ORDER_CUSTOMER", has_own_work, own),
            ("CosmosDatabase", has_cosmos, cosmos),
            ("CosmosContainer", has_cosmos, cosmos),
            ("WORK_DELAY", !has_own_work, built_in),
            ("TAX_RATE", !has_own_work, built_in),
        ] {
            if !has_effect && self.text(name).is_some() {
                self.problems.push(problem.replace("{}", name));
            }
        }
    }

    /// Refuses references to a Key Vault that the platform did not resolve: the text of one would pass for a key. Other problems may
    /// follow from it and repeat the text, so they wait for the next start.
    fn key_vault_references(&mut self) {
        let unresolved = self.environment.iter().filter(|(_, value)| is_key_vault_reference(value));
        let problems: Vec<_> = unresolved.map(|(name, _)| {
            format!(
                "{name} is a Key Vault reference that the platform did not resolve: set the reference right, and give the app's identity \
                 the role Key Vault Secrets User; the portal shows the reason beside the setting"
            )
        }).collect();
        if !problems.is_empty() {
            self.problems = problems;
        }
    }

    /// Refuses a start in Azure without the settings of the bindings. The host would leave their functions out: orders would be
    /// accepted, and none processed.
    fn needed_by_functions(&mut self, sign: &str) {
        let has_namespace = ["ServiceBusConnection", "ServiceBusConnection__fullyQualifiedNamespace"];
        let has_namespace = has_namespace.into_iter().any(|name| self.host_setting(name).is_some());
        let names_part = ["credential", "clientId"].map(|part| format!("ServiceBusConnection__{part}"));
        // Reported with the namespace already.
        let names_part = names_part.iter().any(|name| self.binding_text(name).is_some());
        let has_queue =
            self.binding_text("OrdersQueue").is_some() || self.problems.iter().any(|problem| problem.starts_with("OrdersQueue"));
        for (is_set, problem) in [
            (
                has_namespace || names_part,
                "ServiceBusConnection is not set: set ServiceBusConnection__fullyQualifiedNamespace to NAMESPACE.servicebus.windows.net, \
                 with ServiceBusConnection__credential for an identity, or ServiceBusConnection to a connection string",
            ),
            (has_queue, "OrdersQueue is not set: set the name of the queue that the orders go through"),
            (self.binding_text("SweepSchedule").is_some(), "SweepSchedule is not set: set when OrderSweeper runs, e.g. 0 * * * * *"),
        ] {
            if !is_set {
                self.problems.push(format!("{problem} (inside Azure, as {sign} says, functions without their settings would not run)"));
            }
        }
    }

    fn allowed_hosts(&self) -> Vec<String> {
        let names = self.text("ALLOWED_HOSTS").unwrap_or_default().split(',');
        names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    fn anonymous_list(&mut self, in_azure: bool) -> bool {
        match self.text("ANONYMOUS_LIST") {
            None => !in_azure,
            Some("true") => true,
            Some("false") => false,
            Some(text) => self.problem(format!("ANONYMOUS_LIST is {text:?}: set true or false"), false),
        }
    }

    fn quarantine_retention(&mut self) -> Duration {
        let retention = self.duration("QUARANTINE_RETENTION", Duration::from_secs(1));
        if retention.as_secs() > MAX_RETENTION {
            let limit = format!("a message carries it in seconds, at most {MAX_RETENTION} (24855d)");
            self.problems.push(format!("QUARANTINE_RETENTION is too long: {limit}"));
        }
        retention
    }

    fn budgets(&mut self) -> Budgets {
        let budgets = Budgets {
            lease: self.duration("LEASE", Duration::from_millis(100)),
            max_attempts: self.number("MAX_ATTEMPTS", 1),
            retry_base: self.duration("RETRY_BASE", Duration::from_millis(1)),
            retry_cap: self.duration("RETRY_CAP", Duration::from_millis(1)),
            max_interruptions: self.number("MAX_INTERRUPTIONS", 1),
            order_deadline: self.duration("ORDER_DEADLINE", Duration::from_millis(1)),
            retention: self.duration("RETENTION", Duration::from_secs(1)),
            overdue_after: self.duration("OVERDUE_AFTER", Duration::from_millis(100)),
            tells_ends: self.text("CALLBACK_URL").is_some(),
        };
        if budgets.retention.as_secs() > MAX_RETENTION {
            self.problems.push(format!("RETENTION is too long: a record carries it in seconds, at most {MAX_RETENTION} (24855d)"));
        }
        if budgets.retry_base > budgets.retry_cap {
            let (base, cap) = (budgets.retry_base, budgets.retry_cap);
            self.problems.push(format!("RETRY_BASE must be at most RETRY_CAP: a pause of {base:?} is longer than {cap:?}, the longest"));
        }
        budgets
    }

    fn log(&mut self) {
        if let Some(format) = self.text("LOG_FORMAT").filter(|format| !matches!(*format, "json" | "text" | "short")) {
            self.problems.push(format!("LOG_FORMAT is {format:?}: set json, text or short"));
        }
        if let Some(levels) = self.text("RUST_LOG").filter(|levels| levels.parse::<Targets>().is_err()) {
            self.problems.push(format!("RUST_LOG is {levels:?}: set a level or levels by target, e.g. info,waybill=debug"));
        }
    }

    fn problem<T>(&mut self, text: String, instead: T) -> T {
        self.problems.push(text);
        instead
    }

    fn port(&mut self) -> u16 {
        const NAME: &str = PORT;
        match self.text(NAME) {
            None => self.problem(
                format!("{NAME} is not set: the Functions host sets it; to run everything on this machine use `waybill local`, to try the handler alone set {NAME}=8080"),
                0,
            ),
            Some(text) => match text.parse() {
                Ok(port) if port != 0 => port,
                _ => self.problem(format!("{NAME} is {text:?}: set a port from 1 to 65535"), 0),
            },
        }
    }

    fn records(&mut self, cosmos_timeout: Duration) -> Records {
        let in_azure = azure(self.environment);
        let key = self.tracking_key();
        match (cosmos::read(self, in_azure, cosmos_timeout), key) {
            (Some(cosmos), Some(key)) => {
                if in_azure.is_some() && self.text("TRACKING_ID_KEY") == Some(EXAMPLE_TRACKING_KEY) {
                    self.problems.push(format!("TRACKING_ID_KEY is the key of the examples, which everyone can read: {OWN_KEY}"));
                }
                Records::Cosmos(cosmos, key)
            }
            (cosmos, key) => {
                if cosmos.is_some() && self.text("TRACKING_ID_KEY").is_none() {
                    self.problems.push(format!(
                        "TRACKING_ID_KEY is not set: with Cosmos DB all instances derive tracking ids under one secret; {OWN_KEY}"
                    ));
                } else if let (None, Some(sign)) = (cosmos, in_azure.filter(|_| !cosmos::is_mentioned(self))) {
                    self.problems.push(format!(
                        "the embedded store must not be used inside Azure ({sign} is set): instances there come and go, and their disks \
                         with them; set CosmosConnection__accountEndpoint, CosmosDatabase and CosmosContainer, or unset {sign} if this is \
                         not Azure"
                    ));
                }
                Records::Embedded(self.data(), key)
            }
        }
    }

    fn data(&mut self) -> PathBuf {
        match self.text("WAYBILL_DATA") {
            Some(path) => {
                self.problems.extend(data_mistake(path));
                path.into()
            }
            None => self.app_root().join(".waybill"),
        }
    }

    /// The folder that holds `host.json`. The host starts the handler there, unless `host.json` names another `workingDirectory`;
    /// the host's own variable is right in both cases.
    fn app_root(&self) -> &'a Path {
        Path::new(self.platform("FUNCTIONS_APP_ROOT_PATH").unwrap_or("."))
    }

    fn tracking_key(&mut self) -> Option<TrackingKey> {
        let secret = self.text("TRACKING_ID_KEY")?;
        let key = TrackingKey::new(secret.as_bytes().to_vec());
        if key.is_none() {
            self.problems.push(format!("TRACKING_ID_KEY is too short: {OWN_KEY}"));
        }
        key
    }

    fn public_base_url(&mut self) -> Option<String> {
        let text = self.text("PUBLIC_BASE_URL")?;
        // The URL becomes a header value. For any byte but visible ASCII there the host answers 500, after the message is sent.
        if !is_web_url(text) || text.contains(['#', '?']) {
            self.problems.push(format!("PUBLIC_BASE_URL is {text:?}: set the URL before /orders, e.g. https://shop.example.com/api"));
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn tax_rate(&mut self) -> Decimal {
        let text = self.text("TAX_RATE").unwrap_or(catalogue::default("TAX_RATE"));
        match (text, Decimal::from_str_exact(text)) {
            (_, Ok(rate)) if rate >= Decimal::ZERO && rate <= Decimal::ONE && rate.scale() <= 6 => rate,
            (text, _) => self.problem(format!("TAX_RATE is {text:?}: set a share from 0 to 1 such as 0.20"), Decimal::ZERO),
        }
    }

    fn number(&mut self, name: &str, least: u32) -> u32 {
        self.number_or(name, catalogue::default(name).parse().unwrap_or(least), least, u32::MAX)
    }

    fn number_or(&mut self, name: &str, default: u32, least: u32, most: u32) -> u32 {
        match self.text(name).map(|text| (text, text.parse())) {
            None => default,
            Some((_, Ok(number))) if (least..=most).contains(&number) => number,
            Some((text, _)) => self.problem(format!("{name} is {text:?}: set a whole number from {least} to {most}"), default),
        }
    }

    fn duration(&mut self, name: &str, least: Duration) -> Duration {
        let default = duration(catalogue::default(name)).unwrap_or(least);
        match self.text(name).map(|text| (text, duration(text))) {
            None => default,
            Some((_, Some(duration))) if duration >= least => duration,
            Some((text, Some(_))) => self.problem(format!("{name} is {text:?}: set at least {}ms", least.as_millis()), default),
            Some((text, None)) => {
                self.problem(format!("{name} is {text:?}: set a number with a unit (ms, s, m, h, d) such as 30s"), default)
            }
        }
    }
}

/// Whether this is an absolute `http` or `https` URL that can stand in a header: its host is there and well-formed, its port is a
/// number, and it names no user.
pub fn is_web_url(text: &str) -> bool {
    let Ok(url) = text.parse::<hyper::Uri>() else { return false };
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    matches!(url.scheme_str(), Some("http" | "https"))
        && url.host().is_some_and(is_host)
        && !authority.contains('@')
        && port.is_none_or(|(_, port)| port.parse::<u16>().is_ok())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_host(host: &str) -> bool {
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_name || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Longest duration of a setting: a hundred years, far from the end of every clock that is used.
const MAX_DURATION: u64 = 100 * 366 * 24 * 3600 * 1000;

/// Reads `250ms`, `30s`, `5m`, `24h`, `7d`; a bare `0` needs no unit.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let milliseconds = digits.trim_end().parse::<u64>().ok()?.checked_mul(unit)?;
    (milliseconds <= MAX_DURATION).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const PORT: [(&str, &str); 1] = [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")];
    /// What an instance in Azure must have.
    pub(crate) const IN_AZURE: [(&str, &str); 8] = [
        ("WEBSITE_INSTANCE_ID", "i"),
        ("TRACKING_ID_KEY", "0123456789abcdef0123456789abcdef"),
        ("CosmosConnection__accountEndpoint", "https://account.documents.azure.com/"),
        ("CosmosDatabase", "d"),
        ("CosmosContainer", "c"),
        ("OrdersQueue", "orders"),
        ("SweepSchedule", "0 * * * * *"),
        ("ServiceBusConnection__fullyQualifiedNamespace", "n.servicebus.windows.net"),
    ];

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let problems = Config::read(&environment(&[
            ("WEBSITE_INSTANCE_ID", "i"),
            ("TRACKING_ID_KEY", "short"),
            ("PUBLIC_BASE_URL", "shop"),
            ("LEASE", "soon"),
            ("TAX_RATE", "2"),
            ("MAX_CONNECTIONS", "0"),
        ]))
        .unwrap_err();

        for name in [
            "FUNCTIONS_CUSTOMHANDLER_PORT",
            "WEBSITE_INSTANCE_ID",
            "TRACKING_ID_KEY",
            "PUBLIC_BASE_URL",
            "LEASE",
            "TAX_RATE",
            "MAX_CONNECTIONS",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(name)), "{name}: {problems:?}");
        }
        assert!(!problems.iter().any(|problem| problem.contains("\"short\"")), "a secret is never printed");
    }

    #[test]
    fn defaults_need_only_the_port() {
        let config = Config::read(&environment(&[("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("LEASE", "")])).unwrap();

        assert_eq!((config.port, config.budgets.lease), (8080, Duration::from_secs(30)));
        assert!(matches!(config.storage.records, Records::Embedded(data, None) if data == Path::new("./.waybill")));
    }

    #[test]
    fn azure_is_known_by_any_sign_unless_core_tools_run_us() {
        for sign in ["WEBSITE_INSTANCE_ID", "LEGION_SERVICE_HOST", "WEBSITE_POD_NAME", "CONTAINER_APP_NAME"] {
            assert_eq!(azure(&environment(&[(sign, "x")])), Some(sign));
            assert_eq!(azure(&environment(&[(sign, "x"), ("FUNCTIONS_CORETOOLS_ENVIRONMENT", "True")])), None);
            assert_eq!(azure(&environment(&[(sign, "")])), None);
        }
        assert_eq!(azure(&environment(&[("CONTAINER_NAME", "c"), ("FUNCTIONS_EXTENSION_VERSION", "~4")])), Some("CONTAINER_NAME"));
        assert_eq!(azure(&environment(&[("CONTAINER_NAME", "some container platform")])), None);
    }

    #[test]
    fn in_azure_anonymous_callers_are_many_unless_it_is_said() {
        let said = |more: &[(&str, &str)]| Config::read(&environment(&[&PORT[..], &IN_AZURE, more].concat())).unwrap().anonymous_list;

        assert_eq!((said(&[]), said(&[("ANONYMOUS_LIST", "true")])), (false, true));
        assert!(Config::read(&environment(&PORT)).unwrap().anonymous_list);
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("7d", Some(604_800_000)),
            ("0", Some(0)),
            ("30", None),
            ("-1s", None),
            ("99999999999d", None),
            ("1.5s", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), expected, "{text}");
        }
    }
}
