//! What `waybill package` packs, and what it refuses to pack.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use packaging::archive::{self, File};
use serde_json::Value;
use waybill::functions::routes::FUNCTIONS;

use crate::clock::libfaketime;
use crate::support::{Directory, Handler, Program, http_envelope, repository, request};

const ARCH: &str = std::env::consts::ARCH;

/// The app of this repository, without its sources.
pub fn app() -> Directory {
    let app = Directory::new();
    let copy = |path: &str| app.write(path, &std::fs::read_to_string(repository().join(path)).unwrap());
    copy("host.json");
    copy("local.settings.json.example");
    for function in FUNCTIONS {
        copy(&format!("{function}/function.json"));
    }
    app
}

/// A program that needs nothing of any system, as one that was built for Azure.
pub fn static_program(folder: &Directory) -> PathBuf {
    let source = folder.write("program.c", "void _start(void) { for (;;) {} }\n");
    let program = folder.path().join("program");
    let arguments = ["-static", "-nostdlib", "-ffreestanding", "-o", program.to_str().unwrap(), source.to_str().unwrap()];
    assert!(Command::new("cc").args(arguments).status().unwrap().success());
    program
}

fn package(app: &Path, options: &[&str]) -> (Option<i32>, Vec<String>) {
    let arguments: Vec<_> =
        ["package", "--app", app.to_str().unwrap(), "--arch", ARCH].into_iter().chain(options.iter().copied()).collect();
    let (status, lines) = Program::waybill(&arguments, &[]).end();
    (status.code(), lines)
}

/// The files in the package of an app that must be packed.
fn packed(app: &Path, options: &[&str]) -> BTreeMap<String, File> {
    let programs = Directory::new();
    let program = static_program(&programs);
    let (code, lines) = package(app, &[&["--binary", program.to_str().unwrap()], options].concat());
    assert_eq!(code, Some(0), "{lines:?}");
    archive::read(&std::fs::read(app.join("target/package/waybill.zip")).unwrap()).unwrap()
}

/// The one reason why an app is not packed.
fn refused(app: &Path, options: &[&str]) -> String {
    let programs = Directory::new();
    let program = static_program(&programs);
    let (code, lines) = package(app, &[&["--binary", program.to_str().unwrap()], options].concat());
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:?}");
    assert!(!app.join("target/package/waybill.zip").exists());
    lines[0].clone()
}

#[test]
fn a_package_holds_the_app_and_the_binary_and_nothing_else() {
    let app = app();
    let settings = std::fs::read_to_string(repository().join("local.settings.json.example")).unwrap();
    app.write("local.settings.json", &settings);
    app.write("README.md", "not for Azure");
    app.write("OrderIngress/.hidden", "not for Azure");
    app.write("OrderIngress/sample.json", "{}");

    let files = packed(app.path(), &[]);

    let mut expected: Vec<_> = FUNCTIONS.iter().map(|name| format!("{name}/function.json")).collect();
    expected.extend(["OrderIngress/sample.json".into(), "host.json".into(), "waybill".into()]);
    expected.sort();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(files.iter().all(|(name, file)| file.executable == (name == "waybill")));
    assert_eq!(files["host.json"].content, std::fs::read(repository().join("host.json")).unwrap());
}

/// The SHA-256 of the package of the same app and program in a new folder, whose files have this mode and were written then.
fn sum(mode: u32, written: SystemTime, umask: &str, environment: &[(&str, &str)]) -> String {
    let (app, programs) = (app(), Directory::new());
    let program = static_program(&programs);
    let files = FUNCTIONS.map(|name| app.path().join(name).join("function.json"));
    for file in files.iter().chain([&app.path().join("host.json"), &program]) {
        std::fs::File::options().append(true).open(file).unwrap().set_modified(written).unwrap();
        std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_waybill"), "package", "--arch", ARCH]);
    command.arg("--app").arg(app.path()).arg("--binary").arg(&program).envs(environment.iter().copied());

    let (status, lines) = Program::start(&mut command).end();

    assert!(status.success(), "{lines:?}");
    let archive = std::fs::read(app.path().join("target/package/waybill.zip")).unwrap();
    let sum = archive::sha256(&archive);
    assert_eq!(std::fs::read_to_string(app.path().join("target/package/waybill.zip.sha256")).unwrap(), format!("{sum}  waybill.zip\n"));
    assert!(lines.iter().any(|line| line.contains(&sum)), "{lines:?}");
    sum
}

#[test]
fn the_same_app_is_packed_into_the_same_bytes_in_any_folder_with_any_dates_and_modes() {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);

    let first = sum(0o644, SystemTime::now(), "022", &[]);
    let second = sum(0o700, long_ago, "077", &[("TZ", "Pacific/Apia")]);

    assert_eq!(first, second);
}

