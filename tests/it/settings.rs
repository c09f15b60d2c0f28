//! How the handler starts, speaks and stops: settings, log lines, signals.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{
    Answer, Directory, Handler, Host, Program, eventually, free_port, http_envelope, order, queue_envelope, repository, request, submit,
};

const KEY: &str = "an-entirely-secret-tracking-id-key";

/// A handler whose two streams are kept apart, in files.
struct Run {
    child: Child,
    files: Directory,
}

impl Run {
    fn start(settings: &[(&str, &str)]) -> Self {
        let files = Directory::new();
        let file = |name: &str| File::create(files.path().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
        command.arg("serve").env_clear().envs(settings.iter().copied()).current_dir(files.path());
        let child = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, files }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.path().join(name)).unwrap()
    }

    /// Its exit code and what it wrote to stderr, line by line.
    fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let status = eventually("the handler ends", || self.child.try_wait().unwrap());
        (status.code(), self.read("stderr").lines().map(str::to_owned).collect())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it on settings it must refuse; its lines on stderr.
fn refused(settings: &[(&str, &str)]) -> Vec<String> {
    let mut run = Run::start(settings);
    let (code, lines) = run.end();
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("waybill: ")), "{lines:?}");
    lines
}

fn invoke(port: u16, function: &str, invocation: &str, envelope: &Value) -> crate::support::Response {
    let url = format!("http://127.0.0.1:{port}/{function}");
    let headers = [("Content-Type", "application/json"), ("X-Azure-Functions-InvocationId", invocation)];
    request("POST", &url, &headers, Some(envelope.to_string().as_bytes()))
}

#[test]
fn a_missing_port_is_explained_in_one_line() {
    let lines = refused(&[]);

    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("FUNCTIONS_CUSTOMHANDLER_PORT is not set") && lines[0].contains("waybill local"), "{lines:?}");
}

#[test]
fn a_busy_port_is_explained_in_one_line() {
    let data = Directory::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();

    let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", &port), ("WAYBILL_DATA", data.path().to_str().unwrap())]);

    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&format!("port {port} is in use")), "{lines:?}");
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let wrong = [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", "65536"),
        ("TRACKING_ID_KEY", "short-secret"),
        ("PUBLIC_BASE_URL", "shop.example.com/api?x=1"),
        ("WORK_DELAY", "-1s"),
        ("TAX_RATE", "1.01"),
        ("LEASE", "99ms"),
        ("FUNCTION_TIMEOUT", "fast"),
        ("MAX_INTERRUPTIONS", "0"),
        ("ORDER_DEADLINE", "0"),
        ("RETENTION", "999ms"),
        ("OVERDUE_AFTER", "1.5s"),
        ("ADMISSION_MAX_AGE", "99999999999d"),
        ("RATE_LIMIT", "100/60"),
        ("DRAIN_TIMEOUT", "10"),
        ("MAX_CONNECTIONS", "many"),
    ];

    let lines = refused(&wrong);

    assert_eq!(lines.len(), wrong.len(), "{lines:?}");
    for (name, _) in wrong {
        let matching = lines.iter().filter(|line| line.starts_with(&format!("waybill: {name} is "))).count();
        assert_eq!(matching, 1, "{name}: {lines:?}");
    }
    assert!(!lines.join("").contains("short-secret"), "{lines:?}");
}

/// Starts `waybill` in this folder with an environment of bytes; its exit code, and its lines on stderr.
#[cfg(unix)]
fn run_on_bytes(arguments: &[&[u8]], settings: &[(&str, &[u8])], folder: &Directory) -> (Option<i32>, Vec<String>) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument))).env_clear().current_dir(folder.path());
    command.envs(settings.iter().map(|(name, value)| (name, OsStr::from_bytes(value)))).stdin(Stdio::null());
    let (stdout, stderr) = (folder.path().join("stdout"), folder.path().join("stderr"));
    command.stdout(File::create(stdout).unwrap()).stderr(File::create(&stderr).unwrap());
    let mut child = command.spawn().unwrap();
    let ended = eventually("it ends, or listens", || {
        let lists = std::fs::read_to_string(folder.path().join("stdout")).unwrap().contains("listens");
        child.try_wait().unwrap().map(|status| status.code()).or(lists.then_some(None))
    });
    let _ = child.kill();
    let _ = child.wait();
    (ended, std::fs::read_to_string(stderr).unwrap().lines().map(str::to_owned).collect())
}

