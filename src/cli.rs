//! The command line.

pub mod serve;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "local")]
mod app_files;
#[cfg(feature = "local")]
pub mod demo;
#[cfg(feature = "local")]
mod doctor;
#[cfg(feature = "local")]
mod invoke;
#[cfg(feature = "local")]
mod replay;
#[cfg(feature = "local")]
mod new;
#[cfg(feature = "local")]
mod misfit;
#[cfg(feature = "local")]
mod package;
#[cfg(feature = "local")]
mod backup;
pub mod operate;
mod settings;

use std::collections::BTreeMap;
#[cfg(feature = "local")]
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serving::log::Form;
use serving::output::{self, Output};
use serving::terminal::{printable, printable_lines};
use uuid::Uuid;

use crate::cli::operate::id_prefix::IdPrefix;
use crate::cli::operate::{Ended, Request};
use crate::config::{self, LogConfig, LogForm};
use crate::domain::record::Status;

/// This version, and where it comes from: `waybill package` says the commit, the processor and the profile.
const BUILD: &str = match option_env!("WAYBILL_BUILD") {
    Some(build) => build,
    None => concat!(env!("CARGO_PKG_VERSION"), " (built for development)"),
};

/// An Azure Functions custom handler that turns slow orders into a 202 that is never a lie.
#[derive(Debug, Parser)]
#[command(
    version = BUILD,
    after_help = "Exit codes: 0 done or stopped as asked, 1 could not start or go on, or what was asked for is not so, 2 wrong arguments, 3 all that can be compared agrees and something waits for an operator (verify), 130 stopped at once."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one order through everything, on this machine, and show what happens to it.
    #[cfg(feature = "local")]
    Demo,
    /// Play the Functions host on this machine: HTTP, queue and timers, for the app in this folder.
    #[cfg(feature = "local")]
    Local(local::Options),
    /// Run one function of a running app, and show its answer, its outputs and its log lines.
    #[cfg(feature = "local")]
    Invoke(invoke::Options),
    /// Send recorded invocations to the handler once more, without effects, and compare its answers.
    #[cfg(feature = "local")]
    Replay(replay::Options),
    /// Make a folder with an app of your own: its order, its work, and what Azure needs.
    #[cfg(feature = "local")]
    New(new::Options),
    /// Look at orders, send failed ones again, cancel others.
    Orders(Orders),
    /// Have the end of an order told once more.
    Callback(Callback),
    /// Look at messages that no function could act on, and send them again.
    Quarantine(Quarantine),
    /// Compare the records with queue and dead letters; exit code 1 if anything disagrees, 3 if only messages in quarantine or records
    /// that cannot be read are left.
    Verify {
        /// Look at every order that has not ended, and at this number of all orders, newest first.
        #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=i64::from(operate::MOST)))]
        limit: u32,
        #[command(flatten)]
        place: Where,
    },
    /// Copy the databases of a data directory into a new directory, also while `waybill local` runs.
    #[cfg(feature = "local")]
    Backup(backup::Options),
    /// Start again without a write-ahead log that was lost, and without what only that log had.
    #[cfg(feature = "local")]
    AcceptLoss(backup::Place),
    /// Be the handler: what the Functions host starts.
    Serve,
    /// Build the handler for Azure and pack it with its app, ready to be deployed.
    #[cfg(feature = "local")]
    Package(package::Options),
    /// Find what would break an app in Azure, before its deployment or after it; exit code 1 if something does.
    #[cfg(feature = "local")]
    Doctor(doctor::Options),
    /// Print the completions of a shell, e.g. `source <(waybill completions bash)`.
    #[cfg(feature = "local")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Show every setting, its value, and where that comes from; exit code 1 if the settings are not good.
    Settings(settings::Options),
}

/// Where the orders are.
#[derive(Debug, Args)]
struct Where {
    /// The app's folder, whose local.settings.json counts below the environment.
    #[cfg(feature = "local")]
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The records and messages of `waybill local` in this directory, whatever else is configured.
    #[cfg(feature = "local")]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object per line.
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
        /// Only orders submitted longer ago than this, e.g. 1h.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        older_than: Option<Duration>,
        /// Only orders submitted within this time, e.g. 2h.
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        since: Option<Duration>,
        /// Only orders whose error has this code, such as `interrupted`.
        #[arg(long, value_name = "CODE")]
        error: Option<String>,
        /// Only orders with this `orderId`.
        #[arg(long, value_name = "ORDERID")]
        order: Option<String>,
        /// Only orders with this `customerId`.
        #[arg(long, value_name = "CUSTOMERID")]
        customer: Option<String>,
        /// Only orders of this owner.
        #[arg(long)]
        owner: Option<String>,
        /// The most orders to list.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        place: Where,
    },
    /// Show one order: status, attempts, what comes next, result, history. An id may be given by its first digits.
    Show {
        /// Tracking id, or its first digits, at least 4.
        id: IdPrefix,
        #[command(flatten)]
        place: Where,
    },
    /// Follow an order to its end; exit code 1 unless it completes.
    Watch {
        /// Tracking id, or its first digits, at least 4.
        id: IdPrefix,
        #[command(flatten)]
        place: Where,
    },
    /// Send failed orders again, with a fresh budget.
    Retry(Retried),
    /// Cancel orders of any owner, as owners can with DELETE.
    Cancel(Chosen),
}

