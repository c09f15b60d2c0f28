//! Pages name only what exists: files, items of the code, other pages and their headings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOTS: [&str; 6] = ["src/", "crates/", "tests/", "docs/", "dev/", "deploy/"];

#[test]
fn every_path_in_the_architecture_exists() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();

    let missing: Vec<&str> =
        code_spans(&page).filter(|span| ROOTS.iter().any(|root| span.starts_with(root)) && !root().join(span).exists()).collect();

    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
}

#[test]
fn every_item_in_the_architecture_exists() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let sources = sources();
    let items: BTreeSet<&str> = code_spans(&page).filter(|span| span.contains("::") && is_path(span)).collect();
    assert!(items.len() > 30, "only {} items were found", items.len());

    let missing: Vec<&&str> = items.iter().filter(|item| !exists(item, &sources)).collect();

    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let is_there = target.exists()
                && (heading.is_empty() || fs::read_to_string(&target).is_ok_and(|text| headings(&text).any(|slug| slug == heading)));
            if !is_there {
                wrong.push(format!("{}: {link}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }

    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn the_page_of_problems_says_what_each_code_of_an_order_means() {
    let list = fs::read_to_string(root().join("crates/domain/src/failure.rs")).unwrap();
    let entries = list.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.strip_suffix("\"),")?.split_once("\", \""));
    let rows: Vec<_> = entries.map(|(code, meaning)| format!("| `{code}` | {meaning} |")).collect();
    let page = fs::read_to_string(root().join("docs/problems.md")).unwrap();
    let (_, section) = page.split_once("## Codes of a failed order").unwrap();
    let table: Vec<_> =
        section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|')).collect();
    let sources = sources();
    let given: BTreeSet<_> =
        sources.iter().flat_map(|(_, text)| text.split("Failure::new(\"").skip(1)).filter_map(|rest| rest.split('"').next()).collect();
    let of_tests = ["busy now", "c", "code", "given_up"];
    let unknown: Vec<_> =
        given.iter().filter(|code| !of_tests.contains(code) && !rows.iter().any(|row| row.contains(&format!("`{code}`")))).collect();

    assert!(given.len() > 10 && table == rows, "make the table of docs/problems.md: {}", rows.join("\n"));
    assert!(unknown.is_empty(), "codes without a meaning: {unknown:?}");
}

#[test]
fn the_readme_can_be_finished() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();

    assert!(readme.lines().count() <= 150, "README.md has {} lines; 150 are enough", readme.lines().count());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between single backticks, code blocks aside.
fn code_spans(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

fn is_path(span: &str) -> bool {
    span.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':'))
}

/// Whether a source file knows `container::name`: as an item of the module `container`, or as a member of the type `container`.
fn exists(item: &str, sources: &[(PathBuf, String)]) -> bool {
    let mut segments = item.rsplit("::");
    let (name, container) = (segments.next().unwrap(), segments.next().unwrap());
    sources.iter().any(|(file, text)| {
        let room = if file.ends_with("src/lib.rs") { file.ancestors().nth(2) } else { file.parent() };
        let is_module = file.file_stem().is_some_and(|stem| stem == container) || room.is_some_and(|room| room.ends_with(container));
        let is_type = ["struct", "enum", "trait", "impl"]
            .iter()
            .any(|keyword| text.lines().any(|line| has_word(line, keyword) && has_word(line, container)));
        let is_item = ["fn", "struct", "enum", "trait", "const", "static", "mod", "type", "macro_rules!"]
            .iter()
            .any(|keyword| has_word(text, &format!("{keyword} {name}")));
        (is_module && is_item) || (is_type && (is_item || has_word(text, name)))
    })
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(word).any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next()))
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for directory in ["src", "crates"] {
        walk(&root().join(directory), &mut |file| {
            if file.extension().is_some_and(|extension| extension == "rs") {
                files.push((file.to_owned(), fs::read_to_string(file).unwrap()));
            }
        });
    }
    files
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect();
    for directory in ["docs", "crates", "dev", "benches", "tests/fixtures"] {
        walk(&root().join(directory), &mut |file| {
            if file.extension().is_some_and(|extension| extension == "md") {
                pages.push(file.to_owned());
            }
        });
    }
    assert!(pages.len() > 10, "only {} pages were found", pages.len());
    pages
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}

/// The targets of `[text](target)`, code aside.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(|prose| prose.split("](").skip(1)).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The headings of a page, as GitHub makes anchors of them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    page.split("```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        heading
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|l| if l == ' ' { '-' } else { l })
            .collect()
    })
}
