//! Metrics: how the orders of a handler ended, as a scraper reads it, in a number of series that no client can raise.

#![expect(clippy::float_cmp, reason = "counts are whole, and so are their floats")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use prost::Message;
use serde_json::{Value, json};
use waybill::metrics::instrument::Kind;
use waybill::metrics::{METRICS, prometheus};

use crate::dead_letter::{dead_letter, sent};
use crate::emulator::Emulator;
use crate::fake::{Fake, Reply, reply};
use crate::support::{
    Directory, Handler, Host, Program, Response, eventually, free_port, hopeless, order, repository, request, submit, submit_order,
    try_request, try_submit,
};
use crate::traces::{Collector, does_not_need};

/// Labels, sorted by name.
type Labels = BTreeMap<String, String>;

/// One scrape, read as strictly as the text format is written: an unknown line, a name without a type, or a series that comes twice is
/// a failure.
#[derive(Debug)]
struct Scrape {
    /// Type by name.
    types: BTreeMap<String, String>,
    series: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    fn of(response: &Response) -> Self {
        assert_eq!((response.status, response.headers["content-type"].as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
        assert!(response.body.ends_with('\n'));
        let (mut types, mut series) = (BTreeMap::new(), BTreeMap::new());
        let (mut help, mut current) = (None, String::new());
        for line in response.body.lines() {
            if let Some(line) = line.strip_prefix("# HELP ") {
                let (name, text) = line.split_once(' ').unwrap();
                assert!(!text.is_empty() && !text.contains('\\'), "{line}");
                help = Some(name.to_owned());
            } else if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                assert_eq!(help.take().as_deref(), Some(name), "help stands before the type");
                assert!(["counter", "gauge", "histogram"].contains(&kind) && is_name(name), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
                name.clone_into(&mut current);
            } else {
                let (name, labels, value) = sample(line);
                let base = match types[&current].as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap(),
                    _ => name.as_str(),
                };
                assert_eq!(base, current, "{line} is not among its own");
                assert!(series.insert((name, labels), value).is_none(), "{line} comes twice");
            }
        }
        let scrape = Self { types, series };
        scrape.check_histograms();
        scrape
    }

    /// Buckets only grow, in the order of their bounds, and the last one is the count.
    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.series {
            let Some(name) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap().replace("+Inf", "inf").parse().unwrap();
            buckets.entry((name.to_owned(), labels)).or_default().push((bound, *value));
        }
        for ((name, labels), mut buckets) in buckets {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1), "{name} {labels:?} {buckets:?}");
            let (bound, last) = buckets.last().unwrap();
            assert!(bound.is_infinite(), "{name}");
            assert_eq!(self.series[&(format!("{name}_count"), labels.clone())], *last, "{name} {labels:?}");
            assert!(self.series.contains_key(&(format!("{name}_sum"), labels)), "{name}");
        }
    }

    /// The value of one series; zero if it is not there, as for a reader.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.series.get(&(name.to_owned(), labels)).copied().unwrap_or_default()
    }
}

fn is_name(text: &str) -> bool {
    let is_start = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    text.starts_with(is_start) && text.chars().all(|letter| is_start(letter) || letter.is_ascii_digit())
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
        None => (series, ""),
    };
    let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap();
        let value = value.strip_suffix('"').unwrap();
        assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
        (label.to_owned(), value.to_owned())
    });
    assert!(is_name(name), "{line}");
    (name.to_owned(), pairs.collect(), value.parse().unwrap())
}

fn scrape(handler: &Handler) -> Scrape {
    Scrape::of(&request("GET", &handler.url("/metrics"), &[], None))
}

