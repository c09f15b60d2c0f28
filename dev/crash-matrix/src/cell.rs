//! One cell: a store, a step, a victim. First load and kills, then calm, then the evidence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::{StreamExt, stream};
use serving::failpoints::{self, Victim};

use crate::Store;
use crate::backend::{self, Backend};
use crate::clients::{Clients, Seen, Submitted};
use crate::emulator::Emulator;
use crate::judge::{self, Evidence, Judgement};
use crate::platform::{self, Platform};
use crate::steps::{RANDOM, Random, Step};
use waybill::config;
use waybill::domain::tracking::TrackingKey;
use waybill::store::sqlite;

/// Clients at the same time.
const CLIENTS: usize = 12;
/// Status requests at the same time.
const LOOKS: usize = 8;
/// Time after which a token that no process took is removed; its step is then fed once more.
const TOKEN_PATIENCE: Duration = Duration::from_millis(3_500);
/// Attempts to bring about one kill at a step.
const FEEDINGS: usize = 4;
/// Pause between two looks at a token, a victim or the first 202.
const LOOK_PERIOD: Duration = Duration::from_millis(5);
/// Pause between two looks at orders that have not ended, or at queues that are not empty.
const CALM_PERIOD: Duration = Duration::from_millis(50);
/// Longest run of a cell; a longer one has failed.
const LONGEST: Duration = Duration::from_mins(4);
/// Key of tracking ids. Not a secret: its records end with the cell.
const TRACKING_KEY: &str = "of-a-crash-matrix-0123456789abcdef0123";

/// Secret of callbacks. Not a secret: its receiver ends with the cell.
const CALLBACK_SECRET: &str = "whsec_b2YtYS1jcmFzaC1tYXRyaXgtMDEyMzQ1Njc4OTAx";
/// Longest wait for callbacks after the last end. A try that a kill cuts off is followed by the next one after half a minute.
const TELLING: Duration = Duration::from_secs(45);

/// Settings of handler and host, with short times, so that a recovery is short too. `docs/crash-matrix.md` lists them and the bound.
const SETTINGS: [(&str, &str); 14] = [
    (
        "ServiceBusConnection",
        "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=local;UseDevelopmentEmulator=true;",
    ),
    ("OrdersQueue", "orders"),
    ("SweepSchedule", "* * * * * *"),
    ("TRACKING_ID_KEY", TRACKING_KEY),
    ("LEASE", "1s"),
    ("OVERDUE_AFTER", "1s"),
    ("RETRY_BASE", "50ms"),
    ("RETRY_CAP", "500ms"),
    ("MAX_ATTEMPTS", "1000"),
    ("MAX_INTERRUPTIONS", "1000"),
    // The clients are one caller.
    ("RATE_LIMIT", "0"),
    ("LOG_FORMAT", "text"),
    ("RUST_LOG", "warn,waybill=info,functions_host=info"),
    // Requests here go to loopback, never through a proxy of the environment.
    ("NO_PROXY", "*"),
];
/// Period of `SweepSchedule`.
const SWEEP: Duration = Duration::from_secs(1);
/// Leases and sweeps in the bound of a recovery: two of each may be missed.
const BOUND: u32 = 3;
/// Clock difference of Cosmos DB: the emulator tells the time in whole seconds.
const COSMOS_SKEW: Duration = Duration::from_secs(1);

/// One cell of the matrix, not run yet.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) number: usize,
    pub(super) store: Store,
    pub(super) step: &'static Step,
    pub(super) victim: Victim,
    pub(super) orders: usize,
    pub(super) kills: usize,
    pub(super) seed: u64,
}

/// Paths and settings that all cells share.
pub(super) struct Surroundings {
    /// Path of this program.
    pub(super) executable: PathBuf,
    pub(super) emulator: PathBuf,
    pub(super) app: PathBuf,
    pub(super) directory: PathBuf,
    /// Keep the directory of a good cell too.
    pub(super) keep: bool,
    /// Settings that replace those of the matrix.
    pub(super) settings: BTreeMap<String, String>,
}

