//! Facts of this process and of other processes on the machine.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Identity of this process, by which a later process on the same machine can look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThisProcess {
    /// Host name.
    pub host: String,
    /// Boot of the machine and process namespace; `None` where the system does not tell them, or not the start time.
    pub boot: Option<String>,
    /// Process id.
    pub process: u32,
    /// Start time in clock ticks after boot; 0 without a boot.
    pub started: u64,
}

impl ThisProcess {
    /// Reads the facts.
    pub fn read() -> Self {
        let process = std::process::id();
        match started(process) {
            Started::At(started) => Self { host: host_name(), boot: boot(), process, started },
            // Without a boot, no other process may conclude that this one has ended.
            Started::Gone | Started::Unknown => Self { host: host_name(), boot: None, process, started: 0 },
        }
    }
}

/// The year 9900, in seconds since the Unix epoch. The longest duration of a setting is a hundred years, and the last year that is
/// told is 9999.
const LATEST: Duration = Duration::from_secs(250_246_627_200);

/// What is wrong with this machine's clock, where it is so late that moments after it could not be told.
pub fn clock_mistake() -> Option<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().filter(|now| *now > LATEST)?;
    let told = Timestamp::try_from(SystemTime::UNIX_EPOCH + now).unwrap_or(Timestamp::MAX);
    Some(format!("this machine's clock says {}, and nothing can be dated by it: set it right", told.strftime("%F %T")))
}

/// Open files that this process asks for: each connection is one, and a stand-in host serves 4,096 connections.
#[cfg(unix)]
const FILES: u64 = 65_536;

/// Raises this process's limit of open files, where the system allows it. The usual limit of 1,024 is below the connections of a
/// server, and a database that cannot open a file fails its operations.
#[cfg(unix)]
pub fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn open_many_files() {}

/// Start of a process, as far as the system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The process runs; its start in clock ticks after boot.
    At(u64),
    /// No such process, or only a zombie.
    Gone,
    /// Not known: the system did not tell.
    Unknown,
}

/// Start of the process with this id.
#[cfg(target_os = "linux")]
pub fn started(process: u32) -> Started {
    let stat = match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat,
        // ESRCH: the process ended while its file was read.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => return Started::Gone,
        Err(_) => return Started::Unknown,
    };
    // Field 2 is the program's name in parentheses and may hold any character (proc_pid_stat(5)).
    let Some(fields) = stat.rfind(')').map(|end| &stat[end + 1..]) else { return Started::Unknown };
    let mut fields = fields.split_ascii_whitespace();
    match fields.next() {
        Some("Z" | "X") => Started::Gone,
        // Field 3 is the state; field 22 is the start time.
        _ => fields.nth(18).and_then(|ticks| ticks.parse().ok()).map_or(Started::Unknown, Started::At),
    }
}

/// Other systems do not tell a process from a later one with the same id.
#[cfg(not(target_os = "linux"))]
pub fn started(_process: u32) -> Started {
    Started::Unknown
}

/// Processes of this group that were started with this variable in their environment. A group keeps its number while any process is
/// in it, also after the end of its leader.
#[cfg(target_os = "linux")]
pub fn in_group(group: u32, variable: &str, value: &str) -> Vec<u32> {
    let is_in_group = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Field 5, as above.
        stat.rfind(')').and_then(|end| stat[end + 1..].split_ascii_whitespace().nth(2)) == Some(&group.to_string())
    };
    let wanted = format!("{variable}={value}");
    // Empty for a zombie.
    let has_variable = |process: &u32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(is_in_group).filter(has_variable).collect()
}

/// Other systems do not show the environment of a process.
#[cfg(not(target_os = "linux"))]
pub fn in_group(_group: u32, _variable: &str, _value: &str) -> Vec<u32> {
    Vec::new()
}

/// Boot of this machine and process namespace: two containers on one machine cannot see each other's processes.
#[cfg(target_os = "linux")]
pub fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Other systems give a boot no name.
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
