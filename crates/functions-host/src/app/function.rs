//! One function: its folder's `function.json` as a trigger and outputs.

use std::path::Path;

use serde_json::Value;

use super::{
    host_json::retry,
    json::{self, Node},
    settings::Configuration,
};
use crate::trigger::timer::schedule::Schedule;

/// A function that can run.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    /// The name of its folder, which is the path the host posts invocations to.
    pub(crate) name: String,
    /// Trigger that starts the function.
    pub(crate) trigger: Trigger,
    /// The output bindings, in file order.
    pub(crate) outputs: Vec<Output>,
}

/// The input binding that starts a function.
#[derive(Clone, Debug)]
pub(crate) enum Trigger {
    /// `httpTrigger`.
    Http {
        /// The name of the binding, the key of `Data` in the invocation.
        name: String,
        /// The route template below the route prefix, as written. Default the function's name.
        route: String,
        /// The methods it answers, as written; `None`, the default, is every method.
        methods: Option<Vec<String>>,
        /// Callers allowed in Azure. `func start` and this host let every client in.
        #[cfg_attr(not(test), expect(dead_code, reason = "read so that a mistake is reported; every client is let in"))]
        auth_level: AuthLevel,
    },
    /// `serviceBusTrigger` on a queue.
    Queue {
        /// The name of the binding, the key of `Data` in the invocation.
        name: String,
        /// `queueName`.
        queue: String,
        /// The setting that holds the connection. Default `AzureWebJobsServiceBus`.
        connection: String,
        /// `cardinality` is `many`: an invocation is given a batch. Default one message.
        cardinality_many: bool,
        /// Form in which the handler gets a message. Default text.
        data_type: Option<DataType>,
        /// `autoCompleteMessages` of this trigger; `None`, the default, leaves it to `host.json`.
        auto_complete_messages: Option<bool>,
    },
    /// `timerTrigger`.
    Timer {
        /// The name of the binding, the key of `Data` in the invocation.
        name: String,
        /// Schedule of the timer.
        schedule: Schedule,
        /// Whether the timer also fires when the host starts. Default false.
        run_on_startup: bool,
        /// Whether `ScheduleStatus` is kept and handed over. Default true, but always false for a schedule that fires
        /// more than once a minute (see [`Schedule::is_sub_minute`]).
        use_monitor: bool,
    },
}

impl Trigger {
    /// Kind of the trigger, in one word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Queue { .. } => "queue",
            Self::Timer { .. } => "timer",
        }
    }
}

/// An output binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// `http`: the response.
    Http {
        /// The name of the binding, a key of `Outputs` in the reply, or `$return`.
        name: String,
    },
    /// `serviceBus` to a queue.
    ServiceBus {
        /// The name of the binding, a key of `Outputs` in the reply, or `$return`.
        name: String,
        /// `queueName`.
        queue: String,
        /// The setting that holds the connection. Default `AzureWebJobsServiceBus`.
        connection: String,
        /// Form in which the reply's value becomes a message. Default text.
        data_type: Option<DataType>,
    },
}

/// `authLevel` of an HTTP trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AuthLevel {
    /// No key is needed.
    Anonymous,
    /// A key of the function or of the app.
    #[default]
    Function,
    /// The app's master key.
    Admin,
}

/// `dataType` of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    /// Text.
    String,
    /// Bytes, as base64.
    Binary,
    /// Bytes as a stream, which a custom handler sees as base64.
    Stream,
}

/// The setting a Service Bus binding without `connection` uses (`ServiceBusClientFactory.cs`).
const DEFAULT_CONNECTION: &str = "AzureWebJobsServiceBus";

/// Contents of a function's folder.
pub(super) struct Folder {
    pub(super) function: Function,
    pub(super) disabled: bool,
    /// Place of the trigger in `bindings`.
    pub(super) trigger_place: usize,
    /// What in the file has no effect.
    pub(super) notices: Vec<String>,
}