impl Cell {
    /// Runs the cell to its end. Every process of the cell has ended when this returns.
    pub(super) async fn run(&self, surroundings: &Surroundings) -> Judgement {
        let name = format!("{:03}-{}-{}-{}", self.number, self.store.as_str(), self.step.name, self.victim.as_str());
        let directory = surroundings.directory.join(name);
        let mut judgement = match tokio::time::timeout(LONGEST, self.gather(surroundings, &directory)).await {
            Ok(Ok(evidence)) => judge::judge(&evidence),
            Ok(Err(problem)) => Judgement::broken(problem),
            Err(_) => Judgement::broken(format!("it took longer than {LONGEST:?}")),
        };
        if judgement.is_good() && !surroundings.keep {
            drop(std::fs::remove_dir_all(&directory));
        } else {
            judgement.findings.push(format!("kept: {}", directory.display()));
        }
        judgement
    }

    async fn gather(&self, surroundings: &Surroundings, directory: &Path) -> Result<Evidence, String> {
        let text = |error: std::io::Error| error.to_string();
        let (data, tokens) = (directory.join("data"), directory.join("tokens"));
        std::fs::create_dir_all(&data).and_then(|()| std::fs::create_dir_all(&tokens)).map_err(text)?;
        let emulator = match self.store {
            Store::Sqlite => None,
            Store::Cosmos => Some(Emulator::start(&surroundings.emulator).await?),
        };
        let (listener, url) = backend::listen().map_err(text)?;
        let backend = Backend::new(self.seed);

        let mut environment: BTreeMap<String, String> = emulator.iter().flat_map(|emulator| emulator.settings.clone()).collect();
        environment.extend(SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        environment.extend(std::env::var("PATH").map(|path| ("PATH".to_owned(), path)));
        environment.insert("FULFILLMENT_URL".into(), format!("{url}/work"));
        if self.step.tells {
            environment.insert("CALLBACK_URL".into(), format!("{url}/told"));
            environment.insert("CALLBACK_SECRET".into(), CALLBACK_SECRET.into());
        }
        environment.insert(failpoints::DIRECTORY.into(), tokens.display().to_string());
        environment.extend(surroundings.settings.clone());
        let lease = environment.get("LEASE").and_then(|lease| config::duration(lease)).unwrap_or_default();
        let key = environment.get("TRACKING_ID_KEY").and_then(|key| TrackingKey::new(key.clone().into_bytes()));

        let port = platform::port();
        let platform = Platform {
            executable: surroundings.executable.clone(),
            app: surroundings.app.clone(),
            data,
            log: directory.join("log"),
            port,
            max_delivery_count: self.step.max_delivery_count,
            environment,
            starts: AtomicUsize::new(0),
            host: AtomicU32::new(0),
        };
        let clients = Clients::new(port, key.ok_or("TRACKING_ID_KEY is too short")?, self.step.giving_up)?;
        let bound = BOUND * (lease + SWEEP);
        tokio::select! {
            gone = platform.run() => match gone {
                Ok(never) => match never {},
                Err(problem) => Err(problem),
            },
            never = Arc::clone(&backend).serve(listener) => match never {},
            evidence = self.load_and_calm(&platform, &backend, &clients, &tokens, bound) => evidence,
        }
    }

    async fn load_and_calm(
        &self,
        platform: &Platform,
        backend: &Backend,
        clients: &Clients,
        tokens: &Path,
        bound: Duration,
    ) -> Result<Evidence, String> {
        let mut random = Random::new(self.seed);
        let over = AtomicBool::new(false);
        let randoms: Vec<Random> = (0..CLIENTS).map(|_| Random::new(random.below(u64::MAX))).collect();
        let load = try_join_all(randoms.into_iter().map(|random| clients.submit(self.orders, &over, random)));
        let killing = async {
            let kills = self.kill(platform, clients, tokens, &mut random).await;
            over.store(true, Ordering::Relaxed);
            kills
        };
        let (kills, _) = tokio::try_join!(killing, load)?;

        let mut problems = Vec::new();
        // Twice the bound tells a slow order from one that never ends.
        let seen = look_until_ended(clients, clients.submitted(), Instant::now() + 2 * bound).await;
        if let Some(left) = drain(clients, Instant::now() + bound).await {
            problems.push(format!("messages are left although every order has ended: {left}"));
        }
        if self.step.tells {
            let until = Instant::now() + TELLING;
            let ended: Vec<String> =
                seen.iter().filter(|(_, seen)| matches!(seen, Seen::Ended(_))).map(|(order, _)| order.tracking_id.to_string()).collect();
            let is_told = || ended.iter().all(|id| backend.has_told(id));
            while !is_told() && Instant::now() < until {
                tokio::time::sleep(CALM_PERIOD).await;
            }
        }
        // A second look after the last message: no ended order may have changed.
        let orders = look_until_ended(clients, clients.submitted(), Instant::now() + bound).await;
        let (kills, feeding_kills) = kills;
        Ok(Evidence {
            bound,
            skew: if self.store == Store::Cosmos { COSMOS_SKEW } else { Duration::ZERO },
            orders,
            calls: backend.calls(),
            effects: backend.effects(),
            told: self.step.tells.then(|| backend.told()),
            kills,
            feeding_kills,
            host_starts: platform.starts.load(Ordering::Relaxed),
            problems,
        })
    }

    /// Kills at the step, each after the kills that feed it. Returns the moments of both: at the step, and feeding.
    async fn kill(
        &self,
        platform: &Platform,
        clients: &Clients,
        tokens: &Path,
        random: &mut Random,
    ) -> Result<(Vec<i64>, Vec<i64>), String> {
        let (mut kills, mut feeding_kills) = (Vec::new(), Vec::new());
        while clients.accepted() == 0 {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        for _ in 0..self.kills {
            tokio::time::sleep(Duration::from_millis(50 + random.below(400))).await;
            if self.step.name == RANDOM {
                while !platform.kill(self.victim) {
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
                kills.push(sqlite::now().as_milliseconds());
                continue;
            }
            for _ in 0..FEEDINGS {
                for (name, victim) in self.step.fed_by {
                    feeding_kills.extend(take(tokens, name, *victim).await?);
                }
                if let Some(kill) = take(tokens, self.step.name, self.victim).await? {
                    kills.push(kill);
                    break;
                }
            }
        }
        Ok((kills, feeding_kills))
    }
}

/// Puts a token and waits until a process takes it. Returns that moment; `None` if no process reached the failpoint.
async fn take(tokens: &Path, name: &str, victim: Victim) -> Result<Option<i64>, String> {
    platform::put_token(tokens, name, victim).map_err(|error| error.to_string())?;
    let (token, since) = (tokens.join(name), Instant::now());
    while token.exists() {
        // This program removed the token, so no process took it.
        if since.elapsed() > TOKEN_PATIENCE && std::fs::remove_file(&token).is_ok() {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(Some(sqlite::now().as_milliseconds()))
}

/// Asks for every order until `until`, or until the order has ended, or is unknown and was never accepted.
async fn look_until_ended(clients: &Clients, orders: Vec<Submitted>, until: Instant) -> Vec<(Submitted, Seen)> {
    let mut ended = Vec::new();
    let mut open = orders;
    loop {
        let looks = stream::iter(open).map(|order| async move { (clients.look(order.tracking_id).await, order) });
        let (done, rest): (Vec<_>, Vec<_>) = looks
            .buffer_unordered(LOOKS)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .partition(|(seen, order)| matches!(seen, Seen::Ended(_)) || matches!(seen, Seen::Absent) && order.accepted.is_none());
        ended.extend(done.into_iter().map(|(seen, order)| (order, seen)));
        if rest.is_empty() || Instant::now() >= until {
            ended.extend(rest.into_iter().map(|(seen, order)| (order, seen)));
            return ended;
        }
        open = rest.into_iter().map(|(_, order)| order).collect();
        tokio::time::sleep(CALM_PERIOD).await;
    }
}

/// Waits until no queue holds a message. Returns the messages that are left at `until`.
async fn drain(clients: &Clients, until: Instant) -> Option<serde_json::Value> {
    loop {
        let queues = clients.queues().await;
        if queues.as_object().is_some_and(serde_json::Map::is_empty) {
            return None;
        }
        if Instant::now() >= until {
            return Some(queues);
        }
        tokio::time::sleep(CALM_PERIOD).await;
    }
}
