//! What a person types.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::local::queue::Rules;
use crate::local::{self, Options};
use crate::{config, demo, serve};

/// An Azure Functions custom handler that turns slow orders into a 202 that is never a lie.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done or stopped as asked, 1 could not start or go on, 2 wrong arguments, 130 stopped at once."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one order through everything, on this machine, and show what happens to it.
    Demo,
    /// Play the Functions host on this machine: HTTP, queue and timers, for the app in this folder.
    Local(Local),
    /// Be the handler: what the Functions host starts.
    Serve,
}

#[derive(Debug, Args)]
struct Local {
    /// The app's folder, where host.json is.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// Port to listen on; 0 for any free one [default: Host.LocalHttpPort of local.settings.json, else 7071]
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Where records and messages are kept [default: .waybill in the app's folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The handler to start, instead of the one host.json names.
    #[arg(long, value_name = "PATH")]
    handler: Option<PathBuf>,
    /// Send invocations with a Content-Length, as `func start` does, instead of chunked, as Azure does.
    #[arg(long)]
    content_length: bool,
    /// How long a receiver holds a message before it is delivered again.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    lock_duration: Duration,
    /// Deliveries before a message is dead-lettered.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    max_delivery_count: u32,
    /// How long running invocations may take after Ctrl-C.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    drain_timeout: Duration,
}

/// Runs a command; problems go to stderr, one line each.
pub fn run(arguments: Arguments) -> ExitCode {
    let environment = config::environment();
    let ended = match arguments.command {
        Command::Demo => demo::run(&environment),
        Command::Local(local) => local::command(local.into(), &environment),
        Command::Serve => serve::run(&environment),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("waybill: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

impl From<Local> for Options {
    fn from(local: Local) -> Self {
        Self {
            app: local.app,
            port: local.port,
            host: local.host,
            data: local.data,
            handler: local.handler,
            content_length: local.content_length,
            rules: Rules { lock_duration: local.lock_duration, max_delivery_count: local.max_delivery_count },
            drain_timeout: local.drain_timeout,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use a number with a unit (ms, s, m, h, d) such as 30s".into())
}
