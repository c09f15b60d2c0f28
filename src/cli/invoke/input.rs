//! The input of an invocation: a sample or a text of one's own, with values set in it, in the route or in the query.

use std::io::Read;
use std::path::Path;

use clap::ValueEnum;
use functions_host::app;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::cli::app_files::{ORDER, has_own_orders, own_sample};
use crate::cli::invoke::route::{Route, encoded};

/// The header that tells orders apart.
pub(super) const ORDER_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Highest place in an array that may be set.
const MOST: usize = 1000;

/// A header of a request.
pub(super) type Header = (HeaderName, HeaderValue);

/// Input that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sample {
    /// A valid order: order.json or samples/order.json of the app, else a built-in one.
    Order,
    /// The message of a new order, which the app is sent for that.
    Message,
    /// A text that is no message, as a dead letter may be one.
    Text,
    /// An empty JSON object.
    Json,
    /// No input, as of a timer.
    Nothing,
}

/// A value to set, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    path: Vec<String>,
    value: String,
}

/// Reads `PATH=VALUE`.
pub(super) fn setting(text: &str) -> Result<Setting, String> {
    let (path, value) = text.split_once('=').ok_or("use PATH=VALUE, such as items.0.quantity=3")?;
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err("use PATH=VALUE with a path such as items.0.quantity".into());
    }
    Ok(Setting { path, value: value.to_owned() })
}

/// Reads `NAME:VALUE`.
pub(super) fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once(':').ok_or("use NAME:VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
    Ok((name, value.trim().parse().map_err(|_| "the value has a character that no header may have")?))
}

/// What goes to a function, before its values are set.
pub(super) struct Input {
    /// Text of the body or message.
    pub(super) text: Option<String>,
    /// Whether a person gave the text.
    pub(super) is_given: bool,
    /// Values to set.
    pub(super) settings: Vec<Setting>,
}

/// A request to a function with an HTTP trigger.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Method.
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Body.
    pub(super) body: Option<String>,
}

impl Input {
    /// The text, with the values in it. `Err`: why they cannot be set.
    pub(super) fn text(self) -> Result<String, String> {
        Ok(with(self.text, &self.settings)?.unwrap_or_default())
    }

    /// The request. A value goes into the route if that has its name, else into the body, or into the query of a request without one.
    pub(super) fn request(self, route: &Route) -> Result<Request, String> {
        let Self { text, is_given, settings } = self;
        let method = route.method(is_given || text.is_some());
        let has_body = !matches!(method.as_str(), "GET" | "HEAD" | "DELETE" | "OPTIONS");
        let in_route = |setting: &Setting| matches!(&setting.path[..], [name] if route.has(name));
        let (for_route, others): (Vec<_>, Vec<_>) = settings.into_iter().partition(in_route);
        let mut target = route.filled(|name| {
            let setting = for_route.iter().find(|setting| setting.path[0].eq_ignore_ascii_case(name));
            setting.map(|setting| setting.value.as_str())
        })?;
        if has_body || is_given {
            return Ok(Request { method, target, body: with(text, &others)? });
        }
        let query = others.iter().map(|Setting { path, value }| format!("{}={}", encoded(&path.join(".")), encoded(value)));
        let query = query.collect::<Vec<_>>().join("&");
        if !query.is_empty() {
            target = format!("{target}?{query}");
        }
        Ok(Request { method, target, body: None })
    }
}

fn with(text: Option<String>, settings: &[Setting]) -> Result<Option<String>, String> {
    if settings.is_empty() {
        return Ok(text);
    }
    let text = text.unwrap_or_else(|| "{}".into());
    let mut json: Value = serde_json::from_str(&text).map_err(|error| format!("--set needs an input that is JSON: {error}"))?;
    for Setting { path, value } in settings {
        let mut place = &mut json;
        for (index, name) in path.iter().enumerate() {
            place = member(place, name).ok_or_else(|| format!("--set: {} is no place in the input", path[..=index].join(".")))?;
        }
        // A text stays a text, such as the price "19.90".
        let is_text = place.is_string();
        *place =
            serde_json::from_str(value).ok().filter(|read: &Value| !is_text || read.is_string()).unwrap_or_else(|| value.as_str().into());
    }
    Ok(Some(json.to_string()))
}