impl Folder {
    /// Reads the text of the `function.json` in a folder; the error is the host's reason where the host has one.
    pub(super) fn read(name: &str, folder: &Path, text: &str, configuration: &Configuration) -> Result<Folder, String> {
        if !is_function_name(name) {
            return Err(format!("'{name}' is not a valid function name: use letters, digits, - and _, starting with a letter"));
        }
        let document = host_json::parse(text).map_err(|reason| format!("function.json: {reason}"))?;
        if !document.is_object() {
            return Err("function.json: the file is not a JSON object".to_owned());
        }
        // The keys of the file itself have a case; those inside a binding have none.
        let root = |key: &str| Node { path: key.to_owned(), value: document.get(key).filter(|value| !value.is_null()) };
        let bindings = root("bindings").value.and_then(Value::as_array).filter(|bindings| !bindings.is_empty());
        let bindings = bindings.ok_or("At least one binding must be declared.")?;
        let bindings = bindings.iter().map(Binding::read).collect::<Result<Vec<_>, _>>()?;
        check(&bindings)?;

        let mut trigger = None;
        let mut outputs = Vec::new();
        for binding in &bindings {
            match (binding.kind.to_ascii_lowercase().as_str(), binding.direction) {
                ("httptrigger", Direction::In) => {
                    trigger = Some(binding.http_trigger(name)?);
                }
                ("servicebustrigger", Direction::In) => {
                    trigger = Some(binding.queue_trigger(configuration)?);
                }
                ("timertrigger", Direction::In) => {
                    trigger = Some(binding.timer_trigger(configuration)?);
                }
                ("http", Direction::Out) => outputs.push(Output::Http { name: binding.name.clone() }),
                ("servicebus", Direction::Out) => {
                    outputs.push(binding.service_bus_output(configuration)?);
                }
                ("http" | "servicebus", _) => {
                    let name = &binding.name;
                    return Err(format!("binding '{name}' is an output: add \"direction\": \"out\""));
                }
                _ => {
                    return Err(format!("binding type {} is not supported by this host", binding.kind));
                }
            }
        }
        let trigger = trigger.ok_or(NO_TRIGGER)?;
        let script = root("scriptFile");
        if let Some(script) = script.value {
            let script = script.as_str().ok_or("scriptFile is not a text")?;
            if !script.is_empty() && !folder.join(script).exists() {
                return Err(
                    "Invalid script file name configuration. The 'scriptFile' property is set to a file that does not exist.".to_owned()
                );
            }
        }
        let source = json::find(&document, "configurationSource").filter(|source| !source.is_null());
        if let Some(source) = source.filter(|source| !source.as_str().is_some_and(|source| is_one_of(source, &["config", "attributes"]))) {
            return Err(format!("Illegal value '{source}' for 'configurationSource' property in {name}'."));
        }
        let mut notices = Vec::new();
        if retry(&root("retry"))? {
            notices.push("retry is not played by this host: a failed invocation is not repeated".to_owned());
        }
        if root("disabled").value.is_some() {
            notices.push(format!("disabled has no effect: set AzureWebJobs.{name}.Disabled to true"));
        }
        let trigger_place = bindings.iter().position(Binding::is_trigger).unwrap_or_default();
        let function = Function { name: name.to_owned(), trigger, outputs };
        Ok(Folder { disabled: is_disabled(name, configuration), function, trigger_place, notices })
    }
}

const NO_TRIGGER: &str = "No trigger binding specified. A function must have a trigger input binding.";

/// The rules over all bindings (`FunctionDescriptorProvider.cs`).
fn check(bindings: &[Binding<'_>]) -> Result<(), String> {
    for (index, binding) in bindings.iter().enumerate() {
        let name = &binding.name;
        if bindings[..index].iter().any(|earlier| earlier.name.eq_ignore_ascii_case(name)) {
            return Err(format!("Multiple bindings with name '{name}' discovered. Binding names must be unique."));
        }
    }
    let triggers = bindings.iter().filter(|binding| binding.is_trigger());
    match triggers.count() {
        0 => Err(NO_TRIGGER.to_owned()),
        1 => Ok(()),
        _ => Err("Multiple trigger bindings defined. A function can only have a single trigger binding.".to_owned()),
    }
}

/// Whether a setting switches the function off.
fn is_disabled(name: &str, configuration: &Configuration) -> bool {
    let is_on = |value: &str| value == "1" || value.eq_ignore_ascii_case("true");
    // A shell cannot set a name with dots, and the Linux plans write `_` or `__` for them.
    let settings = [".", "_", "__"].map(|dot| format!("AzureWebJobs{dot}{name}{dot}Disabled"));
    settings.iter().filter_map(|setting| configuration.value(setting)).any(is_on)
}

fn is_one_of(text: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(text))
}

