//! Callbacks by Standard Webhooks: one signed request, to an address of the internet alone.
//!
//! A name is resolved at every try, by our resolver, and the connection goes to the addresses that were judged. No proxy is asked, no
//! redirect followed, no connection kept, and nothing read of an answer but its status and `Retry-After`.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url};
use serving::trace;
use sha2::Sha256;
use tracing::Instrument;

use crate::config::callback::{self, Secret};
use crate::config::public_address::is_public;
use crate::domain::callback::{TRY, Told};
use crate::domain::timestamp::Timestamp;
use crate::outbound;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The sender of callbacks.
#[derive(Debug)]
pub struct Sender {
    internet: Client,
    /// For a receiver on this machine, which the settings allow outside Azure only.
    loopback: Client,
    secrets: Vec<Secret>,
}

impl Sender {
    /// Prepares everything; connects to nothing.
    pub fn new(secrets: &[Secret]) -> Result<Self, String> {
        let client = |fits| client(Vetted { lookup: Arc::new(system), fits });
        Ok(Self { internet: client(is_public)?, loopback: client(|address| address.is_loopback())?, secrets: secrets.to_vec() })
    }

    /// Sends one callback, and tells what the receiver made of it.
    pub async fn send(&self, url: &Url, id: &str, now: Timestamp, body: String) -> Told {
        let client = if callback::is_loopback(url) { &self.loopback } else { &self.internet };
        let seconds = now.as_milliseconds() / 1000;
        // The receiver is told nothing of our trace.
        let noted = trace::Request::begin("POST", url.host_str(), url.port_or_known_default());
        let request = client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signatures(&self.secrets, id, seconds, &body))
            .body(body);
        let sent = tokio::time::timeout(TRY, request.send()).instrument(noted.span().clone()).await;
        let response = match sent.map_err(|_| "timeout").and_then(|answer| answer.map_err(|error| code(&error))) {
            Ok(response) => response,
            Err(code) => {
                noted.unanswered(code, "the callback was not delivered");
                return Told::Failed(code.into(), None);
            }
        };
        noted.answered(response.status().as_u16());
        match response.status() {
            status if status.is_success() => Told::Delivered,
            StatusCode::GONE => Told::Gone,
            status => {
                let may_ask = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                let asked = outbound::http::retry_after(response.headers()).filter(|_| may_ask);
                Told::Failed(format!("http_{}", status.as_u16()), asked)
            }
        }
    }
}

/// The signature under each secret, separated by spaces.
fn signatures(secrets: &[Secret], id: &str, seconds: i64, body: &str) -> String {
    let sign = |secret: &Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.key()).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{seconds}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// Why a request failed, without anything that the receiver sent.
fn code(error: &reqwest::Error) -> &'static str {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return refused.code();
        }
        source = error.source();
    }
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "not_reached"
    } else {
        "broken_off"
    }
}

fn client(resolver: Vetted) -> Result<Client, String> {
    let client = outbound::http::client().connect_timeout(CONNECT_TIMEOUT).pool_max_idle_per_host(0).referer(false);
    client.dns_resolver(resolver).build().map_err(|error| error.to_string())
}

/// Why a name has no address that a callback may go to.
#[derive(Debug)]
enum Refused {
    NotFound,
    /// One of its addresses, at least, is not one that a callback may go to.
    Address,
}

impl Refused {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "name_not_found",
            Self::Address => "address_refused",
        }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Error for Refused {}

type Found = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;

/// A resolver that answers with judged addresses only. It refuses a name with a single address that does not fit: the owner of a
/// name chooses among its addresses.
struct Vetted {
    lookup: Arc<dyn Fn(String) -> Found + Send + Sync>,
    fits: fn(IpAddr) -> bool,
}

impl Vetted {
    async fn addresses(found: Found, fits: fn(IpAddr) -> bool) -> Result<Vec<SocketAddr>, Refused> {
        let addresses = found.await.map_err(|_| Refused::NotFound)?;
        if addresses.is_empty() {
            return Err(Refused::NotFound);
        }
        if addresses.iter().all(|address| fits(address.ip())) { Ok(addresses) } else { Err(Refused::Address) }
    }
}

impl Resolve for Vetted {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, fits) = ((self.lookup)(name.as_str().to_owned()), self.fits);
        Box::pin(async move {
            let addresses = Self::addresses(found, fits).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn system(name: String) -> Found {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn answering(answers: &'static [&'static str]) -> Arc<dyn Fn(String) -> Found + Send + Sync> {
        Arc::new(move |_| {
            let addresses = answers.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
            Box::pin(std::future::ready(Ok(addresses)))
        })
    }

    #[test]
    fn a_name_with_one_address_that_is_not_public_is_refused_whole() {
        for (answers, is_refused) in [
            (&["1.1.1.1", "2606:4700::1111"] as &'static [_], false),
            (&["1.1.1.1", "127.0.0.1"], true),
            (&["169.254.169.254"], true),
            (&["::ffff:10.0.0.1"], true),
            (&["64:ff9b::a9fe:a9fe"], true),
            (&["1.1.1.1", "168.63.129.16"], true),
            (&[], true),
        ] {
            let found = run(Vetted::addresses(answering(answers)(String::new()), is_public));
            assert_eq!(found.is_err(), is_refused, "{answers:?}");
        }
    }

    /// The name is looked up once a try, its judged address is the one connected to, and a name that then leads elsewhere is refused.
    #[test]
    fn a_name_that_is_rebound_between_two_tries_reaches_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 16_384]);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            listener
        });
        let lookups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lookups);
        let lookup = move |_| {
            // Loopback stands for the internet here, and 127.0.0.2 for an address inside.
            let address = ["127.0.0.1", "127.0.0.2"][counted.fetch_add(1, Ordering::Relaxed).min(1)];
            Box::pin(std::future::ready(Ok(vec![SocketAddr::new(address.parse().unwrap(), 0)]))) as Found
        };
        let fits = |address: IpAddr| address == IpAddr::from([127, 0, 0, 1]);
        let client = client(Vetted { lookup: Arc::new(lookup), fits }).unwrap();
        let sender = Sender { internet: client.clone(), loopback: client, secrets: Vec::new() };
        let url = Url::parse(&format!("http://rebound.example:{port}/")).unwrap();
        let now = Timestamp::from_milliseconds(0);

        run(async {
            assert_eq!(sender.send(&url, "msg_1", now, "{}".into()).await, Told::Delivered);
            assert_eq!(lookups.load(Ordering::Relaxed), 1);
            assert_eq!(sender.send(&url, "msg_1", now, "{}".into()).await, Told::Failed("address_refused".into(), None));
            assert_eq!(lookups.load(Ordering::Relaxed), 2);
        });
        let listener = receiver.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "no second connection");
    }
}
