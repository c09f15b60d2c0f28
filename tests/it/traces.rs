//! Traces and log records: a collector that reads OTLP by the official definitions hears the whole life of an order, and nothing else.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;

use crate::fake::{Fake, Reply, reply};
use crate::support::{Directory, Handler, Program, Response, eventually, free_port, order, queue_envelope, request};

/// The client's trace, and the span in it that sends the order.
const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// The host's trace of a delivery.
const HOST: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Attributes as text, by name.
fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        Any::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |entry: &KeyValue| entry.value.as_ref().and_then(|value| value.value.as_ref()).map(text).unwrap_or_default();
    all.iter().map(|entry| (entry.key.clone(), value(entry))).collect()
}

pub struct Collector(pub Fake);

impl Collector {
    pub fn new() -> Self {
        Self(Fake::answering(|_, _| reply(200, &[("Content-Type", "application/x-protobuf")], "")))
    }

    pub fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        self.0.heard_at(path).into_iter().map(|heard| heard.bytes).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.bodies("/v1/traces").into_iter().map(|body| ExportTraceServiceRequest::decode(&*body).unwrap());
        requests.flat_map(|all| all.resource_spans).flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
    }

    /// The spans, once there are these names among them as often as they stand here.
    fn spans_with(&self, names: &[&str]) -> Vec<Span> {
        eventually("the spans arrive", || {
            let spans = self.spans();
            let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
            names.iter().all(|name| count(name) >= names.iter().filter(|other| *other == name).count()).then_some(spans)
        })
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
}

fn traced(handler: &Handler, function: &str, envelope: &serde_json::Value, traceparent: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("X-Azure-Functions-InvocationId", "i-1"), ("traceparent", traceparent)];
    request("POST", &handler.url(&format!("/{function}")), &headers, Some(envelope.to_string().as_bytes()))
}

#[test]
fn one_trace_has_the_whole_life_of_an_order_with_a_retry() {
    let data = Directory::new();
    let collector = Collector::new();
    let backend = Fake::replying([reply(503, &[], ""), reply(200, &[], "{}")]);
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("FULFILLMENT_URL", &backend.url), ("RETRY_BASE", "10ms")];
    let handler = Handler::start(data.path(), &settings);

    let (id, message) = handler.ingress(Some(&order("T-1").to_string()), &[("traceparent", CLIENT)]).accepted();
    assert_eq!(handler.process(&message).status, 200);
    assert_eq!(handler.status(&id).body["status"], "completed");

    let spans = collector.spans_with(&["OrderIngress", "process orders", "POST", "POST", "claim", "claim", "work", "end", "create"]);
    let life: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == CLIENT[3..35]).collect();
    // Every span of the trace hangs below another one of it, or below the client.
    for span in &life {
        let parent = hex(&span.parent_span_id);
        assert!(parent == CLIENT[36..52] || life.iter().any(|other| hex(&other.span_id) == parent), "{span:?}");
    }
    for name in ["OrderIngress", "create", "process orders", "claim", "work", "POST", "replace", "end"] {
        assert!(life.iter().any(|span| span.name == name), "{name} is not in {life:?}");
    }
    let told: Vec<_> = named(&spans, "process orders").attributes.iter().map(|entry| entry.key.as_str()).collect();
    assert!(told.contains(&"messaging.message.conversation_id"), "{told:?}");
    for name in ["OrderIngress", "process orders"] {
        assert_eq!(attributes(&named(&spans, name).attributes)["waybill.order.tracking_id"], id);
    }
    let calls: Vec<_> = spans.iter().filter(|span| span.name == "POST").map(|span| hex(&span.span_id)).collect();
    let heard: Vec<_> = backend.heard().iter().map(|heard| heard.headers["traceparent"][36..52].to_owned()).collect();
    assert_eq!(calls, heard);
    let failures: Vec<_> =
        spans.iter().filter(|span| span.name == "POST").map(|span| attributes(&span.attributes).remove("error.type")).collect();
    assert_eq!(failures, [Some("503".into()), None]);
    let claims: Vec<_> = life.iter().flat_map(|span| &span.events).filter(|event| event.name == "order claimed").collect();
    let codes: Vec<_> = claims.iter().map(|event| attributes(&event.attributes).contains_key("error.code")).collect();
    assert_eq!(codes, [false, false], "a claim has not failed");
    let events: Vec<_> = life.iter().flat_map(|span| &span.events).map(|event| event.name.as_str()).collect();
    for event in ["order accepted", "order waits for its next try", "order completed"] {
        assert!(events.contains(&event), "{event} is not in {events:?}");
    }
}