#[cfg(unix)]
#[test]
fn every_setting_that_is_not_utf_8_is_named() {
    let folder = Directory::new();
    let port = free_port().to_string();
    let settings = [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", port.as_bytes()),
        ("WAYBILL_DATA", b"d\xffta"),
        ("LEASE", b"\xff"),
        ("SERVICEBUSCONNECTION__credential", b"\xff"),
        ("EDITOR", b"\xff"),
    ];

    let (code, lines) = run_on_bytes(&[b"serve"], &settings, &folder);
    let (other, _) = run_on_bytes(&[b"serve"], &[settings[0], settings[4]], &folder);

    assert_eq!((code, lines.len()), (Some(1), 3), "{lines:?}");
    for name in ["WAYBILL_DATA", "LEASE", "SERVICEBUSCONNECTION__credential"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("waybill: {name} is not UTF-8"))), "{lines:?}");
    }
    assert_eq!(other, None, "another program's variable keeps no handler from listening");
}

#[cfg(unix)]
#[test]
fn a_folder_that_a_handler_cannot_be_told_is_refused() {
    let folder = Directory::new();
    let app = repository().to_str().unwrap().as_bytes();
    std::os::unix::fs::symlink(repository(), folder.path().join("app")).unwrap();
    let odd = std::path::PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(b"\xffpp".to_vec()));
    std::os::unix::fs::symlink(repository(), folder.path().join(odd)).unwrap();

    for arguments in [
        &[b"local" as &[u8], b"--app", app, b"--port", b"0", b"--data", b"d\xffta"] as &[&[u8]],
        &[b"local", b"--app", b"\xffpp", b"--port", b"0", b"--data", b"data"],
        &[b"orders", b"list", b"--data", b"d\xffta"],
        &[b"orders", b"list", b"--app", b"\xffpp"],
    ] {
        let (code, lines) = run_on_bytes(arguments, &[], &folder);
        assert!(code == Some(1) && lines.len() == 1 && lines[0].contains("is not UTF-8"), "{code:?} {lines:?}");
    }
    assert!(!folder.path().join("d\u{fffd}ta").exists());
}

#[test]
fn a_data_directory_is_no_url() {
    let folder = Directory::new();
    let app = repository().to_str().unwrap();
    for arguments in [&["serve"] as &[&str], &["local", "--port", "0", "--app", app], &["orders", "list", "--app", app]] {
        let settings = [("WAYBILL_DATA", "file:data"), ("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")];
        let (status, lines) = Program::waybill(arguments, &settings).end();

        assert_eq!(status.code(), Some(1), "{arguments:?}: {lines:?}");
        let told = lines.iter().filter(|line| line.contains("WAYBILL_DATA is \"file:data\": set the path of a folder")).count();
        assert_eq!(told, 1, "{arguments:?}: {lines:?}");
    }
    assert!(!repository().join("file:data").exists() && !folder.path().join("file:data").exists());
}

#[cfg(unix)]
#[test]
fn a_folder_whose_name_looks_like_a_url_is_a_folder() {
    let folder = Directory::new();
    let data = folder.path().join("file:x");
    let mut handler = Handler::start(&data, &[]);
    submit(&handler, "F-1");
    handler.program.kill();

    for (arguments, code) in [
        (&[b"orders" as &[u8], b"list", b"--data", b"file:x"] as &[&[u8]], 0),
        (&[b"backup", b"copy", b"--data", b"file:x"], 0),
        (&[b"accept-loss", b"--data", b"file:x"], 0),
    ] {
        let (ended, lines) = run_on_bytes(arguments, &[], &folder);
        assert_eq!(ended, Some(code), "{lines:?}");
    }
    assert!(folder.path().join("copy/records.db").exists());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let url = ("FULFILLMENT_URL", "http://127.0.0.1:9/");
    for (pairs, why) in [
        (&[("RETRY_BASE", "10m")] as &[_], "RETRY_BASE must be at most RETRY_CAP"),
        (&[("FULFILLMENT_TIMEOUT", "1m")], "FULFILLMENT_URL is not set, but FULFILLMENT_TIMEOUT is"),
        (&[("FULFILLMENT_AUTHORIZATION", "Bearer x")], "FULFILLMENT_URL is not set, but FULFILLMENT_AUTHORIZATION is"),
        (&[("CosmosDatabase", "d")], "CosmosConnection is not set, but CosmosDatabase is"),
        (&[("AUTH_AUDIENCE", "a")], "AUTH_ISSUER is not set, but AUTH_AUDIENCE is"),
        (&[url, ("WORK_DELAY", "1s")], "WORK_DELAY is for the built-in work"),
        (&[url, ("TAX_RATE", "0.1")], "TAX_RATE is for the built-in work"),
    ] {
        let lines = refused(&[&[("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")], pairs].concat());
        assert!(lines.len() == 1 && lines[0].contains(why), "{why}: {lines:?}");
    }
}

