//! `FULFILLMENT_URL` and the settings that belong to it: the HTTP service that does the work, instead of the built-in pricing.
//!
//! Plain `http://` is allowed anywhere, not on this machine only: the backend is the deployment's own, and private networks and
//! service meshes often end TLS elsewhere.

use std::time::Duration;

use azure_core::http::Url;
use http::HeaderValue;

use crate::config::Settings;

/// Orders in a row whose calls failed, after which the service is not called for a pause. A call that reaches no service counts each
/// time. So neither the tries of one order (`MAX_ATTEMPTS`) nor those of four open the breaker of a service that does all others.
pub const BREAKER_FAILURES: usize = 5;
/// Longest pause in which the service is not called, after any number of failed probes.
pub const MAX_BREAKER_PAUSE: Duration = Duration::from_mins(2);

/// An HTTP service, and its limits of time.
#[derive(Debug, Clone)]
pub struct Http {
    /// The URL that orders are posted to (`FULFILLMENT_URL`).
    pub url: Url,
    /// The time from the call to the result, polls included (`FULFILLMENT_TIMEOUT`); below the host's `functionTimeout`.
    pub timeout: Duration,
    /// The `Authorization` header, to the letter (`FULFILLMENT_AUTHORIZATION`); marked as sensitive, so that nothing shows it.
    pub authorization: Option<HeaderValue>,
    /// The first pause after [`BREAKER_FAILURES`], without any call: longer than the first retries of one order wait.
    pub breaker_pause: Duration,
}

/// Reads the backend, or lists the mistakes. `None`: the work is the built-in one, or there was a mistake.
pub(super) fn read(settings: &mut Settings<'_>, retry_base: Duration) -> Option<Http> {
    let timeout = settings.duration("FULFILLMENT_TIMEOUT", Duration::from_millis(100));
    let breaker_pause = (retry_base * 5).min(MAX_BREAKER_PAUSE);
    let authorization = authorization(settings);
    let text = settings.text("FULFILLMENT_URL")?;
    let url = Url::parse(text).ok().filter(|url| {
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && plain
    });
    let Some(url) = url else {
        // The text is not repeated: it may contain a password.
        let problem = "FULFILLMENT_URL is no URL to post orders to: set e.g. https://backend.example.com/orders, and what lets us in as \
                       FULFILLMENT_AUTHORIZATION, not in the URL";
        return settings.problem(problem.into(), None);
    };
    Some(Http { url, timeout, authorization, breaker_pause })
}

/// Reads the `Authorization` header. A problem does not repeat the text.
fn authorization(settings: &mut Settings<'_>) -> Option<HeaderValue> {
    let Ok(mut value) = HeaderValue::from_str(settings.text("FULFILLMENT_AUTHORIZATION")?) else {
        return settings.problem("FULFILLMENT_AUTHORIZATION is no header value: set one line such as `Bearer TOKEN`".into(), None);
    };
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    const URL: (&str, &str) = ("FULFILLMENT_URL", "http://backend.internal:8080/orders?code=1");

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Http>, Vec<String>> {
        let environment: BTreeMap<_, _> =
            [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")].iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Config::read(&environment).map(|config| config.fulfillment)
    }

    #[test]
    fn a_url_is_enough() {
        let http = read(&[URL]).unwrap().unwrap();

        assert_eq!((http.url.as_str(), http.timeout, http.authorization), (URL.1, Duration::from_mins(4), None));
        assert_eq!(http.breaker_pause, Duration::from_secs(10));
        assert!(read(&[]).unwrap().is_none());
    }

    #[test]
    fn nothing_shows_the_authorization() {
        let http = read(&[URL, ("FULFILLMENT_AUTHORIZATION", "Bearer c2VjcmV0")]).unwrap().unwrap();

        assert_eq!(http.authorization.as_ref().unwrap(), "Bearer c2VjcmV0");
        assert!(!format!("{http:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn mistakes_are_named_and_no_secret_with_them() {
        for (pairs, why) in [
            (&[("FULFILLMENT_URL", "backend")] as &[_], "FULFILLMENT_URL is no URL"),
            (&[("FULFILLMENT_URL", "ftp://backend.example/")], "FULFILLMENT_URL is no URL"),
            (&[("FULFILLMENT_URL", "https://u:c2VjcmV0@backend.example/")], "not in the URL"),
            (&[("FULFILLMENT_URL", "https://backend.example/#x")], "FULFILLMENT_URL is no URL"),
            (&[("FULFILLMENT_AUTHORIZATION", "Bearer c2VjcmV0")], "FULFILLMENT_URL is not set"),
            (&[URL, ("FULFILLMENT_AUTHORIZATION", "c2VjcmV0\nX: y")], "FULFILLMENT_AUTHORIZATION is no header value"),
            (&[URL, ("FULFILLMENT_TIMEOUT", "99ms")], "FULFILLMENT_TIMEOUT is"),
            (&[("FULFILLMENT_TIMEOUT", "4m")], "FULFILLMENT_URL is not set, but FULFILLMENT_TIMEOUT is"),
            (&[URL, ("WORK_DELAY", "1s")], "WORK_DELAY is for the built-in work"),
            (&[URL, ("TAX_RATE", "0.1")], "TAX_RATE is for the built-in work"),
        ] {
            let problems = read(pairs).expect_err(why);
            assert!(problems.iter().any(|problem| problem.contains(why)), "{why}: {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("c2VjcmV0")), "{problems:?}");
        }
    }
}