#[test]
fn a_trace_that_is_not_kept_leaves_no_span_and_goes_on_not_kept() {
    let data = Directory::new();
    let collector = Collector::new();
    let backend = Fake::answering(|_, _| reply(200, &[], "{}"));
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("FULFILLMENT_URL", &backend.url)];
    let handler = Handler::start(data.path(), &settings);
    let dropped = CLIENT.replace("-01", "-00");

    for (id, traceparent) in [("T-6", dropped.as_str()), ("T-7", HOST)] {
        let (_, message) = handler.ingress(Some(&order(id).to_string()), &[("traceparent", traceparent)]).accepted();
        assert_eq!(handler.process(&message).status, 200);
    }

    // The second order's spans leave after the first one's would have.
    let spans = collector.spans_with(&["OrderIngress", "process orders", "end"]);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == HOST[3..35]), "{spans:?}");
    let called: Vec<_> = backend.heard().iter().map(|heard| heard.headers["traceparent"].clone()).collect();
    assert_eq!((&called[0][..36], &called[0][52..]), (&CLIENT[..36], "-00"));
    assert_eq!((&called[1][..36], &called[1][52..]), (&HOST[..36], "-01"));
}

#[test]
fn a_call_that_is_given_up_is_an_error() {
    let data = Directory::new();
    let collector = Collector::new();
    let backend = Fake::replying([Reply::Silence, reply(200, &[], "{}")]);
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("FULFILLMENT_URL", &backend.url)];
    let handler = Handler::start(data.path(), &[&settings[..], &[("FULFILLMENT_TIMEOUT", "500ms"), ("RETRY_BASE", "10ms")]].concat());
    let (_, message) = handler.ingress(Some(&order("T-5").to_string()), &[]).accepted();
    assert_eq!(handler.process(&message).status, 200);

    let spans = collector.spans_with(&["POST", "POST", "end"]);
    let mut calls: Vec<_> = spans.iter().filter(|span| span.name == "POST").collect();
    calls.sort_by_key(|span| span.start_time_unix_nano);
    let failures: Vec<_> = calls.iter().map(|span| attributes(&span.attributes).remove("error.type")).collect();
    assert_eq!(failures, [Some("given_up".into()), None]);
    assert_eq!(calls.iter().map(|span| span.status.as_ref().map_or(0, |status| status.code)).collect::<Vec<_>>(), [2, 0]);
}

