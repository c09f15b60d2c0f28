//! `waybill serve`: the handler the Functions host starts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use serving::server::{self, Drained, Limits};
use serving::stop::StopSignals;
use tokio::net::TcpListener;
use tower_service::Service;
use tracing::{info, warn};

use crate::config::{Config, LogConfig, Records};
use crate::functions::app::App;
use crate::functions::routes::routes;
use crate::store::StatusStore;
use crate::store::cosmos::CosmosStore;
use crate::store::sqlite::SqliteStore;

/// Longer than the host keeps idle connections (.NET: one minute, two in older versions): a connection that we end while the
/// host sends on it costs that client an empty 500.
const HEADER_TIMEOUT: Duration = Duration::from_secs(150);

/// Runs the handler until it is asked to stop. `Err`: why it could not start or go on, one line each.
pub fn run(environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let config = Config::read(environment)?;
    serving::process::open_many_files();
    // Two threads: one to answer while the other parses; the disk has threads of its own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| vec![error.to_string()])?;
    let served = runtime.block_on(serve(config, &LogConfig::read(environment)));
    runtime.shutdown_background();
    served.map_err(|problem| vec![problem])
}

async fn serve(config: Config, log: &LogConfig) -> Result<(), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
    let listener = server::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("port {} is in use: stop what listens there, or set another FUNCTIONS_CUSTOMHANDLER_PORT", config.port)
        }
        _ => format!("cannot listen on {address}: {error}"),
    })?;
    serving::log::start(&log.levels, log.json);
    info!(server.port = config.port, process.id = std::process::id(), "the handler listens");

    let limits = Limits { header_timeout: HEADER_TIMEOUT, max_connections: config.max_connections, drain_timeout: config.drain_timeout };
    let app = Arc::new(App::new(config)?);
    let filters = warp::service(routes(Arc::clone(&app)));
    let service = move |request| {
        // Cloning is cheap: filters are shared. Boxed, since the future of all routes together is large and would be moved about.
        let answer = Box::pin(filters.clone().call(request));
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    };
    tokio::select! {
        problem = open_store(&app) => Err(problem),
        never = keep_keys(&app) => match never {},
        drained = drain(listener, service, limits, &app) => {
            if drained == Drained::DeadlinePassed {
                warn!("invocations were still running when the drain deadline passed; their messages come back");
            }
            info!("the handler has stopped");
            Ok(())
        }
    }
}

/// Serves until asked to stop, then lets invocations end; one whose connection broke goes on too.
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
        // Whoever only waits for a change is answered now.
        drop(app.stopping.set(()));
    };
    let drained = server::serve(listener, service, limits, stop).await;
    let left = drain_timeout.saturating_sub(asked.elapsed());
    match tokio::time::timeout(left, app.running.ended()).await {
        Ok(()) => drained,
        Err(_) => Drained::DeadlinePassed,
    }
}

/// Reads the keys of the issuer of tokens, if there is one, beside the requests that already arrive.
async fn keep_keys(app: &App) -> Infallible {
    match &app.callers.auth {
        Some(auth) => auth.keep_keys().await,
        None => std::future::pending().await,
    }
}

/// Opens the store beside the requests that already arrive, and keeps it; returns only if that fails.
async fn open_store(app: &App) -> String {
    match &app.config.records {
        Records::Embedded(data, key) => {
            let (directory, key) = (data.clone(), key.clone());
            match tokio::task::spawn_blocking(move || SqliteStore::open(&directory, key)).await {
                Ok(Ok(store)) => {
                    info!(store.path = %data.display(), "the embedded store is open");
                    // Set only here, once.
                    drop(app.store.set(StatusStore::Sqlite(store)));
                    std::future::pending().await
                }
                Ok(Err(problem)) => format!("{problem}; mend it, or set WAYBILL_DATA to another directory"),
                Err(problem) => format!("the store could not be opened: {problem}"),
            }
        }
        Records::Cosmos(cosmos, key) => {
            let store = CosmosStore::connect(cosmos, key).await;
            drop(app.store.set(StatusStore::Cosmos(store.clone())));
            store.keep().await
        }
    }
}