#[test]
fn what_the_host_would_cut_off_is_refused() {
    let backend = ("FULFILLMENT_URL", "http://127.0.0.1:9/");
    let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("FUNCTION_TIMEOUT", "4m"), backend]);

    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("FULFILLMENT_TIMEOUT must be at most 201.6s by FUNCTION_TIMEOUT"), "{lines:?}");
}

/// An app of ours whose `host.json` says this.
fn app(function_timeout: &Value) -> Directory {
    let app = Directory::new();
    let mut host: Value = serde_json::from_str(include_str!("../../host.json")).unwrap();
    host["functionTimeout"] = function_timeout.clone();
    app.write("host.json", &format!("// as the host reads it\n{host}"));
    app.write("local.settings.json", include_str!("../../local.settings.json.example"));
    for (function, text) in [
        ("OrderIngress", include_str!("../../OrderIngress/function.json")),
        ("OrderProcessor", include_str!("../../OrderProcessor/function.json")),
    ] {
        std::fs::create_dir(app.path().join(function)).unwrap();
        app.write(&format!("{function}/function.json"), text);
    }
    app
}

/// Runs a command that must end by itself; its exit code, and the lines of stdout and of stderr.
fn waybill(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, Vec<String>, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
    command.args(arguments).env_clear().envs(settings.iter().copied());
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let lines = |text: &[u8]| String::from_utf8_lossy(text).lines().map(str::to_owned).collect();
    (ended.status.code(), lines(&ended.stdout), lines(&ended.stderr))
}

#[test]
fn settings_that_do_not_fit_functiontimeout_of_the_app_are_refused_by_host_and_handler() {
    for (timeout, delay, why) in [
        (json!("00:00:05"), "2s", "functionTimeout in host.json must be at least"),
        (json!("00:00:30"), "5s", "WORK_DELAY, four times, must be at most"),
    ] {
        let app = app(&timeout);
        let root = app.path().to_str().unwrap();

        let (code, _, lines) = waybill(&["local", "--app", root, "--port", "0"], &[("WORK_DELAY", delay)]);
        assert_eq!((code, lines.len()), (Some(1), 1), "{lines:?}");
        assert!(lines[0].contains(why) && lines[0].contains("functionTimeout in host.json"), "{lines:?}");

        for root in [("FUNCTIONS_APP_ROOT_PATH", root), ("PWD", root)] {
            let settings = [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("WORK_DELAY", delay), root];
            let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
            let ended = command.arg("serve").env_clear().envs(settings).current_dir(app.path()).stdin(Stdio::null()).output().unwrap();
            assert!(ended.status.code() == Some(1) && String::from_utf8_lossy(&ended.stderr).contains(why), "{ended:?}");
        }
    }
}

#[test]
fn an_app_without_a_limit_bears_any_work_and_the_variable_overrides_its_host_json() {
    let app = app(&json!("-1"));
    let root = app.path().to_str().unwrap();
    let shown = |settings: &[(&str, &str)]| waybill(&["settings", "--json", "--app", root], settings);
    let timeout = |lines: &[String]| {
        let rows = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = rows.into_iter().find(|row| row["name"] == "FUNCTION_TIMEOUT").unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };

    let (code, lines, problems) = shown(&[("WORK_DELAY", "10h")]);
    assert_eq!((code, timeout(&lines)), (Some(0), ("-1".into(), "host.json".into())), "{problems:?}");
    let (code, lines, problems) = shown(&[("WORK_DELAY", "1m"), ("FUNCTION_TIMEOUT", "2m")]);
    assert_eq!((code, timeout(&lines)), (Some(1), ("2m".into(), "environment".into())));
    assert!(problems.len() == 1 && problems[0].contains("WORK_DELAY, four times, must be at most"), "{problems:?}");
    let (_, lines, _) = shown(&[("AzureFunctionsJobHost__functionTimeout", "00:10:00")]);
    assert_eq!(timeout(&lines), ("10m".into(), "AzureFunctionsJobHost__functionTimeout".into()));
}

#[test]
fn a_host_json_that_cannot_be_read_leaves_the_shortest_default_and_says_so() {
    for (name, text, why) in [("other.json", "{}", "cannot be read"), ("host.json", "{", "cannot be read"), ("host.json", "{}", "has no")] {
        let data = Directory::new();
        data.write(name, text);
        let settings = [("FUNCTIONS_APP_ROOT_PATH", data.path().to_str().unwrap()), ("RUST_LOG", "waybill=debug")];
        let mut handler = Handler::start(data.path(), &settings);

        let line = handler.program.line("functionTimeout is taken to be 5m");
        assert!(line.contains(why) && line.contains("DEBUG"), "{line}");
    }
}

