//! A keep-alive HTTP client that costs little, and what is measured with it.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why a benchmark could not go on.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Until an answer is complete; a server that takes longer is broken, not slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An order with this id, of the size and shape that people order.
pub fn order(id: &str) -> String {
    format!(
        r#"{{"orderId":"{id}","customerId":"C-1001","currency":"EUR","items":[{{"sku":"SKU-1","quantity":2,"unitPrice":"19.90"}},{{"sku":"SKU-2","quantity":1,"unitPrice":"4.50"}}]}}"#
    )
}

/// One connection, one request at a time.
pub struct Connection {
    authority: String,
    sender: SendRequest<Payload>,
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(authority: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { authority: authority.to_owned(), sender })
    }

    /// Sends a GET and collects the answer.
    pub async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::get(path).header("Host", &self.authority).body(Payload::none())?;
        self.send(request).await
    }

    /// Sends a GET that is to be answered when there is news, or after so many seconds.
    pub async fn get_waiting(&mut self, path: &str, seconds: u64) -> Result<(StatusCode, Bytes), Failure> {
        let request =
            Request::get(path).header("Host", &self.authority).header("Prefer", format!("wait={seconds}")).body(Payload::none())?;
        self.send(request).await
    }

    /// Sends a POST of JSON and collects the answer.
    pub async fn post(&mut self, path: &str, body: Payload) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::post(path)
            .header("Host", &self.authority)
            .header("Content-Type", "application/json")
            .header("X-Azure-Functions-InvocationId", "00000000-0000-0000-0000-000000000000")
            .body(body)?;
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Payload>) -> Result<(StatusCode, Bytes), Failure> {
        let answer = async {
            self.sender.ready().await?;
            let (parts, body) = self.sender.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>((parts.status, body.collect().await?.to_bytes()))
        };
        Ok(tokio::time::timeout(ANSWER_TIMEOUT, answer).await??)
    }
}

/// The body of a request, framed with a Content-Length or chunked.
pub struct Payload {
    data: Option<Bytes>,
    sized: bool,
}

impl Payload {
    /// No body.
    pub fn none() -> Self {
        Self { data: None, sized: true }
    }

    /// As clients send it.
    pub fn sized(data: impl Into<Bytes>) -> Self {
        Self { data: Some(data.into()), sized: true }
    }

    /// As the Functions host sends it.
    pub fn chunked(data: impl Into<Bytes>) -> Self {
        Self { data: Some(data.into()), sized: false }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.data {
            _ if !self.sized => SizeHint::new(),
            Some(data) => SizeHint::with_exact(data.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The middle of some figures, or of the two in the middle.
pub fn median(figures: impl IntoIterator<Item = f64> + Clone) -> f64 {
    f64::midpoint(quantile(figures.clone(), 0.5), -quantile(figures.into_iter().map(|figure| -figure), 0.5))
}

/// The figure that a share of all figures does not exceed; NaN without any.
pub fn quantile(figures: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a length")]
    let place = (figures.len() as f64 * share) as usize;
    figures.get(place.min(figures.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// For people.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
