//! The host: reads the app, starts its handler and the triggers, runs, stops.

pub(crate) mod launch;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use group_commit::database::Error;
use group_commit::directory;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use serving::log::PEOPLE;
use serving::output;
use serving::process;
use serving::server::{self, Drained, Limits};
use serving::stop::StopSignals;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::activity::Activity;
use crate::app::{App, Refusal};
use crate::arguments::Arguments;
use crate::console::body::Answered;
use crate::console::panel::{self, Panel};
use crate::console::{Console, Facts};
use crate::dispatch::{Callable, Dispatcher};
use crate::handler::replacing;
use crate::handler::supervisor::{self, Supervisor};
use crate::host::launch::{is_named, plan, shown};
use crate::log_filter::LogFilter;
use crate::recording::recorder::Recorder;
use crate::service_bus::broker::{Broker, Rules};
use crate::service_bus::rest::Rest;
use crate::trigger::http::Front;
use crate::trigger::http::head::{Head, Heads};
use crate::trigger::queue::Listener;
use crate::trigger::timer;
use crate::watch::Watch;

/// Time for a request's headers, longer than clients keep idle connections: about a minute.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Time for an idle handler to end after SIGTERM, before it is killed: receivers of its records may cost a handler two seconds, and a
/// reader of its lines two more.
const HANDLER_GRACE: Duration = Duration::from_secs(5);
/// Connections at the same time.
const MAX_CONNECTIONS: usize = 4096;

/// Check of an app whose handler is this program, before the handler starts. Gets the app's folder, `Values` of its settings, and the
/// whole environment of the handler. Warnings are logged; problems prevent the start.
pub type Check = fn(&Path, &BTreeMap<String, String>, &BTreeMap<String, String>) -> Result<Vec<String>, Vec<String>>;

/// Options of a host: the command line, and facts about the program that runs the host and about its handler.
#[derive(Debug, Clone)]
pub struct Options {
    /// Options of the command line.
    pub arguments: Arguments,
    /// Command that a person types to start the host.
    pub command: &'static str,
    /// Data directory below the app's folder, unless an argument or a setting names another.
    pub data: &'static str,
    /// App setting that names the data directory. The handler gets the setting too: its records belong beside the queue that refers to
    /// them.
    pub data_setting: Option<&'static str>,
    /// Setting that tells the handler the address of the REST protocol of Service Bus.
    pub rest_endpoint_setting: Option<&'static str>,
    /// Name by which host.json means this program, which then need not be in the app's folder.
    pub own_handler: Option<&'static str>,
    /// Command that goes on without the log of a queue that was lost.
    pub accept_loss: Option<&'static str>,
    /// Further check where the handler is this program.
    pub check: Option<Check>,
    /// Maker of what the console shows besides functions and queues.
    pub panel: Option<panel::Make>,
    /// Variables for the handler, which take precedence over its settings.
    pub variables: BTreeMap<String, String>,
    /// Whether the handler inherits the variable of this name; `None` is the whole environment of this process. The settings of the app
    /// and the variables of the host are added in both cases.
    pub inherited: Option<fn(&str) -> bool>,
}

impl Options {
    /// Options for any handler: no setting has a special meaning.
    pub fn new(arguments: Arguments) -> Self {
        Self {
            arguments,
            command: "functions-host",
            data: ".functions-host",
            data_setting: None,
            rest_endpoint_setting: None,
            own_handler: None,
            accept_loss: None,
            check: None,
            panel: None,
            variables: BTreeMap::new(),
            inherited: None,
        }
    }
}

/// A host that is ready.
#[derive(Debug)]
pub struct Up {
    /// Address on which the host listens.
    pub address: SocketAddr,
    /// List of the functions, as `func start` prints it.
    pub listing: String,
    /// URLs of the functions with an HTTP trigger, by the names of the functions.
    pub urls: BTreeMap<String, String>,
    /// Directory of the messages.
    pub data: PathBuf,
}