#[test]
fn every_setting_is_shown_with_where_it_comes_from_and_no_secret() {
    let app = app(&json!("00:05:00"));
    let file = json!({ "IsEncrypted": false, "Values": { "LEASE": "40s", "MAX_ATTEMPTS": "7", "OrdersQueue": "orders",
        "ServiceBusConnection": "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0" } });
    app.write("local.settings.json", &file.to_string());
    let root = app.path().to_str().unwrap();
    let settings = [("MAX_ATTEMPTS", "6"), ("TRACKING_ID_KEY", KEY), ("RATE_LIMIT", "")];

    let (code, lines, problems) = waybill(&["settings", "--json", "--app", root], &settings);
    let (_, text, _) = waybill(&["settings", "--app", root], &settings);

    assert_eq!((code, problems), (Some(0), vec![]));
    for (name, value, source) in [
        ("LEASE", json!("40s"), "local.settings.json"),
        ("MAX_ATTEMPTS", json!("6"), "environment"),
        ("RATE_LIMIT", json!("100/60s"), "default"),
        ("FUNCTION_TIMEOUT", json!("5m"), "host.json"),
        ("ServiceBusConnection", json!("***"), "local.settings.json"),
        ("TRACKING_ID_KEY", json!("***"), "environment"),
        ("AUTH_ISSUER", Value::Null, "default"),
    ] {
        let row = json!({ "name": name, "value": value, "source": source }).to_string();
        assert!(lines.contains(&row), "{row} {lines:?}");
        assert!(text.iter().any(|line| line.starts_with(name) && line.contains(source)), "{text:?}");
    }
    let all = [lines, text].concat().concat();
    assert!(!all.contains(KEY) && !all.contains("c2VjcmV0"), "{all}");
}

#[test]
fn settings_that_are_not_good_are_shown_and_every_problem_is_named() {
    let app = app(&json!("00:05:00"));
    let root = app.path().to_str().unwrap();

    let (code, lines, problems) = waybill(&["settings", "--app", root], &[("LEASE", "soon"), ("TAX_RATE", "2")]);

    assert_eq!((code, lines.is_empty(), problems.len()), (Some(1), false, 2), "{problems:?}");
    assert!(problems[0].starts_with("waybill: LEASE is") && problems[1].starts_with("waybill: TAX_RATE is"), "{problems:?}");
    app.write("local.settings.json", "{");
    let (code, _, problems) = waybill(&["settings", "--app", root], &[]);
    assert!(code == Some(1) && problems[0].contains("local.settings.json: invalid JSON"), "{problems:?}");
}

#[test]
fn a_name_that_nothing_reads_is_told_at_the_start() {
    let data = Directory::new();
    let environment = [("WORK_DELYA", "2s"), ("LEASE_RENEWAL", "1s"), ("COLOR", "blue")];
    let mut handler = Handler::start(data.path(), &environment);

    let line = handler.program.line("did you mean WORK_DELAY?");
    assert!(line.contains("WARN") && line.contains("WORK_DELYA"), "{line}");
    let lines = handler.program.lines();
    assert!(lines.iter().any(|line| line.contains("LEASE_RENEWAL is not a setting any more")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("COLOR")), "an environment holds much else");
}

