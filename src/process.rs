//! Who this process is, and whether another one still lives.

use crate::lifecycle::Holder;

/// This process, as leases name it. `instance` is the platform's name for where it runs, if it gave one.
pub fn this_process(instance: Option<String>) -> Holder {
    let process = std::process::id();
    Holder { instance: instance.unwrap_or_else(host_name), boot: boot(), process, started: started(process).unwrap_or(0) }
}

/// Whether `holder` is known to be gone: same instance and boot as `this`, and no such process any more.
/// Anything that cannot be seen from here is not known to be gone; its lease is waited out.
pub fn is_gone(holder: &Holder, this: &Holder) -> bool {
    holder.boot.is_some() && holder.boot == this.boot && holder.instance == this.instance && started(holder.process) != Some(holder.started)
}

/// When a process started, in clock ticks since boot; nothing when there is none, or only the remains of one.
#[cfg(target_os = "linux")]
pub fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything (proc_pid_stat(5)).
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // State was field 3; the start time is field 22.
    fields.nth(18)?.parse().ok()
}

/// Elsewhere nobody can be told apart from a later process of the same number.
#[cfg(not(target_os = "linux"))]
pub fn started(_process: u32) -> Option<u64> {
    None
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
