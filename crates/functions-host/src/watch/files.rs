//! The files of a folder that git does not ignore, each with its time and its length.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ignore::{DirEntry, WalkBuilder};

/// Settings of the host, which git ignores as a rule.
pub(super) const SETTINGS: [&str; 2] = ["local.settings.json", "local.settings.json.example"];

/// Time and length of each file.
pub(super) type Files = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Looks at every file. One that cannot be read is left out, as one that is being replaced.
pub(super) fn look(root: &Path, own: &[PathBuf]) -> Files {
    let own: Vec<_> = own.iter().filter_map(|path| Some((path.canonicalize().ok()?, path.file_name()?.to_owned()))).collect();
    // The same folder may have several paths.
    let is_own = move |entry: &DirEntry| {
        own.iter().any(|(path, name)| entry.file_name() == name && entry.path().canonicalize().ok().as_ref() == Some(path))
    };
    // A folder counts as git would count it, also where no repository is made yet.
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .ignore(false)
        .require_git(false)
        .filter_entry(move |entry| entry.file_name() != ".git" && !is_own(entry))
        .build();
    let found = walk.filter_map(Result::ok).filter(|entry| entry.file_type().is_some_and(|kind| !kind.is_dir())).map(DirEntry::into_path);
    let seen = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some((path, (metadata.modified().ok()?, metadata.len())))
    };
    found.chain(SETTINGS.map(|name| root.join(name))).filter_map(seen).collect()
}

/// Files that are new, gone or written again.
pub(super) fn changed(before: &Files, now: &Files) -> Vec<PathBuf> {
    let written = now.iter().filter(|(path, seen)| before.get(*path) != Some(*seen)).map(|(path, _)| path.clone());
    written.chain(before.keys().filter(|path| !now.contains_key(*path)).cloned()).collect()
}