/// The member of an object, or the item of an array, made if it is the next one.
fn member<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => Some(members.entry(name).or_insert(Value::Null)),
        Value::Array(items) => {
            let place: usize = name.parse().ok().filter(|place| *place <= items.len() && *place < MOST)?;
            if place == items.len() {
                items.push(Value::Null);
            }
            items.get_mut(place)
        }
        _ => None,
    }
}

/// Text of a file, or of stdin.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read =
        if file == Path::new("-") { std::io::stdin().read_to_string(&mut text).map(|_| text) } else { std::fs::read_to_string(file) };
    read.map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// A valid order of the app in this folder.
pub(super) fn order(folder: &Path) -> Result<String, String> {
    match own_sample(folder)? {
        Some((_, order)) => Ok(order),
        None if has_own_orders(&app::settings_of(folder).unwrap_or_default()) => {
            Err(format!("the app has orders of its own, and {} has no order.json: pass an order with --data FILE", folder.display()))
        }
        None => Ok(ORDER.into()),
    }
}

/// A key that no order has.
pub(super) fn fresh_key() -> Header {
    let key = format!("invoke-{}", Uuid::new_v4());
    (ORDER_KEY, HeaderValue::try_from(key).expect("hexadecimal digits and hyphens are a value"))
}

/// The key of an order of the app in this folder, where orders have no number by which they are told apart.
pub(super) fn key(folder: &Path) -> Option<Header> {
    let settings = app::settings_of(folder).unwrap_or_default();
    settings.get("ORDER_ID").is_some_and(|place| place == "none").then(fresh_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: Option<&str>, settings: &[&str]) -> Result<String, String> {
        let settings: Vec<Setting> = settings.iter().map(|text| setting(text).unwrap()).collect();
        with(text.map(str::to_owned), &settings).map(Option::unwrap_or_default)
    }

    #[test]
    fn values_are_set_where_they_stand_and_keep_the_kind_of_a_text() {
        let text = Some(r#"{"a":"1.50","items":[{"n":1}]}"#);
        for (settings, expected) in [
            (&["a=2.50"][..], r#"{"a":"2.50","items":[{"n":1}]}"#),
            (&["items.0.n=3"], r#"{"a":"1.50","items":[{"n":3}]}"#),
            (&["items.1.n=4"], r#"{"a":"1.50","items":[{"n":1},{"n":4}]}"#),
            (&["b.c=x=y"], r#"{"a":"1.50","items":[{"n":1}],"b":{"c":"x=y"}}"#),
            (&["b=null"], r#"{"a":"1.50","items":[{"n":1}],"b":null}"#),
        ] {
            assert_eq!(set(text, settings).unwrap(), expected, "{settings:?}");
        }
        assert_eq!(set(None, &["a=1"]).unwrap(), r#"{"a":1}"#);
        assert_eq!(set(text, &["items.7.n=1"]).unwrap_err(), "--set: items.7 is no place in the input");
        assert!(set(Some("text"), &["a=1"]).unwrap_err().starts_with("--set needs an input that is JSON"));
        assert!(setting("a").is_err() && setting("a..b=1").is_err());
    }

    #[test]
    fn a_value_goes_into_the_route_the_body_or_the_query() {
        let settings = || ["trackingid=a/b", "x=1"].iter().map(|text| setting(text).unwrap()).collect::<Vec<_>>();
        let route =
            |methods: &[&str]| Route::new("/api/orders/{trackingId}/status", methods.iter().map(|&method| method.to_owned()).collect());
        let input = |text: Option<&str>| Input { text: text.map(str::to_owned), is_given: false, settings: settings() };

        let get = input(None).request(&route(&["get"])).unwrap();
        let post = input(Some("{}")).request(&route(&["get", "post"])).unwrap();

        assert_eq!((get.method.as_str(), get.target.as_str(), get.body), ("GET", "/api/orders/a%2Fb/status?x=1", None));
        assert_eq!(
            (post.method.as_str(), post.target.as_str(), post.body.as_deref()),
            ("POST", "/api/orders/a%2Fb/status", Some(r#"{"x":1}"#))
        );
        let missing = Input { text: None, is_given: false, settings: Vec::new() }.request(&route(&[])).unwrap_err();
        assert_eq!(missing, "the route /api/orders/{trackingId}/status needs a value: --set trackingId=VALUE");
    }
}
