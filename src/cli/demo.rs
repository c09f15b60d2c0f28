//! `waybill demo`: one order walks from POST to completed, through the real host stand-in, handler, queue and store.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use functions_host::arguments::Arguments;
use functions_host::host::{self, Up};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use serving::output::Output;
use serving::stop::StopSignals;
use tokio::sync::oneshot;

use crate::cli::app_files::{APP, ORDER, SETTINGS};
use crate::cli::{self, local};
use crate::config::{LogConfig, LogForm};

/// The name of the settings of this machine in an app's folder.
const SETTINGS_NAME: &str = "local.settings.json";
/// The built-in order that is sent.
/// The key of an order that an app is tried with: one without a number needs a key.
const KEY: &str = "waybill-check";
/// The pause before each of the four stages, so that there is progress to see.
const WORK_DELAY: &str = "400ms";
/// The pause between two looks at the status.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The longest time of a demo: one that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Variables that the demo takes from the environment. A setting there may be of production, such as the URL of a backend.
const TAKEN: [&str; 18] = [
    "PATH",
    "HOME",
    "USERPROFILE",
    "SYSTEMROOT",
    "TMPDIR",
    "TMP",
    "TEMP",
    "LANG",
    "LC_ALL",
    "TZ",
    "TERM",
    "NO_COLOR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "LOG_FORMAT",
    "LD_LIBRARY_PATH",
    // Where the machine's certificates are.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

fn is_taken(name: &str) -> bool {
    TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(name))
}

macro_rules! say {
    ($voice:expr, $($text:tt)*) => { $voice.say(format_args!("{}\n", format_args!($($text)*))) };
}

/// How the demo ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The order is completed.
    Whole,
    /// A person stopped it.
    Stopped,
}

/// Runs the demo. `Err`: what went wrong.
pub fn run(environment: &BTreeMap<String, String>) -> Result<Shown, Vec<String>> {
    let stage = Stage::set(environment)?;
    for (path, text) in APP {
        stage.write(path, text)?;
    }
    let mut settings = serde_json::from_str(SETTINGS).map_err(|error| vec![error.to_string()])?;
    set(&mut settings, "WORK_DELAY", WORK_DELAY);
    stage.write_settings(settings)?;
    let handler = std::env::current_exe().map_err(|error| vec![error.to_string()])?;
    // A log for machines has stdout for itself.
    let voice = if LogConfig::read(&stage.taken).form == LogForm::Json { Voice::Stderr } else { Voice::Stdout };
    stage.play(Some(handler), &Trial::Order(ORDER.into()), voice)
}

/// What an app does once it is started.
pub(super) enum Trial {
    /// This order goes to its end.
    Order(Vec<u8>),
    /// The app says of itself that it is ready.
    Health,
}

/// Where an order's way is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Stdout,
    Stderr,
    Silent,
}

impl Voice {
    /// A closed pipe is no reason to stop half way.
    fn say(self, text: fmt::Arguments<'_>) {
        match self {
            Self::Stdout => drop(std::io::stdout().write_fmt(text).and_then(|()| std::io::stdout().flush())),
            Self::Stderr => drop(std::io::stderr().write_fmt(text)),
            Self::Silent => {}
        }
    }

    fn is_at_a_terminal(self) -> bool {
        match self {
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::Stderr => std::io::stderr().is_terminal(),
            Self::Silent => false,
        }
    }
}

/// A temporary app, and what it is started with.
pub(super) struct Stage {
    directory: Directory,
    /// What is taken from the environment.
    taken: BTreeMap<String, String>,
    /// The levels of its log lines (`RUST_LOG`).
    levels: String,
    _output: Output,
}

impl Stage {
    /// A directory without an app yet.
    pub(super) fn set(environment: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        local::refuse_in_azure(environment)?;
        let mut taken = environment.clone();
        taken.retain(|name, _| is_taken(name));
        let mut log = LogConfig::read(&taken);
        if !taken.contains_key("RUST_LOG") {
            log.levels = "error".into();
        }
        let output = cli::start_log(&log, None);
        let directory = Directory::make().map_err(|error| vec![format!("cannot make a temporary directory: {error}")])?;
        Ok(Self { directory, taken, levels: log.levels, _output: output })
    }

    /// The folder of the app; it does not exist yet.
    pub(super) fn app(&self) -> PathBuf {
        self.directory.0.join("app")
    }

    fn write(&self, path: &str, text: &str) -> Result<(), Vec<String>> {
        write(&self.app().join(path), text).map_err(|error| vec![format!("cannot write {path}: {error}")])
    }

    /// Writes the settings of this machine, with levels for log lines.
    fn write_settings(&self, mut settings: Value) -> Result<(), Vec<String>> {
        set(&mut settings, "RUST_LOG", &self.levels);
        self.write(SETTINGS_NAME, &settings.to_string())
    }

    /// Starts the app that is in the folder by now, by its own host.json and with these settings, and tries it without a word.
    pub(super) fn try_out(self, settings: Value, trial: &Trial) -> Result<(), Vec<String>> {
        self.write_settings(settings)?;
        match self.play(None, trial, Voice::Silent)? {
            Shown::Whole => Ok(()),
            Shown::Stopped => Err(vec!["stopped before the end".into()]),
        }
    }

    fn play(self, handler: Option<PathBuf>, trial: &Trial, voice: Voice) -> Result<Shown, Vec<String>> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| vec![error.to_string()])?;
        let ended = runtime.block_on(walk(&self, handler, trial, voice));
        runtime.shutdown_background();
        ended
    }
}

