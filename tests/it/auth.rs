//! Callers: which tokens let one in, and which orders it sees.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::emulator::Emulator;
use crate::issuer::{AUDIENCE, Issuer, Key, Mood, base64url, now};
use crate::support::{
    Answer, Directory, Handler, Host, Program, Response, eventually, free_port, http_envelope, order, repository, request, skipped,
    try_submit,
};

const SUBMIT: &str = "orders.submit";
const READ: &str = "orders.read";
const BOTH: &str = "orders.submit orders.read";
const CHALLENGE: &str = "Bearer realm=\"waybill\"";
const INVALID: &str = "Bearer realm=\"waybill\", error=\"invalid_token\"";
const UNKNOWN: &str = "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10";
const KEYS_READ: &str = "the issuer's keys are read";
const DISCOVERY: &str = "/.well-known/openid-configuration";

fn settings(issuer: &str) -> [(&str, &str); 5] {
    [
        ("AUTH_ISSUER", issuer),
        ("AUTH_AUDIENCE", AUDIENCE),
        ("AUTH_SUBMIT_SCOPE", SUBMIT),
        ("AUTH_READ_SCOPE", READ),
        ("AUTH_OPERATOR_ROLE", "orders.operator"),
    ]
}

/// A handler that takes tokens of this issuer, once it knows its keys.
fn start(issuer: &Issuer) -> (Directory, Handler) {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &settings(&issuer.url));
    handler.program.line(KEYS_READ);
    (data, handler)
}

/// A handler that requires no login.
fn open(settings: &[(&str, &str)]) -> (Directory, Handler) {
    let data = Directory::new();
    let handler = Handler::start(data.path(), settings);
    (data, handler)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn submit(handler: &Handler, order_id: &str, token: &str) -> Answer {
    try_submit(handler, order_id, &[("Authorization", &bearer(token))])
}

fn submitted(handler: &Handler, order_id: &str, token: &str) -> String {
    let answer = submit(handler, order_id, token);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["trackingId"].as_str().unwrap().to_owned()
}

/// The handler's whole answer to a question for a status.
fn asked(handler: &Handler, tracking_id: &str, headers: &[(&str, &str)]) -> Response {
    let url = format!("http://localhost:7071/api/orders/{tracking_id}/status");
    handler.invoke("OrderStatus", &http_envelope("GET", &url, &json!({ "trackingId": tracking_id }), None, headers))
}

fn status(handler: &Handler, tracking_id: &str, token: &str) -> Answer {
    Answer::of(&asked(handler, tracking_id, &[("Authorization", &bearer(token))]))
}

fn kind(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_else(|| panic!("{answer:?}")).strip_prefix("urn:problem-type:waybill:").unwrap()
}

fn owner(answer: &Answer) -> String {
    let message: Value = serde_json::from_str(answer.message.as_ref().unwrap_or_else(|| panic!("{answer:?}"))).unwrap();
    message["metadata"]["owner"].as_str().unwrap().to_owned()
}

/// With these members in place of its own; `null` takes one away.
fn with(mut object: Value, members: &Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            object[name] = value.clone();
        }
    }
    object
}

