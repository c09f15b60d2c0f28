//! Azure Cosmos DB, played by the emulator of `dev/cosmos-emulator`: a process of its own, with faults on demand.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{Program, Response, built, request};

pub struct Emulator {
    /// Ends with it.
    _program: Program,
    control: String,
    settings: Vec<(String, String)>,
}

impl Emulator {
    /// Starts one on free ports.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(executable());
        command.args(["--port", "0"]).args(arguments);
        let mut program = Program::start(&mut command);
        program.line("# records are in memory");
        let lines = program.lines();
        let control = lines.iter().find_map(|line| line.strip_prefix("# control: ")).unwrap().to_owned();
        let settings = lines.iter().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { _program: program, control, settings }
    }

    /// What a handler needs to use it.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    pub fn setting(&self, name: &str) -> &str {
        let setting = self.settings.iter().find(|(setting, _)| setting == name);
        setting.map_or_else(|| panic!("no {name}"), |(_, value)| value.as_str())
    }

    /// `http://127.0.0.1:PORT/`.
    pub fn endpoint(&self) -> &str {
        let connection = self.setting("CosmosConnection").strip_prefix("AccountEndpoint=").unwrap();
        connection.split(';').next().unwrap()
    }

    /// These settings and more.
    pub fn with<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(more.iter().copied()).collect()
    }

    pub fn fault(&self, fault: &Value) {
        self.tell("PUT", "/fault", fault);
    }

    pub fn calm(&self) {
        self.tell("DELETE", "/fault", &Value::Null);
    }

    /// Tokens that let their bearers in.
    pub fn admit(&self, tokens: &[&str]) {
        self.tell("PUT", "/tokens", &json!(tokens));
    }

    pub fn make_container(&self) {
        self.tell("POST", "/container", &Value::Null);
    }

    pub fn drop_container(&self) {
        self.tell("DELETE", "/container", &Value::Null);
    }

    /// What arrived since the start or the last reset.
    pub fn figures(&self) -> Value {
        self.ask("GET", "/figures", &Value::Null).json()
    }

    pub fn reset_figures(&self) {
        self.tell("POST", "/figures/reset", &Value::Null);
    }

    fn tell(&self, method: &str, path: &str, body: &Value) {
        let response = self.ask(method, path, body);
        assert!((200..300).contains(&response.status), "{method} {path}: {response:?}");
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        let text = body.to_string();
        let body = (!body.is_null()).then_some(text.as_bytes());
        request(method, &format!("{}{path}", self.control), &[("Content-Type", "application/json")], body)
    }
}

/// Built by the first test that needs it.
fn executable() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("cosmos-emulator"))
}
