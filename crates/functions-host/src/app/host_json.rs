//! `host.json`: the options of the whole app that this host honours.

use std::{
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    Notes,
    json::{self, Node, TimeSpan},
    settings::{Configuration, expand},
};

/// The options read from `host.json`, after the `AzureFunctionsJobHost__…` settings have replaced some of them.
#[derive(Clone, Debug)]
pub(crate) struct HostJson {
    /// `functionTimeout`: how long one invocation may take. Default 30 minutes, as on every plan but Consumption;
    /// `None` is the file's `-1`, no limit. At least one second (`ScriptJobHostOptionsSetup.cs`).
    pub(crate) function_timeout: Option<Duration>,
    /// `extensions.http`.
    pub(crate) http: Http,
    /// `customHandler`, or the older `httpWorker`.
    pub(crate) custom_handler: CustomHandler,
    /// `extensions.serviceBus`.
    pub(crate) service_bus: ServiceBus,
    /// `functions`: names of the functions that run, in any case; the others are left out. `None`, also for an empty list, is all.
    pub(crate) functions: Option<Vec<String>>,
}

/// `extensions.http` (`HttpOptions.cs` of azure-webjobs-sdk-extensions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Http {
    /// Prefix of every route, as written, a part of the template. Default `api`; null is empty.
    pub(crate) route_prefix: String,
    /// Headers added to each response that does not have them already, in file order.
    pub(crate) custom_headers: Vec<(String, String)>,
    /// Requests under way or waiting above which the host answers 429. `None`, the default and `-1`, is no limit.
    pub(crate) max_outstanding_requests: Option<usize>,
    /// Requests under way at once. `None`, the default and `-1`, is no limit.
    pub(crate) max_concurrent_requests: Option<usize>,
}

/// The process that handles invocations (`HttpWorkerOptions.cs` and `HttpWorkerDescription.cs` of the host).
#[derive(Clone, Debug)]
pub(crate) struct CustomHandler {
    /// `description.defaultExecutablePath` as written.
    pub(crate) executable_path: String,
    /// Program to run.
    pub(crate) executable: Executable,
    /// The directory the handler starts in. Default the app root; a relative one is below the app root.
    pub(crate) working_directory: PathBuf,
    /// `enableForwardingHttpRequest`, default false. See [`App::forwards`](super::App::forwards).
    pub(crate) enable_forwarding_http_request: bool,
    /// Time for the handler to start to answer HTTP. Default 30 seconds.
    pub(crate) initialization_timeout: Duration,
    /// `description.useStdErrorStreamForErrorsOnly`, default true: a line on stderr is an error unless it says "warn".
    #[expect(dead_code, reason = "read so that a mistake is reported")]
    pub(crate) use_std_error_stream_for_errors_only: bool,
    /// The section is the older `httpWorker`: functions with HTTP in and out only are always forwarded, and to the path
    /// `/NAME` instead of the path the client asked for.
    pub(crate) is_http_worker: bool,
    arguments: Vec<String>,
    worker_path: Option<String>,
    worker_arguments: Vec<String>,
}

/// The program that `defaultExecutablePath` means, by the host's rule (`HttpWorkerDescription.cs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Executable {
    /// A file: absolute as written, or relative and existing below `workerDirectory` or the app root.
    File(PathBuf),
    /// Any other text, looked up on `PATH` by the operating system.
    OnPath(String),
}

/// `extensions.serviceBus` (`ServiceBusOptions.cs` of the Service Bus extension, 5.x), as far as it matters locally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceBus {
    /// Messages of one queue handled at once. Default 16 for each core.
    pub(crate) max_concurrent_calls: usize,
    /// Time for which the lock of a message is renewed. Default 5 minutes; `None` is a negative time, no limit.
    pub(crate) max_auto_lock_renewal_duration: Option<Duration>,
    /// Whether a message is completed when its invocation succeeds. Default true; a trigger may say otherwise.
    pub(crate) auto_complete_messages: bool,
    /// Largest batch for a trigger with `cardinality: many`. Default 1000 messages.
    pub(crate) max_message_batch_size: usize,
}

