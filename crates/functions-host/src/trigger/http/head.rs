//! The heads of requests on their way to hyper, which tells no spelling of header names and refuses targets that Kestrel takes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memchr2};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};

use crate::wire::push_escape;
use crate::wire::spelling;

/// Size above which a head is left to hyper, which refuses it: the default of its read buffer.
const MAX_HEAD: usize = 8192 + 4096 * 100;

/// The reading half of a client's connection. In each head, names that ASP.NET Core knows get its spelling, and the path is escaped.
pub(crate) struct Heads<R> {
    stream: R,
    /// Bytes that were read and not looked at.
    raw: BytesMut,
    /// Bytes for hyper.
    ready: Bytes,
    next: Next,
    passed: Passed,
}

/// What comes next in the stream.
enum Next {
    /// A head. That many of its bytes were looked at, and its end is not among them.
    Head(usize),
    /// That many bytes of a body.
    Body(u64),
    /// A chunked body, or what hyper refuses. The connection is not looked at any more.
    Unread,
}

/// The heads that were passed to hyper, one for each request that hyper makes of them, in the same order.
#[derive(Clone, Default)]
pub(crate) struct Passed(Arc<Mutex<VecDeque<Head>>>);

impl Passed {
    /// The head of the next request; `None` when the connection is not looked at any more.
    pub(crate) fn next(&self) -> Option<Head> {
        self.0.lock().pop_front()
    }
}

/// The head of a request as hyper got it.
#[derive(Debug, Clone)]
pub(crate) struct Head(Bytes);

impl Head {
    /// The names of the headers in their order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let lines = memchr_iter(b'\n', &self.0).map(|end| &self.0[end + 1..]);
        let name = |line: &'_ [u8]| memchr2(b':', b'\n', line).filter(|at| line[*at] == b':');
        lines.filter_map(|line| std::str::from_utf8(&line[..name(line)?]).ok()).collect()
    }
}

impl<R> Heads<R> {
    /// Looks at what is read from the stream.
    pub(crate) fn of(stream: R) -> (Self, Passed) {
        let passed = Passed::default();
        let heads = Self { stream, raw: BytesMut::new(), ready: Bytes::new(), next: Next::Head(0), passed: passed.clone() };
        (heads, passed)
    }

