//! `waybill settings`: every setting, its value, and the source of the value.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use serving::terminal::printable;

use crate::cli;
use crate::config::catalogue::{ALL, DefaultValue, Setting};
use crate::config::function_timeout::{self, FunctionTimeout, UNLIMITED};
use crate::config::{Config, spelling};

/// The text shown in place of a secret.
const MASK: &str = "***";

/// The app whose settings are shown, and the form of the output.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The app's folder, whose local.settings.json and host.json count below the environment.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// One setting with its effective value.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// The value. `None`: there is none.
    value: Option<String>,
    source: &'static str,
}

/// Shows the settings. `Err`: the mistakes in them; the settings are shown all the same.
pub(super) fn run(options: &Options, environment: &BTreeMap<String, String>) -> Result<(), Vec<String>> {
    let (values, mut problems) = match values(&options.app) {
        Ok(values) => (values, Vec::new()),
        Err(problems) => (BTreeMap::new(), problems),
    };
    let all = cli::above(values.clone(), &options.app, environment)?;

    let timeout = function_timeout::of(&all);
    let source = |name: &str| {
        let is = |key: &&String| key.eq_ignore_ascii_case(name);
        if environment.keys().any(|key| is(&key)) { "environment" } else { "local.settings.json" }
    };
    show(&ALL.iter().flat_map(|setting| rows(setting, &all, &timeout, source)).collect::<Vec<_>>(), options.json);

    let warnings = spelling::in_environment(all.keys().map(String::as_str)).into_iter().chain(spelling::in_values(&values, &options.app));
    for warning in warnings {
        eprintln!("waybill: {}", printable(&warning));
    }
    problems.extend(Config::problems(&all, has_own_work(&options.app)));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Whether work is compiled into the handler of the app in this folder: its host.json names another program than `waybill`.
pub(super) fn has_own_work(app: &Path) -> bool {
    let Ok(host) = host_json::text_of(&app.join("host.json")).and_then(|text| host_json::parse(&text)) else { return false };
    let program = at(&host, &["customHandler", "description", "defaultExecutablePath"]).and_then(Value::as_str);
    program.and_then(|program| Path::new(program.trim()).file_stem()).is_some_and(|stem| !stem.eq_ignore_ascii_case("waybill"))
}

/// The value at a path of host.json; the host ignores case in names.
pub(super) fn at<'v>(mut value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    for part in path {
        value = value.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case(part))?.1;
    }
    Some(value)
}

/// `Values` of the app's settings. A deployed app has no such file, and its build does not read one.
#[cfg(feature = "local")]
pub(super) fn values(app: &Path) -> Result<BTreeMap<String, String>, Vec<String>> {
    functions_host::app::settings_of(app)
}

#[cfg(not(feature = "local"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build reads a file")]
pub(super) fn values(_: &Path) -> Result<BTreeMap<String, String>, Vec<String>> {
    Ok(BTreeMap::new())
}

/// The setting, and the parts of its section that are set.
fn rows(setting: &Setting, all: &BTreeMap<String, String>, timeout: &FunctionTimeout, source: impl Fn(&str) -> &'static str) -> Vec<Row> {
    let mut rows = Vec::new();
    for name in setting.names() {
        let is = |key: &str| if setting.is_binding() { key.eq_ignore_ascii_case(&name) } else { key == name };
        let set = all.iter().find(|(key, value)| is(key) && !value.trim().is_empty());
        let is_whole = name == setting.name;
        match set {
            Some((_, value)) => {
                let value = if setting.secret && is_whole { MASK.to_owned() } else { value.trim().to_owned() };
                rows.push(Row { source: source(&name), value: Some(value), name });
            }
            None if name == "FUNCTION_TIMEOUT" => {
                let value = if timeout.value == UNLIMITED { "-1".to_owned() } else { shown(timeout.value) };
                rows.push(Row { name, value: Some(value), source: timeout.source.file() });
            }
            None if is_whole => {
                let value = match setting.default {
                    DefaultValue::Nothing => None,
                    DefaultValue::Value(value) => Some(value.to_owned()),
                    DefaultValue::Words(words) => Some(format!("({})", words.replace('`', ""))),
                };
                rows.push(Row { name, value, source: "default" });
            }
            None => {}
        }
    }
    rows
}

fn show(rows: &[Row], json: bool) {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let (names, sources) = (width(|row| row.name.len()), width(|row| row.source.len()));
    let mut out = std::io::stdout().lock();
    for row in rows {
        let line = if json {
            serde_json::to_string(row).unwrap_or_default()
        } else {
            format!("{:names$}  {:sources$}  {}", row.name, row.source, row.value.as_deref().unwrap_or("-"))
        };
        // A closed pipe is no reason to fail.
        drop(writeln!(out, "{}", printable(&line)));
    }
}

/// A duration, as a person would type it.
fn shown(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.into_iter().find(|(unit, _)| milliseconds >= *unit && milliseconds.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{milliseconds}ms"), |(unit, name)| format!("{}{name}", milliseconds / unit))
}
