//! Limits on requests: per caller, and for all callers while the backlog is too old or the store does not answer.

use std::time::Duration;

use http::HeaderName;

use crate::config::{Settings, catalogue, duration};

/// Most proxies that a request may have come through.
const MAX_PROXIES: u32 = 16;
/// Longest period of the rate limit: a day.
const MAX_PERIOD: Duration = Duration::from_hours(24);
/// Period of a rate limit that names none.
const PERIOD: Duration = Duration::from_mins(1);

/// The limits on requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests with a cost of each caller in a [period](Self::rate_period) (`RATE_LIMIT`); zero switches the limit off.
    pub rate: u32,
    /// The time in which [requests](Self::rate) are counted, in whole seconds.
    pub rate_period: Duration,
    /// The header in which a gateway names the caller's subscription (`RATE_LIMIT_SUBSCRIPTION_HEADER`). No other header is trusted
    /// for this.
    pub subscription_header: Option<HeaderName>,
    /// The number of own proxies that append to `X-Forwarded-For` (`TRUSTED_PROXIES`). Zero: that header is not trusted.
    pub trusted_proxies: usize,
    /// The age of the backlog beyond which no new order is accepted (`ADMISSION_MAX_AGE`); zero switches the limit off.
    pub admission_max_age: Duration,
}

/// Reads the limits, or lists the mistakes in them.
pub(super) fn read(settings: &mut Settings<'_>, in_azure: bool) -> Limits {
    let (rate, rate_period) = rate(settings);
    Limits {
        rate,
        rate_period,
        subscription_header: subscription_header(settings),
        // The front end of App Service appends the address of its caller. Elsewhere no proxy is known.
        trusted_proxies: settings.number_or("TRUSTED_PROXIES", in_azure.into(), 0, MAX_PROXIES) as usize,
        admission_max_age: settings.duration("ADMISSION_MAX_AGE", Duration::ZERO),
    }
}

/// Reads `100/60s`, `100` for a minute, or `0` for no limit.
fn rate(settings: &mut Settings<'_>) -> (u32, Duration) {
    const NAME: &str = "RATE_LIMIT";
    let text = settings.text(NAME).unwrap_or(catalogue::default(NAME));
    let (number, period) =
        text.split_once('/').map_or((text, Some(PERIOD)), |(number, period)| (number.trim_end(), duration(period.trim())));
    // Clients are told the period in whole seconds.
    let period = period.filter(|period| (1..=MAX_PERIOD.as_secs()).contains(&period.as_secs()) && period.subsec_nanos() == 0);
    match (number.parse(), period) {
        (Ok(number), Some(period)) => (number, period),
        _ => settings.problem(
            format!("{NAME} is {text:?}: set orders and a time of whole seconds, at most a day, such as 100/60s, or 0 for no limit"),
            (0, PERIOD),
        ),
    }
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
    use crate::config::tests::IN_AZURE;

    fn read(pairs: &[(&str, &str)]) -> Result<Limits, Vec<String>> {
        let environment: BTreeMap<_, _> =
            [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")].iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| config.limits)
    }

    #[test]
    fn defaults_allow_100_orders_a_minute_and_trust_no_proxy() {
        let limits = read(&[]).unwrap();

        assert_eq!((limits.rate, limits.rate_period, limits.trusted_proxies), (100, Duration::from_mins(1), 0));
        assert_eq!((limits.subscription_header, limits.admission_max_age), (None, Duration::from_mins(10)));
    }

    #[test]
    fn a_rate_is_orders_in_a_time() {
        for (text, expected) in [("100", (100, 60)), ("100/60s", (100, 60)), ("5 / 1s", (5, 1)), ("1/24h", (1, 86_400)), ("0", (0, 60))] {
            let limits = read(&[("RATE_LIMIT", text)]).unwrap();
            assert_eq!((limits.rate, limits.rate_period.as_secs()), expected, "{text}");
        }
    }

    #[test]
    fn in_azure_one_proxy_stands_before_us() {
        assert_eq!(read(&IN_AZURE).unwrap().trusted_proxies, 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (pair, why) in [
            (("RATE_LIMIT", "many"), "RATE_LIMIT is"),
            (("RATE_LIMIT", "100/0s"), "RATE_LIMIT is"),
            (("RATE_LIMIT", "100/1500ms"), "RATE_LIMIT is"),
            (("RATE_LIMIT", "100/60"), "such as 100/60s"),
            (("RATE_LIMIT", "/60s"), "RATE_LIMIT is"),
            (("RATE_LIMIT", "100/86401s"), "at most a day"),
            (("RATE_LIMIT_SUBSCRIPTION_HEADER", "a b"), "RATE_LIMIT_SUBSCRIPTION_HEADER is"),
            (("TRUSTED_PROXIES", "17"), "from 0 to 16"),
            (("ADMISSION_MAX_AGE", "10"), "ADMISSION_MAX_AGE is"),
        ] {
            let problems = read(&[pair]).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
        }
    }
}
