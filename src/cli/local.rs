//! `waybill local`: the stand-in for the Functions host, set up for this handler.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;

use functions_host::app;
use functions_host::arguments::Arguments;
use functions_host::host::{self, Up};

use crate::cli;
use crate::cli::app_files::{INGRESS, has_own_orders};
use crate::cli::operate;
use crate::config::service_bus::REST_ENDPOINT;
use crate::config::{self, LogConfig, LogForm, Records, Storage};

/// An order to paste.
const ORDER: &str =
    r#"{"orderId":"A-1001","customerId":"C-42","currency":"EUR","items":[{"sku":"SKU-1","quantity":2,"unitPrice":"19.90"}]}"#;

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
    let log = LogConfig::read(&environment);
    let _output = cli::start_log(&log, None);
    refuse_in_azure(&environment)?;
    // A log for machines has no other lines than its own. What is wrong with the app's settings is told by the host.
    let mut settings = app::settings_of(&host.arguments.app).unwrap_or_default();
    settings.extend(environment.clone());
    // The handler's lines pass through this process, so its own output is no terminal.
    if log.form == LogForm::Short && !settings.contains_key("LOG_FORMAT") {
        host.variables.insert("LOG_FORMAT".into(), "short".into());
    }
    if std::io::stdout().is_terminal() {
        host.variables.insert("CLICOLOR_FORCE".into(), "1".into());
    }
    let data = settings.get("WAYBILL_DATA").filter(|_| host.arguments.data.is_none());
    if let Some(problem) = data.and_then(|path| config::data_mistake(path)) {
        return Err(vec![problem]);
    }
    let welcome = move |up: &Up| (log.form != LogForm::Json).then(|| welcome(up, &settings));
    host::command(host, &environment, welcome)
}

/// What a person sees at the start: where orders go, what becomes of them, the functions, and an order to paste.
fn welcome(up: &Up, settings: &BTreeMap<String, String>) -> String {
    let Some(orders) = up.urls.get(INGRESS) else { return up.listing.clone() };
    let store = match Storage::read(settings).map(|(storage, _)| storage.records) {
        Ok(Records::Cosmos(cosmos, _)) => format!("Cosmos DB at {}, {}/{}", cosmos.endpoint, cosmos.database, cosmos.container),
        Ok(Records::Embedded(..)) | Err(_) => "embedded, in the data directory".to_owned(),
    };
    let backend = settings.get("FULFILLMENT_URL").filter(|url| !url.is_empty());
    // Without the query, which may hold a key.
    let backend = backend.map_or("the built-in pricing", |url| url.split(['?', '#']).next().unwrap_or_default());
    let mut box_ = format!("┌ waybill {}\n", env!("CARGO_PKG_VERSION"));
    for (name, value) in [("orders", orders.as_str()), ("data", &up.data.display().to_string()), ("store", &store), ("backend", backend)] {
        // Writing to a string cannot fail.
        let _ = writeln!(box_, "│ {name:<9}{value}");
    }
    if up.address.ip().is_loopback() {
        let _ = writeln!(box_, "│ {:<9}http://localhost:{}/ in a browser", "console", up.address.port());
    }
    let order = if has_own_orders(settings) { "@order.json" } else { ORDER };
    // Orders without a number are told apart by this header alone.
    let has_no_number = settings.get("ORDER_ID").is_some_and(|place| place == "none");
    let key = if has_no_number { " -H 'Idempotency-Key: FIRST'" } else { "" };
    format!("{box_}└\n\ncurl -i {orders} -H 'Content-Type: application/json'{key} -d '{order}'\n\n{}", up.listing)
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
        panel: Some(operate::console::MAKE),
        variables: BTreeMap::new(),
        inherited: None,
    }
}