#[test]
fn a_connection_to_service_bus_that_cannot_work_is_told_at_the_start() {
    let base = [("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), ("OrdersQueue", "orders")];
    let string = |more: &str| format!("Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0;{more}");
    let namespace = ("ServiceBusConnection__fullyQualifiedNamespace", "shop.servicebus.windows.net");
    let no_setting = "is no setting: ServiceBusConnection has __fullyQualifiedNamespace, __credential, __clientId";
    let of_another_queue = string("EntityPath=shipping");
    for (settings, told) in [
        (&[("ServiceBusConnection", &*of_another_queue)] as &[_], &["EntityPath", "\"shipping\"", "OrdersQueue", "\"orders\""] as &[_]),
        (&[("ServiceBusConnection__fullyQualifedNamespace", namespace.1)], &["ServiceBusConnection__fullyQualifedNamespace", no_setting]),
        (&[namespace, ("ServiceBusConnection__tenantId", "t")], &["ServiceBusConnection__tenantId", no_setting]),
        (&[namespace, ("ServiceBusConnection:clientSecret", "c2VjcmV0")], &["ServiceBusConnection:clientSecret", no_setting]),
        (&[("ServiceBusConnection", &string("")), ("ServiceBusConnection__credential", "managedidentity")], &["keep one of them"]),
    ] {
        let lines = refused(&[&base[..], settings].concat());

        assert!(lines.iter().any(|line| told.iter().all(|told| line.contains(told))), "{told:?}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("c2VjcmV0")), "{lines:?}");
    }
}

#[test]
fn a_value_that_nothing_reads_is_told_by_the_local_host() {
    let app = app(&json!("00:05:00"));
    let mut file: Value = serde_json::from_str(include_str!("../../local.settings.json.example")).unwrap();
    for (name, value) in [("COLOR", "blue"), ("RETENTOIN", "1d"), ("WEBSITE_TIME_ZONE", "UTC"), ("AzureWebJobs.X.Disabled", "1")] {
        file["Values"][name] = value.into();
    }
    app.write("local.settings.json", &file.to_string());
    let data = Directory::new();
    let mut host = Host::with(app.path(), data.path(), &[], &[]);

    host.program.line("RETENTOIN is no setting: did you mean RETENTION?");
    let lines = host.program.lines();
    let told: Vec<_> = lines.iter().filter(|line| line.contains("in Values has no effect")).collect();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("COLOR in Values"), "{lines:?}");
}

#[test]
fn a_host_that_leaves_no_time_for_anything_is_refused() {
    let refused = |more: &[(&str, &str)]| refused(&[&[("FUNCTIONS_CUSTOMHANDLER_PORT", "8080")], more].concat());

    let lines = refused(&[("FUNCTION_TIMEOUT", "16s")]);
    assert!(lines.len() == 1 && lines[0].contains("FUNCTION_TIMEOUT must be at least 17s"), "{lines:?}");
    let lines = refused(&[("FUNCTION_TIMEOUT", "20s"), ("WORK_DELAY", "901ms")]);
    assert!(lines.len() == 1 && lines[0].contains("WORK_DELAY, four times, must be at most 3.6s"), "{lines:?}");
}

#[test]
fn inside_azure_it_refuses_to_start_and_names_the_variable() {
    for sign in ["WEBSITE_INSTANCE_ID", "LEGION_SERVICE_HOST", "WEBSITE_POD_NAME", "CONTAINER_APP_NAME"] {
        let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", "8080"), (sign, "x")]);
        let expected =
            ["must not be used inside Azure", "ServiceBusConnection is not set", "OrdersQueue is not set", "SweepSchedule is not set"];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        assert!(lines.iter().zip(expected).all(|(line, text)| line.contains(text) && line.contains(sign)), "{lines:?}");
    }
}

#[test]
fn under_core_tools_it_starts_whatever_else_is_set() {
    let data = Directory::new();

    let handler = Handler::start(data.path(), &[("WEBSITE_INSTANCE_ID", "x"), ("FUNCTIONS_CORETOOLS_ENVIRONMENT", "True")]);

    assert_eq!(handler.ingress(Some(&order("CORE-1").to_string()), &[]).status, 202);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_explained_in_one_line() {
    let data = Directory::new();
    let file = data.write("taken", "a file");

    for path in [file.clone(), file.join("below")] {
        let port = free_port().to_string();
        let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", &port), ("WAYBILL_DATA", path.to_str().unwrap())]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("cannot open the database") && lines[0].contains("WAYBILL_DATA"), "{lines:?}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "a file");
}

#[test]
fn records_that_are_no_database_are_left_as_they_are() {
    let data = Directory::new();
    let text = "these are no records\n".repeat(1000);
    let file = data.write("records.db", &text);
    let port = free_port().to_string();

    let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", &port), ("WAYBILL_DATA", data.path().to_str().unwrap())]);

    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("records.db") && lines[0].contains("not a database"), "{lines:?}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), text);
}

#[cfg(unix)]
#[test]
fn records_are_private_to_the_user() {
    use std::os::unix::fs::PermissionsExt;
    let parent = Directory::new();
    let data = parent.path().join("new/deep");
    let _handler = Handler::start(&data, &[]);

    for (path, mode) in [(data.clone(), 0o700), (data.join("records.db"), 0o600), (data.join("records.db-wal"), 0o600)] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
}

#[cfg(unix)]
#[test]
fn asked_to_stop_it_lets_running_invocations_end() {
    for signal in ["TERM", "INT"] {
        let data = Directory::new();
        let mut handler = Handler::start(data.path(), &[("WORK_DELAY", "150ms"), ("DRAIN_TIMEOUT", "30s")]);
        let accepted = handler.ingress(Some(&order("STOP-1").to_string()), &[]);
        let (port, message) = (handler.port, accepted.message.unwrap());

        let working = std::thread::spawn(move || invoke(port, "OrderProcessor", "i-1", &queue_envelope(&message)).status);
        handler.program.line("order claimed");
        handler.program.signal(signal);

        assert_eq!(working.join().unwrap(), 200, "{signal}");
        let (status, lines) = handler.program.end();
        assert_eq!(status.code(), Some(0), "{signal}: {lines:?}");
        assert!(lines.last().unwrap().contains("the handler has stopped"), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("order completed")), "{lines:?}");
        let next = Handler::start(data.path(), &[]);
        assert_eq!(next.status(accepted.body["trackingId"].as_str().unwrap()).body["status"], "completed");
    }
}

#[cfg(unix)]
#[test]
fn an_idle_handler_stops_at_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("DRAIN_TIMEOUT", "1h")]);
    let idle = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    handler.ingress(Some(&order("IDLE-1").to_string()), &[]);

    handler.program.signal("TERM");

    assert_eq!(handler.program.end().0.code(), Some(0));
    drop(idle);
}