    /// Makes bytes ready of those that were read. `false`: that needs more of them.
    fn prepare(&mut self) -> bool {
        match &mut self.next {
            Next::Head(seen) => {
                if *seen == 0 {
                    let blank = self.raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                    self.raw.advance(blank);
                }
                if !may_be_request(&self.raw) {
                    self.next = Next::Unread;
                    return self.prepare();
                }
                match end_of_head(&self.raw, seen) {
                    Some(end) => {
                        let mut head = self.raw.split_to(end);
                        self.next = spelt(&mut head);
                        self.ready = escaped(head).freeze();
                        self.passed.0.lock().push_back(Head(self.ready.clone()));
                    }
                    None if self.raw.len() > MAX_HEAD => self.next = Next::Unread,
                    None => return false,
                }
            }
            Next::Body(0) => self.next = Next::Head(0),
            Next::Body(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.raw.len());
                self.ready = self.raw.split_to(here).freeze();
                *left -= here as u64;
                return here > 0;
            }
            Next::Unread => {
                self.ready = self.raw.split().freeze();
                return !self.ready.is_empty();
            }
        }
        true
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Heads<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ready.has_remaining() {
                let here = this.ready.len().min(buffer.remaining());
                buffer.put_slice(&this.ready.split_to(here));
                return Poll::Ready(Ok(()));
            }
            if this.prepare() {
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            let read = buffer.filled().len() - before;
            match &mut this.next {
                // A body is most of what is read, and is not copied.
                Next::Body(left) if read as u64 <= *left => {
                    *left -= read as u64;
                    return Poll::Ready(Ok(()));
                }
                Next::Unread => return Poll::Ready(Ok(())),
                // The stream has ended within a head.
                _ if read == 0 => this.next = Next::Unread,
                _ => {
                    this.raw.extend_from_slice(&buffer.filled()[before..]);
                    buffer.set_filled(before);
                }
            }
            if read == 0 && this.raw.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Whether these bytes may be a request of HTTP/1 and the beginning of one. Hyper refuses other bytes without waiting for a whole
/// line, so such bytes are passed on unread.
fn may_be_request(raw: &[u8]) -> bool {
    let (line, is_whole) = memchr(b'\n', raw).map_or((raw, false), |end| (&raw[..end], true));
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_text = line.iter().all(|byte| !byte.is_ascii_control());
    is_text && (!is_whole || line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
}

/// End of the empty line after a head, if it is there; `seen` bytes were looked at already.
fn end_of_head(raw: &[u8], seen: &mut usize) -> Option<usize> {
    while let Some(length) = memchr(b'\n', &raw[*seen..]) {
        let before = &raw[..*seen + length];
        *seen = before.len() + 1;
        if before.ends_with(b"\n") || before.ends_with(b"\n\r") {
            return Some(*seen);
        }
    }
    *seen = raw.len();
    None
}

/// Gives known names their spelling, and finds what follows the head.
fn spelt(head: &mut [u8]) -> Next {
    let mut length = None;
    let mut is_plain = true;
    let mut rest = head;
    while let Some(end) = memchr(b'\n', rest) {
        rest = &mut rest[end + 1..];
        let Some(colon) = memchr2(b':', b'\n', rest).filter(|colon| rest[*colon] == b':') else { continue };
        let (name, value) = rest.split_at_mut(colon);
        let Some(known) = spelling::known(name).map(|place| spelling::KNOWN[place]) else { continue };
        name.copy_from_slice(known.as_bytes());
        if known == "Transfer-Encoding" {
            is_plain = false;
        } else if known == "Content-Length" {
            let value = &value[1..memchr(b'\n', value).unwrap_or(value.len())];
            let digits = std::str::from_utf8(value.trim_ascii()).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse::<u64>().ok());
            is_plain &= number.is_some() && length.is_none_or(|length| Some(length) == number);
            length = number;
        }
    }
    if is_plain { Next::Body(length.unwrap_or(0)) } else { Next::Unread }
}

/// Escapes what hyper refuses in the path of a target, and Kestrel takes. The query stays: the real host passes it on as it was sent.
fn escaped(head: BytesMut) -> BytesMut {
    let odd = |byte: &u8| matches!(byte, b'<' | b'>' | b'^' | b'`' | b'"');
    let path = memchr2(b'?', b'\n', &head).unwrap_or(head.len());
    if !head[..path].iter().any(odd) {
        return head;
    }
    let mut escaped = BytesMut::with_capacity(head.len() + 2 * path);
    for byte in &head[..path] {
        if odd(byte) {
            let mut escape = String::new();
            push_escape(&mut escape, *byte);
            escaped.extend_from_slice(escape.as_bytes());
        } else {
            escaped.extend_from_slice(&[*byte]);
        }
    }
    escaped.extend_from_slice(&head[path..]);
    escaped
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What hyper would read when the stream comes in pieces of that many bytes, and the heads that were passed.
    fn read(sent: &[u8], piece: usize) -> (Vec<u8>, Vec<Head>) {
        struct Pieces<'s>(&'s [u8], usize);
        impl AsyncRead for Pieces<'_> {
            fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                let (here, rest) = self.0.split_at(self.1.min(self.0.len()).min(buffer.remaining()));
                buffer.put_slice(here);
                self.0 = rest;
                Poll::Ready(Ok(()))
            }
        }
        let (mut heads, passed) = Heads::of(Pieces(sent, piece));
        let mut got = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(heads.read_to_end(&mut got)).unwrap();
        (got, std::iter::from_fn(|| passed.next()).collect())
    }

    #[test]
    fn each_head_is_found_however_the_bytes_come() {
        let get = b"\r\nGET /a<b?c<d HTTP/1.1\r\nhOST: x\r\nx-Y: accept: z\r\n\r\n";
        let post = b"POST / HTTP/1.0\naccept: y\ncontent-length: 23\n\nGET /< HTTP/1.1\r\na: b\r\n";
        let sent = [&get[..], post, get].concat();
        let got_get = b"GET /a%3Cb?c<d HTTP/1.1\r\nHost: x\r\nx-Y: accept: z\r\n\r\n";
        let got_post = b"POST / HTTP/1.0\nAccept: y\nContent-Length: 23\n\nGET /< HTTP/1.1\r\na: b\r\n";
        for piece in 1..=sent.len() {
            let (got, passed) = read(&sent, piece);

            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&[&got_get[..], got_post, got_get].concat()), "{piece}");
            assert_eq!(passed.len(), 3);
            assert_eq!(passed[0].names(), ["Host", "x-Y"]);
        }
    }

    #[test]
    fn a_head_that_is_too_long_passes_before_its_end() {
        let sent = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(MAX_HEAD));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let got = runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(2 * MAX_HEAD);
            tokio::io::AsyncWriteExt::write_all(&mut client, sent.as_bytes()).await.unwrap();
            let (mut heads, _) = Heads::of(server);
            let mut got = vec![0; sent.len()];
            // The stream has not ended: without the bound this would wait for ever.
            heads.read_exact(&mut got).await.unwrap();
            got
        });

        assert_eq!(got, sent.as_bytes());
    }

    #[test]
    fn what_is_not_understood_passes_as_it_is() {
        let after = "a: b\r\n\r\nGET /< HTTP/1.1\r\naccept: x\r\n\r\n";
        for head in ["Transfer-Encoding: chunked\r\n", "Content-Length: 1\r\nContent-Length: 2\r\n", "Content-Length: +1\r\n"] {
            let sent = format!("POST / HTTP/1.1\r\n{head}{after}");
            let (got, passed) = read(sent.as_bytes(), 7);

            assert_eq!(String::from_utf8_lossy(&got), sent);
            assert_eq!(passed.len(), 1);
        }
        for sent in [format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(MAX_HEAD)), "GET / HTTP/1.1\r\nac".to_owned(), String::new()] {
            let (got, passed) = read(sent.as_bytes(), 1000);

            assert_eq!(got, sent.as_bytes());
            assert!(passed.is_empty());
        }
    }
}
