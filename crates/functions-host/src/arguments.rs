//! Command-line options of the host. A program that runs the host inside itself flattens them into its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Command-line options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The app's folder, where host.json is.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub app: PathBuf,
    /// Port to listen on; 0 for any free one [default: Host.LocalHttpPort of local.settings.json, else 7071]
    #[arg(long)]
    pub port: Option<u16>,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Directory of all durable data [default: a hidden directory in the app's folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The handler to start, instead of the one host.json names.
    #[arg(long, value_name = "PATH")]
    pub handler: Option<PathBuf>,
    /// Send invocations with a Content-Length, as `func start` does, instead of chunked, as Azure does.
    #[arg(long)]
    pub content_length: bool,
    /// Time that a receiver holds a message before the message is delivered again.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub lock_duration: Duration,
    /// Deliveries before a message is dead-lettered.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_delivery_count: u32,
    /// Time for running invocations to end after Ctrl-C.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Show only log lines about this function, or about this id of an invocation, an order or anything else.
    #[arg(long, value_name = "FUNCTION|ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub log: Option<String>,
    /// Record what each invocation sends to the handler, and its answer, as files in this directory.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
    /// Replace the handler when a file of the app changes that git does not ignore.
    #[arg(long)]
    pub watch: bool,
    /// Command that builds the handler, for a shell: run at the start and after each change, before the handler is replaced.
    #[arg(long, value_name = "COMMAND", requires = "watch")]
    pub build: Option<String>,
}

impl Arguments {
    /// What counts for the app in this folder without an option.
    pub fn of(app: PathBuf) -> Self {
        Self {
            app,
            port: None,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            data: None,
            handler: None,
            content_length: false,
            lock_duration: Duration::from_mins(1),
            max_delivery_count: 10,
            drain_timeout: Duration::from_secs(10),
            log: None,
            record: None,
            watch: false,
            build: None,
        }
    }
}

/// A positive time such as 30s, in one or more units.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let span: Option<Span> = text.parse().ok();
    let signed = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let duration = signed.and_then(|signed| Duration::try_from(signed).ok());
    duration.filter(|duration| !duration.is_zero()).ok_or("use a number with a unit (ms, s, m, h, d) such as 30s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_are_positive() {
        for (text, milliseconds) in [("250ms", 250), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)] {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), Ok(milliseconds), "{text}");
        }
        for text in ["", "0", "0s", "30", "-1s", "1 s ago", "99999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
