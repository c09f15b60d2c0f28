//! Every setting: its name, its default, and its meaning in one sentence.
//!
//! The defaults are read from here; `docs/settings.md` and `local.settings.json.example` are compared with this list by tests.

use std::fmt::{self, Display, Formatter};

use crate::config::catalogue::DefaultValue::{Nothing, Value, Words};
use crate::config::catalogue::Section::{Demonstration, Likely, MustHave, Odd, Own, Tuning};

/// A setting of this program.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name, to the letter.
    pub name: &'static str,
    /// The parts that may follow `NAME__`, where an identity takes the place of a connection string.
    pub parts: &'static [&'static str],
    /// The value without the setting.
    pub default: DefaultValue,
    /// The table that describes it.
    pub section: Section,
    /// Whether the value is never shown.
    pub secret: bool,
    /// The meaning, as Markdown.
    pub says: &'static str,
}

/// The value without a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// No value.
    Nothing,
    /// This value, as a person would type it.
    Value(&'static str),
    /// A value that depends on something else, described in words.
    Words(&'static str),
}

/// A table of `docs/settings.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Settings without which no app in Azure starts.
    MustHave,
    /// Settings of which most apps in Azure set some.
    Likely,
    /// Settings of orders that are not the built-in ones.
    Own,
    /// Settings whose defaults are right for most apps.
    Tuning,
    /// Settings for tests and for unusual machines.
    Odd,
    /// Settings of the built-in work.
    Demonstration,
}

/// A setting of an earlier version.
#[derive(Debug, Clone, Copy)]
pub struct Gone {
    /// The name, to the letter.
    pub name: &'static str,
    /// The rule that replaced it.
    pub instead: &'static str,
}

const fn setting(section: Section, name: &'static str, default: DefaultValue, says: &'static str) -> Setting {
    Setting { name, parts: &[], default, section, secret: false, says }
}

const fn secret(section: Section, name: &'static str, default: DefaultValue, says: &'static str) -> Setting {
    Setting { secret: true, ..setting(section, name, default, says) }
}

