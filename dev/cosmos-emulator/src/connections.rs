//! A listener and its connections, which can be closed together.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept, which usually means that there are no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A service that answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    fn connected(&self) {}

    fn answer(&self, request: Request<Incoming>, connection: Connection) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// The connection that a request came on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection(Arc<Notify>);

/// A running accept loop.
#[derive(Debug)]
pub(crate) struct Listening {
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Connection {
    /// Closes the connection. Never returns, since there is no answer to send.
    pub(crate) async fn close(&self) -> Infallible {
        self.0.notify_one();
        std::future::pending().await
    }
}

impl Listening {
    /// Accepts connections until it is stopped.
    pub(crate) fn start(listener: TcpListener, service: Arc<impl Service>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, accepting: tokio::spawn(accept(listener, service, stopped)) }
    }

    /// Closes the listener and every connection, even in the middle of a request.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(()); // fails only if the accept loop panicked
        let _ = self.accepting.await;
    }
}

/// Listens on a port with `SO_REUSEADDR`, since the port is closed and opened again at once.
pub(crate) fn bind(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, service: Arc<impl Service>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    service.connected();
                    connections.spawn(serve(stream, Arc::clone(&service)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves a connection by HTTP/1.1, or by HTTP/2 if the client begins with it.
async fn serve(stream: TcpStream, service: Arc<impl Service>) {
    let _ = stream.set_nodelay(true); // a failure only delays answers
    let connection = Connection::default();
    let close = Arc::clone(&connection.0);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(service.answer(request, connection).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = builder.serve_connection(TokioIo::new(stream), answer) => {}
        () = close.notified() => {}
    }
}