#[test]
fn below_a_span_of_the_host_a_delivery_is_linked_to_what_made_its_message() {
    let data = Directory::new();
    let collector = Collector::new();
    let handler = Handler::start(data.path(), &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", collector.0.url))]);
    let (_, message) = handler.ingress(Some(&order("T-2").to_string()), &[("traceparent", CLIENT)]).accepted();

    assert_eq!(traced(&handler, "OrderProcessor", &queue_envelope(&message), HOST).status, 200);

    let spans = collector.spans_with(&["OrderIngress", "process orders"]);
    let (ingress, delivery) = (named(&spans, "OrderIngress"), named(&spans, "process orders"));
    assert_eq!((hex(&delivery.trace_id), hex(&delivery.parent_span_id)), (HOST[3..35].to_owned(), HOST[36..52].to_owned()));
    let links: Vec<_> = delivery.links.iter().map(|link| (link.trace_id.clone(), link.span_id.clone())).collect();
    assert_eq!(links, [(ingress.trace_id.clone(), ingress.span_id.clone())]);
    assert!(collector.bodies("/v1/logs").is_empty(), "no endpoint for logs is set");
}

#[test]
fn a_sweep_is_linked_to_the_order_that_it_sends_again() {
    let data = Directory::new();
    let collector = Collector::new();
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("OVERDUE_AFTER", "100ms")];
    let handler = Handler::start(data.path(), &settings);
    let (id, _) = handler.ingress(Some(&order("T-3").to_string()), &[]).accepted();

    eventually("it is overdue", || {
        let run = handler.invoke("OrderSweeper", &json!({ "Data": { "timer": {} }, "Metadata": {} }));
        (run.json()["Outputs"]["orderMessage"].as_array().map_or(0, Vec::len) == 1).then_some(())
    });
    let spans = collector.spans_with(&["OrderIngress", "sweep order"]);
    let (ingress, sweep) = (named(&spans, "OrderIngress"), named(&spans, "sweep order"));
    assert_eq!(sweep.links.iter().map(|link| &link.span_id).collect::<Vec<_>>(), [&ingress.span_id]);
    assert_eq!(attributes(&sweep.attributes)["waybill.order.tracking_id"], id);
}

#[test]
fn a_callback_is_linked_to_the_order_whose_end_it_tells() {
    let data = Directory::new();
    let collector = Collector::new();
    let receiver = Fake::answering(|_, _| reply(500, &[], ""));
    let url = format!("{}/hooks?token=t0p-secret", receiver.url);
    let secret = ("CALLBACK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let handler = Handler::start(data.path(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("CALLBACK_URL", &url), secret]);
    let (id, message) = handler.ingress(Some(&order("T-4").to_string()), &[("traceparent", CLIENT)]).accepted();
    assert_eq!(handler.process(&message).status, 200);

    let spans = collector.spans_with(&["OrderIngress", "callback", "POST"]);
    let (ingress, callback, call) = (named(&spans, "OrderIngress"), named(&spans, "callback"), named(&spans, "POST"));
    assert_eq!(callback.links.iter().map(|link| &link.span_id).collect::<Vec<_>>(), [&ingress.span_id]);
    assert_eq!(attributes(&callback.attributes)["waybill.order.tracking_id"], id);
    assert_eq!(callback.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["callback not delivered; it is tried again"]);
    assert_eq!((&call.trace_id, &call.parent_span_id), (&callback.trace_id, &callback.span_id));
    let told = attributes(&call.attributes);
    assert_eq!((told["server.address"].as_str(), told["http.response.status_code"].as_str()), ("127.0.0.1", "500"));
    assert!(!format!("{spans:?}").contains("t0p"), "the URL may have a secret in it");
    assert!(receiver.heard().iter().all(|heard| !heard.headers.contains_key("traceparent")), "it is another's trace");
}

#[test]
fn log_records_name_their_trace_and_nothing_holds_what_a_customer_sent_or_a_secret() {
    let data = Directory::new();
    let collector = Collector::new();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-collector"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("TRACKING_ID_KEY", "a-secret-of-this-deployment-0123456789"),
    ];
    let handler = Handler::start(data.path(), &settings);
    let (_, message) = handler.ingress(Some(&order("T-4").to_string()), &[("traceparent", CLIENT)]).accepted();
    assert_eq!(handler.process(&message).status, 200);

    let record = eventually("the line arrives", || {
        let requests = collector.bodies("/v1/logs").into_iter().map(|body| ExportLogsServiceRequest::decode(&*body).unwrap());
        let mut records = requests.flat_map(|all| all.resource_logs).flat_map(|of| of.scope_logs).flat_map(|of| of.log_records);
        records.find(|record| format!("{:?}", record.body).contains("OrderProcessor answered"))
    });
    assert_eq!(hex(&record.trace_id), CLIENT[3..35]);
    let heard = collector.0.heard();
    assert!(heard.iter().all(|heard| heard.headers["api-key"] == "of-the-collector"), "{heard:?}");
    assert!(heard.iter().any(|heard| heard.body.contains("shop")));
    for secret in ["a-secret-of-this-deployment", "of-the-collector", "T-4", order("T-4")["customerId"].as_str().unwrap(), "anonymous"] {
        assert!(heard.iter().all(|heard| !heard.body.contains(secret)), "{secret}");
    }
}

