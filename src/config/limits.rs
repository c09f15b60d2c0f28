//! What is refused at the door: who asks too often, and everybody while too much waits or the store is away.

use std::time::Duration;

use http::HeaderName;

use crate::config::Settings;

/// Most proxies that a request may have come through.
const MAX_PROXIES: u32 = 16;
/// Longest period of the rate limit, in seconds.
const MAX_PERIOD: u32 = 86_400;

/// The limits at the door.
#[derive(Debug, Clone)]
pub struct Limits {
    /// So many requests a period that cost something, of each caller (`RATE_LIMIT`); zero switches it off.
    pub rate: u32,
    /// That period (`RATE_LIMIT_PERIOD_SECONDS`).
    pub rate_period: Duration,
    /// A header in which a gateway names the caller's subscription (`RATE_LIMIT_SUBSCRIPTION_HEADER`); believed only if named.
    pub subscription_header: Option<HeaderName>,
    /// How many proxies of ours append to `X-Forwarded-For` (`TRUSTED_PROXIES`); without any it is not believed.
    pub trusted_proxies: usize,
    /// The age of the backlog beyond which no new order is accepted (`ADMISSION_MAX_AGE`); zero switches it off.
    pub admission_max_age: Duration,
    /// After so many failures of the store in a row new orders leave it alone (`STORE_BREAKER_FAILURES`).
    pub store_breaker_failures: u32,
    /// For so long at first (`STORE_BREAKER_PAUSE`).
    pub store_breaker_pause: Duration,
}

/// Reads the limits, or names what is wrong with them.
pub(super) fn read(settings: &mut Settings<'_>, in_azure: bool) -> Limits {
    Limits {
        rate: settings.number("RATE_LIMIT", 100, 0),
        rate_period: Duration::from_secs(up_to(settings, "RATE_LIMIT_PERIOD_SECONDS", 60, 1, MAX_PERIOD).into()),
        subscription_header: subscription_header(settings),
        // The front end of App Service appends the address that called it; elsewhere nothing is known of what stands before us.
        trusted_proxies: up_to(settings, "TRUSTED_PROXIES", in_azure.into(), 0, MAX_PROXIES) as usize,
        admission_max_age: settings.duration("ADMISSION_MAX_AGE", Duration::from_mins(10), Duration::ZERO),
        store_breaker_failures: settings.number("STORE_BREAKER_FAILURES", 5, 1),
        store_breaker_pause: settings.duration("STORE_BREAKER_PAUSE", Duration::from_secs(2), Duration::from_millis(10)),
    }
}

fn up_to(settings: &mut Settings<'_>, name: &str, default: u32, least: u32, most: u32) -> u32 {
    let number = settings.number(name, default, least);
    if number > most {
        return settings.problem(format!("{name} is \"{number}\": set a whole number from {least} to {most}"), default);
    }
    number
}

fn subscription_header(settings: &mut Settings<'_>) -> Option<HeaderName> {
    const NAME: &str = "RATE_LIMIT_SUBSCRIPTION_HEADER";
    let text = settings.text(NAME)?;
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return settings.problem(format!("{NAME} is {text:?}: set the name of a header such as X-Subscription-Id"), None);
    };
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    fn read(pairs: &[(&str, &str)]) -> Result<Limits, Vec<String>> {
        let environment: BTreeMap<_, _> =
            [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")].iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| config.limits)
    }

    #[test]
    fn defaults_limit_and_believe_nobody() {
        let limits = read(&[]).unwrap();

        assert_eq!((limits.rate, limits.rate_period, limits.trusted_proxies), (100, Duration::from_mins(1), 0));
        assert_eq!((limits.subscription_header, limits.admission_max_age), (None, Duration::from_mins(10)));
    }

    #[test]
    fn in_azure_one_proxy_stands_before_us() {
        let azure = [
            ("WEBSITE_INSTANCE_ID", "i"),
            ("TRACKING_ID_KEY", "0123456789abcdef0123456789abcdef"),
            ("CosmosConnection__accountEndpoint", "https://account.documents.azure.com/"),
            ("CosmosDatabase", "d"),
            ("CosmosContainer", "c"),
            ("OrdersQueue", "orders"),
            ("ServiceBusConnection__fullyQualifiedNamespace", "n.servicebus.windows.net"),
        ];

        assert_eq!(read(&azure).unwrap().trusted_proxies, 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (pair, why) in [
            (("RATE_LIMIT", "many"), "RATE_LIMIT is"),
            (("RATE_LIMIT_PERIOD_SECONDS", "0"), "RATE_LIMIT_PERIOD_SECONDS is"),
            (("RATE_LIMIT_PERIOD_SECONDS", "86401"), "from 1 to 86400"),
            (("RATE_LIMIT_SUBSCRIPTION_HEADER", "a b"), "RATE_LIMIT_SUBSCRIPTION_HEADER is"),
            (("TRUSTED_PROXIES", "17"), "from 0 to 16"),
            (("ADMISSION_MAX_AGE", "10"), "ADMISSION_MAX_AGE is"),
            (("STORE_BREAKER_FAILURES", "0"), "STORE_BREAKER_FAILURES is"),
            (("STORE_BREAKER_PAUSE", "1ms"), "STORE_BREAKER_PAUSE is"),
        ] {
            let problems = read(&[pair]).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
        }
    }
}
