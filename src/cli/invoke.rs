//! `waybill invoke`: runs one function of a running app, and shows its answer, its outputs and its log lines.

mod input;
mod remote;
mod route;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use functions_host::app;
use reqwest::Url;
use serde_json::{Value, json};
use serving::terminal::printable;

use crate::cli::Arguments;
use crate::cli::app_files::INGRESS;
use crate::cli::invoke::input::{Header, Input, Sample, Setting};
use crate::cli::invoke::remote::{Answer, Function, Remote, Trigger};
use crate::config::spelling;

/// Port of `waybill local` without a setting.
const PORT: u16 = 7071;
/// Variable with the key of an app.
const KEY: &str = "FUNCTIONS_KEY";
/// Headers of every answer, which say nothing of the function.
const COMMON: [&str; 4] = ["date", "content-length", "transfer-encoding", "connection"];

/// Options of `waybill invoke`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the invocation succeeded, 1 it failed, was answered with 400 or above, or the app could not be asked, 2 wrong use."
)]
pub(super) struct Options {
    /// The function, in any case.
    function: String,
    /// `-` for the input from stdin.
    #[arg(value_parser = ["-"], conflicts_with_all = ["sample", "data"])]
    stdin: Option<String>,
    /// The app, such as `https://APP.azurewebsites.net` [default: `waybill local` on this machine, at the port of its settings]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The folder of the app, whose settings name that port and whose order.json is the sample of an app with orders of its own.
    #[arg(long, value_name = "DIR", default_value = ".")]
    app: PathBuf,
    /// The master key of an app in Azure; better in a file or in the variable `FUNCTIONS_KEY`.
    #[arg(long, value_name = "KEY", conflicts_with = "key_file")]
    key: Option<String>,
    /// A file with the master key.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The input: an order, a message of a new order, a text that is no message, or nothing [default: what fits the trigger]
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "data")]
    sample: Option<Sample>,
    /// A file with the input: the body of a request, or the text of a message; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// A value in the input, such as `items.0.quantity=3`, in the route, such as `trackingId=ID`, or in the query of a request without a
    /// body. May be given again.
    #[arg(long, value_name = "PATH=VALUE", value_parser = input::setting)]
    set: Vec<Setting>,
    /// A header of the request, for a function with an HTTP trigger. May be given again.
    #[arg(long, value_name = "NAME:VALUE", value_parser = input::header)]
    header: Vec<Header>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the function. `Ok(false)`: the invocation failed.
pub(super) fn run(options: &Options, environment: &BTreeMap<String, String>) -> Result<bool, Vec<String>> {
    let one = |problem: String| vec![problem];
    let base = url(options).unwrap_or_else(|why| misused(ErrorKind::ValueValidation, &why));
    let key = key(options, environment).map_err(one)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| one(error.to_string()))?;
    let remote = Remote::new(base, key.as_deref()).map_err(one)?;
    let shown = runtime.block_on(ask(options, &remote)).map_err(one)?;

    let text = if options.json { format!("{}\n", printable(&shown.to_string())) } else { text(&shown) };
    // A closed pipe is no failure of the invocation.
    drop(std::io::stdout().write_all(text.as_bytes()));
    Ok(shown["succeeded"] == true)
}

async fn ask(options: &Options, remote: &Remote) -> Result<Value, String> {
    let functions = remote.functions().await?;
    let function = find(&functions, &options.function);
    if function.is_disabled {
        return Err(format!("{} is switched off: set AzureWebJobs.{}.Disabled to false", function.name, function.name));
    }
    let input = input(options, remote, &functions, function).await?;
    let answer = match &function.trigger {
        Trigger::Http(route) => {
            let request = input.request(route).unwrap_or_else(|why| misused(ErrorKind::MissingRequiredArgument, &why));
            let mut headers = options.header.clone();
            if function.name == INGRESS && !headers.iter().any(|(name, _)| name == input::ORDER_KEY) {
                headers.extend(input::key(&options.app));
            }
            remote.call(request, &headers).await?
        }
        _ if !options.header.is_empty() => misused(ErrorKind::ArgumentConflict, "only a function with an HTTP trigger has headers"),
        _ => remote.run(&function.name, &input.text().unwrap_or_else(|why| misused(ErrorKind::ValueValidation, &why))).await?,
    };
    Ok(shown(function, answer))
}

/// The function with this name. Ends the program if there is none.
fn find<'a>(functions: &'a [Function], name: &str) -> &'a Function {
    functions.iter().find(|function| function.name.eq_ignore_ascii_case(name)).unwrap_or_else(|| {
        let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        let near = spelling::nearest(name, names.iter().copied()).map_or_else(String::new, |near| format!(": did you mean {near}?"));
        misused(ErrorKind::InvalidValue, &format!("no function {name}{near}\nThe app has: {}", names.join(", ")))
    })
}

async fn input(options: &Options, remote: &Remote, functions: &[Function], function: &Function) -> Result<Input, String> {
    let file = options.data.as_deref().or(options.stdin.as_deref().map(Path::new));
    let (text, sample) = match (file, options.sample) {
        (Some(file), _) => (Some(input::read(file)?), None),
        (None, Some(sample)) => (None, Some(sample)),
        (None, None) => (None, Some(function.sample())),
    };
    let text = match sample {
        None => text,
        Some(Sample::Order) => Some(input::order(&options.app)?),
        Some(Sample::Message) => Some(message(options, remote, functions).await?),
        Some(Sample::Text) => Some("no message".into()),
        Some(Sample::Json) => Some("{}".into()),
        Some(Sample::Nothing) => None,
    };
    Ok(Input { text, is_given: options.data.is_some() || options.stdin.is_some(), settings: options.set.clone() })
}