#[derive(Debug, Args)]
struct Chosen {
    /// Tracking ids, or their first digits, at least 4.
    #[arg(required = true)]
    ids: Vec<IdPrefix>,
    /// Confirm a change of more than one.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
struct Retried {
    #[arg(required_unless_present = "status", conflicts_with_all = ["status", "error", "since", "dry_run"])]
    /// Tracking ids, or their first digits, at least 4.
    ids: Vec<IdPrefix>,
    /// All failed orders, or those that `--error` and `--since` choose; nothing but `failed` is possible.
    #[arg(long, value_parser = ["failed"])]
    status: Option<String>,
    /// Only orders whose error has this code, such as `interrupted`.
    #[arg(long, value_name = "CODE", requires = "status")]
    error: Option<String>,
    /// Only orders submitted within this time, e.g. 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "status")]
    since: Option<Duration>,
    /// List the orders, and change none.
    #[arg(long, requires = "status")]
    dry_run: bool,
    /// Confirm a change of more than one.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
struct Callback {
    #[command(subcommand)]
    command: CallbackCommand,
}

#[derive(Debug, Subcommand)]
enum CallbackCommand {
    /// Send the callbacks of ended orders again, under the ids they had, whether they were delivered or given up.
    Retry(Chosen),
}

#[derive(Debug, Args)]
struct Quarantine {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// List the kept messages, and why each was kept.
    List {
        /// Those too that were discarded.
        #[arg(long)]
        all: bool,
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
    /// Note that nothing is left to do about messages: `list` and `verify` pass over them from then on.
    Discard {
        #[arg(required = true)]
        ids: Vec<Uuid>,
        /// Why, for the next person who asks.
        #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
        /// Confirm a change of more than one.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Where,
    },
}

/// Exit code of `verify` where everything that can be compared agrees, and something is left for an operator.
const LEFT_OVER: u8 = 3;
/// Exit code of wrong use, as of wrong arguments.
#[cfg(feature = "local")]
const MISUSED: u8 = 2;
/// Exit code of the demo that a person stopped, as of any program that SIGINT ends.
#[cfg(feature = "local")]
const STOPPED: u8 = 130;

/// The environment, above the settings of the app in this folder.
fn environment_of(app: &Path, environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Vec<String>> {
    above(settings::values(app)?, app, environment)
}

/// The environment, above these settings of the app in this folder.
fn above(
    mut values: BTreeMap<String, String>,
    app: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Vec<String>> {
    values.extend(environment.clone());
    let folder = utf_8(app)?;
    values.entry("FUNCTIONS_APP_ROOT_PATH".into()).or_insert_with(|| folder.to_owned());
    Ok(values)
}

/// A path that is told in the environment of a process.
fn utf_8(path: &Path) -> Result<&str, Vec<String>> {
    path.to_str().ok_or_else(|| vec![format!("the name of the folder {} is not UTF-8: name another", path.display())])
}

/// Starts the log lines of this process. What is returned is dropped when the command ends.
fn start_log(log: &LogConfig, more: Option<serving::log::More>) -> Output {
    let form = match log.form {
        LogForm::Json => Form::Json,
        LogForm::Text => Form::Text,
        LogForm::Short => Form::Short,
    };
    serving::log::start(&log.levels, form, more)
}

/// The command line, or the end of the process with what is wrong with it. The message repeats what was typed or pasted, so nothing in it
/// steers the terminal.
pub fn arguments() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        let text = error.to_string();
        let shown = printable_lines(&text);
        if shown == text {
            error.exit();
        }
        output::complain(shown.trim_end());
        output::flush();
        std::process::exit(error.exit_code())
    })
}

/// Runs a command.
pub fn run(arguments: Arguments) -> ExitCode {
    ended(config::environment().and_then(|environment| answer(arguments.command, &environment)))
}

fn answer(command: Command, environment: &BTreeMap<String, String>) -> Result<ExitCode, Vec<String>> {
    match command {
        #[cfg(feature = "local")]
        Command::Demo => demo::run(environment).map(|shown| match shown {
            demo::Shown::Whole => ExitCode::SUCCESS,
            demo::Shown::Stopped => ExitCode::from(STOPPED),
        }),
        #[cfg(feature = "local")]
        Command::Local(options) => local::run(options, environment).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::Invoke(options) => invoke::run(&options, environment).map(|well| exit_code(well.into())),
        #[cfg(feature = "local")]
        Command::Replay(options) => replay::run(&options, environment).map(|outcome| match outcome {
            replay::Outcome::Same => ExitCode::SUCCESS,
            replay::Outcome::Differs => ExitCode::FAILURE,
            replay::Outcome::Misused => ExitCode::from(MISUSED),
            replay::Outcome::Stopped => ExitCode::from(STOPPED),
        }),
        #[cfg(feature = "local")]
        Command::New(options) => new::run(&options).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::Package(options) => package::run(&options, environment).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::Backup(options) => backup::run(&options, environment).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::AcceptLoss(place) => backup::accept(&place, environment).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::Doctor(options) => doctor::run(&options).map(|well| exit_code(well.into())),
        Command::Serve => serve::run(environment, None).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "local")]
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "waybill", &mut script);
            // A closed pipe is no failure.
            drop(std::io::stdout().write_all(&script));
            Ok(ExitCode::SUCCESS)
        }
        Command::Settings(options) => settings::run(&options, environment).map(|()| ExitCode::SUCCESS),
        Command::Orders(orders) => orders.run(environment).map(exit_code),
        Command::Callback(Callback { command: CallbackCommand::Retry(chosen) }) => {
            operate::run(Request::TellAgain(chosen.meant()), &chosen.place.into(), environment).map(exit_code)
        }
        Command::Quarantine(quarantine) => quarantine.run(environment).map(exit_code),
        Command::Verify { limit, place } => operate::run(Request::Verify(limit), &place.into(), environment).map(exit_code),
    }
}