/// The settings, in the order of `docs/settings.md`.
pub static ALL: [Setting; 49] = [
    Setting {
        parts: &["fullyQualifiedNamespace", "credential", "clientId"],
        ..secret(
            MustHave,
            "ServiceBusConnection",
            Nothing,
            "The Service Bus namespace of the queue, for the bindings and for retries that are scheduled (role *Azure Service Bus Data Sender*): a connection string, or better the namespace alone and an identity.",
        )
    },
    setting(MustHave, "OrdersQueue", Nothing, "The queue that the orders go through."),
    Setting {
        parts: &["accountEndpoint", "credential", "clientId"],
        ..secret(
            MustHave,
            "CosmosConnection",
            Nothing,
            "The Cosmos DB account that keeps the records ([needs and costs](cosmos.md)): a connection string, or better the endpoint alone, such as `https://ACCOUNT.documents.azure.com/`, and an identity.",
        )
    },
    setting(MustHave, "CosmosDatabase", Nothing, "The database of the account; Waybill does not make it."),
    setting(MustHave, "CosmosContainer", Nothing, "The container of the database; Waybill does not make it."),
    secret(
        MustHave,
        "TRACKING_ID_KEY",
        Words("made at first start without Cosmos DB"),
        "The secret of at least 32 characters under which tracking ids are derived, the same on all instances; another secret forgets which requests were sent before.",
    ),
    setting(MustHave, "SweepSchedule", Nothing, "When `OrderSweeper` looks for overdue orders, as NCRONTAB, such as `0 * * * * *`."),
    setting(
        Likely,
        "PUBLIC_BASE_URL",
        Words("from the request"),
        "What stands before `/orders` in links for clients, such as `https://shop.example.com/api`, where clients use another address than the host sees.",
    ),
    setting(
        Likely,
        "AUTH_ISSUER",
        Nothing,
        "The OpenID issuer whose bearer tokens let callers in ([tokens](auth.md)), to the letter as `iss` names it; needs `AUTH_AUDIENCE`.",
    ),
    setting(Likely, "AUTH_AUDIENCE", Nothing, "The audience that a token must name in `aud`; needs `AUTH_ISSUER`."),
    setting(Likely, "AUTH_SUBMIT_SCOPE", Nothing, "The scope that a token needs to submit or cancel orders; needs `AUTH_ISSUER`."),
    setting(Likely, "AUTH_READ_SCOPE", Nothing, "The scope that a token needs to read orders; needs `AUTH_ISSUER`."),
    setting(Likely, "AUTH_OPERATOR_ROLE", Nothing, "The role that reads the status of any order; needs `AUTH_ISSUER`."),
    setting(
        Likely,
        "FULFILLMENT_URL",
        Nothing,
        "The HTTP service that does the work ([calls and answers](backend.md)), instead of the built-in pricing.",
    ),
    setting(
        Likely,
        "FULFILLMENT_TIMEOUT",
        Value("4m"),
        "The time for one try of the HTTP service, well below `functionTimeout` ([how far](backend.md#functiontimeout)); needs `FULFILLMENT_URL`.",
    ),
    secret(
        Likely,
        "FULFILLMENT_AUTHORIZATION",
        Nothing,
        "The `Authorization` header of calls to the HTTP service, such as `Bearer TOKEN`; needs `FULFILLMENT_URL`.",
    ),
    setting(
        Likely,
        "CALLBACK_URL",
        Nothing,
        "The URL that the end of every order is told to ([callbacks](callbacks.md)), https and on the internet; needs `CALLBACK_SECRET`.",
    ),
    secret(
        Likely,
        "CALLBACK_SECRET",
        Nothing,
        "The secret that callbacks are signed with: `whsec_` and the base64 of 24 to 64 bytes; two with a comma between them during a rotation.",
    ),
    setting(
        Likely,
        "CALLBACK_ALLOWED_HOSTS",
        Nothing,
        "The hosts, separated by commas, that an order may name in `X-Callback-Url`, such as `hooks.example.com` or `*.example.com`; needs `CALLBACK_SECRET`.",
    ),
    setting(
        Likely,
        "RATE_LIMIT",
        Value("100/60s"),
        "The requests that submit, cancel or list orders and that one caller may send in a time, on each instance ([limits](limits.md)); `100` alone is per minute, `0` is no limit.",
    ),
    setting(
        Likely,
        "RATE_LIMIT_SUBSCRIPTION_HEADER",
        Nothing,
        "The header in which a gateway names the caller's subscription; no other is believed.",
    ),
    setting(
        Likely,
        "TRUSTED_PROXIES",
        Words("`1` in Azure, else `0`"),
        "The proxies that append to `X-Forwarded-For` before a request arrives.",
    ),
    setting(
        Likely,
        "WAYBILL_DATA",
        Words("`.waybill` in the app's folder"),
        "The directory of the embedded store, and with `waybill local` of the queue.",
    ),
    setting(
        Own,
        "ORDER_SCHEMA",
        Nothing,
        "The JSON Schema of an order, a file in the app's folder ([rules](your-own.md#the-schema)); without it any JSON object will do.",
    ),
    setting(
        Own,
        "ORDER_ID",
        Value("/orderId"),
        "Where an order has its number, as a JSON pointer; `none`: nowhere, and each request needs an `Idempotency-Key`.",
    ),
    setting(
        Own,
        "ORDER_CUSTOMER",
        Value("/customerId"),
        "Where an order names its customer, as a JSON pointer; `none`: nowhere, and one caller never gives a number twice.",
    ),
    setting(
        Tuning,
        "ADMISSION_MAX_AGE",
        Value("10m"),
        "No new order is accepted while others have waited for longer than this; `0` accepts them always.",
    ),
    setting(Tuning, "MAX_ATTEMPTS", Value("5"), "The tries after which an order ends as `failed`."),
    setting(
        Tuning,
        "RETRY_BASE",
        Value("2s"),
        "The longest pause before the second try; after five failures in a row the HTTP service is left alone for five times this.",
    ),
    setting(Tuning, "RETRY_CAP", Value("5m"), "The longest pause before any try; at least `RETRY_BASE`."),
    setting(
        Tuning,
        "LEASE",
        Value("30s"),
        "The time for which a worker holds an order without a sign of life; the worker renews its lease every third of this, and with Cosmos DB writes progress as often.",
    ),
    setting(Tuning, "ORDER_DEADLINE", Value("24h"), "The time after which an order ends as `failed` (`deadline_exceeded`)."),
    setting(Tuning, "RETENTION", Value("7d"), "The time for which the record of an order that has ended is kept."),
    setting(
        Tuning,
        "RUST_LOG",
        Value("warn,waybill=info,functions_host=info"),
        "The levels of log lines, by target, such as `warn,waybill=debug`.",
    ),
    setting(
        Odd,
        "FUNCTION_TIMEOUT",
        Words("`functionTimeout` of `host.json`, else `5m`"),
        "The time after which the host ends an invocation, and the handler with it; `-1` is never.",
    ),
    setting(Odd, "QUARANTINE_RETENTION", Value("90d"), "The time for which a message is kept that nothing could act on."),
    setting(Odd, "OVERDUE_AFTER", Value("2m"), "The time after which an order that was accepted or sent may be sent again."),
    setting(Odd, "MAX_INTERRUPTIONS", Value("20"), "The crashes of its workers after which an order ends as `failed` (`interrupted`)."),
    setting(
        Odd,
        "MAX_CONNECTIONS",
        Value("1024"),
        "The connections to the handler at a time; half of them may wait for an order to change.",
    ),
    setting(Odd, "DRAIN_TIMEOUT", Value("10s"), "The time that invocations have to end when the handler is asked to stop."),
    setting(
        Odd,
        "ANONYMOUS_LIST",
        Words("`false` in Azure, else `true`"),
        "Whether callers without an identity of their own are one caller, which may list its orders ([keys](auth.md)).",
    ),
    setting(
        Odd,
        "ADOPT_GATEWAY_ORDERS",
        Nothing,
        "Whose orders are those that a gateway sends [straight to the queue](apim.md): `token`, `anonymous` or `key:NAME`; without it such messages go to quarantine.",
    ),
    setting(
        Odd,
        "ALLOWED_HOSTS",
        Nothing,
        "More names, separated by commas, that a request to the handler's port may have in `Host`; `localhost` and the loopback addresses always may.",
    ),
    setting(
        Odd,
        "LOG_FORMAT",
        Words("`json` in Azure, `short` on a terminal, else `text`"),
        "The form of log lines: `json` and `text` have every field, `short` is one line for a person for what becomes of an order.",
    ),
    setting(Odd, "AZURE_COSMOS_EMULATOR_HOST", Nothing, "The host name of a Cosmos DB emulator that is not on this machine."),
    setting(
        Odd,
        "SERVICE_BUS_REST_ENDPOINT",
        Words("set by `waybill local`"),
        "The address on this machine that answers the REST protocol of Service Bus instead of the namespace.",
    ),
    setting(Odd, "FUNCTIONS_CUSTOMHANDLER_PORT", Words("set by the host"), "The port on 127.0.0.1 where the handler listens."),
    setting(Demonstration, "TAX_RATE", Value("0.20"), "The share of the subtotal that is added as tax."),
    setting(
        Demonstration,
        "WORK_DELAY",
        Value("0"),
        "The pause before each of the four stages of the work, such as `5s`, so that there is progress to see.",
    ),
];