#[test]
fn what_became_of_each_order_is_counted_once() {
    let data = Directory::new();
    let backend = Fake::replying([reply(200, &[], "{}"), reply(422, &[], ""), reply(503, &[], ""), reply(200, &[], "{}")]);
    let settings = [("FULFILLMENT_URL", backend.url.as_str()), ("RETRY_BASE", "10ms"), ("RATE_LIMIT", "5/1h")];
    let handler = Handler::start(data.path(), &settings);
    for number in 1..=3 {
        let (_, message) = submit(&handler, &format!("M-{number}"));
        assert_eq!(handler.process(&message).status, 200);
    }
    let (_, dead) = submit(&handler, "M-4");
    assert_eq!(handler.ingress(Some(r#"{"orderId":1}"#), &[]).status, 400);
    assert_eq!(try_submit(&handler, "M-5", &[]).status, 429);
    assert_eq!(sent(&dead_letter(&handler, &dead)).len(), 1);
    assert_eq!(sent(&dead_letter(&handler, "no message of ours")).len(), 0);
    assert_eq!(handler.process("nor is this").status, 500);

    let scrape = scrape(&handler);

    for (name, labels, expected) in [
        ("waybill_orders_accepted_total", vec![], 4.0),
        ("waybill_orders_refused_total", vec![("waybill_problem", "rate-limited")], 1.0),
        ("waybill_orders_refused_total", vec![("waybill_problem", "invalid-order")], 1.0),
        ("waybill_orders_refused_total", vec![("waybill_problem", "too-many-waiting")], 0.0),
        ("waybill_order_queue_wait_seconds_count", vec![], 3.0),
        ("waybill_order_time_to_terminal_seconds_count", vec![("waybill_outcome", "completed")], 2.0),
        ("waybill_order_time_to_terminal_seconds_count", vec![("waybill_outcome", "failed")], 1.0),
        ("waybill_order_time_to_terminal_seconds_count", vec![("waybill_outcome", "cancelled")], 0.0),
        ("waybill_order_attempts_sum", vec![("waybill_outcome", "completed")], 3.0),
        ("waybill_order_attempts_sum", vec![("waybill_outcome", "failed")], 1.0),
        ("waybill_order_retries_total", vec![], 1.0),
        ("waybill_order_interruptions_total", vec![], 0.0),
        ("waybill_dead_letters_total", vec![("waybill_decision", "sent_again")], 1.0),
        ("waybill_dead_letters_total", vec![("waybill_decision", "quarantined")], 1.0),
        ("http_client_request_duration_seconds_count", vec![("http_request_method", "POST"), ("waybill_result", "2xx")], 2.0),
        ("http_client_request_duration_seconds_count", vec![("http_request_method", "POST"), ("waybill_result", "4xx")], 1.0),
        ("http_client_request_duration_seconds_count", vec![("http_request_method", "POST"), ("waybill_result", "5xx")], 1.0),
        ("faas_invoke_duration_seconds_count", vec![("waybill_function", "OrderIngress"), ("waybill_result", "ok")], 4.0),
        ("faas_invoke_duration_seconds_count", vec![("waybill_function", "OrderIngress"), ("waybill_result", "4xx")], 2.0),
        ("messaging_process_duration_seconds_count", vec![("waybill_function", "OrderProcessor"), ("waybill_result", "ok")], 3.0),
        ("messaging_process_duration_seconds_count", vec![("waybill_function", "OrderProcessor"), ("waybill_result", "failed")], 1.0),
        ("messaging_process_duration_seconds_count", vec![("waybill_function", "OrderDeadLetter"), ("waybill_result", "ok")], 2.0),
        ("messaging_client_sent_messages_total", vec![("messaging_operation_name", "output"), ("waybill_result", "ok")], 5.0),
        (
            "db_client_operation_duration_seconds_count",
            vec![("db_operation_name", "create"), ("db_system_name", "sqlite"), ("waybill_result", "ok")],
            4.0,
        ),
        ("waybill_breaker_state", vec![("waybill_dependency", "backend"), ("waybill_state", "closed")], 1.0),
        ("waybill_breaker_state", vec![("waybill_dependency", "backend"), ("waybill_state", "open")], 0.0),
        ("waybill_log_lines_lost_total", vec![], 0.0),
    ] {
        assert_eq!(scrape.value(name, &labels), expected, "{name} {labels:?}");
    }
}

#[test]
fn no_client_and_no_backend_can_add_a_series() {
    let data = Directory::new();
    let number = std::sync::atomic::AtomicUsize::new(0);
    // Every order fails with a code of its own.
    let backend = Fake::answering(move |_, _| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let code = format!(r#"{{"type":"urn:x:{number}","title":"t{number}","code":"c{number}","detail":"d{number}"}}"#);
        reply(u16::try_from(400 + 10 * (number % 2) + number / 30).unwrap(), &[("Content-Type", "application/problem+json")], &code)
    });
    let handler = Handler::start(data.path(), &[("FULFILLMENT_URL", &backend.url), ("TRUSTED_PROXIES", "1"), ("MAX_ATTEMPTS", "1")]);
    let drive = |number: usize| {
        let mut order = order(&format!("S-{number}"));
        order["customerId"] = format!("C-{number}").into();
        let (id, message) = handler.ingress(Some(&order.to_string()), &[("X-Forwarded-For", &format!("192.0.2.{number}"))]).accepted();
        assert_eq!(handler.process(&message).status, 200);
        assert_eq!(handler.status(&id).body["status"], "failed");
        assert_eq!(handler.status(&format!("{number:032x}")).status, 404);
        assert_eq!(handler.ingress(Some(&format!("[{number}]")), &[]).status, 400);
        assert_eq!(handler.process(&format!("no message {number}")).status, 500);
        dead_letter(&handler, &format!("no message {number}"));
        request("GET", &handler.url(&format!("/unknown{number}")), &[], None);
        request("POST", &handler.url(&format!("/Unknown{number}")), &[], Some(b"{}"));
    };
    drive(0);
    let names = |scrape: Scrape| scrape.series.into_keys().collect::<BTreeSet<_>>();
    let before = names(scrape(&handler));

    (1..40).for_each(drive);

    assert_eq!(names(scrape(&handler)).difference(&before).collect::<Vec<_>>(), Vec::<&(String, Labels)>::new());
    let most: usize = METRICS.read().iter().map(|family| family.labels.len()).sum();
    assert!(most < 200, "{most} series");
}

#[test]
fn an_interruption_is_counted_by_the_handler_that_takes_the_order_over() {
    let data = Directory::new();
    let mut handler = Handler::start(data.path(), &[("WORK_DELAY", "20s")]);
    let (id, message) = submit(&handler, "M-6");
    std::thread::scope(|scope| {
        let url = handler.url("/OrderProcessor");
        let envelope = crate::support::queue_envelope(&message).to_string();
        scope.spawn(move || drop(try_request("POST", &url, &[], Some(envelope.as_bytes()))));
        eventually("it is claimed", || (handler.status(&id).body["status"] == "processing").then_some(()));
        handler.program.kill();
    });

    let handler = Handler::start(data.path(), &[]);
    assert_eq!(handler.process(&message).status, 200);

    let scrape = scrape(&handler);
    assert_eq!(scrape.value("waybill_order_interruptions_total", &[]), 1.0);
    assert_eq!(scrape.value("waybill_order_attempts_sum", &[("waybill_outcome", "completed")]), 1.0);
    assert_eq!(scrape.value("waybill_order_queue_wait_seconds_count", &[]), 0.0, "it waited for more than its turn");
}

#[test]
fn the_sweeper_tells_what_it_found_and_a_callback_what_followed() {
    let data = Directory::new();
    let receiver = Fake::replying([reply(500, &[], ""), reply(204, &[], "")]);
    let url = format!("{}/hooks", receiver.url);
    let settings =
        [("OVERDUE_AFTER", "100ms"), ("CALLBACK_URL", url.as_str()), ("CALLBACK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let handler = Handler::start(data.path(), &settings);
    handler.sweep();
    let before = scrape(&handler);
    assert_eq!(before.value("waybill_sweeper_orders_total", &[("waybill_decision", "sent_again")]), 0.0);
    let (_, message) = submit(&handler, "M-7");

    let after = eventually("it is sent again", || {
        handler.sweep();
        Some(scrape(&handler)).filter(|now| now.value("waybill_sweeper_orders_total", &[("waybill_decision", "sent_again")]) > 0.0)
    });

    assert_eq!(after.value("waybill_sweeper_orders_total", &[("waybill_decision", "sent_again")]), 1.0);
    assert!(after.value("waybill_sweeper_oldest_overdue_seconds", &[]) >= 0.1, "{after:?}");
    assert_eq!(handler.process(&message).status, 200);
    let told = eventually("the callback fails", || {
        Some(scrape(&handler)).filter(|now| now.value("waybill_callback_attempts_total", &[("waybill_result", "failed")]) > 0.0)
    });
    assert_eq!(told.value("waybill_callback_attempts_total", &[("waybill_result", "delivered")]), 0.0);
    handler.sweep();
    assert_eq!(scrape(&handler).value("waybill_sweeper_oldest_overdue_seconds", &[]), 0.0, "nothing is overdue");
}

#[test]
fn a_breaker_that_opens_and_a_request_that_waits_show_at_once() {
    let data = Directory::new();
    let backend = Fake::replying([Reply::Drop]);
    let handler = Handler::start(data.path(), &[("FULFILLMENT_URL", &backend.url), ("MAX_ATTEMPTS", "1"), ("RETRY_BASE", "1m")]);
    let state =
        |scrape: &Scrape, state| scrape.value("waybill_breaker_state", &[("waybill_dependency", "backend"), ("waybill_state", state)]);
    assert_eq!((state(&scrape(&handler), "closed"), state(&scrape(&handler), "open")), (1.0, 0.0));
    for number in 0..5 {
        let (_, message) = submit(&handler, &format!("M-8{number}"));
        assert_eq!(handler.process(&message).status, 200);
    }
    let opened = scrape(&handler);
    assert_eq!((state(&opened, "closed"), state(&opened, "open"), state(&opened, "half-open")), (0.0, 1.0, 0.0));

    let (id, _) = submit(&handler, "M-9");
    let waiting = |scrape: Scrape| scrape.value("waybill_waiters", &[("waybill_waits_for", "change")]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| handler.status_with(&id, &[("Prefer", "wait=60")]));
        handler.until_waiting(1);
        assert_eq!(waiting(scrape(&handler)), 1.0);
        assert_eq!(handler.cancel(&id).status, 200);
        assert_eq!(waiter.join().unwrap().body["status"], "cancelled");
    });
    eventually("it waits no more", || (waiting(scrape(&handler)) == 0.0).then_some(()));
    assert_eq!(scrape(&handler).value("waybill_order_time_to_terminal_seconds_count", &[("waybill_outcome", "cancelled")]), 1.0);
}

#[test]
fn request_units_are_those_that_the_figures_tell() {
    let emulator = Emulator::start(&[]);
    let handler = Handler::begin(&emulator.with(&[])).ready();
    let (_, message) = submit(&handler, "M-10");
    assert_eq!(handler.process(&message).status, 200);

    let figures = handler.readyz().json()["store"]["operations"].clone();
    let scrape = scrape(&handler);

    for operation in ["create", "replace"] {
        let labels = [("db_operation_name", operation)];
        let charge = scrape.value("azure_cosmosdb_client_operation_request_charge_sum", &labels);
        assert!((charge - figures[operation]["requestCharge"].as_f64().unwrap()).abs() < 0.01, "{charge} {figures}");
        let all = [labels[0], ("db_system_name", "azure.cosmosdb"), ("waybill_result", "ok")];
        let calls = scrape.value("db_client_operation_duration_seconds_count", &all);
        assert_eq!(Value::from(calls), figures[operation]["calls"].as_f64().unwrap(), "{operation}");
    }
}

#[test]
fn a_scraper_of_waybill_local_reads_its_handler() {
    let data = Directory::new();
    let host = Host::start(data.path(), &[]);
    let id = host.submit(&order("M-11"));
    host.ended(&id);

    let scrape = Scrape::of(&host.get("/metrics"));

    assert_eq!(scrape.value("waybill_orders_accepted_total", &[]), 1.0);
    assert_eq!(scrape.value("waybill_order_time_to_terminal_seconds_count", &[("waybill_outcome", "completed")]), 1.0);
    assert_eq!(host.post("/metrics", &json!({})).status, 404);
}

/// The rows of the table of metrics, cells without backticks.
fn table() -> Vec<Vec<String>> {
    let page = fs::read_to_string(repository().join("docs/telemetry.md")).unwrap();
    let (_, rows) = page.split_once("| Metric | In Prometheus |").unwrap();
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

#[test]
fn the_table_of_the_docs_is_what_a_scrape_shows() {
    let data = Directory::new();
    let shown = scrape(&Handler::start(data.path(), &[])).types;
    let documented: BTreeMap<_, _> = table().into_iter().map(|row| (row[1].clone(), row)).collect();

    assert_eq!(documented.keys().collect::<Vec<_>>(), shown.keys().collect::<Vec<_>>());
    for family in METRICS.read() {
        let row = &documented[&prometheus::name(&family)];
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let keys: Vec<_> = family.labels[0].iter().map(|(name, _)| *name).collect();
        assert_eq!((row[0].as_str(), row[2].as_str(), row[3].as_str()), (family.name, kind, family.unit));
        assert_eq!((row[4].as_str(), shown[&row[1]].as_str()), (keys.join(", ").as_str(), kind), "{}", row[0]);
        assert_eq!(format!("{}.", row[5].trim_end_matches('.')), family.description, "{}", row[0]);
    }
}

/// The queries of the docs.
fn queries() -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/telemetry.md")).unwrap();
    page.split("```kusto\n").skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// Every string between double quotes.
fn quoted(query: &str) -> impl Iterator<Item = &str> {
    query.split('"').skip(1).step_by(2)
}

#[test]
fn the_queries_name_only_what_the_handler_sends_and_the_workbook_has_them_all() {
    let workbook: Value = serde_json::from_str(&fs::read_to_string(repository().join("deploy/workbook.json")).unwrap()).unwrap();
    let in_workbook = workbook["items"].as_array().unwrap().iter().filter_map(|item| item["content"]["query"].as_str());
    assert_eq!(in_workbook.map(|query| query.replace("{TrackingId}", "TRACKING-ID")).collect::<Vec<_>>(), queries());

    let collector = Fake::answering(|_, _| reply(200, &[("Content-Type", "application/x-protobuf")], ""));
    let emulator = Emulator::start(&[]);
    let backend = Fake::replying([reply(503, &[], ""), reply(200, &[], "{}"), reply(422, &[], "")]);
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()), ("FULFILLMENT_URL", &backend.url), ("RETRY_BASE", "10ms")];
    let handler = Handler::begin(&emulator.with(&settings)).ready();
    let (ids, messages): (Vec<_>, Vec<_>) = (0..3).map(|number| submit(&handler, &format!("Q-{number}"))).unzip();
    assert_eq!(sent(&dead_letter(&handler, &messages[0])).len(), 1);
    assert!(messages[..2].iter().all(|message| handler.process(message).status == 200));
    assert_eq!(handler.cancel(&ids[2]).status, 200);

    // What the collector heard, as text: attributes and names stand in it as they are.
    let heard = eventually("everything arrives", || {
        let text: String =
            collector.heard().iter().filter(|heard| heard.target() == "/v1/traces").map(|heard| heard.body.clone()).collect();
        (text.contains("order completed") && text.contains("order failed") && text.contains("order cancelled")).then_some(text)
    });
    let known = ["TRACKING-ID", "none: the message is in quarantine"];
    for query in queries() {
        for name in quoted(&query).filter(|name| !known.contains(name)) {
            assert!(heard.contains(name), "{name} is in a query, and in nothing that the handler sent");
        }
    }
}

/// A collector of metrics, decoded by the official definitions.
fn exports(collector: &Collector) -> Vec<ExportMetricsServiceRequest> {
    collector.bodies("/v1/metrics").iter().map(|body| ExportMetricsServiceRequest::decode(&**body).unwrap()).collect()
}

/// What an export says, in the words of a scrape: counts, sums and values. Buckets are compared by their bounds.
fn as_scraped(export: &ExportMetricsServiceRequest) -> BTreeMap<(String, Labels), f64> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => (attribute.key.replace('.', "_"), text.clone()),
        other => panic!("{other:?}"),
    };
    let mut series = BTreeMap::new();
    for metric in export.resource_metrics.iter().flat_map(|of| &of.scope_metrics).flat_map(|of| &of.metrics) {
        let family = METRICS.read().into_iter().find(|family| family.name == metric.name).unwrap();
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), (family.unit, family.description));
        let name = prometheus::name(&family);
        let mut add = |part: &str, labels: Labels, value| assert!(series.insert((format!("{name}{part}"), labels), value).is_none());
        let points = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
                &sum.data_points
            }
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => {
                assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
                for point in &histogram.data_points {
                    let labels: Labels = point.attributes.iter().map(text).collect();
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    let mut below = 0;
                    let bounds = point.explicit_bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
                    for (bound, count) in bounds.zip(&point.bucket_counts) {
                        below += count;
                        add(
                            "_bucket",
                            labels.iter().map(|(name, value)| (name.clone(), value.clone())).chain([("le".into(), bound)]).collect(),
                            float(below),
                        );
                    }
                    assert!(point.time_unix_nano > point.start_time_unix_nano && point.count == below);
                    add("_count", labels.clone(), float(point.count));
                    add("_sum", labels, point.sum.unwrap());
                }
                continue;
            }
            other => panic!("{other:?}"),
        };
        for point in points {
            let value = match point.value.unwrap() {
                Number::AsInt(number) => float(u64::try_from(number).unwrap()),
                Number::AsDouble(number) => number,
            };
            add("", point.attributes.iter().map(text).collect(), value);
        }
    }
    series
}

