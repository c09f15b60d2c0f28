//! Dispatch of an invocation: call the handler, read its answer, send its messages, then reply.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serving::failpoint;
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::activity::{self, Activity, Begun, Running};
use crate::app::function::{self, Output, Trigger};
use crate::handler::client::{CallError, Handler, RawAnswer};
use crate::log_filter::LogFilter;
use crate::recording::recorder::{About, Exchange, Recorder};
use crate::report::Asked;
use crate::service_bus::broker::{Broker, Outgoing, Properties};
use crate::wire::answer::{self, Outcome, Outputs, Reply};
use crate::wire::invocation::Sys;

/// Grace after `functionTimeout`, as observed on the host.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

/// A function, prepared once for all its invocations.
#[derive(Debug, Clone)]
pub(crate) struct Callable {
    /// Name of the function's folder.
    pub(crate) name: String,
    /// Trigger of the function.
    pub(crate) trigger: Trigger,
    /// Outputs by the names that answers use.
    pub(crate) outputs: Outputs,
    /// Queue of each of `outputs.messages`.
    pub(crate) queues: Vec<String>,
    /// Whether requests go to the handler unchanged.
    pub(crate) forwards: bool,
}

impl Callable {
    /// Prepares a function of the app.
    pub(crate) fn of(function: &function::Function, forwards: bool) -> Self {
        let mut outputs = Outputs { http_trigger: matches!(function.trigger, Trigger::Http { .. }), ..Outputs::default() };
        let mut queues = Vec::new();
        for output in &function.outputs {
            match output {
                Output::Http { name } => outputs.http = Some(name.clone()),
                Output::ServiceBus { name, queue, data_type, .. } => {
                    let binary = matches!(data_type, Some(function::DataType::Binary | function::DataType::Stream));
                    outputs.messages.push(answer::MessageOutput { name: name.clone(), binary });
                    queues.push(queue.clone());
                }
            }
        }
        Self { name: function.name.clone(), trigger: function.trigger.clone(), outputs, queues, forwards }
    }
}

/// Runs invocations.
pub(crate) struct Dispatcher {
    /// Client of the handler.
    pub(crate) handler: Handler,
    /// Broker that takes the messages.
    pub(crate) broker: Broker,
    /// Longest time of one invocation; no limit when absent.
    pub(crate) function_timeout: Option<Duration>,
    /// What runs and what ran lately.
    pub(crate) activity: Arc<Activity>,
    /// What log lines are shown.
    pub(crate) filter: Option<Arc<LogFilter>>,
    /// What keeps each exchange with the handler.
    pub(crate) recorder: Option<Arc<Recorder>>,
    /// Sender of which every running invocation holds a clone: once all are dropped, no invocation runs.
    pub(crate) running: mpsc::Sender<()>,
}

/// Failure of an invocation. Only the log has the reason; a client gets a 500, with the response that was begun if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) Option<Box<answer::Response>>);

/// An invocation that has not run yet.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Id of the invocation, in the header and in the log.
    pub(crate) id: Uuid,
    /// Report that the client asked for.
    pub(crate) report: Option<Asked>,
    now: Timestamp,
    guid: Uuid,
    deliveries: Option<u32>,
    by_hand: bool,
}

impl Invocation {
    /// A new invocation.
    pub(crate) fn new() -> Self {
        Self { id: Uuid::new_v4(), report: None, now: Timestamp::now(), guid: Uuid::new_v4(), deliveries: None, by_hand: false }
    }

    /// A new invocation for a message that was delivered this number of times.
    pub(crate) fn of_delivery(deliveries: Option<u32>) -> Self {
        Self { deliveries, ..Self::new() }
    }

    /// A new invocation that a person starts.
    pub(crate) fn by_hand() -> Self {
        Self { by_hand: true, ..Self::new() }
    }

    /// The host's own binding data.
    pub(crate) fn sys<'a>(&self, function: &'a str) -> Sys<'a> {
        Sys { method_name: function, utc_now: self.now, rand_guid: self.guid }
    }
}

impl Default for Invocation {
    fn default() -> Self {
        Self::new()
    }
}

impl Dispatcher {
    /// Calls the handler and carries out its answer; messages are on disk when this returns.
    pub(crate) async fn invoke(self: &Arc<Self>, function: &Callable, invocation: &Invocation, envelope: Vec<u8>) -> Result<Reply, Failed> {
        let running = self.running.clone();
        let id = invocation.id.to_string();
        let noted = self.begin(function, invocation);
        self.saw(function, invocation, &noted, &envelope);
        let exchange = self.exchange(function, invocation);
        let call = self.handler.invoke(&function.name, &id, envelope, &exchange);
        let completing = self.complete(function, invocation, &noted, call);
        let answered = self.within_timeout(function, invocation, &noted, &exchange, completing).await;
        noted.end(match &answered {
            Ok(Reply::Response(response)) => activity::Outcome::Completed(Some(response.status)),
            Ok(Reply::None) => activity::Outcome::Completed(None),
            Ok(Reply::Failed(..)) | Err(Failed(_)) => activity::Outcome::Failed,
        });
        drop(running);
        answered
    }