#[test]
fn application_insights_gets_the_spans_with_a_token_of_the_apps_identity() {
    let data = Directory::new();
    let insights = Fake::answering(|_, _| reply(200, &[], r#"{"itemsReceived":1,"itemsAccepted":1,"errors":[]}"#));
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let token = format!(r#"{{"access_token":"of-the-app","expires_on":"{expires}","resource":"r","token_type":"Bearer"}}"#);
    let platform = Fake::replying([reply(200, &[("Content-Type", "application/json")], &token)]);
    let connection = format!("InstrumentationKey=8b1d3b5e-0000-4000-8000-000000000001;IngestionEndpoint={}/", insights.url);
    let settings = [
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", connection.as_str()),
        ("APPLICATIONINSIGHTS_AUTHENTICATION_STRING", "ClientId=7f0b1c52-5d3e-4b8e-9a66-2c1a7de0f3aa;Authorization=AAD"),
        ("IDENTITY_ENDPOINT", &platform.url),
        ("IDENTITY_HEADER", "secret"),
    ];
    let handler = Handler::start(data.path(), &settings);
    let (id, message) = handler.ingress(Some(&order("T-6").to_string()), &[("traceparent", CLIENT)]).accepted();
    assert_eq!(handler.process(&message).status, 200);

    let heard = eventually("both invocations arrive", || {
        let text: String = insights.heard().iter().map(|heard| unpacked(&heard.bytes)).collect();
        (text.contains("OrderIngress") && text.contains("process orders")).then_some(text)
    });
    assert!(heard.contains(&id) && heard.contains(&CLIENT[3..35]), "{heard}");
    for request in insights.heard() {
        assert_eq!((request.target(), request.headers["authorization"].as_str()), ("/v2/track", "Bearer of-the-app"));
    }
    let asked = platform.heard();
    assert!(asked[0].target().contains("resource=https%3A%2F%2Fmonitor.azure.com"), "{asked:?}");
    assert!(asked[0].target().contains("7f0b1c52-5d3e-4b8e-9a66-2c1a7de0f3aa"), "{asked:?}");
}

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_connection_to_application_insights_that_cannot_be_read_is_told_and_stops_nothing() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("APPLICATIONINSIGHTS_CONNECTION_STRING", "nonsense-with-a-key")]);

    let line = handler.program.line("Application Insights");

    assert!(line.contains("WARN") && !line.contains("nonsense"), "{line}");
    handler.ingress(Some(&order("T-7").to_string()), &[]).accepted();
}

/// Orders are done beside a collector that does not answer at this variable: one line, and a stop in little time.
pub fn does_not_need(endpoint: &str, url: &str, others: &[(&str, &str)]) {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[&[(endpoint, url)], others].concat());
    for number in 0..20 {
        let (id, message) = handler.ingress(Some(&order(&format!("T-{number}")).to_string()), &[]).accepted();
        assert_eq!(handler.process(&message).status, 200);
        assert_eq!(handler.status(&id).body["status"], "completed");
    }
    handler.program.line("did not accept records");

    let stopped = Instant::now();
    handler.program.signal("TERM");
    let (status, lines) = handler.program.end();

    assert!(status.success() && stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    assert_eq!(lines.iter().filter(|line| line.contains("did not accept records")).count(), 1, "{lines:?}");
}

