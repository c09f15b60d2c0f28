//! Who this process is towards Azure, and how it proves that.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
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
use tracing::warn;

use crate::config::identity::Identity;

/// A token with less left is fetched anew, beside those who still use it.
const EARLY: Duration = Duration::from_mins(5);
/// A token with less left is not used any more: it may expire on its way.
const LATE: Duration = Duration::from_secs(5);
/// Who gives tokens and fails is asked again after this.
const PAUSE: Duration = Duration::from_secs(5);
/// A token takes no longer for those who wait for it. Whoever gives it may go on.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Whoever gives tokens is not waited for any longer, by nobody.
const LONGEST: Duration = Duration::from_secs(30);

/// What proves it. `Err`: why there is nothing.
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

/// Whether whoever gives tokens refused, rather than failed to answer: then somebody has to do something.
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

/// Tokens that are used as long as they last. `azure_identity` keeps them too, but throws one away five minutes early when it
/// cannot get the next, and lets everybody wait for that.
#[derive(Debug)]
pub struct Tokens(Arc<Held>);

struct Held {
    identity: Identity,
    source: Mutex<Arc<dyn TokenCredential>>,
    fetched: Mutex<Vec<Fetched>>,
    /// Held by the one who fetches.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

struct Fetched {
    scope: String,
    token: AccessToken,
    at: Instant,
    /// When a better one may be asked for: who gives short ones is not asked each time.
    next: Instant,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}

/// What is at hand.
enum AtHand {
    Fresh(AccessToken),
    /// Good, but not for long; whether it is time to ask for the next.
    Ageing(AccessToken, bool),
    Nothing,
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(&self, scopes: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        let scope = *scopes.first().unwrap_or(&"");
        match self.0.at_hand(scope) {
            AtHand::Fresh(token) | AtHand::Ageing(token, false) => Ok(token),
            AtHand::Ageing(token, true) => {
                if let Ok(place) = Arc::clone(&self.0.fetching).try_lock_owned() {
                    let (held, scope) = (Arc::clone(&self.0), scope.to_owned());
                    // Ends with its answer; who uses the old token does not wait for it.
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = held.fetch(&scope).await {
                            warn!("no new token yet ({error}); going on with the old one");
                        }
                    });
                }
                Ok(token)
            }
            AtHand::Nothing => {
                let wait = async {
                    let _place = self.0.fetching.lock().await;
                    match self.0.at_hand(scope) {
                        AtHand::Fresh(token) | AtHand::Ageing(token, _) => Ok(token),
                        AtHand::Nothing => self.0.fetch(scope).await,
                    }
                };
                let late = |_| azure_core::Error::with_message(ErrorKind::Credential, "no token came in time");
                tokio::time::timeout(TIMEOUT, wait).await.map_err(late)?
            }
        }
    }
}

impl Tokens {
    /// Whoever was shown the token at hand refused it. Whether it has expired is told by this machine's clock, which may be slow;
    /// so it is fetched anew, and `azure_identity`'s own cache, which goes by the same clock, is left behind. Not more often
    /// than each few seconds: an identity without a role is refused with any token.
    pub fn forget(&self) {
        let mut fetched = self.0.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fetched.len();
        fetched.retain(|fetched| fetched.at.elapsed() < PAUSE);
        if fetched.len() < before
            && let Ok(source) = source(&self.0.identity)
        {
            *self.0.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
        }
    }
}

impl Held {
    fn at_hand(&self, scope: &str) -> AtHand {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fetched) = fetched.iter_mut().find(|fetched| fetched.scope == scope) else { return AtHand::Nothing };
        let left = fetched.token.expires_on - OffsetDateTime::now_utc();
        if left > EARLY {
            AtHand::Fresh(fetched.token.clone())
        } else if left > LATE {
            let now = Instant::now();
            let is_time = fetched.next <= now;
            if is_time {
                fetched.next = now + PAUSE;
            }
            AtHand::Ageing(fetched.token.clone(), is_time)
        } else {
            AtHand::Nothing
        }
    }

    async fn fetch(&self, scope: &str) -> azure_core::Result<AccessToken> {
        let source = Arc::clone(&self.source.lock().unwrap_or_else(PoisonError::into_inner));
        let scopes = [scope];
        let token = tokio::time::timeout(LONGEST, source.get_token(&scopes, None)).await;
        let token = token.map_err(|_| azure_core::Error::with_message(ErrorKind::Credential, "no token came in time"))??;
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.retain(|fetched| fetched.scope != scope);
        fetched.push(Fetched { scope: scope.to_owned(), token: token.clone(), at: Instant::now(), next: Instant::now() + PAUSE });
        Ok(token)
    }
}
