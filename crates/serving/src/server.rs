//! Accept loop, with what `warp::serve` leaves out.
//!
//! `TCP_NODELAY`, a header-read timeout, a limit of connections that is fair to every client, a drain deadline, and a panic that
//! ends one request only.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, error, warn};

use crate::running::Running;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept, whose usual reason is that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the last answer to be sent before its connection is dropped.
const LINGER: Duration = Duration::from_millis(100);

/// Limits of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time until a request's headers are complete. Also ends idle connections, so it must be longer than clients keep idle connections.
    pub header_timeout: Duration,
    /// Connections at the same time. Further connections wait in order of arrival. While one waits, every answer closes its connection:
    /// otherwise clients that reuse their connections would keep the waiting ones out for ever.
    pub max_connections: usize,
    /// Time for running requests to end after the server is asked to stop.
    pub drain_timeout: Duration,
}

/// End of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered.
    Completely,
    /// The drain deadline passed before every request was answered.
    DeadlinePassed,
}

/// Binds with `SO_REUSEADDR`, since the host starts a new handler on the port of the old one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then lets running requests end.
pub async fn serve<F, A, B>(listener: TcpListener, service: F, limits: Limits, stop: impl Future<Output = ()>) -> Drained
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + From<&'static str> + Send + 'static,
{
    serve_streams(listener, http1::Builder::new(), |stream| (stream, service.clone()), limits, stop).await
}

/// As [`serve`], with further options of HTTP, and with a stream and a service of its own for each connection.
pub async fn serve_streams<O, S, F, A, B>(
    listener: TcpListener,
    mut http: http1::Builder,
    open: O,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> Drained
where
    O: Fn(TcpStream) -> (S, F),
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A + Send + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + From<&'static str> + Send + 'static,
{
    let connections = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let is_full = Arc::new(AtomicBool::new(false));
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    let mut stop = std::pin::pin!(stop);
    let running = Running::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &permits, &is_full) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let (stream, service) = open(stream);
        let running = running.clone();
        let is_full = Arc::clone(&is_full);
        let answer = service_fn(move |request| {
            let place = running.enter();
            let answer = AssertUnwindSafe(service(request)).catch_unwind();
            let is_full = Arc::clone(&is_full);
            async move {
                let _place = place;
                let mut response = answer.await.unwrap_or_else(|_| {
                    error!("a request panicked; it is answered with 500");
                    let mut response = Response::new(B::from(""));
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    response
                });
                if is_full.load(Ordering::Relaxed) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), answer));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    let closed = tokio::time::timeout(limits.drain_timeout, async {
        tokio::select! {
            () = connections.shutdown() => {}
            // A client whose request is incomplete has been promised nothing.
            () = async { running.ended().await; tokio::time::sleep(LINGER).await } => {}
        }
    });
    match closed.await {
        Ok(()) => Drained::Completely,
        Err(_) => Drained::DeadlinePassed,
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    is_full: &AtomicBool,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let (stream, _) = listener.accept().await?;
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        is_full.store(false, Ordering::Relaxed);
        return Ok((stream, permit));
    }
    is_full.store(true, Ordering::Relaxed);
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    Ok((stream, permit))
}