/// The exit code of a command; problems go to stderr, one line each.
pub fn ended(ended: Result<ExitCode, Vec<String>>) -> ExitCode {
    ended.unwrap_or_else(|problems| {
        for problem in problems {
            output::complain(&format!("waybill: {}", printable(&problem)));
        }
        output::flush();
        ExitCode::FAILURE
    })
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Well => ExitCode::SUCCESS,
        Ended::Negative => ExitCode::FAILURE,
        Ended::LeftOver => ExitCode::from(LEFT_OVER),
    }
}

impl Orders {
    fn run(self, environment: &BTreeMap<String, String>) -> Result<Ended, Vec<String>> {
        let (request, place) = match self.command {
            OrdersCommand::List { status, older_than, since, error, order, customer, owner, limit, place } => {
                (Request::List { status, older_than, since, owner, error, order, customer, limit }, place)
            }
            OrdersCommand::Show { id, place } => (Request::Show(id), place),
            OrdersCommand::Watch { id, place } => (Request::Watch(id), place),
            OrdersCommand::Retry(retried) => retried.meant(),
            OrdersCommand::Cancel(chosen) => (Request::Cancel(chosen.meant()), chosen.place),
        };
        operate::run(request, &place.into(), environment)
    }
}

impl Chosen {
    fn meant(&self) -> Vec<IdPrefix> {
        meant(&self.ids, self.yes)
    }
}

impl Retried {
    fn meant(self) -> (Request, Where) {
        let Self { ids, status, error, since, dry_run, yes, place } = self;
        if status.is_none() {
            return (Request::Retry(meant(&ids, yes)), place);
        }
        if !yes && !dry_run {
            needs_yes("this may be many orders: look at them with --dry-run, then add --yes".into())
        }
        (Request::RetryFailed { error, since, dry_run }, place)
    }
}

/// Ends the program, as for any wrong argument, unless all of them are meant.
fn meant(ids: &[IdPrefix], yes: bool) -> Vec<IdPrefix> {
    if ids.len() > 1 && !yes {
        needs_yes(format!("these are {} orders: add --yes if all of them are meant", ids.len()))
    }
    ids.to_vec()
}

fn needs_yes(why: String) -> ! {
    Arguments::command().error(clap::error::ErrorKind::MissingRequiredArgument, why).exit()
}

impl Quarantine {
    fn run(self, environment: &BTreeMap<String, String>) -> Result<Ended, Vec<String>> {
        let (request, place) = match self.command {
            QuarantineCommand::List { all, place } => (Request::Quarantined(all), place),
            QuarantineCommand::Show { id, place } => (Request::ShowQuarantined(id), place),
            QuarantineCommand::Discard { ids, reason, yes, place } => {
                if ids.len() > 1 && !yes {
                    needs_yes(format!("these are {} messages: add --yes if all of them are meant", ids.len()))
                }
                (Request::Discard(ids, reason), place)
            }
            QuarantineCommand::Retry { id, place } => (Request::Release(id), place),
        };
        operate::run(request, &place.into(), environment)
    }
}

impl From<Where> for operate::Options {
    fn from(place: Where) -> Self {
        #[cfg(feature = "local")]
        return Self { app: place.app, data: place.data, json: place.json };
        #[cfg(not(feature = "local"))]
        Self { app: PathBuf::from("."), data: None, json: place.json }
    }
}

fn status(text: &str) -> Result<Status, String> {
    let all = [Status::Accepted, Status::Processing, Status::Completed, Status::Failed, Status::Cancelled];
    all.into_iter().find(|status| status.as_str() == text).ok_or_else(|| "use accepted, processing, completed, failed or cancelled".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use a number with a unit (ms, s, m, h, d) such as 30s".into())
}
