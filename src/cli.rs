//! What a person types.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{config, serve};

/// An Azure Functions custom handler that turns slow orders into a 202 that is never a lie.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done or stopped as asked, 1 could not start or go on, 2 wrong arguments, 130 stopped at once.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the handler: what the Functions host starts.
    Serve,
}

/// Runs a command; problems go to stderr, one line each.
pub fn run(arguments: Arguments) -> ExitCode {
    let environment = config::environment();
    let ended = match arguments.command {
        Command::Serve => serve::run(&environment),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("waybill: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}
