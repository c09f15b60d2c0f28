//! The environment in which a host starts its handler.

use std::collections::BTreeMap;
use std::fs;

use functions_host::host::{self, Options};
use tokio::sync::oneshot;

use crate::support::App;

/// What the handler of an app with a setting finds in its environment.
async fn environment_of_handler(inherited: Option<fn(&str) -> bool>) -> BTreeMap<String, String> {
    let app = App::new("env > environment\nexit 1");
    app.write("local.settings.json", r#"{"IsEncrypted": false, "Values": {"COLOR": "blue"}}"#);
    app.write("Hello/function.json", r#"{"bindings": [{"type": "httpTrigger", "direction": "in", "name": "req"}]}"#);
    let options = Options { inherited, ..Options::new(app.arguments()) };
    let (up, _) = oneshot::channel();
    let problems = host::run(options, &BTreeMap::new(), up, std::future::pending()).await.unwrap_err();
    let text = fs::read_to_string(app.path().join("environment")).unwrap_or_else(|error| panic!("{error}: {problems:?}"));
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn the_handler_inherits_the_whole_environment() {
    let environment = environment_of_handler(None).await;

    // Cargo sets this variable for every test.
    assert!(environment.contains_key("CARGO_MANIFEST_DIR"), "{environment:?}");
    assert_eq!(environment["COLOR"], "blue");
}

#[tokio::test]
async fn a_list_of_names_keeps_everything_else_from_the_handler() {
    let environment = environment_of_handler(Some(|name| ["PATH", "NO_SUCH_VARIABLE"].contains(&name))).await;

    assert!(environment.contains_key("PATH"), "{environment:?}");
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "NO_SUCH_VARIABLE"] {
        assert!(!environment.contains_key(name), "{name}: {environment:?}");
    }
    assert_eq!(environment["COLOR"], "blue");
    assert!(environment.contains_key("FUNCTIONS_CUSTOMHANDLER_PORT"), "{environment:?}");
}