fn float(number: u64) -> f64 {
    u32::try_from(number).unwrap().into()
}

#[test]
fn a_collector_gets_the_numbers_of_a_scrape() {
    let data = Directory::new();
    let collector = Collector::new();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.0.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of%20the,x-other=1"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_SERVICE_NAME", "shop"),
    ];
    let handler = Handler::start(data.path(), &settings);
    let (_, message) = submit(&handler, "M-12");
    assert_eq!(handler.process(&message).status, 200);
    let (_, message) = submit_order(&handler, &hopeless("M-13"));
    assert_eq!(handler.process(&message).status, 200);

    let scraped = scrape(&handler).series;
    let export = eventually("an export has all", || exports(&collector).into_iter().rfind(|export| as_scraped(export) == scraped));

    let attributes = &export.resource_metrics[0].resource.as_ref().unwrap().attributes;
    assert!(
        attributes.iter().any(|attribute| attribute.key == "service.name" && format!("{attribute:?}").contains("shop")),
        "{attributes:?}"
    );
    for heard in collector.0.heard() {
        assert_eq!((heard.headers["content-type"].as_str(), heard.headers["api-key"].as_str()), ("application/x-protobuf", "of the"));
        assert_eq!((heard.target(), heard.headers["x-other"].as_str()), ("/v1/metrics", "1"));
    }
}