/// The root keys the host knows (`HostJsonFileConfigurationSource.cs`), with those of newer hosts and editors.
const ROOT_KEYS: [&str; 24] = [
    "version",
    "functionTimeout",
    "retry",
    "functions",
    "http",
    "watchDirectories",
    "watchFiles",
    "queues",
    "serviceBus",
    "eventHub",
    "singleton",
    "logging",
    "aggregator",
    "healthMonitor",
    "extensionBundle",
    "managedDependency",
    "managedDependencies",
    "customHandler",
    "httpWorker",
    "extensions",
    "concurrency",
    "telemetryMode",
    "configurationProfile",
    "$schema",
];

impl HostJson {
    /// Reads `host.json`; `None` with problems noted when the host cannot start.
    pub(super) fn load(root: &Path, configuration: &Configuration, notes: &mut Notes) -> Option<HostJson> {
        let path = root.join("host.json");
        if !path.exists() {
            let root = root.display();
            notes.problems.push(format!("no host.json in {root}: run this in the app's folder or pass --app"));
            return None;
        }
        let document = host_json::text_of(&path);
        let document = document.and_then(|text| host_json::parse(&text));
        let document = document.and_then(|document| match document {
            Value::Object(_) => Ok(document),
            _ => Err("the file is not a JSON object".to_owned()),
        });
        let mut read = Notes::default();
        let host = match document {
            Ok(document) => HostJson::read(document, root, configuration, &mut read),
            Err(reason) => {
                read.problems.push(reason);
                None
            }
        };
        notes.notices.extend(read.notices.into_iter().map(|notice| format!("host.json: {notice}")));
        notes.problems.extend(read.problems.into_iter().map(|problem| format!("host.json: {problem}")));
        host
    }

    fn read(mut document: Value, root: &Path, configuration: &Configuration, notes: &mut Notes) -> Option<HostJson> {
        match document.get("version") {
            Some(Value::String(version)) if version == "2.0" => {}
            Some(version) if !version.is_null() => notes.problems.push(format!("version: {version} must be \"2.0\"")),
            _ => notes.problems.push("version is missing: add \"version\": \"2.0\"".to_owned()),
        }
        notes.notices.extend(unknown_keys(&document));
        document = json::merged(document);

        for (path, value) in configuration.section("AzureFunctionsJobHost") {
            replace(&mut document, &path, value);
        }
        let host = Node::root(&document);
        check_kinds(&host, notes);
        Some(HostJson {
            functions: notes.told(host.child("functions").texts()).filter(|names| !names.is_empty()),
            function_timeout: function_timeout(&host.child("functionTimeout"), notes),
            http: Http::read(&host.at("extensions.http"), notes),
            service_bus: ServiceBus::read(&host.at("extensions.serviceBus"), notes),
            custom_handler: CustomHandler::read(&host, root, configuration, notes)?,
        })
    }
}

impl CustomHandler {
    /// The arguments of the handler, `%NAME%` replaced by `lookup`, which knows the handler's whole environment:
    /// the five variables the host adds, such as `FUNCTIONS_CUSTOMHANDLER_PORT`, are known only when it is started.
    ///
    /// The host joins the arguments with spaces and quotes none, so an argument with a space becomes two, unless it
    /// brings its own double quotes; a `%NAME%` that is not set is removed (`DefaultWorkerProcessFactory.cs`).
    pub(crate) fn arguments(&self, lookup: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let expanded = |argument: &String| remove_unset(&expand(argument, &lookup));
        let worker_path = self.worker_path.iter().map(|path| format!("\"{path}\""));
        let all = self.arguments.iter().map(expanded);
        let all = all.chain(worker_path).chain(self.worker_arguments.iter().map(expanded));
        split_command_line(&all.collect::<Vec<_>>().join(" "))
    }