#[test]
fn the_same_app_is_packed_into_the_same_bytes_on_another_day() {
    let Some(library) = libfaketime() else { return };
    let now = SystemTime::now();

    let later = sum(0o644, now, "022", &[("LD_PRELOAD", library.as_str()), ("FAKETIME", "+1000d")]);

    assert_eq!(later, sum(0o644, now, "022", &[]));
}

#[test]
fn tokens_take_the_keys_from_functions_that_had_them() {
    let app = app();
    let files = packed(app.path(), &["--auth", "tokens"]);

    let level = |name: &str| {
        let function: Value = serde_json::from_slice(&files[&format!("{name}/function.json")].content).unwrap();
        function["bindings"][0]["authLevel"].clone()
    };
    assert_eq!(level("OrderIngress"), "anonymous");
    assert_eq!(level("OrderProcessor"), Value::Null);
}

#[test]
fn other_files_are_packed_when_asked_for() {
    let app = app();
    app.write("schemas/order.json", "{}");

    assert!(packed(app.path(), &["--include", "schemas"]).contains_key("schemas/order.json"));
}

#[test]
fn an_app_that_would_not_run_is_not_packed() {
    let cases: [(&str, &str, &[&str], &str); 8] = [
        (
            "OrderIngres/function.json",
            "{\"bindings\": [{\"type\": \"timerTrigger\", \"name\": \"t\", \"schedule\": \"0 * * * * *\", \"direction\": \"in\"}]}",
            &[],
            "the handler has no function OrderIngres",
        ),
        ("OrderIngress/function.json", "{\"bindings\": []}", &[], "OrderIngress would not run"),
        ("host.json", "{\"version\": \"2.0\"", &[], "host.json"),
        (
            "host.json",
            "{\"version\": \"2.0\", \"customHandler\": {\"description\": {\"defaultExecutablePath\": \"../waybill\"}}}",
            &[],
            "below the app's folder",
        ),
        ("settings/local.settings.json", "{}", &["--include", "settings"], "is never packed"),
        ("waybill", "another", &["--include", "waybill"], "both the handler's binary and a file of the app"),
        ("x", "", &["--include", "../x"], "below the app's folder"),
        ("x", "", &["--include", "nothing"], "cannot read"),
    ];
    for (path, text, options, expected) in cases {
        let app = app();
        app.write(path, text);

        let line = refused(app.path(), options);

        assert!(line.contains(expected), "{path}: {line}");
    }
}

#[test]
fn a_function_without_a_folder_is_named() {
    let app = app();
    std::fs::remove_dir_all(app.path().join("OrderSweeper")).unwrap();

    assert!(refused(app.path(), &[]).contains("OrderSweeper has no folder in the app"));
}

#[test]
fn a_binary_that_azure_cannot_start_is_not_packed() {
    let app = app();
    let folder = Directory::new();
    let program = static_program(&folder);
    let script = folder.write("script.sh", "#!/bin/sh\n");
    // It has no interpreter, but needs the C library.
    let library = folder.path().join("library.so");
    let source = folder.write("library.c", "int puts(const char *);\nvoid greet(void) { puts(\"\"); }\n");
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap().success());
    let other = if ARCH == "x86_64" { "aarch64" } else { "x86_64" };
    let cases = [
        (env!("CARGO_BIN_EXE_waybill"), ARCH, "of the machine it runs on"),
        (library.to_str().unwrap(), ARCH, "needs a shared library"),
        (script.to_str().unwrap(), ARCH, "no 64-bit ELF"),
        (program.to_str().unwrap(), other, "it is built for"),
        ("nowhere", ARCH, "cannot read nowhere"),
    ];
    for (binary, arch, expected) in cases {
        let arguments = ["package", "--app", app.path().to_str().unwrap(), "--binary", binary, "--arch", arch];

        let (status, lines) = Program::waybill(&arguments, &[]).end();

        assert_eq!(status.code(), Some(1));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{binary}: {lines:?}");
        assert!(!app.path().join("target/package/waybill.zip").exists());
    }
}

