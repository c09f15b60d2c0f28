//! Who calls: by a token, by what the platform says, or nobody in particular.

use tracing::{info, warn};

use crate::domain::problem::{Outcome, Problem};
use crate::door::token::{Auth, Claims, Refused};
use crate::envelope::HttpRequest;

/// The owner of every order as long as nobody has to log in.
pub const ANONYMOUS: &str = "anonymous";
/// Longest name of a principal that is taken, in bytes: it stands in every record and message.
const MAX_NAME: usize = 255;
/// Function keys that everybody shares who was given none of his own.
const SHARED_KEYS: [&str; 3] = ["default", "master", "_master"];
/// What a refusal asks for (RFC 6750 section 3).
const CHALLENGE: &str = "Bearer realm=\"waybill\"";

/// How a request's caller is known: by the first of these that is there, else by function key.
#[derive(Debug)]
pub struct Callers {
    /// Checks bearer tokens (`AUTH_ISSUER`).
    pub auth: Option<Auth>,
    /// Whether the platform logs callers in (`WEBSITE_AUTH_ENABLED`).
    pub easy_auth: bool,
}

/// Somebody who may do what he asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose orders are his: `ISSUER SUBJECT`, `easyauth:PROVIDER ID`, `key:NAME` or [`ANONYMOUS`]. No two callers share one:
    /// an issuer has a scheme before its colon that none of the others is, and neither issuer nor provider contains a space.
    pub owner: String,
    /// Whether he sees the orders of others too.
    pub operator: bool,
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To submit an order, or to change one.
    Submit,
    /// To read.
    Read,
}

impl Caller {
    fn named(owner: String) -> Self {
        Self { owner, operator: false }
    }

    /// Whether he may know of an order of this owner.
    pub fn may_see(&self, owner: &str) -> bool {
        self.operator || self.owner == owner
    }
}

/// Finds out who calls and whether he may; asked before anything else about a request.
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
    // The machine's own clock; who is in which order of time matters elsewhere, and there the store's counts.
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    match auth.verify(token, now).await {
        Ok(claims) => allowed(auth, &claims, right),
        Err(Refused::Invalid(reason)) => Err(invalid_token(reason)),
        Err(Refused::Unavailable) => {
            warn!("a request was refused, since the issuer's keys are not known");
            // Whose order it is, and so which, is not known.
            Err(Problem::issuer_away((right == Right::Submit).then_some(Outcome::Unknown)))
        }
    }
}

fn allowed(auth: &Auth, claims: &Claims, right: Right) -> Result<Caller, Problem> {
    let settings = auth.settings();
    let operator = settings.operator_role.as_ref().is_some_and(|role| claims.has_role(role));
    let needed = match right {
        Right::Submit => settings.submit_scope.as_deref(),
        // The role says so already.
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
    /// No token at all: another scheme is none.
    None,
    /// Who reads the first and who reads the last would see different callers.
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

/// Whom the platform logged in ("Work with user identities in Azure App Service authentication"). It removes what a client writes
/// into these headers, but only where it logs callers in at all.
fn by_principal(request: &HttpRequest<'_>) -> Result<Option<Caller>, Problem> {
    let ids: Vec<_> = request.header("x-ms-client-principal-id").collect();
    let providers: Vec<_> = request.header("x-ms-client-principal-idp").collect();
    match (&ids[..], &providers[..]) {
        ([], []) => Ok(None),
        ([id], [provider]) if is_name(id) && is_name(provider) && !provider.contains(' ') => {
            Ok(Some(Caller::named(format!("easyauth:{provider} {id}"))))
        }
        _ => {
            info!("a request was refused: the platform's headers name no principal, or several");
            Err(unauthorized(CHALLENGE))
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

fn unauthorized(challenge: &str) -> Problem {
    // The same text whatever is missing or wrong.
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
