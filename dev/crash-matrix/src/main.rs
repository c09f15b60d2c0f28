//! Kills handler and host at every step, under load, and counts lost, doubled and stuck orders.
//!
//! `docs/crash-matrix.md` explains the columns. This program is handler and host too: `crash-matrix serve` and `crash-matrix local`
//! run the product's own commands, with failpoints.

mod backend;
mod cell;
mod clients;
mod emulator;
mod judge;
mod platform;
mod steps;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use futures_util::{StreamExt, stream};
use serving::failpoints::Victim;
use serving::stop::StopSignals;

use crate::cell::{Cell, Surroundings};
use crate::judge::Judgement;
use crate::steps::{STEPS, Step};

/// Kill handler and host at every step, under load, and count lost, doubled and stuck orders.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Least number of orders, spread over the cells; a cell with kills at random moments gets four times as many.
    #[arg(long, value_name = "N", default_value_t = 12_000)]
    orders: usize,
    /// Store of the records.
    #[arg(long, value_enum, default_value_t = Stores::Both)]
    store: Stores,
    /// Only this step; may be repeated. `random` kills at random moments.
    #[arg(long, value_name = "NAME", value_parser = step)]
    step: Vec<&'static Step>,
    /// Only this victim; may be repeated.
    #[arg(long, value_name = "handler|host|both", value_parser = victim)]
    victim: Vec<Victim>,
    /// Kills in each cell; a cell with kills at random moments gets four times as many.
    #[arg(long, value_name = "N", default_value_t = 4)]
    kills: usize,
    /// Seed of pauses, victims and the backend's behaviour; the machine's scheduling stays random.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Cells at the same time.
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// The app's folder, where host.json is.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The program of dev/cosmos-emulator [default: beside this program]
    #[arg(long, value_name = "PATH")]
    emulator: Option<PathBuf>,
    /// Keep the directories of all cells, with their logs.
    #[arg(long)]
    keep: bool,
    /// A setting of handler and host that replaces the matrix's own, for example to see the matrix fail.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    setting: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stores {
    Sqlite,
    Cosmos,
    Both,
}

/// Store in which a cell keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Sqlite,
    Cosmos,
}

impl Store {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Cosmos => "cosmos",
        }
    }
}

fn step(name: &str) -> Result<&'static Step, String> {
    let known = || STEPS.iter().map(|step| step.name).collect::<Vec<_>>().join(", ");
    STEPS.iter().find(|step| step.name == name).ok_or_else(|| format!("there are {}", known()))
}

