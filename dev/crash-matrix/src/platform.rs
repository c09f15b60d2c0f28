//! The platform: starts the host again whenever it has ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serving::failpoints::{self, Victim};
use tokio::process::Command;

/// Shortest run of a host that counts as a successful start.
const SOON: Duration = Duration::from_millis(300);
/// Consecutive failed starts after which the cell fails: that is an error of the matrix.
const FALSE_STARTS: usize = 20;
/// Ports for hosts, below those that systems hand out for connections: one of those could be taken while no host listens.
const PORTS: std::ops::Range<u16> = 18_000..30_000;

/// A host (`waybill local`) that is started again whenever it ends.
pub(super) struct Platform {
    /// Path of this program.
    pub(super) executable: PathBuf,
    pub(super) app: PathBuf,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) port: u16,
    pub(super) max_delivery_count: u32,
    pub(super) environment: BTreeMap<String, String>,
    /// Starts of the host so far.
    pub(super) starts: AtomicUsize,
    /// Process id of the running host; 0 while none runs.
    pub(super) host: AtomicU32,
}

impl Platform {
    /// Starts the host again and again; a drop kills it. Returns only if the host does not come up.
    pub(super) async fn run(&self) -> Result<Infallible, String> {
        let mut false_starts = 0;
        loop {
            let started = Instant::now();
            let mut child = self.start().map_err(|error| format!("cannot start {}: {error}", self.executable.display()))?;
            self.starts.fetch_add(1, Ordering::Relaxed);
            self.host.store(child.id().unwrap_or(0), Ordering::Relaxed);
            let ended = child.wait().await;
            self.host.store(0, Ordering::Relaxed);
            // A host that was killed is the purpose of the matrix, and no error.
            let came_up = started.elapsed() > SOON || ended.is_ok_and(|status| status.code().is_none());
            false_starts = if came_up { 0 } else { false_starts + 1 };
            if false_starts == FALSE_STARTS {
                return Err(format!("the host does not come up; see {}", self.log.display()));
            }
        }
    }

    fn start(&self) -> std::io::Result<tokio::process::Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.executable);
        command.arg("local").arg("--app").arg(&self.app).arg("--data").arg(&self.data).arg("--handler").arg(&self.executable);
        command.args(["--port", &self.port.to_string(), "--max-delivery-count", &self.max_delivery_count.to_string()]);
        command.env_clear().envs(&self.environment).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn()
    }

    /// Kills the victim at once, by process id. `false`: no such process ran.
    pub(super) fn kill(&self, victim: Victim) -> bool {
        let host = self.host.load(Ordering::Relaxed);
        if host == 0 {
            return false;
        }
        let handlers = if victim == Victim::Host { Vec::new() } else { failpoints::children(host) };
        let hosts = if victim == Victim::Handler { None } else { Some(host) };
        let dying: Vec<u32> = hosts.into_iter().chain(handlers).collect();
        dying.iter().copied().for_each(failpoints::kill);
        !dying.is_empty()
    }
}

/// A port that is free, and stays free while the host is away. Derived from this process, not from the seed: another run at the same
/// time may have the same seed.
pub(super) fn port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(101).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % u32::from(PORTS.end - PORTS.start)).unwrap_or(0);
        if std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
            return port;
        }
    }
}

/// Puts a token by a rename, so that no process reads half a token.
pub(super) fn put_token(directory: &Path, name: &str, victim: Victim) -> std::io::Result<()> {
    let making = directory.join(format!("{name}.new"));
    std::fs::write(&making, victim.as_str())?;
    std::fs::rename(making, directory.join(name))
}
