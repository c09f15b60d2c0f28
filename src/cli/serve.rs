//! `waybill serve`: the handler, as the Functions host starts it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use group_commit::database::Error;
use hyper::Request;
use hyper::body::Incoming;
use serving::host_names;
use serving::process;
use serving::server::{self, Drained, Limits};
use serving::stop::StopSignals;
use tokio::net::TcpListener;
use tower_service::Service;
use tracing::{info, warn};

use crate::cli;
use crate::config::{Config, LogConfig, Records};
use crate::fulfillment::Fulfillment;
use crate::functions::app::App;
use crate::functions::callbacks::send;
use crate::functions::routes::routes;
use crate::store::StatusStore;
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::Telemetry;

/// Longest wait for the next request on a connection. Longer than the host keeps idle connections (.NET: 1 min, in older versions
/// 2 min): if the handler closes a connection while the host sends on it, the client gets an empty 500.
const HEADER_TIMEOUT: Duration = Duration::from_secs(150);

/// Runs the handler until it is asked to stop. `Err`: the reasons why it could not start or go on, one line each.
pub fn run(environment: &BTreeMap<String, String>, own_work: Option<Fulfillment>) -> Result<(), Vec<String>> {
    let config = if own_work.is_some() { Config::read_for_own_work(environment) } else { Config::read(environment) }?;
    if let Some(problem) = process::clock_mistake() {
        return Err(vec![problem]);
    }
    process::open_many_files();
    // Two threads: one to answer while the other parses; the disk has threads of its own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| vec![error.to_string()])?;
    let served = runtime.block_on(serve(config, own_work, environment));
    runtime.shutdown_background();
    served.map_err(|problem| vec![problem])
}

async fn serve(config: Config, own_work: Option<Fulfillment>, environment: &BTreeMap<String, String>) -> Result<(), String> {
    let log = &LogConfig::read(environment);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
    let listener = server::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("port {} is in use: stop what listens there, or set another FUNCTIONS_CUSTOMHANDLER_PORT", config.port)
        }
        _ => format!("cannot listen on {address}: {error}"),
    })?;
    let (telemetry, more) = Telemetry::start(environment, log)?;
    let _output = cli::start_log(log, more);
    config.tell();
    telemetry.tell();
    info!(server.port = config.port, process.id = std::process::id(), "the handler listens");

    let limits = Limits { header_timeout: HEADER_TIMEOUT, max_connections: config.max_connections, drain_timeout: config.drain_timeout };
    let app = Arc::new(App::new(config, own_work)?);
    let filters = warp::service(routes(Arc::clone(&app)));
    let allowed_hosts: Arc<[String]> = app.config.allowed_hosts.clone().into();
    let service = move |request: Request<Incoming>| {
        let is_local = host_names::are_local(request.headers(), &allowed_hosts);
        let is_from_page = WRITTEN_BY_BROWSERS.iter().any(|name| request.headers().contains_key(*name));
        // Cloning is cheap, since filters are shared. Boxed, since the future of all routes is large to move.
        let answer = (is_local && !is_from_page).then(|| Box::pin(filters.clone().call(request)));
        async move {
            match answer {
                Some(answer) => answer.await.unwrap_or_else(|never| match never {}),
                None if is_local => foreign(),
                None => misdirected(),
            }
        }
    };
    let served = tokio::select! {
        problem = open_store(&app) => Err(problem),
        never = keep_keys(&app) => match never {},
        never = send::keep(&app) => match never {},
        drained = drain(listener, service, limits, &app) => {
            if drained == Drained::DeadlinePassed {
                warn!("invocations were still running when the drain deadline passed; their messages are delivered again");
            }
            if let Some(store) = app.store.get() {
                store.close().await;
            }
            info!("the handler has stopped");
            Ok(())
        }
    };
    telemetry.end().await;
    served
}

/// Headers that a browser adds to what a web page sends, and the host adds to nothing.
const WRITTEN_BY_BROWSERS: [&str; 2] = ["origin", "sec-fetch-site"];

/// The answer to a request of a web page: an envelope needs no preflight as `text/plain`, and what it says of the page is the page's word.
fn foreign() -> warp::reply::Response {
    warn!("a request was refused: a web page sent it, and this port is for the Functions host");
    let mut response = warp::reply::Response::new("this port is for the Functions host\n".into());
    *response.status_mut() = warp::http::StatusCode::FORBIDDEN;
    response
}

/// The answer to a request whose `Host` is no name of this machine: a web page may have sent it (DNS rebinding).
fn misdirected() -> warp::reply::Response {
    warn!("a request was refused: its Host is no name of this machine; ALLOWED_HOSTS adds names");
    let mut response = warp::reply::Response::new("Host is no name of this machine\n".into());
    *response.status_mut() = warp::http::StatusCode::MISDIRECTED_REQUEST;
    response
}

/// Serves until asked to stop, then waits for running invocations, including those whose connection broke.
async fn drain<F, A>(listener: TcpListener, service: F, limits: Limits, app: &App) -> Drained
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = warp::reply::Response> + Send + 'static,
{
    let signals = StopSignals::listen();
    let drain_timeout = limits.drain_timeout;
    let mut asked = Instant::now();
    let stop = async {
        signals.first().await;
        info!("stopping: running invocations may end");
        asked = Instant::now();
        // Requests that wait for a change are answered now.
        drop(app.stopping.set(()));
    };
    let drained = server::serve(listener, service, limits, stop).await;
    let left = drain_timeout.saturating_sub(asked.elapsed());
    match tokio::time::timeout(left, app.running.ended()).await {
        Ok(()) => drained,
        Err(_) => Drained::DeadlinePassed,
    }
}

/// Reads and refreshes the token issuer's keys, if there is an issuer, while requests are served.
async fn keep_keys(app: &App) -> Infallible {
    match &app.callers.auth {
        Some(auth) => auth.keep_keys().await,
        None => std::future::pending().await,
    }
}

/// Opens the store while requests are served, and keeps it open; returns only the reason of a failure.
async fn open_store(app: &App) -> String {
    match &app.config.storage.records {
        Records::Embedded(data, key) => {
            let (directory, key) = (data.clone(), key.clone());
            match tokio::task::spawn_blocking(move || SqliteStore::open(&directory, key)).await {
                Ok(Ok(store)) => {
                    info!(store.path = %data.display(), "the embedded store is open");
                    // Cannot fail: only this function sets the store, once.
                    let store = StatusStore::Sqlite(store);
                    drop(app.store.set(store.clone()));
                    app.queue_wait.begin();
                    store.broke_down().await;
                    "a thread of the embedded store broke down".into()
                }
                Ok(Err(problem @ Error::LogLost(..))) => {
                    format!("{problem}; or go on without it: waybill accept-loss --data {}", data.display())
                }
                Ok(Err(problem)) => format!("{problem}; correct this, or set WAYBILL_DATA to another directory"),
                Err(problem) => format!("the store could not be opened: {problem}"),
            }
        }
        Records::Cosmos(cosmos, key) => {
            let store = CosmosStore::connect(cosmos, key, |reason| *app.store_trouble.lock() = Some(reason)).await;
            drop(app.store.set(StatusStore::Cosmos(store.clone())));
            app.queue_wait.begin();
            store.keep().await
        }
    }
}
