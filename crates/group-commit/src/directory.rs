//! Directory of a database.

use std::path::Path;

/// Creates a data directory; a new one is private to the user.
pub fn create(directory: &Path) -> std::io::Result<()> {
    private().recursive(true).create(directory)
}

/// Creates a directory that must not exist, private to the user.
pub fn create_new(directory: &Path) -> std::io::Result<()> {
    private().create(directory)
}

#[cfg(unix)]
fn private() -> std::fs::DirBuilder {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

#[cfg(not(unix))]
fn private() -> std::fs::DirBuilder {
    std::fs::DirBuilder::new()
}
