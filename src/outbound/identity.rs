//! The handler's identity at Azure services, and its tokens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, StatusCode};
use azure_core::time::OffsetDateTime;
use azure_identity::{
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::config::identity::Identity;

/// Remaining life below which the next token is fetched, while the old one is still used.
const EARLY: Duration = Duration::from_mins(5);
/// Remaining life below which a token is no longer used: it may expire before the request arrives.
const LATE: Duration = Duration::from_secs(5);
/// Shortest time between two requests for a token.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest wait of a call for its token. The fetch goes on without the call.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Age of a fetch after which another may begin beside it.
const BESIDE: Duration = Duration::from_secs(2);
/// Longest fetch of a token.
const LONGEST: Duration = Duration::from_mins(1);

/// The tokens of this identity.
pub fn credential(identity: &Identity) -> Result<Arc<Tokens>, azure_core::Error> {
    let source = Mutex::new(source(identity)?);
    Ok(Arc::new(Tokens(Arc::new(Held {
        identity: identity.clone(),
        source,
        fetched: Mutex::default(),
        running: Mutex::default(),
        ended: Notify::new(),
    }))))
}

fn source(identity: &Identity) -> Result<Arc<dyn TokenCredential>, azure_core::Error> {
    Ok(match identity {
        Identity::Managed { client_id } => {
            let user_assigned_id = client_id.clone().map(UserAssignedId::ClientId);
            // Without the library's own repetitions, whose pauses are long: a call that comes after the endpoint is back asks at once.
            let client_options = ClientOptions { retry: RetryOptions::none(), ..Default::default() };
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions { user_assigned_id, client_options }))?
        }
        Identity::Workload { client_id } => {
            let client_id = client_id.clone();
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions { client_id, ..Default::default() }))?
        }
        Identity::DeveloperTools => DeveloperToolsCredential::new(None)?,
    })
}

/// Whether the token endpoint refused the request, rather than failed to answer: then the setup needs a correction.
pub fn is_refused(error: &azure_core::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(status) = error.downcast_ref::<azure_core::Error>().and_then(azure_core::Error::http_status) {
            return status.is_client_error() && !matches!(status, StatusCode::RequestTimeout | StatusCode::TooManyRequests);
        }
        source = error.source();
    }
    false
}

/// A cache of tokens, each used until it expires. The cache in `azure_identity` drops a token five minutes before its expiry even if
/// the next one cannot be fetched, and every caller waits for that fetch.
#[derive(Debug)]
pub struct Tokens(Arc<Held>);

struct Held {
    identity: Identity,
    source: Mutex<Arc<dyn TokenCredential>>,
    fetched: Mutex<Vec<Fetched>>,
    /// The fetches that run. Locked before `fetched`.
    running: Mutex<Vec<Running>>,
    /// Told whenever a fetch has ended.
    ended: Notify,
}

struct Running {
    scope: String,
    since: Instant,
    fetch: Fetch,
}

/// A fetch, for any number of calls: nothing until it ends. Its task closes the channel.
type Fetch = watch::Receiver<Option<Result<AccessToken, SharedError>>>;

