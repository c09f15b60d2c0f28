//! `waybill new`: a folder with an app of one's own, which runs at once.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use order_schema::Schema;
use serde_json::{Map, Value, json};

use crate::cli::app_files::{APP, HOST};
use crate::domain::form::Rules;
use crate::domain::json::Json;

/// The schema without `--schema`.
const SCHEMA: &str = include_str!("../../examples/report.schema.json");
/// Its name in the new folder; a schema of one's own keeps its name.
const SCHEMA_NAME: &str = "order.schema.json";
/// Most mistakes of the sample order that are told.
const MAX_MISTAKES: usize = 5;
/// The settings of this machine.
const SETTINGS: &str = include_str!("../../examples/own-work/local.settings.json.example");
/// The sources of this program, which an app in Rust is built with.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

/// Options of `waybill new`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The folder to make; its last part is the name of the app.
    name: PathBuf,
    /// Where the work is done: in a service behind HTTP, or in the handler, in Rust.
    #[arg(long, value_enum, default_value_t = Place::Http)]
    work: Place,
    /// The JSON Schema of an order; files beside it that it refers to are taken too [default: that of a report]
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The sources of Waybill, for work in Rust [default: those that this program was built from]
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
}

/// Where the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Http,
    Rust,
}

/// Makes the folder. `Err`: why there is none.
pub(super) fn run(options: &Options) -> Result<(), Vec<String>> {
    let (files, notes) = files(options).map_err(|problem| vec![problem])?;
    write(&options.name, &files).map_err(|problem| vec![format!("{}: {problem}; nothing is written over", options.name.display())])?;
    println!("{} is made; its README.md says how to start it", options.name.display());
    for note in notes {
        println!("{note}");
    }
    Ok(())
}

/// Every file of the app, by its path; and what is left to do in them.
fn files(options: &Options) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
    let name = options.name.file_name().and_then(|name| name.to_str()).filter(|name| is_name(name));
    let name = name.ok_or("the name of an app has small letters, digits and -, and begins with a letter, such as render-reports")?;
    let schema = OwnSchema::read(options.schema.as_deref())?;
    let order = Order::of(&schema.root);
    let notes = order.notes(&schema);
    let mut files: BTreeMap<String, String> = APP.into_iter().map(|(path, text)| (path.into(), text.into())).collect();
    files.insert("order.json".into(), order.sample + "\n");

    let mut settings: Value = serde_json::from_str(SETTINGS).map_err(|error| error.to_string())?;
    settings["Values"]["ORDER_SCHEMA"] = schema.name().into();
    for (name, is_there) in [("ORDER_ID", order.has_id), ("ORDER_CUSTOMER", order.has_customer)] {
        if !is_there {
            settings["Values"][name] = "none".into();
        }
    }
    let readme = match options.work {
        Place::Http => {
            settings["Values"]["FULFILLMENT_URL"] = "http://127.0.0.1:9000/work".into();
            files.insert("work.py".into(), include_str!("new/work.py").into());
            files.insert(".github/workflows/ci.yml".into(), include_str!("new/http.yml").replace("SCHEMA", &quoted(schema.name())));
            include_str!("new/http.md")
        }
        Place::Rust => {
            let host = HOST.replace("\"defaultExecutablePath\": \"waybill\"", &format!("\"defaultExecutablePath\": \"{name}\""));
            files.insert("host.json".into(), host);
            let sources = options.sources.clone().unwrap_or_else(|| SOURCES.into());
            let lock = fs::read_to_string(sources.join("Cargo.lock"));
            let lock = lock.map_err(|error| format!("{} has no sources of Waybill ({error}): pass --sources DIR", sources.display()))?;
            files.insert("Cargo.lock".into(), lock);
            files.insert("Cargo.toml".into(), manifest(name, &sources)?);
            files.insert("src/main.rs".into(), include_str!("new/work.rs").into());
            include_str!("new/rust.md")
        }
    };
    let key = if order.has_id { "" } else { "-H \"Idempotency-Key: $(date +%s)\" " };
    let readme = readme.replace("NAME", name).replace("KEY", key);
    files.insert("README.md".into(), readme.replace("`SCHEMA`", &format!("`{}`", schema.name())).replace("SCHEMA", &quoted(schema.name())));
    files.insert(".gitignore".into(), "/target\n/.waybill\n/recordings\n/local.settings.json\n".into());
    let settings = serde_json::to_string_pretty(&settings).map_err(|error| error.to_string())?;
    files.insert("local.settings.json.example".into(), settings + "\n");
    schema.add_to(&mut files)?;
    Ok((files, notes))
}

fn is_name(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.starts_with(|letter: char| letter.is_ascii_lowercase()) && name.bytes().all(is_known)
}

