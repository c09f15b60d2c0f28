//! Apps in folders of their own, and hosts of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use clap::Parser;
use functions_host::arguments::Arguments;
use functions_host::host::{self, Options};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::handler::{self, Message};

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

    /// An app whose handler is this process, once a [`Running`] host of it starts: its program only tells the port.
    pub(crate) fn with_handler() -> Self {
        Self::new("echo $FUNCTIONS_CUSTOMHANDLER_PORT > port.part\nmv port.part port\nexec sleep 600")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        self.write_bytes(path, text.as_bytes());
    }

    pub(crate) fn write_bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
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

/// A host of an app in this process, whose handler answers every invocation with 200 and the function's name in `X-Function`.
pub(crate) struct Running {
    address: SocketAddr,
    host: JoinHandle<Result<(), Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Running {
    /// Starts a host with these settings; the error lists why it does not start.
    pub(crate) async fn start(app: &App, settings: BTreeMap<String, String>) -> Result<Self, Vec<String>> {
        let (arguments, port) = (app.arguments(), app.path().join("port"));
        let (up, is_up) = oneshot::channel();
        let host = tokio::spawn(async move { host::run(Options::new(arguments), &settings, up, std::future::pending()).await });
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        thread::spawn(move || {
            let port = loop {
                match fs::read_to_string(&port) {
                    Ok(text) => break text.trim().parse::<u16>().unwrap(),
                    Err(_) if has_ended.load(Ordering::Relaxed) => return,
                    Err(_) => thread::yield_now(),
                }
            };
            for stream in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming().flatten() {
                thread::spawn(move || handler::serve(stream, named));
            }
        });
        if let Ok(up) = is_up.await {
            return Ok(Self { address: up.address, host, ended });
        }
        ended.store(true, Ordering::Relaxed);
        Err(host.await.unwrap().unwrap_err())
    }

    /// Status of the answer to a request such as `GET /api/x`, and the function that answered.
    pub(crate) async fn ask(&self, request: &str) -> (u16, Option<String>) {
        let (address, request) = (self.address, request.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let mut lines = answer.lines();
            let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let name = lines.find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("x-function")));
            (status, name.map(|(_, function)| function.to_owned()))
        })
        .await
        .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.host.abort();
    }
}

/// The name of the called function, as an answer of the handler.
fn named(call: &Message) -> Vec<u8> {
    let response = json!({"statusCode": 200, "headers": {"X-Function": call.word(1).trim_start_matches('/')}});
    let body = json!({"Outputs": {"res": response}}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    (head + &body).into_bytes()
}