/// Settings of earlier versions. A person who left one in an app must learn that it has no effect.
pub static GONE: [Gone; 10] = [
    Gone { name: "LEASE_RENEWAL", instead: "a lease is renewed every third of LEASE" },
    Gone { name: "CLAIM_WAIT", instead: "the wait follows from functionTimeout in host.json" },
    Gone { name: "STORE_WAIT", instead: "the wait follows from functionTimeout in host.json" },
    Gone { name: "STORE_TIMEOUT", instead: "Cosmos DB has 5s, or less where functionTimeout in host.json is short" },
    Gone { name: "MAX_WAITERS", instead: "half of MAX_CONNECTIONS may wait" },
    Gone { name: "RATE_LIMIT_PERIOD_SECONDS", instead: "set RATE_LIMIT to orders and time such as 100/60s" },
    Gone { name: "BREAKER_FAILURES", instead: "five in a row that fail are enough" },
    Gone { name: "BREAKER_PAUSE", instead: "the pause is five times RETRY_BASE" },
    Gone { name: "STORE_BREAKER_FAILURES", instead: "five in a row that fail are enough" },
    Gone { name: "STORE_BREAKER_PAUSE", instead: "the pause begins with 2s" },
];

/// The setting of this name, to the letter.
pub fn find(name: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.name == name)
}

