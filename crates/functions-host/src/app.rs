//! A Functions app on disk: `host.json`, `local.settings.json` and one folder for each function.
//!
//! All files are read once, at the start, and all mistakes are reported together.
//! The real host continues instead: without a good `host.json` it answers 503 to every request and tries again.

pub(crate) mod function;
pub(crate) mod host_json;
mod json;
pub(crate) mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

use function::{Folder, Function, Output, Trigger};
use host_json::HostJson;
use settings::{Configuration, LocalHost, LocalSettings};

use crate::trigger::http::route::{Route, Template, Unreadable};

/// An app that can be started.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The folder that holds `host.json`, as an absolute path.
    pub(crate) root: PathBuf,
    /// Notices to print before the start, one line each; none prevents the start.
    pub(crate) notices: Vec<String>,
    /// App settings to add to the inherited environment of the handler: `Values` of `local.settings.json`, without settings that the
    /// environment has already.
    pub(crate) settings: BTreeMap<String, String>,
    /// `Host` of `local.settings.json`.
    pub(crate) local_host: LocalHost,
    /// `host.json`.
    pub(crate) host: HostJson,
    /// The functions that run, in the order of their folder names.
    pub(crate) functions: Vec<Function>,
    /// The routes in the order in which the host tries them, with those of functions that are switched off.
    pub(crate) routes: Vec<Route>,
    /// The functions that do not run because of a mistake: name and reason, in the order of their folder names.
    pub(crate) in_error: Vec<(String, String)>,
    /// The names of the functions that are switched off, in order.
    pub(crate) disabled: Vec<String>,
}

/// The values of an app's `local.settings.json`, or of its example; empty where there is neither. The error lists every mistake in it.
pub fn settings_of(root: &Path) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut notes = Notes::default();
    let values = LocalSettings::load(root, &BTreeMap::new(), &mut notes).values;
    if notes.problems.is_empty() { Ok(values) } else { Err(notes.problems) }
}

/// The port that `Host.LocalHttpPort` of an app's `local.settings.json` names.
pub fn local_port_of(root: &Path) -> Option<u16> {
    LocalSettings::load(root, &BTreeMap::new(), &mut Notes::default()).local_host.http_port
}

/// An app as its files describe it, for a program that packs or judges the app.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `customHandler.description.defaultExecutablePath` as written.
    pub executable: String,
    /// The functions that run, in the order of their folder names.
    pub functions: Vec<String>,
    /// The functions that are switched off.
    pub disabled: Vec<String>,
    /// Functions that would not run because of a mistake: name and reason.
    pub in_error: Vec<(String, String)>,
}

/// What the files of the app below `root` say, read as for a start in this environment. The error lists every reason why the host could
/// not start.
pub fn summary(root: &Path, environment: &BTreeMap<String, String>) -> Result<Summary, Vec<String>> {
    let app = App::load(root, environment).map_err(|refusal| refusal.problems)?;
    let App { host, functions, in_error, disabled, .. } = app;
    let functions = functions.into_iter().map(|function| function.name).collect();
    Ok(Summary { executable: host.custom_handler.executable_path, functions, disabled, in_error })
}

/// Why an app cannot be started.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Every reason, one line each.
    pub(crate) problems: Vec<String>,
    /// Notices about what else was found, one line each; one may explain a problem.
    pub(crate) notices: Vec<String>,
}

