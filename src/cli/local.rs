//! `waybill local`: the stand-in for the Functions host, set up for this handler.

use std::collections::BTreeMap;

use functions_host::arguments::Arguments;
use functions_host::host::{self, Options};

use crate::config::service_bus::REST_ENDPOINT;
use crate::config::{self, LogConfig};

/// Runs the host until a person stops it.
pub(super) fn run(arguments: Arguments, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let log = LogConfig::read(environment);
    serving::log::start(&log.levels, log.json);
    refuse_in_azure(environment)?;
    host::command(options(arguments), environment)
}

/// Refuses to run inside Azure, where the Functions host itself does this work.
pub(crate) fn refuse_in_azure(environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let Some(sign) = config::azure(environment) else { return Ok(()) };
    Err(vec![format!(
        "`waybill local` is for a machine of your own, and {sign} says that this is Azure, where the Functions host does its work"
    )])
}

/// The facts about this handler that the host needs.
pub(crate) fn options(arguments: Arguments) -> Options {
    Options {
        arguments,
        command: "waybill local",
        data: ".waybill",
        data_setting: Some("WAYBILL_DATA"),
        rest_endpoint_setting: Some(REST_ENDPOINT),
        own_handler: Some("waybill"),
        check: Some(config::check),
    }
}
