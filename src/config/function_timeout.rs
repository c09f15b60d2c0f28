//! The time limit of an invocation: `functionTimeout` of the app's `host.json`, which the host does not tell the handler.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::Duration;

use host_json::time_span::time_span;

use crate::config::{MAX_DURATION, Settings, duration};

/// The host's own default without `functionTimeout`: five minutes on the Consumption plan, and more on every other plan.
const DEFAULT: Duration = Duration::from_mins(5);
/// No time limit, as a duration: far from the end of every clock that is used.
pub const UNLIMITED: Duration = Duration::from_millis(MAX_DURATION);
/// Shortest `functionTimeout` that the host accepts.
const LEAST: Duration = Duration::from_secs(1);
/// The app setting by which the host replaces `functionTimeout` of `host.json`.
const HOST_SETTING: &str = "AzureFunctionsJobHost__functionTimeout";

/// The time after which the host ends an invocation, and the handler with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionTimeout {
    /// The limit. [`UNLIMITED`]: there is none.
    pub value: Duration,
    /// The place where the limit was found.
    pub source: Source,
    /// The reason why the limit was not found elsewhere, for the log.
    pub remark: Option<String>,
}

/// The place where `functionTimeout` was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The variable `FUNCTION_TIMEOUT`, which overrides all others.
    Variable,
    /// The app setting that replaces the value in `host.json`.
    HostSetting,
    /// The app's `host.json`.
    HostJson,
    /// No place: the default counts.
    Default,
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => "FUNCTION_TIMEOUT",
            Self::HostSetting => HOST_SETTING,
            Self::HostJson => "functionTimeout in host.json",
            Self::Default => "functionTimeout (5m, since host.json sets no other)",
        })
    }
}

impl Source {
    /// The name under which a person finds the limit.
    pub fn file(self) -> &'static str {
        match self {
            Self::Variable => "environment",
            Self::HostSetting => HOST_SETTING,
            Self::HostJson => "host.json",
            Self::Default => "default",
        }
    }
}

/// Finds the time limit, also when other settings are wrong.
pub fn of(environment: &BTreeMap<String, String>) -> FunctionTimeout {
    read(&mut Settings { environment, own_work: false, problems: Vec::new() })
}

/// Finds the time limit, or reports the mistake in `FUNCTION_TIMEOUT`.
pub(super) fn read(settings: &mut Settings<'_>) -> FunctionTimeout {
    const NAME: &str = "FUNCTION_TIMEOUT";
    let found = |value, source| FunctionTimeout { value, source, remark: None };
    let default = |remark| FunctionTimeout { remark: Some(remark), ..found(DEFAULT, Source::Default) };
    if let Some(text) = settings.text(NAME) {
        if text == "-1" {
            return found(UNLIMITED, Source::Variable);
        }
        let Some(timeout) = duration(text).filter(|timeout| *timeout >= LEAST) else {
            let problem = format!("{NAME} is {text:?}: set at least 1s, with a unit (ms, s, m, h, d), or -1 for no limit");
            return settings.problem(problem, found(DEFAULT, Source::Variable));
        };
        return found(timeout, Source::Variable);
    }
    if let Some(text) = settings.host_setting(HOST_SETTING) {
        return match time_limit(text) {
            Some(limit) => found(limit, Source::HostSetting),
            None => default(format!("{HOST_SETTING} is {text:?}, which is no time that the host accepts")),
        };
    }
    let path = settings.app_root().join("host.json");
    match from_host_json(&path) {
        Ok(Some(limit)) => found(limit, Source::HostJson),
        Ok(None) => default(format!("{} has no functionTimeout", path.display())),
        Err(problem) => default(format!("{} cannot be read: {problem}", path.display())),
    }
}

fn from_host_json(path: &Path) -> Result<Option<Duration>, String> {
    let text = host_json::text_of(path)?;
    let document = host_json::parse(&text)?;
    let mut values = document.as_object().into_iter().flatten();
    let Some((_, value)) = values.find(|(name, _)| name.eq_ignore_ascii_case("functionTimeout")) else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text == "null" {
        return Ok(None);
    }
    time_limit(&text).map(Some).ok_or_else(|| format!("functionTimeout is {text}, which is no time that the host accepts"))
}

/// A time limit that the host accepts. `-1` is no limit.
fn time_limit(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "-1" {
        return Some(UNLIMITED);
    }
    time_span(text).map(|limit| limit.min(UNLIMITED)).filter(|limit| *limit >= LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_host_reads_them() {
        for (text, expected) in [
            ("00:05:00", Some(Duration::from_secs(300))),
            ("00:00:05.5", Some(Duration::from_millis(5_500))),
            ("1:30", Some(Duration::from_secs(5_400))),
            ("1.02:00:00", Some(Duration::from_secs(93_600))),
            ("1:02:00:00", Some(Duration::from_secs(93_600))),
            ("24:00:00", Some(Duration::from_secs(24 * 86_400))),
            ("2", Some(Duration::from_secs(2 * 86_400))),
            ("-1", Some(UNLIMITED)),
            ("00:00:00", None),
            ("00:60:00", None),
            ("5m", None),
            ("", None),
        ] {
            assert_eq!(time_limit(text), expected, "{text}");
        }
    }
}
