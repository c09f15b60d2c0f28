//! The settings; the only reader of the environment.

pub mod auth;
mod connection;
pub mod cosmos;
pub mod fulfillment;
pub mod identity;
pub mod limits;
pub mod service_bus;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use group_commit::database::BUSY_TIMEOUT;
use rust_decimal::Decimal;
use tracing_subscriber::filter::Targets;

use crate::config::auth::Auth;
use crate::config::cosmos::Cosmos;
use crate::config::fulfillment::Http;
use crate::config::limits::Limits;
use crate::config::service_bus::ServiceBus;
use crate::domain::lifecycle::Budgets;
use crate::domain::tracking::TrackingKey;
use crate::fulfillment::pricing::STAGES;
use crate::outbound::service_bus::DEADLINE;

/// The secret that examples show; nobody's secret, so it is refused inside Azure.
const EXAMPLE_TRACKING_KEY: &str = "for-development-only-0123456789abcdef";

/// Longest `ttl` of an item of Cosmos DB, in seconds.
const MAX_RETENTION: u64 = i32::MAX as u64;

/// How to get a secret.
const OWN_KEY: &str = "set at least 32 characters of your own, e.g. the output of `openssl rand -hex 32`";

/// Everything `waybill serve` is told.
#[derive(Debug)]
pub struct Config {
    /// Where to listen on 127.0.0.1 (`FUNCTIONS_CUSTOMHANDLER_PORT`, set by the host).
    pub port: u16,
    /// Where records are kept.
    pub records: Records,
    /// Where messages of our own go (`ServiceBusConnection`, `OrdersQueue`), if there is a way over HTTP.
    pub service_bus: Option<ServiceBus>,
    /// What stands before `/orders` in links for clients (`PUBLIC_BASE_URL`), without a slash at its end.
    pub public_base_url: Option<String>,
    /// Whose tokens let callers in (`AUTH_ISSUER`); without one, whoever the platform says it is.
    pub auth: Option<Auth>,
    /// Whether the platform logs callers in (`WEBSITE_AUTH_ENABLED`), so that its headers can be believed.
    pub easy_auth: bool,
    /// What is refused at the door (`RATE_LIMIT`, `ADMISSION_MAX_AGE` and what belongs to them).
    pub limits: Limits,
    /// The HTTP service that does the work (`FULFILLMENT_URL`); without one it is the built-in pricing.
    pub fulfillment: Option<Http>,
    /// Slept before each stage of the built-in work (`WORK_DELAY`).
    pub work_delay: Duration,
    /// Share of the subtotal (`TAX_RATE`).
    pub tax_rate: Decimal,
    /// What an order may spend (`LEASE`, `MAX_ATTEMPTS`, `RETRY_BASE`, `RETRY_CAP`, `MAX_INTERRUPTIONS`, `ORDER_DEADLINE`, `RETENTION`, `OVERDUE_AFTER`).
    pub budgets: Budgets,
    /// How often a worker renews its lease (`LEASE_RENEWAL`).
    pub lease_renewal: Duration,
    /// How long an invocation waits for an order that somebody else holds (`CLAIM_WAIT`).
    pub claim_wait: Duration,
    /// How long an invocation waits for a store that does not answer (`STORE_WAIT`).
    pub store_wait: Duration,
    /// When the host ends an invocation, and the handler with it (`FUNCTION_TIMEOUT`; what `functionTimeout` in `host.json` says).
    pub function_timeout: Duration,
    /// How long running invocations may take when asked to stop (`DRAIN_TIMEOUT`).
    pub drain_timeout: Duration,
    /// Connections at the same time (`MAX_CONNECTIONS`).
    pub max_connections: usize,
    /// Requests that may wait for an order to change, at the same time (`MAX_WAITERS`).
    pub max_waiters: usize,
    /// The platform's name for this instance.
    pub instance: Option<String>,
}

/// Where records are kept, and the secret under which tracking ids are derived (`TRACKING_ID_KEY`).
#[derive(Debug)]
pub enum Records {
    /// In a file below this directory (`WAYBILL_DATA`). Without a secret one is made at random and kept beside the records.
    Embedded(PathBuf, Option<TrackingKey>),
    /// In Cosmos DB (`CosmosConnection`), where all instances share the secret.
    Cosmos(Cosmos, TrackingKey),
}

/// How log lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// One JSON object a line (`LOG_FORMAT`: `json`, `text`; by itself JSON in Azure, text elsewhere).
    pub json: bool,
    /// Levels by target, e.g. `info,waybill=debug` (`RUST_LOG`).
    pub levels: String,
}

