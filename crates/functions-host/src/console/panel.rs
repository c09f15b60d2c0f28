//! Panel: the half of the console that knows what the app is about. The host provides the other half for any handler.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::service_bus::broker::Broker;

/// Query of a request, decoded.
pub type Query = BTreeMap<String, String>;

/// Answer of a panel, once it is there.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, Refused>> + Send + 'a>>;

/// Maker of a panel. Gets the directory of the messages, the queues, and the whole environment of the handler.
pub type Make = fn(&Path, &Broker, &BTreeMap<String, String>) -> Arc<dyn Panel>;

/// Named sources and actions that a program adds to the console, with the script that shows them.
pub trait Panel: Send + Sync {
    /// Script that runs in the page after the script of the console.
    fn script(&self) -> &'static str;

    /// Whether there is anything to show: the host runs any handler.
    fn is_there(&self) -> bool;

    /// Sample of an event for this function, as text: the body of a request, or a message.
    fn sample(&self, function: &str) -> Option<String>;

    /// Reads a source. Each visible page asks for its source at each event, four times a second: a panel keeps an answer that costs the
    /// handler's store much, and gives it again.
    fn read<'a>(&'a self, source: &'a str, query: &'a Query) -> Answer<'a>;

    /// Carries out an action.
    fn act<'a>(&'a self, action: &'a str, body: Value) -> Answer<'a>;

    /// Closes what the panel has opened, after the handler has ended.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Why a panel does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such source, action or thing.
    Unknown(String),
    /// The request is wrong.
    Wrong(String),
    /// What is asked does not answer now.
    Unavailable(String),
}
