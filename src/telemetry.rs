//! Traces, log records and metrics for a collector, by OTLP over HTTP (`OTEL_EXPORTER_OTLP_ENDPOINT` and the other variables of the
//! standard), and traces for Application Insights (`APPLICATIONINSIGHTS_CONNECTION_STRING`), to which the host sends the log lines.
//!
//! Off, and free of cost, unless one of these is set. Records leave a while after they were made, from threads of their own, so no
//! answer waits for a collector; one that hangs or is away costs a bounded queue and one log line.

mod push;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_application_insights::Exporter;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{LogExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{BatchConfigBuilder as SpanBatch, BatchSpanProcessor, SdkTracerProvider};
use serving::log::More;
use serving::trace::{self, SPANS};
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;

use crate::config::identity::Identity;
use crate::config::{self, LogConfig};
use crate::outbound;
use crate::outbound::identity::Tokens;
use crate::telemetry::push::{Push, Target};

/// Longest time that a record waits for others: an instance may be frozen soon after its answer.
const DELAY: Duration = Duration::from_millis(200);
/// Longest wait for a collector's answer, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the last records when the handler stops.
const LAST: Duration = Duration::from_secs(1);
/// The scope of tokens for Application Insights.
const INSIGHTS_SCOPE: &str = "https://monitor.azure.com/.default";
/// Largest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The exporters of this process.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<Push>,
    /// Mistakes that do not stop the start.
    remarks: Vec<String>,
}

impl Telemetry {
    /// The exporters that the environment asks for, and what feeds them. `Err`: the variables are not good.
    pub fn start(environment: &BTreeMap<String, String>, log: &LogConfig) -> Result<(Self, Option<More>), String> {
        let variables = Variables(environment);
        let mut telemetry = Self { traces: None, logs: None, metrics: None, remarks: Vec::new() };
        let (wants_traces, wants_logs) = (variables.wants("TRACES")?, variables.wants("LOGS")?);
        let metrics = if variables.wants("METRICS")? { Some(variables.target()?) } else { None };
        let insights = insights(&variables).unwrap_or_else(|remark| {
            telemetry.remarks.push(remark);
            None
        });
        if !wants_traces && !wants_logs && metrics.is_none() && insights.is_none() {
            return Ok((telemetry, None));
        }
        let sender = Sender::new(&variables, "the collector of OTEL_EXPORTER_OTLP_ENDPOINT", None)?;
        let client = |kind| -> Arc<dyn HttpClient> { Arc::new(sender.for_kind(kind)) };
        let resource = resource(environment);
        telemetry.metrics = metrics.map(|target| Push::start(client("metrics"), target, &resource));
        let not_good = |error| format!("the variables OTEL_EXPORTER_OTLP_ are not good: {error}");

        let mut layers: Vec<More> = Vec::new();
        if wants_traces || insights.is_some() {
            let batch = || match variables.text("OTEL_BSP_SCHEDULE_DELAY") {
                Some(_) => SpanBatch::default().build(),
                None => SpanBatch::default().with_scheduled_delay(DELAY).build(),
            };
            let mut provider = SdkTracerProvider::builder().with_resource(resource.clone());
            if wants_traces {
                let exporter = SpanExporter::builder().with_http().with_shared_http_client(client("traces")).build().map_err(not_good)?;
                provider = provider.with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch()).build());
            }
            if let Some(exporter) = insights {
                provider = provider.with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch()).build());
            }
            let provider = provider.build();
            let spans = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("waybill"))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false);
            // What becomes of an order, and of its callback, is an event of the span in which it happens.
            let told = [SPANS, "waybill::order", "waybill::functions::callbacks"];
            let filter = Targets::new().with_targets(told.map(|target| (target, LevelFilter::INFO)));
            layers.push(spans.with_filter(filter).boxed());
            telemetry.traces = Some(provider);
            trace::turn_on();
        }
        if wants_logs {
            let exporter = LogExporter::builder().with_http().with_shared_http_client(client("logs")).build().map_err(not_good)?;
            let batch = match variables.text("OTEL_BLRP_SCHEDULE_DELAY") {
                Some(_) => LogBatch::default(),
                None => LogBatch::default().with_scheduled_delay(DELAY),
            };
            let processor = BatchLogProcessor::builder(exporter).with_batch_config(batch.build()).build();
            let provider = SdkLoggerProvider::builder().with_log_processor(processor).with_resource(resource).build();
            let filter = log.levels.parse::<Targets>().unwrap_or_default().with_target(serving::log::PEOPLE, LevelFilter::OFF);
            let filter = filter.with_target(SPANS, LevelFilter::OFF).with_target(SELF, LevelFilter::OFF);
            layers.push(OpenTelemetryTracingBridge::new(&provider).with_filter(filter).boxed());
            telemetry.logs = Some(provider);
        }
        // An empty list of layers would turn off every log line.
        let more = if layers.is_empty() { None } else { Some(layers.boxed()) };
        Ok((telemetry, more))
    }

    /// Logs what is wrong and stops nothing.
    pub fn tell(&self) {
        for remark in &self.remarks {
            warn!("{remark}");
        }
    }

    /// Sends the last records. A collector that does not answer costs [`LAST`], and so does Application Insights.
    pub async fn end(self) {
        // What a receiver did not take is told once already. All wait at the same time.
        let metrics = self.metrics.map(|push| tokio::spawn(push.end(LAST)));
        let traces = self.traces.map(|provider| tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)));
        let logs = self.logs.map(|provider| tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)));
        for task in [traces, logs].into_iter().flatten() {
            drop(task.await);
        }
        if let Some(task) = metrics {
            drop(task.await);
        }
    }
}

