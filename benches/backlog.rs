//! A backlog behind slow work: how many extra messages `OrderSweeper` sends for orders that only wait in a long queue.
//!
//! `cargo bench --bench backlog`; `-- --help` for options. An order in a long queue is not lost, and sending it again makes the queue
//! longer; but the sweeper cannot tell it from an order whose message was lost. The sweeper's schedule and `OVERDUE_AFTER` are sixty
//! times shorter than shipped, so that a run takes a minute.

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

/// Connections that submit orders.
const SUBMITTERS: usize = 32;
/// Pause between two reads of the queue's counts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for the host to start.
const START: Duration = Duration::from_secs(20);
/// Longest time until the queue is empty.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(10);
/// Settings sixty times as fast as shipped: there `OVERDUE_AFTER` is 2m and `SweepSchedule` is each minute.
const CLOCKS: [(&str, &str); 2] = [("OVERDUE_AFTER", "2s"), ("SweepSchedule", "* * * * * *")];
/// Percentage of orders that may be sent again.
const TARGET: f64 = 5.0;

/// A backlog that drains.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of orders.
    #[arg(long, default_value_t = 20_000)]
    n: usize,
    /// Delay of each of the four stages of the work; 32 orders are worked on at once.
    #[arg(long, default_value = "20ms")]
    delay: String,
    /// Where the data directory is made [default: Cargo's target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Passed by Cargo.
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

    let counts = LogCounts::read(&log)?;
    if counts.completed != arguments.n {
        return Err(format!("{} orders were completed, not {}", counts.completed, arguments.n).into());
    }
    let share = ratio(counts.extra, arguments.n) * 100.0;
    println!("clocks: {CLOCKS:?}, sixty times as fast as shipped; each order needs four times {}", arguments.delay);
    println!(
        "{} orders submitted in {:.1} s, drained after {:.1} s; longest queue seen: {longest}",
        arguments.n,
        submitted.as_secs_f64(),
        drained.as_secs_f64()
    );
    println!(
        "{} runs of OrderSweeper sent {} extra messages, {share:.2} % of the orders (target: <= {TARGET} %)",
        counts.sweeps, counts.extra
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of things that were measured")]
fn ratio(count: usize, to: usize) -> f64 {
    count as f64 / to as f64
}

/// Submits all orders; each must be accepted.
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

/// `waybill local` on the repository's app, with its log in a file; killed when dropped.
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

    /// Waits until the queue is empty; returns its largest length.
    async fn drained(&self, started: Instant) -> Result<u64, Failure> {
        let mut longest = 0;
        loop {
            let figures = self.figures().await?;
            let queues = figures["serviceBus"]["queues"].as_object().ok_or("the host's status has no queues")?;
            let counts = queues.values().filter_map(Value::as_object).flat_map(|counts| counts.values().filter_map(Value::as_u64));
            match counts.sum() {
                0 => return Ok(longest),
                left => longest = longest.max(left),
            }
            if started.elapsed() > DRAIN_TIMEOUT {
                return Err(format!("the queue is not empty: {figures}").into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The handler ends with its host.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Counts of lines in the handler's log.
#[derive(Default)]
struct LogCounts {
    completed: usize,
    sweeps: usize,
    extra: usize,
}

impl LogCounts {
    fn read(log: &Path) -> Result<Self, Failure> {
        let mut counts = Self::default();
        for line in BufReader::new(File::open(log)?).lines() {
            let line = line?;
            counts.completed += usize::from(line.contains("order completed"));
            counts.sweeps += usize::from(line.contains("OrderSweeper answered"));
            counts.extra += usize::from(line.contains("order overdue: its message is sent again"));
        }
        Ok(counts)
    }
}
