//! A hand-made issuer of tokens, which does whatever a test wants, and signs without the library that checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply, reply};

/// The audience of the tokens.
pub const AUDIENCE: &str = "api://orders";
/// Where the keys are.
const JWKS: &str = "/keys";
const DISCOVERY: &str = "/.well-known/openid-configuration";

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A key that signs tokens.
pub enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// Its public half.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
                let [n, e] = [n, e].map(|number| base64url(number.big_endian_without_leading_zero()));
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "n": n, "e": e })
            }
            Self::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "kid": kid, "use": "sig", "crv": "P-256", "x": base64url(x), "y": base64url(y) })
            }
        }
    }

    /// The public half of the key, as bytes that every client can get.
    pub fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ec(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// Signs as `alg` says where this key can, else as it can.
    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &'static dyn RsaEncoding = if alg == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token with this header and these claims, whatever they are.
    pub fn token(&self, header: &str, claims: &str) -> String {
        let alg = serde_json::from_str::<Value>(header).ok().and_then(|header| header["alg"].as_str().map(str::to_owned));
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let signature = self.sign(&alg.unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", base64url(signature))
    }
}

/// How it answers.
#[derive(Clone)]
pub enum Mood {
    /// As an issuer does.
    Answers,
    /// Connections are closed at once.
    Away,
    /// Connections stand, and nothing comes.
    Silent,
    /// Every request is sent elsewhere.
    Redirects(String),
}

struct State {
    mood: Mood,
    /// What stands at which path.
    documents: BTreeMap<String, String>,
}

/// An issuer with an RSA key `rsa-1` and an EC key `ec-1`; it ends when dropped.
pub struct Issuer {
    pub url: String,
    pub rsa: Key,
    pub ec: Key,
    state: Arc<(Mutex<State>, Condvar)>,
    fake: Fake,
}

impl Issuer {
    pub fn start() -> Self {
        Self::on(0)
    }

    pub fn on(port: u16) -> Self {
        let state = State { mood: Mood::Answers, documents: BTreeMap::new() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = Arc::clone(&state);
        let fake = Fake::on(port, move |_, heard| answer(heard.target(), &shared));
        let issuer = Self { url: fake.url.clone(), rsa: Key::rsa(), ec: Key::ec(), state, fake };
        issuer.publish(DISCOVERY, &json!({ "issuer": issuer.url, "jwks_uri": format!("{}{JWKS}", issuer.url) }).to_string());
        issuer.publish_keys(&[issuer.rsa.jwk("rsa-1"), issuer.ec.jwk("ec-1")]);
        issuer
    }

    pub fn publish(&self, path: &str, document: &str) {
        self.state.0.lock().unwrap().documents.insert(path.into(), document.into());
    }

    pub fn publish_keys(&self, keys: &[Value]) {
        self.publish(JWKS, &json!({ "keys": keys }).to_string());
    }

    pub fn publish_discovery(&self, issuer: &str, jwks_uri: &str) {
        self.publish(DISCOVERY, &json!({ "issuer": issuer, "jwks_uri": jwks_uri }).to_string());
    }

    pub fn feels(&self, mood: Mood) {
        self.state.0.lock().unwrap().mood = mood;
        self.state.1.notify_all();
    }

    /// How often this path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.fake.heard().iter().filter(|heard| heard.target() == path).count()
    }

    /// How often its keys were read.
    pub fn readings(&self) -> usize {
        self.asked(JWKS)
    }

    /// Waits until this path was asked for this number of times.
    pub fn wait_until_asked(&self, path: &str, times: usize) {
        crate::support::eventually("the issuer is asked", || (self.asked(path) >= times).then_some(()));
    }

    /// Every path that was asked for.
    pub fn paths(&self) -> Vec<String> {
        let paths: BTreeSet<_> = self.fake.heard().iter().map(|heard| heard.target().to_owned()).collect();
        paths.into_iter().collect()
    }

    pub fn header() -> Value {
        json!({ "alg": "RS256", "typ": "at+jwt", "kid": "rsa-1" })
    }

    pub fn claims(&self, subject: &str, scope: &str) -> Value {
        let now = now();
        json!({ "iss": self.url, "aud": AUDIENCE, "sub": subject, "scope": scope, "iat": now, "nbf": now, "exp": now + 300 })
    }

    /// A genuine token.
    pub fn token(&self, subject: &str, scope: &str) -> String {
        self.rsa.token(&Self::header().to_string(), &self.claims(subject, scope).to_string())
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.feels(Mood::Away);
    }
}

fn answer(path: &str, state: &(Mutex<State>, Condvar)) -> Reply {
    let mut now = state.0.lock().unwrap();
    while matches!(now.mood, Mood::Silent) {
        now = state.1.wait(now).unwrap();
    }
    match (&now.mood, now.documents.get(path)) {
        (Mood::Away | Mood::Silent, _) => Reply::Drop,
        (Mood::Redirects(to), _) => reply(302, &[("Location", &format!("{to}{path}"))], ""),
        (Mood::Answers, Some(document)) => reply(200, &[], document),
        (Mood::Answers, None) => reply(404, &[], ""),
    }
}
