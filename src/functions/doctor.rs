//! `Doctor`: asks every service that the app depends on a harmless question, with the app's own identity.
//!
//! Its authLevel is `admin`: what it answers is for operators, and names resources.

pub mod finding;
mod queue;
mod store;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::identity::Identity;
use crate::envelope::Answer;
use crate::functions::app::App;
use crate::functions::doctor::finding::{BACKEND_AWAY, Finding, ISSUER_AWAY, Report, SETTING_WITHOUT_EFFECT};
use crate::functions::invocation::Invocation;
use crate::functions::reply::{self, Conclusion};

/// Longest wait for a connection to the backend.
const CONNECT: Duration = Duration::from_secs(3);

/// Examines the app, and answers with every finding.
pub async fn run(app: Arc<App>, invocation: Invocation) -> Conclusion {
    if let Err(conclusion) = invocation.http_request() {
        return conclusion;
    }
    let report = Report { version: env!("CARGO_PKG_VERSION").into(), instance: app.config.instance.clone(), findings: examine(&app).await };
    Conclusion::new(Ok(Answer::respond(reply::json(200, Vec::new(), &report))))
}

async fn examine(app: &App) -> Vec<Finding> {
    // At the same time: each has a deadline of its own, and an operator waits.
    let (queue, store, backend) = tokio::join!(queue::examine(app), store::examine(app), backend(app));
    [settings(app), queue, store, backend, issuer(app)].concat()
}

fn settings(app: &App) -> Vec<Finding> {
    let warnings = app.config.warnings();
    if warnings.is_empty() {
        return vec![Finding::fine("settings", "the handler has started with its settings")];
    }
    let mend = "az functionapp config appsettings delete, or set, with the right name";
    warnings.iter().map(|warning| Finding::of(&SETTING_WITHOUT_EFFECT, warning, mend)).collect()
}

async fn backend(app: &App) -> Vec<Finding> {
    let Some(http) = &app.config.fulfillment else { return Vec::new() };
    let origin = http.url.origin().ascii_serialization();
    let address = (http.url.host_str().unwrap_or_default().trim_matches(['[', ']']), http.url.port_or_known_default().unwrap_or(443));
    let connected = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    };
    let mend = "look at the backend itself, at its firewall, and at the network that the app is joined to; FULFILLMENT_URL names it";
    let breaker = app.fulfillment.breaker();
    vec![match connected {
        Err(reason) => Finding::of(&BACKEND_AWAY, format!("the backend {origin} cannot be reached: {reason}"), mend),
        Ok(()) if breaker != "closed" => Finding::of(
            &BACKEND_AWAY,
            format!("the backend {origin} takes connections, and failed several orders in a row (the breaker is {breaker})"),
            mend,
        ),
        Ok(()) => Finding::fine("backend", format!("the backend {origin} takes connections")),
    }]
}

fn issuer(app: &App) -> Vec<Finding> {
    let Some(auth) = &app.callers.auth else { return Vec::new() };
    let issuer = &auth.settings().issuer;
    vec![match auth.keys() {
        Some(keys) => Finding::fine("issuer", format!("{keys} keys of the issuer {issuer} are known")),
        None => Finding::of(
            &ISSUER_AWAY,
            format!("the keys of the issuer {issuer} were never read"),
            format!(
                "curl {}/.well-known/openid-configuration; the log line \"the issuer's keys could not be read\" has the reason",
                issuer.trim_end_matches('/')
            ),
        ),
    }]
}

/// How the platform's commands name this app.
struct Place<'a> {
    group: &'a str,
    site: &'a str,
}

impl<'a> Place<'a> {
    fn of(app: &'a App) -> Self {
        let platform = &app.config.platform;
        Self { group: platform.group.as_deref().unwrap_or("GROUP"), site: platform.site.as_deref().unwrap_or("APP") }
    }

    /// The identity, as `--assignee` of `az role assignment create` takes it.
    fn assignee(&self, identity: Option<&Identity>) -> String {
        match identity {
            Some(Identity::Managed { client_id: Some(id) } | Identity::Workload { client_id: Some(id) }) => id.clone(),
            _ => format!("\"$(az functionapp identity show -g {} -n {} --query principalId -o tsv)\"", self.group, self.site),
        }
    }
}
