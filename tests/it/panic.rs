//! A panic ends one request and harms no other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use serving::server::{self, Drained, Limits};
use tokio::sync::Notify;

use crate::support::request;

#[test]
fn a_panic_in_one_request_answers_500_and_harms_no_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = runtime.block_on(async { server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap() });
    let port = listener.local_addr().unwrap().port();
    let limits = Limits { header_timeout: Duration::from_secs(5), max_connections: 8, drain_timeout: Duration::from_secs(5) };
    let released = Arc::new(Notify::new());
    let service = {
        let released = Arc::clone(&released);
        move |request| answer(request, Arc::clone(&released))
    };
    let served = runtime.spawn(server::serve(listener, service, limits, async { stopped.await.unwrap() }));
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");

    let (slow, panicked, after) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| request("GET", &url("/slow"), &[], None).status);
        let panicked = request("GET", &url("/panic"), &[], None).status;
        let after = request("GET", &url("/"), &[], None).status;
        released.notify_one();
        (slow.join().unwrap(), panicked, after)
    });
    stop.send(()).unwrap();

    assert_eq!((slow, panicked, after), (200, 500, 200));
    assert_eq!(runtime.block_on(served).unwrap(), Drained::Completely);
}

async fn answer(request: Request<Incoming>, released: Arc<Notify>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/panic" => panic!("on purpose"),
        "/slow" => released.notified().await,
        _ => {}
    }
    Response::new(Full::default())
}
