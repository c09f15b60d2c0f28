//! The caller of a request: identified by a token, the platform's login or a function key, or anonymous.

use tracing::{info, warn};

use crate::config::auth::{SHARED_KEYS, is_name};
use crate::domain::problem::{Outcome, Problem};
use crate::door::token::{Auth, Claims, Refused};
use crate::envelope::HttpRequest;

/// The owner of orders whose caller is not identified.
pub const ANONYMOUS: &str = "anonymous";
/// The `WWW-Authenticate` challenge of a refusal (RFC 6750 section 3).
const CHALLENGE: &str = "Bearer realm=\"waybill\"";

/// The ways to identify a caller: the first of these that is set, else the function key.
#[derive(Debug)]
pub struct Callers {
    /// Verification of bearer tokens (`AUTH_ISSUER`).
    pub auth: Option<Auth>,
    /// Whether App Service authentication logs callers in (`WEBSITE_AUTH_ENABLED`).
    pub easy_auth: bool,
}

/// A caller that may do what the request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The owner of the caller's orders: `ISSUER SUBJECT`, `easyauth:PROVIDER ID`, `key:NAME` or [`ANONYMOUS`]. No two callers have
    /// the same owner: an issuer is a URL that begins with `http`, and neither issuer nor provider contains a space.
    pub owner: String,
    /// Whether the caller may also see the orders of other owners.
    pub operator: bool,
}

/// The right that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To submit or change an order.
    Submit,
    /// To read orders.
    Read,
}

impl Caller {
    fn named(owner: String) -> Self {
        Self { owner, operator: false }
    }

    /// Whether the caller may see orders of this owner.
    pub fn may_see(&self, owner: &str) -> bool {
        self.operator || self.owner == owner
    }
}

/// The caller of a request, or the problem if the caller lacks the right. Called before anything else about a request is read.
pub async fn identify(callers: &Callers, request: &HttpRequest<'_>, right: Right) -> Result<Caller, Problem> {
    if let Some(auth) = &callers.auth {
        return by_token(auth, request, right).await;
    }
    if callers.easy_auth
        && let Some(caller) = by_principal(request)?
    {
        return Ok(caller);
    }
    let key = request.function_key().filter(|name| is_name(name) && !SHARED_KEYS.contains(&name.as_str()));
    Ok(Caller::named(key.map_or_else(|| ANONYMOUS.to_owned(), |name| format!("key:{name}"))))
}

async fn by_token(auth: &Auth, request: &HttpRequest<'_>, right: Right) -> Result<Caller, Problem> {
    let token = match bearer(request) {
        Bearer::Token(token) => token,
        Bearer::None => return Err(unauthorized(CHALLENGE)),
        Bearer::Several => return Err(invalid_token("several Authorization headers")),
    };
    // This machine's clock: token times are not compared with times in records, for which the store's clock counts.
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    match auth.verify(token, now).await {
        Ok(claims) => allowed(auth, &claims, right),
        Err(Refused::Invalid(reason)) => Err(invalid_token(reason)),
        Err(Refused::Unavailable) => {
            warn!("a request was refused: the issuer's keys are not known");
            // Without an owner there is no tracking id, so whether the order was accepted before cannot be looked up.
            Err(Problem::issuer_away((right == Right::Submit).then_some(Outcome::Unknown)))
        }
    }
}

fn allowed(auth: &Auth, claims: &Claims, right: Right) -> Result<Caller, Problem> {
    let settings = auth.settings();
    let operator = settings.operator_role.as_ref().is_some_and(|role| claims.has_role(role));
    let needed = match right {
        Right::Submit => settings.submit_scope.as_deref(),
        // The operator role includes the right to read.
        Right::Read if operator => None,
        Right::Read => settings.read_scope.as_deref(),
    };
    match needed.filter(|scope| !claims.allow(scope)) {
        Some(scope) => Err(insufficient_scope(scope)),
        None => Ok(Caller { owner: format!("{} {}", settings.issuer, claims.subject), operator }),
    }
}

enum Bearer<'r> {
    Token(&'r str),
    /// No token, or an `Authorization` header of another scheme.
    None,
    /// Several headers: a proxy that reads the first and a handler that reads the last would see different callers.
    Several,
}

fn bearer<'r>(request: &'r HttpRequest<'_>) -> Bearer<'r> {
    let mut values = request.header("authorization");
    let Some(value) = values.next() else { return Bearer::None };
    if values.next().is_some() {
        return Bearer::Several;
    }
    match value.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Bearer::Token(token.trim_start()),
        _ => Bearer::None,
    }
}

/// The caller that the platform logged in ("Work with user identities in Azure App Service authentication"). The platform removes
/// these headers from a client's request, but only where it logs callers in.
fn by_principal(request: &HttpRequest<'_>) -> Result<Option<Caller>, Problem> {
    let ids: Vec<_> = request.header("x-ms-client-principal-id").collect();
    let providers: Vec<_> = request.header("x-ms-client-principal-idp").collect();
    match (&ids[..], &providers[..]) {
        ([], []) => Ok(None),
        ([id], [provider]) if is_name(id) && is_name(provider) && !provider.contains(' ') => {
            Ok(Some(Caller::named(format!("easyauth:{provider} {id}"))))
        }
        _ => {
            info!("a request was refused: the platform's headers name no principal, or more than one");
            Err(unauthorized(CHALLENGE))
        }
    }
}

fn unauthorized(challenge: &str) -> Problem {
    // The same text for every reason: it must not tell which part of a token is wrong.
    let problem = Problem::unauthorized("send one header Authorization: Bearer TOKEN, with a valid token for this service");
    Problem { headers: vec![("WWW-Authenticate", challenge.to_owned())], ..problem }
}

fn invalid_token(reason: &'static str) -> Problem {
    info!(reason, "a token was refused");
    unauthorized(&format!("{CHALLENGE}, error=\"invalid_token\""))
}

fn insufficient_scope(scope: &str) -> Problem {
    let challenge = format!("{CHALLENGE}, error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::forbidden(format!("the token is valid, but lacks the scope {scope}; ask for a token with it"));
    Problem { headers: vec![("WWW-Authenticate", challenge)], ..problem }
}
