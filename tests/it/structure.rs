//! The rooms of `src` and the crates beside it: which may import which, and that no two files import each other in a circle.
//! The map and its reasons are in `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room or crate, and what it may import of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "telemetry",
            "metrics",
            "functions",
            "fulfillment",
            "store",
            "outbound",
            "config",
            "domain",
            "functions_host",
            "packaging",
            "host_json",
            "order_schema",
            "serving",
            "group_commit",
        ],
    ),
    ("functions", &["metrics", "door", "fulfillment", "store", "outbound", "envelope", "config", "domain", "order_schema", "serving"]),
    ("telemetry", &["metrics", "outbound", "config", "serving"]),
    ("door", &["metrics", "store", "outbound", "envelope", "config", "domain"]),
    ("fulfillment", &["metrics", "outbound", "config", "domain", "serving"]),
    ("store", &["metrics", "outbound", "config", "domain", "group_commit", "serving"]),
    ("outbound", &["metrics", "config", "domain::callback", "domain::timestamp", "serving"]),
    ("metrics", &["domain", "serving"]),
    ("config", &["domain", "host_json", "order_schema"]),
    ("envelope", &[]),
    ("domain", &[]),
    ("functions_host", &["serving", "group_commit", "host_json"]),
    ("serving", &[]),
    ("host_json", &[]),
    ("order_schema", &["domain"]),
    ("group_commit", &[]),
    ("packaging", &[]),
];

/// The crates of ours, as they are written in code.
const CRATES: [&str; 7] = ["domain", "functions_host", "serving", "group_commit", "host_json", "order_schema", "packaging"];

/// One file of a room or crate, as the module it is.
struct Module {
    /// `functions::order_status`; `functions_host::app` in a crate.
    name: String,
    file: PathBuf,
    /// Paths of ours that it names, tests aside.
    imports: BTreeSet<String>,
}

impl Module {
    fn room(&self) -> &str {
        room(&self.name)
    }
}

#[test]
fn rooms_import_only_what_lies_below_them() {
    let modules = modules();

    let mut wrong = Vec::new();
    for module in modules.iter().filter(|module| !matches!(module.name.as_str(), "main" | "lib")) {
        let (_, allowed) = ALLOWED.iter().find(|(room, _)| *room == module.room()).unwrap_or_else(|| {
            panic!("{} is in no room: give it one in tests/it/structure.rs and in ARCHITECTURE.md", module.file.display())
        });
        for import in module.imports.iter().filter(|import| room(import) != module.room()) {
            if !allowed.iter().any(|allowed| is_below(import, allowed)) {
                wrong.push(format!("{} imports {import}; {} may import {allowed:?}", module.file.display(), module.room()));
            }
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let names: BTreeSet<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    // A file may use what its parent declares, and the parent what its children are; that is one file and its rooms.
    let arrows: BTreeMap<&str, BTreeSet<&str>> = modules
        .iter()
        .map(|module| {
            let targets = module.imports.iter().filter_map(|import| owner(import, &names));
            (module.name.as_str(), targets.filter(|target| !is_below(&module.name, target) && !is_below(target, &module.name)).collect())
        })
        .collect();

    for start in arrows.keys().copied() {
        let mut path = vec![start];
        assert!(!leads_back(start, start, &arrows, &mut BTreeSet::new(), &mut path), "a circle: {}", path.join(" → "));
    }
}

fn leads_back<'m>(
    from: &'m str,
    start: &str,
    arrows: &BTreeMap<&'m str, BTreeSet<&'m str>>,
    seen: &mut BTreeSet<&'m str>,
    path: &mut Vec<&'m str>,
) -> bool {
    for &next in arrows.get(from).into_iter().flatten() {
        path.push(next);
        if next == start || (seen.insert(next) && leads_back(next, start, arrows, seen, path)) {
            return true;
        }
        path.pop();
    }
    false
}

fn room(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The file that a path leads into.
fn owner<'n>(path: &str, names: &BTreeSet<&'n str>) -> Option<&'n str> {
    let mut path = path;
    loop {
        if let Some(name) = names.get(path) {
            return Some(name);
        }
        path = path.rsplit_once("::")?.0;
    }
}

fn modules() -> Vec<Module> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut modules = Vec::new();
    collect(&root.join("src"), "", &mut modules);
    for name in CRATES {
        collect(&root.join("crates").join(name.replace('_', "-")).join("src"), name, &mut modules);
    }
    assert!(modules.len() > 50, "only {} files were found", modules.len());
    modules
}

fn collect(directory: &Path, prefix: &str, modules: &mut Vec<Module>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let name = if prefix.is_empty() { stem.clone() } else { format!("{prefix}::{stem}") };
        if path.is_dir() {
            collect(&path, &name, modules);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            // The root of a crate is the crate.
            let name = if stem == "lib" && !prefix.is_empty() { prefix.to_owned() } else { name };
            let own_crate = match room(&name) {
                own if CRATES.contains(&own) => format!("{own}::"),
                _ => String::new(),
            };
            let imports = imports(&fs::read_to_string(&path).unwrap(), &own_crate);
            modules.push(Module { name, file: path, imports });
        }
    }
}

/// Every path of ours that a file names: in `use` lines and in the middle of code, `{…}` taken apart. Comments do not count, nor
/// does what follows `#[cfg(test)]`.
fn imports(text: &str, own_crate: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut imports = BTreeSet::new();
    // `domain` is written `crate::domain` elsewhere.
    let others = CRATES.iter().filter(|name| **name != "domain").map(|name| (format!("{name}::"), false));
    for (start, is_own) in others.chain([("crate::".to_owned(), true)]) {
        for (at, _) in code.match_indices(&start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
                continue;
            }
            let prefix = if is_own { own_crate } else { &start };
            paths(&code[at + start.len()..], prefix, &mut imports);
        }
    }
    imports
}

/// Reads one path, or the paths within `{…}`, and returns what follows.
fn paths<'t>(text: &'t str, prefix: &str, into: &mut BTreeSet<String>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = paths(rest, prefix, into).trim_start();
            match rest.strip_prefix(',') {
                Some(next) if !next.trim_start().starts_with('}') => rest = next,
                Some(next) => return next.trim_start().trim_start_matches('}'),
                None => return rest.trim_start_matches('}'),
            }
        }
    }
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if name == "self" { prefix.trim_end_matches("::").to_owned() } else { format!("{prefix}{name}") };
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with(|letter: char| letter.is_alphabetic() || letter == '_' || letter == '{') => {
            paths(rest, &format!("{path}::"), into)
        }
        _ => {
            into.insert(path);
            rest
        }
    }
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let found = imports(
        "use crate::config::{self, cosmos::Cosmos, service_bus::{Access, Queue}};\n// crate::door\nfn f() { crate::store::open(serving::now()) }\n\
         #[cfg(test)]\nuse crate::cli;",
        "",
    );

    let expected =
        ["config", "config::cosmos::Cosmos", "config::service_bus::Access", "config::service_bus::Queue", "serving::now", "store::open"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
