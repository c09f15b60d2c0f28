//! A backlog behind a worker that needs long: how many messages `OrderSweeper` adds to a queue that is merely long.
//!
//! `cargo bench --bench backlog`; `-- --help` for options. An order that waits in a long queue is not lost, and sending it again
//! would make the queue longer still; but nobody can tell it from one whose message never left. The clocks are short, so that
//! a run takes a minute: one second here is a minute as shipped, for the sweeper's schedule and for the first look.

#![expect(unreachable_pub, dead_code, reason = "helpers are public to the modules of this binary, and not all are used by each")]

#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use functions_host::handler::free_port;
use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::{Connection, Failure, Payload, order};
use crate::process::Directory;

/// Connections that submit.
const SUBMITTERS: usize = 32;
/// Between two looks at the queue.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Until the host answers.
const START: Duration = Duration::from_secs(20);
/// Beyond what the work itself takes at least.
const PATIENCE: Duration = Duration::from_mins(10);
/// As shipped: `OVERDUE_AFTER` 2m and `SweepSchedule` each minute. Sixty times as fast here.
const CLOCKS: [(&str, &str); 2] = [("OVERDUE_AFTER", "2s"), ("SweepSchedule", "* * * * * *")];
/// Share of the orders that may be sent again, in percent.
const TARGET: f64 = 5.0;

/// A backlog that drains.
#[derive(Debug, Parser)]
struct Arguments {
    /// Orders.
    #[arg(long, default_value_t = 20_000)]
    n: usize,
    /// Slept before each of the four stages of the work, which runs for 32 orders at once.
    #[arg(long, default_value = "20ms")]
    delay: String,
    /// Where the data directory is made [default: Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(&Arguments::parse())));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("backlog: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let directory = Directory::new(arguments.dir.as_deref())?;
    let log = directory.path().join("log");
    let host = Host::start(directory.path(), &log, &arguments.delay)?;
    host.is_ready().await?;

    let started = Instant::now();
    submit(&host.authority, arguments.n).await?;
    let submitted = started.elapsed();
    let longest = host.drained(started).await?;
    let drained = started.elapsed();
    drop(host);

    let told = Told::read(&log)?;
    if told.completed != arguments.n {
        return Err(format!("{} orders were completed, not {}", told.completed, arguments.n).into());
    }
    let share = ratio(told.extra, arguments.n) * 100.0;
    println!("clocks: {CLOCKS:?}, sixty times as fast as shipped; each order needs four times {}", arguments.delay);
    println!(
        "{} orders submitted in {:.1} s, drained after {:.1} s; longest queue seen: {longest}",
        arguments.n,
        submitted.as_secs_f64(),
        drained.as_secs_f64()
    );
    println!("{} runs of OrderSweeper sent {} extra messages, {share:.2} % of the orders (target: <= {TARGET} %)", told.sweeps, told.extra);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of things that were measured")]
fn ratio(count: usize, to: usize) -> f64 {
    count as f64 / to as f64
}

/// Sends every order; each is accepted.
async fn submit(authority: &str, count: usize) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..SUBMITTERS {
        let (mut connection, next) = (Connection::open(authority).await?, Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, Failure>(());
                }
                let (status, _) = connection.post("/api/orders", Payload::sized(order(&format!("backlog-{number}")))).await?;
                if status != StatusCode::ACCEPTED {
                    return Err(format!("an order was answered {status}").into());
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// `waybill local` on the repository's app, its log in a file; killed when dropped.
struct Host {
    authority: String,
    child: Child,
}

impl Host {
    fn start(data: &Path, log: &Path, delay: &str) -> Result<Self, Failure> {
        let port = free_port()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
        command.args(["local", "--app", env!("CARGO_MANIFEST_DIR"), "--port", &port.to_string(), "--data"]).arg(data);
        command.env_clear().envs(CLOCKS).env("WORK_DELAY", delay).env("LOG_FORMAT", "text");
        let log = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { authority: format!("127.0.0.1:{port}"), child })
    }

    async fn is_ready(&self) -> Result<(), Failure> {
        let end = Instant::now() + START;
        loop {
            if self.figures().await.is_ok_and(|figures| figures["state"] == "Running") {
                return Ok(());
            }
            if Instant::now() > end {
                return Err("the host does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn figures(&self) -> Result<Value, Failure> {
        let (_, figures) = Connection::open(&self.authority).await?.get("/admin/host/status").await?;
        Ok(serde_json::from_slice(&figures)?)
    }

    /// Waits until no message is left; the most that were there at once.
    async fn drained(&self, started: Instant) -> Result<u64, Failure> {
        let mut longest = 0;
        loop {
            let figures = self.figures().await?;
            let queues = figures["serviceBus"]["queues"].as_object().ok_or("the host says nothing of its queues")?;
            let counts = queues.values().filter_map(Value::as_object).flat_map(|counts| counts.values().filter_map(Value::as_u64));
            match counts.sum() {
                0 => return Ok(longest),
                left => longest = longest.max(left),
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("the queue is not empty: {figures}").into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its handler dies with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the handler's log says.
#[derive(Default)]
struct Told {
    completed: usize,
    sweeps: usize,
    extra: usize,
}

impl Told {
    fn read(log: &Path) -> Result<Self, Failure> {
        let mut told = Self::default();
        for line in BufReader::new(File::open(log)?).lines() {
            let line = line?;
            told.completed += usize::from(line.contains("order completed"));
            told.sweeps += usize::from(line.contains("OrderSweeper answered"));
            told.extra += usize::from(line.contains("order overdue: its message is sent again"));
        }
        Ok(told)
    }
}
