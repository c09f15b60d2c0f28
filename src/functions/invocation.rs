//! One call of a function by the host, read once.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use crate::domain::problem::Problem;
use crate::envelope::{self, Answer, HttpRequest};
use crate::functions::reply::{self, Conclusion, Refusal};

/// An invocation larger than this is read to its end and thrown away: an order that fits the queue is far smaller, even
/// escaped inside the envelope and promoted into its metadata.
pub const MAX_INVOCATION: usize = 4 * 1024 * 1024;
/// Until the body of an invocation has arrived; it comes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// One call of a function by the host.
#[derive(Debug)]
pub struct Invocation {
    /// `X-Azure-Functions-InvocationId`: what the host's own log calls it.
    pub id: String,
    /// When its head arrived.
    pub started: Instant,
    /// The envelope.
    pub body: InvocationBody,
}

/// What came with an invocation.
#[derive(Debug)]
pub enum InvocationBody {
    /// All of it.
    Whole(Bytes),
    /// More than [`MAX_INVOCATION`]; it was thrown away.
    TooLarge,
    /// It broke off.
    Broken,
}

impl Invocation {
    /// Reads an invocation whose body is still arriving.
    pub async fn receive(id: Option<String>, body: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Self {
        let started = Instant::now();
        // Only tools that are not the host leave the id out.
        let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let body = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await.unwrap_or(InvocationBody::Broken);
        Self { id, started, body }
    }

    /// The request of a client that has nothing to send but its line and its headers.
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
    /// The envelope, if it came whole.
    pub fn whole(&self) -> Result<&Bytes, Refusal> {
        match self {
            Self::Whole(body) => Ok(body),
            Self::TooLarge => Err(Refusal::malformed("it is too large")),
            Self::Broken => Err(Refusal::malformed("its body broke off")),
        }
    }
}

/// The body, chunked or not, capped while it is read. The rest of one that is too large is read all the same: an answer before
/// the end of a request is lost when the host is still sending.
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