/// Runs the host until it is asked to stop. `Err`: reasons why the host could not start or continue, one line each.
/// `up` gets a message when the handler answers.
pub async fn run(
    options: Options,
    environment: &BTreeMap<String, String>,
    up: oneshot::Sender<Up>,
    stop: impl Future<Output = ()>,
) -> Result<(), Vec<String>> {
    let arguments = &options.arguments;
    if let Some(problem) = process::clock_mistake() {
        return Err(vec![problem]);
    }
    let app = App::load(&arguments.app, environment).map_err(|Refusal { problems, notices }| {
        tell(&notices);
        problems
    })?;
    tell(&app.notices);
    let one = |problem: String| vec![problem];

    // One directory for records and messages. The handler's own setting applies, relative to the app's folder as under the real host.
    let setting = options.data_setting.and_then(|name| environment.get(name).or_else(|| app.settings.get(name)));
    let setting = setting.filter(|path| !path.is_empty());
    let data = arguments.data.clone().unwrap_or_else(|| app.root.join(setting.map_or(options.data, String::as_str)));
    let data = std::path::absolute(&data).unwrap_or(data);
    // A handler is told both in its environment.
    if let Some(folder) = [&data, &app.root].into_iter().find(|folder| folder.to_str().is_none()) {
        return Err(one(format!("the name of the folder {} is not UTF-8: name another", folder.display())));
    }
    let _lock = lock(&data, options.command).map_err(one)?;
    let port = arguments.port.or(app.local_host.http_port).unwrap_or(7071);
    let listener = listen(SocketAddr::new(arguments.host, port)).map_err(one)?;
    let address = listener.local_addr().map_err(|error| one(error.to_string()))?;
    let rest_listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(one)?;
    let rest_address = rest_listener.local_addr().map_err(|error| one(error.to_string()))?;

    let (plan, notice) = plan(&options, &app, &data, address, rest_address, environment)?;
    tell(notice.as_slice());
    let mut handlers = environment.clone();
    handlers.extend((plan.launch)(plan.port).environment);
    let warnings = match options.check {
        Some(check) if is_named(&plan.executable, options.own_handler) => check(&app.root, &app.settings, &handlers)?,
        _ => Vec::new(),
    };
    let name = app.root.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let recorder = arguments.record.as_ref().map(|path| Recorder::start(path, &name)).transpose().map_err(one)?;
    let open = data.clone();
    let rules = Rules { lock_duration: arguments.lock_duration, max_delivery_count: arguments.max_delivery_count };
    let broker = tokio::task::spawn_blocking(move || Broker::open(&open, rules)).await.map_err(|error| one(error.to_string()))?;
    let broker = broker.map_err(|error| match (error, options.accept_loss) {
        (error @ Error::LogLost(..), Some(command)) => one(format!("{error}; or go on without it: {command} --data {}", data.display())),
        (error, _) => one(error.to_string()),
    })?;
    let released = broker.release_locks().await.map_err(|error| one(error.to_string()))?;
    if released > 0 {
        info!(messages = released, "messages that an earlier host was working on are delivered again");
    }

    let rest = Arc::new(Rest::new(&app, environment, broker.clone(), rest_address));
    info!("the queue also answers the REST protocol of Service Bus, at http://{rest_address}");
    let (stay, leaving) = watch::channel(());
    let panel = options.panel.filter(|_| address.ip().is_loopback()).map(|make| make(&data, &broker, &handlers));
    let filter = arguments.log.as_ref().map(|about| {
        let names: Vec<&str> = app.functions.iter().map(|function| function.name.as_str()).collect();
        Arc::new(LogFilter::new(about, &names))
    });
    if let Some(filter) = filter.clone() {
        output::only(move |line| filter.shows(line));
    }
    let activity = Activity::new();
    let (handler, supervisor) = supervisor::prepare(plan, !arguments.content_length, Arc::clone(&activity), leaving);
    let (running, ended) = mpsc::channel(1);
    let queues = broker.clone();
    let function_timeout = app.host.function_timeout;
    let dispatcher = Arc::new(Dispatcher { handler, broker, function_timeout, activity, filter, recorder: recorder.clone(), running });
    let functions: Vec<_> = app.functions.iter().map(|function| Arc::new(Callable::of(function, app.forwards(function)))).collect();
    let front = Arc::new(Front::new(&app, Arc::clone(&dispatcher), functions.clone(), options.command, address.ip().is_loopback()));

    for line in app.in_error_lines().chain(warnings) {
        warn!("{line}");
    }
    let drain_timeout = arguments.drain_timeout;
    let watch = arguments.watch.then(|| {
        // What the host writes is no part of the app.
        let own = [Some(&data), arguments.record.as_ref()].into_iter().flatten().cloned().collect();
        Watch::new(&app.root, own, arguments.build.clone())
    });
    let shown = panel.clone();
    let host = Host {
        data,
        watch,
        dispatcher,
        functions,
        front,
        name: options.command,
        panel,
        rest: (rest, rest_listener),
        drain_timeout,
        ended,
        stay,
    };
    let ended = tokio::select! {
        ended = host.run(&app, listener, address, supervisor, up, stop) => ended,
        () = queues.broke_down() => return Err(one("a thread of the queue broke down".into())),
    };
    if let Some(panel) = shown {
        panel.close().await;
    }
    if let Some(recorder) = recorder {
        // A thread that broke down has written what it could.
        drop(tokio::task::spawn_blocking(move || recorder.finish()).await);
    }
    ended?;
    queues.close().await;
    info!("stopped");
    Ok(())
}

