//! The handler's process: started, probed, restarted and ended by the host's rules (functions-host, process life cycle).

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::process::{self, Started};

/// The host version this stand-in plays.
pub const HOST_VERSION: &str = "4.1037.0.0";
/// For the answer to the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// Between two probes of a handler that does not answer yet.
const PROBE_PERIOD: Duration = Duration::from_millis(25);
/// One error more than this within [`ERROR_WINDOW`] stops the host.
const MAX_RESTARTS: usize = 2;
/// How long an error counts.
const ERROR_WINDOW: Duration = Duration::from_mins(30);
/// An invocation waits this long for a handler that is starting: four times thirty seconds.
const READY_WAIT: Duration = Duration::from_mins(2);
/// Larger answers are refused; the real host would hold them in memory.
const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// How long the end of an orphan is waited for.
const ORPHAN_WAIT: Duration = Duration::from_secs(5);

/// How to start a handler.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it is to listen, from [`free_port`].
    pub port: u16,
    /// What to run.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where to run it.
    pub working_directory: PathBuf,
    /// Added to the inherited environment.
    pub environment: BTreeMap<String, String>,
    /// Until its first answer.
    pub initialization_timeout: Duration,
    /// Where the running process is written down, so that the next host can end an orphan.
    pub record: PathBuf,
}

/// Whether the handler can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready(u64),
    /// It left with exit code 0: the host does not restart it, and every call fails at once.
    Gone,
}

/// The way to the handler; cheap to clone.
#[derive(Clone)]
pub struct Handler {
    client: Client<HttpConnector, Envelope>,
    port: u16,
    chunked: bool,
    phase: watch::Receiver<Phase>,
    kills: mpsc::Sender<u64>,
}

/// Keeps the handler running.
pub struct Supervisor {
    plan: Plan,
    port: u16,
    client: Client<HttpConnector, Envelope>,
    phase: watch::Sender<Phase>,
    kills: mpsc::Receiver<u64>,
}

/// What a handler answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: hyper::HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Which start of the handler answered, for [`Handler::kill`].
    pub generation: u64,
}

/// Why a call of the handler failed.
#[derive(Debug)]
pub enum CallError {
    /// It is not running and will not be.
    Gone,
    /// It did not become ready in time.
    NotReady,
    /// The connection broke: it crashed, or closed it.
    Broken(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("the handler has exited with code 0, and the host does not restart it then"),
            Self::NotReady => f.write_str("the handler did not become ready in time"),
            Self::Broken(reason) => write!(f, "the connection to the handler broke: {reason}"),
        }
    }
}

/// A loopback port that is free now; it is used for every start of a handler, as the host does. Below those that systems give to
/// connections (Linux: from 32768): one of these could take it while a handler is started again.
pub fn free_port() -> std::io::Result<u16> {
    const FIRST: u32 = 22_000;
    const NUMBER: u32 = 10_000;
    const TRIES: usize = 100;
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let random = |_| u16::try_from(FIRST + getrandom::u32().ok()? % NUMBER).ok();
    let listener = (0..TRIES).filter_map(random).find_map(|port| bind(port).ok()).map_or_else(|| bind(0), Ok)?;
    Ok(listener.local_addr()?.port())
}

/// Prepares; nothing runs yet. `chunked` says how bodies are framed: as in Azure, or as under `func start`.
pub fn prepare(plan: Plan, chunked: bool) -> (Handler, Supervisor) {
    let port = plan.port;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_mins(1))
        .http1_title_case_headers(true)
        .build(connector);
    let (phase_sender, phase) = watch::channel(Phase::Starting);
    let (kill_sender, kills) = mpsc::channel(16);
    let handler = Handler { client: client.clone(), port, chunked, phase, kills: kill_sender };
    (handler, Supervisor { plan, port, client, phase: phase_sender, kills })
}