#[test]
fn the_last_numbers_are_exported_when_the_handler_stops_and_none_if_they_are_not_wanted() {
    for (name, value, expected) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", 1),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/v1/metrics", 1),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces", 0),
        ("OTEL_METRICS_EXPORTER", "none", 0),
        ("OTEL_SDK_DISABLED", "true", 0),
    ] {
        let data = Directory::new();
        let collector = Collector::new();
        let url = if name.ends_with("ENDPOINT") { format!("{}{value}", collector.0.url) } else { value.into() };
        let mut settings = vec![(name, url.as_str())];
        if !name.ends_with("ENDPOINT") {
            settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.0.url));
        }
        let handler = Handler::start(data.path(), &settings);
        submit(&handler, "M-14");
        handler.program.signal("TERM");
        assert!(handler.program.end().0.success());

        let exports = exports(&collector);
        assert_eq!(exports.len(), expected, "{name}");
        for export in &exports {
            assert_eq!(as_scraped(export)[&("waybill_orders_accepted_total".to_owned(), Labels::new())], 1.0);
        }
    }
}

#[test]
fn a_collector_of_metrics_that_is_away_or_hangs_costs_no_order_and_one_line() {
    let hanging = Fake::replying([Reply::Silence]);
    for url in ["http://127.0.0.1:9/v1/metrics", &hanging.url] {
        let others = [("OTEL_EXPORTER_OTLP_TIMEOUT", "100"), ("OTEL_METRIC_EXPORT_INTERVAL", "20")];
        does_not_need("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", url, &others);
    }
}

#[test]
fn variables_of_metrics_that_cannot_be_followed_stop_the_start() {
    for (name, value) in [
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://[nowhere"),
    ] {
        let data = Directory::new();
        let port = free_port().to_string();
        let settings = [
            ("FUNCTIONS_CUSTOMHANDLER_PORT", port.as_str()),
            ("WAYBILL_DATA", data.path().to_str().unwrap()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
            (name, value),
        ];
        let (status, lines) = Program::waybill(&["serve"], &settings).end();
        assert!(!status.success() && lines.iter().any(|line| line.contains(name) && line.contains("set ")), "{lines:?}");
    }
}