/// Tokens made from a genuine one by one change each.
struct Forge<'a> {
    issuer: &'a Issuer,
    rows: Vec<(String, Vec<(&'static str, String)>)>,
}

impl Forge<'_> {
    /// These headers.
    fn headers(&mut self, name: &str, headers: Vec<(&'static str, String)>) {
        self.rows.push((name.to_owned(), headers));
    }

    /// This token.
    fn token(&mut self, name: &str, token: &str) {
        self.headers(name, vec![("Authorization", bearer(token))]);
    }

    /// Signed by the issuer's RSA key, with other members in the header.
    fn header(&mut self, name: &str, members: &Value) {
        let token = self.issuer.rsa.token(&with(Issuer::header(), members).to_string(), &self.claims().to_string());
        self.token(name, &token);
    }

    /// Signed by the issuer's RSA key, with other claims.
    fn claim(&mut self, name: &str, members: &Value) {
        let token = self.issuer.rsa.token(&Issuer::header().to_string(), &with(self.claims(), members).to_string());
        self.token(name, &token);
    }

    /// Signed by another key, with other members in the header.
    fn signed_by(&mut self, name: &str, key: &Key, members: &Value) {
        let token = key.token(&with(Issuer::header(), members).to_string(), &self.claims().to_string());
        self.token(name, &token);
    }

    fn claims(&self) -> Value {
        self.issuer.claims("alice", BOTH)
    }

    fn genuine(&self) -> String {
        self.issuer.token("alice", BOTH)
    }
}

#[test]
fn a_forged_token_is_refused_without_a_reason() {
    let (issuer, other) = (Issuer::start(), Issuer::start());
    let (thief, mute) = (Key::rsa(), Key::rsa());
    let evil = format!("{}/evil", issuer.url);
    issuer.publish("/evil", &json!({ "keys": [thief.jwk("rsa-1"), thief.jwk("evil")] }).to_string());
    issuer.publish_keys(&[
        issuer.rsa.jwk("rsa-1"),
        issuer.ec.jwk("ec-1"),
        issuer.rsa.jwk("twice"),
        mute.jwk("twice"),
        with(issuer.rsa.jwk("for-ps256"), &json!({ "alg": "PS256" })),
        with(issuer.rsa.jwk("for-rs512"), &json!({ "alg": "RS512" })),
        with(issuer.rsa.jwk("for-encryption"), &json!({ "use": "enc" })),
        with(issuer.rsa.jwk("for-wrapping"), &json!({ "use": null, "key_ops": ["wrapKey"] })),
        json!({ "kty": "oct", "kid": "secret", "k": base64url("secret") }),
        with(issuer.rsa.jwk("x"), &json!({ "kid": null })),
    ]);
    let (_data, mut handler) = start(&issuer);
    let told = handler.program.line("several keys of the issuer");
    assert!(told.contains("WARN") && told.contains("twice") && !told.contains("rsa-1"), "{told}");
    let mut forge = Forge { issuer: &issuer, rows: Vec::new() };
    let genuine = forge.genuine();
    let [header, claims, signature]: [&str; 3] = genuine.split('.').collect::<Vec<_>>().try_into().unwrap();

    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = base64url(with(Issuer::header(), &json!({ "alg": alg })).to_string());
        forge.token(&format!("alg {alg:?} without a signature"), &format!("{header}.{claims}."));
        forge.header(&format!("alg {alg:?} with a signature"), &json!({ "alg": alg }));
    }
    forge.header("no alg", &json!({ "alg": null }));
    forge.header("alg that is no text", &json!({ "alg": ["RS256"] }));
    forge.header("alg in small letters", &json!({ "alg": "rs256" }));
    forge.header("another alg of the same key", &json!({ "alg": "RS512" }));
    let jwk = issuer.rsa.jwk("rsa-1");
    for (name, secret) in [
        ("DER", issuer.rsa.public()),
        ("modulus", jwk["n"].as_str().unwrap().into()),
        ("JWK", jwk.to_string().into_bytes()),
        ("nothing", Vec::new()),
    ] {
        let signed = format!("{}.{claims}", base64url(with(Issuer::header(), &json!({ "alg": "HS256" })).to_string()));
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        mac.update(signed.as_bytes());
        forge.token(&format!("HS256 under the public key as {name}"), &format!("{signed}.{}", base64url(mac.finalize().into_bytes())));
    }
    forge.header("unknown kid", &json!({ "kid": "rsa-2" }));
    forge.header("duplicate kid", &json!({ "kid": "twice" }));
    forge.header("no kid", &json!({ "kid": null }));
    forge.header("empty kid", &json!({ "kid": "" }));
    forge.header("kid that is no text", &json!({ "kid": 1 }));
    for kid in ["../../../../../../dev/null", "/dev/null", "file:///dev/null", "rsa-1/../rsa-1", "rsa-1\u{0}", "' or '1'='1", &evil] {
        forge.header(&format!("kid {kid:?}"), &json!({ "kid": kid }));
        forge.signed_by(&format!("kid {kid:?} and a key of its own"), &thief, &json!({ "kid": kid }));
    }
    for (name, value) in
        [("jku", json!(evil)), ("x5u", json!(evil)), ("jwk", thief.jwk("rsa-1")), ("x5c", json!([base64url(thief.public())]))]
    {
        forge.header(&format!("{name}, else genuine"), &json!({ name: value }));
        forge.signed_by(&format!("{name} and a key of its own"), &thief, &json!({ name: value }));
        forge.signed_by(&format!("{name} and a key of its own with a kid"), &thief, &json!({ name: value, "kid": "evil" }));
    }
    forge.header("extensions", &json!({ "crit": ["exp"] }));
    forge.header("unencoded claims", &json!({ "crit": ["b64"], "b64": false }));
    forge.header("a logout token", &json!({ "typ": "logout+jwt" }));
    forge.header("typ that is no text", &json!({ "typ": 5 }));
    forge.header("an RSA key with ES256", &json!({ "alg": "ES256" }));
    forge.signed_by("an EC key with RS256", &issuer.ec, &json!({ "kid": "ec-1" }));
    forge.signed_by("an EC key under the RSA key's kid", &issuer.ec, &json!({ "alg": "ES256" }));
    forge.header("a key for another algorithm", &json!({ "kid": "for-ps256" }));
    forge.header("a key for an algorithm we do not take", &json!({ "kid": "for-rs512" }));
    forge.header("a key for encryption", &json!({ "kid": "for-encryption" }));
    forge.header("a key for other operations", &json!({ "kid": "for-wrapping" }));
    forge.header("a secret among the keys", &json!({ "kid": "secret", "alg": "HS256" }));
    for iss in [json!(other.url), json!(format!("{}/", issuer.url)), json!([issuer.url]), json!(issuer.url.to_uppercase()), json!(null)] {
        forge.claim(&format!("iss {iss}"), &json!({ "iss": iss }));
    }
    for aud in [
        json!("api://orders2"),
        json!("api://order"),
        json!("x api://orders"),
        json!("api://orders,x"),
        json!("API://ORDERS"),
        json!(""),
        json!([]),
        json!(["api://orders2", "x"]),
        json!(["api://orders", 5]),
        json!([["api://orders"]]),
        json!({ "api://orders": true }),
        json!(null),
    ] {
        forge.claim(&format!("aud {aud}"), &json!({ "aud": aud }));
    }
    let moment = now();
    for exp in [json!(moment - 61), json!(0), json!(-1), json!(null), json!((moment + 300).to_string()), json!([moment + 300])] {
        forge.claim(&format!("exp {exp}"), &json!({ "exp": exp }));
    }
    forge.claim("exp beyond all bounds", &json!({ "exp": serde_json::from_str::<Value>("1e999").unwrap() }));
    for nbf in [json!(moment + 600), json!("soon"), json!((moment - 1).to_string())] {
        forge.claim(&format!("nbf {nbf}"), &json!({ "nbf": nbf }));
    }
    for sub in [json!(null), json!(""), json!(" "), json!(5), json!("x".repeat(256)), json!("alice\nbob")] {
        forge.claim(&format!("sub {sub:.20}"), &json!({ "sub": sub }));
    }
    forge.claim("huge", &json!({ "x": "x".repeat(16 * 1024) }));
    forge.token("huge without an end", &"x".repeat(1024 * 1024));
    forge.claim("nested deep", &json!({ "x": serde_json::from_str::<Value>(&("[".repeat(100) + &"]".repeat(100))).unwrap() }));
    let same_kid = other.rsa.token(&Issuer::header().to_string(), &forge.claims().to_string());
    forge.token("signed by another issuer under the same kid", &same_kid);
    forge.token("of another issuer, with the same kid", &other.token("alice", BOTH));
    forge.token("another's claims", &format!("{header}.{}.{signature}", base64url(issuer.claims("bob", BOTH).to_string())));
    for length in [0, 1, 100, signature.len() - 4, signature.len() - 1] {
        forge.token(&format!("{length} characters of its signature"), &format!("{header}.{claims}.{}", &signature[..length]));
    }
    // 342 characters carry four bits more than the 256 bytes of a signature, which must be zero.
    let last = signature.chars().last().unwrap();
    let twin = char::from(last as u8 + 1);
    forge.token("its signature in other characters", &format!("{header}.{claims}.{}{twin}", &signature[..signature.len() - 1]));
    for (name, token) in [
        ("a dot after it", format!("{genuine}.")),
        ("a dot before it", format!(".{genuine}")),
        ("two dots after the header", format!("{header}..{claims}.{signature}")),
        ("two dots before the signature", format!("{header}.{claims}..{signature}")),
        ("four parts", format!("{header}.{claims}.{claims}.{signature}")),
        ("five parts", format!("{header}.{claims}.{claims}.{claims}.{signature}")),
        ("two parts", format!("{header}.{claims}")),
        ("one part", header.to_owned()),
        ("dots", "..".to_owned()),
        ("padding", format!("{header}.{claims}.{signature}==")),
        ("a space in it", format!("{header}. {claims}.{signature}")),
        ("something after it", format!("{genuine} {genuine}")),
        ("a list", format!("{genuine}, Bearer {genuine}")),
    ] {
        forge.token(name, &token);
    }
    let doubled = |object: &Value, member: &str| object.to_string().replacen('{', &format!("{{{member},"), 1);
    for member in [
        format!("\"iss\":\"{}\"", issuer.url),
        "\"sub\":\"bob\"".into(),
        "\"aud\":\"x\"".into(),
        "\"exp\":1".into(),
        "\"s\\u0075b\":\"alice\"".into(),
        "\"x\":{\"a\":1,\"a\":2}".into(),
        "\"x\":[{\"a\":1,\"a\":2}]".into(),
    ] {
        let token = issuer.rsa.token(&Issuer::header().to_string(), &doubled(&forge.claims(), &member));
        forge.token(&format!("claims with another {member}"), &token);
    }
    for member in ["\"alg\":\"none\"", "\"kid\":\"evil\"", "\"typ\":\"JWT\""] {
        let token = issuer.rsa.token(&doubled(&Issuer::header(), member), &forge.claims().to_string());
        forge.token(&format!("header with another {member}"), &token);
    }
    for (name, header, claims) in [
        ("header that is no JSON", "x".to_owned(), forge.claims().to_string()),
        ("header that is no object", "[]".into(), forge.claims().to_string()),
        ("claims that are no JSON", Issuer::header().to_string(), "x".into()),
        ("claims that are no object", Issuer::header().to_string(), "null".into()),
    ] {
        let token = issuer.rsa.token(&header, &claims);
        forge.token(name, &token);
    }
    let forged = thief.token(&Issuer::header().to_string(), &forge.claims().to_string());
    for name in ["Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"] {
        forge.headers(&format!("forged in {name}"), vec![(name, bearer(&forged))]);
        forge.headers(&format!("two, the other in {name}"), vec![("Authorization", bearer(&genuine)), (name, bearer(&genuine))]);
        forge.headers(&format!("two, a forged one in {name}"), vec![("Authorization", bearer(&genuine)), (name, bearer(&forged))]);
        forge.headers(&format!("two, the other scheme in {name}"), vec![("Authorization", bearer(&genuine)), (name, "Basic eDp4".into())]);
    }

    // The genuine one that all are made from.
    let id = submitted(&handler, "FORGE-0", &genuine);
    assert_eq!(status(&handler, &id, &genuine).status, 200);
    let (mut bodies, mut let_in) = (BTreeSet::new(), Vec::new());
    for (number, (name, headers)) in forge.rows.iter().enumerate() {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let submitted = handler.ingress(Some(&order(&format!("FORGE-{number}")).to_string()), &headers);
        let shown = Answer::of(&asked(&handler, &id, &headers));
        let is_refused = |answer: &Answer| answer.status == 401 && answer.headers["WWW-Authenticate"] == INVALID;
        if !is_refused(&submitted) || !is_refused(&shown) {
            let_in.push((name, submitted.status, shown.status));
            continue;
        }
        for answer in [&submitted, &shown] {
            assert_eq!(kind(answer), "unauthorized", "{name}: {answer:?}");
            assert_eq!(answer.message, None, "{name}");
            bodies.insert(answer.body.to_string());
        }
    }
    assert!(let_in.is_empty(), "{let_in:#?}");
    assert_eq!(bodies.len(), 1, "the same whatever is wrong: {bodies:?}");
    assert!(!issuer.paths().contains(&"/evil".to_owned()), "{:?}", issuer.paths());
    assert_eq!(other.paths(), [""; 0], "nothing in a token is followed");
    assert!(forge.rows.len() > 120, "{}", forge.rows.len());
}