/// `^[A-Za-z][A-Za-z0-9_-]{0,127}$` without `host`, the host's pattern.
fn is_function_name(name: &str) -> bool {
    name.len() <= 128
        && !name.eq_ignore_ascii_case("host")
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// `^([a-zA-Z_][a-zA-Z0-9_]{0,127}|\$return)$`, the pattern of the newest hosts; older ones take no underscore.
fn is_binding_name(name: &str) -> bool {
    let plain = name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain || name == "$return"
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    In,
    Out,
    InOut,
}

struct Binding<'a> {
    node: Node<'a>,
    name: String,
    kind: String,
    direction: Direction,
}

impl<'a> Binding<'a> {
    fn read(value: &'a Value) -> Result<Binding<'a>, String> {
        if !value.is_object() {
            return Err("a binding is not an object".to_owned());
        }
        let node = Node::root(value);
        let name = node.child("name").text().unwrap_or_default();
        if !is_binding_name(&name) {
            return Err(format!("The binding name {name} is invalid. Please assign a valid name to the binding."));
        }
        let kind = node.child("type").text();
        let kind = kind.ok_or_else(|| format!("Binding '{name}' is invalid. Bindings must specify a Type."))?;
        let direction = match json::find(value, "direction") {
            // The host has the same default, so that a trigger needs no direction.
            None => Direction::In,
            Some(direction) => match json::text(direction).unwrap_or_default().to_ascii_lowercase().as_str() {
                "in" | "0" => Direction::In,
                "out" | "1" => Direction::Out,
                "inout" | "2" => Direction::InOut,
                _ => return Err(format!("'{}' is not a valid binding direction.", direction.as_str().unwrap_or(&direction.to_string()))),
            },
        };
        if name == "$return" && direction != Direction::Out {
            return Err("$return bindings must specify a direction of 'out'.".to_owned());
        }
        Ok(Binding { node, name, kind, direction })
    }

    fn is_trigger(&self) -> bool {
        self.direction == Direction::In && self.kind.to_ascii_lowercase().ends_with("trigger")
    }

    fn http_trigger(&self, function: &str) -> Result<Trigger, String> {
        // A `%NAME%` stays as it is here.
        let route = self.node.child("route").text().unwrap_or_else(|| function.to_owned());
        let lower = route.trim_matches('/').to_lowercase();
        if lower.starts_with("admin") || lower.starts_with("runtime") {
            return Err("The specified route conflicts with one or more built in routes.".to_owned());
        }
        let levels = ["anonymous", "user", "function", "system", "admin"];
        let auth_level = match self.node.child("authLevel").one_of(&levels).map_err(|reason| self.error(&reason))?.as_deref() {
            None => AuthLevel::default(),
            Some("anonymous" | "0") => AuthLevel::Anonymous,
            Some("admin" | "4") => AuthLevel::Admin,
            Some(_) => AuthLevel::Function,
        };
        Ok(Trigger::Http { name: self.name.clone(), route, methods: self.methods()?, auth_level })
    }

    fn methods(&self) -> Result<Option<Vec<String>>, String> {
        match self.node.child("methods").value {
            None => Ok(None),
            Some(Value::Array(methods)) => {
                let methods: Option<Vec<String>> = methods.iter().map(json::text).collect();
                methods.map(Some).ok_or_else(|| self.error("methods is not a list of texts"))
            }
            Some(_) => Err(self.error("methods is not a list")),
        }
    }

    fn queue_trigger(&self, configuration: &Configuration) -> Result<Trigger, String> {
        if self.node.child("subscriptionName").value.is_some() {
            return Err(self.error("topics are not supported by this host"));
        }
        if self.boolean("isSessionsEnabled")?.unwrap_or(false) {
            return Err(self.error("sessions are not supported by this host"));
        }
        let cardinality_many = match self.node.child("cardinality").text() {
            None => false,
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "one" => false,
                "many" => true,
                _ => return Err(self.error(&format!("cardinality \"{text}\" is not one or many"))),
            },
        };
        Ok(Trigger::Queue {
            name: self.name.clone(),
            queue: self.queue(configuration)?,
            connection: self.connection(configuration)?,
            cardinality_many,
            data_type: self.data_type()?,
            auto_complete_messages: self.boolean("autoCompleteMessages")?,
        })
    }

    fn timer_trigger(&self, configuration: &Configuration) -> Result<Trigger, String> {
        let schedule = self.node.child("schedule").text().ok_or_else(|| self.error("schedule is missing"))?;
        let schedule = Schedule::parse(&configuration.resolve(&schedule)?)?;
        Ok(Trigger::Timer {
            name: self.name.clone(),
            run_on_startup: self.boolean("runOnStartup")?.unwrap_or(false),
            use_monitor: self.boolean("useMonitor")?.unwrap_or(true) && !schedule.is_sub_minute(),
            schedule,
        })
    }

