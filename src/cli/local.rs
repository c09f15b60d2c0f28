//! `waybill local`: the stand-in for the Functions host, set up for this handler.

use std::collections::BTreeMap;

use functions_host::arguments::Arguments;
use functions_host::host;

use crate::cli;
use crate::config::service_bus::REST_ENDPOINT;
use crate::config::{self, LogConfig};

/// The options of the command line.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Log lines with every field, instead of one short line for what becomes of an order.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    host: Arguments,
}

/// Runs the host until a person stops it.
pub(super) fn run(options: Options, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let mut environment = environment.clone();
    let mut host = self::options(options.host);
    if options.verbose && !environment.contains_key("LOG_FORMAT") {
        environment.insert("LOG_FORMAT".into(), "text".into());
        host.variables.insert("LOG_FORMAT".into(), "text".into());
    }
    cli::start_log(&LogConfig::read(&environment));
    refuse_in_azure(&environment)?;
    host::command(host, &environment)
}

/// Refuses to run inside Azure, where the Functions host itself does this work.
pub(crate) fn refuse_in_azure(environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let Some(sign) = config::azure(environment) else { return Ok(()) };
    Err(vec![format!(
        "`waybill local` is for a machine of your own, and {sign} says that this is Azure, where the Functions host does its work"
    )])
}

/// The facts about this handler that the host needs.
pub(crate) fn options(arguments: Arguments) -> host::Options {
    host::Options {
        arguments,
        command: "waybill local",
        data: ".waybill",
        data_setting: Some("WAYBILL_DATA"),
        rest_endpoint_setting: Some(REST_ENDPOINT),
        own_handler: Some("waybill"),
        accept_loss: Some("waybill accept-loss"),
        check: Some(config::check),
        variables: BTreeMap::new(),
        inherited: None,
    }
}