    fn read(host: &Node<'_>, root: &Path, configuration: &Configuration, notes: &mut Notes) -> Option<CustomHandler> {
        let mut section = host.child("customHandler");
        let has_http_worker = host.child("httpWorker").value.is_some();
        let is_http_worker = has_http_worker && section.value.is_none();
        if has_http_worker && !is_http_worker {
            notes.notices.push("httpWorker is ignored: customHandler takes precedence".to_owned());
        }
        if is_http_worker {
            section = host.child("httpWorker");
            notes.notices.push("httpWorker is deprecated: rename it to customHandler".to_owned());
        }
        for key in ["enableProxyingHttpRequest", "port", "http"] {
            if section.child(key).value.is_some() {
                notes.notices.push(format!("{}.{key} is ignored by this host", section.path));
            }
        }

        let description = section.child("description");
        let lookup = |name: &str| configuration.value(name).map(str::to_owned);
        let arguments = notes.told(description.child("arguments").texts()).unwrap_or_default();
        let worker_arguments = notes.told(description.child("workerArguments").texts()).unwrap_or_default();
        for argument in arguments.iter().chain(&worker_arguments) {
            if argument.contains(' ') && !argument.contains('"') {
                notes.notices.push(format!("the argument \"{argument}\" is split at its spaces, as the host does"));
            }
        }
        let time = section.child("initializationTimeout");
        let initialization_timeout = match notes.keep(time.time_span()) {
            None => Duration::from_secs(30),
            Some(TimeSpan::Positive(timeout)) => timeout,
            Some(TimeSpan::Negative) => {
                notes.problems.push(format!("{}: must not be negative", time.path));
                Duration::ZERO
            }
        };
        let working_directory = description.child("workingDirectory").text();
        let enable_forwarding_http_request = notes.keep(section.child("enableForwardingHttpRequest").boolean());
        let errors_only = notes.keep(description.child("useStdErrorStreamForErrorsOnly").boolean());

        let Some(executable_path) = description.child("defaultExecutablePath").text() else {
            notes
                .problems
                .push(format!("no {}.description.defaultExecutablePath: set it to the program that handles invocations", section.path));
            return None;
        };
        let worker_directory = description.child("workerDirectory").text();
        let worker_directory = worker_directory.map_or_else(|| root.to_owned(), |directory| root.join(directory));
        let executable = Executable::find(expand(&executable_path, lookup).trim(), &worker_directory);
        for key in ["workingDirectory", "workerDirectory"] {
            let node = description.child(key);
            if let Some(directory) = node.text().map(|directory| root.join(directory)).filter(|directory| !directory.is_dir()) {
                notes.notices.push(format!("{}: there is no folder {}", node.path, directory.display()));
            }
        }
        if let Executable::OnPath(program) = &executable
            && program.contains('/')
        {
            notes.notices.push(format!("{program} does not exist below {}: build it first", worker_directory.display()));
        }
        Some(CustomHandler {
            executable_path,
            executable,
            working_directory: working_directory.map_or_else(|| root.to_owned(), |directory| root.join(directory)),
            enable_forwarding_http_request: enable_forwarding_http_request.unwrap_or(false),
            initialization_timeout,
            use_std_error_stream_for_errors_only: errors_only.unwrap_or(true),
            is_http_worker,
            arguments,
            worker_path: description.child("defaultWorkerPath").text(),
            worker_arguments,
        })
    }
}

impl Executable {
    fn find(text: &str, directory: &Path) -> Executable {
        let path = directory.join(text);
        if Path::new(text).is_absolute() || path.is_file() {
            Executable::File(std::path::absolute(&path).unwrap_or(path))
        } else {
            Executable::OnPath(text.to_owned())
        }
    }
}

impl Http {
    fn read(section: &Node<'_>, notes: &mut Notes) -> Http {
        let prefix = section.value.and_then(|http| json::find(http, "routePrefix")).map(|prefix| json::text(prefix).unwrap_or_default());
        let headers = section.child("customHeaders");
        let headers = headers.value.and_then(Value::as_object).into_iter().flatten();
        Http {
            route_prefix: prefix.unwrap_or_else(|| "api".to_owned()),
            custom_headers: headers.filter_map(|(name, value)| Some((name.clone(), json::text(value)?))).collect(),
            max_outstanding_requests: limit(&section.child("maxOutstandingRequests"), notes),
            max_concurrent_requests: limit(&section.child("maxConcurrentRequests"), notes),
        }
    }
}