    fn service_bus_output(&self, configuration: &Configuration) -> Result<Output, String> {
        Ok(Output::ServiceBus {
            name: self.name.clone(),
            queue: self.queue(configuration)?,
            connection: self.connection(configuration)?,
            data_type: self.data_type()?,
        })
    }

    fn queue(&self, configuration: &Configuration) -> Result<String, String> {
        if self.node.child("topicName").value.is_some() {
            return Err(self.error("topics are not supported by this host"));
        }
        let queue = self.node.child("queueName").text().ok_or_else(|| self.error("queueName is missing"))?;
        let name = configuration.resolve(&queue)?;
        if name.trim().is_empty() {
            Err(self.error(&format!("queueName is empty: the setting in \"{queue}\" has no value")))
        } else {
            Ok(name)
        }
    }

    fn connection(&self, configuration: &Configuration) -> Result<String, String> {
        let connection = self.node.child("connection").text();
        connection.map_or_else(|| Ok(DEFAULT_CONNECTION.to_owned()), |text| configuration.resolve(&text))
    }

    fn data_type(&self) -> Result<Option<DataType>, String> {
        let Some(text) = self.node.child("dataType").text() else {
            return Ok(None);
        };
        match text.to_ascii_lowercase().as_str() {
            "string" => Ok(Some(DataType::String)),
            "binary" => Ok(Some(DataType::Binary)),
            "stream" => Ok(Some(DataType::Stream)),
            _ => Err(self.error(&format!("dataType \"{text}\" is not string, binary or stream"))),
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, String> {
        self.node.child(key).boolean().map_err(|reason| self.error(&reason))
    }

    fn error(&self, reason: &str) -> String {
        format!("binding '{}': {reason}", self.name)
    }
}

impl Function {
    /// The queue and the `connection` of each Service Bus binding.
    pub(super) fn connections(&self) -> impl Iterator<Item = (&str, &str)> {
        let trigger = match &self.trigger {
            Trigger::Queue { queue, connection, .. } => Some((queue.as_str(), connection.as_str())),
            Trigger::Http { .. } | Trigger::Timer { .. } => None,
        };
        let outputs = self.outputs.iter().filter_map(|output| match output {
            Output::ServiceBus { queue, connection, .. } => Some((queue.as_str(), connection.as_str())),
            Output::Http { .. } => None,
        });
        trigger.into_iter().chain(outputs)
    }

    /// Whether the host refuses this function because `other`, which comes first, has its route: the same text and a method in common.
    ///
    /// An empty list of methods has all in common although no request matches it (`ScriptHost.cs`, `HttpRoutesConflict`).
    pub(super) fn conflicts(&self, other: &Function) -> bool {
        let (Trigger::Http { route, methods, .. }, Trigger::Http { route: other_route, methods: other_methods, .. }) =
            (&self.trigger, &other.trigger)
        else {
            return false;
        };
        let some = |methods: &Option<Vec<String>>| methods.clone().filter(|methods| !methods.is_empty());
        let common =
            some(methods).zip(some(other_methods)).is_none_or(|(methods, others)| methods.iter().any(|method| others.contains(method)));
        let [one, two] = [route, other_route].map(|route| route.trim_matches('/').to_uppercase());
        common && one == two
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn folder(name: &str, document: &Value, settings: &[(&str, &str)]) -> Result<Folder, String> {
        let settings: BTreeMap<_, _> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Folder::read(name, Path::new("/nowhere"), &document.to_string(), &Configuration::new(&settings, &BTreeMap::new()))
    }

    fn bindings(bindings: &Value) -> Result<Function, String> {
        folder("Orders", &json!({"bindings": bindings}), &[]).map(|folder| folder.function)
    }

    fn http(name: &str, route: &str, methods: &[&str]) -> Function {
        let trigger = json!({"type": "httpTrigger", "name": "req", "route": route, "methods": methods});
        folder(name, &json!({"bindings": [trigger]}), &[]).map(|folder| folder.function).unwrap()
    }

    #[test]
    fn an_http_trigger_without_options_answers_every_method_on_its_own_name() {
        let function = bindings(&json!([{"type": "httpTrigger", "name": "req"}])).unwrap();

        let Trigger::Http { name, route, methods, auth_level } = function.trigger else { panic!() };
        assert_eq!((name.as_str(), route.as_str()), ("req", "Orders"));
        assert_eq!(methods, None);
        assert_eq!(auth_level, AuthLevel::Function);
    }

    #[test]
    fn a_queue_trigger_without_options_takes_one_message_at_a_time() {
        let function = bindings(&json!([{"type": "serviceBusTrigger", "name": "message", "queueName": "q"}])).unwrap();

        let Trigger::Queue { queue, connection, cardinality_many, data_type, auto_complete_messages, .. } = function.trigger else {
            panic!()
        };
        assert_eq!((queue.as_str(), connection.as_str()), ("q", "AzureWebJobsServiceBus"));
        assert!(!cardinality_many);
        assert_eq!((data_type, auto_complete_messages), (None, None));
    }

    #[test]
    fn a_sub_minute_timer_has_no_monitor() {
        for (schedule, expected) in [("*/10 * * * * *", false), ("0 * * * * *", true)] {
            let function = bindings(&json!([{"type": "timerTrigger", "name": "timer", "schedule": schedule}])).unwrap();
            let Trigger::Timer { use_monitor, run_on_startup, .. } = function.trigger else { panic!() };
            assert_eq!((use_monitor, run_on_startup), (expected, false), "{schedule}");
        }
    }

    #[test]
    fn a_setting_in_percent_signs_is_replaced() {
        let document = json!({"bindings": [
            {"type": "serviceBusTrigger", "name": "message", "queueName": "%Prefix%-%QUEUE%"}]});

        let function = folder("Orders", &document, &[("Prefix", "dev"), ("Queue", "orders")]).unwrap().function;
        let Trigger::Queue { queue, .. } = function.trigger else { panic!() };
        assert_eq!(queue, "dev-orders");
    }

    #[test]
    fn a_function_in_error_has_the_hosts_reason() {
        let trigger = json!({"type": "httpTrigger", "name": "req"});
        for (document, reason) in [
            (json!([]), "At least one binding must be declared."),
            (json!([{"type": "http", "name": "res", "direction": "out"}]), NO_TRIGGER),
            (json!([{"type": "httpTrigger", "name": "req", "direction": "out"}]), NO_TRIGGER),
            (
                json!([trigger, {"type": "timerTrigger", "name": "timer", "schedule": "0 * * * * *"}]),
                "Multiple trigger bindings defined. A function can only have a single trigger binding.",
            ),
            (
                json!([trigger, {"type": "http", "name": "REQ", "direction": "out"}]),
                "Multiple bindings with name 'REQ' discovered. Binding names must be unique.",
            ),
            (
                json!([{"type": "httpTrigger", "name": "re-q"}]),
                "The binding name re-q is invalid. Please assign a valid name to the binding.",
            ),
            (
                json!([{"type": "httpTrigger", "name": "123var"}]),
                "The binding name 123var is invalid. Please assign a valid name to the binding.",
            ),
            (json!([trigger, {"type": "http", "name": "$return"}]), "$return bindings must specify a direction of 'out'."),
            (json!(["req"]), "a binding is not an object"),
            (json!([{"name": "req"}]), "Binding 'req' is invalid. Bindings must specify a Type."),
            (json!([{"type": "httpTrigger", "name": "req", "direction": null}]), "'null' is not a valid binding direction."),
            (
                json!([{"type": "httpTrigger", "name": "req", "authLevel": "nobody"}]),
                "binding 'req': authLevel: \"nobody\" is not one of anonymous, user, function, system, admin",
            ),
            (json!([{"type": "httpTrigger", "name": "req", "direction": "up"}]), "'up' is not a valid binding direction."),
            (json!([trigger, {"type": "http", "name": "res"}]), "binding 'res' is an output: add \"direction\": \"out\""),
            (
                json!([trigger, {"type": "cosmosDB", "name": "order", "direction": "in"}]),
                "binding type cosmosDB is not supported by this host",
            ),
            (
                json!([{"type": "queueTrigger", "name": "item", "queueName": "q"}]),
                "binding type queueTrigger is not supported by this host",
            ),
            (
                json!([{"type": "serviceBusTrigger", "name": "m", "topicName": "t", "subscriptionName": "s"}]),
                "binding 'm': topics are not supported by this host",
            ),
            (
                json!([{"type": "serviceBusTrigger", "name": "m", "queueName": "q", "isSessionsEnabled": true}]),
                "binding 'm': sessions are not supported by this host",
            ),
            (json!([{"type": "serviceBusTrigger", "name": "m"}]), "binding 'm': queueName is missing"),
            (
                json!([{"type": "serviceBusTrigger", "name": "m", "queueName": "%Queue%"}]),
                "'%Queue%' does not resolve to a value: set Queue in Values of local.settings.json or in the environment",
            ),
            (json!([{"type": "timerTrigger", "name": "t"}]), "binding 't': schedule is missing"),
            (
                json!([{"type": "httpTrigger", "name": "req", "route": "/Admin/x"}]),
                "The specified route conflicts with one or more built in routes.",
            ),
            (json!([{"type": "httpTrigger", "name": "req", "methods": "get"}]), "binding 'req': methods is not a list"),
            (json!([{"type": "httpTrigger", "name": "req", "methods": [["get"]]}]), "binding 'req': methods is not a list of texts"),
        ] {
            assert_eq!(bindings(&document).unwrap_err(), reason, "{document}");
        }
    }

    #[test]
    fn a_folder_name_must_be_a_function_name() {
        let document = json!({"bindings": [{"type": "httpTrigger", "name": "req"}]});
        for (name, valid) in [("a", true), ("A_b-9", true), ("9a", false), ("a.b", false), ("Host", false), (&"a".repeat(129), false)] {
            assert_eq!(folder(name, &document, &[]).is_ok(), valid, "{name}");
        }
    }

    #[test]
    fn a_function_is_disabled_by_a_setting_and_not_by_its_file() {
        let mut document = json!({"bindings": [{"type": "httpTrigger", "name": "req"}]});
        let disabled =
            |document: &Value, settings: &[(&str, &str)]| folder("Orders", document, settings).map(|folder| folder.disabled).unwrap();

        assert!(!disabled(&document, &[]));
        assert!(!disabled(&document, &[("AzureWebJobs.Orders.Disabled", "false")]));
        assert!(disabled(&document, &[("AzureWebJobs.Orders.Disabled", "1")]));
        assert!(disabled(&document, &[("AzureWebJobs_Orders_Disabled", "True")]));
        assert!(disabled(&document, &[("AzureWebJobs__Orders__Disabled", "true")]));
        document["disabled"] = json!(true);
        assert!(!disabled(&document, &[]));
        let notices = folder("Orders", &document, &[]).unwrap().notices;
        assert_eq!(notices, ["disabled has no effect: set AzureWebJobs.Orders.Disabled to true"]);
    }

    #[test]
    fn the_rest_of_the_file_is_checked_too() {
        let with = |key: &str, value: Value| {
            let mut document = json!({"bindings": [{"type": "httpTrigger", "name": "_my_req"}]});
            document[key] = value;
            folder("Orders", &document, &[]).map(|folder| folder.notices)
        };

        assert!(with("scriptFile", json!("nothere.js")).unwrap_err().contains("'scriptFile'"));
        assert_eq!(with("scriptFile", json!("")).unwrap(), Vec::<String>::new());
        assert_eq!(with("retry", json!({"maxRetryCount": 2})).unwrap_err(), "retry.minimumInterval is missing");
        let policy = json!({"strategy": "fixedDelay", "maxRetryCount": 2, "delayInterval": "00:00:01"});
        assert_eq!(with("retry", policy).unwrap(), ["retry is not played by this host: a failed invocation is not repeated"]);
        assert!(with("configurationSource", json!("elsewhere")).unwrap_err().contains("configurationSource"));
        assert!(folder("Orders", &json!({"Bindings": [{"type": "httpTrigger", "name": "req"}]}), &[]).is_err());
        assert!(folder("Orders", &json!([]), &[]).is_err());
        let empty = json!({"bindings": [{"type": "serviceBusTrigger", "name": "m", "queueName": "%Q%"}]});
        let reason = folder("Orders", &empty, &[("Q", "")]).map(|_| ()).unwrap_err();
        assert_eq!(reason, "binding 'm': queueName is empty: the setting in \"%Q%\" has no value");
    }

    #[test]
    fn routes_conflict_only_with_the_same_text_and_a_common_method() {
        for (route, methods, other_route, other_methods, expected) in [
            ("orders", &["get"][..], "orders", &["post"][..], false),
            ("orders", &["get"], "Orders/", &["get", "post"], true),
            ("orders", &[], "orders", &["post"], true),
            ("orders/{id}", &["get"], "orders/{name}", &["get"], false),
            ("orders/{id}", &["get"], "orders/{id:int}", &["get"], false),
        ] {
            let conflict = http("A", route, methods).conflicts(&http("B", other_route, other_methods));
            assert_eq!(conflict, expected, "{route} {other_route}");
        }
    }
}