/// A file name as one word of a shell.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if is_plain { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

/// The schema of an order, and the files beside it that it refers to.
struct OwnSchema {
    root: Value,
    /// Absent for the schema without `--schema`, whose sample is right.
    rules: Option<Schema>,
    /// Name and text of each file, the schema's own first. They keep their names, by which they refer to each other.
    files: Vec<(String, String)>,
}

impl OwnSchema {
    fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            let root = serde_json::from_str(SCHEMA).map_err(|error| error.to_string())?;
            return Ok(Self { root, rules: None, files: vec![(SCHEMA_NAME.into(), SCHEMA.into())] });
        };
        let loaded = Schema::load(path).map_err(|problem| format!("{} cannot be used: {problem}", path.display()))?;
        let text = |name: &str| fs::read_to_string(path.with_file_name(name)).map_err(|error| format!("{name}: {error}"));
        let files = loaded.documents().iter().map(|(name, _)| Ok((name.clone(), text(name)?))).collect::<Result<_, String>>()?;
        let root = loaded.documents().first().map(|(_, root)| root.clone()).unwrap_or_default();
        Ok(Self { root, rules: Some(loaded), files })
    }

    fn name(&self) -> &str {
        self.files.first().map_or(SCHEMA_NAME, |(name, _)| name)
    }

    /// Adds the files to those of the app. `Err`: the app has one of this name.
    fn add_to(self, files: &mut BTreeMap<String, String>) -> Result<(), String> {
        for (name, text) in self.files {
            if files.contains_key(&name) {
                return Err(format!("{name} of the schema is also a file of the app: give the schema's another name"));
            }
            files.insert(name, text);
        }
        Ok(())
    }
}

/// What a schema says of the names that the engine needs, and an order to begin with.
struct Order {
    has_id: bool,
    has_customer: bool,
    sample: String,
}

impl Order {
    fn of(schema: &Value) -> Self {
        let has = |name: &str| schema["properties"].get(name).is_some();
        let (has_id, has_customer) = (has("orderId"), has("customerId"));
        let example = schema["examples"].get(0).filter(|example| example.is_object()).cloned();
        let sample = example.unwrap_or_else(|| {
            let names = [("orderId", has_id, "A-1"), ("customerId", has_customer, "C-1")].into_iter().filter(|(_, is_there, _)| *is_there);
            Value::Object(names.map(|(name, _, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>())
        });
        Self { has_id, has_customer, sample: serde_json::to_string_pretty(&sample).unwrap_or_default() }
    }

    /// What the schema leaves for a person to write, one sentence each.
    fn notes(&self, schema: &OwnSchema) -> Vec<String> {
        let names = [("orderId", "number", "ORDER_ID", self.has_id), ("customerId", "customer", "ORDER_CUSTOMER", self.has_customer)];
        let missing = names.into_iter().filter(|(.., is_there)| !is_there);
        let mut notes: Vec<_> = missing
            .map(|(property, name, setting, _)| {
                format!(
                    "an order has no {name}, since the schema has no {property}: if another property is the {name}, set {setting} in \
                     local.settings.json.example to its place, such as /job/id"
                )
            })
            .collect();
        let sample = Json::parse(&self.sample).unwrap_or(Json::Null);
        let mistakes = schema.rules.iter().flat_map(|rules| rules.mistakes(&sample, MAX_MISTAKES));
        let mistakes: Vec<_> = mistakes.map(|mistake| format!("{} {}", mistake.pointer, mistake.detail)).collect();
        if !mistakes.is_empty() {
            notes.push(format!(
                "order.json does not match the schema yet: {}; the first of `examples` in a schema becomes this file",
                mistakes.join("; ")
            ));
        }
        notes
    }
}

fn manifest(name: &str, sources: &Path) -> Result<String, String> {
    let sources = std::path::absolute(sources).map_err(|error| error.to_string())?;
    let sources = Value::from(sources.to_str().ok_or("the path of the sources is not UTF-8")?);
    Ok(format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         # The path is of this machine: README.md says what to put in its place.\n\
         [dependencies]\nwaybill = {{ path = {sources}, default-features = false }}\nserde_json = \"1\"\n\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n\n[profile.dev.package.\"*\"]\ndebug = false\n\n\
         # What `waybill package` builds.\n[profile.dist]\ninherits = \"release\"\nlto = \"fat\"\ncodegen-units = 1\nstrip = true\n\n\
         # No part of another workspace, wherever the folder is.\n[workspace]\n"
    ))
}

fn write(folder: &Path, files: &BTreeMap<String, String>) -> std::io::Result<()> {
    fs::create_dir(folder)?;
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())?;
    }
    Ok(())
}