#[cfg(unix)]
#[test]
fn work_that_outlasts_the_drain_deadline_is_left_to_the_next_handler() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("WORK_DELAY", "60s"), ("DRAIN_TIMEOUT", "100ms")]);
    let accepted = handler.ingress(Some(&order("DRAIN-1").to_string()), &[]);
    let (url, body) = (handler.url("/OrderProcessor"), queue_envelope(accepted.message.as_ref().unwrap()).to_string());
    let working = std::thread::spawn(move || crate::support::try_request("POST", &url, &[], Some(body.as_bytes())).is_err());
    handler.program.line("order claimed");

    handler.program.signal("TERM");

    let (status, lines) = handler.program.end();
    assert_eq!(status.code(), Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("drain deadline passed")), "{lines:?}");
    assert!(working.join().unwrap(), "the host hears of no success");
    let next = Handler::start(data.path(), &[]);
    assert_eq!(next.process(accepted.message.as_ref().unwrap()).status, 200);
    assert_eq!(next.status(accepted.body["trackingId"].as_str().unwrap()).body["status"], "completed");
}

#[cfg(unix)]
#[test]
fn asked_twice_it_leaves_at_once() {
    let data = Directory::new();
    let port = free_port();
    let text = port.to_string();
    let mut run = Run::start(&[
        ("FUNCTIONS_CUSTOMHANDLER_PORT", &text),
        ("WAYBILL_DATA", data.path().to_str().unwrap()),
        ("WORK_DELAY", "60s"),
        ("DRAIN_TIMEOUT", "1h"),
    ]);
    eventually("it is ready", || run.read("stdout").contains("store is open").then_some(()));
    let envelope = http_envelope("POST", "http://localhost/api/orders", &json!({}), Some(&order("LEAVE-1").to_string()), &[]);
    let message = Answer::of(&invoke(port, "OrderIngress", "i-1", &envelope)).message.unwrap();
    std::thread::spawn(move || {
        let url = format!("http://127.0.0.1:{port}/OrderProcessor");
        let _ = crate::support::try_request("POST", &url, &[], Some(queue_envelope(&message).to_string().as_bytes()));
    });
    eventually("it works", || run.read("stdout").contains("order claimed").then_some(()));

    crate::support::signal(run.child.id(), "TERM");
    eventually("it is stopping", || run.read("stdout").contains("stopping").then_some(()));
    assert_eq!(run.child.try_wait().unwrap(), None, "one signal lets running work end");
    let status = eventually("it ends", || {
        crate::support::signal(run.child.id(), "INT");
        run.child.try_wait().unwrap()
    });

    assert_eq!(status.code(), Some(130));
}

#[test]
fn a_half_sent_request_blocks_no_other() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);

    let halves: Vec<TcpStream> = (0..20)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
            let start = "POST /OrderIngress HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"Da";
            stream.write_all(&start.as_bytes()[..start.len() - number]).unwrap();
            stream
        })
        .collect();

    assert_eq!(handler.ingress(Some(&order("HALF-1").to_string()), &[]).status, 202);
    drop(halves);
}

#[test]
fn one_connection_too_many_waits_its_turn() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("MAX_CONNECTIONS", "2")]);
    let connect = || TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    let held = [connect(), connect()];
    let url = handler.url("/healthz");
    let waiting = std::thread::spawn(move || request("GET", &url, &[], None).status);

    drop(held);

    assert_eq!(waiting.join().unwrap(), 200);
}

#[test]
fn a_connection_in_use_does_not_starve_connections_that_wait() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("MAX_CONNECTIONS", "2")]);
    let connect = || TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    let ask = |mut connection: &TcpStream| write!(connection, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let closes = |connection: &TcpStream| {
        let mut answer = BufReader::new(connection);
        let head: Vec<_> =
            answer.by_ref().lines().map(|line| line.unwrap().to_ascii_lowercase()).take_while(|line| !line.is_empty()).collect();
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        answer.read_exact(&mut vec![0; length]).unwrap();
        assert_eq!(head[0], "http/1.1 200 ok");
        head.iter().any(|line| line == "connection: close")
    };
    let kept = [connect(), connect()];
    for connection in &kept {
        ask(connection);
        assert!(!closes(connection));
    }

    let late = connect();
    ask(&late);
    eventually("a connection in use is closed", || {
        ask(&kept[0]);
        closes(&kept[0]).then_some(())
    });

    assert!(closes(&late), "it is answered");
    eventually("connections are kept again", || {
        let next = connect();
        ask(&next);
        (!closes(&next)).then_some(())
    });
}

