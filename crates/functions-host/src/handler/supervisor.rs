//! Supervisor of the handler's process: starts, probes, restarts and ends it by the host's rules (functions-host, process life cycle).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::activity::Activity;
use crate::handler::client::{self, FramedBody, Handler, HandlerClient, Phase, Running};
use crate::handler::lines::Lines;
use crate::handler::orphan::{self, kill_group};

/// Time for the answer to the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// Pause between two probes of a handler that does not answer yet.
const PROBE_PERIOD: Duration = Duration::from_millis(25);
/// Most errors within [`ERROR_WINDOW`] after which the handler is restarted.
pub(super) const MAX_RESTARTS: usize = 2;
/// Time for which an error counts.
const ERROR_WINDOW: Duration = Duration::from_mins(30);

/// Errors of a handler that still count.
#[derive(Default)]
pub(super) struct Errors(VecDeque<Instant>);

impl Errors {
    /// Counts one more error: how many there are, or `None` if they are too many for a restart.
    pub(super) fn one_more(&mut self) -> Option<usize> {
        let now = Instant::now();
        self.0.retain(|error| now.duration_since(*error) <= ERROR_WINDOW);
        self.0.push_back(now);
        Some(self.0.len()).filter(|number| *number <= MAX_RESTARTS)
    }
}

/// Arguments and environment of a handler.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Arguments of the program.
    pub(crate) arguments: Vec<String>,
    /// Variables added to the inherited environment.
    pub(crate) environment: BTreeMap<String, String>,
}

/// Launch options of a handler.
pub(crate) struct Plan {
    /// Port for the handler, from [`free_port`].
    pub(crate) port: u16,
    /// Program to run.
    pub(crate) executable: PathBuf,
    /// Arguments and environment for a port.
    pub(crate) launch: Box<dyn Fn(u16) -> Launch + Send + Sync>,
    /// Working directory.
    pub(crate) working_directory: PathBuf,
    /// Whether a variable of this process is inherited; `None` is every one.
    pub(crate) inherited: Option<fn(&str) -> bool>,
    /// Time until the first answer.
    pub(crate) initialization_timeout: Duration,
    /// File that names the running process, so that the next host can end an orphan.
    pub(crate) record: PathBuf,
}

/// Why a supervisor ends with its host.
pub(super) const LEFT: &str = "the host stops";

/// Keeps the handler running.
pub(crate) struct Supervisor {
    pub(super) plan: Plan,
    /// Takes the handler's lines.
    activity: Arc<Activity>,
    pub(super) client: HandlerClient,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) draining: watch::Sender<BTreeSet<u64>>,
    pub(super) kills: mpsc::Receiver<u64>,
    /// Closed when the host stops.
    pub(super) leaving: watch::Receiver<()>,
}

/// Prepares a supervisor without starting the handler. `chunked`: bodies are framed as in Azure, otherwise as under `func start`.
pub(crate) fn prepare(plan: Plan, chunked: bool, activity: Arc<Activity>, leaving: watch::Receiver<()>) -> (Handler, Supervisor) {
    let port = plan.port;
    let client = client::http_client();
    let (phase_sender, phase) = watch::channel(Phase::Starting);
    let (draining_sender, draining) = watch::channel(BTreeSet::new());
    let (kill_sender, kills) = mpsc::channel(16);
    let handler = Handler { client: client.clone(), port, chunked, phase, draining, kills: kill_sender };
    (handler, Supervisor { plan, activity, client, phase: phase_sender, draining: draining_sender, kills, leaving })
}

