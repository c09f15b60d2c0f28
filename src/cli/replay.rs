//! `waybill replay`: recorded invocations, sent to a handler once more without effects, and its answers compared.

mod shown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use functions_host::app;
use functions_host::arguments::Arguments;
use functions_host::recording::Recording;
use functions_host::recording::folder;
use functions_host::replay::{self, Ended, Names, Refused};
use reqwest::Url;
use serving::output;
use serving::stop::StopSignals;
use serving::terminal::printable;

use crate::cli;
use crate::cli::local;
use crate::cli::replay::shown::{Shown, Tally};
use crate::config::LogConfig;
use crate::functions::shown::BOOKMARK;

/// Where recordings are looked for that an id names.
const RECORDINGS: &str = "recordings";
/// The backend of the app.
const BACKEND: &str = "FULFILLMENT_URL";
/// Beginnings of the settings, in small letters, that lead to effects outside, or that a recording has no secrets for.
const WITHHELD: [&str; 11] = [
    "appinsights_",
    "applicationinsights_",
    "auth_",
    "azure_cosmos_emulator_host",
    "callback_",
    "cosmosconnection",
    "cosmoscontainer",
    "cosmosdatabase",
    "fulfillment_authorization",
    "otel_",
    "servicebusconnection",
];
/// A namespace that is this machine.
const NAMESPACE: &str =
    "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=local;UseDevelopmentEmulator=true;";
/// What differs from run to run: cursors are sealed; with one store a status URL has a bookmark, and with another it has none; the limit
/// of a caller's requests is switched off.
const NAMES: Names = Names { tokens: &["cursor", "nextCursor"], absent: &[BOOKMARK], headers: &["RateLimit", "RateLimit-Policy"] };

/// Options of `waybill replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every answer is the same, 1 one differs or the handler does not start, 2 wrong use or wrong recordings, 130 stopped."
)]
pub(super) struct Options {
    /// Recordings: files, folders of them, or an id that they hold, such as a tracking id or the id of an invocation.
    #[arg(required = true, value_name = "FILE|DIR|ID")]
    what: Vec<String>,
    /// The folder in which an id is looked for.
    #[arg(long, value_name = "DIR", default_value = RECORDINGS)]
    from: PathBuf,
    /// The app's folder, where host.json is.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The handler to start, instead of the one host.json names.
    #[arg(long, value_name = "PATH")]
    handler: Option<PathBuf>,
    /// The service that does the work, on this machine, instead of the one of the app's settings.
    #[arg(long, value_name = "URL", value_parser = backend)]
    backend: Option<String>,
    /// Send invocations with a Content-Length, as `func start` does, instead of chunked, as Azure does.
    #[arg(long)]
    content_length: bool,
    /// Show the handler's log lines, on stderr.
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// How a replay that ran came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every answer is the same.
    Same,
    /// One differs.
    Differs,
    /// The options or the recordings are wrong; the reason is told.
    Misused,
    /// A person stopped it.
    Stopped,
}

/// Replays. `Err`: why the handler did not start or go on, one line each.
pub(super) fn run(options: &Options, environment: &BTreeMap<String, String>) -> Result<Outcome, Vec<String>> {
    // Before any line of a log: stdout is for the outcome.
    output::aside();
    let mut environment = environment.clone();
    let mut log = LogConfig::read(&environment);
    local::refuse_in_azure(&environment)?;
    let misused = |why: String| {
        output::complain(&format!("waybill: {}", printable(&why)));
        Ok(Outcome::Misused)
    };
    let recordings = match recordings(options) {
        Ok(recordings) => recordings,
        Err(why) => return misused(why),
    };
    let mut settings = app::settings_of(&options.app).unwrap_or_default();
    settings.extend(environment.clone());
    let is_set = |name: &str| settings.get(name).is_some_and(|value| !value.is_empty());
    if is_set(BACKEND) && options.backend.is_none() {
        return misused(format!(
            "{BACKEND} is set, and a replay calls no service: start one for it on this machine and pass --backend URL"
        ));
    }
    let mut host = local::options(Arguments {
        handler: options.handler.clone(),
        content_length: options.content_length,
        ..Arguments::of(options.app.clone())
    });
    // Replays are faster than the clients were.
    for (name, value) in [("ServiceBusConnection", NAMESPACE), ("RATE_LIMIT", "0"), (BACKEND, options.backend.as_deref().unwrap_or(""))] {
        host.variables.insert(name.into(), value.into());
    }
    if !options.verbose && !is_set("RUST_LOG") {
        host.variables.insert("RUST_LOG".into(), "warn".into());
        log.levels = "warn".into();
    }
    let _output = cli::start_log(&log, None);
    if is_set("AUTH_ISSUER") {
        output::complain("AUTH_ISSUER does not count in a replay: recordings have no tokens, so no caller is known");
    }
    host.inherited = Some(is_inherited);
    environment.retain(|name, _| is_inherited(name));

    let mut tally = Tally::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| vec![error.to_string()])?;
    let ended = runtime.block_on(async {
        let mut signals = StopSignals::listen();
        let tell = |replayed: &replay::Replayed<'_>| {
            tally.count(&replayed.outcome);
            Shown(replayed).print(options.json);
        };
        replay::run(&host, &environment, &recordings, &NAMES, tell, signals.next()).await
    });
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Stopped) => Ok(Outcome::Stopped),
        Ok(Ended::Whole) => {
            tally.print(options.json);
            Ok(if tally.is_same() { Outcome::Same } else { Outcome::Differs })
        }
        Err(Refused::Recordings(why)) => misused(why),
        Err(Refused::App(problems)) => Err(problems),
    }
}

/// The recordings that are meant, in the order of their begin. The error is told to a person.
fn recordings(options: &Options) -> Result<Vec<Recording>, String> {
    let (mut places, mut ids) = (Vec::new(), Vec::new());
    for what in &options.what {
        let path = Path::new(what);
        if path.exists() {
            places.push(path.to_owned());
        } else if what.contains(['/', std::path::MAIN_SEPARATOR]) || path.extension().is_some_and(|end| end == "json") {
            return Err(format!("there is no {what}"));
        } else {
            ids.push(what.as_str());
        }
    }
    let mut recordings = if places.is_empty() { Vec::new() } else { folder::read(&places, |_| true)? };
    if !ids.is_empty() {
        let from = options.from.display();
        if !options.from.is_dir() {
            return Err(format!("there is no folder {from} to look for {} in: name it with --from DIR", ids.join(", ")));
        }
        let found = folder::read(std::slice::from_ref(&options.from), |recording| ids.iter().any(|id| recording.holds(id)))?;
        if let Some(unknown) = ids.iter().find(|id| !found.iter().any(|recording| recording.holds(id))) {
            return Err(format!("no recording in {from} has {unknown}"));
        }
        recordings.extend(found);
        recordings.sort_by_key(|recording| (recording.began, recording.invocation));
        recordings.dedup_by_key(|recording| (recording.began, recording.invocation));
    }
    if recordings.is_empty() {
        return Err(format!("there is no recording in {}: `waybill local --record DIR` makes them", options.what.join(", ")));
    }
    Ok(recordings)
}

/// Whether the handler gets a setting or a variable of this name.
fn is_inherited(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !WITHHELD.iter().any(|start| name.starts_with(start))
}

/// A URL of this machine.
fn backend(text: &str) -> Result<String, &'static str> {
    let is_own = |url: &Url| match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && is_own(url));
    url.map(|_| text.to_owned()).ok_or("use a URL of this machine such as http://127.0.0.1:9000")
}
