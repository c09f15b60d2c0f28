//! The `waybill` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    waybill::cli::run(waybill::cli::Arguments::parse())
}