struct Host {
    /// Directory of the messages.
    data: PathBuf,
    /// The app's folder, if the handler is replaced after a change in it.
    watch: Option<Watch>,
    dispatcher: Arc<Dispatcher>,
    functions: Vec<Arc<Callable>>,
    front: Arc<Front>,
    /// Command that a person types to start the host.
    name: &'static str,
    panel: Option<Arc<dyn Panel>>,
    rest: (Arc<Rest>, TcpListener),
    drain_timeout: Duration,
    ended: mpsc::Receiver<()>,
    /// Dropped when the handler may end.
    stay: watch::Sender<()>,
}

impl Host {
    async fn run(
        self,
        app: &App,
        listener: TcpListener,
        address: SocketAddr,
        supervisor: Supervisor,
        up: oneshot::Sender<Up>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Vec<String>> {
        let Self { data, watch, dispatcher, functions, front, name, panel, rest, drain_timeout, mut ended, stay } = self;
        let is_forwarding = functions.iter().any(|function| function.forwards);
        let (stop_sender, stopping) = watch::channel(false);
        // For a browser on this machine; another machine that reaches the port must not have it.
        let console = address.ip().is_loopback().then(|| {
            let facts = Facts { port: address.port(), name, data: data.display().to_string() };
            Arc::new(Console::new(app, Arc::clone(&dispatcher), functions.clone(), panel, facts, stopping.clone()))
        });
        let mut tasks = JoinSet::new();
        for function in functions {
            tasks.spawn(timer::run(Arc::clone(&dispatcher), Arc::clone(&function), stopping.clone()));
            if let Some(listener) = Listener::of(Arc::clone(&dispatcher), function, app.host.service_bus.clone()) {
                tasks.spawn(listener.run(stopping.clone()));
            }
        }
        let ready = Arc::clone(&dispatcher);
        let mut leaving = stopping.clone();
        let base = format!("http://{}", shown(address));
        let (listing, urls) = (app.listing(&base), app.urls(&base));
        tasks.spawn(async move {
            let is_ready = tokio::select! {
                _ = leaving.wait_for(|stop| *stop) => false,
                is_ready = ready.handler.wait_for_first() => is_ready,
            };
            if is_ready {
                // The receiver may be dropped, which is fine.
                drop(up.send(Up { address, listing, urls, data }));
            }
        });
        drop(dispatcher);

        let limits = Limits { header_timeout: HEADER_TIMEOUT, max_connections: MAX_CONNECTIONS, drain_timeout };
        let (rest, rest_listener) = rest;
        let rest = move |request| Arc::clone(&rest).answer(request);
        // Running invocations may still send messages, so the REST protocol is served until none runs.
        let serving_rest = server::serve(rest_listener, rest, limits.clone(), std::future::pending());
        let open = {
            let front = Arc::clone(&front);
            move |stream: TcpStream| {
                let (reading, writing) = stream.into_split();
                let (heads, passed) = Heads::of(reading);
                let (front, console) = (Arc::clone(&front), console.clone());
                (tokio::io::join(heads, writing), move |request| answer(Arc::clone(&front), console.clone(), request, passed.next()))
            }
        };
        // A header name of an answer has the spelling of the handler's answer if that was forwarded, and otherwise the usual one.
        let mut http = http1::Builder::new();
        http.preserve_header_case(is_forwarding).title_case_headers(true);
        let (asked_sender, stopped_at) = watch::channel(None);
        let stop = async {
            stop.await;
            asked_sender.send_replace(Some(Instant::now()));
            stop_sender.send_replace(true);
        };
        let serving = async {
            let drained = tokio::select! {
                drained = server::serve_streams(listener, http, open, limits, stop) => drained,
                problem = broken_down(&mut tasks) => return Err(vec![problem]),
            };
            // Wait for queue and timer invocations too: each holds a sender, and so do the dispatcher's owners.
            drop(front);
            let rest = async {
                while tasks.join_next().await.is_some() {}
                ended.recv().await
            };
            // One deadline for all of them, from the request to stop.
            let asked = *stopped_at.borrow();
            let left = drain_timeout.saturating_sub(asked.map_or(Duration::ZERO, |asked| asked.elapsed()));
            let rest = tokio::time::timeout(left, rest).await;
            let is_idle = drained != Drained::DeadlinePassed && rest.is_ok();
            if !is_idle {
                warn!("invocations were still running when the drain deadline passed; their messages come back at the next start");
            }
            Ok(is_idle)
        };
        // The handler is started from this task, which lives as long as the process: on Linux it dies with the thread that started it.
        let supervising = async {
            let Some(watch) = watch else { return supervisor.run().await };
            let (sender, built) = mpsc::channel(1);
            tokio::select! {
                why = replacing::run(supervisor, built, drain_timeout) => why,
                () = watch.run(sender) => "the folder is not watched any more".into(),
            }
        };
        let mut supervising = pin!(supervising);
        let is_idle = tokio::select! {
            problem = &mut supervising => return Err(vec![problem]),
            ended = serving => ended?,
            _ = serving_rest => return Err(vec!["the REST protocol of Service Bus is not answered any more".into()]),
        };
        drop(stay);
        if is_idle && tokio::time::timeout(HANDLER_GRACE, supervising).await.is_err() {
            warn!("the handler did not end within {HANDLER_GRACE:?}; it is killed");
        }
        Ok(())
    }
}

/// Answers one request: as the console, if that takes it, else as the host.
async fn answer(front: Arc<Front>, console: Option<Arc<Console>>, request: Request<Incoming>, head: Option<Head>) -> Response<Answered> {
    match console {
        Some(console) if console.takes(&request) => console.answer(request).await,
        _ => front.answer(request, head).await.map(Answered::Whole),
    }
}

/// Waits for a trigger that ended without a request to stop: a host that accepts orders and does not process them is worse than no
/// host.
async fn broken_down(tasks: &mut JoinSet<()>) -> String {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            return format!("a trigger broke down inside the host: {error}");
        }
    }
    std::future::pending().await
}

