//! Failpoints: named places where a test kills a process, to prove that no order is lost there. Without the feature `failpoints` a
//! failpoint compiles to nothing.
//!
//! To kill, a test puts a file (a token) named after the failpoint into the directory that `FAILPOINTS` names; the token says which
//! process dies. The first process that reaches the failpoint takes the token, so that a token makes exactly one kill. A failpoint
//! without a token costs one failed `rename`.

/// A failpoint with this name; `failpoint!("name" if condition)` kills only where the condition holds.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoints::pass($name)
    };
    ($name:literal if $condition:expr) => {
        if $condition {
            $crate::failpoints::pass($name);
        }
    };
}

/// A failpoint in a build without the feature: does nothing.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($($place:tt)*) => {};
}

#[cfg(feature = "failpoints")]
pub use armed::{DIRECTORY, Victim, children, kill, pass};

#[cfg(feature = "failpoints")]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use rustix::process::{Pid, Signal};

    /// Environment variable that names the directory of the tokens. Not a setting of the product: only this module reads it.
    pub const DIRECTORY: &str = "FAILPOINTS";
    /// Subcommand that tells a host from a handler.
    const HOST: &str = "local";

    /// Processes that a kill ends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Victim {
        /// The handler, a child process of the host.
        Handler,
        /// The host. The system then ends its handler (parent-death signal).
        Host,
        /// Host and handler together.
        Both,
    }

    impl Victim {
        /// Every victim.
        pub const ALL: [Self; 3] = [Self::Handler, Self::Host, Self::Both];

        /// Name of the victim in a token.
        pub const fn as_str(self) -> &'static str {
            match self {
                Self::Handler => "handler",
                Self::Host => "host",
                Self::Both => "both",
            }
        }

        /// The victim with this name.
        pub fn parse(text: &str) -> Option<Self> {
            Self::ALL.into_iter().find(|victim| victim.as_str() == text)
        }
    }

    /// Kills if this failpoint has a token. Returns without a token, or if another process is the victim.
    pub fn pass(name: &str) {
        static TOKENS: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(directory) = TOKENS.get_or_init(|| std::env::var_os(DIRECTORY).map(PathBuf::from)) else { return };
        let taken = directory.join(format!("{name}.{}", std::process::id()));
        // One of the processes that try succeeds: the system renames a file once.
        if std::fs::rename(directory.join(name), &taken).is_err() {
            return;
        }
        let text = std::fs::read_to_string(&taken).unwrap_or_default();
        let Some(victim) = Victim::parse(text.trim()) else { return };
        eprintln!("failpoint {name}: kill {}", victim.as_str());
        let this = std::process::id();
        let this_is_host = role(this).as_deref() == Some(HOST);
        let host = if this_is_host { Some(this) } else { parent(this).filter(|parent| role(*parent).as_deref() == Some(HOST)) };
        let handlers = if this_is_host { children(this) } else { vec![this] };
        let hosts = host.into_iter().filter(|_| victim != Victim::Handler);
        let handlers = handlers.into_iter().filter(|_| victim != Victim::Host);
        // This process kills itself last.
        let mut dying: Vec<u32> = hosts.chain(handlers).collect();
        dying.sort_by_key(|process| *process == this);
        dying.iter().copied().for_each(kill);
        while dying.contains(&this) {
            std::thread::park();
        }
    }

    /// Sends SIGKILL to the process with this id.
    pub fn kill(process: u32) {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        // The process may have ended already.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
    }

    /// Child processes of `process`.
    pub fn children(process: u32) -> Vec<u32> {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|child| parent(*child) == Some(process)).collect()
    }

    /// Parent of a process: field 4 of its stat file. Field 2, the program's name, may hold any character (`proc_pid_stat(5)`).
    fn parent(process: u32) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// Subcommand that a process was started with. The parent of an orphan is not a host.
    fn role(process: u32) -> Option<String> {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        line.split(|byte| *byte == 0).nth(1).map(|argument| String::from_utf8_lossy(argument).into_owned())
    }
}