#[test]
fn a_genuine_token_lets_in_however_it_is_written() {
    let issuer = Issuer::start();
    let mut keys = vec![
        issuer.rsa.jwk("rsa-1"),
        issuer.ec.jwk("ec-1"),
        with(issuer.rsa.jwk("for-ps256"), &json!({ "alg": "PS256" })),
        with(issuer.rsa.jwk("for-anything"), &json!({ "use": null, "key_ops": ["sign", "verify"] })),
        json!({ "kty": "OKP", "kid": "another", "crv": "Ed25519", "x": "x" }),
        json!(5),
        // Twins, of which one can be chosen.
        with(Key::rsa().jwk("enc-first"), &json!({ "use": "enc" })),
        issuer.rsa.jwk("enc-first"),
        issuer.rsa.jwk("enc-last"),
        with(Key::rsa().jwk("enc-last"), &json!({ "use": "enc" })),
        issuer.rsa.jwk("of-two-kinds"),
        issuer.ec.jwk("of-two-kinds"),
        issuer.rsa.jwk("the-same-twice"),
        with(issuer.rsa.jwk("the-same-twice"), &json!({ "x5t": "x" })),
        with(issuer.rsa.jwk("of-two-algorithms"), &json!({ "alg": "PS256" })),
        with(Key::rsa().jwk("of-two-algorithms"), &json!({ "alg": "RS256" })),
    ];
    // Members that no reader of keys expects spoil one key at most.
    let odd = [
        r#"{"kty":"RSA","kid":"odd-1","$serde_json::private::Number":"x"}"#,
        r#"{"kty":"RSA","kid":{"$serde_json::private::RawValue":"]"}}"#,
        r#"{"kty":"RSA","kid":"odd-2","x":1e9999}"#,
        r#"{"kty":"RSA","kid":"odd-3","x":"\ud800"}"#,
        r#"{"kty":"RSA","kty":"EC","kid":"odd-4","use":5}"#,
        "[]",
        "null",
    ];
    let odd = odd.iter().map(|text| (*text).to_owned());
    let with_odd_member = issuer.rsa.jwk("with-odd-members").to_string().replacen(
        '{',
        r#"{"$serde_json::private::Number":"x","other":{"$serde_json::private::RawValue":"]"},"#,
        1,
    );
    keys.rotate_left(2);
    let keys: Vec<String> = odd.chain([with_odd_member]).chain(keys.iter().map(Value::to_string)).collect();
    issuer.publish("/keys", &format!("{{\"$serde_json::private::Number\":\"x\",\"keys\":[{}]}}", keys.join(",")));
    let (_data, handler) = start(&issuer);
    let mut forge = Forge { issuer: &issuer, rows: Vec::new() };
    let genuine = forge.genuine();
    forge.header("PS256", &json!({ "alg": "PS256" }));
    forge.header("a key for PS256", &json!({ "alg": "PS256", "kid": "for-ps256" }));
    forge.header("a key for anything", &json!({ "kid": "for-anything" }));
    forge.header("a key with odd members", &json!({ "kid": "with-odd-members" }));
    for kid in ["enc-first", "enc-last", "of-two-kinds", "the-same-twice"] {
        forge.header(kid, &json!({ "kid": kid }));
    }
    forge.signed_by("the other of two kinds", &issuer.ec, &json!({ "alg": "ES256", "kid": "of-two-kinds" }));
    forge.header("one of two algorithms", &json!({ "alg": "PS256", "kid": "of-two-algorithms" }));
    forge.signed_by("ES256", &issuer.ec, &json!({ "alg": "ES256", "kid": "ec-1" }));
    for typ in [json!(null), json!("JWT"), json!("jwt"), json!("at+JWT"), json!("application/at+jwt")] {
        forge.header(&format!("typ {typ}"), &json!({ "typ": typ }));
    }
    forge.header("a thumbprint", &json!({ "x5t": "x", "cty": "x" }));
    forge.claim("aud in an array", &json!({ "aud": ["x", AUDIENCE] }));
    forge.claim("just expired", &json!({ "exp": now() - 5 }));
    forge.claim("a fraction", &json!({ "exp": serde_json::from_str::<Value>(&format!("{}.25", now() + 300)).unwrap(), "nbf": null }));
    forge.claim("valid in a moment", &json!({ "nbf": now() + 40 }));
    forge.claim("long", &json!({ "x": "x".repeat(10_000) }));
    forge.claim("scp as a text", &json!({ "scope": null, "scp": BOTH }));
    forge.claim("scp as an array", &json!({ "scope": null, "scp": [READ, SUBMIT] }));
    forge.claim("scope as an array", &json!({ "scope": [READ, SUBMIT] }));
    forge.claim("roles", &json!({ "scope": null, "roles": [READ, SUBMIT] }));
    forge.claim("many scopes", &json!({ "scope": format!("openid {BOTH} x") }));
    for name in ["authorization", "AUTHORIZATION"] {
        forge.headers(name, vec![(name, bearer(&genuine))]);
    }
    for scheme in ["bearer", "BEARER", "Bearer "] {
        forge.headers(scheme, vec![("Authorization", format!("{scheme} {genuine}"))]);
    }

    for (name, headers) in &forge.rows {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = handler.ingress(Some(&order("GENUINE-1").to_string()), &headers);
        assert_eq!(answer.status, 202, "{name}: {answer:?}");
        assert_eq!(owner(&answer), format!("{} alice", issuer.url), "{name}");
        let id = answer.body["trackingId"].as_str().unwrap();
        assert_eq!(Answer::of(&asked(&handler, id, &headers)).status, 200, "{name}");
    }
}

