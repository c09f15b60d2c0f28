//! `functions-host`: runs any custom handler on this machine.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use functions_host::arguments::Arguments;
use functions_host::host::{self, Options};
use serving::log::Form;
use serving::output;

/// A stand-in for the Azure Functions host: HTTP, queue and timers, for the app in a folder.
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let CommandLine { arguments } = CommandLine::parse();
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
    let levels = environment.get("RUST_LOG").map_or("warn,functions_host=info", String::as_str);
    let _output = serving::log::start(levels, Form::Text, None);
    match host::command(Options::new(arguments), &environment, |up| Some(up.listing.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                output::complain(&format!("functions-host: {problem}"));
            }
            ExitCode::FAILURE
        }
    }
}