impl App {
    /// Reads the app below `root`; `environment` is the environment of this process.
    ///
    /// The error lists every reason why the host cannot start, one line each.
    /// A mistake in one function is not among them: it is kept in [`App::in_error`] and the other functions run,
    /// as with the real host.
    pub(crate) fn load(root: &Path, environment: &BTreeMap<String, String>) -> Result<App, Refusal> {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let mut notes = Notes::default();
        let LocalSettings { values, local_host } = LocalSettings::load(&root, environment, &mut notes);
        let configuration = Configuration::new(&values, environment);
        let host = HostJson::load(&root, &configuration, &mut notes);
        let prefix = host.as_ref().map_or("api", |host| &host.http.route_prefix);
        let wanted = host.as_ref().and_then(|host| host.functions.as_deref());
        let Functions { running: functions, routes, in_error, disabled, left_out } =
            Functions::load(&root, &configuration, prefix, wanted, &mut notes);

        // Without a host.json the folder is most likely not an app, and one line about that is enough.
        if root.join("host.json").exists() && functions.is_empty() && in_error.is_empty() && disabled.is_empty() && left_out.is_empty() {
            let root = root.display();
            notes.problems.push(format!("no function in {root}: add a folder with a function.json"));
        }
        match configuration.value("FUNCTIONS_WORKER_RUNTIME") {
            Some(runtime) if runtime.eq_ignore_ascii_case("custom") => {}
            _ => notes
                .notices
                .push("FUNCTIONS_WORKER_RUNTIME is not \"custom\": not needed locally, but `func` and Azure need it".to_owned()),
        }
        let has_timer = functions.iter().any(|function| matches!(function.trigger, Trigger::Timer { .. }));
        for name in ["WEBSITE_TIME_ZONE", "TZ"].into_iter().filter(|_| has_timer) {
            if configuration.value(name).is_some_and(|zone| !zone.is_empty()) {
                notes.notices.push(format!("{name} is set, and timers run in UTC: the Flex and Consumption plans do not support it"));
            }
        }
        let connections: BTreeSet<(&str, &str)> = functions.iter().flat_map(Function::connections).collect();
        notes.notices.extend(settings::doubtful_connections(&configuration, &connections));

        match host {
            Some(host) if notes.problems.is_empty() => {
                Ok(App { root, notices: notes.notices, settings: values, local_host, host, functions, routes, in_error, disabled })
            }
            _ => {
                let Notes { problems, mut notices } = notes;
                notices.extend(in_error.iter().map(in_error_line));
                Err(Refusal { problems, notices })
            }
        }
    }

    /// Whether a function's HTTP requests go to the handler as they are instead of inside an invocation.
    ///
    /// Forwarding needs the app's `enableForwardingHttpRequest` and a function with one input, HTTP, and one output, HTTP
    /// (`FunctionMetadataExtensions.cs` of the host): one more output puts the function back into an invocation.
    /// With the older `httpWorker` section such functions are always forwarded.
    pub(crate) fn forwards(&self, function: &Function) -> bool {
        let handler = &self.host.custom_handler;
        (handler.enable_forwarding_http_request || handler.is_http_worker)
            && matches!(function.trigger, Trigger::Http { .. })
            && matches!(function.outputs[..], [Output::Http { .. }])
    }

    /// One line for each function in error, with the real host's wording.
    pub(crate) fn in_error_lines(&self) -> impl Iterator<Item = String> {
        self.in_error.iter().map(in_error_line)
    }

    /// List of the functions as `func start` prints it; `base` is the address without the route prefix, such as `http://localhost:7071`.
    ///
    /// HTTP functions come first, then the others, then those switched off (`DisplayFunctionsInfoUtilities.cs`).
    pub(crate) fn listing(&self, base: &str) -> String {
        let mut http = String::new();
        let mut others = String::new();
        for Function { name, trigger, .. } in &self.functions {
            // Writing to a `String` cannot fail.
            let _ = match trigger {
                Trigger::Http { route, methods, .. } => {
                    let url = self.url(base, route);
                    let methods = methods.as_ref().map_or_else(String::new, |methods| format!("[{}] ", methods.join(",").to_uppercase()));
                    writeln!(http, "\n\t{name}: {methods}{url}")
                }
                Trigger::Queue { .. } => writeln!(others, "\n\t{name}: serviceBusTrigger"),
                Trigger::Timer { .. } => writeln!(others, "\n\t{name}: timerTrigger"),
            };
        }
        let mut listing = format!("Functions:\n{http}{others}");
        for (index, name) in self.disabled.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            let _ = writeln!(listing, "{gap}Function {name} is disabled.");
        }
        listing
    }

    /// URLs of the functions with an HTTP trigger.
    pub(crate) fn urls(&self, base: &str) -> BTreeMap<String, String> {
        let url = |function: &Function| match &function.trigger {
            Trigger::Http { route, .. } => Some((function.name.clone(), self.url(base, route))),
            Trigger::Queue { .. } | Trigger::Timer { .. } => None,
        };
        self.functions.iter().filter_map(url).collect()
    }

    fn url(&self, base: &str, route: &str) -> String {
        let parts = [base, &self.host.http.route_prefix, route].map(|part| part.trim_matches('/'));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }
}

