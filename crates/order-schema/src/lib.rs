//! The JSON Schema (2020-12) of an order: compiled once, then checked without network and without backtracking.

mod cost;
mod instance;
mod reference;
mod words;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationError, Validator};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use waybill_domain::form::Rules;
use waybill_domain::json::Json;
use waybill_domain::order::Violation;

use crate::instance::Instance;
pub use crate::reference::resolve;

/// Largest file of a schema, in bytes: a larger one is not a schema written by people.
const MAX_FILE: u64 = 1024 * 1024;
/// Most work on an order for which all of its mistakes are listed: looks at the order, times its size.
const ALL_MISTAKES: u64 = 200_000;
/// Most work on an order for which the first mistake is looked for. The validator may write out a part of the order at each look.
const FIRST_MISTAKE: u64 = 4_000_000;
/// Bytes of a text that count as one value.
const BYTES: u64 = 16;
/// Scheme of the URIs under which the files are known to each other.
const SCHEME: &str = "beside";
/// What a fragment of a URI cannot contain (RFC 3986 section 3.5).
pub const NOT_IN_FRAGMENTS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// What the path of a URI cannot contain (RFC 3986 section 3.3).
const NOT_IN_PATHS: &AsciiSet = &NOT_IN_FRAGMENTS.add(b'?');

/// A schema that is ready to check orders.
#[derive(Debug)]
pub struct Schema {
    validator: Validator<Instance>,
    /// Most looks at one value and at the values on one way down from it.
    looks: u64,
    documents: Vec<(String, Value)>,
}

impl Schema {
    /// Reads and compiles a schema. References lead to its own parts, and to files beside it. `Err`: what is wrong, and where.
    pub fn load(file: &Path) -> Result<Self, String> {
        let name = file.file_name().and_then(|name| name.to_str()).ok_or("it names no file")?.to_owned();
        let directory = file.parent().unwrap_or(Path::new(".")).to_owned();
        let root = read(file).map_err(|error| error.to_string())?;
        if let Some(draft) = root.get("$schema").filter(|draft| !is_2020_12(draft)) {
            return Err(format!(
                "at /$schema: {draft} is another version of JSON Schema; use https://json-schema.org/draft/2020-12/schema"
            ));
        }
        let read_files = Arc::new(Mutex::new(vec![(name.clone(), root.clone())]));
        let validator = jsonschema::options_for::<Instance>()
            .with_draft(Draft::Draft202012)
            .with_base_uri(format!("{SCHEME}:/{}", utf8_percent_encode(&name, NOT_IN_PATHS)))
            .with_retriever(Beside { directory, read_files: Arc::clone(&read_files) })
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .build(&root)
            .map_err(|error| wrong(&error))?;
        let mut documents = std::mem::take(&mut *read_files.lock().unwrap_or_else(PoisonError::into_inner));
        documents[1..].sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self { validator, looks: cost::looks(&documents)?, documents })
    }
}

impl Rules for Schema {
    fn mistakes(&self, order: &Json<'_>, most: usize) -> Vec<Violation> {
        if self.validator.is_valid(order) {
            return Vec::new();
        }
        match size(order).saturating_mul(self.looks) {
            work if work <= ALL_MISTAKES => {
                self.validator.iter_errors(order).flat_map(|error| words::violations(&error)).take(most).collect()
            }
            work if work <= FIRST_MISTAKE => self.validator.validate(order).err().iter().flat_map(words::violations).take(most).collect(),
            _ => vec![Violation { pointer: String::new(), detail: "does not match the schema, and is too large to say where".into() }],
        }
    }

    fn documents(&self) -> &[(String, Value)] {
        &self.documents
    }
}

/// The number of values in an order; a long text counts as several.
fn size(order: &Json<'_>) -> u64 {
    let text = |text: &str| text.len() as u64 / BYTES;
    1 + match order {
        Json::String(value) => text(value),
        Json::Array(elements) => elements.iter().map(size).sum(),
        Json::Object(members) => members.iter().map(|(name, value)| text(name) + size(value)).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    }
}

/// What is wrong with a schema, and where.
fn wrong(error: &ValidationError<'_>) -> String {
    let place = match (error.instance_path().as_str(), error.schema_path().as_str()) {
        ("", place) | (place, _) => place,
    };
    let reason = words::cut(&error.to_string());
    if place.is_empty() { reason } else { format!("at {place}: {reason}") }
}

fn is_2020_12(draft: &Value) -> bool {
    draft.as_str().is_some_and(|text| text.trim_end_matches('#') == "https://json-schema.org/draft/2020-12/schema")
}

fn read(file: &Path) -> Result<Value, Box<dyn Error + Send + Sync>> {
    if std::fs::metadata(file)?.len() > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes").into());
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

/// Finds the files beside a schema, and nothing else.
struct Beside {
    directory: PathBuf,
    read_files: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Retrieve for Beside {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let name = uri.as_str().strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(":/"));
        let name = name.and_then(|name| percent_encoding::percent_decode_str(name).decode_utf8().ok());
        let Some(name) = name.filter(|name| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])) else {
            return Err("references lead only to files beside the schema; nothing is fetched".into());
        };
        let document = read(&self.directory.join(&*name))?;
        let mut read_files = self.read_files.lock().unwrap_or_else(PoisonError::into_inner);
        // With an `$id` of its own a file is asked for again under its name.
        if read_files.iter().all(|(known, _)| *known != *name) {
            read_files.push((name.into_owned(), document.clone()));
        }
        Ok(document)
    }
}