/// The environment of this process. What is not Unicode is not ours.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// The variable that says we run inside Azure, if one does. `FUNCTIONS_CORETOOLS_ENVIRONMENT` says that `func start` runs us
/// on somebody's own machine, whatever else is set there.
///
/// `CONTAINER_NAME` is how Linux Consumption shows itself, but other container platforms set it too, so it counts only beside
/// something that every function app there has: the required app setting `FUNCTIONS_EXTENSION_VERSION`, the site's name, or the
/// platform's other `CONTAINER_` variables.
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

impl LogConfig {
    /// Reads how to log. A mistake is told by [`Config::read`], and by the stand-in once it logs.
    pub fn read(environment: &BTreeMap<String, String>) -> Self {
        let json = match environment.get("LOG_FORMAT").map(String::as_str) {
            Some("json") => true,
            Some("text") => false,
            _ => azure(environment).is_some(),
        };
        // The libraries beside us speak of their own affairs at info; `RUST_LOG=info` asks for those too.
        let levels = environment.get("RUST_LOG").filter(|levels| !levels.is_empty());
        Self { json, levels: levels.cloned().unwrap_or_else(|| "warn,waybill=info,functions_host=info".into()) }
    }
}

impl Config {
    /// Reads every setting, or names everything that is wrong with them at once.
    pub fn read(environment: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        let mut settings = Settings { environment, problems: Vec::new() };
        settings.log();
        let max_connections = settings.number("MAX_CONNECTIONS", 1024, 1);
        let config = Self {
            port: settings.port(),
            records: settings.records(),
            service_bus: service_bus::read(&mut settings, azure(environment)),
            public_base_url: settings.public_base_url(),
            auth: auth::read(&mut settings),
            easy_auth: auth::easy_auth(&settings),
            limits: limits::read(&mut settings, azure(environment).is_some()),
            fulfillment: fulfillment::read(&mut settings),
            work_delay: settings.duration("WORK_DELAY", Duration::ZERO, Duration::ZERO),
            tax_rate: settings.tax_rate(),
            budgets: Budgets {
                lease: settings.duration("LEASE", Duration::from_secs(30), Duration::from_millis(100)),
                max_attempts: settings.number("MAX_ATTEMPTS", 5, 1),
                retry_base: settings.duration("RETRY_BASE", Duration::from_secs(2), Duration::from_millis(1)),
                retry_cap: settings.duration("RETRY_CAP", Duration::from_mins(5), Duration::from_millis(1)),
                max_interruptions: settings.number("MAX_INTERRUPTIONS", 20, 1),
                order_deadline: settings.duration("ORDER_DEADLINE", Duration::from_hours(24), Duration::from_millis(1)),
                retention: settings.duration("RETENTION", Duration::from_hours(168), Duration::from_secs(1)),
                first_look: settings.duration("OVERDUE_AFTER", Duration::from_mins(2), Duration::from_millis(100)),
            },
            lease_renewal: settings.duration("LEASE_RENEWAL", Duration::from_secs(10), Duration::from_millis(10)),
            claim_wait: settings.duration("CLAIM_WAIT", Duration::from_mins(3), Duration::ZERO),
            store_wait: settings.duration("STORE_WAIT", Duration::from_mins(1), Duration::ZERO),
            function_timeout: settings.duration("FUNCTION_TIMEOUT", Duration::from_mins(5), Duration::from_secs(1)),
            drain_timeout: settings.duration("DRAIN_TIMEOUT", Duration::from_secs(10), Duration::ZERO),
            max_connections: max_connections as usize,
            max_waiters: settings.number("MAX_WAITERS", 500.min(max_connections / 2), 0) as usize,
            instance: ["WEBSITE_INSTANCE_ID", "CONTAINER_NAME"].into_iter().find_map(|name| settings.text(name)).map(str::to_owned),
        };
        if config.budgets.retention.as_secs() > MAX_RETENTION {
            settings.problems.push("RETENTION is too long: a record carries it in seconds, at most 2147483647 (24855d)".into());
        }
        if config.max_waiters > 0 && config.max_waiters >= config.max_connections {
            settings
                .problems
                .push("MAX_WAITERS must be less than MAX_CONNECTIONS: each who waits holds a connection, and work needs some".into());
        }
        let least = config.settling() + Duration::from_secs(1);
        // Some of it may have passed before a try begins.
        let most = config.working_time() * 9 / 10;
        let try_name = if config.fulfillment.is_some() { "FULFILLMENT_TIMEOUT" } else { "WORK_DELAY, four times," };
        let times = [(try_name, config.longest_try()), ("CLAIM_WAIT", config.claim_wait), ("STORE_WAIT", config.store_wait)];
        if config.function_timeout < least {
            settings.problems.push(format!("FUNCTION_TIMEOUT must be at least {least:?}, of which the store may need the most"));
        } else {
            for (name, _) in times.into_iter().filter(|(_, time)| *time > most) {
                settings.problems.push(format!(
                    "{name} must be at most {most:?} by FUNCTION_TIMEOUT, which is to say what functionTimeout in host.json says, and by \
                     STORE_TIMEOUT: the host ends the whole handler then"
                ));
            }
        }
        if config.lease_renewal * 2 > config.budgets.lease {
            settings
                .problems
                .push("LEASE_RENEWAL must be at most half of LEASE, or a lease runs out before one lost renewal is made good".into());
        }
        if settings.problems.is_empty() { Ok(config) } else { Err(settings.problems) }
    }

