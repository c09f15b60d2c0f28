//! Everything is killed at random under load, and no order is lost, doubled or left behind.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::{Directory, Host, PATIENCE, Program, eventually, free_port, repository, request, signal, submit_until_accepted};

const ORDERS: usize = 1_000;
const KILLS: usize = 24;
const CLIENTS: usize = 8;

/// Paced so that a kill lands inside the work: four stages, each a write of its own.
const SETTINGS: [(&str, &str); 2] = [("WORK_DELAY", "5ms"), ("RUST_LOG", "info")];

#[test]
fn kills_at_random_lose_no_order_and_double_none() {
    let data = Directory::new();
    let port = free_port();
    let platform = Platform { data: &data, port, host: Mutex::new(None), lines: Mutex::new(Vec::new()), starts: AtomicUsize::new(0) };
    platform.start();
    let next = AtomicUsize::new(0);
    let accepted: Mutex<HashMap<usize, String>> = Mutex::default();
    let kills = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let mut random = Random::seeded();

    std::thread::scope(|scope| {
        let _over = Over(&over);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= ORDERS {
                            return;
                        }
                        let tracking_id = submit_until_accepted(port, &format!("crash-{number}"), &[500, 503]);
                        accepted.lock().unwrap().insert(number, tracking_id);
                    }
                })
            })
            .collect();
        // The platform: whenever the host is gone, it is started again.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                platform.restart_if_gone();
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
        });

        for kill in 0..KILLS {
            // Spread over the load by its own progress, not by a clock.
            let mark = (kill + 1) * ORDERS / (KILLS + 2);
            eventually("more orders are accepted", || (accepted.lock().unwrap().len() >= mark).then_some(()));
            platform.kill_something(&mut random);
            kills.fetch_add(1, Ordering::Relaxed);
        }
        for client in clients {
            client.join().unwrap();
        }
        let accepted = accepted.lock().unwrap().clone();
        let ends: HashMap<&String, Value> = accepted.values().map(|id| (id, ended(port, id))).collect();

        assert_eq!(accepted.len(), ORDERS);
        assert_eq!(ends.len(), ORDERS, "each order has an id of its own");
        let claims_logged = platform.claims_logged();
        for (tracking_id, record) in ends {
            let events: Vec<&str> = record["history"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
            let terminal = |event: &&&str| matches!(**event, "completed" | "failed" | "cancelled");
            let claims = events.iter().filter(|event| matches!(**event, "claimed" | "interrupted")).count();
            assert_eq!(record["status"], "completed", "{record}");
            assert_eq!(events.iter().filter(terminal).count(), 1, "{record}");
            assert_eq!(events.last(), Some(&"completed"), "{record}");
            assert_eq!(record["attempt"], 1, "a crash costs no attempt: {record}");
            let tried = claims_logged.get(tracking_id).copied().unwrap_or(0);
            assert!(tried <= claims, "{tried} tries, {claims} claims: {record}");
        }
    });
    println!("{ORDERS} orders, {} kills, {} starts of the host", kills.load(Ordering::Relaxed), platform.starts.load(Ordering::Relaxed));
    assert!(kills.load(Ordering::Relaxed) >= 20);
    assert!(platform.starts.load(Ordering::Relaxed) > KILLS / 4, "the host itself was killed or stopped now and then");
}

/// Ends the platform's watch, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Platform<'a> {
    data: &'a Directory,
    port: u16,
    host: Mutex<Option<Program>>,
    /// What earlier hosts and their handlers printed.
    lines: Mutex<Vec<String>>,
    starts: AtomicUsize,
}

impl Platform<'_> {
    fn start(&self) {
        let port = self.port.to_string();
        let program = Host::begin(repository(), self.data.path(), &["--port", &port], &SETTINGS);
        self.starts.fetch_add(1, Ordering::Relaxed);
        *self.host.lock().unwrap() = Some(program);
    }

    fn restart_if_gone(&self) {
        let gone = {
            let mut host = self.host.lock().unwrap();
            host.as_mut().is_some_and(Program::has_ended).then(|| host.take()).flatten()
        };
        if let Some(program) = gone {
            let (_, lines) = program.end();
            self.lines.lock().unwrap().extend(lines);
            self.start();
        }
    }

    /// The handler twice as often as the host: it is the one that restarts by itself.
    fn kill_something(&self, random: &mut Random) {
        let host = eventually("a host runs", || {
            let mut host = self.host.lock().unwrap();
            host.as_mut().and_then(|host| (!host.has_ended()).then(|| host.id()))
        });
        if random.below(3) == 0 {
            signal(host, "KILL");
            return;
        }
        let record = self.data.path().join("handler.json");
        let handler = std::fs::read(record).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        match handler.and_then(|record| record["process"].as_u64()).and_then(|process| u32::try_from(process).ok()) {
            Some(process) => signal(process, "KILL"),
            None => signal(host, "KILL"),
        }
    }

    fn claims_logged(&self) -> HashMap<String, usize> {
        let mut lines = self.lines.lock().unwrap().clone();
        lines.extend(self.host.lock().unwrap().as_ref().map(Program::lines).unwrap_or_default());
        let mut claims = HashMap::new();
        for line in lines.iter().filter(|line| line.contains("order claimed")) {
            let (_, rest) = line.split_once("order.tracking_id=").unwrap();
            *claims.entry(rest.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        claims
    }
}

fn ended(port: u16, tracking_id: &str) -> Value {
    let url = format!("http://127.0.0.1:{port}/api/orders/{tracking_id}/status");
    eventually("every accepted order ends", || {
        let response = request("GET", &url, &[], None);
        assert_eq!(response.status, 200, "after {PATIENCE:?} of calm: {response:?}");
        let record = response.json();
        matches!(record["status"].as_str(), Some("completed" | "failed" | "cancelled")).then_some(record)
    })
}

/// A sequence that is told when the test fails, so that it can be walked again.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::process::id().into();
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