/// An error that several calls get.
#[derive(Debug, Clone)]
struct SharedError(Arc<azure_core::Error>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

struct Fetched {
    scope: String,
    token: AccessToken,
    at: Instant,
    /// When the next token may be requested: an endpoint that issues short-lived tokens is not called on every use.
    next: Instant,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}

/// The state of the cached token.
enum Cached {
    Fresh(AccessToken),
    /// Valid, but close to its expiry; whether the next one is due.
    Ageing(AccessToken, bool),
    Missing,
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(&self, scopes: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let scope = *scopes.first().unwrap_or(&"");
        let wait = async {
            loop {
                let ended = self.0.ended.notified();
                let mut fetch = match self.0.token_or_fetch(scope) {
                    Ok(token) => return Ok(token),
                    Err(fetch) => fetch,
                };
                tokio::select! {
                    biased;
                    fetched = fetch.wait_for(Option::is_some) => {
                        let fetched = fetched.ok().and_then(|fetched| fetched.clone()).ok_or_else(late)?;
                        return fetched.map_err(|error| azure_core::Error::new(error.0.kind().clone(), error));
                    }
                    // An earlier fetch may have got the token.
                    () = ended => {}
                }
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Tokens {
    /// Drops tokens after a service refused one. A token may have expired unnoticed if this machine's clock is slow; the credential
    /// is replaced too, since the cache in `azure_identity` uses the same clock. Tokens younger than `PAUSE` stay: an identity
    /// without a role is refused with every token.
    pub fn forget(&self) {
        let mut fetched = self.0.fetched.lock();
        let before = fetched.len();
        fetched.retain(|fetched| fetched.at.elapsed() < PAUSE);
        if fetched.len() < before
            && let Ok(source) = source(&self.0.identity)
        {
            *self.0.source.lock() = source;
        }
    }
}

impl Held {
    fn cached(&self, scope: &str) -> Cached {
        let mut fetched = self.fetched.lock();
        let Some(fetched) = fetched.iter_mut().find(|fetched| fetched.scope == scope) else { return Cached::Missing };
        let left = fetched.token.expires_on - OffsetDateTime::now_utc();
        if left > EARLY {
            Cached::Fresh(fetched.token.clone())
        } else if left > LATE {
            let now = Instant::now();
            let is_time = fetched.next <= now;
            if is_time {
                fetched.next = now + PAUSE;
            }
            Cached::Ageing(fetched.token.clone(), is_time)
        } else {
            Cached::Missing
        }
    }

    /// A token, or the fetch to wait for: the one that runs, or a new one.
    fn token_or_fetch(self: &Arc<Self>, scope: &str) -> Result<AccessToken, Fetch> {
        let mut running = self.running.lock();
        match self.cached(scope) {
            Cached::Fresh(token) | Cached::Ageing(token, false) => Ok(token),
            Cached::Ageing(token, true) => {
                self.begin(scope, &mut running);
                Ok(token)
            }
            Cached::Missing => Err(self.begin(scope, &mut running)),
        }
    }

    /// Begins to fetch a token, unless such a fetch has just begun. The fetch is a task of its own, which ends within [`LONGEST`]: a
    /// fetch that ended with the call that began it would never get a token from an endpoint that takes longer than [`TIMEOUT`]. A
    /// fetch may also wait for a dead connection, so after [`BESIDE`] another may begin beside it.
    fn begin(self: &Arc<Self>, scope: &str, running: &mut Vec<Running>) -> Fetch {
        running.retain(|one| one.fetch.has_changed().is_ok());
        if let Some(one) = running.iter().find(|one| one.scope == scope && one.since.elapsed() < BESIDE) {
            return one.fetch.clone();
        }
        let (sender, fetch) = watch::channel(None);
        running.push(Running { scope: scope.to_owned(), since: Instant::now(), fetch: fetch.clone() });
        let (held, scope) = (Arc::clone(self), scope.to_owned());
        tokio::spawn(async move {
            let fetched = held.fetch(&scope).await;
            // Calls that wait tell the reason themselves; one receiver is that of `running`.
            if let Err(error) = &fetched
                && sender.receiver_count() <= 1
            {
                // The library's errors have several lines.
                let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
                warn!("a token could not be fetched ({reason}); an old one is used as long as it lasts");
            }
            sender.send_replace(Some(fetched.map_err(|error| SharedError(Arc::new(error)))));
            held.ended.notify_waiters();
        });
        fetch
    }

    async fn fetch(&self, scope: &str) -> azure_core::Result<AccessToken> {
        let source = Arc::clone(&self.source.lock());
        let scopes = [scope];
        let token = tokio::time::timeout(LONGEST, source.get_token(&scopes, None)).await.map_err(|_| late())??;
        let mut fetched = self.fetched.lock();
        fetched.retain(|fetched| fetched.scope != scope);
        fetched.push(Fetched { scope: scope.to_owned(), token: token.clone(), at: Instant::now(), next: Instant::now() + PAUSE });
        Ok(token)
    }
}

fn late() -> azure_core::Error {
    azure_core::Error::with_message(ErrorKind::Credential, "no token came in time")
}