/// The target of this module's own lines, which must not become records.
const SELF: &str = module_path!();

/// The variables of the standard.
struct Variables<'a>(&'a BTreeMap<String, String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn is_disabled(&self) -> bool {
        self.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The variable of this kind, else that of all kinds: its value and its name.
    fn both(&self, kind: &str, name: &str) -> Option<(&str, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_{kind}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| Some((self.text(&name)?, name)))
    }

    /// Where metrics are to be sent, and how often.
    fn target(&self) -> Result<Target, String> {
        let (endpoint, name) = self.both("METRICS", "ENDPOINT").ok_or("no endpoint is set")?;
        // The endpoint of all kinds is a base.
        let url =
            if name == "OTEL_EXPORTER_OTLP_ENDPOINT" { format!("{}/v1/metrics", endpoint.trim_end_matches('/')) } else { endpoint.into() };
        let url = url.parse().map_err(|_| format!("{name} is {endpoint:?}: set a URL"))?;
        let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(other) = self.text(temporality).filter(|text| !text.eq_ignore_ascii_case("cumulative")) {
            return Err(format!("{temporality} is {other:?}: set cumulative, the only one that is spoken here"));
        }
        if let Some((other, name)) = self.both("METRICS", "COMPRESSION").filter(|(text, _)| *text != "none") {
            return Err(format!("{name} is {other:?}: set none, since nothing is compressed here"));
        }
        let interval = self.text("OTEL_METRIC_EXPORT_INTERVAL").map(|text| {
            let interval = text.parse().ok().filter(|milliseconds| *milliseconds > 0).map(Duration::from_millis);
            interval.ok_or_else(|| format!("OTEL_METRIC_EXPORT_INTERVAL is {text:?}: set milliseconds"))
        });
        let headers = self.both("METRICS", "HEADERS").map(|(text, _)| push::headers(text)).unwrap_or_default();
        Ok(Target { url, headers, interval: interval.transpose()? })
    }

    /// Whether records of this kind are to be sent by OTLP.
    fn wants(&self, kind: &str) -> Result<bool, String> {
        let both = |name: &str| self.both(kind, name);
        if self.is_disabled() || both("ENDPOINT").is_none() {
            return Ok(false);
        }
        let exporter = format!("OTEL_{kind}_EXPORTER");
        match self.text(&exporter) {
            None | Some("otlp") => {}
            Some("none") => return Ok(false),
            Some(other) => return Err(format!("{exporter} is {other:?}: set otlp or none")),
        }
        match both("PROTOCOL") {
            None | Some(("http/protobuf", _)) => Ok(true),
            Some((other, name)) => Err(format!("{name} is {other:?}: set http/protobuf, the only one that is spoken here")),
        }
    }
}

/// The exporter of spans to Application Insights. `None`: it is not asked for.
fn insights(variables: &Variables<'_>) -> Result<Option<Exporter<Sender>>, String> {
    let Some(connection) = variables.text("APPLICATIONINSIGHTS_CONNECTION_STRING") else { return Ok(None) };
    if variables.is_disabled() || variables.text("OTEL_TRACES_EXPORTER") == Some("none") {
        return Ok(None);
    }
    // As the host reads it: `ClientId=…;Authorization=AAD`, without a client id for the system-assigned identity.
    let parts = variables.text("APPLICATIONINSIGHTS_AUTHENTICATION_STRING").into_iter().flat_map(|text| text.split(';'));
    let parts: Vec<_> = parts.filter_map(|part| part.split_once('=')).map(|(name, value)| (name.trim(), value.trim())).collect();
    let part = |name: &str| parts.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    let tokens = match part("Authorization") {
        Some(kind) if kind.eq_ignore_ascii_case("AAD") => {
            let identity = Identity::Managed { client_id: part("ClientId").map(str::to_owned) };
            Some(outbound::identity::credential(&identity).map_err(|error| format!("no spans go to Application Insights: {error}"))?)
        }
        _ => None,
    };
    let mut sender = Sender::new(variables, "Application Insights", tokens)?;
    // The exporter asks by https whatever the text says. A stand-in on this machine has no certificate.
    sender.is_plain = ["127.0.0.1", "localhost"].iter().any(|host| connection.contains(&format!("IngestionEndpoint=http://{host}:")));
    let exporter = Exporter::new_from_connection_string(connection, sender);
    // The text of the connection is not repeated: it may contain a key.
    exporter.map(Some).map_err(|_| "no spans go to Application Insights: APPLICATIONINSIGHTS_CONNECTION_STRING cannot be read".into())
}

