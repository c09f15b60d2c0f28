//! A Cosmos DB endpoint on loopback: the SDK driver's in-memory emulator behind HTTP, with faults on demand.

mod asked;
mod authorization;
mod connections;
mod control;
mod emulator;
mod expiry;
mod faults;
mod figures;
mod host;
mod stale;
mod stored;

use std::io::Write;
#[cfg(unix)]
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
#[cfg(unix)]
use std::process::Command;
use std::process::ExitCode;
use std::sync::Arc;

use azure_data_cosmos_driver::in_memory_emulator::ConsistencyLevel;
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};
use tokio::net::TcpListener;

use crate::authorization::Authorization;
use crate::connections::Listening;
use crate::control::Control;
use crate::emulator::{Answer, Definition, Emulator};
use crate::host::Host;

/// The container definition that deployments of Waybill use.
const DEFINITION: &str = include_str!("../../../deploy/cosmos-container.json");
/// The default key: public, since it authorizes only requests to this emulator.
const KEY: &str = "Zm9yLWRldmVsb3BtZW50LW9ubHktYW5kLWtub3duLXRvLWV2ZXJ5Ym9keS0wMTIzNDU2Nzg5YWJjZGVmLTAxMg==";

/// A Cosmos DB endpoint on 127.0.0.1, in memory.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 stopped as asked, 1 could not start, 2 wrong arguments.")]
struct Arguments {
    /// Port of the account; 0 for any free port.
    #[arg(long, value_name = "N", default_value_t = 8081)]
    port: u16,
    /// Port for faults and figures; 0 for any free port.
    #[arg(long, value_name = "N", default_value_t = 0)]
    control_port: u16,
    /// The account's default consistency level.
    #[arg(long, value_name = "LEVEL", default_value = "session")]
    consistency: Consistency,
    /// Report that every region takes writes.
    #[arg(long)]
    multi_write: bool,
    /// The database to create.
    #[arg(long, value_name = "NAME", default_value = "waybill")]
    database: String,
    /// The container to create in it.
    #[arg(long, value_name = "NAME", default_value = "orders")]
    container: String,
    /// Create the database but no container.
    #[arg(long)]
    no_container: bool,
    /// A JSON file whose properties replace those of the built-in container definition; null removes a property.
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
    /// The account's key.
    #[arg(long, value_name = "BASE64", default_value = KEY, hide_default_value = true)]
    key: String,
    /// Throughput of the container, at least 400, beyond which requests are throttled.
    #[arg(long, value_name = "N")]
    ru_per_second: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Consistency {
    Strong,
    BoundedStaleness,
    Session,
    ConsistentPrefix,
    Eventual,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(unix)]
    without_backtraces();
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("cosmos-emulator: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program again without backtraces of errors. The emulator makes an error for each absent header; with `RUST_BACKTRACE`,
/// which tests often set, each error walks the stack, and a request costs three times as much. The setting is read once, so a running
/// process cannot change it.
#[cfg(unix)]
fn without_backtraces() {
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set("RUST_BACKTRACE")
        && !is_set("RUST_LIB_BACKTRACE")
        && let Ok(program) = std::env::current_exe()
    {
        // Returns only if it failed; then this process goes on, only slower.
        let _ = Command::new(program).args(std::env::args_os().skip(1)).env("RUST_LIB_BACKTRACE", "0").exec();
    }
}

#[tokio::main]
async fn serve(arguments: Arguments) -> Result<(), String> {
    let stop = stop_signal().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let bind = |port| connections::bind(port).map_err(|error| format!("cannot listen on port {port}: {error}"));
    let listener = bind(arguments.port)?;
    let control_listener = bind(arguments.control_port)?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string());
    let (port, control_port) = (port(&listener)?, port(&control_listener)?);

    let authorization = Authorization::new(&arguments.key)?;
    let definition = Definition {
        consistency: arguments.consistency.into(),
        multi_write: arguments.multi_write,
        database: arguments.database,
        container: arguments.container,
        properties: properties(arguments.definition)?,
        ru_per_second: arguments.ru_per_second,
    };
    let said = format!(
        "CosmosConnection=AccountEndpoint=http://127.0.0.1:{port}/;AccountKey={};\n\
         CosmosDatabase={}\n\
         CosmosContainer={}\n\
         TRACKING_ID_KEY=for-development-only-0123456789abcdef\n\
         # control: http://127.0.0.1:{control_port}\n\
         # records are in memory and end with this process; request charges are the emulator's model, not Azure's\n",
        arguments.key, definition.database, definition.container,
    );
    let host = Arc::new(Host::new(Emulator::new(port, definition)?, authorization));
    created("database", &host.emulator.create_database().await)?;
    if !arguments.no_container {
        created("container", &host.create_container().await)?;
    }
    host.listen(listener).await;
    let _control = Listening::start(control_listener, Arc::new(Control(host)));
    // A closed pipe is not an error: the ports are open all the same.
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(said.as_bytes()).and_then(|()| stdout.flush());

    stop.await;
    Ok(())
}

/// The built-in definition, with properties replaced by those in a file.
fn properties(file: Option<PathBuf>) -> Result<Map<String, Value>, String> {
    let mut properties: Map<String, Value> =
        serde_json::from_str(DEFINITION).map_err(|error| format!("the built-in definition: {error}"))?;
    if let Some(file) = file {
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read(&file).map_err(|error| problem(&error))?;
        properties.extend(serde_json::from_slice::<Map<_, _>>(&text).map_err(|error| problem(&error))?);
        properties.retain(|_, value| !value.is_null());
    }
    Ok(properties)
}

fn created(what: &str, answer: &Answer) -> Result<(), String> {
    if answer.is_success() {
        return Ok(());
    }
    Err(format!("the {what} cannot be created: {}", String::from_utf8_lossy(&answer.body)))
}

/// Registers the stop signals now; the future waits for one.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

impl From<Consistency> for ConsistencyLevel {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Strong => Self::Strong,
            Consistency::BoundedStaleness => Self::BoundedStaleness,
            Consistency::Session => Self::Session,
            Consistency::ConsistentPrefix => Self::ConsistentPrefix,
            Consistency::Eventual => Self::Eventual,
        }
    }
}