#[test]
fn a_request_without_a_token_is_refused_before_anything_else() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let token = issuer.token("alice", BOTH);
    let id = submitted(&handler, "NONE-1", &token);

    for headers in [
        &[] as &[(&str, &str)],
        &[("Authorization", "Basic eDp4")],
        &[("Authorization", "Bearer")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "")],
        &[("Authorization", &token)],
        &[("X-MS-CLIENT-PRINCIPAL-ID", "alice"), ("X-MS-CLIENT-PRINCIPAL-IDP", "aad")],
    ] {
        let mut answers: Vec<_> = [&id, UNKNOWN, "x", ""].iter().map(|id| Answer::of(&asked(&handler, id, headers))).collect();
        answers.extend([Some("{}"), Some("nope"), None].map(|body| handler.ingress(body, headers)));
        for answer in answers {
            assert_eq!((answer.status, kind(&answer)), (401, "unauthorized"), "{headers:?}: {answer:?}");
            assert_eq!(answer.headers["WWW-Authenticate"], CHALLENGE, "{headers:?}: {answer:?}");
        }
    }
}

#[test]
fn a_token_without_the_scope_is_told_which_one() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let id = submitted(&handler, "SCOPE-1", &issuer.token("alice", SUBMIT));

    let refused = |answer: &Answer, scope: &str| {
        assert_eq!((answer.status, kind(answer)), (403, "forbidden"), "{answer:?}");
        assert_eq!(answer.headers["WWW-Authenticate"], format!("{CHALLENGE}, error=\"insufficient_scope\", scope=\"{scope}\""));
    };
    for scope in ["", READ, "orders.submitted", "Orders.Submit", "orders.submit,orders.read"] {
        refused(&submit(&handler, "SCOPE-2", &issuer.token("alice", scope)), SUBMIT);
    }
    for scope in ["", SUBMIT, "orders"] {
        refused(&status(&handler, &id, &issuer.token("alice", scope)), READ);
        refused(&status(&handler, UNKNOWN, &issuer.token("alice", scope)), READ);
    }
    for scope in [json!(5), json!([SUBMIT, 5]), json!([[SUBMIT]]), json!({ SUBMIT: true }), json!([]), json!(null)] {
        let claims = with(issuer.claims("alice", ""), &json!({ "scope": scope }));
        refused(&submit(&handler, "SCOPE-3", &issuer.rsa.token(&Issuer::header().to_string(), &claims.to_string())), SUBMIT);
    }
    assert_eq!(status(&handler, &id, &issuer.token("alice", READ)).status, 200);
}

#[test]
fn without_scopes_set_every_valid_token_lets_in() {
    let issuer = Issuer::start();
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &settings(&issuer.url)[..2]);
    handler.program.line(KEYS_READ);

    let id = submitted(&handler, "ANY-1", &issuer.token("alice", ""));

    assert_eq!(status(&handler, &id, &issuer.token("alice", "x")).status, 200);
    let operator = with(issuer.claims("eve", BOTH), &json!({ "roles": ["orders.operator", ""] }));
    assert_eq!(status(&handler, &id, &issuer.rsa.token(&Issuer::header().to_string(), &operator.to_string())).status, 404);
}

#[test]
fn anothers_order_is_answered_byte_for_byte_as_an_unknown_one() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let id = submitted(&handler, "OWN-1", &issuer.token("alice", BOTH));
    let bob = bearer(&issuer.token("bob", BOTH));
    let whole = |response: Response| {
        let headers: Vec<_> = response.headers.into_iter().filter(|(name, _)| name != "date").collect();
        (response.status, headers, response.body)
    };

    let unknown = whole(asked(&handler, UNKNOWN, &[("Authorization", &bob)]));
    let anothers = whole(asked(&handler, &id, &[("Authorization", &bob)]));

    assert!(unknown.2.contains("order-not-found") && unknown.2.contains("404"), "{unknown:?}");
    assert_eq!(anothers, unknown);
    assert_eq!(status(&handler, &id, &issuer.token("alice", BOTH)).status, 200);
}

