//! The policies of the gateway before the real host: `tests/gateway` is a small API Management in Python, and reads these very files.

use std::process::Command;

use crate::support::{repository, skipped};

/// Runs the tests of one way, unless Python is missing, which `REQUIRE_ALL=1` makes a failure.
fn passes(way: &str) {
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "python3 not found");
        skipped("python3 not found");
        return;
    }
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/gateway/test.py")).arg(way).env_clear();
    command.env("WAYBILL", env!("CARGO_BIN_EXE_waybill")).env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }

    let output = command.output().unwrap();

    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn orders_pass_the_gateway_on_their_way_through_the_function() {
    passes("ThroughTheFunction");
}

#[test]
fn the_order_that_ends_a_deployment_is_followed_to_its_end() {
    passes("FirstOrder");
}

#[test]
fn orders_pass_the_gateway_on_their_way_straight_to_the_queue() {
    passes("StraightToTheQueue");
}
