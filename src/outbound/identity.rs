//! The handler's identity at Azure services, and its tokens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use azure_core::time::OffsetDateTime;
use azure_identity::{
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use parking_lot::Mutex;
use tracing::warn;

use crate::config::identity::Identity;

/// Remaining life below which the next token is fetched, while the old one is still used.
const EARLY: Duration = Duration::from_mins(5);
/// Remaining life below which a token is no longer used: it may expire before the request arrives.
const LATE: Duration = Duration::from_secs(5);
/// Shortest time between two requests for a token.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest wait of a call for its token.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Longest duration of a request for a token.
const LONGEST: Duration = Duration::from_secs(30);

/// The tokens of this identity.
pub fn credential(identity: &Identity) -> Result<Arc<Tokens>, azure_core::Error> {
    let source = Mutex::new(source(identity)?);
    Ok(Arc::new(Tokens(Arc::new(Held { identity: identity.clone(), source, fetched: Mutex::new(Vec::new()), fetching: Arc::default() }))))
}

fn source(identity: &Identity) -> Result<Arc<dyn TokenCredential>, azure_core::Error> {
    Ok(match identity {
        Identity::Managed { client_id } => {
            let user_assigned_id = client_id.clone().map(UserAssignedId::ClientId);
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions { user_assigned_id, ..Default::default() }))?
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
    /// The task that fetches a token holds this lock.
    fetching: Arc<tokio::sync::Mutex<()>>,
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
        match self.0.cached(scope) {
            Cached::Fresh(token) | Cached::Ageing(token, false) => Ok(token),
            Cached::Ageing(token, true) => {
                if let Ok(place) = Arc::clone(&self.0.fetching).try_lock_owned() {
                    let (held, scope) = (Arc::clone(&self.0), scope.to_owned());
                    // Callers use the old token meanwhile. The task ends within [`LONGEST`].
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = held.fetch(&scope).await {
                            warn!("the next token could not be fetched ({error}); the old one is still used");
                        }
                    });
                }
                Ok(token)
            }
            Cached::Missing => {
                let wait = async {
                    let _place = self.0.fetching.lock().await;
                    match self.0.cached(scope) {
                        Cached::Fresh(token) | Cached::Ageing(token, _) => Ok(token),
                        Cached::Missing => self.0.fetch(scope).await,
                    }
                };
                let late = |_| azure_core::Error::with_message(ErrorKind::Credential, "no token came in time");
                tokio::time::timeout(TIMEOUT, wait).await.map_err(late)?
            }
        }
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

    async fn fetch(&self, scope: &str) -> azure_core::Result<AccessToken> {
        let source = Arc::clone(&self.source.lock());
        let scopes = [scope];
        let token = tokio::time::timeout(LONGEST, source.get_token(&scopes, None)).await;
        let token = token.map_err(|_| azure_core::Error::with_message(ErrorKind::Credential, "no token came in time"))??;
        let mut fetched = self.fetched.lock();
        fetched.retain(|fetched| fetched.scope != scope);
        fetched.push(Fetched { scope: scope.to_owned(), token: token.clone(), at: Instant::now(), next: Instant::now() + PAUSE });
        Ok(token)
    }
}