fn in_error_line((name, reason): &(String, String)) -> String {
    format!("The '{name}' function is in error: {reason}")
}

/// Notices and problems found in the files.
#[derive(Debug, Default)]
struct Notes {
    /// Notices, which do not prevent the start.
    notices: Vec<String>,
    /// Problems, each of which prevents the start.
    problems: Vec<String>,
}

impl Notes {
    /// Value of an option. A mistake that the host passes over is told and the option treated as absent.
    fn told<T>(&mut self, value: Result<Option<T>, String>) -> Option<T> {
        value.unwrap_or_else(|notice| {
            self.notices.push(notice);
            None
        })
    }

    /// Value of an option. A mistake is noted and the option treated as absent, so that the next mistake is found too.
    fn keep<T>(&mut self, value: Result<Option<T>, String>) -> Option<T> {
        value.unwrap_or_else(|problem| {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
            None
        })
    }
}

#[derive(Default)]
struct Functions {
    running: Vec<Function>,
    routes: Vec<Route>,
    in_error: Vec<(String, String)>,
    disabled: Vec<String>,
    /// Functions that `functions` in host.json does not name.
    left_out: Vec<String>,
}

impl Functions {
    fn load(root: &Path, configuration: &Configuration, prefix: &str, wanted: Option<&[String]>, notes: &mut Notes) -> Functions {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("function.json").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // `StringComparer.OrdinalIgnoreCase`, which compares in capitals: of two functions whose routes fit, the first by name is called.
        names.sort_by_cached_key(|name| (name.to_ascii_uppercase(), name.clone()));

        let mut read = Functions::default();
        let mut folders: Vec<Folder> = Vec::new();
        if let Some(wanted) = wanted {
            let is = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
            let unknown = wanted.iter().filter(|wanted| !names.iter().any(|name| is(name, wanted)));
            notes.notices.extend(unknown.map(|name| format!("host.json: functions names {name}, and there is no such function")));
            (names, read.left_out) = names.into_iter().partition(|name| wanted.iter().any(|wanted| is(name, wanted)));
            let left_out = read.left_out.join(", ");
            notes.notices.extend((!left_out.is_empty()).then(|| format!("host.json: functions does not name {left_out}: they do not run")));
        }
        for name in names {
            let folder = root.join(&name);
            let text = ::host_json::text_of(&folder.join("function.json"));
            let text = text.map_err(|error| format!("function.json: {error}"));
            match text.and_then(|text| Folder::read(&name, &folder, &text, configuration)) {
                Err(reason) => read.in_error.push((name, reason)),
                Ok(folder) => match folders.iter().find(|other| folder.function.conflicts(&other.function)) {
                    Some(Folder { function: other, .. }) => read
                        .in_error
                        .push((name, format!("The route specified conflicts with the route defined by function '{}'.", other.name))),
                    None => folders.push(folder),
                },
            }
        }
        for folder in folders {
            let name = &folder.function.name;
            notes.notices.extend(folder.notices.iter().map(|notice| format!("{name}/function.json: {notice}")));
            read.routes.extend(folder.route(prefix, notes));
            if folder.disabled {
                read.disabled.push(folder.function.name);
            } else {
                read.running.push(folder.function);
            }
        }
        read
    }
}

