//! What `waybill doctor` can find: each with a fixed code, and why it matters. `docs/doctor.md` is compared with this list by a test.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The code, which never changes.
    pub code: &'static str,
    /// Whether it breaks the promise.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// An order can be lost, stand still or be open to strangers, or nothing is accepted.
    Broken,
    /// The promise holds, but at a cost, or an operator has something to do.
    Warning,
    /// Looked at, and in order.
    Fine,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The code of its kind; for what is in order the subject.
    pub code: Cow<'static, str>,
    /// What it means.
    pub severity: Severity,
    /// What was found, with the file, function, setting or resource by name.
    pub what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "str::is_empty", default)]
    pub why: Cow<'static, str>,
    /// What to do, where possible as a command.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub mend: String,
}

impl Finding {
    /// Something that is not in order.
    pub fn of(kind: &Kind, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { code: kind.code.into(), severity: kind.severity, what: what.into(), why: kind.why.into(), mend: mend.into() }
    }

    /// Something that is in order.
    pub fn fine(subject: &'static str, what: impl Into<String>) -> Self {
        Self { code: subject.into(), severity: Severity::Fine, what: what.into(), why: "".into(), mend: String::new() }
    }
}

/// The findings of the running app, as the function `Doctor` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The handler's version.
    pub version: String,
    /// The platform's name for the instance that answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance: Option<String>,
    /// Every finding, in the order of the checks.
    pub findings: Vec<Finding>,
}

macro_rules! kinds {
    ($($name:ident $code:literal $severity:ident $why:literal)*) => {
        $(
            #[doc = concat!("The kind `", $code, "`; its reason is in the constant.")]
            pub const $name: Kind = Kind { code: $code, severity: Severity::$severity, why: $why };
        )*
        /// Every kind, in the order of `docs/doctor.md`.
        pub const ALL: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    APP_UNREADABLE "app_unreadable" Broken "The host would not start the app, or leave functions out."
    FUNCTION_LEFT_OUT "function_left_out" Broken "The host leaves out a function that it cannot load: orders are accepted, and this part of their way is missing."
    FUNCTION_UNKNOWN "function_unknown" Broken "The host calls a function that the handler does not have, and each call fails."
    FUNCTION_MISSING "function_missing" Broken "A function without a folder is never called."
    FUNCTION_DISABLED "function_disabled" Broken "A disabled function is never called: without OrderSweeper or OrderDeadLetter a crash can leave an order without an end."
    FORWARDING "forwarding" Broken "The host would send plain requests, which the handler answers with an error: no order could be read."
    EXTENSION_BUNDLE "extension_bundle" Broken "Without the bundle the host has no Service Bus: OrderProcessor is never called."
    LOCK_RENEWAL "lock_renewal" Warning "When the renewal of its lock ends, a message is delivered again while its order is still worked on; that delivery finds the order leased and is put off."
    HANDLER_MISSING "handler_missing" Broken "The host finds nothing to start."
    HANDLER_NOT_EXECUTABLE "handler_not_executable" Broken "Linux does not start a file without its executable bit."
    HANDLER_WRONG "handler_wrong" Broken "Azure runs 64-bit Linux; a binary for another system or processor does not start there."
    SETTING "setting" Broken "The handler refuses to start with this setting, so that it cannot do anything wrong."
    SETTING_WITHOUT_EFFECT "setting_without_effect" Warning "Nothing reads this name, so what it was meant to change is as before."
    WORKER_RUNTIME "worker_runtime" Broken "Any value but custom makes the host look for another language, and it runs none of the functions."
    EXTENSION_VERSION "extension_version" Broken "Version 4 of the host is the only one that knows the Service Bus bindings of this app."
    HOST_STORAGE "host_storage" Broken "The host keeps the timers' turns there: without it OrderSweeper does not run."
    OPEN_TO_ALL "open_to_all" Broken "Anyone who knows the URL can submit, read and cancel orders."
    KEYS_AND_TOKENS "keys_and_tokens" Warning "A caller needs a function key and a token, though the token alone says who it is."
    NOT_REACHED "not_reached" Broken "Clients cannot reach the app either, or this is not its URL."
    NO_DOCTOR "no_doctor" Broken "What was deployed has no function Doctor: the deployment has not arrived, or is an older version."
    KEY_REFUSED "key_refused" Broken "Without the master key the app does not report what is wrong inside."
    NOT_HTTPS "not_https" Broken "Keys and orders can be read on the way."
    NO_TOKEN "no_token" Broken "Without its identity the handler reaches neither queue nor records."
    QUEUE_NOT_CONFIGURED "queue_not_configured" Warning "Retries keep their message and a worker while they wait, instead of being scheduled."
    QUEUE_MISSING "queue_missing" Broken "Orders are recorded, and no message can be sent."
    QUEUE_DENIED "queue_denied" Broken "Flex Consumption asks for the length of the queue with the app's identity: without an answer it starts no instance for OrderProcessor, and orders wait."
    QUEUE_AWAY "queue_away" Broken "While the namespace does not answer, no order is sent or delivered."
    QUEUE_DISABLED "queue_disabled" Broken "A queue that is not active takes or delivers no messages."
    QUEUE_SESSIONS "queue_sessions" Broken "Messages of this app have no session, so a queue with sessions refuses all of them."
    QUEUE_LOCK "queue_lock" Warning "A lock shorter than a pause of the host is lost, and its message delivered to another worker meanwhile."
    QUEUE_DELIVERIES "queue_deliveries" Warning "A few crashes are enough to dead-letter the message of a good order, which then waits for OrderDeadLetter and OrderSweeper."
    QUEUE_EXPIRY "queue_expiry" Warning "An expired message disappears without a trace; its order waits until OrderSweeper sends another one."
    QUEUE_FULL "queue_full" Warning "A full queue refuses messages, and new orders with them."
    DEAD_LETTERS "dead_letters" Warning "Messages lie in the dead-letter queue, which OrderDeadLetter empties when it runs."
    STORE_CLOSED "store_closed" Broken "Without its records the handler accepts no orders and answers no questions."
    STORE_AWAY "store_away" Broken "While the records cannot be read, orders are neither accepted nor worked on."
    STORE_NOT_WRITABLE "store_not_writable" Broken "An order that cannot be recorded is refused, and no work can be ended."
    STORE_DIFFERS "store_differs" Broken "The container no longer is as its definition says: records could be deleted early, or never."
    STORE_INDEX "store_index" Warning "Writes, or the sweeper's questions, cost more than necessary."
    CLOCK "clock" Warning "Signatures and tokens are refused when a clock is wrong by minutes."
    SWEEPER_STOPPED "sweeper_stopped" Broken "Orders that are due are found by OrderSweeper alone: without it a crash can leave an order without an end."
    QUARANTINE "quarantine" Warning "Messages that no function could act on wait for a person."
    BACKEND_AWAY "backend_away" Warning "While the backend does not answer, orders wait, and fail at their deadline."
    ISSUER_AWAY "issuer_away" Broken "Without the issuer's keys no token can be checked, and every caller is refused."
}