/// A handler that has done everything once: an order with private content accepted, processed, shown, refused, and a failure.
fn busy(settings: &[(&str, &str)]) -> (Run, String) {
    let port = free_port();
    let text = port.to_string();
    let mut all = vec![("FUNCTIONS_CUSTOMHANDLER_PORT", text.as_str()), ("TRACKING_ID_KEY", KEY)];
    all.extend(settings);
    let run = Run::start(&all);
    eventually("it is ready", || {
        (crate::support::try_request("GET", &format!("http://127.0.0.1:{port}/readyz"), &[], None).ok()?.status == 200).then_some(())
    });

    let mut private = order("PRIVATE-ORDER");
    private["customerId"] = "PRIVATE-CUSTOMER".into();
    private["note"] = "PRIVATE-NOTE".into();
    private["items"][0]["sku"] = "PRIVATE-SKU".into();
    private["extra"] = json!({ "PRIVATE-KEY": "PRIVATE-VALUE" });
    let url = "http://localhost/api/orders?code=PRIVATE-CODE";
    let headers = [("Authorization", "Bearer PRIVATE-TOKEN"), ("Idempotency-Key", "PRIVATE-IDEMPOTENCY")];
    let envelope = |body: &str| http_envelope("POST", url, &json!({ "trackingId": "PRIVATE-ID" }), Some(body), &headers);
    let accepted = Answer::of(&invoke(port, "OrderIngress", "inv-accept", &envelope(&private.to_string())));
    let id = accepted.body["trackingId"].as_str().unwrap().to_owned();
    private["extra"] = "PRIVATE-OTHER".into();
    assert_eq!(Answer::of(&invoke(port, "OrderIngress", "inv-reused", &envelope(&private.to_string()))).status, 422);
    assert_eq!(Answer::of(&invoke(port, "OrderIngress", "inv-refuse", &envelope(r#"{"orderId":["PRIVATE"]}"#))).status, 400);
    assert_eq!(Answer::of(&invoke(port, "OrderIngress", "inv-nojson", &envelope("PRIVATE"))).status, 400);
    assert_eq!(Answer::of(&invoke(port, "OrderStatus", "inv-noid", &envelope(""))).status, 404);
    let message = accepted.message.unwrap();
    assert_eq!(invoke(port, "OrderProcessor", "inv-process", &queue_envelope(&message)).status, 200);
    assert!(invoke(port, "OrderProcessor", "inv-unreadable", &queue_envelope("{\"PRIVATE\":")).status >= 400);
    for broken in [json!({ "PRIVATE": 1 }), json!({ "Data": { "req": { "Url": ["PRIVATE"] } } }), json!({ "Data": "PRIVATE" })] {
        assert_eq!(invoke(port, "OrderIngress", "inv-broken", &broken).status, 400);
    }
    let shown = http_envelope("GET", url, &json!({ "trackingId": id }), None, &headers);
    assert_eq!(Answer::of(&invoke(port, "OrderStatus", "inv-show", &shown)).body["status"], "completed");
    eventually("its last line is written", || run.read("stdout").contains("inv-show").then_some(()));
    (run, id)
}

#[test]
fn a_json_line_says_which_invocation_of_which_function_did_what_to_which_order() {
    let (run, id) = busy(&[("LOG_FORMAT", "json")]);
    let (stdout, stderr) = (run.read("stdout"), run.read("stderr"));
    let lines: Vec<Value> = stdout.lines().chain(stderr.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |invocation: &str| {
        lines.iter().find(|line| line["invocation.id"] == invocation).unwrap_or_else(|| panic!("{invocation}: {lines:?}"))
    };

    for (invocation, function, status) in [
        ("inv-accept", "OrderIngress", json!(202)),
        ("inv-refuse", "OrderIngress", json!(400)),
        ("inv-process", "OrderProcessor", Value::Null),
        ("inv-show", "OrderStatus", json!(200)),
    ] {
        let line = of(invocation);
        assert_eq!((&line["function.name"], &line["http.status"]), (&json!(function), &status), "{line}");
        assert_eq!((&line["level"], &line["message"]), (&json!("INFO"), &json!(format!("{function} answered"))), "{line}");
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["timestamp"].is_string(), "{line}");
        if invocation == "inv-refuse" {
            assert_eq!(line.get("order.tracking_id"), None, "{line}");
        } else {
            assert_eq!(line["order.tracking_id"], id, "{line}");
        }
    }
    assert_eq!(of("inv-process")["message.delivery_count"], 1);
    let failed = of("inv-unreadable");
    assert_eq!((&failed["level"], &failed["function.name"]), (&json!("ERROR"), &json!("OrderProcessor")));
    let completed = lines.iter().find(|line| line["message"] == "order completed").unwrap();
    assert_eq!((&completed["order.tracking_id"], &completed["order.status"]), (&json!(id), &json!("completed")));
    assert_eq!(
        (&completed["order.attempt"], &completed["order.fence"], &completed["order.interruptions"]),
        (&json!(1), &json!(1), &json!(0))
    );
}

#[test]
fn errors_go_to_stderr_and_everything_else_to_stdout() {
    let (run, _) = busy(&[]);

    let (stdout, stderr) = (run.read("stdout"), run.read("stderr"));

    assert_eq!(stderr.lines().count(), 4, "{stderr}");
    assert!(stderr.lines().all(|line| line.contains("ERROR") && line.contains(" failed: ")), "{stderr}");
    assert!(!stdout.contains("ERROR") && stdout.contains("order completed"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "no colours into a file");
}

#[test]
fn no_line_holds_what_a_customer_sent_or_a_secret_at_any_level() {
    for settings in [[("LOG_FORMAT", "json"), ("RUST_LOG", "trace")], [("LOG_FORMAT", "text"), ("RUST_LOG", "trace")]] {
        let (run, _) = busy(&settings);
        let lines = run.read("stdout") + &run.read("stderr");
        for secret in ["PRIVATE", KEY] {
            let found: Vec<&str> = lines.lines().filter(|line| line.contains(secret)).collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

#[test]
fn log_settings_that_make_no_sense_are_refused() {
    let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", "65535"), ("LOG_FORMAT", "xml"), ("RUST_LOG", "waybill=loud,=")]);

    assert!(lines[0].contains("LOG_FORMAT") && lines[1].contains("RUST_LOG"), "{lines:?}");
}

#[test]
fn a_public_base_url_that_is_no_header_value_is_refused() {
    let lines = refused(&[("FUNCTIONS_CUSTOMHANDLER_PORT", "65535"), ("PUBLIC_BASE_URL", "https://shop.example.com/caf\u{e9}")]);
    assert!(lines[0].contains("PUBLIC_BASE_URL"), "{lines:?}");
}

#[cfg(unix)]
#[test]
fn a_half_sent_request_does_not_hold_up_the_end() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[("DRAIN_TIMEOUT", "5s")]);
    let mut half = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    half.write_all(b"POST /OrderIngress HTTP/1.1\r\nHos").unwrap();
    handler.ingress(Some(&order("HALF-2").to_string()), &[]);
    handler.program.signal("TERM");
    let (_, lines) = handler.program.end();
    assert!(!lines.iter().any(|line| line.contains("drain deadline passed")), "{lines:?}");
}

#[cfg(unix)]
#[test]
fn work_whose_host_hung_up_may_end_too_when_asked_to_stop() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("WORK_DELAY", "150ms")]);
    let message = handler.ingress(Some(&order("HUNG-1").to_string()), &[]).message.unwrap();
    let body = queue_envelope(&message).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", handler.port)).unwrap();
    stream
        .write_all(format!("POST /OrderProcessor HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .unwrap();
    handler.program.line("order claimed");
    drop(stream);
    handler.program.signal("TERM");
    let (_, lines) = handler.program.end();
    assert!(lines.iter().any(|line| line.contains("order completed")), "{lines:?}");
}

#[test]
fn a_reserved_key_is_refused() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let body = |extra: &str| order("RES-1").to_string().replacen('{', &format!("{{\"extra\":{extra},"), 1);
    let first = handler.ingress(Some(&body("5")), &[]);
    let second = handler.ingress(Some(&body(r#"{"$serde_json::private::Number":"5"}"#)), &[]);
    assert_eq!(first.status, 202);
    assert_eq!(second.status, 400, "{second:?}");
}

#[test]
fn one_key_twice_in_one_object_is_told_once() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let body = order("K3-1").to_string().replacen('{', r#"{"extra":{"a":1,"a":2,"a":3},"#, 1);
    let answer = handler.ingress(Some(&body), &[]);
    println!("{answer:?}");
    assert_eq!(answer.body["errors"].as_array().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_database_that_was_deleted_takes_no_orders() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    assert_eq!(handler.ingress(Some(&order("DELETED-1").to_string()), &[]).status, 202);

    std::fs::remove_dir_all(data.path()).unwrap();
    let answer = handler.ingress(Some(&order("DELETED-2").to_string()), &[]);

    assert_eq!((answer.status, &answer.body["outcome"]), (503, &Value::from("not_accepted")), "{answer:?}");
}