#[test]
fn a_caller_cannot_cancel_or_list_the_orders_of_others() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let [alice, bob] = ["alice", "bob"].map(|subject| issuer.token(subject, BOTH));
    let id = submitted(&handler, "OWN-2", &alice);
    let call = |function: &str, method: &str, path: &str, params: &Value, token: &str| {
        let (url, authorization) = (format!("http://localhost:7071/api/orders{path}"), bearer(token));
        let envelope = http_envelope(method, &url, params, None, &[("Authorization", &authorization)]);
        Answer::of(&handler.invoke(function, &envelope))
    };
    let cancel = |id: &str, token: &str| call("OrderCancel", "DELETE", &format!("/{id}"), &json!({ "trackingId": id }), token);
    let list = |query: &str, token: &str| call("OrderList", "GET", query, &json!({}), token);

    assert_eq!(cancel(&id, &bob).body, cancel(UNKNOWN, &bob).body);
    assert_eq!((cancel(&id, "x").status, cancel(&id, &issuer.token("alice", READ)).status), (401, 403));
    assert_eq!(list("", &bob).body, json!({ "orders": [] }));
    assert_eq!((list("", "x").status, list("", &issuer.token("alice", SUBMIT)).status), (401, 403));
    let mine = submitted(&handler, "OWN-3", &alice);
    let page = list("?limit=1", &alice);
    assert_eq!((page.body["orders"].as_array().unwrap().len(), &page.body["orders"][0]["trackingId"]), (1, &json!(mine)));
    let (_, query) = page.body["next"].as_str().unwrap().split_once('?').unwrap();
    assert_eq!(list(&format!("?{query}"), &bob).status, 404, "a cursor is its owner's");
    assert_eq!(list(&format!("?{query}"), &alice).body["orders"][0]["trackingId"], json!(id));
    assert_eq!((status(&handler, &id, &alice).body["status"].as_str(), cancel(&id, &alice).status), (Some("accepted"), 200));
}

#[test]
fn the_same_order_of_two_callers_is_two_orders() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let [alice, bob] = ["alice", "bob"].map(|subject| issuer.token(subject, BOTH));
    let send = |token: &str, body: &Value, key: &str| {
        handler.ingress(Some(&body.to_string()), &[("Authorization", &bearer(token)), ("Idempotency-Key", key)])
    };

    let first = submitted(&handler, "TWO-1", &alice);
    let second = submitted(&handler, "TWO-1", &bob);

    assert_ne!(first, second);
    assert_eq!(submitted(&handler, "TWO-1", &alice), first);
    // Neither does the key of one caller collide with the other's.
    assert_eq!(send(&alice, &order("TWO-2"), "k").status, 202);
    assert_eq!(send(&bob, &order("TWO-3"), "k").status, 202);
    assert_eq!(send(&alice, &order("TWO-3"), "k").status, 422);
}

#[test]
fn an_operator_reads_all_and_submits_only_with_the_scope() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let id = submitted(&handler, "OP-1", &issuer.token("alice", BOTH));
    let token = |claims: &Value| {
        let claims = with(issuer.claims("olga", ""), claims);
        issuer.rsa.token(&Issuer::header().to_string(), &claims.to_string())
    };

    let operator = token(&json!({ "roles": ["x", "orders.operator"] }));

    assert_eq!(status(&handler, &id, &operator).status, 200);
    assert_eq!(status(&handler, &id, &token(&json!({ "roles": "orders.operator" }))).status, 200);
    assert_eq!(status(&handler, UNKNOWN, &operator).status, 404);
    assert_eq!(submit(&handler, "OP-2", &operator).status, 403);
    // A role counts, and a scope does not: users grant scopes by themselves.
    for claims in [json!({ "scope": "orders.read orders.operator" }), json!({ "scope": READ, "roles": ["orders.operators"] })] {
        assert_eq!(status(&handler, &id, &token(&claims)).status, 404, "{claims}");
    }
}

#[test]
fn a_new_key_is_found_once_and_a_withdrawn_one_is_gone() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let before = issuer.token("alice", BOTH);
    submitted(&handler, "ROTATE-1", &before);
    assert_eq!(issuer.readings(), 1);
    let next = Key::rsa();
    issuer.publish_keys(&[next.jwk("rsa-2")]);
    let after = next.token(&with(Issuer::header(), &json!({ "kid": "rsa-2" })).to_string(), &issuer.claims("alice", BOTH).to_string());

    assert_eq!(submit(&handler, "ROTATE-1", &before).status, 202, "until the keys are read again");
    for _ in 0..20 {
        submitted(&handler, "ROTATE-1", &after);
    }

    assert_eq!(issuer.readings(), 2);
    assert_eq!(submit(&handler, "ROTATE-1", &before).status, 401);
}

#[test]
fn any_number_of_requests_wait_for_one_reading() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let next = Key::rsa();
    issuer.publish_keys(&[issuer.rsa.jwk("rsa-1"), next.jwk("rsa-2")]);
    let token = next.token(&with(Issuer::header(), &json!({ "kid": "rsa-2" })).to_string(), &issuer.claims("alice", BOTH).to_string());
    issuer.feels(Mood::Silent);

    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..50)
            .map(|number| {
                scope.spawn({
                    let (handler, token) = (&handler, &token);
                    move || submit(handler, &format!("WAIT-{number}"), token).status
                })
            })
            .collect();
        issuer.wait_until_asked(DISCOVERY, 2);
        // A caller whose key is known does not wait.
        assert_eq!(submit(&handler, "WAIT-KNOWN", &issuer.token("alice", BOTH)).status, 202);
        issuer.feels(Mood::Answers);
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), 202);
        }
    });

    assert_eq!(issuer.readings(), 2);
}

#[test]
fn a_thousand_made_up_keys_cause_few_readings() {
    let issuer = Issuer::start();
    let (_data, handler) = start(&issuer);
    let claims = issuer.claims("alice", BOTH).to_string();
    let started = Instant::now();

    std::thread::scope(|scope| {
        for thread in 0..10 {
            let (handler, issuer, claims) = (&handler, &issuer, &claims);
            scope.spawn(move || {
                for number in 0..100 {
                    let header = with(Issuer::header(), &json!({ "kid": format!("made-up-{thread}-{number}") }));
                    let answer = submit(handler, "FLOOD", &issuer.rsa.token(&header.to_string(), claims));
                    assert_eq!(answer.status, 401, "{answer:?}");
                }
            });
        }
    });

    // One at the start, one at the first of them, then one in five seconds.
    let most = 2 + usize::try_from(started.elapsed().as_secs() / 5).unwrap();
    assert!((2..=most).contains(&issuer.readings()), "{} readings in {:?}", issuer.readings(), started.elapsed());
    submitted(&handler, "FLOOD", &issuer.token("alice", BOTH));
}

