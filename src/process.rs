//! Who this process is, and whether another one still lives.

use crate::domain::lifecycle::Holder;

/// This process, as leases name it. `instance` is the platform's name for where it runs, if it gave one.
pub fn this_process(instance: Option<String>) -> Holder {
    let process = std::process::id();
    let instance = instance.unwrap_or_else(host_name);
    match started(process) {
        Started::At(started) => Holder { instance, boot: boot(), process, started },
        // Without a boot nobody takes this process for gone.
        Started::Gone | Started::Unknown => Holder { instance, boot: None, process, started: 0 },
    }
}

/// Whether `holder` is known to be gone: same instance and boot as `this`, and no such process any more.
/// Anything that cannot be seen from here is not known to be gone; its lease is waited out.
pub fn is_gone(holder: &Holder, this: &Holder) -> bool {
    let visible = holder.boot.is_some() && holder.boot == this.boot && holder.instance == this.instance;
    let own = holder.process == this.process && holder.started == this.started;
    visible
        && !own
        && match started(holder.process) {
            Started::At(started) => started != holder.started,
            Started::Gone => true,
            Started::Unknown => false,
        }
}

/// So many files are enough: each connection is one, and the host bears 4,096 of them.
#[cfg(unix)]
const FILES: u64 = 65_536;

/// Lets this process open many files where it may: the usual 1,024 are fewer than the connections we bear, and a database that
/// cannot open one refuses orders.
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

/// Elsewhere nobody can be told apart from a later process of the same number.
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