#[test]
fn a_collector_that_is_away_or_hangs_costs_no_order_one_line_and_little_time() {
    let hanging = Fake::replying([Reply::Silence]);
    for url in ["http://127.0.0.1:9", &hanging.url] {
        does_not_need("OTEL_EXPORTER_OTLP_ENDPOINT", url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")]);
    }
}

#[test]
fn a_collector_that_takes_traces_alone_is_told_of_once_and_loses_no_trace() {
    let data = Directory::new();
    let collector = Collector(Fake::answering(|_, heard| {
        let status = if heard.target() == "/v1/traces" { 200 } else { 404 };
        reply(status, &[("Content-Type", "application/x-protobuf")], "")
    }));
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()), ("OTEL_METRIC_EXPORT_INTERVAL", "100")];
    let mut handler = Handler::start(data.path(), &settings);
    for number in 0..5 {
        handler.ingress(Some(&order(&format!("T-10-{number}")).to_string()), &[]).accepted();
        collector.spans_with(&vec!["OrderIngress"; number + 1]);
    }
    handler.program.line("did not accept records (metrics)");
    handler.program.signal("TERM");
    let (_, lines) = handler.program.end();

    let told = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((told("did not accept records (metrics)"), told("(traces)"), told("again")), (1, 0, 0), "{lines:?}");
}

#[test]
fn the_last_records_are_sent_when_the_handler_stops() {
    let data = Directory::new();
    let collector = Collector::new();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "600000"),
    ];
    let handler = Handler::start(data.path(), &settings);
    handler.ingress(Some(&order("T-8").to_string()), &[]).accepted();

    handler.program.signal("TERM");
    assert!(handler.program.end().0.success());

    named(&collector.spans(), "OrderIngress");
    assert!(collector.0.heard().iter().any(|heard| heard.body.contains("the handler has stopped")));
}

#[test]
fn what_an_operator_says_of_a_process_replaces_what_it_says_of_itself() {
    let data = Directory::new();
    let collector = Collector::new();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.version=7,peer.service.name=other,cloud.region=here"),
        ("REGION_NAME", "there"),
    ];
    let handler = Handler::start(data.path(), &settings);
    handler.ingress(Some(&order("T-9").to_string()), &[]).accepted();

    collector.spans_with(&["OrderIngress"]);
    let request = ExportTraceServiceRequest::decode(&*collector.bodies("/v1/traces")[0]).unwrap();
    let told = attributes(&request.resource_spans[0].resource.as_ref().unwrap().attributes);
    for (name, value) in [("service.version", "7"), ("service.name", "waybill"), ("cloud.region", "here")] {
        assert_eq!(told[name], value, "{told:?}");
    }
}

#[test]
fn variables_that_cannot_be_followed_stop_the_start_and_switched_off_nothing_is_sent() {
    let collector = Collector::new();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str());
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ] {
        let data = Directory::new();
        let data = data.path().to_str().unwrap();
        let port = free_port().to_string();
        let settings = [("FUNCTIONS_CUSTOMHANDLER_PORT", port.as_str()), ("WAYBILL_DATA", data), endpoint, (name, value)];
        let (status, lines) = Program::waybill(&["serve"], &settings).end();
        assert!(!status.success() && lines.iter().any(|line| line.contains(name) && line.contains("set ")), "{lines:?}");
    }
    let data = Directory::new();
    let handler = Handler::start(data.path(), &[endpoint, ("OTEL_SDK_DISABLED", "true")]);
    let (_, message) = handler.ingress(Some(&order("T-5").to_string()), &[("traceparent", CLIENT)]).accepted();
    assert!(message.contains(CLIENT), "{message}");
    handler.program.signal("TERM");
    assert!(handler.program.end().0.success());
    assert!(collector.0.heard().is_empty());
}