impl Handler {
    /// Where the handler listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Posts an invocation.
    pub async fn invoke(&self, function: &str, invocation: &str, envelope: Vec<u8>) -> Result<Answer, CallError> {
        let request = Request::post(self.uri(function)?)
            .header("X-Azure-Functions-HostVersion", HOST_VERSION)
            .header("X-Azure-Functions-InvocationId", invocation)
            .header(USER_AGENT, "Azure-Functions-Host/4.1037.0.0")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))
            .body(Envelope { data: Some(envelope.into()), sized: !self.chunked });
        self.call(request.map_err(|error| CallError::Broken(error.to_string()))?).await
    }

    /// Passes a request on as it is (`enableForwardingHttpRequest`).
    pub async fn forward(&self, mut request: Request<Bytes>, path_and_query: &str) -> Result<Answer, CallError> {
        *request.uri_mut() = self.uri(path_and_query.trim_start_matches('/'))?;
        self.call(request.map(|body| Envelope { data: (!body.is_empty()).then_some(body), sized: true })).await
    }

    fn uri(&self, path: &str) -> Result<Uri, CallError> {
        format!("http://127.0.0.1:{}/{path}", self.port).parse().map_err(|_| CallError::Broken(format!("{path:?} is no path")))
    }

    async fn call(&self, request: Request<Envelope>) -> Result<Answer, CallError> {
        let generation = self.ready().await?;
        let broken = |error: &dyn std::error::Error| CallError::Broken(source_text(error));
        let response = self.client.request(request).await.map_err(|error| broken(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| broken(error.as_ref()))?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body, generation })
    }

    async fn ready(&self) -> Result<u64, CallError> {
        let mut phase = self.phase.clone();
        let settled = async { phase.wait_for(|phase| *phase != Phase::Starting).await.map(|phase| *phase) };
        match tokio::time::timeout(READY_WAIT, settled).await {
            Ok(Ok(Phase::Ready(generation))) => Ok(generation),
            Ok(_) => Err(CallError::Gone),
            Err(_) => Err(CallError::NotReady),
        }
    }

    /// What the host says of itself meanwhile.
    pub fn state(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Starting => "Starting",
            Phase::Ready(_) => "Running",
            Phase::Gone => "Error",
        }
    }

    /// The running start of the handler, if it is ready.
    pub fn generation(&self) -> Option<u64> {
        match *self.phase.borrow() {
            Phase::Ready(generation) => Some(generation),
            Phase::Starting | Phase::Gone => None,
        }
    }

    /// Ends this start of the handler, every call in it included, and starts it again: what the host does when a function runs
    /// into `functionTimeout`. Not counted as an error of the handler. Nothing happens when it was replaced already. When this
    /// returns, it is given no further call: what fails with it may come back at once.
    pub async fn kill(&self, generation: u64) {
        let ended = |phase: &Phase| !matches!(phase, Phase::Ready(ready) if *ready == generation);
        if self.kills.send(generation).await.is_err() || self.phase.clone().wait_for(ended).await.is_err() {
            debug!("the host is stopping; it ends the handler itself");
        }
    }

    /// Waits until the handler has answered its first probe.
    pub async fn wait_until_ready(&self) -> bool {
        self.ready().await.is_ok()
    }
}

impl Supervisor {
    /// Runs until the host must stop; the text says why. Dropping the future kills the handler.
    pub async fn run(mut self) -> String {
        if let Err(problem) = end_orphan(&self.plan.record).await {
            return problem;
        }
        let mut errors = VecDeque::new();
        for generation in 1.. {
            let first = generation == 1;
            let mut child = match self.spawn() {
                Ok(child) => child,
                Err(error) => return self.cannot_start(&error),
            };
            // With everything it started: a wrapper script may leave the real handler behind on our port.
            let group = Group(child.id());
            let mut was_ready = false;
            let exit = tokio::select! {
                exit = child.wait() => exit,
                ready = self.probe() => {
                    if ready {
                        was_ready = true;
                        info!(process.id = child.id(), handler.port = self.port, "the handler is ready");
                        self.phase.send_replace(Phase::Ready(generation));
                        self.watch(&mut child, generation).await
                    } else {
                        let line = format!(
                            "the handler {} did not listen on 127.0.0.1:{} (FUNCTIONS_CUSTOMHANDLER_PORT) within {:?}",
                            self.plan.executable.display(), self.port, self.plan.initialization_timeout
                        );
                        end(&mut child).await;
                        if first {
                            return line;
                        }
                        warn!("{line}");
                        child.wait().await
                    }
                }
            };
            self.phase.send_replace(Phase::Starting);
            drop(group);
            drop(std::fs::remove_file(&self.plan.record));
            let exit = match exit {
                Ok(exit) => exit,
                Err(error) => return format!("cannot wait for the handler: {error}"),
            };
            if first && !was_ready {
                return format!(
                    "the handler {} ended ({}) before it listened on 127.0.0.1:{}; what it printed stands above",
                    self.plan.executable.display(),
                    describe(exit),
                    self.port
                );
            }
            match Self::decide(exit, &mut errors) {
                Next::Restart => {}
                Next::StayGone => {
                    warn!("the handler exited with code 0: the host does not restart it, and every call fails from now on");
                    self.phase.send_replace(Phase::Gone);
                    return std::future::pending().await;
                }
                Next::Stop => {
                    return format!(
                        "the handler ended {} times within 30 minutes (last: {}): the host stops, as in Azure; mend the handler and start again",
                        MAX_RESTARTS + 1,
                        describe(exit)
                    );
                }
            }
        }
        unreachable!("the handler is never started so often")
    }

