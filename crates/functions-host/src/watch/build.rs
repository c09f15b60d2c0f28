//! One run of the command that builds the handler. No process of it is left when it ends, is broken off, or when the host is killed.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::handler::supervisor::Group;

/// Runs the command. A process beside it waits for the end of its own input, which is the end of the host or of this run, and ends
/// every process of the group: the death signal of Linux reaches the first one only.
#[cfg(unix)]
const GUARDED: &str = "exec 3<&0 </dev/null; (read -r _ <&3; kill -9 0) & exec sh -c \"$1\" 3<&-";

/// Runs the command of a person in this folder. `Err`: how it ended.
pub(super) async fn run(command: &str, folder: &Path) -> Result<(), String> {
    let mut process = shell(command);
    process.current_dir(folder).kill_on_drop(true);
    // Stdout may be a log for machines.
    let (out, error) = (stderr()?, stderr()?);
    let mut child = process.stdin(Stdio::piped()).stdout(out).stderr(error).spawn().map_err(|error| error.to_string())?;
    let _group = Group(child.id());
    // Held until the run has ended; waiting for the process would close it.
    let _input = child.stdin.take();
    let exit = child.wait().await.map_err(|error| error.to_string())?;
    if exit.success() { Ok(()) } else { Err(exit.to_string()) }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut process = Command::new("sh");
    process.args(["-c", GUARDED, "sh", command]).process_group(0);
    process
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut process = Command::new("cmd");
    process.args(["/C", command]);
    process
}

#[cfg(unix)]
fn stderr() -> Result<Stdio, String> {
    use std::os::fd::AsFd;
    std::io::stderr().as_fd().try_clone_to_owned().map(Stdio::from).map_err(|error| error.to_string())
}

#[cfg(not(unix))]
fn stderr() -> Result<Stdio, String> {
    Ok(Stdio::inherit())
}