impl ServiceBus {
    /// The names of version 5, and where they are absent those of version 4 (`messageHandlerOptions`), which still bind.
    fn read(section: &Node<'_>, notes: &mut Notes) -> ServiceBus {
        let either = |new: &str, old: &str| {
            let node = section.child(new);
            if node.value.is_some() { node } else { section.at("messageHandlerOptions").child(old) }
        };
        let calls = either("maxConcurrentCalls", "maxConcurrentCalls");
        let renewal = either("maxAutoLockRenewalDuration", "maxAutoRenewDuration");
        let complete = either("autoCompleteMessages", "autoComplete");
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        ServiceBus {
            max_concurrent_calls: count(&calls, notes).unwrap_or(16 * cores),
            max_auto_lock_renewal_duration: match notes.keep(renewal.time_span()) {
                None => Some(Duration::from_mins(5)),
                Some(TimeSpan::Positive(duration)) => Some(duration),
                Some(TimeSpan::Negative) => None,
            },
            auto_complete_messages: notes.keep(complete.boolean()).unwrap_or(true),
            max_message_batch_size: count(&section.child("maxMessageBatchSize"), notes).unwrap_or(1000),
        }
    }
}

/// Checks the values that the host reads and this one does not use: one of the wrong kind stops the real host.
fn check_kinds(host: &Node<'_>, notes: &mut Notes) {
    for path in
        ["sendCanceledInvocationsToWorker", "fileWatchingEnabled", "aggregator.isEnabled", "extensions.http.dynamicThrottlesEnabled"]
    {
        notes.keep(host.at(path).boolean());
    }
    for path in ["aggregator.batchSize", "customHandler.port", "httpWorker.port"] {
        notes.keep(host.at(path).integer());
    }
    for path in ["aggregator.flushTimeout", "metadataProviderTimeout", "singleton.lockAcquisitionTimeout"] {
        notes.keep(host.at(path).time_span());
    }
    for path in ["singleton.lockAcquisitionPollingInterval", "singleton.listenerLockRecoveryPollingInterval"] {
        notes.keep(host.at(path).time_span());
    }
    for path in ["singleton.lockPeriod", "singleton.listenerLockPeriod"] {
        let node = host.at(path);
        let range = Duration::from_secs(15)..=Duration::from_mins(1);
        if let Some(period) = notes.keep(node.time_span())
            && !matches!(period, TimeSpan::Positive(period) if range.contains(&period))
        {
            notes.problems.push(format!("{path}: {} is not from 00:00:15 to 00:01:00", node.text().unwrap_or_default()));
        }
    }
    notes.keep(host.at("logging.fileLoggingMode").one_of(&["never", "always", "debugOnly"]));
    for section in ["customHandler", "httpWorker"] {
        notes.keep(host.child(section).child("type").one_of(&["http", "none"]));
    }
    let logging = host.child("logging");
    check_levels(&logging.child("logLevel"), notes);
    for (provider, _) in logging.value.and_then(Value::as_object).into_iter().flatten() {
        check_levels(&logging.child(provider).child("logLevel"), notes);
    }
    match retry(&host.child("retry")) {
        Ok(true) => notes.notices.push("retry is not played by this host: a failed invocation is not repeated".to_owned()),
        Ok(false) => {}
        Err(problem) => notes.problems.push(problem),
    }
    let bundle = host.child("extensionBundle");
    for key in ["id", "version"].into_iter().filter(|_| bundle.value.and_then(Value::as_object).is_some_and(|bundle| !bundle.is_empty())) {
        if bundle.child(key).text().is_none() {
            notes.problems.push(format!("extensionBundle.{key} is missing"));
        }
    }
    for key in ["http", "queues", "serviceBus", "eventHub"] {
        if host.child(key).value.is_some() {
            notes.notices.push(format!("\"{key}\" at the root is of version 1 and has no effect: move it below \"extensions\""));
        }
    }
}

/// Every text below `logLevel` must be a level.
fn check_levels(node: &Node<'_>, notes: &mut Notes) {
    const LEVELS: [&str; 7] = ["trace", "debug", "information", "warning", "error", "critical", "none"];
    let Some(levels) = node.value.and_then(Value::as_object) else { return };
    for (category, value) in levels {
        let level = Node { path: format!("{}.{category}", node.path), value: Some(value) };
        if value.is_object() {
            check_levels(&level, notes);
        } else if !value.is_null() && !value.is_array() {
            notes.keep(level.one_of(&LEVELS));
        }
    }
}

