//! Bearer tokens: whether a token is the issuer's, meant for this service, and valid now.
//!
//! The signature is checked by `jsonwebtoken`; everything around it is checked here, since fewer forms are accepted: three
//! algorithms, each only with a key of its kind, and no JSON that two readers could read differently (RFC 8725). No URL in a token
//! is ever followed: keys come from the issuer alone.

use std::convert::Infallible;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto;

use crate::config;
use crate::config::auth::is_name;
use crate::domain::json::Json;
use crate::door::issuer_keys::{Keys, KeysUnknown, for_algorithm};

/// Longest token, in bytes: real ones are below four thousand, and reading longer ones is wasted work.
const MAX_TOKEN: usize = 16 * 1024;
/// Largest difference between two clocks, in seconds.
const LEEWAY: f64 = 60.0;
/// `typ` of tokens that are access tokens. The same issuer's logout tokens and security events are refused (RFC 8725 section 3.11).
const TYPES: [&str; 2] = ["JWT", "at+jwt"];

/// Checks tokens of one issuer.
#[derive(Debug)]
pub struct Auth {
    settings: config::auth::Auth,
    keys: Keys,
}

/// Claims of a valid token.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// The subject, unique within the issuer.
    pub subject: String,
    /// The rights of the bearer: `scope`, `scp` and `roles` together, since issuers give a program its rights as roles.
    rights: Vec<String>,
    /// The roles of the bearer (`roles`).
    roles: Vec<String>,
}

/// The reason why a token is refused.
#[derive(Debug)]
pub enum Refused {
    /// The token is not valid. The cause is for the log alone: a forger must not learn which check failed.
    Invalid(&'static str),
    /// The issuer's keys are not known yet, or the token's key is unknown while the issuer does not answer.
    Unavailable,
}

impl Claims {
    /// Whether the token gives this right, as a scope or as a role.
    pub fn allow(&self, right: &str) -> bool {
        self.rights.iter().any(|given| given == right)
    }

    /// Whether the bearer has this role. A scope of that name does not count: users grant scopes to programs by themselves.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|given| given == role)
    }
}

impl Auth {
    /// Prepares everything; sends no request.
    pub fn new(settings: &config::auth::Auth) -> Result<Self, String> {
        Ok(Self { settings: settings.clone(), keys: Keys::new(&settings.issuer)? })
    }

    /// The issuer whose tokens are accepted.
    pub fn settings(&self) -> &config::auth::Auth {
        &self.settings
    }

    /// The number of the issuer's keys that are known. `None`: they were never read.
    pub fn keys(&self) -> Option<usize> {
        self.keys.count()
    }

    /// Reads the issuer's keys, again and again; never ends.
    pub async fn keep_keys(&self) -> Infallible {
        self.keys.keep().await
    }

    /// Checks a token at this moment, in seconds of Unix time.
    pub async fn verify(&self, token: &str, now: f64) -> Result<Claims, Refused> {
        let read = Token::read(token).map_err(Refused::Invalid)?;
        // Claims are checked before the signature: a token for another audience costs neither arithmetic nor a reading of the
        // issuer's keys.
        let claims = read.claims(&self.settings, now).map_err(Refused::Invalid)?;
        let known = self.keys.find(&read.key_id).await.map_err(|KeysUnknown| Refused::Unavailable)?;
        let keys = known.get(&read.key_id).ok_or(Refused::Invalid("no key of the issuer has its kid"))?;
        let decoding_key = for_algorithm(keys, read.algorithm)
            .ok_or(Refused::Invalid("its algorithm does not fit its key, or fits several keys of the issuer with its kid"))?;
        match crypto::verify(read.signature, read.signed.as_bytes(), decoding_key, read.algorithm) {
            Ok(true) => Ok(claims),
            Ok(false) | Err(_) => Err(Refused::Invalid("its signature is not the issuer's")),
        }
    }
}