/// The default of a setting that has a value as its default.
pub(super) fn default(name: &str) -> &'static str {
    match find(name).map(|setting| setting.default) {
        Some(Value(value)) => value,
        Some(Nothing | Words(_)) | None => "",
    }
}

impl Setting {
    /// The names that a person may set: the setting's own, and the parts of its section.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let parts = self.parts.iter().map(|part| format!("{}__{part}", self.name));
        std::iter::once(self.name.to_owned()).chain(parts)
    }

    /// Whether the bindings of the Functions host read the setting too. Such a name is not in capitals, and its case does not
    /// matter.
    pub fn is_binding(&self) -> bool {
        self.name.bytes().any(|byte| byte.is_ascii_lowercase())
    }
}

impl Display for DefaultValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Nothing => Ok(()),
            Value(value) => write!(f, "`{value}`"),
            Words(words) => f.write_str(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value as Json;

    use super::*;
    use crate::config::Config;

    fn file(path: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    fn heading(section: Section) -> &'static str {
        match section {
            MustHave => "## Must have in Azure",
            Likely => "## Likely",
            Own => "## Your own orders",
            Tuning => "## Tuning",
            Odd => "## For tests and odd machines",
            Demonstration => "## The demonstration work",
        }
    }

    fn row(setting: &Setting) -> String {
        let mut name = format!("`{}`", setting.name);
        if let [first, others @ ..] = setting.parts {
            let others: Vec<_> = others.iter().map(|part| format!("`__{part}`")).collect();
            name = format!("{name}, or `{}__{first}` with {}", setting.name, others.join(", "));
        }
        let cells = [name, setting.default.to_string(), setting.says.to_owned()];
        format!("|{}|", cells.map(|cell| if cell.is_empty() { " ".into() } else { format!(" {cell} ") }).join("|"))
    }

    #[test]
    fn the_page_about_settings_says_the_same_as_this_list() {
        let page = file("docs/settings.md");
        let mut section = "";
        let mut told = Vec::new();
        for line in page.lines() {
            if line.starts_with("## ") {
                section = line;
            } else if line.starts_with("| `") {
                told.push((section, line.to_owned()));
            }
        }
        let expected: Vec<_> = ALL.iter().map(|setting| (heading(setting.section), row(setting))).collect();

        assert_eq!(told, expected);
    }

    #[test]
    fn three_tables_are_enough_for_a_person_with_an_app_in_azure() {
        let told = ALL.iter().filter(|setting| matches!(setting.section, MustHave | Likely | Tuning)).count();

        assert!(told <= 31, "{told}");
    }

    #[test]
    fn the_example_sets_what_an_app_must_have_and_nothing_unknown() {
        let example: Json = serde_json::from_str(&file("local.settings.json.example")).unwrap();
        let values = example["Values"].as_object().unwrap();
        let known: BTreeSet<_> =
            ALL.iter().flat_map(Setting::names).chain(["FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"].map(str::to_owned)).collect();

        for name in values.keys() {
            assert!(known.contains(name), "{name}");
        }
        for setting in ALL.iter().filter(|setting| setting.section == MustHave) {
            assert!(values.contains_key(setting.name), "{}", setting.name);
        }
        let local: BTreeMap<_, _> =
            values.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).chain([port()]).collect();
        Config::read(&local).unwrap();
    }

    #[test]
    fn every_default_is_a_value_that_can_be_set() {
        for setting in ALL {
            if let Value(value) = setting.default {
                let mut environment = BTreeMap::from([port(), (setting.name.to_owned(), value.to_owned())]);
                if setting.name.starts_with("FULFILLMENT_") || setting.section == Own {
                    environment.insert("FULFILLMENT_URL".into(), "https://backend.example.com/".into());
                }
                Config::read(&environment).unwrap();
            }
        }
    }

    #[test]
    fn no_name_is_there_twice_or_both_here_and_gone() {
        let names: Vec<_> = ALL.iter().map(|setting| setting.name).chain(GONE.iter().map(|gone| gone.name)).collect();

        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    fn port() -> (String, String) {
        ("FUNCTIONS_CUSTOMHANDLER_PORT".into(), "8080".into())
    }
}