fn tell(notices: &[String]) {
    for line in notices {
        info!("{line}");
        info!(target: PEOPLE, "{line}");
    }
}

/// Locks the data directory: two hosts on one queue would each take the other's messages for free.
fn lock(data: &Path, command: &str) -> Result<File, String> {
    directory::create(data).map_err(|error| format!("cannot make the data directory {}: {error}; pass another --data", data.display()))?;
    let path = data.join("host.lock");
    let file = File::create(&path).map_err(|error| format!("cannot write {}: {error}; pass another --data", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(format!("another `{command}` uses the data directory {}: stop it, or pass another --data", data.display()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    server::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("port {} is in use: stop what listens there, or pass another --port", address.port()),
        std::io::ErrorKind::AddrNotAvailable => format!("{} is no address of this machine: pass another --host", address.ip()),
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// Runs the host as a command: prints the `welcome` once the handler answers, stops on Ctrl-C. Without a welcome the same is a line of
/// the log. Start logging before.
pub fn command(
    options: Options,
    environment: &BTreeMap<String, String>,
    welcome: impl FnOnce(&Up) -> Option<String> + Send + 'static,
) -> Result<(), Vec<String>> {
    process::open_many_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| vec![error.to_string()])?;
    let ended = runtime.block_on(async {
        let (sender, up) = oneshot::channel();
        tokio::spawn(async move {
            let Ok(up) = up.await else { return };
            if let Some(welcome) = welcome(&up) {
                output::say(&format!("{welcome}\nPress Ctrl-C to stop."));
            } else {
                let url = format!("http://{}/", shown(up.address));
                info!(url, data = %up.data.display(), "the host is up. Press Ctrl-C to stop");
            }
        });
        let signals = StopSignals::listen();
        let stop = async {
            signals.first().await;
            info!("stopping: running invocations may end; press Ctrl-C again to leave at once");
        };
        run(options, environment, sender, stop).await
    });
    runtime.shutdown_background();
    ended
}