#[test]
fn a_package_that_does_not_work_is_not_written() {
    let app = app();
    let programs = Directory::new();
    let program = static_program(&programs);
    // It never listens, so the stand-in gives up on it after the time that host.json sets.
    let host = std::fs::read_to_string(repository().join("host.json")).unwrap();
    app.write("host.json", &host.replace("\"customHandler\": {", "\"customHandler\": {\"initializationTimeout\": \"00:00:01\","));

    let (code, lines) = package(app.path(), &["--binary", program.to_str().unwrap(), "--check"]);

    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("the package does not work")), "{lines:?}");
    assert!(!app.path().join("target/package/waybill.zip").exists());
}

/// A static program that becomes this program: a package may hold it, and it is a handler.
fn static_handler(folder: &Directory) -> PathBuf {
    let becomes = serde_json::to_string(env!("CARGO_BIN_EXE_waybill")).unwrap();
    let source = format!("#include <unistd.h>\nint main(int count, char **arguments) {{ return execv({becomes}, arguments); }}\n");
    let source = folder.write("handler.c", &source);
    let program = folder.path().join("handler");
    assert!(Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status().unwrap().success());
    program
}

#[test]
fn a_package_is_tried_with_what_its_app_has() {
    type Files<'a> = &'a [(&'a str, &'a str)];

    let programs = Directory::new();
    let handler = static_handler(&programs);
    let settings = std::fs::read_to_string(repository().join("local.settings.json.example")).unwrap();
    let backend = settings.replace("\"FULFILLMENT_URL\": \"\"", "\"FULFILLMENT_URL\": \"http://127.0.0.1:9/work\"");
    let host = std::fs::read_to_string(repository().join("host.json")).unwrap();
    let own_work = host.replace("\"defaultExecutablePath\": \"waybill\"", "\"defaultExecutablePath\": \"mine\"");
    let order = std::fs::read_to_string(repository().join("samples/order.json")).unwrap();
    let cases: [(Files<'_>, i32, &str); 6] = [
        (&[], 0, "Checked: one order went to its end"),
        (&[("samples/order.json", &order)], 0, "Checked: the order of samples/order.json went to its end"),
        (&[("order.json", "{}")], 1, "the package does not work: the order was answered with 400"),
        (
            &[("local.settings.json.example", &backend), ("order.json", "{}")],
            0,
            "the handler starts and answers /api/health; no order was sent, since FULFILLMENT_URL does the work",
        ),
        (
            &[("host.json", &own_work)],
            0,
            "the handler starts and answers /api/health; no order was sent, since the app has work of its own",
        ),
        (&[("host.json", &own_work), ("order.json", &order)], 0, "Checked: the order of order.json went to its end"),
    ];
    for (files, expected, said) in cases {
        let app = app();
        for (path, text) in files {
            app.write(path, text);
        }

        let (code, lines) = package(app.path(), &["--binary", handler.to_str().unwrap(), "--check"]);

        assert_eq!(code, Some(expected), "{said}: {lines:?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:?}");
    }
}

#[test]
fn without_a_cargo_package_a_binary_is_asked_for() {
    let app = app();

    let (code, lines) = package(app.path(), &[]);

    assert_eq!(code, Some(1));
    assert!(lines.len() == 1 && lines[0].contains("pass --binary FILE"), "{lines:?}");
}

#[test]
fn the_list_of_functions_is_what_the_handler_serves() {
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[]);
    let status = |name: &str| {
        let headers = [("Content-Type", "application/json"), ("X-Azure-Functions-InvocationId", "an-invocation")];
        let envelope = http_envelope("GET", "http://localhost/api", &Value::Null, None, &[]);
        request("POST", &format!("http://127.0.0.1:{}/{name}", handler.port), &headers, Some(envelope.to_string().as_bytes())).status
    };
    let folders = std::fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap());
    let mut folders: Vec<_> = folders.filter(|entry| entry.path().join("function.json").exists()).map(|entry| entry.file_name()).collect();
    folders.sort();

    assert_eq!(folders, FUNCTIONS.map(std::ffi::OsString::from));
    for name in FUNCTIONS {
        assert_ne!(status(name), 404, "{name}");
    }
    assert_eq!(status("OrderNothing"), 404);
}
