//! The issuer's keys: read in the background, kept for a day while the issuer does not answer, read again when a token names an
//! unknown key.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::config;
use crate::outbound;
use crate::outbound::backoff::Backoff;

/// Time for both documents of the issuer together. They are read in the background.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait of a request for a reading that may bring its key.
const KEY_WAIT: Duration = Duration::from_secs(10);
/// Largest document, in bytes; real ones are a few thousand.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Time after which keys are read again: a key that the issuer has withdrawn is accepted for no longer than this.
const PERIOD: Duration = Duration::from_mins(10);
/// Age after which keys are used no more: the issuer may have withdrawn one of them unseen. Its users cannot log in meanwhile
/// either.
const MAX_AGE: Duration = Duration::from_hours(24);
/// Pauses before an issuer that did not answer is asked again.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// Shortest time between two readings because of unknown keys: a client can make up any number of tokens with such keys.
const DEMAND_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait of a request for the first reading, as for a store that is just being opened.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// Algorithms of RSA keys, by name.
const RSA: &[(&str, Algorithm)] = &[("RS256", Algorithm::RS256), ("PS256", Algorithm::PS256)];
/// Algorithms of EC keys on P-256, by name.
const EC: &[(&str, Algorithm)] = &[("ES256", Algorithm::ES256)];

/// Longest name of the issuer's that is shown, in characters.
const MAX_SHOWN: usize = 200;

/// The issuer's keys by `kid`. A `kid` whose keys cannot be used is here too.
#[derive(Debug, Default)]
pub(super) struct KeySet(BTreeMap<String, Vec<Key>>);

/// A key that may sign tokens.
#[derive(Debug)]
pub(super) struct Key {
    public: DecodingKey,
    algorithms: Vec<Algorithm>,
    /// What tells it from other keys.
    material: String,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    client: Client,
    issuer: String,
    known: watch::Sender<Known>,
    demand: Mutex<Demand>,
    wanted: Notify,
}

/// State of the last readings.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The number of readings that have ended.
    round: u64,
    /// The keys of the last reading that succeeded.
    keys: Option<Arc<KeySet>>,
    /// When those keys were read, by both clocks: the monotonic one stands still while this machine sleeps, and the other one may be
    /// set back.
    read_at: Option<(Instant, SystemTime)>,
    /// Whether the last reading failed.
    failed: bool,
}

/// The readings that requests ask for.
#[derive(Debug, Default)]
struct Demand {
    /// The number of readings that have begun.
    begun: u64,
    /// The latest reading that was asked for, by its number, and when.
    asked: Option<(Instant, u64)>,
}

impl Known {
    /// The keys, unless they are too old.
    fn usable(&self) -> Option<&Arc<KeySet>> {
        let (read_at, read_at_time) = self.read_at?;
        let age = read_at.elapsed().max(read_at_time.elapsed().unwrap_or_default());
        self.keys.as_ref().filter(|_| age < MAX_AGE)
    }
}

impl KeySet {
    /// The keys of a JWK set, as far as they can be used. One that is odd spoils no other.
    fn read(jwks: &[Box<RawValue>]) -> Self {
        let mut keys = Self::default();
        for jwk in jwks {
            let Ok(jwk) = serde_json::from_str::<Jwk>(jwk.get()) else { continue };
            let Some(key_id) = jwk.kid.clone() else { continue };
            let same = keys.0.entry(key_id).or_default();
            same.extend(key(jwk).filter(|key| !same.iter().any(|other| other.is(key))));
        }
        keys
    }

    /// The keys with this `kid`.
    pub(super) fn get(&self, key_id: &str) -> Option<&[Key]> {
        self.0.get(key_id).map(Vec::as_slice)
    }

    /// Every `kid` of several keys that could sign alike.
    fn ambiguous(&self) -> BTreeSet<&str> {
        let same = |keys: &[Key]| keys.iter().flat_map(|key| &key.algorithms).any(|algorithm| for_algorithm(keys, *algorithm).is_none());
        self.0.iter().filter(|(_, keys)| same(keys)).map(|(key_id, _)| key_id.as_str()).collect()
    }

    /// Whether no token can be checked by these keys.
    fn is_useless(&self) -> bool {
        let usable = |keys: &[Key]| keys.iter().flat_map(|key| &key.algorithms).any(|algorithm| for_algorithm(keys, *algorithm).is_some());
        !self.0.values().any(|keys| usable(keys))
    }
}

