//! What a person types.

pub mod serve;
pub mod demo;
pub mod operate;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use uuid::Uuid;

use crate::cli::operate::Request;
use crate::config;
use crate::domain::lifecycle::Status;
use crate::domain::tracking::TrackingId;
use crate::local::queue::Rules;
use crate::local::{self, Options};

/// An Azure Functions custom handler that turns slow orders into a 202 that is never a lie.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done or stopped as asked, 1 could not start or go on, or what was asked for is not so, 2 wrong arguments, 130 stopped at once."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill handler and host at every step, under load, and count what is lost.
    #[cfg(feature = "failpoints")]
    CrashMatrix(crate::crash_matrix::Options),
    /// Send one order through everything, on this machine, and show what happens to it.
    Demo,
    /// Play the Functions host on this machine: HTTP, queue and timers, for the app in this folder.
    Local(Local),
    /// Look at orders, put failed ones back on their way, cancel others.
    Orders(Orders),
    /// Look at messages that nobody could act on, and send them again.
    Quarantine(Quarantine),
    /// Compare the records with queue and dead letters; exit code 1 if anything disagrees.
    Verify {
        /// Look at every order that has not ended, and at so many of all, newest first.
        #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=i64::from(operate::MOST)))]
        limit: u32,
        #[command(flatten)]
        place: Where,
    },
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

/// Where the orders are.
#[derive(Debug, Args)]
struct Where {
    /// The app's folder, whose local.settings.json counts below the environment.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The records and messages of `waybill local` in this directory, whatever else is configured.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Orders {
    #[command(subcommand)]
    command: OrdersCommand,
}

#[derive(Debug, Subcommand)]
enum OrdersCommand {
    /// List orders, newest first.
    List {
        /// accepted, processing, completed, failed or cancelled.
        #[arg(long, value_parser = status)]
        status: Option<Status>,
        /// Submitted longer ago than this, e.g. 1h.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        older_than: Option<Duration>,
        /// Of this owner.
        #[arg(long)]
        owner: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        place: Where,
    },
    /// Show a record whole: history, attempts, result.
    Show {
        #[arg(value_parser = tracking_id)]
        id: TrackingId,
        #[command(flatten)]
        place: Where,
    },
    /// Follow an order to its end; exit code 1 unless it completes.
    Watch {
        #[arg(value_parser = tracking_id)]
        id: TrackingId,
        #[command(flatten)]
        place: Where,
    },
    /// Put failed orders back on their way, with a fresh budget.
    Retry(Chosen),
    /// Cancel orders, whoever owns them, as their owners can with DELETE.
    Cancel(Chosen),
}

#[derive(Debug, Args)]
struct Chosen {
    #[arg(value_parser = tracking_id, required = true)]
    ids: Vec<TrackingId>,
    /// Needed for more than one.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
struct Quarantine {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// List what is kept, and why.
    List {
        #[command(flatten)]
        place: Where,
    },
    /// Show a message whole.
    Show {
        id: Uuid,
        #[command(flatten)]
        place: Where,
    },
    /// Send a message again, as it is.
    Retry {
        id: Uuid,
        #[command(flatten)]
        place: Where,
    },
}

/// Runs a command; problems go to stderr, one line each.
pub fn run(arguments: Arguments) -> ExitCode {
    let environment = config::environment();
    let ended = match arguments.command {
        #[cfg(feature = "failpoints")]
        Command::CrashMatrix(options) => crate::crash_matrix::run(&options),
        Command::Demo => demo::run(&environment).map(|()| true),
        Command::Local(local) => local::command(local.into(), &environment).map(|()| true),
        Command::Serve => serve::run(&environment).map(|()| true),
        Command::Orders(orders) => orders.run(&environment),
        Command::Quarantine(quarantine) => quarantine.run(&environment),
        Command::Verify { limit, place } => operate::run(Request::Verify(limit), &place.into(), &environment),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problems) => {
            for problem in problems {
                eprintln!("waybill: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

impl Orders {
    fn run(self, environment: &BTreeMap<String, String>) -> Result<bool, Vec<String>> {
        let (request, place) = match self.command {
            OrdersCommand::List { status, older_than, owner, limit, place } => (Request::List { status, older_than, owner, limit }, place),
            OrdersCommand::Show { id, place } => (Request::Show(id), place),
            OrdersCommand::Watch { id, place } => (Request::Watch(id), place),
            OrdersCommand::Retry(chosen) => (Request::Retry(chosen.meant()), chosen.place),
            OrdersCommand::Cancel(chosen) => (Request::Cancel(chosen.meant()), chosen.place),
        };
        operate::run(request, &place.into(), environment)
    }
}

impl Chosen {
    /// Ends the program, as for any wrong argument, unless all of them are.
    fn meant(&self) -> Vec<TrackingId> {
        if self.ids.len() > 1 && !self.yes {
            let many = format!("these are {} orders: add --yes if all of them are meant", self.ids.len());
            Arguments::command().error(clap::error::ErrorKind::MissingRequiredArgument, many).exit()
        }
        self.ids.clone()
    }
}

impl Quarantine {
    fn run(self, environment: &BTreeMap<String, String>) -> Result<bool, Vec<String>> {
        let (request, place) = match self.command {
            QuarantineCommand::List { place } => (Request::Quarantined(None), place),
            QuarantineCommand::Show { id, place } => (Request::Quarantined(Some(id)), place),
            QuarantineCommand::Retry { id, place } => (Request::Release(id), place),
        };
        operate::run(request, &place.into(), environment)
    }
}

impl From<Where> for operate::Options {
    fn from(place: Where) -> Self {
        Self { app: place.app, data: place.data, json: place.json }
    }
}

fn status(text: &str) -> Result<Status, String> {
    let all = [Status::Accepted, Status::Processing, Status::Completed, Status::Failed, Status::Cancelled];
    all.into_iter().find(|status| status.as_str() == text).ok_or_else(|| "use accepted, processing, completed, failed or cancelled".into())
}

fn tracking_id(text: &str) -> Result<TrackingId, String> {
    TrackingId::parse(text).ok_or_else(|| "this is not a tracking id; it looks like a3948077-c06a-8f9c-9be8-6dd4acb7c847".into())
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
