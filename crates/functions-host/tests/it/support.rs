//! Apps in folders of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use functions_host::arguments::Arguments;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

/// An app whose handler is a script; removed when dropped.
pub(crate) struct App(PathBuf);

impl App {
    /// `script`: what the handler runs in the app's folder.
    pub(crate) fn new(script: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let app = Self(std::env::temp_dir().join(format!("functions-host-it-{}-{number}", std::process::id())));
        app.write("host.json", r#"{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "handler"}}}"#);
        app.write("handler", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(app.path().join("handler"), fs::Permissions::from_mode(0o755)).unwrap();
        app
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Arguments of a host of this app, on any free port.
    pub(crate) fn arguments(&self) -> Arguments {
        let arguments = ["host", "--port", "0", "--app"].map(Path::new).into_iter().chain([self.path()]);
        CommandLine::parse_from(arguments).arguments
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