/// The message of a new order, as the function that takes orders sends it. A host without reports is sent no order.
async fn message(options: &Options, remote: &Remote, functions: &[Function]) -> Result<String, String> {
    let needs = || {
        "a message of an order is made by OrderIngress of an app that `waybill local` runs for this machine: pass one with --data FILE"
            .to_owned()
    };
    if !remote.gives_reports().await? {
        return Err(needs());
    }
    let ingress = functions.iter().find(|function| function.name == INGRESS).ok_or_else(needs)?;
    let Trigger::Http(route) = &ingress.trigger else { return Err(needs()) };
    let input = Input { text: Some(input::order(&options.app)?), is_given: true, settings: Vec::new() };
    let answer = remote.call(input.request(route)?, &[input::fresh_key()]).await?;
    let report = answer.report.ok_or_else(needs)?;
    let message = report["outputs"][0]["messages"][0].as_str().map(str::to_owned);
    message.ok_or_else(|| format!("the sample order was answered with {}: {}", answer.status, printable(&answer.body)))
}

/// What is told of an invocation, in the form of `--json`.
fn shown(function: &Function, answer: Answer) -> Value {
    let is_http = matches!(function.trigger, Trigger::Http(_));
    let mut shown = json!({ "function": function.name, "method": answer.method, "url": answer.url, "status": answer.status });
    if is_http {
        let headers = answer.headers.iter().filter(|(name, _)| !COMMON.contains(&name.as_str()));
        shown["headers"] = headers.map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        shown["body"] = serde_json::from_str(&answer.body).unwrap_or_else(|_| answer.body.clone().into());
    }
    let is_answered_well = answer.status < 400;
    match answer.report {
        Some(report) => {
            shown["succeeded"] = (is_answered_well && report["succeeded"] == true).into();
            shown["invocationId"] = report["id"].clone();
            for name in ["durationMs", "reason", "outputs", "logs"] {
                if let Some(value) = report.get(name) {
                    shown[name] = value.clone();
                }
            }
        }
        None => shown["succeeded"] = is_answered_well.into(),
    }
    shown
}

fn text(shown: &Value) -> String {
    let word = |name: &str| printable(shown[name].as_str().unwrap_or_default()).into_owned();
    let mut text = format!("{}  {} {}\n", word("function"), word("method"), word("url"));
    let took = shown["durationMs"].as_u64().map_or_else(String::new, |time| format!("  {time} ms"));
    let verdict = if shown["succeeded"] == true { "succeeded" } else { "failed" };
    let reason = shown["reason"].as_str().map_or_else(String::new, |reason| format!(": {}", printable(reason)));
    // Writing to a string cannot fail.
    let _ = if shown.get("headers").is_some() {
        writeln!(text, "{}{took}{reason}", shown["status"])
    } else if shown.get("invocationId").is_some() {
        writeln!(text, "{verdict}{took}{reason}")
    } else if shown["succeeded"] == true {
        writeln!(
            text,
            "{}: the function runs. This host tells nothing of its end, its outputs and its lines: look into its log",
            shown["status"]
        )
    } else {
        writeln!(text, "{}", shown["status"])
    };
    for (name, value) in shown["headers"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "{}: {}", printable(name), printable(value.as_str().unwrap_or_default()));
    }
    if shown.get("body").is_some_and(|body| body != "") {
        let _ = writeln!(text, "\n{}", pretty(&shown["body"], ""));
    }
    for output in shown["outputs"].as_array().into_iter().flatten() {
        let named = |name: &str| printable(output[name].as_str().unwrap_or_default()).into_owned();
        let _ = writeln!(text, "\n{} → {}", named("name"), named("queue"));
        for message in output["messages"].as_array().into_iter().flatten() {
            let message = message.as_str().unwrap_or_default();
            let _ = writeln!(text, "{}", pretty(&serde_json::from_str(message).unwrap_or_else(|_| message.into()), "  "));
        }
    }
    let logs = shown["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !logs.is_empty() {
        let _ = writeln!(text, "\nlog");
        for line in logs {
            let _ = writeln!(text, "  {}", printable(line.as_str().unwrap_or_default()));
        }
    }
    text
}

/// JSON over several lines, or a text as it is.
fn pretty(value: &Value, indentation: &str) -> String {
    let text = value.as_str().map_or_else(|| serde_json::to_string_pretty(value).unwrap_or_default(), str::to_owned);
    text.lines().map(|line| format!("{indentation}{}", printable(line))).collect::<Vec<_>>().join("\n")
}

/// Where the app is. Only its origin counts, so that the URL of a function may be given too.
fn url(options: &Options) -> Result<Url, String> {
    let Some(url) = &options.url else {
        let port = app::local_port_of(&options.app).unwrap_or(PORT);
        return Url::parse(&format!("http://127.0.0.1:{port}")).map_err(|error| error.to_string());
    };
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let parsed = parsed.filter(|url| url.username().is_empty() && url.password().is_none());
    parsed.and_then(|url| url.join("/").ok()).ok_or_else(|| "--url is no URL such as https://APP.azurewebsites.net".into())
}

fn key(options: &Options, environment: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let text = match &options.key_file {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?),
        None => options.key.clone().or_else(|| environment.get(KEY).cloned()),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// Ends the program, as for any wrong argument.
fn misused(kind: ErrorKind, why: &str) -> ! {
    let why: Vec<_> = why.lines().map(printable).collect();
    Arguments::command().error(kind, why.join("\n")).exit()
}