/// Sets a value of a local.settings.json.
fn set(settings: &mut Value, name: &str, value: &str) {
    if let Some(values) = settings.get_mut("Values").and_then(Value::as_object_mut) {
        values.insert(name.into(), value.into());
    }
}

/// One trial of the app; `handler` instead of the one its host.json names.
async fn walk(stage: &Stage, handler: Option<PathBuf>, trial: &Trial, voice: Voice) -> Result<Shown, Vec<String>> {
    let arguments = Arguments {
        port: Some(0),
        data: Some(stage.directory.0.join("data")),
        handler,
        drain_timeout: Duration::from_secs(5),
        ..Arguments::of(stage.app())
    };
    let (up_sender, up) = oneshot::channel();
    let (done_sender, done) = oneshot::channel::<()>();
    let mut signals = StopSignals::listen();
    let is_stopped = Cell::new(false);
    let stop = async {
        tokio::select! {
            _ = done => {}
            () = signals.next() => is_stopped.set(true),
        }
    };
    let show = async {
        let shown = match up.await {
            Ok(Up { address, .. }) => {
                let (tried, late) = match trial {
                    Trial::Order(order) => {
                        (tokio::time::timeout(PATIENCE, show(address, order.clone(), voice)).await, "the order did not end in time")
                    }
                    Trial::Health => (tokio::time::timeout(PATIENCE, ready(address)).await, "/api/health did not say ready in time"),
                };
                tried.unwrap_or_else(|_| Err(late.into()))
            }
            Err(_) => Ok(()), // the host says itself why it did not start
        };
        // The host may have ended already.
        done_sender.send(()).unwrap_or_default();
        shown
    };
    let mut options = local::options(arguments);
    options.inherited = Some(is_taken);
    let (ended, shown) = tokio::join!(host::run(options, &stage.taken, up_sender, stop), show);
    if is_stopped.get() {
        // The line of the progress ends here. Whatever broke off is what was asked for.
        say!(voice, "");
        return Ok(Shown::Stopped);
    }
    ended?;
    shown.map(|()| Shown::Whole).map_err(|problem| vec![problem])
}

/// Sends the order and follows it to its end.
async fn show(address: SocketAddr, order: Vec<u8>, voice: Voice) -> Result<(), String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    say!(voice, "An order comes in:\n\n    POST http://{address}/api/orders\n");
    let mut request = Request::post(format!("http://{address}/api/orders")).header("Content-Type", "application/json");
    if voice == Voice::Silent {
        request = request.header("Idempotency-Key", KEY);
    }
    let (status, accepted) = ask(&client, request.body(Full::new(Bytes::from(order)))).await?;
    say!(voice, "It is on disk before it is answered:\n\n    {status}\n{}\n", indented(&accepted));
    if status != StatusCode::ACCEPTED {
        return Err(format!("the order was answered with {status}: {accepted}"));
    }
    let url = accepted["statusUrl"].as_str().ok_or("the answer has no statusUrl")?;
    say!(voice, "Its progress:\n\n    GET {url}\n");
    let started = Instant::now();
    let mut before = Value::Null;
    loop {
        let (status, record) = ask(&client, Request::get(url).body(Full::default())).await?;
        if status != StatusCode::OK {
            return Err(format!("the status was answered with {status}: {record}"));
        }
        let now = Value::from([record["status"].clone(), record["progress"].clone(), record["stage"].clone()].to_vec());
        if now != before {
            line(&record, started.elapsed(), voice);
        }
        before = now;
        match record["status"].as_str() {
            Some("completed") => {
                say!(voice, "\n\n{}\n\nThe order is completed. Next: `waybill local`, and send your own.", indented(&record));
                return Ok(());
            }
            Some("failed" | "cancelled") => return Err(format!("the order ended as {record}")),
            _ => tokio::time::sleep(LOOK_PERIOD).await,
        }
    }
}

/// Waits until the app says that it is ready.
async fn ready(address: SocketAddr) -> Result<(), String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    loop {
        match ask(&client, Request::get(format!("http://{address}/api/health")).body(Full::default())).await? {
            (StatusCode::OK, _) => return Ok(()),
            // Its store is being opened.
            (StatusCode::SERVICE_UNAVAILABLE, _) => tokio::time::sleep(LOOK_PERIOD).await,
            (status, body) => return Err(format!("/api/health was answered with {status}: {body}")),
        }
    }
}

async fn ask(
    client: &Client<HttpConnector, Full<Bytes>>,
    request: hyper::http::Result<Request<Full<Bytes>>>,
) -> Result<(StatusCode, Value), String> {
    let request = request.map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Progress: one line that moves on a terminal, one line per change elsewhere.
fn line(record: &Value, elapsed: Duration, voice: Voice) {
    let progress = record["progress"].as_u64().unwrap_or(0).min(100);
    let filled = usize::try_from(progress / 5).unwrap_or(0);
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(20 - filled));
    let text = format!(
        "    [{bar}] {progress:3} %  {:10}  {:20} {:5.1} s",
        record["status"].as_str().unwrap_or_default(),
        record["stage"].as_str().unwrap_or_default(),
        elapsed.as_secs_f64()
    );
    let ends = if voice.is_at_a_terminal() { ("\r", "") } else { ("", "\n") };
    voice.say(format_args!("{}{text}{}", ends.0, ends.1));
}

fn indented(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}

/// A directory that is removed when the demo ends.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("waybill-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The system removes temporary files that are left behind.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
