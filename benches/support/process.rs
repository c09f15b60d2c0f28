//! Programs under measurement: started, watched from outside, and ended by their process id whatever happens.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::client::Failure;

/// Until a program accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the disk is measured.
const DISK_TIME: Duration = Duration::from_secs(1);

/// A directory of its own, removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    /// Made inside `parent`, by default in Cargo's target directory: a temporary directory may be in memory, where fsync is free.
    pub fn new(parent: Option<&Path>) -> std::io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = parent.unwrap_or(Path::new(env!("CARGO_TARGET_TMPDIR")));
        let path = parent.join(format!("waybill-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// How many fdatasync a second this disk does, one after the other.
    pub fn syncs_per_second(&self) -> std::io::Result<f64> {
        let mut file = File::create(self.0.join("sync"))?;
        let (started, mut count) = (Instant::now(), 0.0);
        while started.elapsed() < DISK_TIME {
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            count += 1.0;
        }
        Ok(count / started.elapsed().as_secs_f64())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running program; killed when dropped.
pub struct Program(Child);

impl Program {
    /// Starts it with nothing of this process's environment but `PATH`. Whatever it prints goes to /dev/null, errors excepted.
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(environment.iter().copied());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(Self)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it accepts connections.
    pub async fn accepts(&mut self, port: u16) -> Result<(), Failure> {
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("it ended ({status}) before it accepted connections").into());
            }
            if Instant::now() > end {
                return Err("it does not accept connections".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Resident memory of a process in MiB; not a number when it has ended.
pub fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}