impl Folder {
    /// Route of the function. One that cannot be read stops the whole host, as the real host answers every request with 503 then.
    fn route(&self, prefix: &str, notes: &mut Notes) -> Option<Route> {
        let Function { name, trigger: Trigger::Http { route, methods, .. }, .. } = &self.function else { return None };
        let whole = if prefix.is_empty() { route.clone() } else { format!("{prefix}/{route}") };
        let template = Template::parse(&whole).map_err(|Unreadable { at, reason }| {
            let length = prefix.chars().count();
            match at.checked_sub(if prefix.is_empty() { 0 } else { length + 1 }) {
                Some(at) => {
                    let place = self.trigger_place;
                    format!("{name}/function.json: bindings[{place}].route {route:?}, character {}: {reason}", at + 1)
                }
                None => format!("host.json: extensions.http.routePrefix {prefix:?}, character {}: {reason}", at.min(length - 1) + 1),
            }
        });
        let template = notes.keep(template.map(Some))?;
        Some(Route { function: name.clone(), disabled: self.disabled, template, methods: methods.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HOST: &str = r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler"}}}"#;
    const SETTINGS: &str = r#"{"IsEncrypted": false, "Values": {
        "FUNCTIONS_WORKER_RUNTIME": "custom", "ServiceBusConnection": "x", "Color": "blue"}}"#;
    const INGRESS: &str = r#"{"bindings": [
        {"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "function",
         "methods": ["post"], "route": "orders"},
        {"type": "http", "direction": "out", "name": "res"},
        {"type": "serviceBus", "direction": "out", "name": "orderMessage",
         "queueName": "orders", "connection": "ServiceBusConnection"}]}"#;
    const PROCESSOR: &str = r#"{"bindings": [
        {"type": "serviceBusTrigger", "direction": "in", "name": "orderMessage",
         "queueName": "orders", "connection": "ServiceBusConnection"}]}"#;
    const PING: &str = r#"{"bindings": [
        {"type": "httpTrigger", "name": "req", "methods": ["get", "post"]},
        {"type": "http", "direction": "out", "name": "res"}]}"#;

    struct Folder(PathBuf);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Folder {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let root = std::env::temp_dir().join(format!("functions-host-app-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&root).unwrap();
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Folder(root)
        }

        fn load(&self) -> Result<App, Vec<String>> {
            App::load(&self.0, &BTreeMap::new()).map_err(|refusal| refusal.problems)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn orders() -> Vec<(&'static str, &'static str)> {
        vec![
            ("host.json", HOST),
            ("local.settings.json", SETTINGS),
            ("OrderIngress/function.json", INGRESS),
            ("OrderProcessor/function.json", PROCESSOR),
        ]
    }

    #[test]
    fn the_listing_is_what_func_start_prints() {
        let app = Folder::new(&orders()).load().unwrap();

        assert_eq!(app.notices, Vec::<String>::new());
        assert_eq!(
            app.listing("http://localhost:7071"),
            "Functions:\n\n\tOrderIngress: [POST] http://localhost:7071/api/orders\n\n\tOrderProcessor: serviceBusTrigger\n"
        );
    }

    #[test]
    fn the_listing_shows_http_first_and_disabled_last() {
        let mut files = orders();
        files.push(("Zoo/function.json", PING));
        files.push(("Old/function.json", PING));
        let settings = SETTINGS.replace("\"Color\"", "\"AzureWebJobs.Old.Disabled\": \"1\", \"Color\"");
        files[1].1 = &settings;
        let host = HOST.replace("\"version\"", "\"extensions\": {\"http\": {\"routePrefix\": \"\"}}, \"version\"");
        files[0].1 = &host;

        let app = Folder::new(&files).load().unwrap();

        assert_eq!(app.disabled, ["Old"]);
        assert_eq!(
            app.listing("http://localhost:7071/"),
            "Functions:\n\n\tOrderIngress: [POST] http://localhost:7071/orders\n\n\tZoo: [GET,POST] http://localhost:7071/Zoo\n\n\tOrderProcessor: serviceBusTrigger\n\nFunction Old is disabled.\n"
        );
    }

    #[test]
    fn a_folder_without_host_json_is_one_problem() {
        let folder = Folder::new(&[]);

        let expected = format!("no host.json in {}: run this in the app's folder or pass --app", folder.0.display());
        assert_eq!(folder.load().unwrap_err(), [expected]);
    }

    #[test]
    fn every_reason_not_to_start_is_listed() {
        let folder = Folder::new(&[
            ("host.json", "{\n  // the version is missing\n  \"functionTimeout\": \"5m\"\n}"),
            ("local.settings.json", r#"{"IsEncrypted": true, "Host": {"LocalHttpPort": 70000}}"#),
        ]);

        assert_eq!(
            folder.load().unwrap_err(),
            [
                "local.settings.json: IsEncrypted is true: run `func settings decrypt`, or write the values in the clear".to_owned(),
                "local.settings.json: Host.LocalHttpPort: 70000 is not a port from 0 to 65535".to_owned(),
                "host.json: version is missing: add \"version\": \"2.0\"".to_owned(),
                "host.json: functionTimeout: \"5m\" is not a time span such as 00:05:00".to_owned(),
                "host.json: no customHandler.description.defaultExecutablePath: set it to the program that handles invocations".to_owned(),
                format!("no function in {}: add a folder with a function.json", folder.0.display()),
            ]
        );
    }

    #[test]
    fn invalid_json_is_reported_with_its_line_and_column() {
        let mut files = orders();
        files[0].1 = "{\n  \"version\": 2.0.0\n}";
        files[1].1 = "[";

        assert_eq!(
            Folder::new(&files).load().unwrap_err(),
            [
                "local.settings.json: invalid JSON at line 1, column 2: unexpected end of the text",
                "host.json: invalid JSON at line 2, column 19: malformed number",
            ]
        );
    }

    #[test]
    fn the_environment_wins_and_is_not_set_twice() {
        let folder = Folder::new(&orders());
        let environment = BTreeMap::from([("Color".to_owned(), "red".to_owned())]);

        let app = App::load(&folder.0, &environment).unwrap();

        let names: Vec<_> = app.settings.keys().map(String::as_str).collect();
        assert_eq!(names, ["FUNCTIONS_WORKER_RUNTIME", "ServiceBusConnection"]);
        assert_eq!(app.notices, ["Skipping 'Color' from local settings as it's already defined in current environment variables."]);
    }

    #[test]
    fn the_example_settings_stand_in_for_missing_ones() {
        let mut files = orders();
        files[1].0 = "local.settings.json.example";

        let app = Folder::new(&files).load().unwrap();

        assert_eq!(app.settings["Color"], "blue");
        assert_eq!(app.notices, ["local.settings.json not found: using local.settings.json.example"]);
    }

    #[test]
    fn an_app_without_settings_starts_with_notices_of_what_azure_needs() {
        let mut files = orders();
        files.remove(1);

        let app = Folder::new(&files).load().unwrap();

        assert_eq!(
            app.notices,
            [
                "local.settings.json not found: the app has no settings but the environment",
                "FUNCTIONS_WORKER_RUNTIME is not \"custom\": not needed locally, but `func` and Azure need it",
                "no setting named 'ServiceBusConnection' (a connection): not needed locally, but the app needs it in Azure",
            ]
        );
    }

    #[test]
    fn the_local_host_section_is_read() {
        let mut files = orders();
        files[1].1 = r#"{"IsEncrypted": false, "Values": {}, "Host": {
            "LocalHttpPort": 7075, "CORS": "http://a, http://b", "CORSCredentials": true}}"#;

        let local_host = Folder::new(&files).load().unwrap().local_host;

        assert_eq!(local_host.http_port, Some(7075));
        assert_eq!(local_host.cors, ["http://a", "http://b"]);
        assert!(local_host.cors_credentials);
    }

    #[test]
    fn a_function_in_error_leaves_the_others_running() {
        let mut files = orders();
        files.push(("Aaa/function.json", "{\"bindings\": [}"));
        files.push(("Second/function.json", INGRESS));
        files.push(("not a name/function.json", PING));
        files.push(("docs/readme.md", "not a function"));

        let app = Folder::new(&files).load().unwrap();

        let names: Vec<_> = app.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["OrderIngress", "OrderProcessor"]);
        assert_eq!(
            app.in_error_lines().collect::<Vec<_>>(),
            [
                "The 'Aaa' function is in error: function.json: invalid JSON at line 1, column 15: expected value",
                "The 'not a name' function is in error: 'not a name' is not a valid function name: use letters, digits, - and _, starting with a letter",
                "The 'Second' function is in error: The route specified conflicts with the route defined by function 'OrderIngress'.",
            ]
        );
    }

    #[test]
    fn a_route_that_the_host_cannot_read_stops_the_start_with_its_place() {
        let mut files = orders();
        for (name, route) in [("Brace", "brace/{x"), ("Lead", "/lead"), ("Sole", "v{version?}"), ("Twice", "{x}/é/{x}")] {
            let bindings = format!(r#"{{"bindings": [{{"type": "httpTrigger", "name": "req", "route": "{route}"}}]}}"#);
            files.push((format!("{name}/function.json").leak(), bindings.leak()));
        }
        let off =
            r#"{"bindings": [{"type": "http", "direction": "out", "name": "res"}, {"type": "httpTrigger", "name": "req", "route": "}"}]}"#;
        files.push(("Off/function.json", off));
        files[1].1 = r#"{"IsEncrypted": false, "Values": {"AzureWebJobs.Off.Disabled": "1"}}"#;

        assert_eq!(
            Folder::new(&files).load().unwrap_err(),
            [
                r#"Brace/function.json: bindings[0].route "brace/{x", character 7: a parameter without its closing brace"#,
                r#"Lead/function.json: bindings[0].route "/lead", character 1: two slashes in a row"#,
                r#"Off/function.json: bindings[1].route "}", character 1: a brace without its other half"#,
                r#"Sole/function.json: bindings[0].route "v{version?}", character 1: an optional parameter may follow only a period"#,
                r#"Twice/function.json: bindings[0].route "{x}/é/{x}", character 7: the parameter 'x' appears twice"#,
            ]
        );
    }

    #[test]
    fn a_route_prefix_that_the_host_cannot_read_stops_the_start_once() {
        let mut files = orders();
        files.push(("Ping/function.json", PING));
        let host = HOST.replace("\"version\"", "\"extensions\": {\"http\": {\"routePrefix\": \"x/\"}}, \"version\"");
        files[0].1 = &host;

        let problems = Folder::new(&files).load().unwrap_err();

        assert_eq!(problems, [r#"host.json: extensions.http.routePrefix "x/", character 2: two slashes in a row"#]);
    }

    #[test]
    fn a_function_that_is_switched_off_keeps_its_route() {
        let mut files = orders();
        files.push(("Off/function.json", PING));
        files[1].1 = r#"{"IsEncrypted": false, "Values": {"AzureWebJobs.Off.Disabled": "1"}}"#;

        let routes = Folder::new(&files).load().unwrap().routes;

        let routes: Vec<_> = routes.iter().map(|route| (route.function.as_str(), route.disabled)).collect();
        assert_eq!(routes, [("Off", true), ("OrderIngress", false)]);
    }

    #[test]
    fn only_the_named_functions_run() {
        let mut files = orders();
        files.push(("Ping/function.json", PING));
        files.push(("Torn/function.json", "{"));
        let host = HOST.replace("\"version\"", "\"functions\": [\"ORDERPROCESSOR\", \"Gone\"], \"version\"");
        files[0].1 = &host;

        let app = Folder::new(&files).load().unwrap();

        let names: Vec<_> = app.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!((names, app.routes.len(), app.in_error.len()), (vec!["OrderProcessor"], 0, 0));
        assert_eq!(
            app.notices,
            [
                "host.json: functions names Gone, and there is no such function",
                "host.json: functions does not name OrderIngress, Ping, Torn: they do not run",
            ]
        );
    }

    #[test]
    fn a_time_zone_is_told_where_there_is_a_timer() {
        let mut files = orders();
        files[1].1 = r#"{"IsEncrypted": false, "Values": {
            "FUNCTIONS_WORKER_RUNTIME": "custom", "ServiceBusConnection": "x", "WEBSITE_TIME_ZONE": "Europe/Zurich"}}"#;
        assert_eq!(Folder::new(&files).load().unwrap().notices, Vec::<String>::new());

        files.push(("Tick/function.json", r#"{"bindings": [{"type": "timerTrigger", "name": "t", "schedule": "0 0 9 * * *"}]}"#));
        assert_eq!(
            Folder::new(&files).load().unwrap().notices,
            ["WEBSITE_TIME_ZONE is set, and timers run in UTC: the Flex and Consumption plans do not support it"]
        );
    }

    #[test]
    fn settings_that_differ_only_in_case_and_values_of_another_kind_are_told() {
        let mut files = orders();
        files[1].1 = r#"{"IsEncrypted": false, "Values": {
            "FUNCTIONS_WORKER_RUNTIME": "custom", "ServiceBusConnection": "x", "Color": "blue", "COLOR": "red", "A__B": "1", "a:b": "2"}}"#;
        assert_eq!(
            Folder::new(&files).load().unwrap().notices,
            [
                "Values.COLOR in local.settings.json and Color are one setting for the host: only one of them counts",
                "Values.A__B in local.settings.json and a:b are one setting for the host: only one of them counts",
            ]
        );

        files[1].1 = r#"{"IsEncrypted": false, "Values": ["x"]}"#;
        assert_eq!(Folder::new(&files).load().unwrap().notices[0], r#"Values in local.settings.json is ignored: ["x"] is not an object"#);
    }

    #[test]
    fn notices_are_told_also_when_the_start_fails() {
        let mut files = orders();
        let host = HOST.replace("customHandler", "customHandlers");
        files[0].1 = &host;
        files.push(("Torn/function.json", "{"));
        let folder = Folder::new(&files);

        let refusal = App::load(&folder.0, &BTreeMap::new()).unwrap_err();

        assert_eq!(refusal.problems.len(), 1);
        assert_eq!(refusal.notices[0], "host.json: \"customHandlers\" is not a key the host reads: did you mean \"customHandler\"?");
        assert!(refusal.notices[1].starts_with("The 'Torn' function is in error: "), "{:?}", refusal.notices);
    }

    #[test]
    fn only_http_in_and_http_out_alone_is_forwarded() {
        let mut files = orders();
        files.push(("Ping/function.json", PING));
        let forwarding = HOST.replace("\"description\"", "\"enableForwardingHttpRequest\": true, \"description\"");
        let http_worker = HOST.replace("customHandler", "httpWorker");
        for (host, expected) in [(HOST, [false, false, false]), (&forwarding, [false, false, true]), (&http_worker, [false, false, true])] {
            files[0].1 = host;

            let app = Folder::new(&files).load().unwrap();

            let forwards: Vec<_> = app.functions.iter().map(|function| app.forwards(function)).collect();
            assert_eq!(forwards, expected);
        }
    }

    #[test]
    fn a_program_below_the_app_is_run_from_there() {
        let mut files = orders();
        files.push(("handler", ""));
        let folder = Folder::new(&files);

        let executable = folder.load().unwrap().host.custom_handler.executable;

        assert_eq!(executable, host_json::Executable::File(folder.0.join("handler")));
    }

    #[test]
    fn a_program_that_is_not_built_yet_gives_a_notice() {
        let mut files = orders();
        let host = HOST.replace("\"handler\"", "\"target/debug/handler\"");
        files[0].1 = &host;
        let folder = Folder::new(&files);

        let app = folder.load().unwrap();

        let root = folder.0.display();
        let expected = format!("host.json: target/debug/handler does not exist below {root}: build it first");
        assert_eq!(app.notices, [expected]);
    }
}