fn victim(text: &str) -> Result<Victim, &'static str> {
    Victim::parse(text).ok_or("there are handler, host, both")
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    if matches!(std::env::args().nth(1).as_deref(), Some("local" | "serve")) {
        return waybill::cli::run(waybill::cli::arguments());
    }
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("crash-matrix: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the matrix and prints its table. `false`: an order was lost, doubled or stuck, or a step was never reached.
fn run(options: &Options) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|error| error.to_string())?;
    let directory = Directory::make().map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let ended = runtime.block_on(async {
        let mut signals = StopSignals::listen();
        tokio::select! {
            // The processes of a cell end with it: each is killed when its owner is dropped.
            () = signals.next() => Err("stopped".into()),
            ended = matrix(options, &directory.0) => ended,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn matrix(options: &Options, directory: &Path) -> Result<bool, String> {
    let executable = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let app = directory.join("app");
    copy_app(&options.app, &app)
        .map_err(|error| format!("cannot read the app in {}: {error}; pass another --app", options.app.display()))?;
    let cells = cells(options);
    if cells.iter().any(|cell| cell.store == Store::Cosmos) && !emulator::path(options.emulator.as_deref(), &executable).is_file() {
        return Err("the emulator is not built: `cargo build --release -p cosmos-emulator`, or pass --emulator, or --store sqlite".into());
    }
    let surroundings = Surroundings {
        emulator: emulator::path(options.emulator.as_deref(), &executable),
        executable,
        app,
        directory: directory.to_owned(),
        keep: options.keep,
        settings: options.setting.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let (started, total) = (Instant::now(), cells.len());
    eprintln!(
        "crash-matrix: {total} cells, seed {}, {} at the same time; what fails is kept in {}",
        options.seed,
        options.jobs,
        directory.display()
    );

    let mut done: Vec<(Cell, Judgement)> = Vec::new();
    let runs = cells.into_iter().map(|cell| {
        let surroundings = &surroundings;
        async move {
            let judgement = cell.run(surroundings).await;
            (cell, judgement)
        }
    });
    let mut runs = std::pin::pin!(stream::iter(runs).buffered(options.jobs.max(1)));
    while let Some((cell, judgement)) = runs.next().await {
        done.push((cell, judgement));
        let (cell, judgement) = &done[done.len() - 1];
        eprintln!("crash-matrix: {:4.0} s, {} of {total}: {}", started.elapsed().as_secs_f64(), done.len(), row(cell, judgement));
        for finding in &judgement.findings {
            eprintln!("crash-matrix:     {finding}");
        }
    }
    let table = table(&done, started.elapsed());
    // A closed pipe must not hide the verdict, which is the exit code.
    drop(std::io::stdout().write_all(table.as_bytes()));
    let good = done.iter().all(|(_, judgement)| judgement.is_good());
    if good && !options.keep {
        drop(std::fs::remove_dir_all(directory));
    }
    Ok(good)
}

/// Cells for every store, step and victim, each with a seed of its own.
fn cells(options: &Options) -> Vec<Cell> {
    let chosen: Vec<&'static Step> = if options.step.is_empty() { STEPS.iter().collect() } else { options.step.clone() };
    let victims = if options.victim.is_empty() { &Victim::ALL[..] } else { &options.victim[..] };
    let stores = match options.store {
        Stores::Sqlite => &[Store::Sqlite][..],
        Stores::Cosmos => &[Store::Cosmos],
        Stores::Both => &[Store::Sqlite, Store::Cosmos],
    };
    let mut cells = Vec::new();
    for store in stores {
        for step in &chosen {
            for victim in victims {
                let number = cells.len();
                let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
                cells.push(Cell {
                    number,
                    store: *store,
                    step,
                    victim: *victim,
                    orders: step.weight,
                    kills: (options.kills * step.weight).min(step.most_kills),
                    seed,
                });
            }
        }
    }
    let weights: usize = cells.iter().map(|cell| cell.orders).sum();
    for cell in &mut cells {
        cell.orders = (options.orders * cell.orders).div_ceil(weights);
    }
    cells
}

/// Copies host.json and every function, but not local.settings.json, whose values would change the cell.
fn copy_app(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::copy(from.join("host.json"), to.join("host.json"))?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let function = entry.path().join("function.json");
        if function.is_file() {
            std::fs::create_dir_all(to.join(entry.file_name()))?;
            std::fs::copy(function, to.join(entry.file_name()).join("function.json"))?;
        }
    }
    Ok(())
}

const HEADINGS: &str =
    "| store | step | victim | kills | orders | lost | doubled | stuck | slowest recovery (s) |\n|---|---|---|--:|--:|--:|--:|--:|--:|\n";

fn row(cell: &Cell, judgement: &Judgement) -> String {
    let Judgement { kills, orders, lost, doubled, stuck, slowest, .. } = judgement;
    let slowest = slowest.as_secs_f64();
    let (store, step, victim) = (cell.store.as_str(), cell.step.name, cell.victim.as_str());
    format!("| {store} | {step} | {victim} | {kills} | {orders} | {lost} | {doubled} | {stuck} | {slowest:.1} |")
}

fn table(done: &[(Cell, Judgement)], took: Duration) -> String {
    let mut text = HEADINGS.to_owned();
    let mut calls: BTreeMap<usize, usize> = BTreeMap::new();
    let mut sum = Judgement::default();
    for (cell, judgement) in done {
        let _ = writeln!(text, "{}", row(cell, judgement));
        sum.add(judgement);
        for (count, orders) in &judgement.calls {
            *calls.entry(*count).or_default() += orders;
        }
    }
    let Judgement { kills, orders, lost, doubled, stuck, slowest, .. } = sum;
    let _ = writeln!(text, "| all | | | {kills} | {orders} | {lost} | {doubled} | {stuck} | {:.1} |", slowest.as_secs_f64());
    let _ = writeln!(text, "\n| calls of the backend | orders |\n|--:|--:|");
    for (count, orders) in calls {
        let _ = writeln!(text, "| {count} | {orders} |");
    }
    let Judgement { feeding_kills, host_starts, given_up, never_recorded, unjudged, .. } = sum;
    let _ = writeln!(
        text,
        "\n{orders} orders, {} kills ({feeding_kills} of them to bring about what a step needs), {host_starts} starts of the host, in {:.0} s.",
        kills + feeding_kills,
        took.as_secs_f64()
    );
    let _ = writeln!(text, "Clients gave up {given_up} orders without an answer; {never_recorded} of those were never recorded.");
    if unjudged > 0 {
        let _ = writeln!(text, "{unjudged} orders have a history that was cut, so that their claims cannot be counted.");
    }
    text
}

/// A temporary directory; removed when dropped, unless it is kept for a person to read.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("waybill-crash-matrix-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}