/// A token taken apart, its signature not yet checked.
#[derive(Debug)]
pub struct Token<'t> {
    algorithm: Algorithm,
    key_id: String,
    claims: String,
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Token<'t> {
    /// Takes a token apart, or names the form that is not accepted.
    pub fn read(token: &'t str) -> Result<Self, &'static str> {
        if token.len() > MAX_TOKEN {
            return Err("it is too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("it has not three parts")?;
        let (header, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or("it has not three parts")?;
        let header = decoded(header).ok_or("its header is not base64url of text")?;
        let claims = decoded(claims).ok_or("its claims are not base64url of text")?;
        let header = object(&header).ok_or("its header is no JSON object without duplicates")?;
        let algorithm = match text(&header, "alg") {
            Some("RS256") => Algorithm::RS256,
            Some("PS256") => Algorithm::PS256,
            Some("ES256") => Algorithm::ES256,
            _ => return Err("its algorithm is not taken"),
        };
        if header.member("crit").is_some() {
            return Err("its header has extensions that must be understood");
        }
        // Header members that bring a key, or the URL of one: no issuer needs them, and a forger does.
        if ["jku", "jwk", "x5u", "x5c"].into_iter().any(|name| header.member(name).is_some()) {
            return Err("its header brings a key of its own");
        }
        if let Some(kind) = header.member("typ") {
            let Json::String(kind) = kind else { return Err("its typ is no text") };
            let kind = kind.strip_prefix("application/").unwrap_or(kind);
            if !TYPES.into_iter().any(|known| known.eq_ignore_ascii_case(kind)) {
                return Err("it is a token for something else");
            }
        }
        let key_id = text(&header, "kid").ok_or("its header has no kid")?.to_owned();
        Ok(Self { algorithm, key_id, claims, signed, signature })
    }

    /// The claims, valid if the signature is; or the reason why they are refused at this moment.
    pub fn claims(&self, settings: &config::auth::Auth, now: f64) -> Result<Claims, &'static str> {
        let claims = object(&self.claims).ok_or("its claims are no JSON object without duplicates")?;
        if text(&claims, "iss") != Some(&settings.issuer) {
            return Err("it is of another issuer");
        }
        if !strings(&claims, "aud").ok_or("its aud is neither text nor a list of texts")?.contains(&settings.audience.as_str()) {
            return Err("it is meant for another audience");
        }
        let expires = moment(&claims, "exp")?.ok_or("it has no exp")?;
        if now >= expires + LEEWAY {
            return Err("it has expired");
        }
        if moment(&claims, "nbf")?.is_some_and(|not_before| now < not_before - LEEWAY) {
            return Err("it is not valid yet");
        }
        let subject = text(&claims, "sub").filter(|subject| is_name(subject));
        let subject = subject.ok_or("it has no sub that could be kept")?.to_owned();
        let roles: Vec<String> = strings(&claims, "roles").unwrap_or_default().into_iter().map(str::to_owned).collect();
        // RFC 8693 section 4.2 has a text in `scope`, and some issuers put a list there.
        let scopes = ["scope", "scp"].into_iter().flat_map(|name| strings(&claims, name).unwrap_or_default());
        let scopes = scopes.flat_map(|scopes| scopes.split(' ')).map(str::to_owned);
        Ok(Claims { subject, rights: scopes.chain(roles.iter().cloned()).collect(), roles })
    }
}

fn decoded(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A JSON object in which no name occurs twice, at any depth.
fn object(text: &str) -> Option<Json<'_>> {
    Json::parse(text).ok().filter(|json| matches!(json, Json::Object(_)) && is_unique(json))
}

fn is_unique(json: &Json<'_>) -> bool {
    match json {
        Json::Object(members) => {
            // The names are sorted, so duplicates are neighbours.
            members.windows(2).all(|pair| pair[0].0 != pair[1].0) && members.iter().all(|(_, value)| is_unique(value))
        }
        Json::Array(elements) => elements.iter().all(is_unique),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => true,
    }
}

fn text<'j>(object: &'j Json<'_>, name: &str) -> Option<&'j str> {
    match object.member(name)? {
        Json::String(text) => Some(text),
        _ => None,
    }
}

/// A text, or a list of texts.
fn strings<'j>(object: &'j Json<'_>, name: &str) -> Option<Vec<&'j str>> {
    let one = |json: &'j Json<'_>| match json {
        Json::String(text) => Some(text.as_ref()),
        _ => None,
    };
    match object.member(name)? {
        Json::Array(elements) => elements.iter().map(one).collect(),
        other => one(other).map(|text| vec![text]),
    }
}

/// A `NumericDate` (RFC 7519 section 2).
fn moment(object: &Json<'_>, name: &str) -> Result<Option<f64>, &'static str> {
    match object.member(name) {
        None => Ok(None),
        Some(Json::Number(digits)) => {
            digits.parse().ok().filter(|moment: &f64| moment.is_finite()).map(Some).ok_or("a date is out of bounds")
        }
        Some(_) => Err("a date is no number"),
    }
}