impl Key {
    /// Whether it is the other key, given twice.
    fn is(&self, other: &Self) -> bool {
        self.material == other.material && self.algorithms == other.algorithms
    }
}

/// The one key that may be used with this algorithm. `None`: there is none, or there are several, of which none can be chosen.
pub(super) fn for_algorithm(keys: &[Key], algorithm: Algorithm) -> Option<&DecodingKey> {
    let mut fitting = keys.iter().filter(|key| key.algorithms.contains(&algorithm));
    let key = fitting.next()?;
    fitting.next().is_none().then_some(&key.public)
}

/// The keys of the issuer are not known or too old, and it does not answer.
#[derive(Debug)]
pub(super) struct KeysUnknown;

impl Keys {
    /// Prepares everything; sends no request.
    pub(super) fn new(issuer: &str) -> Result<Self, String> {
        let client = outbound::http::client().build().map_err(|error| error.to_string())?;
        Ok(Self { client, issuer: issuer.to_owned(), known: watch::Sender::default(), demand: Mutex::default(), wanted: Notify::new() })
    }

    /// Reads the keys at once, then whenever they are old or asked for. All readings happen here, one after the other.
    pub(super) async fn keep(&self) -> Infallible {
        let mut failures = 0;
        loop {
            self.demand.lock().begun += 1;
            let read = tokio::time::timeout(DEADLINE, self.read()).await.unwrap_or_else(|_| Err("it did not answer in time".into()));
            let next = match read {
                Ok(keys) => {
                    info!(auth.keys = keys.0.len(), "the issuer's keys are read");
                    let read_at = Some((Instant::now(), SystemTime::now()));
                    self.known
                        .send_modify(|known| *known = Known { round: known.round + 1, keys: Some(keys.into()), read_at, failed: false });
                    failures = 0;
                    PERIOD
                }
                Err(reason) => {
                    self.known.send_modify(|known| (known.round, known.failed) = (known.round + 1, true));
                    let known = self.known.borrow();
                    if known.keys.is_some() && known.usable().is_none() {
                        error!(
                            reason,
                            "the issuer's keys could not be read for a day, and no token is accepted until they are; asking again"
                        );
                    } else {
                        warn!(reason, "the issuer's keys could not be read; asking again");
                    }
                    drop(known);
                    let pause = AGAIN.pause(failures);
                    failures += 1;
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// The number of keys of the last reading that succeeded. `None`: none has.
    pub(super) fn count(&self) -> Option<usize> {
        self.known.borrow().usable().map(|keys| keys.0.len())
    }

    /// The keys, which contain this one if the issuer has it. For an unknown key, and when they are too old, they are read again,
    /// unless the last such reading was too recent.
    pub(super) async fn find(&self, key_id: &str) -> Result<Arc<KeySet>, KeysUnknown> {
        let mut known = self.known.subscribe();
        let mut now = known.borrow_and_update().clone();
        if now.round == 0 {
            now = ended(&mut known, 1, FIRST_WAIT).await.ok_or(KeysUnknown)?;
        }
        let has_it = |now: &Known| now.usable().is_some_and(|keys| keys.0.contains_key(key_id));
        if !has_it(&now)
            && let Some(number) = self.ask(now.round)
            // An issuer that failed may stay away; no request holds its connection to wait for it.
            && !now.failed
        {
            now = ended(&mut known, number, KEY_WAIT).await.ok_or(KeysUnknown)?;
        }
        match now.usable() {
            // Whether the key is new cannot be known while the issuer is away.
            Some(_) if now.failed && !has_it(&now) => Err(KeysUnknown),
            Some(keys) => Ok(Arc::clone(keys)),
            None => Err(KeysUnknown),
        }
    }

    /// The number of the reading to wait for, when `ended` readings have ended: one that begins now, or, if a reading was asked for
    /// lately, that reading or the one that is running. Any number of requests wait for the same reading.
    fn ask(&self, ended: u64) -> Option<u64> {
        let mut demand = self.demand.lock();
        let next = demand.begun + 1;
        match demand.asked {
            Some((_, number)) if number >= next => Some(number),
            Some((at, _)) if at.elapsed() < DEMAND_PAUSE => Some(demand.begun).filter(|begun| *begun > ended),
            _ => {
                demand.asked = Some((Instant::now(), next));
                self.wanted.notify_one();
                Some(next)
            }
        }
    }

    async fn read(&self) -> Result<KeySet, String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        // Each key is read on its own: one that cannot be read must not spoil the others.
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<Box<RawValue>>,
        }
        let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
        let url = format!("{base}/.well-known/openid-configuration").parse().map_err(|_| "AUTH_ISSUER is no base of a URL")?;
        let discovery: Discovery = self.document(url, "discovery document").await?;
        // Without this check, a foreign document on the same host would decide who the callers are (OpenID Connect Discovery
        // section 4.3).
        if discovery.issuer != self.issuer {
            return Err(another_issuer(&discovery.issuer));
        }
        let url =
            discovery.jwks_uri.parse().ok().filter(config::auth::is_secure).ok_or("its jwks_uri is neither https nor on this machine")?;
        let jwks: Jwks = self.document(url, "key set").await?;
        let keys = KeySet::read(&jwks.keys);
        let ambiguous = keys.ambiguous();
        if !ambiguous.is_empty() {
            let key_ids = shown(&ambiguous);
            warn!(auth.key_ids = key_ids, "several keys of the issuer have the same kid and could sign alike; none of those is used");
        }
        // An issuer without one usable key is broken rather than without keys; the keys known so far are kept.
        if keys.is_useless() { Err("none of its keys can be used".into()) } else { Ok(keys) }
    }

    async fn document<T: DeserializeOwned>(&self, url: Url, what: &str) -> Result<T, String> {
        let mut response = self.client.get(url).send().await.map_err(|error| outbound::http::reason(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers {} instead of its {what}", response.status().as_u16()));
        }
        let body = outbound::http::body(&mut response, MAX_DOCUMENT).await.map_err(|error| outbound::http::reason(&error))?;
        let body = body.ok_or_else(|| format!("its {what} is larger than {MAX_DOCUMENT} bytes"))?;
        serde_json::from_slice(&body).map_err(|_| format!("its {what} cannot be read"))
    }
}

/// The state once `number` readings have ended.
async fn ended(known: &mut watch::Receiver<Known>, number: u64, wait: Duration) -> Option<Known> {
    let later = tokio::time::timeout(wait, known.wait_for(|known| known.round >= number)).await;
    later.ok()?.ok().map(|known| known.clone())
}

/// The problem of a discovery document that names this issuer.
fn another_issuer(named: &str) -> String {
    let advice = if named.contains("{tenantid}") {
        "it is for many tenants; set AUTH_ISSUER to that name with the id of your tenant in place of {tenantid}"
    } else {
        "set AUTH_ISSUER to that name, to the letter, if it is your issuer"
    };
    format!("its discovery document names another issuer, {}: {advice}", shown(&named))
}

/// A foreign text, quoted and cut.
fn shown(text: &impl fmt::Debug) -> String {
    format!("{text:?}").chars().take(MAX_SHOWN).collect()
}

/// A key of a JWK set (RFC 7517).
#[derive(Deserialize)]
struct Jwk {
    kid: Option<String>,
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// A key that is accepted for signatures. Key sets contain other keys too, which are skipped.
fn key(jwk: Jwk) -> Option<Key> {
    if jwk.usage.is_some_and(|usage| usage != "sig") || jwk.key_ops.is_some_and(|operations| operations.iter().all(|one| one != "verify")) {
        return None;
    }
    let (public, fitting, material) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (jwk.n?, jwk.e?);
            (DecodingKey::from_rsa_components(&n, &e).ok()?, RSA, [n, e].join("."))
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (jwk.x?, jwk.y?);
            (DecodingKey::from_ec_components(&x, &y).ok()?, EC, [x, y].join("."))
        }
        _ => return None,
    };
    // A key that names its algorithm is for that one alone (RFC 8725 section 3.1).
    let named = |name: &str| jwk.alg.as_deref().is_none_or(|alg| alg == name);
    let algorithms: Vec<_> = fitting.iter().filter(|(name, _)| named(name)).map(|(_, algorithm)| *algorithm).collect();
    (!algorithms.is_empty()).then_some(Key { public, algorithms, material })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_a_reading_that_began_after_it_and_causes_few() {
        let keys = Keys::new("http://localhost").unwrap();
        keys.demand.lock().begun = 2;
        // The second reading may have read the keys before the change; any number of requests wait for the third.
        assert_eq!((keys.ask(1), keys.ask(1)), (Some(3), Some(3)));

        keys.demand.lock().begun = 3;
        assert_eq!(keys.ask(2), Some(3), "it is going on");
        assert_eq!(keys.ask(3), None, "it has ended, and the next would be too soon");
    }
}
