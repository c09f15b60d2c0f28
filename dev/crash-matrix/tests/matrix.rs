//! The crash matrix, shortened (`docs/crash-matrix.md`): every step once in the embedded store, some in Cosmos DB.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parking_lot::Mutex;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn no_step_loses_doubles_or_delays_an_order_in_the_embedded_store() {
    let ended =
        matrix(&["--store", "sqlite", "--victim", "handler", "--victim", "host", "--orders", "2000", "--kills", "1", "--jobs", "2"]);

    assert!(ended.status.success(), "{}", shown(&ended));
}

#[test]
fn no_step_loses_doubles_or_delays_an_order_in_cosmos_db() {
    let emulator = emulator();
    let mut arguments = vec!["--store", "cosmos", "--victim", "handler", "--victim", "host", "--orders", "500", "--kills", "1"];
    for step in ["after-record", "after-claim", "before-finish", "after-retry-record", "mid-sweep-after-record"] {
        arguments.extend(["--step", step]);
    }
    arguments.extend(["--emulator", emulator.to_str().unwrap()]);
    let ended = matrix(&arguments);

    assert!(ended.status.success(), "{}", shown(&ended));
}

#[test]
fn without_the_sweeper_orders_are_stuck_and_the_matrix_says_so() {
    let never = "SweepSchedule=0 0 0 1 1 *";
    let ended = matrix(&[
        "--store",
        "sqlite",
        "--step",
        "after-record",
        "--victim",
        "handler",
        "--orders",
        "100",
        "--kills",
        "12",
        "--setting",
        never,
    ]);

    assert_eq!(ended.status.code(), Some(1), "{}", shown(&ended));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("stuck, it never ended"), "{}", shown(&ended));
}

/// Runs the matrix; only one runs at a time, since its cells keep the machine busy. The lease is longer than usual, and with it the
/// bound of a recovery, since a build without optimisation starts more slowly.
fn matrix(arguments: &[&str]) -> Output {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let arguments = [&["--setting", "LEASE=2s"], arguments].concat();
    Command::new(env!("CARGO_BIN_EXE_crash-matrix")).args(["--app", REPOSITORY]).args(arguments).output().unwrap()
}

fn shown(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

/// Builds the emulator here: as a separate program, it keeps its features out of the product.
fn emulator() -> PathBuf {
    // DIRECTORY/PROFILE/crash-matrix
    let target = Path::new(env!("CARGO_BIN_EXE_crash-matrix")).ancestors().nth(2).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(REPOSITORY)
        .args(["build", "--quiet", "--locked", "--profile", "test", "--package", "cosmos-emulator", "--target-dir"])
        .arg(target);
    assert!(command.status().unwrap().success(), "the emulator is not built");
    target.join("debug/cosmos-emulator")
}
