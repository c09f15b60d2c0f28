//! Facts of this process and of its neighbours on the machine.

/// This process, as a later process on the same machine can look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThisProcess {
    /// Where it runs: the host name.
    pub host: String,
    /// The boot of the machine and the process namespace; `None` where they, or the start time, cannot be told.
    pub boot: Option<String>,
    /// Its number.
    pub process: u32,
    /// When it started, in clock ticks after boot; 0 without a boot.
    pub started: u64,
}

impl ThisProcess {
    /// Reads the facts.
    pub fn read() -> Self {
        let process = std::process::id();
        match started(process) {
            Started::At(started) => Self { host: host_name(), boot: boot(), process, started },
            // Without a boot no process takes this one for gone.
            Started::Gone | Started::Unknown => Self { host: host_name(), boot: None, process, started: 0 },
        }
    }
}

/// The number of open files that is asked for: each connection is one, and a stand-in host bears 4,096 of them.
#[cfg(unix)]
const FILES: u64 = 65_536;

/// Lets this process open many files where it may: the usual 1,024 are fewer than the connections a server bears, and a
/// database that cannot open one refuses what it is asked for.
#[cfg(unix)]
pub fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!(%error, "no more files can be opened than {:?}", limit.current);
    }
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub fn open_many_files() {}

/// What can be seen of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs, and started at this many clock ticks after boot.
    At(u64),
    /// There is none, or only the remains of one.
    Gone,
    /// The system did not tell.
    Unknown,
}

/// When a process started.
#[cfg(target_os = "linux")]
pub fn started(process: u32) -> Started {
    let stat = match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat,
        // ESRCH: it ended while it was read.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => return Started::Gone,
        Err(_) => return Started::Unknown,
    };
    // The second field is the program's name in parentheses and may hold anything (proc_pid_stat(5)).
    let Some(fields) = stat.rfind(')').map(|end| &stat[end + 1..]) else { return Started::Unknown };
    let mut fields = fields.split_ascii_whitespace();
    match fields.next() {
        Some("Z" | "X") => Started::Gone,
        // State was field 3; the start time is field 22.
        _ => fields.nth(18).and_then(|ticks| ticks.parse().ok()).map_or(Started::Unknown, Started::At),
    }
}

/// Elsewhere a process cannot be told apart from a later one of the same number.
#[cfg(not(target_os = "linux"))]
pub fn started(_process: u32) -> Started {
    Started::Unknown
}

/// The boot of this machine and the process namespace: two containers on one machine cannot see each other's processes.
#[cfg(target_os = "linux")]
pub fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Elsewhere a boot has no name.
#[cfg(not(target_os = "linux"))]
pub fn boot() -> Option<String> {
    None
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    "localhost".into()
}