    /// How long an invocation for a message may work and wait, so that the host does not end it.
    pub fn working_time(&self) -> Duration {
        self.function_timeout.saturating_sub(self.settling())
    }

    /// How long one try takes at most.
    pub fn longest_try(&self) -> Duration {
        let stages = || self.work_delay.saturating_mul(u32::try_from(STAGES.len()).unwrap_or(u32::MAX));
        self.fulfillment.as_ref().map_or_else(stages, |backend| backend.timeout)
    }

    /// For what may begin last and take its time: a claim, a renewal, an end, and the copy of a message for the next try.
    fn settling(&self) -> Duration {
        let store = match &self.records {
            Records::Cosmos(cosmos, _) => cosmos.timeout,
            Records::Embedded(..) => BUSY_TIMEOUT,
        };
        let queue = self.service_bus.as_ref().map_or(Duration::ZERO, |_| DEADLINE);
        store * 3 + queue + Duration::from_secs(1)
    }
}

struct Settings<'a> {
    environment: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl<'a> Settings<'a> {
    /// A setting that is set to nothing is not set.
    fn text(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A setting that the bindings read too, whose names do not depend on case.
    fn binding_text(&self, name: &str) -> Option<&'a str> {
        self.text(name).or_else(|| self.environment.keys().find(|key| key.eq_ignore_ascii_case(name)).and_then(|key| self.text(key)))
    }

    fn log(&mut self) {
        if let Some(format) = self.text("LOG_FORMAT").filter(|format| !matches!(*format, "json" | "text")) {
            self.problems.push(format!("LOG_FORMAT is {format:?}: set json or text"));
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
        const NAME: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";
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

    fn records(&mut self) -> Records {
        let in_azure = azure(self.environment);
        let key = self.tracking_key();
        match (cosmos::read(self, in_azure), key) {
            (Some(cosmos), Some(key)) => {
                if in_azure.is_some() && self.text("TRACKING_ID_KEY") == Some(EXAMPLE_TRACKING_KEY) {
                    self.problems.push(format!("TRACKING_ID_KEY is the one of the examples, which everybody knows: {OWN_KEY}"));
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

    fn data(&self) -> PathBuf {
        match self.text("WAYBILL_DATA") {
            Some(path) => path.into(),
            // The host starts us in the app's folder, but says so more reliably here.
            None => Path::new(self.text("FUNCTIONS_APP_ROOT_PATH").unwrap_or(".")).join(".waybill"),
        }
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
        let url: Option<hyper::Uri> = text.parse().ok();
        let fits = url.is_some_and(|url| {
            let port = url.authority().and_then(|authority| authority.as_str().rsplit_once(':')).filter(|(_, port)| !port.ends_with(']'));
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
                && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && port.is_none_or(|(_, port)| port.parse::<u16>().is_ok())
                && url.query().is_none()
        });
        // It becomes a header value: anything but visible ASCII there is a 500 of the host, after the message is sent.
        if !fits || text.contains('#') || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problems.push(format!("PUBLIC_BASE_URL is {text:?}: set what stands before /orders, e.g. https://shop.example.com/api"));
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn tax_rate(&mut self) -> Decimal {
        match self.text("TAX_RATE").map(|text| (text, Decimal::from_str_exact(text))) {
            None => Decimal::new(20, 2),
            Some((_, Ok(rate))) if rate >= Decimal::ZERO && rate <= Decimal::ONE && rate.scale() <= 6 => rate,
            Some((text, _)) => self.problem(format!("TAX_RATE is {text:?}: set a share from 0 to 1 such as 0.20"), Decimal::ZERO),
        }
    }

    fn number(&mut self, name: &str, default: u32, least: u32) -> u32 {
        match self.text(name).map(|text| (text, text.parse())) {
            None => default,
            Some((_, Ok(number))) if number >= least => number,
            Some((text, _)) => self.problem(format!("{name} is {text:?}: set a whole number from {least} to {}", u32::MAX), default),
        }
    }

    fn duration(&mut self, name: &str, default: Duration, least: Duration) -> Duration {
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

/// Longest duration a setting may have: a hundred years, far from the end of every clock we count with.
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
mod tests {
    use super::*;

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
        assert!(matches!(config.records, Records::Embedded(data, None) if data == Path::new("./.waybill")));
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