    /// Notes the begin of an invocation, for the console and for its report.
    pub(crate) fn begin<'a>(&self, function: &'a Callable, invocation: &'a Invocation) -> Running<'a> {
        let Invocation { id, deliveries, by_hand, .. } = *invocation;
        let (trigger, report) = (function.trigger.kind(), invocation.report.as_ref());
        self.activity.begin(&Begun { id, function: &function.name, trigger, deliveries, by_hand, report })
    }

    /// The call of the handler that an invocation makes.
    pub(crate) fn exchange(&self, function: &Callable, invocation: &Invocation) -> Exchange {
        Exchange::new(self.recorder.as_ref(), || About {
            function: function.name.clone(),
            trigger: function.trigger.kind(),
            invocation: invocation.id,
            forwarded: function.forwards,
        })
    }

    /// Takes the ids in the text of an invocation, or of its answer: lines with them are lines about it, for the console, for its report
    /// and for `--log`.
    pub(crate) fn saw(&self, function: &Callable, invocation: &Invocation, noted: &Running<'_>, text: &[u8]) {
        noted.saw(text);
        if let Some(filter) = &self.filter {
            filter.saw(invocation.id, &function.name, text);
        }
    }

    /// Runs a call under `functionTimeout`. A handler that exceeds it is ended, with all its other calls: the start of the handler that
    /// the exchange has written down, which may have been replaced meanwhile.
    pub(crate) async fn within_timeout<T>(
        &self,
        function: &Callable,
        invocation: &Invocation,
        noted: &Running<'_>,
        exchange: &Exchange,
        call: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let Some(timeout) = self.function_timeout else { return call.await };
        if let Ok(answered) = tokio::time::timeout(timeout + TIMEOUT_GRACE, call).await {
            return answered;
        }
        let reason = format!("it ran into functionTimeout ({timeout:?})");
        exchange.failed(&reason);
        let failed = failed(function, invocation, Some(noted), &reason);
        // Without one the call was still waiting for a handler.
        if let Some(generation) = exchange.generation.get() {
            warn!("the handler that ran it is ended, and started again unless a newer one answers");
            self.handler.kill(*generation).await;
        }
        Err(failed)
    }

    async fn complete(
        &self,
        function: &Callable,
        invocation: &Invocation,
        noted: &Running<'_>,
        call: impl Future<Output = Result<RawAnswer, CallError>>,
    ) -> Result<Reply, Failed> {
        let id = &invocation.id.to_string();
        let failed = |reason: &dyn std::fmt::Display| failed(function, invocation, Some(noted), reason);
        let answer = call.await.map_err(|error| failed(&error))?;
        self.saw(function, invocation, noted, &answer.body);
        let content_type = answer.headers.get(hyper::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let outcome = match answer::decide(answer.status.as_u16(), content_type, &answer.body, &function.outputs) {
            Ok(answer::Answer::Completed(outcome)) => outcome,
            Ok(answer::Answer::Hang) => {
                noted.fails("it answered 2xx with an empty body, which the host never completes; answer {}");
                error!(
                    function.name = function.name,
                    invocation.id = id,
                    "{} answered 2xx with an empty body: the host never completes that, and ends the handler at functionTimeout; answer {{}}",
                    function.name
                );
                return std::future::pending().await;
            }
            Err(refusal) => return Err(failed(&refusal)),
        };
        let Outcome { logs, messages, reply } = outcome;
        for line in logs.iter().flat_map(|entry| entry.lines()) {
            noted.line(line);
            info!(function.name = function.name, invocation.id = id, "{line}");
        }
        for (output, bodies) in messages {
            failpoint!("before-send");
            let properties = sent_by(id);
            let shown = invocation.report.is_some().then(|| bodies.clone());
            let messages =
                bodies.into_iter().map(|body| Outgoing { body: body.into_bytes(), properties: properties.clone(), ..Outgoing::default() });
            let queue = &function.queues[output];
            let count = messages.len();
            self.broker.send(queue, messages.collect()).await.map_err(|error| failed(&error))?;
            noted.sent(&function.outputs.messages[output].name, queue, count, shown.as_deref());
            failpoint!("after-send");
        }
        match reply {
            Reply::Failed(refusal, begun) => {
                warn!(function.name = function.name, invocation.id = id, "its messages were sent all the same");
                failed(&refusal);
                Err(Failed(begun))
            }
            reply => Ok(reply),
        }
    }
}

/// Tells why an invocation failed: in the log, and where it was noted. One that did not begin is told in its report.
pub(crate) fn failed(function: &Callable, invocation: &Invocation, noted: Option<&Running<'_>>, reason: &dyn std::fmt::Display) -> Failed {
    match (noted, &invocation.report) {
        (Some(noted), _) => noted.fails(&reason.to_string()),
        (None, Some(report)) => report.ended(Some(reason.to_string())),
        (None, None) => {}
    }
    error!(function.name = function.name, invocation.id = %invocation.id, "{} failed: {reason}", function.name);
    Failed(None)
}

/// Properties that the host's output binding sends beside a body (host §4.4).
fn sent_by(invocation: &str) -> Properties {
    let mut properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
    properties.application_properties.insert("$AzureWebJobsParentId".into(), invocation.into());
    properties
}
