//! The environment in which a host starts its handler.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use functions_host::arguments::Arguments;
use functions_host::host::{self, Options};
use tokio::sync::oneshot;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

/// An app whose handler writes its environment down and ends; removed when dropped.
struct App(PathBuf);

impl App {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("functions-host-{name}-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("host.json", r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler"}}}"#);
        write("local.settings.json", r#"{"IsEncrypted": false, "Values": {"COLOR": "blue"}}"#);
        write("Hello/function.json", r#"{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req"}]}"#);
        write("handler", "#!/bin/sh\nenv > environment\nexit 1\n");
        fs::set_permissions(root.join("handler"), fs::Permissions::from_mode(0o755)).unwrap();
        Self(root)
    }

    async fn environment_of_handler(&self, inherited: Option<&'static [&'static str]>) -> BTreeMap<String, String> {
        let arguments = ["host", "--port", "0", "--app"].map(Path::new).into_iter().chain([self.0.as_path()]);
        let CommandLine { arguments } = CommandLine::parse_from(arguments);
        let options = Options { inherited, ..Options::new(arguments) };
        let (up, _) = oneshot::channel();
        let problems = host::run(options, &BTreeMap::new(), up, std::future::pending()).await.unwrap_err();
        let text = fs::read_to_string(self.0.join("environment")).unwrap_or_else(|error| panic!("{error}: {problems:?}"));
        text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[tokio::test]
async fn the_handler_inherits_the_whole_environment() {
    let environment = App::new("whole").environment_of_handler(None).await;

    // Cargo sets this variable for every test.
    assert!(environment.contains_key("CARGO_MANIFEST_DIR"), "{environment:?}");
    assert_eq!(environment["COLOR"], "blue");
}

#[tokio::test]
async fn a_list_of_names_keeps_everything_else_from_the_handler() {
    let environment = App::new("listed").environment_of_handler(Some(&["PATH", "NO_SUCH_VARIABLE"])).await;

    assert!(environment.contains_key("PATH"), "{environment:?}");
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "NO_SUCH_VARIABLE"] {
        assert!(!environment.contains_key(name), "{name}: {environment:?}");
    }
    assert_eq!(environment["COLOR"], "blue");
    assert!(environment.contains_key("FUNCTIONS_CUSTOMHANDLER_PORT"), "{environment:?}");
}