    /// Waits for the end of a ready handler; kills it when asked to.
    async fn watch(&mut self, child: &mut Child, generation: u64) -> std::io::Result<ExitStatus> {
        loop {
            tokio::select! {
                exit = child.wait() => return exit,
                Some(asked) = self.kills.recv() => {
                    if asked == generation {
                        self.phase.send_replace(Phase::Starting);
                        end(child).await;
                        // A handler that the host itself ended restarts uncounted, like one that asks for it with exit code 200.
                        return child.wait().await.map(|_| restart_status());
                    }
                }
            }
        }
    }

    fn decide(exit: ExitStatus, errors: &mut VecDeque<Instant>) -> Next {
        match exit.code() {
            Some(0) => return Next::StayGone,
            Some(200) => {
                info!("the handler is restarted");
                return Next::Restart;
            }
            _ => {}
        }
        let now = Instant::now();
        while errors.front().is_some_and(|error| now.duration_since(*error) > ERROR_WINDOW) {
            errors.pop_front();
        }
        errors.push_back(now);
        if errors.len() > MAX_RESTARTS {
            return Next::Stop;
        }
        warn!(handler.exit = describe(exit), handler.errors = errors.len(), "the handler ended; it is restarted");
        Next::Restart
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.plan.executable);
        command.args(&self.plan.arguments).current_dir(&self.plan.working_directory).envs(&self.plan.environment);
        command.stdin(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0); // Ctrl-C is for the host: it lets invocations end first.
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command);
        let child = command.spawn()?;
        let orphan = child.id().and_then(|process| match process::started(process) {
            Started::At(started) => Some(Orphan { process, started, boot: process::boot() }),
            Started::Gone | Started::Unknown => None,
        });
        if let Some(orphan) = orphan {
            std::fs::write(&self.plan.record, serde_json::to_vec(&orphan)?)?;
        }
        Ok(child)
    }

    fn cannot_start(&self, error: &std::io::Error) -> String {
        let executable = self.plan.executable.display();
        let directory = &self.plan.working_directory;
        match error.kind() {
            // The system gives one error for all three.
            std::io::ErrorKind::NotFound if !directory.is_dir() => {
                format!(
                    "the working directory {} does not exist: make it, or correct customHandler.description.workingDirectory in host.json",
                    directory.display()
                )
            }
            std::io::ErrorKind::NotFound if self.plan.executable.is_absolute() && self.plan.executable.exists() => {
                format!(
                    "the handler {executable} names an interpreter that does not exist: correct its first line, or build it for this system"
                )
            }
            std::io::ErrorKind::NotFound => format!(
                "the handler {executable} does not exist: build it, or correct customHandler.description.defaultExecutablePath in host.json, or pass --handler"
            ),
            std::io::ErrorKind::PermissionDenied => format!("the handler {executable} may not be executed: chmod +x it"),
            _ => format!("the handler {executable} cannot be started: {error}"),
        }
    }

    /// Whether the handler answered within its time. Any answer counts, 404 included.
    async fn probe(&self) -> bool {
        let asking = async {
            // A probe may be lost with a handler that is just gone; each is waited for twice as long as the one before.
            let mut patience = FIRST_PROBE;
            loop {
                let request = Request::builder()
                    .method(Method::GET)
                    .uri(format!("http://127.0.0.1:{}/", self.port))
                    .body(Envelope { data: None, sized: true });
                let Ok(request) = request else { return false };
                match tokio::time::timeout(patience, self.client.request(request)).await {
                    Ok(Ok(_)) => return true,
                    Ok(Err(_)) => {}
                    Err(_) => patience *= 2,
                }
                tokio::time::sleep(PROBE_PERIOD).await;
            }
        };
        tokio::time::timeout(self.plan.initialization_timeout, asking).await.unwrap_or(false)
    }
}