#[test]
fn keys_are_kept_while_the_issuer_is_away() {
    let issuer = Issuer::start();
    let (_data, mut handler) = start(&issuer);
    let next = Key::rsa();
    let new = next.token(&with(Issuer::header(), &json!({ "kid": "rsa-2" })).to_string(), &issuer.claims("alice", BOTH).to_string());
    issuer.feels(Mood::Away);

    // While the issuer is away, a new key cannot be told from an invented one.
    let answer = submit(&handler, "AWAY-1", &new);

    assert_eq!((answer.status, kind(&answer)), (503, "auth-unavailable"), "{answer:?}");
    assert_eq!((&answer.body["outcome"], &answer.headers["Retry-After"]), (&"unknown".into(), &"5".into()));
    handler.program.line("the issuer's keys could not be read");
    let id = submitted(&handler, "AWAY-1", &issuer.token("alice", BOTH));
    assert_eq!(status(&handler, &id, &issuer.token("alice", BOTH)).status, 200);
    // No request holds a connection for an issuer that has just failed.
    issuer.feels(Mood::Silent);
    issuer.wait_until_asked(DISCOVERY, issuer.asked(DISCOVERY) + 1);
    let asked_at = Instant::now();
    (0..20).for_each(|_| assert_eq!(submit(&handler, "AWAY-1", &new).status, 503));
    assert!(asked_at.elapsed() < Duration::from_secs(3), "{:?}", asked_at.elapsed());
    issuer.publish_keys(&[issuer.rsa.jwk("rsa-1"), next.jwk("rsa-2")]);
    issuer.feels(Mood::Answers);
    eventually("the new key is known", || (submit(&handler, "AWAY-1", &new).status == 202).then_some(()));
}

#[test]
fn no_token_is_accepted_before_the_keys_are_known() {
    let port = free_port();
    let issuer_url = format!("http://127.0.0.1:{port}");
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &settings(&issuer_url));
    handler.program.line("the issuer's keys could not be read");
    let key = Key::rsa();
    let claims = json!({ "iss": issuer_url, "aud": AUDIENCE, "sub": "alice", "scope": BOTH, "exp": now() + 300 });
    let token = key.token(&Issuer::header().to_string(), &claims.to_string());

    let refused = submit(&handler, "EARLY-1", &token);
    let unseen = status(&handler, UNKNOWN, &token);

    assert_eq!((refused.status, kind(&refused)), (503, "auth-unavailable"), "{refused:?}");
    assert_eq!(refused.body["outcome"], "unknown");
    assert_eq!((unseen.status, unseen.body.get("outcome")), (503, None), "{unseen:?}");
    assert_eq!(handler.ingress(Some("{}"), &[]).status, 401);
    let issuer = Issuer::on(port);
    issuer.publish_keys(&[key.jwk("rsa-1")]);
    handler.program.line(KEYS_READ);
    eventually("the keys are known", || (submit(&handler, "EARLY-1", &token).status == 202).then_some(()));
}

#[test]
fn an_issuer_that_is_back_is_asked_at_the_next_request() {
    let port = free_port();
    let data = Directory::new();
    let handler = Handler::start(data.path(), &settings(&format!("http://127.0.0.1:{port}")));
    let failed = || handler.program.lines().iter().filter(|line| line.contains("the issuer's keys could not be read")).count();
    eventually("it is asked again after four seconds only", || (failed() >= 3).then_some(()));
    let issuer = Issuer::on(port);
    let back = Instant::now();

    eventually("the caller is let in", || (submit(&handler, "BACK-1", &issuer.token("alice", BOTH)).status == 202).then_some(()));

    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}

/// What goes wrong at an issuer.
type Spoil<'a> = &'a dyn Fn(&Issuer);

