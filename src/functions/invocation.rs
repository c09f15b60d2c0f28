//! An invocation: one call of a function by the host.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use crate::domain::problem::Problem;
use crate::envelope::{self, Answer, HttpRequest};
use crate::functions::reply::{self, Conclusion, Refusal};

/// Largest invocation, in bytes; the body of a larger one is read to its end and dropped. An order that fits the queue is far
/// smaller, even escaped inside the envelope and copied into the metadata.
pub const MAX_INVOCATION: usize = 4 * 1024 * 1024;
/// Longest time to receive a body, which comes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// One call of a function by the host.
#[derive(Debug)]
pub struct Invocation {
    /// `X-Azure-Functions-InvocationId`: the id in the host's log.
    pub id: String,
    /// `traceparent` of the host's request.
    pub traceparent: Option<String>,
    /// When the request's head arrived.
    pub started: Instant,
    /// The envelope.
    pub body: InvocationBody,
}

/// The body of an invocation.
#[derive(Debug)]
pub enum InvocationBody {
    /// The whole body.
    Whole(Bytes),
    /// A body larger than [`MAX_INVOCATION`], which was dropped.
    TooLarge,
    /// A body that ended early or came too late.
    Broken,
}

impl Invocation {
    /// Reads an invocation whose body is still arriving.
    pub async fn receive(id: Option<String>, traceparent: Option<String>, body: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Self {
        let started = Instant::now();
        // The host always sends the id; other tools may not.
        let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let body = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await.unwrap_or(InvocationBody::Broken);
        Self { id, traceparent, started, body }
    }

    /// The client's request to a function that needs no body.
    pub fn http_request(&self) -> Result<HttpRequest<'_>, Conclusion> {
        if matches!(self.body, InvocationBody::TooLarge) {
            let too_large = Problem::body_too_large("send the request without a body");
            return Err(Conclusion::new(Ok(Answer::respond(reply::problem(&too_large)))));
        }
        let read = |body| envelope::http_request(body).map_err(|error| Refusal::unreadable(&error));
        self.body.whole().and_then(|body| read(body)).map_err(|refusal| Conclusion::new(Err(refusal)))
    }
}

impl InvocationBody {
    /// The envelope, if the body is whole.
    pub fn whole(&self) -> Result<&Bytes, Refusal> {
        match self {
            Self::Whole(body) => Ok(body),
            Self::TooLarge => Err(Refusal::malformed("the body is too large")),
            Self::Broken => Err(Refusal::malformed("the body ended early or came too late")),
        }
    }
}

/// Reads a body, chunked or not, and keeps at most [`MAX_INVOCATION`]. A body that is too large is still read to its end: an answer
/// that is sent while the host is still sending is lost.
async fn collect(body: impl Stream<Item = Result<impl Buf, warp::Error>>) -> InvocationBody {
    let mut body = std::pin::pin!(body);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = body.next().await {
        let Ok(mut chunk) = chunk else { return InvocationBody::Broken };
        length += chunk.remaining();
        if length > MAX_INVOCATION {
            (first, rest) = (Bytes::new(), BytesMut::new());
        } else if first.is_empty() && rest.is_empty() {
            first = chunk.copy_to_bytes(chunk.remaining());
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
        }
    }
    match length {
        length if length > MAX_INVOCATION => InvocationBody::TooLarge,
        _ if rest.is_empty() => InvocationBody::Whole(first),
        _ => InvocationBody::Whole(rest.freeze()),
    }
}