enum Next {
    Restart,
    StayGone,
    Stop,
}

/// The process of a handler, as written down for the next host.
#[derive(Debug, Serialize, Deserialize)]
struct Orphan {
    process: u32,
    started: u64,
    /// Start times begin anew with each boot.
    #[serde(default)]
    boot: Option<String>,
}

/// Two handlers must not run side by side: ends the one an earlier host left behind.
async fn end_orphan(record: &Path) -> Result<(), String> {
    let Ok(text) = std::fs::read(record) else { return Ok(()) };
    let Ok(orphan) = serde_json::from_slice::<Orphan>(&text) else { return Ok(()) };
    let here = orphan.boot.is_none() || orphan.boot == process::boot();
    let lives = || here && process::started(orphan.process) == Started::At(orphan.started);
    if !lives() {
        return Ok(());
    }
    warn!(process.id = orphan.process, "ending a handler that an earlier host left behind");
    kill_group(orphan.process);
    kill_process(orphan.process);
    let end = Instant::now() + ORPHAN_WAIT;
    while lives() {
        if Instant::now() > end {
            return Err(format!("the handler of an earlier host still runs and cannot be ended: end process {} yourself", orphan.process));
        }
        tokio::time::sleep(PROBE_PERIOD).await;
    }
    Ok(())
}

/// A process and what it started; ended when dropped, as when the host stops.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(process) = self.0 {
            kill_group(process);
        }
    }
}

/// Each handler leads a process group of its own, so this ends nothing else. Nothing may be left of it, which is fine.
#[cfg(unix)]
fn kill_group(leader: u32) {
    let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = leader.map(|leader| rustix::process::kill_process_group(leader, rustix::process::Signal::KILL)) {
        debug!(%error, "nothing is left of the handler");
    }
}

#[cfg(not(unix))]
fn kill_group(_leader: u32) {}

#[cfg(unix)]
fn kill_process(process: u32) {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = process.map(|process| rustix::process::kill_process(process, rustix::process::Signal::KILL)) {
        debug!(%error, "the orphan is gone already");
    }
}

#[cfg(not(unix))]
fn kill_process(_process: u32) {}

/// SIGKILL without SIGTERM, as the host does.
async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        warn!(%error, "the handler cannot be ended");
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let set = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::Error::other("the host is gone")) }
    };
    #[expect(unsafe_code, reason = "runs between fork and exec; makes two system calls and allocates nothing when they succeed")]
    unsafe {
        command.pre_exec(set);
    }
}

#[cfg(unix)]
fn restart_status() -> ExitStatus {
    std::os::unix::process::ExitStatusExt::from_raw(200 << 8)
}

#[cfg(windows)]
fn restart_status() -> ExitStatus {
    std::os::windows::process::ExitStatusExt::from_raw(200)
}

fn describe(exit: ExitStatus) -> String {
    // "exit status: 1", "signal: 9 (SIGKILL)"
    exit.to_string()
}

fn source_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// A body of one piece, framed by its length or, as the real host sends it in Azure, chunked.
#[derive(Debug)]
pub struct Envelope {
    data: Option<Bytes>,
    sized: bool,
}

impl Body for Envelope {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.data {
            _ if !self.sized => SizeHint::new(),
            Some(data) => SizeHint::with_exact(data.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The five variables of a handler's environment (functions-host, environment and command line).
pub fn variables(app_root: &Path, worker_id: &str, port: u16) -> [(String, String); 5] {
    [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string()),
        ("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", worker_id.to_owned()),
        ("FUNCTIONS_HTTPWORKER_PORT", port.to_string()),
        ("FUNCTIONS_HTTPWORKER_ID", worker_id.to_owned()),
        ("FUNCTIONS_APP_ROOT_PATH", app_root.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}
