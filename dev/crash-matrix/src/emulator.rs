//! Emulator of Azure Cosmos DB (`dev/cosmos-emulator`): one process for each cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A running emulator; killed when dropped.
pub(super) struct Emulator {
    /// Settings by which a handler uses the emulator.
    pub(super) settings: BTreeMap<String, String>,
    _child: Child,
    // Keeps the pipe open for later output of the emulator.
    _lines: Lines<BufReader<ChildStdout>>,
}

/// Path of the emulator's program.
pub(super) fn path(asked: Option<&Path>, executable: &Path) -> PathBuf {
    asked.map_or_else(|| executable.with_file_name("cosmos-emulator"), Path::to_owned)
}

impl Emulator {
    /// Starts an emulator on free ports.
    pub(super) async fn start(program: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.args(["--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let stdout = child.stdout.take().ok_or("the emulator has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut settings = BTreeMap::new();
        while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
            match line.split_once('=') {
                Some((name, value)) if !line.starts_with('#') => drop(settings.insert(name.to_owned(), value.to_owned())),
                _ if line.starts_with("# records are in memory") => return Ok(Self { settings, _child: child, _lines: lines }),
                _ => {}
            }
        }
        Err("the emulator ended before it was ready".into())
    }
}
