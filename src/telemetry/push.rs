//! The export of metrics by OTLP: all of them every minute, and once more when the handler stops.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_http::{Bytes, HttpClient, Request};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_sdk::Resource as SdkResource;
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::metrics::instrument::{Kind, Series, Value};
use crate::metrics::{Family, METRICS};

/// Time between two exports, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const INTERVAL: Duration = Duration::from_mins(1);

/// The export of metrics.
#[derive(Debug)]
pub(super) struct Push {
    exporter: Arc<Exporter>,
    timer: JoinHandle<()>,
}

/// Where metrics go, and how often.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) interval: Option<Duration>,
}

#[derive(Debug)]
struct Exporter {
    client: Arc<dyn HttpClient>,
    target: Target,
    resource: Resource,
    started: SystemTime,
}

impl Push {
    /// Begins to export.
    pub(super) fn start(client: Arc<dyn HttpClient>, target: Target, resource: &SdkResource) -> Self {
        let interval = target.interval.unwrap_or(INTERVAL);
        let attributes = resource.iter().map(|(name, value)| text(name.as_str(), &value.as_str())).collect();
        let resource = Resource { attributes, ..Resource::default() };
        let exporter = Arc::new(Exporter { client, target, resource, started: SystemTime::now() });
        let shared = Arc::clone(&exporter);
        let timer = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                shared.export().await;
            }
        });
        Self { exporter, timer }
    }

    /// Exports once more, within this time.
    pub(super) async fn end(self, longest: Duration) {
        self.timer.abort();
        drop(tokio::time::timeout(longest, self.exporter.export()).await);
    }
}

impl Exporter {
    /// Sends what the instruments say now. A receiver that fails is told by the client, and what it missed is in the next export.
    async fn export(&self) {
        let export = request(&METRICS.read(), &self.resource, self.started, SystemTime::now());
        let Ok(mut request) = Request::post(self.target.url.clone()).body(Bytes::from(export.encode_to_vec())) else { return };
        *request.headers_mut() = self.target.headers.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        drop(self.client.send_bytes(request).await);
    }
}

/// Headers as the standard writes them: `name=value,name=value`, with values escaped as in a URL.
pub(super) fn headers(text: &str) -> HeaderMap {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let header = |(name, value): (&str, &str)| {
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::try_from(&*value).ok()?;
        // It may be a key.
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.trim()).ok()?, value))
    };
    pairs.filter_map(header).collect()
}

fn request(families: &[Family], resource: &Resource, started: SystemTime, now: SystemTime) -> ExportMetricsServiceRequest {
    let (started, now) = (nanoseconds(started), nanoseconds(now));
    let metrics = families.iter().filter(|family| !family.series.is_empty()).map(|family| metric(family, started, now)).collect();
    let scope =
        InstrumentationScope { name: "waybill".into(), version: env!("CARGO_PKG_VERSION").into(), ..InstrumentationScope::default() };
    let scoped = ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() };
    let of_resource = ResourceMetrics { resource: Some(resource.clone()), scope_metrics: vec![scoped], schema_url: String::new() };
    ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }
}

fn metric(family: &Family, start_time_unix_nano: u64, time_unix_nano: u64) -> Metric {
    let attributes = |series: &Series| series.labels.iter().map(|(name, value)| text(name, value)).collect();
    let numbers = || {
        let point = |series: &Series| {
            let value = match series.value {
                Value::Counter(number) => Number::AsInt(i64::try_from(number).unwrap_or(i64::MAX)),
                Value::Gauge(number) => Number::AsDouble(number),
                Value::Histogram { .. } => return None,
            };
            let attributes = attributes(series);
            Some(NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, value: Some(value), ..NumberDataPoint::default() })
        };
        family.series.iter().filter_map(point).collect()
    };
    let measured = || {
        let point = |series: &Series| {
            let Value::Histogram { bounds, counts, sum } = &series.value else { return None };
            Some(HistogramDataPoint {
                attributes: attributes(series),
                start_time_unix_nano,
                time_unix_nano,
                count: counts.iter().sum(),
                sum: Some(*sum),
                bucket_counts: counts.clone(),
                explicit_bounds: bounds.to_vec(),
                ..HistogramDataPoint::default()
            })
        };
        family.series.iter().filter_map(point).collect()
    };
    // From the start of the process: an export that is lost loses nothing.
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum { data_points: numbers(), aggregation_temporality, is_monotonic: true }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => Data::Histogram(Histogram { data_points: measured(), aggregation_temporality }),
    };
    Metric {
        name: family.name.into(),
        description: family.description.into(),
        unit: family.unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn text(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
    KeyValue { key: name.into(), value: Some(value), ..KeyValue::default() }
}

fn nanoseconds(moment: SystemTime) -> u64 {
    u64::try_from(moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
