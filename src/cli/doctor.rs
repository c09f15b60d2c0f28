//! `waybill doctor`: what breaks the promise, before a deployment and after one.

mod app;
mod deployed;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use serving::terminal::printable;

use crate::functions::doctor::finding::{ALL, Finding, Severity};

/// Options of `waybill doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The app's folder, looked at as Azure would.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The settings of the deployed app instead of local.settings.json: the output of `az functionapp config appsettings list`.
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    settings: Option<PathBuf>,
    /// The deployed app instead of a folder, e.g. `https://APP.azurewebsites.net/api`.
    #[arg(long, value_name = "URL", conflicts_with = "app")]
    url: Option<String>,
    /// The master key of the deployed app; better in a file.
    #[arg(long, value_name = "KEY", requires = "url", conflicts_with = "key_file")]
    key: Option<String>,
    /// A file with the master key.
    #[arg(long, value_name = "FILE", requires = "url")]
    key_file: Option<PathBuf>,
    /// A finding that is known and meant to be so. May be given again.
    #[arg(long, value_name = "CODE", value_parser = code)]
    accept: Vec<String>,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

fn code(text: &str) -> Result<String, String> {
    let is_known = ALL.iter().any(|kind| kind.code == text);
    if is_known { Ok(text.to_owned()) } else { Err("this is no code of a finding; docs/doctor.md lists them".into()) }
}

/// Looks, and prints every finding. `Ok(false)`: something breaks the promise.
pub(super) fn run(options: &Options) -> Result<bool, Vec<String>> {
    let findings = match &options.url {
        Some(url) => deployed::examine(url, key(options)?.as_deref())?,
        None => app::examine(&options.app, options.settings.as_deref())?,
    };
    let is_accepted = |finding: &Finding| options.accept.iter().any(|code| *code == finding.code);
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        let written = if options.json {
            let mut line = serde_json::to_value(finding).map_err(|error| vec![error.to_string()])?;
            if is_accepted(finding) {
                line["accepted"] = true.into();
            }
            writeln!(out, "{}", printable(&line.to_string()))
        } else {
            write!(out, "{}", text(finding, is_accepted(finding)))
        };
        written.map_err(|error| vec![format!("cannot print: {error}")])?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity && !is_accepted(finding)).count();
    let (broken, warnings, fine) = (count(Severity::Broken), count(Severity::Warning), count(Severity::Fine));
    if !options.json {
        let verdict = match broken {
            0 => "Nothing breaks the promise".to_owned(),
            1 => "1 finding breaks the promise".to_owned(),
            _ => format!("{broken} findings break the promise"),
        };
        writeln!(out, "\n{verdict}; {warnings} to think about, {fine} in order.")
            .map_err(|error| vec![format!("cannot print: {error}")])?;
    }
    Ok(broken == 0)
}

fn key(options: &Options) -> Result<Option<String>, Vec<String>> {
    match &options.key_file {
        None => Ok(options.key.clone()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| vec![format!("cannot read {}: {error}", path.display())])?;
            Ok(Some(text.trim().to_owned()))
        }
    }
}

fn text(finding: &Finding, is_accepted: bool) -> String {
    let mark = match finding.severity {
        _ if is_accepted => "accepted",
        Severity::Broken => "BROKEN",
        Severity::Warning => "warning",
        Severity::Fine => "ok",
    };
    let mut text = format!("{mark:<9}{:<22}  {}\n", printable(&finding.code), printable(&finding.what));
    for (word, words) in [("why", finding.why.as_ref()), ("mend", finding.mend.as_str())] {
        if !words.is_empty() {
            let _ = writeln!(text, "{:<9}{word}: {}", "", printable(words));
        }
    }
    text
}
