//! The other side of a wire: an HTTP server that answers as a test tells it, and keeps what it hears.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::eventually;

/// A request as it arrived; names of headers in lower case.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Instant,
    pub line: String,
    pub headers: BTreeMap<String, String>,
    /// The body as text; what is no UTF-8 is replaced.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Heard {
    /// The path and the query that are asked for.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

#[derive(Debug, Clone)]
pub enum Reply {
    /// Sent as it is. The connection stays for the next request unless it says `Connection: close`.
    Text(String),
    /// A head, and then what the test sends.
    Stream(&'static str, Arc<Mutex<Receiver<&'static str>>>),
    /// Nothing; the connection is kept until the other side ends it.
    Silence,
    /// Nothing; the connection is ended.
    Drop,
}

/// A whole answer, the last of its connection unless the headers say otherwise.
pub fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let named = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
    let close = if headers.iter().any(|(name, _)| *name == "Connection") { "" } else { "Connection: close\r\n" };
    Reply::Text(format!("HTTP/1.1 {status} Said\r\n{named}Content-Length: {}\r\n{close}\r\n{body}", body.len()))
}

/// Ends when dropped.
pub struct Fake {
    pub url: String,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    heard: Mutex<Vec<Heard>>,
    replies: Mutex<VecDeque<Reply>>,
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Fake {
    /// Replies in this order, the last one for ever; silence where there is none.
    pub fn replying(replies: impl IntoIterator<Item = Reply>) -> Self {
        let state = State { replies: Mutex::new(replies.into_iter().collect()), ..State::default() };
        Self::serve(0, state, |state, _, _| {
            let mut replies = state.replies.lock().unwrap();
            let next = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
            next.unwrap_or(Reply::Silence)
        })
    }

    /// `answer` is told a request and how many were heard before it, and may block.
    pub fn answering(answer: impl Fn(usize, &Heard) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(0, answer)
    }

    pub fn on(port: u16, answer: impl Fn(usize, &Heard) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(port, State::default(), move |_, number, heard| answer(number, heard))
    }

    fn serve(port: u16, state: State, answer: impl Fn(&State, usize, &Heard) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (state, answer) = (Arc::new(state), Arc::new(answer));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                std::thread::spawn(move || converse(&stream, &state, &*answer));
            }
        });
        Self { url, state, thread: Some(thread) }
    }

    /// From now on these are the replies.
    pub fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.state.replies.lock().unwrap() = replies.into_iter().collect();
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.state.heard.lock().unwrap().clone()
    }

    /// What was asked of this target: a test that asks again and again must not copy everything else each time.
    pub fn heard_at(&self, target: &str) -> Vec<Heard> {
        self.state.heard.lock().unwrap().iter().filter(|heard| heard.target() == target).cloned().collect()
    }

    pub fn until_heard(&self, requests: usize) {
        eventually("it is asked", || (self.state.heard.lock().unwrap().len() >= requests).then_some(()));
    }

    pub fn until_answered(&self, requests: usize) {
        eventually("it has answered", || (self.state.answered.load(Ordering::Relaxed) == requests).then_some(()));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.strip_prefix("http://").unwrap());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn converse(mut stream: &TcpStream, state: &State, answer: &dyn Fn(&State, usize, &Heard) -> Reply) {
    let mut reader = BufReader::new(stream);
    while let Some(heard) = hear(&mut reader) {
        let number = {
            let mut all = state.heard.lock().unwrap();
            all.push(heard.clone());
            all.len() - 1
        };
        // The client may have gone.
        let goes_on = match answer(state, number, &heard) {
            Reply::Text(text) => stream.write_all(text.as_bytes()).is_ok() && !text.contains("Connection: close\r\n"),
            Reply::Stream(head, lines) => {
                let _ = stream.write_all(head.as_bytes());
                let lines = lines.lock().unwrap();
                let _ = lines.iter().try_for_each(|line| stream.write_all(line.as_bytes()));
                false
            }
            Reply::Silence => {
                let _ = reader.read_to_end(&mut Vec::new());
                false
            }
            Reply::Drop => false,
        };
        state.answered.fetch_add(1, Ordering::Relaxed);
        if !goes_on {
            return;
        }
    }
}

fn hear(reader: &mut BufReader<&TcpStream>) -> Option<Heard> {
    let mut head = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let line = head.next()?;
    let headers = head.filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())));
    let headers: BTreeMap<_, _> = headers.collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Some(Heard { at: Instant::now(), line, headers, body: text, bytes: body })
}