/// What this process is, unless `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say otherwise.
fn resource(environment: &BTreeMap<String, String>) -> Resource {
    let text = |name: &str| environment.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if config::azure(environment).is_some() {
        attributes.extend([KeyValue::new("cloud.provider", "azure"), KeyValue::new("cloud.platform", "azure.functions")]);
    }
    for (attribute, variable) in
        [("faas.name", "WEBSITE_SITE_NAME"), ("faas.instance", "WEBSITE_INSTANCE_ID"), ("cloud.region", "REGION_NAME")]
    {
        attributes.extend(text(variable).map(|value| KeyValue::new(attribute, value)));
    }
    attributes.push(KeyValue::new("service.name", text("WEBSITE_SITE_NAME").unwrap_or_else(|| "waybill".into())));
    // What the operator says comes last, and replaces ours.
    let resource = Resource::builder().with_attributes(attributes).with_detector(Box::new(EnvResourceDetector::new()));
    match text("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// The HTTP client of exporters. Their threads wait for requests that run with all others of this process.
#[derive(Clone)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    /// The receiver, in words.
    to: &'static str,
    /// What is sent, in words.
    kind: &'static str,
    /// Tokens that the receiver asks for.
    tokens: Option<Arc<Tokens>>,
    /// Whether https is left out.
    is_plain: bool,
    /// Whether the last request of any kind was answered.
    answers: Arc<AtomicBool>,
    /// Whether the last answer was a good one. A collector may take records of one kind and not those of another.
    accepts: Arc<AtomicBool>,
}

impl Sender {
    fn new(variables: &Variables<'_>, to: &'static str, tokens: Option<Arc<Tokens>>) -> Result<Self, String> {
        let timeout = match variables.text("OTEL_EXPORTER_OTLP_TIMEOUT") {
            None => TIMEOUT,
            Some(text) => {
                text.parse().map(Duration::from_millis).map_err(|_| format!("OTEL_EXPORTER_OTLP_TIMEOUT is {text:?}: set milliseconds"))?
            }
        };
        let client = outbound::http::client().timeout(timeout).build().map_err(|error| error.to_string())?;
        let well = || Arc::new(AtomicBool::new(true));
        Ok(Self { client, runtime: Handle::current(), to, kind: "traces", tokens, is_plain: false, answers: well(), accepts: well() })
    }

    /// The same receiver, for records of this kind.
    fn for_kind(&self, kind: &'static str) -> Self {
        Self { kind, accepts: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }
}

impl Debug for Sender {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, to, kind, tokens) = (self.client.clone(), self.to, self.kind, self.tokens.clone());
        let (answers, accepts, is_plain) = (Arc::clone(&self.answers), Arc::clone(&self.accepts), self.is_plain);
        let task = self.runtime.spawn(async move {
            let answer = send(&client, tokens.as_deref(), is_plain, request).await;
            let (answered, refused) = match &answer {
                Ok(answer) if answer.status().is_success() => (Ok(()), None),
                Ok(answer) => (Ok(()), Some(answer.status())),
                Err(reason) => (Err(reason), None),
            };
            // One line when the receiver fails, and one when the receiver answers again.
            match (answers.swap(answered.is_ok(), Ordering::Relaxed), answered) {
                (true, Err(reason)) => warn!(reason, "{to} did not accept records; they are lost while this lasts"),
                (false, Ok(())) => info!("{to} answers again"),
                (true, Ok(())) | (false, Err(_)) => {}
            }
            if answered.is_ok() {
                match (accepts.swap(refused.is_none(), Ordering::Relaxed), refused) {
                    (true, Some(status)) => warn!(%status, "{to} did not accept records ({kind}); they are lost while this lasts"),
                    (false, None) => info!("{to} accepts records ({kind}) again"),
                    (true, None) | (false, Some(_)) => {}
                }
            }
            answer
        });
        Ok(task.await??)
    }
}

async fn send(
    client: &reqwest::Client,
    tokens: Option<&Tokens>,
    is_plain: bool,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, String> {
    let failed = |error: reqwest::Error| outbound::http::reason(&error);
    let mut request = reqwest::Request::try_from(request).map_err(failed)?;
    if is_plain {
        // From https to http any URL may change.
        let _ = request.url_mut().set_scheme("http");
    }
    if let Some(tokens) = tokens {
        let token = tokens.get_token(&[INSIGHTS_SCOPE], None).await.map_err(|_| "there is no token for it")?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.token.secret())).map_err(|_| "its token is no header")?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let mut answer = client.execute(request).await.map_err(failed)?;
    let body = outbound::http::body(&mut answer, MAX_ANSWER).await.map_err(failed)?.ok_or("its answer is too long")?;
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = answer.status();
    Ok(response)
}