impl Supervisor {
    /// Runs until the host must stop; returns the reason. A ready handler gets SIGTERM when the host leaves. Dropping the future kills
    /// the handler.
    pub(crate) async fn run(mut self) -> String {
        for record in orphan::records(&self.plan.record) {
            if let Err(problem) = orphan::end(&record).await {
                return problem;
            }
        }
        let (port, busy) = (self.plan.port, mpsc::channel(1).0);
        let mut errors = Errors::default();
        for generation in 1.. {
            let first = generation == 1;
            let mut process = match self.spawn(port, self.plan.record.clone()) {
                Ok(process) => process,
                Err(error) => return self.cannot_start(&error),
            };
            let mut was_ready = false;
            let mut leaving = self.leaving.clone();
            let exit = tokio::select! {
                exit = process.child.wait() => exit,
                _ = leaving.changed() => {
                    process.end().await;
                    return LEFT.into();
                }
                ready = probe(&self.client, port, self.plan.initialization_timeout) => {
                    if ready {
                        was_ready = true;
                        info!(process.id = process.child.id(), handler.port = port, "the handler is ready");
                        self.phase.send_replace(Phase::Ready(Running { generation, port, busy: busy.clone() }));
                        self.watch(&mut process, generation).await
                    } else {
                        let line = did_not_listen(&self.plan.executable.display().to_string(), port, self.plan.initialization_timeout);
                        end(&mut process.child).await;
                        if first {
                            process.end().await;
                            return line;
                        }
                        warn!("{line}");
                        process.child.wait().await
                    }
                }
            };
            self.phase.send_replace(Phase::Starting);
            process.end().await;
            if self.leaving.has_changed().is_err() {
                return LEFT.into();
            }
            let exit = match exit {
                Ok(exit) => exit,
                Err(error) => return format!("cannot wait for the handler: {error}"),
            };
            if first && !was_ready {
                return ended_early(&self.plan.executable.display().to_string(), port, exit);
            }
            match Self::decide(exit, &mut errors) {
                Next::Restart => {}
                Next::StayGone => {
                    warn!("the handler exited with code 0: the host does not restart it, and every call fails from now on");
                    self.phase.send_replace(Phase::Gone);
                    drop(self.leaving.changed().await);
                    return LEFT.into();
                }
                Next::Stop => {
                    return format!(
                        "the handler ended {} times within 30 minutes (last: {}): the host stops, as in Azure; repair the handler and start again",
                        MAX_RESTARTS + 1,
                        describe(exit)
                    );
                }
            }
        }
        unreachable!("the number of restarts is bounded")
    }

    /// Waits for the end of a ready handler; kills the handler on request.
    async fn watch(&mut self, process: &mut Process, generation: u64) -> std::io::Result<ExitStatus> {
        loop {
            tokio::select! {
                exit = process.child.wait() => return exit,
                _ = self.leaving.changed() => {
                    process.ask_to_end();
                    return process.child.wait().await;
                }
                Some(asked) = self.kills.recv() => {
                    if asked == generation {
                        self.phase.send_replace(Phase::Starting);
                        end(&mut process.child).await;
                        // The host itself ended the handler: like exit code 200, this restarts it without counting an error.
                        return process.child.wait().await.map(|_| restart_status());
                    }
                }
            }
        }
    }

    fn decide(exit: ExitStatus, errors: &mut Errors) -> Next {
        match exit.code() {
            Some(0) => return Next::StayGone,
            Some(200) => {
                info!("the handler is restarted");
                return Next::Restart;
            }
            _ => {}
        }
        let Some(number) = errors.one_more() else { return Next::Stop };
        warn!(handler.exit = describe(exit), handler.errors = number, "the handler ended; it is restarted");
        Next::Restart
    }