/// Whether there is a retry policy; the error is the reason why the host refuses it (`Utility.ValidateRetryOptions`).
pub(super) fn retry(node: &Node<'_>) -> Result<bool, String> {
    if node.value.and_then(Value::as_object).is_none_or(Map::is_empty) {
        return Ok(false);
    }
    let missing = |key: &str| format!("{}.{key} is missing", node.path);
    let fixed = matches!(node.child("strategy").one_of(&["fixedDelay", "exponentialBackoff"])?.as_deref(), Some("fixeddelay" | "1"));
    let count = node.child("maxRetryCount").integer()?.ok_or_else(|| missing("maxRetryCount"))?;
    if count < -1 {
        return Err(format!("{}.maxRetryCount: {count} is neither a number of tries nor -1 for no limit", node.path));
    }
    let intervals = if fixed { &["delayInterval"][..] } else { &["minimumInterval", "maximumInterval"] };
    for key in intervals {
        node.child(key).time_span()?.ok_or_else(|| missing(key))?;
    }
    Ok(true)
}

fn function_timeout(node: &Node<'_>, notes: &mut Notes) -> Option<Duration> {
    // The host waits a minute longer for the handler, and its client counts milliseconds in 31 bits.
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64 - 60_000);
    match notes.keep(node.time_span()) {
        Some(TimeSpan::Positive(timeout)) if timeout > LONGEST => {
            let text = node.text().unwrap_or_default();
            let days = timeout.as_secs() / 86_400;
            notes.problems.push(format!("{}: {text} is {days} days, and the host takes at most 24 (5 minutes are 00:05:00)", node.path));
            None
        }
        None => Some(Duration::from_mins(30)),
        Some(TimeSpan::Negative) if node.text().is_some_and(|text| text.trim() == "-1") => None,
        Some(TimeSpan::Positive(timeout)) if timeout >= Duration::from_secs(1) => Some(timeout),
        Some(_) => {
            let text = node.text().unwrap_or_default();
            notes.problems.push(format!("{}: \"{text}\" is below 00:00:01 (-1 means no limit)", node.path));
            None
        }
    }
}

/// A number of requests; the host takes `-1` for no limit.
fn limit(node: &Node<'_>, notes: &mut Notes) -> Option<usize> {
    let number = notes.keep(node.integer())?;
    if number < -1 {
        notes.problems.push(format!("{}: {number} is neither a number of requests nor -1 for no limit", node.path));
    }
    usize::try_from(number).ok()
}

/// A number from 1 up.
fn count(node: &Node<'_>, notes: &mut Notes) -> Option<usize> {
    let number = notes.keep(node.integer())?;
    let count = usize::try_from(number).ok().filter(|count| *count > 0);
    if count.is_none() {
        notes.problems.push(format!("{}: {number} is not a number from 1 up", node.path));
    }
    count
}

fn unknown_keys(document: &Value) -> Vec<String> {
    let keys = document.as_object().into_iter().flat_map(Map::keys);
    let unknown = keys.filter(|key| !ROOT_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)));
    unknown
        .map(|key| match ROOT_KEYS.iter().find(|known| distance(&known.to_lowercase(), &key.to_lowercase()) <= 2) {
            Some(known) => {
                format!("\"{key}\" is not a key the host reads: did you mean \"{known}\"?")
            }
            None => format!("\"{key}\" is not a key the host reads: it is ignored"),
        })
        .collect()
}

/// Number of letters to add, remove or change to turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Sets the value at a path whose keys have no case; a number in the path is a place in a list.
fn replace(tree: &mut Value, path: &[String], value: &str) {
    let Some((key, rest)) = path.split_first() else {
        *tree = Value::String(value.to_owned());
        return;
    };
    let index: Option<usize> = key.parse().ok();
    match (index, &mut *tree) {
        (Some(_), Value::Array(_)) | (_, Value::Object(_)) => {}
        (Some(_), _) => *tree = Value::Array(Vec::new()),
        (None, _) => *tree = Value::Object(Map::new()),
    }
    match tree {
        Value::Array(values) => {
            let index = index.map_or(values.len(), |index| index.min(values.len()));
            if index == values.len() {
                values.push(Value::Null);
            }
            replace(&mut values[index], rest, value);
        }
        Value::Object(object) => {
            let same = object.keys().find(|name| name.eq_ignore_ascii_case(key)).unwrap_or(key).clone();
            replace(object.entry(same).or_insert(Value::Null), rest, value);
        }
        _ => {}
    }
}

