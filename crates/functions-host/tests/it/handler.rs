//! A handler inside the test: records each call, and answers it with the bytes that the test has set.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// A request to the handler, or an answer of the host: the first line, the headers as they are spelt, and the body.
#[derive(Debug, Default, Clone)]
pub(crate) struct Message {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Reads a message. A body without a length ends with the stream if `to_end`, and is empty otherwise.
    pub(crate) fn read(reader: &mut impl BufRead, to_end: bool) -> Option<Self> {
        let mut message = Self { start: line(reader)?, ..Self::default() };
        loop {
            let line = line(reader)?;
            let Some((name, value)) = line.split_once(':') else { break };
            message.headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        if message.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = u64::from_str_radix(line(reader)?.trim(), 16).ok()?;
                reader.by_ref().take(size).read_to_end(&mut message.body).ok()?;
                line(reader)?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = message.header("content-length").and_then(|length| length.parse().ok()) {
            reader.take(length).read_to_end(&mut message.body).ok()?;
        } else if to_end {
            reader.read_to_end(&mut message.body).ok()?;
        }
        Some(message)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The word of the first line at this place: the method, the target, or the status.
    pub(crate) fn word(&self, place: usize) -> &str {
        self.start.split(' ').nth(place).unwrap_or_default()
    }
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// The handler's side of a test.
pub(crate) struct Handler {
    answer: Arc<Mutex<Vec<u8>>>,
    calls: mpsc::Receiver<Message>,
}

impl Handler {
    /// Listens on the port; every later call gets the answer that is set then.
    pub(crate) fn listen(port: u16) -> Self {
        let answer = Arc::new(Mutex::new(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()));
        let (called, calls) = mpsc::channel();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::clone(&answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, called) = (Arc::clone(&shared), called.clone());
                thread::spawn(move || {
                    serve(stream, |call| {
                        let is_probe = call.start.starts_with("GET / ");
                        if !is_probe {
                            // The receiver is gone when the test has ended.
                            drop(called.send(call.clone()));
                        }
                        answer.lock().unwrap().clone()
                    })
                });
            }
        });
        Self { answer, calls }
    }

    pub(crate) fn set_answer(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
    }

    /// While this lives, no call gets an answer.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Vec<u8>> {
        self.answer.lock().unwrap()
    }

    /// The next call, once it is there.
    pub(crate) fn call(&self) -> Message {
        self.calls.recv().unwrap()
    }

    /// The calls since the last look.
    pub(crate) fn calls(&self) -> Vec<Message> {
        self.calls.try_iter().collect()
    }
}

/// Answers the calls of one connection of the host.
pub(crate) fn serve(stream: TcpStream, answer: impl Fn(&Message) -> Vec<u8>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    while let Some(call) = Message::read(&mut reader, false) {
        reader.get_mut().write_all(&answer(&call)).ok()?;
    }
    Some(())
}
