//! Runs of a function by hand: what a person starts instead of a message or a moment.

use std::sync::Arc;

use tracing::info;
use uuid::Uuid;

use crate::app::function::Trigger;
use crate::dispatch::{Callable, Dispatcher, Invocation};
use crate::trigger::queue;
use crate::wire::invocation;

/// Why a function was not run by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has an HTTP trigger with this route: a client calls it.
    Http(String),
    /// No envelope could be made.
    NoEnvelope,
}

/// Starts a function with this text as its message; a timer gets none. Returns the id of the invocation, which runs by itself; its
/// report is there if it is asked for.
pub(crate) fn run(dispatcher: &Arc<Dispatcher>, function: &Arc<Callable>, input: &str, is_reported: bool) -> Result<Uuid, Refused> {
    let mut invocation = Invocation::by_hand();
    let envelope = match &function.trigger {
        Trigger::Http { route, .. } => return Err(Refused::Http(route.clone())),
        Trigger::Queue { .. } => queue::manual_envelope(function, input, &invocation),
        Trigger::Timer { name, .. } => Some(invocation::timer(name, None, false, &invocation.sys(&function.name))),
    };
    let envelope = envelope.ok_or(Refused::NoEnvelope)?;
    let id = invocation.id;
    invocation.report = is_reported.then(|| dispatcher.activity.reports.ask(id, &function.name));
    info!(function.name = function.name, invocation.id = %id, "run by hand");
    let (dispatcher, function) = (Arc::clone(dispatcher), Arc::clone(function));
    tokio::spawn(async move { dispatcher.invoke(&function, &invocation, envelope).await });
    Ok(id)
}