/// Removes each `%NAME%` that is left (the host's pattern is `%(.+?)%`).
fn remove_unset(text: &str) -> String {
    let mut output = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        output.push_str(before);
        // The name has at least one character, which may itself be a `%`.
        let name = after.chars().next().map_or(0, char::len_utf8);
        let Some(end) = after[name..].find('%') else {
            return output + "%" + after;
        };
        rest = &after[name + end + 1..];
    }
    output + rest
}

/// Splits as .NET splits `ProcessStartInfo.Arguments` on Unix: at spaces and tabs outside double quotes, where a
/// backslash escapes only a quote or the backslashes before a quote.
fn split_command_line(line: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\t' if !quoted => arguments.extend(current.take()),
            '\\' => {
                let mut backslashes = 1;
                while chars.next_if_eq(&'\\').is_some() {
                    backslashes += 1;
                }
                let argument = current.get_or_insert_default();
                if chars.peek() == Some(&'"') {
                    argument.extend(std::iter::repeat_n('\\', backslashes / 2));
                    if backslashes % 2 == 1 {
                        argument.extend(chars.next());
                    }
                } else {
                    argument.extend(std::iter::repeat_n('\\', backslashes));
                }
            }
            '"' if quoted && chars.next_if_eq(&'"').is_some() => {
                current.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                current.get_or_insert_default();
            }
            _ => current.get_or_insert_default().push(char),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn read(document: Value, environment: &[(&str, &str)]) -> (Option<HostJson>, Notes) {
        let environment: BTreeMap<_, _> = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let configuration = Configuration::new(&BTreeMap::new(), &environment);
        let mut notes = Notes::default();
        let host = HostJson::read(document, Path::new("/app"), &configuration, &mut notes);
        (host, notes)
    }

    fn good(document: Value, environment: &[(&str, &str)]) -> HostJson {
        let (host, notes) = read(document, environment);
        assert_eq!(notes.problems, Vec::<String>::new());
        host.unwrap()
    }

    fn handler(arguments: &Value) -> Value {
        json!({"version": "2.0", "customHandler": {"description": {
            "defaultExecutablePath": "handler", "arguments": arguments}}})
    }

    #[test]
    fn an_absent_option_has_the_hosts_default() {
        let host = good(handler(&json!([])), &[]);

        assert_eq!(host.function_timeout, Some(Duration::from_mins(30)));
        assert_eq!(host.http.route_prefix, "api");
        assert_eq!(host.http.max_concurrent_requests, None);
        assert_eq!(host.custom_handler.executable, Executable::OnPath("handler".to_owned()));
        assert_eq!(host.custom_handler.working_directory, Path::new("/app"));
        assert_eq!(host.custom_handler.initialization_timeout, Duration::from_secs(30));
        assert!(!host.custom_handler.enable_forwarding_http_request);
        assert_eq!(host.service_bus.max_concurrent_calls % 16, 0);
        assert_eq!(host.service_bus.max_auto_lock_renewal_duration, Some(Duration::from_mins(5)));
        assert!(host.service_bus.auto_complete_messages);
    }

    #[test]
    fn a_setting_replaces_an_option_whatever_its_case() {
        let host = good(
            handler(&json!(["--old"])),
            &[
                ("azurefunctionsjobhost__CUSTOMHANDLER__description__defaultexecutablepath", "other"),
                ("AzureFunctionsJobHost__customHandler__description__arguments__0", "--new"),
                ("AzureFunctionsJobHost__customHandler__description__arguments__1", "--more"),
                ("AzureFunctionsJobHost:extensions:serviceBus:maxConcurrentCalls", "3"),
                ("AzureFunctionsJobHost__functionTimeout", "-1"),
            ],
        );

        assert_eq!(host.custom_handler.executable_path, "other");
        assert_eq!(host.custom_handler.arguments(|_| None), ["--new", "--more"]);
        assert_eq!(host.service_bus.max_concurrent_calls, 3);
        assert_eq!(host.function_timeout, None);
    }

    #[test]
    fn arguments_may_be_one_json_text() {
        let host = good(handler(&json!(["--old"])), &[("AzureFunctionsJobHost__customHandler__description__arguments", r#"["a","b"]"#)]);

        assert_eq!(host.custom_handler.arguments(|_| None), ["a", "b"]);
    }

    #[test]
    fn an_argument_with_a_space_splits_and_gives_a_notice() {
        let (host, notes) = read(handler(&json!(["two words", "\"kept whole\"", "--port=%PORT%", "a%UNSET%b"])), &[]);

        let lookup = |name: &str| (name == "PORT").then(|| "7071".to_owned());
        assert_eq!(host.unwrap().custom_handler.arguments(lookup), ["two", "words", "kept whole", "--port=7071", "ab"]);
        assert_eq!(notes.notices, ["the argument \"two words\" is split at its spaces, as the host does"]);
    }

    #[test]
    fn a_command_line_splits_as_dotnet_splits_it() {
        for (line, expected) in [
            (r#"a "b c" d"#, vec!["a", "b c", "d"]),
            (r#"a\b "c\"d" \\"e f""#, vec![r"a\b", r#"c"d"#, r"\e f"]),
            (r#""" "x""y""#, vec!["", r#"x"y"#]),
            ("  ", vec![]),
        ] {
            assert_eq!(split_command_line(line), expected, "{line}");
        }
    }

    #[test]
    fn every_bad_value_is_named_with_its_path() {
        let (_, notes) = read(
            json!({
                "version": 2, "functionTimeout": "5m",
                "extensions": {
                    "http": {"maxOutstandingRequests": "many"},
                    "serviceBus": {"maxConcurrentCalls": 0, "autoCompleteMessages": "maybe"},
                },
                "customHandler": {"initializationTimeout": [], "type": "web", "description": {"arguments": "x"}},
                "logging": {"fileLoggingMode": "some", "logLevel": {"default": "Loud", "Host": "warning"},
                    "console": {"LogLevel": {"A": {"B": "Soft"}, "C": 3}}},
                "singleton": {"lockPeriod": "00:00:05", "listenerLockPeriod": "soon"},
                "retry": {"maxRetryCount": 2},
                "extensionBundle": {"id": "x"},
            }),
            &[],
        );

        assert_eq!(
            notes.problems,
            [
                r#"version: 2 must be "2.0""#,
                "singleton.lockPeriod: 00:00:05 is not from 00:00:15 to 00:01:00",
                r#"singleton.listenerLockPeriod: "soon" is not a time span such as 00:05:00"#,
                r#"logging.fileLoggingMode: "some" is not one of never, always, debugOnly"#,
                r#"customHandler.type: "web" is not one of http, none"#,
                r#"logging.logLevel.default: "Loud" is not one of trace, debug, information, warning, error, critical, none"#,
                r#"logging.console.logLevel.A.B: "Soft" is not one of trace, debug, information, warning, error, critical, none"#,
                "retry.minimumInterval is missing",
                "extensionBundle.version is missing",
                r#"functionTimeout: "5m" is not a time span such as 00:05:00"#,
                r#"extensions.http.maxOutstandingRequests: "many" is not a whole number"#,
                "extensions.serviceBus.maxConcurrentCalls: 0 is not a number from 1 up",
                r#"extensions.serviceBus.autoCompleteMessages: "maybe" is not true or false"#,
                "customHandler.initializationTimeout: [] is not a time span such as 00:05:00",
                "no customHandler.description.defaultExecutablePath: set it to the program that handles invocations",
            ]
        );
    }

    #[test]
    fn a_timeout_below_a_second_is_refused_and_minus_one_is_none() {
        let with = |timeout: Value| {
            let mut document = handler(&json!([]));
            document["functionTimeout"] = timeout;
            read(document, &[])
        };

        assert_eq!(with(json!(-1)).0.unwrap().function_timeout, None);
        assert_eq!(with(json!("5")).0.unwrap().function_timeout, Some(Duration::from_hours(120)));
        assert_eq!(
            with(json!(300)).1.problems,
            ["functionTimeout: 300 is 300 days, and the host takes at most 24 (5 minutes are 00:05:00)"]
        );
        assert_eq!(with(json!("00:00:00")).1.problems, ["functionTimeout: \"00:00:00\" is below 00:00:01 (-1 means no limit)"]);
    }

    #[test]
    fn a_negative_lock_renewal_is_no_limit() {
        let mut document = handler(&json!([]));
        document["extensions"] = json!({"serviceBus": {"maxAutoLockRenewalDuration": "-00:00:00.001"}});

        assert_eq!(good(document, &[]).service_bus.max_auto_lock_renewal_duration, None);
    }

    #[test]
    fn an_empty_route_prefix_stays_empty() {
        let mut document = handler(&json!([]));
        document["extensions"] = json!({"http": {"routePrefix": "", "customHeaders": {"X-A": "1"}}});

        let http = good(document, &[]).http;
        assert_eq!(http.route_prefix, "");
        assert_eq!(http.custom_headers, [("X-A".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn an_unknown_root_key_is_reported_with_the_nearest_known_one() {
        let mut document = handler(&json!([]));
        document["extension"] = json!({});
        document["orders"] = json!({});

        assert_eq!(
            read(document, &[]).1.notices,
            [
                "\"extension\" is not a key the host reads: did you mean \"extensions\"?",
                "\"orders\" is not a key the host reads: it is ignored",
            ]
        );
    }

    #[test]
    fn what_has_no_effect_is_told_with_its_place() {
        let mut document = handler(&json!("x"));
        document["http"] = json!({"routePrefix": "x"});
        document["serviceBus"] = json!({});
        document["customHandlers"] = json!({});
        document["functions"] = json!("Hello");
        document["retry"] = json!({"strategy": "fixedDelay", "maxRetryCount": 2, "delayInterval": "00:00:01"});
        document["customHandler"]["description"]["workingDirectory"] = json!("moved");

        let (host, notes) = read(document, &[]);

        assert_eq!(notes.problems, Vec::<String>::new());
        assert_eq!(host.unwrap().functions, None);
        assert_eq!(
            notes.notices,
            [
                "\"customHandlers\" is not a key the host reads: did you mean \"customHandler\"?",
                "retry is not played by this host: a failed invocation is not repeated",
                "\"http\" at the root is of version 1 and has no effect: move it below \"extensions\"",
                "\"serviceBus\" at the root is of version 1 and has no effect: move it below \"extensions\"",
                "functions: \"Hello\" is not a list of texts: it is ignored",
                "customHandler.description.arguments: \"x\" is not a list of texts: it is ignored",
                "customHandler.description.workingDirectory: there is no folder /app/moved",
            ]
        );
    }

    #[test]
    fn the_functions_that_run_come_from_the_file_and_the_settings() {
        let mut document = handler(&json!([]));
        document["functions"] = json!(["Hello", 1, null]);
        assert_eq!(good(document.clone(), &[]).functions, Some(vec!["Hello".to_owned(), "1".to_owned()]));
        assert_eq!(good(document.clone(), &[("AzureFunctionsJobHost__functions__0", "Other")]).functions.unwrap()[0], "Other");
        document["functions"] = json!([]);
        assert_eq!(good(document, &[]).functions, None);
        let from_settings = good(handler(&json!([])), &[("AzureFunctionsJobHost__functions__0", "Hello")]);
        assert_eq!(from_settings.functions, Some(vec!["Hello".to_owned()]));
    }

    #[test]
    fn the_older_http_worker_section_still_works() {
        let document = json!({"version": "2.0", "httpWorker": {"description": {"defaultExecutablePath": "x"}}});

        let (host, notes) = read(document, &[]);
        assert!(host.unwrap().custom_handler.is_http_worker);
        assert_eq!(notes.notices, ["httpWorker is deprecated: rename it to customHandler"]);
    }
}
