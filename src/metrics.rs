//! What this process counts and measures. Each instrument stands here once, with its name, unit, labels and meaning.
//!
//! Each label has a fixed set of values, so the number of series is known when this is compiled, whatever clients send. Like the log, the
//! instruments belong to the process, and are no part of any type. They have two readers: `GET /metrics`, and the export by OTLP.

pub mod instrument;
pub mod prometheus;

use std::sync::LazyLock;

use serving::output;

use crate::domain::problem::Problem;
use crate::domain::record::Status;
use crate::metrics::instrument::{CountedElsewhere, Counter, Gauge, Histogram, Instrument, Kind, Labels, Series};

/// The instruments of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Bounds for requests, in seconds, as the semantic conventions advise.
const REQUEST: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Bounds for questions to a database, in seconds, as the semantic conventions advise.
const QUESTION: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// Bounds for request units, as the semantic conventions advise.
const CHARGE: &[f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Bounds for the time of an order, in seconds: up to a day.
const ORDER: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Bounds for the number of tries.
const TRIES: &[f64] = &[0.0, 1.0, 2.0, 3.0, 5.0, 10.0];

/// All series of one instrument.
#[derive(Debug)]
pub struct Family {
    /// Name by OpenTelemetry, with dots.
    pub name: &'static str,
    /// Unit by UCUM.
    pub unit: &'static str,
    /// Meaning, in one sentence.
    pub description: &'static str,
    /// Kind of the instrument.
    pub kind: Kind,
    /// All labels that a series may have, one entry a series.
    pub labels: Vec<Vec<(&'static str, &'static str)>>,
    /// The series and their values.
    pub series: Vec<Series>,
}

/// Declares the instruments: `name: type = value, "name", "unit";`, with the meaning as doc comment.
macro_rules! instruments {
    ($(#[doc = $meaning:literal] $field:ident: $instrument:ty = $value:expr, $name:literal, $unit:literal;)*) => {
        /// The instruments of a process.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $meaning] pub $field: $instrument,)*
        }

        impl Metrics {
            fn new() -> Self {
                Self { $($field: $value,)* }
            }

            /// Reads all of them.
            pub fn read(&self) -> Vec<Family> {
                vec![$(Family {
                    name: $name,
                    unit: $unit,
                    description: $meaning.trim_ascii(),
                    kind: <$instrument as Instrument>::KIND,
                    labels: <$instrument as Instrument>::labels(),
                    series: self.$field.series(),
                }),*]
            }
        }
    };
}

instruments! {
    /// Orders that were recorded.
    orders_accepted: Counter<()> = Counter::new(), "waybill.orders.accepted", "{order}";
    /// Submissions of orders that were answered with a problem, by its type.
    orders_refused: Counter<ProblemType> = Counter::new(), "waybill.orders.refused", "{order}";
    /// Other requests of clients that were answered with a problem, by its type.
    requests_refused: Counter<ProblemType> = Counter::new(), "waybill.requests.refused", "{request}";
    /// Time from the submission of an order to its first claim, if the order waited for nothing but its turn in the queue.
    queue_wait: Histogram<()> = Histogram::new(ORDER), "waybill.order.queue_wait", "s";
    /// Time from the submission of an order to its end.
    time_to_terminal: Histogram<Outcome> = Histogram::new(ORDER), "waybill.order.time_to_terminal", "s";
    /// Tries that an order had when it ended.
    attempts: Histogram<Outcome> = Histogram::new(TRIES), "waybill.order.attempts", "{attempt}";
    /// Tries that failed and are followed by another one.
    retries: Counter<()> = Counter::new(), "waybill.order.retries", "{attempt}";
    /// Claims that ended without a verdict, by a crash or a lease that ran out.
    interruptions: Counter<()> = Counter::new(), "waybill.order.interruptions", "{interruption}";
    /// Tries of callbacks, and those put off while their receiver was busy, by what followed.
    callbacks: Counter<CallbackResult> = Counter::new(), "waybill.callback.attempts", "{attempt}";
    /// Overdue orders that the sweeper looked at, by what it did.
    swept: Counter<Swept> = Counter::new(), "waybill.sweeper.orders", "{order}";
    /// Age of the oldest order that the last run of the sweeper found overdue, zero if it found none.
    oldest_overdue: Gauge<()> = Gauge::new(), "waybill.sweeper.oldest_overdue", "s";
    /// Dead letters, by the decision about each.
    dead_letters: Counter<DeadLetter> = Counter::new(), "waybill.dead_letters", "{message}";
    /// Whether the circuit breaker of a dependency is in a state: 1 for its state, 0 for the others.
    breaker_state: Gauge<(Dependency, BreakerState)> = Gauge::new(), "waybill.breaker.state", "{state}";
    /// Requests for a status that wait now.
    waiters: Gauge<WaitFor> = Gauge::new(), "waybill.waiters", "{request}";
    /// Time from the request of an invocation to its answer, for functions of clients and timers.
    invoke_duration: Histogram<(Function, Answered)> = Histogram::new(REQUEST), "faas.invoke_duration", "s";
    /// Time from the delivery of a message to the answer that completes or abandons it.
    process_duration: Histogram<(Receiver, Answered)> = Histogram::new(REQUEST), "messaging.process.duration", "s";
    /// Messages that this process sent, and those that it gave to the host to be sent.
    sent_messages: Counter<(SendOperation, Sent)> = Counter::new(), "messaging.client.sent.messages", "{message}";
    /// Time of a request to the HTTP service that does the work, to the head of its answer.
    backend_duration: Histogram<(Method, StatusClass)> = Histogram::new(REQUEST), "http.client.request.duration", "s";
    /// Time of a question to the store, with its repetitions.
    store_duration: Histogram<(Engine, (Operation, Replied))> = Histogram::new(QUESTION), "db.client.operation.duration", "s";
    /// Request units of a question to Cosmos DB, with its repetitions.
    request_charge: Histogram<Operation> =
        Histogram::new(CHARGE), "azure.cosmosdb.client.operation.request_charge", "{request_unit}";
    /// Log lines that were dropped, since the reader of the output was too slow.
    log_lines_lost: CountedElsewhere = CountedElsewhere::new(output::dropped), "waybill.log.lines_lost", "{line}";
}

impl Metrics {
    /// An order has ended.
    pub fn ended(&self, status: Status, took: std::time::Duration, attempts: u32) {
        let outcome = match status {
            Status::Completed => Outcome::Completed,
            Status::Cancelled => Outcome::Cancelled,
            Status::Accepted | Status::Processing | Status::Failed => Outcome::Failed,
        };
        self.time_to_terminal.time(outcome, took);
        self.attempts.record(outcome, attempts.into());
    }

    /// A client is told a problem.
    pub fn refused(&self, function: &str, kind: &'static str) {
        let Some(problem) = ProblemType::of(kind) else { return };
        let counter = if function == "OrderIngress" { &self.orders_refused } else { &self.requests_refused };
        counter.count(problem);
    }

    /// An invocation is answered.
    pub fn invoked(&self, function: &str, answered: Answered, took: std::time::Duration) {
        if let Some(receiver) = Receiver::of(function) {
            self.process_duration.time((receiver, answered), took);
        } else if let Some(function) = Function::of(function) {
            self.invoke_duration.time((function, answered), took);
        }
    }

    /// A circuit breaker is in this state now.
    pub fn breaker(&self, dependency: Dependency, state: BreakerState) {
        for other in BreakerState::ALL {
            self.breaker_state.set((dependency, *other), f64::from(u8::from(*other == state)));
        }
    }
}

/// Declares a label and its values.
macro_rules! label {
    ($(#[$doc:meta])* $label:ident, $key:literal: $($value:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $label {
            $(#[doc = concat!("`", $text, "`")] $value,)+
        }

        impl $label {
            /// All values, each at the index of its discriminant.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The value as text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }

            /// The value with this text.
            pub fn of(text: &str) -> Option<Self> {
                Self::ALL.iter().find(|value| value.as_str() == text).copied()
            }
        }

        impl Labels for $label {
            const COUNT: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn add_at(index: usize, labels: &mut Vec<(&'static str, &'static str)>) {
                labels.push(($key, Self::ALL[index].as_str()));
            }
        }
    };
}

label! {
    /// How an order ended.
    Outcome, "waybill.outcome": Completed = "completed", Failed = "failed", Cancelled = "cancelled"
}

label! {
    /// What followed the try of a callback.
    CallbackResult, "waybill.result": Delivered = "delivered", Failed = "failed", PutOff = "put_off", GivenUp = "given_up"
}

label! {
    /// What the sweeper did about an order.
    Swept, "waybill.decision":
    SentAgain = "sent_again", Postponed = "postponed", Ended = "ended", Nothing = "nothing", Failed = "failed"
}

label! {
    /// The decision about a dead letter.
    DeadLetter, "waybill.decision": SentAgain = "sent_again", Ended = "ended", Nothing = "nothing", Quarantined = "quarantined"
}

label! {
    /// What has a circuit breaker.
    Dependency, "waybill.dependency": Store = "store", Backend = "backend"
}

label! {
    /// A state of a circuit breaker.
    BreakerState, "waybill.state": Closed = "closed", HalfOpen = "half-open", Open = "open"
}

label! {
    /// What a request waits for.
    WaitFor, "waybill.waits_for": Change = "change", Visibility = "visibility"
}

label! {
    /// A function that a client or a timer calls.
    Function, "waybill.function":
    Doctor = "Doctor", Health = "Health", OpenApi = "OpenApi", OrderCancel = "OrderCancel", OrderIngress = "OrderIngress",
    OrderList = "OrderList", OrderShow = "OrderShow", OrderStatus = "OrderStatus", OrderSweeper = "OrderSweeper"
}

label! {
    /// A function that receives messages.
    Receiver, "waybill.function": OrderProcessor = "OrderProcessor", OrderDeadLetter = "OrderDeadLetter"
}

label! {
    /// How an invocation was answered: done or told, a 4xx or a 5xx for the client, or a failure that the host turns into a 500 or an
    /// abandoned message.
    Answered, "waybill.result": Done = "ok", Refused = "4xx", Unavailable = "5xx", Failed = "failed"
}

label! {
    /// How a message leaves: at once or at a moment by a client of this process, or with an answer to the host.
    SendOperation, "messaging.operation.name": Send = "send", Schedule = "schedule", Output = "output"
}

label! {
    /// Whether a message was sent.
    Sent, "waybill.result": Yes = "ok", No = "failed", Unknown = "unknown"
}

label! {
    /// Method of a request.
    Method, "http.request.method": Get = "GET", Post = "POST"
}

label! {
    /// Kind of an answer over HTTP.
    StatusClass, "waybill.result":
    Successful = "2xx", Redirected = "3xx", Refused = "4xx", Failed = "5xx", Other = "other", Absent = "none"
}

label! {
    /// What keeps the records.
    Engine, "db.system.name": Sqlite = "sqlite", Cosmos = "azure.cosmosdb"
}

label! {
    /// Kind of a question to the store.
    Operation, "db.operation.name": Create = "create", Read = "read", Replace = "replace", Delete = "delete", Query = "query"
}

label! {
    /// Whether the store answered a question.
    Replied, "waybill.result": Yes = "ok", No = "failed"
}

impl StatusClass {
    /// The kind of this status; `None`: there was no answer.
    pub fn of_status(status: Option<u16>) -> Self {
        match status {
            Some(200..=299) => Self::Successful,
            Some(300..=399) => Self::Redirected,
            Some(400..=499) => Self::Refused,
            Some(500..=599) => Self::Failed,
            Some(_) => Self::Other,
            None => Self::Absent,
        }
    }
}

/// The type of a problem: one of [`Problem::KINDS`].
#[derive(Debug, Clone, Copy)]
pub struct ProblemType(usize);

impl ProblemType {
    fn of(kind: &str) -> Option<Self> {
        Problem::KINDS.iter().position(|(_, known)| *known == kind).map(Self)
    }
}

impl Labels for ProblemType {
    const COUNT: usize = Problem::KINDS.len();

    fn index(self) -> usize {
        self.0
    }

    fn add_at(index: usize, labels: &mut Vec<(&'static str, &'static str)>) {
        let (_, kind) = Problem::KINDS[index];
        labels.push(("waybill.problem", kind.rsplit(':').next().unwrap_or(kind)));
    }
}