    /// Starts a handler on this port.
    pub(super) fn spawn(&self, port: u16, record: PathBuf) -> std::io::Result<Process> {
        let Launch { arguments, environment } = (self.plan.launch)(port);
        let mut command = Command::new(&self.plan.executable);
        command.args(arguments).current_dir(&self.plan.working_directory);
        if let Some(is_inherited) = self.plan.inherited {
            command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_inherited)));
        }
        command.envs(&environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0); // Ctrl-C is for the host, which lets invocations end first.
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command);
        let mut child = command.spawn()?;
        let (group, lines) = (Group(child.id()), Lines::of(&mut child, &self.activity));
        if let Some(process) = child.id() {
            orphan::write_down(process, &environment, &record)?;
        }
        Ok(Process { child, port, group, lines, record })
    }

    pub(super) fn cannot_start(&self, error: &std::io::Error) -> String {
        let executable = self.plan.executable.display();
        let directory = &self.plan.working_directory;
        match error.kind() {
            // The system reports one error for three causes.
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
}

/// A handler's process, with the processes that it starts. Dropping it ends all of them.
pub(super) struct Process {
    /// The process.
    pub(super) child: Child,
    /// Port on which it listens.
    pub(super) port: u16,
    /// Ends the whole process group: a wrapper script may leave the real handler behind on the port.
    group: Group,
    lines: Lines,
    record: PathBuf,
}

impl Process {
    /// Waits until the handler answers. `Err`: why it does not.
    pub(super) async fn come_up(&mut self, client: &HandlerClient, executable: &str, timeout: Duration) -> Result<(), String> {
        tokio::select! {
            exit = self.child.wait() => match exit {
                Ok(exit) => Err(ended_early(executable, self.port, exit)),
                Err(error) => Err(format!("cannot wait for the handler: {error}")),
            },
            ready = probe(client, self.port, timeout) => if ready { Ok(()) } else { Err(did_not_listen(executable, self.port, timeout)) },
        }
    }

    /// SIGTERM for the handler, which may leave its files in order.
    pub(super) fn ask_to_end(&mut self) {
        ask_to_end(&mut self.child);
    }

    /// Ends what the handler left behind, and passes on its last lines.
    pub(super) async fn end(&mut self) {
        drop(std::mem::replace(&mut self.group, Group(None)));
        self.lines.end().await;
        drop(std::fs::remove_file(&self.record));
    }
}

fn did_not_listen(executable: &str, port: u16, timeout: Duration) -> String {
    format!("the handler {executable} did not listen on 127.0.0.1:{port} (FUNCTIONS_CUSTOMHANDLER_PORT) within {timeout:?}")
}

fn ended_early(executable: &str, port: u16, exit: ExitStatus) -> String {
    let exit = describe(exit);
    format!("the handler {executable} ended ({exit}) before it listened on 127.0.0.1:{port}; what it printed stands above")
}

/// Whether a handler answered in time. Any answer counts, even 404.
async fn probe(client: &HandlerClient, port: u16, timeout: Duration) -> bool {
    let asking = async {
        // A probe may be lost with a handler that has just ended; the wait doubles with each probe.
        let mut patience = FIRST_PROBE;
        loop {
            let request = Request::builder().method(Method::GET).uri(format!("http://127.0.0.1:{port}/"));
            let Ok(request) = request.body(FramedBody { data: None, sized: true }) else { return false };
            match tokio::time::timeout(patience, client.request(request)).await {
                Ok(Ok(_)) => return true,
                Ok(Err(_)) => {}
                Err(_) => patience *= 2,
            }
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(false)
}

enum Next {
    Restart,
    StayGone,
    Stop,
}

/// A process and its child processes; ended when dropped, such as when the host stops.
pub(crate) struct Group(pub(crate) Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(process) = self.0 {
            kill_group(process);
        }
    }
}

/// SIGTERM for the handler, which may leave its files in order.
fn ask_to_end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(process) = child.id() {
        orphan::ask_group(process);
    }
    #[cfg(not(unix))]
    if let Err(error) = child.start_kill() {
        warn!(%error, "the handler cannot be ended");
    }
}

/// Ends a process group with SIGKILL, without SIGTERM, as the host does.
pub(super) async fn end(child: &mut Child) {
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

pub(super) fn describe(exit: ExitStatus) -> String {
    // "exit status: 1", "signal: 9 (SIGKILL)"
    exit.to_string()
}

/// The five variables of a handler's environment (functions-host, environment and command line).
pub(crate) fn variables(app_root: &Path, worker_id: &str, port: u16) -> [(String, String); 5] {
    [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string()),
        ("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", worker_id.to_owned()),
        ("FUNCTIONS_HTTPWORKER_PORT", port.to_string()),
        ("FUNCTIONS_HTTPWORKER_ID", worker_id.to_owned()),
        ("FUNCTIONS_APP_ROOT_PATH", app_root.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}