#[test]
fn an_issuer_that_is_not_the_one_or_makes_no_sense_gives_no_keys() {
    let elsewhere = Issuer::start();
    let keys = |issuer: &Issuer| format!("{}/keys", issuer.url);
    let of_many_tenants = "https://login.microsoftonline.com/{tenantid}/v2.0";
    let cases: [(&str, Spoil<'_>); 12] = [
        ("names another issuer, \\\"https://login.example.com\\\"", &|issuer| {
            issuer.publish_discovery("https://login.example.com", &keys(issuer));
        }),
        ("names another issuer", &|issuer| issuer.publish_discovery(&format!("{}/", issuer.url), &keys(issuer))),
        ("\\\\u{7}b", &|issuer| issuer.publish_discovery("a\u{7}b", &keys(issuer))),
        ("with the id of your tenant in place of {tenantid}", &|issuer| issuer.publish_discovery(of_many_tenants, &keys(issuer))),
        ("its jwks_uri is neither https", &|issuer| issuer.publish_discovery(&issuer.url, "http://192.0.2.1/keys")),
        ("its jwks_uri is neither https", &|issuer| issuer.publish_discovery(&issuer.url, "file:///dev/null")),
        ("its discovery document cannot be read", &|issuer| issuer.publish(DISCOVERY, "<html>")),
        ("its discovery document is larger", &|issuer| issuer.publish(DISCOVERY, &format!("{{\"x\":\"{}\"", "x".repeat(300_000)))),
        ("its key set cannot be read", &|issuer| issuer.publish("/keys", "{\"keys\":5}")),
        ("none of its keys", &|issuer| issuer.publish_keys(&[json!({ "kty": "oct", "kid": "rsa-1", "k": "eA" })])),
        ("answers 404 instead of its key set", &|issuer| issuer.publish_discovery(&issuer.url, &format!("{}/nowhere", issuer.url))),
        ("answers 302 instead of its discovery document", &|issuer| issuer.feels(Mood::Redirects(elsewhere.url.clone()))),
    ];

    for (reason, spoil) in cases {
        let issuer = Issuer::start();
        spoil(&issuer);
        let data = Directory::new();
        let mut handler = Handler::start(data.path(), &settings(&issuer.url));
        handler.program.line_where(reason, |line| line.contains("the issuer's keys could not be read") && line.contains(reason));
        assert_eq!(submit(&handler, "BAD-1", &issuer.token("alice", BOTH)).status, 503, "{reason}");
    }
    assert_eq!(elsewhere.paths(), [""; 0], "redirects are not followed");
}

/// A handler whose issuer was asked and has not answered.
fn with_a_silent_issuer(data: &Directory) -> (Issuer, Handler) {
    let issuer = Issuer::start();
    issuer.feels(Mood::Silent);
    let handler = Handler::start(data.path(), &settings(&issuer.url));
    issuer.wait_until_asked(DISCOVERY, 1);
    (issuer, handler)
}

#[test]
fn an_issuer_that_does_not_answer_delays_a_request_briefly() {
    let data = Directory::new();
    let (issuer, mut handler) = with_a_silent_issuer(&data);
    let started = Instant::now();

    assert_eq!(submit(&handler, "SLOW-1", &issuer.token("alice", BOTH)).status, 503);

    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    handler.program.line("it did not answer in time");
}

#[test]
fn a_slow_issuer_is_read_in_the_background() {
    let data = Directory::new();
    let (issuer, mut handler) = with_a_silent_issuer(&data);
    let started = Instant::now();

    // Each waits for a while, and together longer than a request may.
    while started.elapsed() < Duration::from_secs(6) {
        assert_eq!(submit(&handler, "SLOW-2", &issuer.token("alice", BOTH)).status, 503);
    }
    issuer.feels(Mood::Answers);
    handler.program.line(KEYS_READ);

    assert_eq!(issuer.asked(DISCOVERY), 1, "the first question is answered");
    submitted(&handler, "SLOW-2", &issuer.token("alice", BOTH));
}

#[test]
fn no_line_holds_a_token() {
    let issuer = Issuer::start();
    let data = Directory::new();
    let mut all = settings(&issuer.url).to_vec();
    all.push(("RUST_LOG", "trace"));
    let mut handler = Handler::start(data.path(), &all);
    handler.program.line(KEYS_READ);
    let genuine = issuer.token("PRIVATE-SUBJECT", BOTH);
    let forged =
        issuer.rsa.token(&with(Issuer::header(), &json!({ "kid": "PRIVATE-KID" })).to_string(), &issuer.claims("x", "").to_string());

    submitted(&handler, "LOG-1", &genuine);
    assert_eq!(submit(&handler, "LOG-2", &forged).status, 401);

    handler.program.line("no key of the issuer has its kid");
    for secret in [genuine.rsplit('.').next().unwrap(), forged.rsplit('.').next().unwrap(), "PRIVATE", "eyJ"] {
        let found: Vec<_> = handler.program.lines().into_iter().filter(|line| line.contains(secret)).collect();
        assert_eq!(found, [""; 0]);
    }
}

/// What the host says of a client whose function key has this name.
fn identity(kind: &str, authenticated: bool, key: &str) -> Value {
    let claim = |name: &str, value: &str| json!({ "Type": format!("http://schemas.microsoft.com/2017/07/functions/claims/{name}"), "Value": value });
    json!([
        { "AuthenticationType": null, "IsAuthenticated": false, "Claims": [] },
        { "AuthenticationType": kind, "IsAuthenticated": authenticated, "Claims": [claim("authlevel", "Function"), claim("keyid", key)] }
    ])
}

fn submit_as(handler: &Handler, identities: &Value, headers: &[(&str, &str)]) -> Answer {
    let body = order("KEY-1").to_string();
    let mut envelope = http_envelope("POST", "http://localhost:7071/api/orders", &json!({}), Some(&body), headers);
    envelope["Data"]["req"]["Identities"] = identities.clone();
    Answer::of(&handler.invoke("OrderIngress", &envelope))
}

#[test]
fn without_tokens_a_callers_own_function_key_is_an_owner() {
    let (_data, handler) = open(&[]);
    let host = "WebJobsAuthLevel";

    for (identities, expected) in [
        (identity(host, true, "shop"), "key:shop"),
        (identity(host, true, "Shop 2"), "key:Shop 2"),
        (identity(host, true, "default"), "anonymous"),
        (identity(host, true, "master"), "anonymous"),
        (identity(host, true, ""), "anonymous"),
        (identity(host, false, "shop"), "anonymous"),
        (identity("aad", true, "shop"), "anonymous"),
        (json!([]), "anonymous"),
        (json!(null), "anonymous"),
        (json!("[]"), "anonymous"),
        (json!([{ "AuthenticationType": host, "IsAuthenticated": true, "Claims": null }]), "anonymous"),
    ] {
        let answer = submit_as(&handler, &identities, &[]);
        assert_eq!((answer.status, owner(&answer)), (202, expected.to_owned()), "{identities}");
    }
    let id = submit_as(&handler, &identity(host, true, "shop"), &[]).body["trackingId"].as_str().unwrap().to_owned();
    let shown = |key: &str| {
        let url = format!("http://localhost:7071/api/orders/{id}/status");
        let mut envelope = http_envelope("GET", &url, &json!({ "trackingId": id }), None, &[]);
        envelope["Data"]["req"]["Identities"] = identity(host, true, key);
        Answer::of(&handler.invoke("OrderStatus", &envelope)).status
    };
    assert_eq!((shown("shop"), shown("other"), shown("default")), (200, 404, 404));
}

#[test]
fn the_principal_of_the_platform_counts_only_where_the_platform_sets_it() {
    let principal = [("X-MS-CLIENT-PRINCIPAL-ID", "alice"), ("x-ms-client-principal-idp", "aad")];
    let key = identity("WebJobsAuthLevel", true, "shop");
    for value in ["False", "0", ""] {
        let (_data, handler) = open(&[("WEBSITE_AUTH_ENABLED", value)]);
        assert_eq!(owner(&submit_as(&handler, &json!([]), &principal)), "anonymous", "{value}");
        assert_eq!(owner(&submit_as(&handler, &key, &principal)), "key:shop", "{value}");
    }
    let (_data, handler) = open(&[("WEBSITE_AUTH_ENABLED", "True")]);

    assert_eq!(owner(&submit_as(&handler, &key, &principal)), "easyauth:aad alice");
    assert_eq!(owner(&submit_as(&handler, &key, &[])), "key:shop");
    for headers in [
        &[principal[0]] as &[_],
        &[principal[1]],
        &[principal[0], principal[0], principal[1]],
        &[principal[0], ("X-Ms-Client-Principal-Id", "bob"), principal[1]],
        &[principal[0], ("X-MS-CLIENT-PRINCIPAL-IDP", "a b")],
        &[("X-MS-CLIENT-PRINCIPAL-ID", " "), principal[1]],
    ] {
        let answer = submit_as(&handler, &key, headers);
        assert_eq!((answer.status, answer.message.as_ref()), (401, None), "{headers:?}: {answer:?}");
    }
}

#[test]
fn the_ids_of_anonymous_orders_stay_as_they_are() {
    let (_data, handler) = open(&[("TRACKING_ID_KEY", "an-entirely-secret-tracking-id-key")]);

    let answer = handler.ingress(Some(&order("OLD-1").to_string()), &[("Idempotency-Key", "k-1"), ("Authorization", "Bearer x")]);

    assert_eq!(answer.body["trackingId"], "c6e2e54f-17ce-87bf-9ad4-4cd1a85b824a", "{answer:?}");
}

/// The script of the real issuer, unless Node.js or the provider is missing, which `REQUIRE_ALL=1` makes a failure.
fn script() -> Option<PathBuf> {
    let directory = repository().join("tests/issuer");
    let missing = if Command::new("node").arg("--version").output().is_err() {
        "node not found"
    } else if !directory.join("node_modules/oidc-provider/package.json").exists() {
        "the OpenID provider is not installed: npm ci --prefix tests/issuer"
    } else {
        return Some(directory.join("server.js"));
    };
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{missing}");
    skipped(missing);
    None
}

/// A provider that shares no code with us.
struct RealIssuer {
    _program: Program,
    url: String,
}

impl RealIssuer {
    fn start() -> Option<Self> {
        let mut program = Program::start(Command::new("node").arg(script()?));
        let url = program.line("listening on ").rsplit(' ').next().unwrap().to_owned();
        Some(Self { _program: program, url })
    }

    /// Its authorization header for this client.
    fn bearer(&self, client: &str, scope: &str) -> String {
        // `client:secret`, as `client_secret_post` writes it.
        let form =
            format!("grant_type=client_credentials&client_id={client}&client_secret=secret&resource=api%3A%2F%2Forders&scope={scope}");
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let response = request("POST", &format!("{}/token", self.url), &headers, Some(form.replace(' ', "+").as_bytes()));
        assert_eq!(response.status, 200, "{response:?}");
        bearer(response.json()["access_token"].as_str().unwrap())
    }

    fn rotate(&self, query: &str) {
        assert_eq!(request("POST", &format!("{}/rotate{query}", self.url), &[], Some(b"")).status, 204);
    }
}

fn host_with(issuer: &RealIssuer) -> (Directory, Host) {
    let data = Directory::new();
    let mut host = Host::start(data.path(), &settings(&issuer.url));
    host.program.line(KEYS_READ);
    (data, host)
}

fn post(host: &Host, order_id: &str, authorization: &[&str]) -> Response {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(authorization.iter().map(|value| ("Authorization", *value)));
    request("POST", &host.url("/api/orders"), &headers, Some(order(order_id).to_string().as_bytes()))
}

#[test]
fn tokens_of_a_real_issuer_take_an_order_to_its_end() {
    let Some(issuer) = RealIssuer::start() else { return };
    let (_data, host) = host_with(&issuer);
    let shop = issuer.bearer("shop", BOTH);
    let status_of = |id: &str, authorization: &str| {
        request("GET", &host.url(&format!("/api/orders/{id}/status")), &[("authorization", authorization)], None)
    };

    let accepted = post(&host, "REAL-1", &[&shop]);

    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json()["trackingId"].as_str().unwrap().to_owned();
    let ended = eventually("the order completes", || {
        let shown = status_of(&id, &shop);
        assert_eq!(shown.status, 200, "{shown:?}");
        (shown.json()["status"] == "completed").then_some(shown)
    });
    assert_eq!(ended.json()["result"]["total"], "53.16");
    for client in ["shop-ps", "shop-es"] {
        let another = issuer.bearer(client, BOTH);
        assert_eq!(post(&host, "REAL-1", &[&another]).status, 202, "{client}");
        let (unknown, hidden) = (status_of(UNKNOWN, &another), status_of(&id, &another));
        assert_eq!((hidden.status, &hidden.body), (404, &unknown.body), "{client}");
    }
    let operator = issuer.bearer("operator", READ);
    assert_eq!(status_of(&id, &operator).status, 200);
    let refused = post(&host, "REAL-2", &[&operator]);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(refused.headers["www-authenticate"], format!("{CHALLENGE}, error=\"insufficient_scope\", scope=\"{SUBMIT}\""));
    for (authorization, challenge) in [(&[] as &[&str], CHALLENGE), (&[&shop, &shop], INVALID), (&[&shop[..shop.len() - 2]], INVALID)] {
        let refused = post(&host, "REAL-3", authorization);
        assert_eq!((refused.status, refused.headers["www-authenticate"].as_str()), (401, challenge), "{authorization:?}: {refused:?}");
        assert!(refused.headers["content-type"].starts_with("application/problem+json"), "{refused:?}");
    }
}

#[test]
fn new_keys_of_a_real_issuer_are_found_and_withdrawn_ones_are_forgotten() {
    let Some(issuer) = RealIssuer::start() else { return };
    let (_data, host) = host_with(&issuer);
    let first = issuer.bearer("shop", BOTH);
    assert_eq!(post(&host, "TURN-1", &[&first]).status, 202);

    issuer.rotate("");
    let second = issuer.bearer("shop", BOTH);
    assert_eq!(post(&host, "TURN-1", &[&second]).status, 202);
    assert_eq!(post(&host, "TURN-1", &[&first]).status, 202, "its key is still published");

    issuer.rotate("?withdraw=1");
    let third = issuer.bearer("shop-es", BOTH);
    eventually("the third key is found", || (post(&host, "TURN-2", &[&third]).status == 202).then_some(()));
    for withdrawn in [&first, &second] {
        assert_eq!(post(&host, "TURN-1", &[withdrawn]).status, 401);
    }
}

#[test]
fn anothers_order_takes_as_long_as_an_unknown_one_where_replicas_may_lag() {
    let emulator = Emulator::start(&[]);
    let principal = |name| [("X-MS-CLIENT-PRINCIPAL-IDP", "aad"), ("X-MS-CLIENT-PRINCIPAL-ID", name)];
    let handler = Handler::begin(&emulator.with(&[("WEBSITE_AUTH_ENABLED", "true")])).ready();
    let accepted = handler.ingress(Some(&order("SLOW-404").to_string()), &principal("alice"));
    let id = accepted.body["trackingId"].as_str().unwrap();
    let took = |id: &str, name| {
        let started = Instant::now();
        let status = handler.status_with(id, &principal(name)).status;
        (status, started.elapsed())
    };

    assert_eq!(took(id, "alice").0, 200);
    let (anothers, unknown) = (took(id, "bob"), took(UNKNOWN, "bob"));

    assert_eq!((anothers.0, unknown.0), (404, 404));
    assert!(anothers.1 > unknown.1 / 2 && unknown.1 > Duration::from_secs(1), "{anothers:?} {unknown:?}");
}
