//! Builds a custom handler as one static Linux binary and packs it with its app.
//!
//! The package is bit for bit the same for the same sources, compiler and C compiler: paths are remapped, names sorted, dates and modes
//! fixed. Nothing here knows an order; any custom handler written in Rust can be built and packed.

pub mod arch;
pub mod archive;
pub mod build;
pub mod dependencies;
pub mod elf;
pub mod sbom;
