//! Places where a process is killed on demand, to prove that nothing is lost there. Without the feature `failpoints` they are nothing.
//!
//! A test that wants a kill puts a file (a token) named after the place into the directory that `FAILPOINTS` names; the token says
//! which process dies. The first process that passes the place takes the token, which makes one kill of it, however many processes
//! pass and however often they are started again. Without a token a place costs one failed `rename`.

/// Names a place; `failpoint!("name" if condition)` is one only where the condition holds.
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

/// Names a place, for the reader only.
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

    /// The variable that names the directory of the tokens. It is no setting of a product, and read here only.
    pub const DIRECTORY: &str = "FAILPOINTS";
    /// The subcommand that a host is started with.
    const HOST: &str = "local";

    /// The processes that die.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Victim {
        /// The handler, which a host has started.
        Handler,
        /// The host. Its handler follows as soon as the system tells it.
        Host,
        /// Host and handler in the same moment.
        Both,
    }

    impl Victim {
        /// All of them.
        pub const ALL: [Self; 3] = [Self::Handler, Self::Host, Self::Both];

        /// As a token says it.
        pub const fn as_str(self) -> &'static str {
            match self {
                Self::Handler => "handler",
                Self::Host => "host",
                Self::Both => "both",
            }
        }

        /// The victim that a token, or a person, names.
        pub fn parse(text: &str) -> Option<Self> {
            Self::ALL.into_iter().find(|victim| victim.as_str() == text)
        }
    }

    /// Kills if there is a token for this place; returns if there is none, or if it is not this process that dies.
    pub fn pass(name: &str) {
        static TOKENS: OnceLock<Option<PathBuf>> = OnceLock::new();
        let Some(directory) = TOKENS.get_or_init(|| std::env::var_os(DIRECTORY).map(PathBuf::from)) else { return };
        let taken = directory.join(format!("{name}.{}", std::process::id()));
        // Of many who try, one succeeds: the system renames a file once.
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

    /// SIGKILL, by number.
    pub fn kill(process: u32) {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        // It may be gone already.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
    }

    /// The processes that `process` started.
    pub fn children(process: u32) -> Vec<u32> {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|child| parent(*child) == Some(process)).collect()
    }

    /// Field 4; the second one may hold anything (`proc_pid_stat(5)`).
    fn parent(process: u32) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
    }

    /// The subcommand a process was started with: a process that took an orphan in is no host.
    fn role(process: u32) -> Option<String> {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
        line.split(|byte| *byte == 0).nth(1).map(|argument| String::from_utf8_lossy(argument).into_owned())
    }
}
